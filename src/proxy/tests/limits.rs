//! Limits, timeouts, and what must not be used up.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};

use crate::engine::balance::plan::{Address, Algorithm, Key, Rules};
use crate::proxy::peek::proxy_v2;
use crate::proxy::shared::Notice;
use crate::proxy::testing::*;
use crate::sys::testing::TempDir;

/// Runs one of the tests that are ignored in a process of its own: the limit of descriptors, and what `/proc/self` says, belong to a process.
pub(super) fn alone(test: &str) {
    let output = Program::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("proxy::tests::{test}"), "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Tells the process with few descriptors where the backend is.
const BACKEND: &str = "MAINSTAY_TEST_BACKEND";

#[test]
fn two_hundred_clients_are_served_with_few_descriptors() {
    let (listener, address) = listener();
    serve(listener, echo);
    let Address::Tcp(address) = address else { panic!("{address:?}") };
    let mut proxy = Program::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "proxy::tests::limits::few_descriptors", "--nocapture"])
        .env(BACKEND, address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(proxy.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = lines.find_map(|line| line.split_once("listens on ").map(|(_, address)| address.to_owned())).unwrap();
    let mut clients: Vec<_> = (0..200).map(|_| patient(TcpStream::connect(&port).unwrap())).collect();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    for mut client in clients {
        client.read_exact(&mut [0]).unwrap();
    }
    drop(proxy.stdin.take());
    let rest: Vec<String> = lines.collect();
    assert!(proxy.wait().unwrap().success(), "{rest:?}");
}

#[test]
#[ignore = "started by other tests"]
fn few_descriptors() {
    let backend = Address::Tcp(std::env::var(BACKEND).unwrap().parse().unwrap());
    // More than there are descriptors for: the kernel says no, not our own limit.
    let lab = Lab::with(2, 100_000, table(&[backend], rules()));
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let (before, begun) = (worker_cpu_ms(), Instant::now());
    println!("listens on {}", lab.address);
    lab.until("descriptors are used up", |stats| stats.active >= 20);
    read_all(std::io::stdin());
    lab.until("all gone", |stats| stats.active == 0 && stats.accepted == 200);
    let busy = worker_cpu_ms() - before;
    assert!(u128::from(busy) < 200 + begun.elapsed().as_millis() / 10, "{busy} ms: a worker spins");
    assert!(matches!(lab.notice(), Notice::Trouble { .. }));
    assert!(lab.stats().accept_paused_ms > 0);
}

#[test]
fn descriptors_come_back_after_a_thousand_connections() {
    alone("limits::thousand_connections");
}

#[test]
#[ignore = "started by other tests"]
fn thousand_connections() {
    let (listener, address) = listener();
    serve(listener, echo);
    let lab = Lab::new(table(&[address], rules()));
    let ask = || {
        let mut client = lab.connect();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(client), (b"question".to_vec(), None));
    };
    ask();
    lab.until("closed", |stats| stats.active == 0);
    let before = open_descriptors();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| ask()));
        }
    });
    lab.until("closed", |stats| stats.active == 0);
    // The threads of the backend close a moment later.
    let begun = Instant::now();
    while open_descriptors() > before {
        assert!(begun.elapsed() < PATIENCE, "{} descriptors, {before} before", open_descriptors());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((lab.stats().accepted, lab.shared.sessions()), (1_001, 0));
}

#[test]
fn workers_sleep_while_nothing_moves() {
    alone("limits::nothing_moves");
}

/// Wake-ups of the workers by choice.
fn worker_switches() -> u64 {
    let mut switches = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        if name.starts_with("balance-") {
            switches += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or_default();
        }
    }
    switches
}

/// Until no worker wakes for half a second: what is under way on a busy machine takes its time, but ends.
fn workers_rest(otherwise: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let before = worker_switches();
        std::thread::sleep(Duration::from_millis(500));
        if worker_switches() == before {
            return;
        }
        assert!(Instant::now() < deadline, "{otherwise}");
    }
}

