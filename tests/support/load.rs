//! Clients of a balancer: single requests, and many at once until they are told to stop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For one answer: longer than any queue and drain of these tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where clients connect.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Port(u16),
    Path(PathBuf),
}

impl Place {
    pub(crate) fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = match self {
            Self::Port(port) => TcpStream::connect(("127.0.0.1", *port))?,
            // Reading, writing and timeouts are the same for all stream sockets.
            Self::Path(path) => OwnedFd::from(UnixStream::connect(path)?).into(),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// One request for `/` of a sample; the process that answered, or what went wrong.
    pub(crate) fn ask(&self) -> Result<i32, String> {
        let stream = self.connect().map_err(|error| format!("connect: {error}"))?;
        ask_on(stream)
    }

    /// Who answers `count` requests in a row, with how many each. All must be answered.
    pub(crate) fn answers(&self, count: u32) -> BTreeMap<i32, u32> {
        let mut by = BTreeMap::new();
        for _ in 0..count {
            *by.entry(self.ask().expect("an answer")).or_default() += 1;
        }
        by
    }
}

/// A request on a connection that is open already.
pub(crate) fn ask_on(mut stream: TcpStream) -> Result<i32, String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").map_err(|error| format!("write: {error}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| format!("read: {error} after {answer:?}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("cut short: {answer:?}"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("answer: {head}"));
    }
    let body: serde_json::Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body:?}"))?;
    body["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| format!("no pid: {body}"))
}

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    /// The time since the beginning, and what happened.
    pub(crate) failures: Vec<(Duration, String)>,
    pub(crate) by: BTreeMap<i32, u64>,
    pub(crate) slowest: Duration,
}

/// Clients that ask again and again, a connection for each request.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub(crate) fn on(place: &Place, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let client = |_| {
            let (place, stop, answered) = (place.clone(), Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    match place.ask() {
                        Ok(pid) => {
                            tally.answered += 1;
                            *tally.by.entry(pid).or_default() += 1;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => tally.failures.push((began.elapsed(), error)),
                    }
                    tally.slowest = tally.slowest.max(asked.elapsed());
                    // A host under test has other things to do as well.
                    std::thread::sleep(Duration::from_millis(2));
                }
                tally
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, answered, clients }
    }

    /// Waits until `count` more requests have been answered.
    pub(crate) fn wait_for(&self, count: u64) {
        let (goal, deadline) = (self.answered.load(Ordering::Relaxed) + count, Instant::now() + PATIENCE);
        while self.answered.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "{count} requests were not answered within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let one = client.join().unwrap();
            all.answered += one.answered;
            all.failures.extend(one.failures);
            all.slowest = all.slowest.max(one.slowest);
            for (pid, count) in one.by {
                *all.by.entry(pid).or_default() += count;
            }
        }
        all
    }

    /// Every request must have been answered.
    pub(crate) fn end_without_failure(self) -> Tally {
        let tally = self.end();
        assert!(tally.failures.is_empty(), "{} of {}: {:#?}", tally.failures.len(), tally.answered, tally.failures);
        tally
    }
}
