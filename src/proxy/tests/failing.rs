//! Backends that fail, drain, are fenced, are full, or are not there yet.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use crate::engine::balance::plan::{Address, Algorithm, NoneLeft, Replay, Rules};
use crate::engine::balance::table::{Standing, Table};
use crate::proxy::shared::{Command, Notice};
use crate::proxy::testing::*;
use crate::sys::testing::TempDir;

fn with_replay() -> Rules {
    Rules { replay: Replay::Unanswered { max_bytes: 16 << 10 }, ..rules() }
}

/// Reads a request of one line.
fn read_line(stream: &TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut stream = stream;
    while stream.read(&mut byte).is_ok_and(|count| count == 1) && byte != [b'\n'] {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Resets each connection once it has read a line.
fn crasher() -> Address {
    let (listener, address) = listener();
    serve(listener, |stream| {
        read_line(&stream);
        crate::sys::stream::reset(stream.into());
    });
    address
}

/// Answers a line with it, and ends.
fn answerer() -> Address {
    let (listener, address) = listener();
    serve(listener, |stream| {
        let line = read_line(&stream);
        (&stream).write_all(format!("re: {line}").as_bytes()).unwrap();
    });
    address
}

fn ask(lab: &Lab, line: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let mut client = lab.connect();
    client.write_all(line.as_bytes()).unwrap();
    client.write_all(b"\n").unwrap();
    read_all(client)
}

/// The first connection goes to the first of two backends; after [`open_second`] there is another for it.
fn first_of_two(first: Address, second: Address, rules: Rules) -> Lab {
    let mut two = table(&[first, second], rules);
    two.backends[1].standing = Standing::Out;
    Lab::new(two)
}

fn open_second(lab: &Lab) {
    let mut two = lab.balancer.live().table.clone();
    two.backends[1].standing = Standing::Up;
    lab.replace(two);
}

pub(super) fn out(mut table: Table, hopeful: bool) -> Table {
    for backend in &mut table.backends {
        backend.standing = Standing::Out;
    }
    Table { hopeful, ..table }
}

#[test]
fn unanswered_request_is_replayed_to_another() {
    let mut rules = with_replay();
    rules.eject.after = 0;
    let lab = Lab::new(table(&[crasher(), answerer()], rules));
    for number in 0..10 {
        let line = format!("question {number}");
        assert_eq!(ask(&lab, &line), (format!("re: {line}").into_bytes(), None));
    }
    let stats = lab.stats();
    assert!(stats.replayed >= 5, "{stats:?}");
    assert_eq!(
        (stats.replayed, stats.backends[0].failed, stats.backends[1].failed),
        (stats.replayed, stats.replayed, 0)
    );
}

#[test]
fn replay_goes_on_with_what_the_client_sends_meanwhile_and_with_its_end() {
    let (first, first_address) = listener();
    let (second, second_address) = listener();
    let lab = first_of_two(first_address, second_address, with_replay());
    let mut client = lab.connect();
    client.write_all(b"one ").unwrap();
    let victim = patient(first.accept().unwrap().0);
    (&victim).read_exact(&mut [0; 4]).unwrap();
    client.write_all(b"two ").unwrap();
    (&victim).read_exact(&mut [0; 4]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    open_second(&lab);
    assert_eq!(read_all(&victim), (vec![], None));
    crate::sys::stream::reset(victim.into());
    let heir = patient(second.accept().unwrap().0);
    assert_eq!(read_all(&heir), (b"one two ".to_vec(), None));
    (&heir).write_all(b"answer").unwrap();
    drop(heir);
    assert_eq!(read_all(client), (b"answer".to_vec(), None));
    lab.until("closed", |stats| stats.active == 0 && stats.replayed == 1);
}

#[test]
fn what_was_answered_or_is_too_long_is_not_replayed() {
    let (first, first_address) = listener();
    let lab = first_of_two(first_address, answerer(), with_replay());
    let mut client = lab.connect();
    client.write_all(&[7; 20 << 10]).unwrap();
    let victim = patient(first.accept().unwrap().0);
    open_second(&lab);
    (&victim).read_exact(&mut vec![0; 20 << 10]).unwrap();
    crate::sys::stream::reset(victim.into());
    assert_eq!(read_all(client), (vec![], Some(ErrorKind::ConnectionReset)));
    assert_eq!(lab.stats().replayed, 0);
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn clean_end_after_the_clients_end_is_an_answer() {
    let (first, address) = listener();
    let lab = first_of_two(address, answerer(), with_replay());
    let mut client = lab.connect();
    client.write_all(b"bye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let server = patient(first.accept().unwrap().0);
    open_second(&lab);
    assert_eq!(read_all(&server), (b"bye".to_vec(), None));
    drop(server);
    assert_eq!(read_all(client), (vec![], None));
    assert_eq!((lab.stats().replayed, lab.backend(0).failed), (0, 0));
}

#[test]
fn end_without_an_answer_is_replayed_while_the_client_waits() {
    let (first, address) = listener();
    let lab = first_of_two(address, answerer(), with_replay());
    let mut client = lab.connect();
    client.write_all(b"hello\n").unwrap();
    let server = patient(first.accept().unwrap().0);
    open_second(&lab);
    assert_eq!(read_line(&server), "hello");
    drop(server);
    assert_eq!(read_all(client), (b"re: hello".to_vec(), None));
    assert_eq!((lab.stats().replayed, lab.backend(0).failed), (1, 1));
}

#[test]
fn clients_wait_in_order_for_a_backend_that_comes_back() {
    let (server, address) = listener();
    let one = Lab::with(1, 100, out(table(std::slice::from_ref(&address), rules()), true));
    let clients: Vec<_> = (0..5_u8)
        .map(|number| {
            let mut client = one.connect();
            client.write_all(&[number]).unwrap();
            one.until("queued", |stats| stats.queued == u64::from(number) + 1);
            client
        })
        .collect();
    one.replace(table(&[address], rules()));
    for number in 0..5 {
        let (mut connection, _) = server.accept().unwrap();
        let mut got = [9];
        connection.read_exact(&mut got).unwrap();
        assert_eq!(got, [number]);
        connection.write_all(&got).unwrap();
    }
    for (number, mut client) in (0..).zip(clients) {
        let mut got = [9];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, [number]);
    }
    let stats = one.stats();
    assert_eq!((stats.queued, stats.queued_total), (0, 5));
}

#[test]
fn waiting_ends_with_its_time_its_hope_or_its_room() {
    let (_held, address) = dead_address();
    let mut rules = rules();
    rules.none_left = NoneLeft::Queue(Duration::from_millis(300));
    rules.limits.queued = 2;
    let lab = Lab::new(out(table(std::slice::from_ref(&address), rules.clone()), true));
    let reset = (vec![], Some(ErrorKind::ConnectionReset));
    let begun = Instant::now();
    let (one, other) = (lab.connect(), lab.connect());
    lab.until("queued", |stats| stats.queued == 2);
    assert_eq!(read_all(lab.connect()), reset);
    assert!(begun.elapsed() < Duration::from_millis(250), "the third did not wait");
    assert_eq!((read_all(one), read_all(other)), (reset.clone(), reset.clone()));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let refused = lab.stats().refused;
    assert_eq!(refused, [("queue_full".to_owned(), 1), ("queue_timeout".to_owned(), 2)]);
    rules.none_left = NoneLeft::Queue(PATIENCE);
    lab.replace(out(table(std::slice::from_ref(&address), rules.clone()), true));
    let client = lab.connect();
    lab.until("queued", |stats| stats.queued == 1);
    lab.replace(out(table(&[address], rules), false));
    assert_eq!(read_all(client), reset);
    lab.until("none waits", |stats| stats.queued == 0 && stats.active == 0);
}

#[test]
fn restarting_replica_is_waited_for_although_the_table_does_not_know_yet() {
    let (held, address) = dead_address();
    let lab = Lab::new(table(&[address], rules()));
    let client = std::thread::spawn({
        let client = lab.connect();
        move || read_all(client)
    });
    lab.until("queued", |stats| stats.queued == 1);
    nix::sys::socket::listen(&held, Backlog::new(4).unwrap()).unwrap();
    let (mut connection, _) = TcpListener::from(held).accept().unwrap();
    connection.write_all(b"here again").unwrap();
    drop(connection);
    assert_eq!(client.join().unwrap(), (b"here again".to_vec(), None));
}

#[test]
fn full_backend_makes_clients_wait_for_a_slot() {
    let (server, address) = listener();
    let mut rules = rules();
    rules.limits.per_backend = Some(1);
    let lab = Lab::new(table(&[address], rules));
    let mut clients: Vec<TcpStream> = Vec::new();
    for number in 0..4_u8 {
        let mut client = lab.connect();
        client.write_all(&[number]).unwrap();
        clients.push(client);
        lab.until("taken in", |stats| stats.accepted == u64::from(number) + 1 && stats.queued == u64::from(number));
    }
    for number in 0..4_u64 {
        let (mut connection, _) = server.accept().unwrap();
        assert_eq!((lab.backend(0).active, lab.stats().queued), (1, 3 - number));
        connection.write_all(b"x").unwrap();
        drop(connection);
        clients.retain_mut(|client| {
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            !matches!(client.read(&mut [0]), Ok(1))
        });
        assert_eq!(clients.len() as u64, 3 - number);
    }
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn full_backlog_of_a_unix_backend_leads_to_the_next() {
    let directory = TempDir::new();
    let (path, full) = unix_address(&directory, "full.sock");
    let listening = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listening.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listening, Backlog::new(1).unwrap()).unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = crate::sys::stream::connect_unix(&path) {
        fillers.push(filler);
    }
    let mut rules = rules();
    rules.eject.after = 0;
    let lab = Lab::new(table(&[full, name_server("next")], rules));
    for _ in 0..4 {
        assert_eq!(read_all(lab.connect()), (b"next".to_vec(), None));
    }
    assert!(lab.backend(0).connect_failed.iter().any(|(kind, count)| kind == "backlog" && *count >= 2));
}

#[test]
fn failing_backend_is_ejected_once_and_comes_back_when_it_answers() {
    let (held, dead) = dead_address();
    let mut rules = Rules { algorithm: Algorithm::RoundRobin, ..rules() };
    rules.eject.base = Duration::from_millis(300);
    let lab = Lab::new(table(&[dead, answerer()], rules));
    for _ in 0..12 {
        assert_eq!(ask(&lab, "x"), (b"re: x".to_vec(), None));
    }
    let Notice::Ejected { backend, run, why, for_, .. } = lab.notice() else { panic!("another notice") };
    assert_eq!((backend.as_str(), run), ("b/0", 1));
    assert!(why.contains("refused") && for_ >= Duration::from_millis(200), "{why} {for_:?}");
    let failed = |lab: &Lab| lab.backend(0).connect_failed.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(failed(&lab), 3);
    nix::sys::socket::listen(&held, Backlog::new(4).unwrap()).unwrap();
    serve(TcpListener::from(held), |stream| {
        read_line(&stream);
        (&stream).write_all(b"back").unwrap();
    });
    let begun = Instant::now();
    while ask(&lab, "x").0 != b"back" {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(lab.notice(), Notice::Restored { backend, .. } if backend == "b/0"));
}

#[test]
fn last_backend_is_never_ejected() {
    let mut rules = rules();
    rules.none_left = NoneLeft::Refuse;
    let (_held, dead) = dead_address();
    let lab = Lab::new(table(&[dead], rules));
    for _ in 0..6 {
        assert_eq!(read_all(lab.connect()).0, b"");
    }
    lab.until("all refused", |stats| stats.refused == [("no_backend".to_owned(), 6)]);
    assert_eq!(lab.backend(0).connect_failed, [("refused".to_owned(), 6)]);
    assert_eq!(lab.outcome.notice(), None);
}

#[test]
fn draining_keeps_its_connections_and_is_told_when_the_last_ends() {
    let (server, address) = listener();
    let lab = first_of_two(address, name_server("other"), rules());
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    let (mut connection, _) = server.accept().unwrap();
    let mut draining = lab.balancer.live().table.clone();
    draining.backends[0].standing = Standing::Draining;
    draining.backends[1].standing = Standing::Draining;
    let replaced = lab.replace(draining.clone());
    assert_eq!(replaced.drained, [("b/1".to_owned(), 1)]);
    draining.backends[1].standing = Standing::Up;
    assert!(lab.replace(draining).drained.is_empty());
    for _ in 0..5 {
        assert_eq!(read_all(lab.connect()), (b"other".to_vec(), None));
    }
    connection.write_all(b"still there").unwrap();
    let mut got = [0; 11];
    client.read_exact(&mut got).unwrap();
    drop((client, connection));
    let drained = Notice::Drained { balancer: "lab".to_owned(), backend: "b/0".to_owned(), run: 1 };
    assert_eq!(lab.notice(), drained);
}

#[test]
fn fenced_backend_loses_its_connections_at_once_and_others_do_not() {
    let (server, address) = listener();
    let lab = first_of_two(address, name_server("other"), rules());
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    let connection = patient(server.accept().unwrap().0);
    open_second(&lab);
    let mut fenced = lab.balancer.live().table.clone();
    fenced.backends[0].standing = Standing::Fenced;
    lab.replace(fenced);
    assert_eq!(read_all(client).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(read_all(&connection).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(read_all(lab.connect()), (b"other".to_vec(), None));
}

#[test]
fn out_backend_keeps_what_it_has_and_a_removed_one_is_cut_when_told() {
    let (server, address) = listener();
    let lab = Lab::new(table(&[address], rules()));
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    let (mut connection, _) = server.accept().unwrap();
    let current = lab.balancer.live().table.clone();
    lab.replace(out(current.clone(), true));
    connection.write_all(b"y").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let replaced = lab.replace(Table { backends: Vec::new(), ..current });
    let [removed] = &replaced.removed[..] else { panic!("{replaced:?}") };
    connection.write_all(b"z").unwrap();
    client.read_exact(&mut [0]).unwrap();
    lab.shared.tell(&Command::CutBackend { balancer: Arc::clone(&lab.balancer), backend: Arc::clone(removed) });
    assert_eq!(read_all(client).1, Some(ErrorKind::ConnectionReset));
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn removed_balancer_takes_nobody_and_loses_its_connections_in_the_end() {
    let (server, address) = listener();
    let lab = Lab::new(table(&[address], rules()));
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    let _connection = server.accept().unwrap();
    lab.shared.tell(&Command::Unlisten { listener: Arc::clone(&lab.listener) });
    lab.shared.tell(&Command::CutBalancer { balancer: Arc::clone(&lab.balancer) });
    assert_eq!(read_all(client).1, Some(ErrorKind::ConnectionReset));
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn fail_open_tries_the_degraded_when_nobody_else_is_there() {
    let mut rules = rules();
    rules.none_left = NoneLeft::FailOpen;
    let (_held, dead) = dead_address();
    let mut degraded = table(&[dead, name_server("degraded")], rules);
    degraded.backends[1].standing = Standing::Degraded;
    degraded.backends[0].standing = Standing::Degraded;
    let lab = Lab::new(degraded);
    for _ in 0..4 {
        assert_eq!(read_all(lab.connect()), (b"degraded".to_vec(), None));
    }
}

#[test]
fn request_that_kills_every_replica_reaches_only_three() {
    let mut rules = with_replay();
    rules.eject.after = 0;
    let crashers: Vec<_> = (0..6).map(|_| crasher()).collect();
    let lab = Lab::new(table(&crashers, rules.clone()));
    let reset = (vec![], Some(ErrorKind::ConnectionReset));
    assert_eq!(ask(&lab, "death"), reset);
    let delivered = |lab: &Lab| lab.stats().backends.iter().map(|backend| backend.connections).sum::<u64>();
    lab.until("closed", |stats| stats.active == 0);
    assert_eq!((delivered(&lab), lab.stats().replayed), (3, 2));
    // A single one that comes back as another run each time.
    let lab = Lab::new(table(&[crasher()], rules));
    let client = std::thread::spawn({
        let mut client = lab.connect();
        client.write_all(b"death\n").unwrap();
        move || read_all(client)
    });
    for deliveries in 1..3 {
        lab.until("waits again", |stats| stats.queued == 1 && stats.backends[0].connections == deliveries);
        // More than one turn of those who try again.
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(delivered(&lab), deliveries, "the same run got it twice");
        let mut next = lab.balancer.live().table.clone();
        next.backends[0].run += 1;
        lab.replace(next);
    }
    assert_eq!(client.join().unwrap(), reset);
    assert_eq!(delivered(&lab), 3);
}

#[test]
fn one_client_cannot_eject_more_than_one_replica() {
    for replay in [Replay::Off, with_replay().replay] {
        let crashers: Vec<_> = (0..3).map(|_| crasher()).collect();
        let mut rules = Rules { replay, ..rules() };
        // Nobody waits for a restart here: the ejection would be over by then.
        rules.none_left = NoneLeft::Refuse;
        rules.eject.base = PATIENCE;
        let lab = Lab::new(table(&crashers, rules));
        for _ in 0..20 {
            assert_eq!(ask(&lab, "x").1, Some(ErrorKind::ConnectionReset));
        }
        let ejected = lab.stats().backends.iter().filter(|backend| backend.ejected_ms.is_some()).count();
        assert_eq!(ejected, 1, "{replay:?}");
    }
}

#[test]
fn clean_end_without_an_answer_ejects_nobody() {
    let ender = || {
        let (listener, address) = listener();
        serve(listener, |stream| {
            read_line(&stream);
        });
        address
    };
    let lab = Lab::new(table(&[ender(), ender()], rules()));
    for _ in 0..12 {
        assert_eq!(ask(&lab, "x"), (vec![], None));
    }
    let stats = lab.stats();
    assert_eq!(stats.backends.iter().map(|backend| backend.failed).sum::<u64>(), 12);
    assert!(stats.backends.iter().all(|backend| backend.ejected_ms.is_none()), "{stats:?}");
}

#[test]
fn failure_of_a_connection_of_the_run_before_is_not_charged_to_the_new_one() {
    let (server, address) = listener();
    let mut rules = rules();
    rules.eject.after = 1;
    let lab = Lab::new(table(&[address, name_server("other")], rules));
    let ask_first = || {
        let mut client = lab.connect();
        client.write_all(b"x").unwrap();
        client
    };
    let clients = [ask_first(), ask_first()];
    let victim = patient(server.accept().unwrap().0);
    (&victim).read_exact(&mut [0]).unwrap();
    let mut next = lab.balancer.live().table.clone();
    next.backends[0].run += 1;
    lab.replace(next);
    crate::sys::stream::reset(victim.into());
    lab.until("closed", |stats| (stats.backends[0].active, stats.backends[0].failed) == (0, 1));
    assert_eq!((lab.backend(0).ejected_ms, lab.outcome.notice()), (None, None));
    drop(clients);
}

#[test]
fn request_of_a_unix_client_that_is_gone_is_still_delivered() {
    let (server, address) = listener();
    let lab = Lab::new(out(table(std::slice::from_ref(&address), rules()), true));
    let directory = TempDir::new();
    let (path, front) = unix_address(&directory, "front.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let front = crate::proxy::shared::Listener::new(front, socket.into()).unwrap();
    lab.shared.tell(&Command::Listen { balancer: Arc::clone(&lab.balancer), listener: front });
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.write_all(b"note").unwrap();
    drop(client);
    drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
    lab.until("one waits, and one without a word does not", |stats| stats.accepted == 2 && stats.active == 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(lab.stats().queued, 1);
    lab.replace(table(&[address], rules()));
    let connection = patient(server.accept().unwrap().0);
    assert_eq!(read_all(&connection), (b"note".to_vec(), None));
    drop(connection);
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn early_answer_reaches_a_client_that_is_still_sending() {
    let (listener, address) = listener();
    serve(listener, |mut stream| {
        stream.read_exact(&mut [0; 10]).unwrap();
        stream.write_all(b"too large").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    });
    let lab = Lab::new(table(&[address], rules()));
    for _ in 0..5 {
        let client = lab.connect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    if (&client).write_all(&[7; 64 << 10]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Write);
            });
            assert_eq!(read_all(&client), (b"too large".to_vec(), None));
        });
    }
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn connection_passed_on_for_a_balancer_that_is_gone_is_dropped() {
    let (_server, address) = listener();
    let lab = Lab::with(1, 100, table(&[address], rules()));
    let mut removed = lab.connect();
    removed.write_all(b"x").unwrap();
    lab.until("it is in", |stats| stats.active == 1);
    lab.shared.tell(&Command::CutBalancer { balancer: Arc::clone(&lab.balancer) });
    assert_eq!(read_all(removed).1, Some(ErrorKind::ConnectionReset));
    lab.until("closed", |stats| stats.active == 0);
    // As another worker would, that has not heard of it yet.
    lab.shared.tell(&Command::Resume { balancer: Arc::clone(&lab.balancer) });
    lab.shared.tell(&Command::Changed { balancer: Arc::clone(&lab.balancer) });
    let begun = Instant::now();
    while Arc::strong_count(&lab.balancer) > 1 {
        assert!(begun.elapsed() < PATIENCE, "a worker holds it again");
        std::thread::sleep(Duration::from_millis(1));
    }
}
