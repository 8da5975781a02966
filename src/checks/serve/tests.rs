use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::super::PROBES_MAX;
use super::super::proto::ProbeTarget;
use super::super::testing::{PATIENCE, hear};
use super::*;
use crate::sys::epoll::Interest;
use crate::sys::host;
use crate::sys::packet::PacketSocket;

/// A role in a thread of this process, and its agent.
struct Role {
    path: PathBuf,
    /// `None` for a second agent of the same role.
    thread: Option<JoinHandle<()>>,
    agent: PacketSocket,
}

impl Role {
    fn start() -> Self {
        Self::leaving_after(PATIENCE)
    }

    fn leaving_after(agentless_max: Duration) -> Self {
        // Nothing is there.
        let root = std::env::temp_dir().join("mainstay-checks-no-such-root");
        Self::watching(Settings { kmsg: root.join("kmsg"), root, run_dir: None }, agentless_max)
    }

    fn watching(settings: Settings, agentless_max: Duration) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-checks-{}-{}.sock", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let server = Server::new(PacketListener::bind(&path, 0o600).unwrap(), settings, agentless_max).unwrap();
        let thread = std::thread::spawn(move || server.run().unwrap());
        let agent = PacketSocket::connect(&path).unwrap();
        let role = Self { path, thread: Some(thread), agent };
        role.order(&ToChecks::Hello { agent_pid: 1 });
        role.expect_hello();
        role
    }

    fn order(&self, order: &ToChecks) {
        let packet = serde_json::to_vec(order).unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(self.agent.as_fd(), 0, Interest::WRITE).unwrap();
        while !self.agent.send(&packet, &[]).unwrap() {
            epoll.wait(&mut Vec::with_capacity(1), Some(PATIENCE)).unwrap();
        }
    }

    fn hear(&self) -> Option<FromChecks> {
        hear(&self.agent)
    }

    /// Waits for the role's own end.
    fn joined(&mut self) {
        let thread = self.thread.replace(std::thread::spawn(|| ())).unwrap();
        thread.join().unwrap();
    }

    fn expect_hello(&self) {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(self.hear(), Some(FromChecks::Hello { pid }));
        assert!(matches!(self.hear(), Some(FromChecks::Devices { .. })));
    }

    fn answer(&self) -> (u64, Option<String>) {
        match self.hear() {
            Some(FromChecks::Answer { id, error }) => (id, error),
            other => panic!("expected an answer, not {other:?}"),
        }
    }

    fn tcp(&self, id: u64, address: impl std::fmt::Display, timeout_ms: u64) {
        self.order(&ToChecks::Probe { id, target: ProbeTarget::Tcp(address.to_string()), timeout_ms });
    }

    /// The error of one HTTP probe.
    fn http(&self, address: SocketAddr, timeout_ms: u64) -> Option<String> {
        let target = ProbeTarget::Http(format!("http://{address}/healthz"));
        self.order(&ToChecks::Probe { id: 7, target, timeout_ms });
        let (id, error) = self.answer();
        assert_eq!(id, 7);
        error
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let packet = serde_json::to_vec(&ToChecks::Quit).unwrap();
        // The role has left already in some tests, and this agent may have been replaced: then a newer one says it.
        let said = self.agent.send(&packet, &[]);
        let newest = said
            .is_err()
            .then(|| PacketSocket::connect(&self.path).and_then(|agent| agent.send(&packet, &[]).map(|_| agent)));
        if !std::thread::panicking() {
            thread.join().unwrap();
        }
        drop(newest);
        // Gone already if the role was never bound.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A server that treats each connection as told, in a thread that ends with the test process.
fn server(mut treat: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            treat(stream);
        }
    });
    address
}

fn request_of(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// A port on which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn tcp_probe_succeeds_by_connecting_and_fails_by_refusal() {
    let role = Role::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    role.tcp(1, listener.local_addr().unwrap(), 5_000);
    assert_eq!(role.answer(), (1, None));
    role.tcp(2, nobody(), 5_000);
    assert_eq!(role.answer(), (2, Some("connection refused".to_owned())));
}

#[test]
fn localhost_is_also_tried_over_ipv6() {
    let role = Role::start();
    role.tcp(1, format_args!("localhost:{}", nobody().port()), 5_000);
    assert_eq!(role.answer(), (1, Some("connection refused".to_owned())));
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("skipped the other half: this host has no IPv6 loopback");
        return;
    };
    role.tcp(2, format_args!("localhost:{}", listener.local_addr().unwrap().port()), 5_000);
    assert_eq!(role.answer(), (2, None));
}

