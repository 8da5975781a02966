use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::super::proto::BalancerStats;
use super::super::testing::{PATIENCE, echo, listener, name_server, patient, read_all, rules, serve, table};
use super::super::worker;
use super::*;
use crate::engine::balance::plan::{Eject, NoneLeft, Rules};
use crate::engine::balance::table::Standing;
use crate::sys::packet::{PacketSocket, Received};
use crate::sys::{host, listen};

mod handoff;

/// An agent of a role.
struct Agent(PacketSocket);

/// A role in threads of this process, and its first agent.
struct Role {
    path: PathBuf,
    threads: Vec<JoinHandle<()>>,
    agent: Agent,
    log: std::io::PipeReader,
}

impl Role {
    fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-proxy-{}-{}.sock", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = PacketListener::bind(&path, 0o600).unwrap();
        let (shared, outcome) = Shared::new(2, [1, 2], 1_000).unwrap();
        let mut threads = worker::start(&shared).unwrap();
        let (log, writer) = std::io::pipe().unwrap();
        threads.push(std::thread::spawn(move || {
            Control::new(listener, host::uid(), shared, outcome, writer.into()).unwrap().run().unwrap();
        }));
        let agent = Agent::connect(&path);
        agent.hello();
        Self { path, threads, agent, log }
    }

    fn another_agent(&self) -> Agent {
        let agent = Agent::connect(&self.path);
        agent.hello();
        agent
    }

    /// Returns when it has left by itself.
    fn ended(mut self) {
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        // The first agent may have been replaced: a new one always counts.
        let last = Agent::connect(&self.path);
        for order in [ToProxy::Hello { agent_pid: 1 }, ToProxy::Quit] {
            let sent = last.0.send(&serde_json::to_vec(&order).unwrap(), &[]);
            assert!(sent.is_ok() || std::thread::panicking());
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Agent {
    fn connect(path: &std::path::Path) -> Self {
        Self(PacketSocket::connect(path).unwrap())
    }

    fn hello(&self) {
        self.order(&ToProxy::Hello { agent_pid: 1 });
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(self.hear(), Some(FromProxy::Hello { pid }));
    }

    fn order(&self, order: &ToProxy) {
        self.order_with(order, &[]);
    }

    fn order_with(&self, order: &ToProxy, fds: &[BorrowedFd<'_>]) {
        assert!(self.0.send(&serde_json::to_vec(order).unwrap(), fds).unwrap());
    }

    /// `None`: the role has closed the connection.
    fn hear(&self) -> Option<FromProxy> {
        let epoll = Epoll::new().unwrap();
        epoll.add(self.0.as_fd(), 0, Interest::READ).unwrap();
        let (mut packet, limit) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            match self.0.receive(&mut packet).unwrap() {
                Received::Message { .. } => return Some(serde_json::from_slice(&packet).unwrap()),
                Received::Closed => return None,
                Received::WouldBlock => {
                    assert!(Instant::now() < limit, "the role says nothing");
                    epoll.wait(&mut Vec::with_capacity(1), Some(PATIENCE)).unwrap();
                }
            }
        }
    }

    fn table(&self, table: Table) {
        self.order(&ToProxy::Table { table: Box::new(table) });
    }

    /// A listener on a free port, handed over.
    fn listen(&self) -> SocketAddr {
        let socket = listen::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        let order = ToProxy::Listen { balancer: "lab".to_owned(), address: Address::Tcp(address) };
        self.order_with(&order, &[socket.as_fd()]);
        address
    }

    fn complete(&self) {
        self.order(&ToProxy::Complete);
    }

    /// Everything that was ordered before has been obeyed when this returns. Drops the news that came meanwhile.
    fn stats(&self) -> Vec<BalancerStats> {
        static ID: AtomicU32 = AtomicU32::new(0);
        let id = ID.fetch_add(1, Ordering::Relaxed).into();
        self.order(&ToProxy::Stats { id });
        let mut stats = Vec::new();
        loop {
            match self.hear().unwrap() {
                FromProxy::Stats { id: of, stats: part } if of == id => part.collect(&mut stats),
                FromProxy::StatsEnd { id: of } if of == id => return stats,
                _ => {}
            }
        }
    }

    #[track_caller]
    fn until(&self, what: &str, ask: impl Fn(&BalancerStats) -> bool) {
        let begun = Instant::now();
        while !self.stats().first().is_some_and(&ask) {
            assert!(begun.elapsed() < PATIENCE, "not within ten seconds: {what}: {:?}", self.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn expect_drained(&self, backend: &str) {
        let expected = FromProxy::Drained { balancer: "lab".to_owned(), backend: backend.to_owned(), run: 1 };
        assert_eq!(self.hear(), Some(expected));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

fn answer(address: SocketAddr) -> String {
    let (bytes, _) = read_all(connect(address));
    String::from_utf8(bytes).unwrap()
}

fn round_trip(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut buffer = [0; 4];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
}

fn echo_server() -> Address {
    let (socket, address) = listener();
    serve(socket, echo);
    address
}

#[test]
fn what_the_agent_orders_is_served_whichever_order_it_comes_in() {
    let role = Role::start();
    // The listener before the table.
    let early = role.agent.listen();
    role.agent.table(table(&[name_server("one"), name_server("two")], rules()));
    let late = role.agent.listen();
    role.agent.complete();
    let answers: Vec<String> = [early, late, early, late].map(answer).to_vec();
    assert!(answers.contains(&"one".to_owned()) && answers.contains(&"two".to_owned()), "{answers:?}");
    role.agent.until("all are done", |stats| (stats.accepted, stats.active) == (4, 0));
    // A table that changes where connections go.
    role.agent.table(table(&[name_server("three")], rules()));
    role.agent.stats();
    assert_eq!(answer(early), "three");
}

#[test]
fn unlistened_socket_is_not_accepted_from_and_the_others_are() {
    let role = Role::start();
    role.agent.table(table(&[name_server("one")], rules()));
    let (gone, kept) = (role.agent.listen(), role.agent.listen());
    role.agent.complete();
    assert_eq!(answer(gone), "one");
    role.agent.order(&ToProxy::Unlisten { balancer: "lab".to_owned(), address: Address::Tcp(gone) });
    role.agent.stats();
    let begun = Instant::now();
    while TcpStream::connect(gone).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the socket is still open");
    }
    assert_eq!(answer(kept), "one");
}

/// Clients come all the while; whom the proxy has not taken in by then waits for who accepts next.
#[test]
fn whoever_was_accepted_before_the_end_of_listening_finds_a_backend_of_the_table_before() {
    for _ in 0..20 {
        let role = Role::start();
        let before = table(&[name_server("proxied")], rules());
        role.agent.table(before.clone());
        let socket = listen::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let next = TcpListener::from(socket.try_clone().unwrap());
        let address = next.local_addr().unwrap();
        let (balancer, place) = ("lab".to_owned(), Address::Tcp(address));
        let order = ToProxy::Listen { balancer: balancer.clone(), address: place.clone() };
        role.agent.order_with(&order, &[socket.as_fd()]);
        role.agent.complete();
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let clients = [(); 4].map(|()| {
                scope.spawn(|| {
                    let ask = |_| {
                        let answer = answer(address);
                        count.fetch_add(1, Ordering::Relaxed);
                        answer
                    };
                    (0..50).map(ask).collect::<Vec<_>>()
                })
            });
            while count.load(Ordering::Relaxed) < 40 {
                std::thread::yield_now();
            }
            let mut after = before;
            after.backends[0].standing = Standing::Draining;
            role.agent.order(&ToProxy::Unlisten { balancer, address: place });
            role.agent.table(after);
            role.agent.stats();
            listen::set_blocking(&socket).unwrap();
            serve(next, |mut stream| {
                let _ = stream.write_all(b"next");
            });
            let answers = clients.map(|client| client.join().unwrap()).concat();
            let (proxied, later) = ("proxied".to_owned(), "next".to_owned());
            assert!(answers.iter().all(|answer| [&proxied, &later].contains(&answer)), "{answers:?}");
            assert!(answers.contains(&proxied) && answers.contains(&later), "{answers:?}");
        });
    }
}

#[test]
fn removed_balancer_stops_listening_and_its_connections_have_their_time() {
    let role = Role::start();
    let patience = Duration::from_millis(300);
    role.agent.table(table(&[echo_server()], Rules { drain_timeout: patience, ..rules() }));
    let address = role.agent.listen();
    role.agent.complete();
    let mut stream = connect(address);
    round_trip(&mut stream);
    let begun = Instant::now();
    role.agent.order(&ToProxy::Remove { balancer: "lab".to_owned() });
    assert!(role.agent.stats().is_empty());
    round_trip(&mut stream);
    let mut buffer = [0; 1];
    assert!(!matches!(stream.read(&mut buffer), Ok(1..)));
    assert!(begun.elapsed() >= patience);
}

#[test]
fn second_agent_takes_over_and_what_it_does_not_name_is_gone() {
    let role = Role::start();
    role.agent.table(table(&[echo_server()], rules()));
    let mut other = table(&[name_server("other")], rules());
    other.balancer = "other".to_owned();
    role.agent.table(other);
    let (kept, unnamed) = (role.agent.listen(), role.agent.listen());
    role.agent.complete();
    let mut stream = connect(kept);
    round_trip(&mut stream);
    let second = role.another_agent();
    assert_eq!(role.agent.hear(), None, "the older connection is closed");
    assert_eq!(second.stats().len(), 2, "nothing is gone before the agent has said everything");
    round_trip(&mut stream);
    second.table(table(&[echo_server()], rules()));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let named = ToProxy::Listen { balancer: "lab".to_owned(), address: Address::Tcp(kept) };
    // The copy that comes with it is closed: this one is no copy, so it would answer if it were used.
    second.order_with(&named, &[socket.as_fd()]);
    second.complete();
    let stats = second.stats();
    assert_eq!(stats.iter().map(|stats| stats.balancer.as_str()).collect::<Vec<_>>(), ["lab"]);
    let begun = Instant::now();
    while TcpStream::connect(unnamed).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the socket that was not named is still open");
    }
    round_trip(&mut stream);
    round_trip(&mut connect(kept));
}

#[test]
fn connection_that_does_not_say_hello_changes_nothing() {
    let role = Role::start();
    role.agent.table(table(&[name_server("one")], rules()));
    let silent = Agent::connect(&role.path);
    let rude = Agent::connect(&role.path);
    assert_eq!(silent.hear(), None, "the newer one takes its place");
    rude.order(&ToProxy::Quit);
    assert_eq!(rude.hear(), None);
    assert_eq!(role.agent.stats().len(), 1);
}

#[test]
fn order_that_is_not_understood_is_told_and_passed_over() {
    let role = Role::start();
    assert!(role.agent.0.send(b"{\"type\":\"sing\"}", &[]).unwrap());
    let Some(FromProxy::Trouble { text }) = role.agent.hear() else { panic!() };
    assert!(text.starts_with("an order to the proxy role is not understood: unknown variant `sing`"), "{text}");
    assert!(role.agent.stats().is_empty());
}

#[test]
fn without_an_agent_everything_goes_on() {
    let mut role = Role::start();
    role.agent.table(table(&[echo_server()], rules()));
    let address = role.agent.listen();
    role.agent.complete();
    let mut stream = connect(address);
    round_trip(&mut stream);
    let (other, _) = PacketSocket::pair().unwrap();
    drop(std::mem::replace(&mut role.agent, Agent(other)));
    for _ in 0..20 {
        round_trip(&mut stream);
        round_trip(&mut connect(address));
    }
    role.agent = role.another_agent();
    role.agent.until("the counters are still there", |stats| (stats.accepted, stats.active) == (21, 1));
}

#[test]
fn draining_backend_is_told_when_its_last_connection_ends_and_again_to_the_next_agent() {
    let role = Role::start();
    let mut drain = table(&[echo_server(), echo_server()], rules());
    role.agent.table(drain.clone());
    let address = role.agent.listen();
    role.agent.complete();
    let mut streams = [connect(address), connect(address)];
    streams.iter_mut().for_each(round_trip);
    drain.backends[0].standing = Standing::Draining;
    drain.backends[1].standing = Standing::Draining;
    drain.hopeful = true;
    role.agent.table(drain.clone());
    role.agent.until("it still has both", |stats| stats.active == 2);
    drop(streams);
    let mut drained = [role.agent.hear(), role.agent.hear()].map(|message| match message {
        Some(FromProxy::Drained { balancer, backend, run: 1 }) if balancer == "lab" => backend,
        other => panic!("{other:?}"),
    });
    drained.sort_unstable();
    assert_eq!(drained, ["b/0", "b/1"]);
    let second = role.another_agent();
    drain.backends[1].standing = Standing::Up;
    second.table(drain.clone());
    second.complete();
    second.expect_drained("b/0");
    // A table in which it drains and has nothing is answered at once.
    second.table(drain);
    second.expect_drained("b/0");
}

#[test]
fn connections_of_a_backend_that_drains_for_its_stop_are_cut_when_its_time_is_over() {
    let role = Role::start();
    let patience = Duration::from_millis(200);
    let mut drain = table(&[echo_server()], Rules { drain_timeout: patience, ..rules() });
    role.agent.table(drain.clone());
    let address = role.agent.listen();
    role.agent.complete();
    let mut stream = connect(address);
    round_trip(&mut stream);
    drain.backends[0].standing = Standing::Draining;
    role.agent.table(drain.clone());
    drain.backends[0].standing = Standing::Up;
    role.agent.table(drain.clone());
    std::thread::sleep(patience * 2);
    round_trip(&mut stream);
    // By hand: it has all the time that it wants.
    drain.backends[0].standing = Standing::Draining;
    role.agent.table(drain.clone());
    std::thread::sleep(patience * 2);
    round_trip(&mut stream);
    drain.backends[0].cut = true;
    let begun = Instant::now();
    role.agent.table(drain.clone());
    // Said again in between: the time does not begin anew.
    std::thread::sleep(patience / 2);
    role.agent.table(drain);
    role.agent.expect_drained("b/0");
    assert!(begun.elapsed() >= patience, "{:?}", begun.elapsed());
    assert!(begun.elapsed() < patience * 2, "{:?}", begun.elapsed());
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
}

#[test]
fn agent_whose_descriptor_was_lost_is_let_go_so_that_it_says_everything_anew() {
    let role = Role::start();
    role.agent.table(table(&[echo_server()], rules()));
    role.agent.complete();
    let socket = listen::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
    let order = ToProxy::Listen { balancer: "lab".to_owned(), address: Address::Tcp(address) };
    role.agent.order(&order);
    let Some(FromProxy::Trouble { text }) = role.agent.hear() else { panic!() };
    assert_eq!(text, "balancer lab: an order to listen came without its socket");
    assert_eq!(role.agent.hear(), None);
    let second = role.another_agent();
    second.table(table(&[echo_server()], rules()));
    second.order_with(&order, &[socket.as_fd()]);
    second.complete();
    round_trip(&mut connect(address));
}

#[test]
fn role_that_is_needed_no_more_leaves_after_its_last_connection() {
    let role = Role::start();
    role.agent.table(table(&[echo_server()], rules()));
    let address = role.agent.listen();
    role.agent.complete();
    let mut stream = connect(address);
    round_trip(&mut stream);
    role.agent.order(&ToProxy::QuitWhenIdle);
    std::thread::sleep(IDLE_LOOK * 3);
    round_trip(&mut stream);
    assert!(TcpStream::connect(address).is_err(), "it listens no more");
    drop(stream);
    role.ended();
}

#[test]
fn ejection_is_told_and_told_again_to_the_next_agent() {
    let role = Role::start();
    let eject = Eject { after: 1, base: Duration::from_secs(60), max: Duration::from_secs(60) };
    let (_reserved, dead) = super::super::testing::dead_address();
    let both = table(&[dead, name_server("alive")], Rules { eject, ..rules() });
    role.agent.table(both.clone());
    let address = role.agent.listen();
    role.agent.complete();
    assert_eq!((answer(address), answer(address)), ("alive".to_owned(), "alive".to_owned()));
    let Some(FromProxy::Ejected { backend, run: 1, for_, .. }) = role.agent.hear() else { panic!() };
    assert_eq!(backend, "b/0");
    assert!((48..=60).contains(&for_.as_secs()), "{for_:?}");
    let second = role.another_agent();
    second.table(both);
    second.complete();
    let Some(FromProxy::Ejected { backend, run: 1, for_, .. }) = second.hear() else { panic!() };
    assert_eq!(backend, "b/0");
    assert!((38..=60).contains(&for_.as_secs()), "{for_:?}");
    assert!(second.stats()[0].backends[0].ejected_ms.is_some());
}

#[test]
fn client_that_waits_is_served_when_a_backend_comes() {
    let role = Role::start();
    let mut out = table(&[name_server("back")], Rules { none_left: NoneLeft::Queue(PATIENCE), ..rules() });
    out.backends[0].standing = Standing::Out;
    out.hopeful = true;
    role.agent.table(out.clone());
    let address = role.agent.listen();
    role.agent.complete();
    let stream = connect(address);
    role.agent.until("it waits", |stats| stats.queued == 1);
    out.backends[0].standing = Standing::Up;
    role.agent.table(out);
    assert_eq!(read_all(stream).0, b"back");
}

#[test]
fn access_log_has_a_line_for_each_connection() {
    let mut role = Role::start();
    role.agent.table(table(&[name_server("one")], Rules { access_log: true, ..rules() }));
    let address = role.agent.listen();
    role.agent.complete();
    let stream = connect(address);
    let client = stream.local_addr().unwrap();
    assert_eq!(read_all(stream).0, b"one");
    let mut line = String::new();
    let mut byte = [0; 1];
    while !line.ends_with('\n') {
        role.log.read_exact(&mut byte).unwrap();
        line.push(byte[0].into());
    }
    assert!(line.starts_with(&format!("lab client={client} backend=b/0 connect_ms=")), "{line}");
    assert!(!line.contains("_ms=-") && line.contains(" first_byte_ms=") && line.contains(" total_ms="), "{line}");
    assert!(line.ends_with(" bytes_in=0 bytes_out=3 attempts=1 end=closed\n"), "{line}");
}

#[test]
fn balancers_with_many_backends_are_told_in_packets() {
    let role = Role::start();
    let addresses: Vec<Address> = (0..200).map(|_| Address::Unix("/nowhere".into())).collect();
    role.agent.table(table(&addresses, rules()));
    let stats = role.agent.stats();
    assert_eq!(stats[0].backends.len(), 200);
    assert!(stats[0].backends.iter().enumerate().all(|(index, backend)| backend.name == format!("b/{index}")));
}

#[test]
fn unix_listeners_are_served_too() {
    let directory = crate::sys::testing::TempDir::new();
    let (front, back) = (directory.path().join("front"), directory.path().join("back"));
    let server = UnixListener::bind(&back).unwrap();
    std::thread::spawn(move || server.accept().unwrap().0.write_all(b"unix").unwrap());
    let role = Role::start();
    role.agent.table(table(&[Address::Unix(back)], rules()));
    let socket = listen::unix(&front, 0o600, None).unwrap();
    let order = ToProxy::Listen { balancer: "lab".to_owned(), address: Address::Unix(front.clone()) };
    role.agent.order_with(&order, &[socket.as_fd()]);
    role.agent.complete();
    role.agent.stats();
    let mut text = String::new();
    UnixStream::connect(&front).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "unix");
}
