//! A role process, and what the agent does with it: by now it lives without one, and it has no rights.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mainstay::engine::balance::plan::{Address, Algorithm, Delivery, Rules};
use mainstay::engine::balance::table::{Backend, Standing, Table};
use mainstay::proxy::proto::{FromProxy, ToProxy};
use mainstay::sys::host;
use mainstay::sys::packet::{PacketSocket, Received};

/// Longer than anything here takes, shorter than anybody waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65_534;

pub(crate) struct Role {
    directory: PathBuf,
    process: Child,
    pub(crate) agent: PacketSocket,
}

impl Role {
    pub(crate) fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-role-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("roles")).unwrap();
        let mut command = Command::new("/bin/sh");
        // Readiness is descriptor 3, as the agent gives it.
        command.args(["-c", "exec \"$0\" \"$@\" 3>&1", env!("CARGO_BIN_EXE_mainstay"), "role", "proxy", "--run-dir"]);
        command.arg(&directory).stdin(Stdio::null()).stdout(Stdio::piped());
        if host::uid() == 0 {
            command.args(["--user", &format!("{NOBODY}:{NOBODY}:7,8")]);
        }
        let mut process = command.spawn().unwrap();
        let mut ready = [0; 1];
        process.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"\n");
        let agent = connect(&directory);
        let role = Self { directory, process, agent };
        role.greet();
        role
    }

    fn greet(&self) {
        self.order(&ToProxy::Hello { agent_pid: 1 }, &[]);
        let pid = i32::try_from(self.process.id()).unwrap();
        assert_eq!(self.hear(), FromProxy::Hello { pid });
    }

    pub(crate) fn order(&self, order: &ToProxy, fds: &[BorrowedFd<'_>]) {
        assert!(self.agent.send(&serde_json::to_vec(order).unwrap(), fds).unwrap());
    }

    fn hear(&self) -> FromProxy {
        let (mut packet, begun) = (Vec::new(), Instant::now());
        loop {
            match self.agent.receive(&mut packet).unwrap() {
                Received::Message { .. } => return serde_json::from_slice(&packet).unwrap(),
                Received::Closed => panic!("the role has closed the connection"),
                Received::WouldBlock => assert!(begun.elapsed() < PATIENCE, "the role says nothing"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Everything ordered before has been obeyed when this returns.
    pub(crate) fn settle(&self) {
        self.order(&ToProxy::Stats { id: 7 }, &[]);
        while self.hear() != (FromProxy::StatsEnd { id: 7 }) {}
    }

    /// A listener of the balancer `front`, handed over.
    pub(crate) fn listen(&self) -> SocketAddr {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let order = ToProxy::Listen { balancer: "front".to_owned(), address: Address::Tcp(address) };
        self.order(&order, &[socket.as_fd()]);
        address
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// How often each of its threads has run.
    fn switches(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap();
        let counts = |text: String| text.lines().filter(|line| line.contains("ctxt_switches")).collect::<String>();
        tasks.map(|task| counts(status(task.unwrap()))).collect()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Some tests have ended it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn connect(directory: &Path) -> PacketSocket {
    PacketSocket::connect(&directory.join(mainstay::proxy::SOCKET)).unwrap()
}

pub(crate) fn table(delivery: Delivery, addresses: Vec<Address>) -> Table {
    let backend = |(index, address)| Backend {
        name: format!("api/{index}"),
        address,
        weight: 1,
        standing: Standing::Up,
        cut: false,
        run: 1,
        ready_for: PATIENCE,
    };
    Table {
        balancer: "front".to_owned(),
        delivery,
        rules: Rules { algorithm: Algorithm::RoundRobin, ..Rules::default() },
        backends: addresses.into_iter().enumerate().map(backend).collect(),
        hopeful: true,
    }
}

pub(crate) fn patient(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A server that says one word to each client.
fn word_server(word: &'static str) -> Address {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), word.as_bytes());
        }
    });
    address
}

fn answer(address: SocketAddr) -> String {
    let mut text = String::new();
    patient(address).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn role_has_no_rights_once_it_is_ready() {
    let role = Role::start();
    assert_eq!(role.status("NoNewPrivs:"), "1");
    if host::uid() != 0 {
        eprintln!("skipped the other half: only root can become another user");
        return;
    }
    assert_eq!(role.status("Uid:"), format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}"));
    assert_eq!(role.status("Gid:"), format!("{NOBODY} {NOBODY} {NOBODY} {NOBODY}"));
    assert_eq!(role.status("Groups:"), "7 8");
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&role.status(set), 16), Ok(0), "{set}");
    }
    // Not dumpable: its files in /proc are root's.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{}/maps", role.process.id())).unwrap());
    assert_eq!(owner, 0);
}

#[test]
fn role_serves_on_without_an_agent_and_sleeps_when_nobody_comes() {
    let mut role = Role::start();
    role.order(&ToProxy::Table { table: Box::new(table(Delivery::Proxy, vec![word_server("word")])) }, &[]);
    let address = role.listen();
    role.order(&ToProxy::Complete, &[]);
    assert_eq!(answer(address), "word");
    role.agent = PacketSocket::pair().unwrap().0;
    assert_eq!(answer(address), "word");
    // Until it has done what there was to do.
    let begun = Instant::now();
    let mut before = role.switches();
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let after = role.switches();
        if before == after {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it never sleeps: {before:?} {after:?}");
        before = after;
    }
    assert_eq!(answer(address), "word");
    role.agent = connect(&role.directory);
    role.greet();
    role.settle();
}

#[test]
fn role_leaves_when_the_agent_says_so_and_for_no_signal() {
    let mut role = Role::start();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(role.process.id()).unwrap());
    for signal in ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"] {
        nix::sys::signal::kill(pid, signal.parse::<nix::sys::signal::Signal>().unwrap()).unwrap();
        role.settle();
    }
    role.order(&ToProxy::Quit, &[]);
    let begun = Instant::now();
    while role.process.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not leave");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(role.process.wait().unwrap().code(), Some(0));
}

/// A replica's process, its end of a channel at descriptor 3.
pub(crate) struct Replica(Child);

impl Replica {
    pub(crate) fn start(role: &Role, index: usize, program: &[&str]) -> Self {
        let (ours, theirs): (OwnedFd, OwnedFd) = {
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
        };
        let order = ToProxy::HandOff { balancer: "front".to_owned(), backend: format!("api/{index}"), run: 1 };
        role.order(&order, &[ours.as_fd()]);
        let script = "export LISTEN_PID=$$; exec \"$0\" \"$@\" 4<&0 3</dev/null 0</dev/null";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).args(program).env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "http:handoff");
        Self(command.stdin(Stdio::from(theirs)).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // Some tests have ended it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