#[test]
#[ignore = "started by other tests"]
fn nothing_moves() {
    let directory = TempDir::new();
    let (path, address) = unix_address(&directory, "quiet.sock");
    let listener = UnixListener::bind(path).unwrap();
    // With so few connections allowed there is one pipe, and the others go through buffers.
    let lab = Lab::with(1, 15, table(&[address], rules()));
    workers_rest("woken with nothing open");
    // The server ends, the client neither reads nor ends: its socket is full, and the server's has nothing more to say.
    // With the first few, a worker holds all that it may.
    let sleepers: Vec<_> = (0..10)
        .map(|_| {
            let client = lab.connect();
            let (mut server, _) = listener.accept().unwrap();
            std::thread::spawn(move || server.write_all(&vec![7; 8 << 20]));
            client
        })
        .collect();
    workers_rest("woken by full sockets");
    // And one whose server just hung up.
    let quiet = lab.connect();
    drop(listener.accept().unwrap());
    let (end, error) = read_all(&quiet);
    assert_eq!((end.len(), error), (0, None));
    workers_rest("a hang-up keeps a worker busy");
    let before = worker_cpu_ms();
    std::thread::sleep(Duration::from_millis(600));
    assert!(worker_cpu_ms() - before < 30, "a hang-up keeps a worker busy");
    assert!(matches!(lab.notice(), Notice::Trouble { text } if text.contains("slow readers")));
    for client in sleepers {
        assert_eq!(read_all(client).0.len(), 8 << 20);
    }
}

