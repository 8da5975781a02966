//! A balancer with its workers in this process, without control thread and agent, and backends to put behind it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::proto::{BackendStats, BalancerStats};
use super::shared::{Balancer, Command, Listener, Notice, Outcome, Shared};
use super::worker;
use crate::engine::balance::plan::{Address, Algorithm, Delivery, Rules};
use crate::engine::balance::table::{Backend, Standing, Table};
use crate::engine::types::Time;
use crate::sys::{clock, listen};

/// Longer than anything here takes, shorter than anybody waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Lab {
    pub(super) shared: Arc<Shared>,
    pub(super) outcome: Outcome,
    pub(super) balancer: Arc<Balancer>,
    pub(super) address: SocketAddr,
    pub(super) listener: Arc<Listener>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) fn now() -> Time {
    Time(clock::mono_ns())
}

pub(super) fn rules() -> Rules {
    Rules { algorithm: Algorithm::RoundRobin, ramp: Duration::ZERO, ..Rules::default() }
}

pub(super) fn backend(name: &str, address: Address) -> Backend {
    Backend {
        name: name.to_owned(),
        address,
        weight: 1,
        standing: Standing::Up,
        cut: false,
        run: 1,
        ready_for: PATIENCE,
    }
}

/// Of backends `b/0`, `b/1` ... in order.
pub(super) fn table(addresses: &[Address], rules: Rules) -> Table {
    let backends = addresses.iter().enumerate();
    Table {
        balancer: "lab".to_owned(),
        delivery: Delivery::Proxy,
        rules,
        backends: backends.map(|(index, address)| backend(&format!("b/{index}"), address.clone())).collect(),
        hopeful: false,
    }
}

impl Lab {
    pub(super) fn new(table: Table) -> Self {
        Self::with(2, 1_000, table)
    }

    pub(super) fn with(workers: usize, sessions_max: u32, table: Table) -> Self {
        let (shared, outcome) = Shared::new(workers, [1, 2], sessions_max).unwrap();
        let threads = worker::start(&shared).unwrap();
        let socket = listen::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        let listener = Listener::new(Address::Tcp(address), socket).unwrap();
        let balancer = Balancer::new(table, now());
        shared.tell(&Command::Listen { balancer: Arc::clone(&balancer), listener: Arc::clone(&listener) });
        Self { shared, outcome, balancer, address, listener, threads }
    }

    pub(super) fn replace(&self, table: Table) -> super::shared::Replaced {
        let replaced = self.balancer.replace(table, now());
        self.shared.tell(&Command::Changed { balancer: Arc::clone(&self.balancer) });
        replaced
    }

    pub(super) fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    pub(super) fn stats(&self) -> BalancerStats {
        self.balancer.stats(now())
    }

    pub(super) fn backend(&self, index: usize) -> BackendStats {
        self.stats().backends.swap_remove(index)
    }

    #[track_caller]
    pub(super) fn until(&self, what: &str, ask: impl Fn(&BalancerStats) -> bool) {
        let begun = Instant::now();
        while !ask(&self.stats()) {
            assert!(begun.elapsed() < PATIENCE, "not within ten seconds: {what}: {:?}", self.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[track_caller]
    pub(super) fn notice(&self) -> Notice {
        let begun = Instant::now();
        loop {
            self.outcome.clear();
            if let Some(notice) = self.outcome.notice() {
                return notice;
            }
            assert!(begun.elapsed() < PATIENCE, "no notice within ten seconds");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shared.tell(&Command::Quit);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// A stream that fails a test instead of hanging it.
pub(super) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A listener on a free port, and its address.
pub(super) fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    (listener, address)
}

/// An address at which nobody listens; bound, so that nobody else gets it.
pub(super) fn dead_address() -> (OwnedFd, Address) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
    let bound: SockaddrStorage = getsockname(socket.as_raw_fd()).unwrap();
    let port = bound.as_sockaddr_in().unwrap().port();
    (socket, Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// Serves each connection in a thread of its own for as long as the test lives.
pub(super) fn serve(listener: TcpListener, each: impl Fn(TcpStream) + Send + Sync + 'static) {
    let each = Arc::new(each);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // No descriptors, which some tests bring about.
            let Ok(stream) = stream else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let each = Arc::clone(&each);
            std::thread::spawn(move || each(patient(stream)));
        }
    });
}

/// Gives back whatever comes, and ends when the client does.
pub(super) fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Says its name to each client and closes.
pub(super) fn name_server(name: &'static str) -> Address {
    let (listener, address) = listener();
    serve(listener, move |mut stream| {
        let _ = stream.write_all(name.as_bytes());
    });
    address
}

pub(super) fn unix_address(directory: &crate::sys::testing::TempDir, name: &str) -> (PathBuf, Address) {
    let path = directory.path().join(name);
    (path.clone(), Address::Unix(path))
}

/// Everything until the end; an error is part of the answer.
pub(super) fn read_all(mut stream: impl Read) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    (bytes, error)
}

pub(super) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// CPU time of all workers in this process, in milliseconds.
pub(super) fn worker_cpu_ms() -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        if let Some((name, rest)) = stat.rsplit_once(") ")
            && name.contains("(balance-")
        {
            let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
            ticks += fields[11] + fields[12];
        }
    }
    ticks * 10
}

/// A small generator: the same seed, the same run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}