#[test]
fn http_probe_sends_one_request_and_judges_by_status() {
    let role = Role::start();
    let (send, requests) = std::sync::mpsc::channel();
    let mut statuses = ["200 OK", "302 Found", "503 Service Unavailable", "404 Not Found"].into_iter();
    let address = server(move |mut stream| {
        send.send(request_of(&mut stream)).unwrap();
        let status = statuses.next().unwrap();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    assert_eq!(role.http(address, 5_000), None);
    assert_eq!(role.http(address, 5_000), None);
    assert_eq!(role.http(address, 5_000), Some("status 503".to_owned()));
    assert_eq!(role.http(address, 5_000), Some("status 404".to_owned()));
    let request = requests.recv().unwrap();
    assert!(
        request.starts_with(&format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n")),
        "{request}"
    );
}

#[test]
fn server_that_never_answers_is_late_at_the_deadline_and_not_before() {
    let role = Role::start();
    let mut kept = Vec::new();
    let address = server(move |stream| kept.push(stream));
    let began = Instant::now();
    assert_eq!(role.http(address, 300), Some("no answer within 300ms".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn closing_and_resetting_servers_are_told_apart() {
    let role = Role::start();
    let closing = server(|mut stream| drop(request_of(&mut stream)));
    assert_eq!(role.http(closing, 5_000), Some("closed without an answer".to_owned()));
    // Closing with unread bytes makes the kernel send a reset.
    let resetting = server(|stream| {
        let mut byte = [0];
        (&stream).read_exact(&mut byte).unwrap();
    });
    assert_eq!(role.http(resetting, 5_000), Some("connection reset".to_owned()));
}

#[test]
fn half_a_status_line_is_no_answer() {
    let role = Role::start();
    let address = server(|mut stream| {
        request_of(&mut stream);
        stream.write_all(b"HTTP/1.1 20").unwrap();
    });
    assert_eq!(role.http(address, 5_000), Some("closed in the middle of its answer".to_owned()));
    let stranger = server(|mut stream| {
        stream.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        request_of(&mut stream);
    });
    assert_eq!(role.http(stranger, 5_000), Some("the answer is not HTTP".to_owned()));
}

#[test]
fn slow_drip_succeeds_in_time_and_fails_at_the_deadline() {
    let role = Role::start();
    let address = server(|mut stream| {
        request_of(&mut stream);
        for byte in b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n" {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(role.http(address, 10_000), None);
    assert_eq!(role.http(address, 100), Some("answer not complete within 100ms".to_owned()));
}

#[test]
fn endless_head_is_not_read_beyond_its_limit() {
    let role = Role::start();
    let address = server(|mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nA: ");
        while stream.write_all(&[b'a'; 1024]).is_ok() {}
    });
    assert_eq!(role.http(address, 10_000), None);
}

#[test]
fn cancelled_probe_is_not_answered() {
    let role = Role::start();
    let mut kept = Vec::new();
    let silent = server(move |stream| kept.push(stream));
    let target = ProbeTarget::Http(format!("http://{silent}/"));
    role.order(&ToChecks::Probe { id: 1, target, timeout_ms: 200 });
    role.order(&ToChecks::Cancel { id: 1 });
    role.order(&ToChecks::Cancel { id: 99 });
    role.tcp(2, silent, 5_000);
    assert_eq!(role.answer(), (2, None));
    assert_eq!(role.http(silent, 400), Some("no answer within 400ms".to_owned()));
}

#[test]
fn probes_beyond_the_limit_are_refused_and_room_comes_back() {
    host::raise_nofile();
    let role = Role::start();
    // Never accepted, never answered: the kernel completes the connects, so the probes must be HTTP to stay under way. One
    // address would run out of backlog, and a probe that waits for its connect is just as outstanding.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = || ProbeTarget::Http(format!("http://{}/", listener.local_addr().unwrap()));
    let most = u64::try_from(PROBES_MAX).unwrap();
    for id in 0..most {
        role.order(&ToChecks::Probe { id, target: target(), timeout_ms: 60_000 });
    }
    role.order(&ToChecks::Probe { id: most, target: target(), timeout_ms: 60_000 });
    assert_eq!(role.answer(), (most, Some("too many probes".to_owned())));
    role.order(&ToChecks::Cancel { id: 3 });
    role.order(&ToChecks::Probe { id: most + 1, target: target(), timeout_ms: 0 });
    assert_eq!(role.answer(), (most + 1, Some("no answer within 0ms".to_owned())));
}

#[test]
fn target_that_is_no_address_is_answered_with_a_sentence() {
    let role = Role::start();
    role.tcp(1, "db.example:5432", 5_000);
    let sentence = "\"db.example:5432\" is not a numeric address or localhost, with a port";
    assert_eq!(role.answer(), (1, Some(sentence.to_owned())));
}

#[test]
fn unknown_order_is_passed_over() {
    let role = Role::start();
    assert!(role.agent.send(b"{\"type\":\"sing\"}", &[]).unwrap());
    assert!(role.agent.send(b"\xff", &[]).unwrap());
    role.tcp(1, nobody(), 5_000);
    assert_eq!(role.answer().0, 1);
}

#[test]
fn newest_agent_takes_the_place_of_the_older() {
    let role = Role::start();
    let mut kept = Vec::new();
    let silent = server(move |stream| kept.push(stream));
    role.order(&ToChecks::Probe { id: 1, target: ProbeTarget::Http(format!("http://{silent}/")), timeout_ms: 300 });
    let newer = Role { path: role.path.clone(), thread: None, agent: PacketSocket::connect(&role.path).unwrap() };
    newer.expect_hello();
    assert_eq!(role.hear(), None, "the older connection is closed");
    newer.order(&ToChecks::Probe { id: 1, target: ProbeTarget::Http(format!("http://{silent}/")), timeout_ms: 500 });
    assert_eq!(newer.answer(), (1, Some("no answer within 500ms".to_owned())), "the older agent's probe is gone");
}

#[test]
fn role_without_an_agent_leaves_and_one_with_an_agent_stays() {
    let mut role = Role::leaving_after(Duration::from_millis(100));
    std::thread::sleep(Duration::from_millis(300));
    role.tcp(1, nobody(), 5_000);
    assert_eq!(role.answer().0, 1, "it stays while its agent is there");
    let (other, _) = PacketSocket::pair().unwrap();
    drop(std::mem::replace(&mut role.agent, other));
    role.joined();
}

#[test]
fn agent_that_does_not_read_its_answers_loses_none() {
    let role = Role::start();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..5_000).for_each(|id| role.tcp(id, "nowhere", 1_000)));
        // Long enough for every queue on the way to fill up.
        std::thread::sleep(Duration::from_millis(300));
        for id in 0..5_000 {
            assert_eq!(role.answer().0, id);
        }
    });
}

#[test]
fn order_to_quit_ends_the_role_while_probes_are_under_way() {
    let mut role = Role::start();
    let mut kept = Vec::new();
    let silent = server(move |stream| kept.push(stream));
    role.order(&ToChecks::Probe { id: 1, target: ProbeTarget::Http(format!("http://{silent}/")), timeout_ms: 60_000 });
    role.order(&ToChecks::Quit);
    role.joined();
    assert_eq!(role.hear(), None);
}

#[test]
fn host_is_told_by_its_own_clock_beside_the_probes_until_another_agent_comes() {
    use crate::engine::host::watch::{Order, Source};
    let settings = Settings { root: "/".into(), kmsg: "/dev/kmsg".into(), run_dir: None };
    let role = Role::watching(settings, PATIENCE);
    let order = |source, every_ms| Order { source, every_ms };
    role.order(&ToChecks::Watch { orders: vec![order(Source::System, 100), order(Source::Sensors, 100)] });
    role.tcp(1, nobody(), 5_000);
    let (mut samples, mut missing, mut answers) = (0, 0, 0);
    while samples < 3 || answers == 0 {
        match role.hear() {
            Some(FromChecks::Sampled { .. }) => samples += 1,
            Some(FromChecks::Missing { .. }) => missing += 1,
            Some(FromChecks::Answer { id: 1, .. }) => answers += 1,
            Some(FromChecks::Devices { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(missing, 1);
    let newer = Role { path: role.path.clone(), thread: None, agent: PacketSocket::connect(&role.path).unwrap() };
    newer.expect_hello();
    newer.tcp(2, nobody(), 5_000);
    assert_eq!(newer.answer().0, 2, "the orders of the older agent are gone with it");
}