#[test]
fn connections_beyond_the_limit_wait_in_the_backlog() {
    let (listener, address) = listener();
    serve(listener, echo);
    let mut rules = rules();
    rules.limits.connections = 4;
    let lab = Lab::new(table(&[address], rules));
    let mut clients: Vec<_> = (0..10).map(|_| lab.connect()).collect();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    lab.until("four are in", |stats| stats.active >= 4);
    std::thread::sleep(Duration::from_millis(50));
    // Two workers may each take one at the same moment.
    assert!(lab.stats().active <= 5);
    for mut client in clients {
        client.read_exact(&mut [0]).unwrap();
    }
    lab.until("all were served", |stats| stats.accepted == 10 && stats.active == 0);
    assert!(lab.stats().accept_paused_ms > 0);
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn limit_of_the_process_is_one_for_all_balancers() {
    let (listener, address) = listener();
    serve(listener, echo);
    let lab = Lab::with(2, 3, table(&[address], rules()));
    let clients: Vec<_> = (0..6).map(|_| lab.connect()).collect();
    lab.until("three are in", |stats| stats.active >= 3);
    for mut client in clients {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    lab.until("all were served", |stats| stats.accepted == 6 && stats.active == 0);
}

#[test]
fn one_source_cannot_have_more_than_its_share() {
    let (listener, address) = listener();
    serve(listener, echo);
    let mut rules = rules();
    rules.limits.per_source = Some(2);
    let lab = Lab::new(table(&[address], rules));
    let serves = |client: &mut TcpStream| client.write_all(b"x").is_ok() && client.read(&mut [0]).is_ok_and(|n| n == 1);
    // One after the other: two workers may count them in another order.
    let (mut one, mut two) = (lab.connect(), lab.connect());
    assert!(serves(&mut one) && serves(&mut two) && !serves(&mut lab.connect()));
    drop(one);
    lab.until("one left", |stats| stats.active == 1);
    assert!(serves(&mut lab.connect()));
    assert_eq!(lab.stats().refused, [("per_source".to_owned(), 1)]);
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_share() {
    let (listener, address) = listener();
    serve(listener, echo);
    let mut rules = rules();
    rules.limits.per_source = Some(1);
    rules.accept_proxy_from = vec![("127.0.0.0".parse().unwrap(), 8)];
    let lab = Lab::new(table(&[address], rules));
    let connect = |source: &str| {
        let mut header = Vec::new();
        proxy_v2(Some(source.parse().unwrap()), Some("[2001:db8:9::1]:80".parse().unwrap()), &mut header);
        let mut client = lab.connect();
        let _ = client.write_all(&header);
        let _ = client.write_all(b"x");
        let served = client.read(&mut [0]).is_ok_and(|count| count == 1);
        (client, served)
    };
    let first = connect("[2001:db8::1]:7");
    let other = connect("[2001:db8:0:1::1]:7");
    let same = connect("[2001:db8::2]:8");
    assert_eq!((first.1, other.1, same.1), (true, true, false));
    assert_eq!(lab.stats().refused, [("per_source".to_owned(), 1)]);
    drop(first);
    lab.until("its end is counted", |stats| stats.active == 1);
    assert!(connect("[2001:db8::3]:9").1);
}

#[test]
fn silence_ends_a_connection_and_traffic_does_not() {
    let (listener, address) = listener();
    serve(listener, echo);
    let mut rules = rules();
    rules.timeouts.idle = Duration::from_millis(400);
    let lab = Lab::new(table(&[address], rules));
    let (quiet, mut busy) = (lab.connect(), lab.connect());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_000) {
        busy.write_all(b"x").unwrap();
        busy.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(read_all(&quiet), (vec![], None));
    assert_eq!((lab.stats().idle_closed, lab.stats().active), (1, 1));
}

#[test]
fn half_closed_and_silent_is_reset_sooner() {
    let (listener, address) = listener();
    let mut rules = rules();
    rules.timeouts.half_closed = Duration::from_millis(300);
    let lab = Lab::new(table(&[address], rules));
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let server = patient(listener.accept().unwrap().0);
    assert_eq!(read_all(client).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(read_all(&server), (b"x".to_vec(), None));
    lab.until("both ends are gone", |stats| stats.active == 0 && stats.idle_closed == 1);
}

#[test]
fn attempt_that_is_not_answered_goes_to_the_next() {
    // A listener whose backlog is full drops what comes.
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen, socket,
    };
    use std::os::fd::AsRawFd;
    let full = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(full.as_raw_fd(), &SockaddrStorage::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    listen(&full, Backlog::new(0).unwrap()).unwrap();
    let bound: SockaddrStorage = getsockname(full.as_raw_fd()).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], bound.as_sockaddr_in().unwrap().port()));
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        fillers.push(filler);
    }
    let mut rules = Rules { algorithm: Algorithm::LeastConnections, ..rules() };
    rules.timeouts.connect = Duration::from_millis(200);
    let address = Address::Tcp(address);
    let lab = Lab::new(table(&[address, name_server("next")], rules));
    for _ in 0..2 {
        let mut client = lab.connect();
        let _ = client.write_all(b"hello");
        assert_eq!(read_all(client).0, b"next");
    }
    assert!(lab.backend(0).connect_failed.contains(&("timeout".to_owned(), 1)), "{:?}", lab.backend(0));
}

#[test]
fn proxy_header_goes_ahead_and_names_the_client() {
    let (listener, address) = listener();
    let mut rules = rules();
    rules.send_proxy = true;
    let lab = Lab::new(table(&[address], rules));
    let mut client = lab.connect();
    client.write_all(b"hello").unwrap();
    let server = patient(listener.accept().unwrap().0);
    let mut expected = Vec::new();
    proxy_v2(Some(client.local_addr().unwrap()), Some(lab.address), &mut expected);
    expected.extend_from_slice(b"hello");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), (expected, None));
}

#[test]
fn trusted_clients_must_send_a_proxy_header_and_it_is_taken_off() {
    let (listener, address) = listener();
    let mut rules = rules();
    rules.accept_proxy_from = vec![("127.0.0.0".parse().unwrap(), 8)];
    rules.access_log = true;
    let lab = Lab::new(table(&[address], rules));
    let source = "203.0.113.9:4711".parse().unwrap();
    let mut header = Vec::new();
    proxy_v2(Some(source), Some(lab.address), &mut header);
    let mut client = lab.connect();
    let (begin, rest) = header.split_at(7);
    client.write_all(begin).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    client.write_all(rest).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let server = patient(listener.accept().unwrap().0);
    assert_eq!(read_all(&server), (b"hello".to_vec(), None));
    drop(server);
    assert_eq!(read_all(client), (vec![], None));
    lab.until("closed", |stats| stats.active == 0);
    let line = lab.outcome.finished().unwrap();
    assert_eq!((line.source, line.backend.as_deref(), line.how), (Some(source), Some("b/0"), "closed"));
    let mut liar = lab.connect();
    liar.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_all(liar).1, Some(ErrorKind::ConnectionReset));
    lab.until("refused", |stats| stats.refused == [("proxy_header".to_owned(), 1)]);
}

#[test]
fn header_of_the_first_request_decides_and_is_passed_on() {
    let mut rules = Rules { algorithm: Algorithm::Rendezvous, max_load_permille: None, ..rules() };
    rules.key = Key::HttpHeader("X-User".to_owned());
    rules.timeouts.first_bytes = Duration::from_millis(200);
    let servers: Vec<_> = (0..4).map(|_| listener()).collect();
    let addresses: Vec<_> = servers.iter().map(|(_, address)| address.clone()).collect();
    for (listener, address) in servers {
        let name = format!("{address:?}");
        serve(listener, move |mut stream| {
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET"));
            stream.write_all(name.as_bytes()).unwrap();
        });
    }
    let lab = Lab::new(table(&addresses, rules));
    let ask = |user: &str| {
        let mut client = lab.connect();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(5));
        client.write_all(format!("X-User: {user}\r\n\r\n").as_bytes()).unwrap();
        read_all(client)
    };
    let homes: Vec<_> = (0..12).map(|user| ask(&user.to_string())).collect();
    for (user, home) in homes.iter().enumerate() {
        assert_eq!(&ask(&user.to_string()), home);
    }
    let different: std::collections::BTreeSet<_> = homes.iter().map(|(name, _)| name.clone()).collect();
    assert!(different.len() > 1);
    assert_eq!(lab.stats().keyless, 0);
    let mut keyless = lab.connect();
    keyless.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(!read_all(keyless).0.is_empty());
    assert_eq!(lab.stats().keyless, 1);
    let silent = lab.connect();
    assert_eq!(read_all(silent).1, Some(ErrorKind::ConnectionReset));
    lab.until("refused", |stats| stats.refused == [("first_bytes".to_owned(), 1)]);
}

#[test]
fn load_is_spread_over_the_workers() {
    let (listener, address) = listener();
    serve(listener, echo);
    let lab = Lab::with(2, 1_000, table(&[address], rules()));
    let clients: Vec<_> = (0..100).map(|_| lab.connect()).collect();
    for mut client in &clients {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    let loads: Vec<u32> = lab.shared.loads();
    assert_eq!(loads.iter().sum::<u32>(), 100);
    assert!(loads.iter().all(|load| *load >= 30), "{loads:?}");
    drop(Arc::new(clients));
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn slow_reader_gets_the_whole_answer_of_a_backend_that_has_ended() {
    let answer = Random::new(5).bytes(1_000_000);
    let (listener, address) = listener();
    serve(listener, {
        let answer = answer.clone();
        move |mut stream| {
            let _ = stream.read(&mut [0]);
            let _ = stream.write_all(&answer);
        }
    });
    let mut rules = rules();
    rules.timeouts.half_closed = Duration::from_millis(200);
    let lab = Lab::new(table(&[address], rules));
    let mut client = lab.connect();
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::RcvBuf, &(32 << 10)).unwrap();
    client.write_all(b"x").unwrap();
    let mut got = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        got.extend_from_slice(&buffer[..count]);
        std::thread::sleep(Duration::from_millis(15));
    }
    assert_eq!(got.len(), answer.len());
    assert!(got == answer);
    lab.until("closed", |stats| stats.active == 0);
}
