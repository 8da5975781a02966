//! What an agent is to the role, for tests.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay::logs::proto::{FromLogs, LogLine, Serve, Settings, Stream, StreamFilter, ToLogs};
use mainstay::logs::{self, LogsError, RoleArguments};
use mainstay::sys::fifo;
use mainstay::sys::packet::{PacketSocket, Received};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PLENTY: Settings = Settings { max_size_bytes: 1 << 30, keep: 5, lines_per_second: None };

/// Directories of one role; removed at the end.
#[derive(Debug)]
pub(crate) struct Dirs {
    pub(crate) root: PathBuf,
}

impl Dirs {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("mainstay-role-{name}-{}-{number}", std::process::id()));
        for directory in ["run/log", "state", "log"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        Self { root }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn arguments(root: &Path, readiness: Option<OwnedFd>) -> RoleArguments {
        let (run_dir, state_dir, log_dir) = (root.join("run"), root.join("state"), root.join("log"));
        RoleArguments { run_dir, state_dir, log_dir, readiness }
    }

    /// The pipe of a stream as its service holds it.
    pub(crate) fn pipe(&self, stream: &Stream) -> fs::File {
        let path = self.pipe_path(stream);
        fifo::create(&path, None).unwrap();
        fs::File::from(fifo::open_read_write(&path).unwrap())
    }

    pub(crate) fn pipe_path(&self, stream: &Stream) -> PathBuf {
        self.root.join("run/log").join(format!("{}.{}", stream.service, stream.index))
    }

    /// All of a stream's output on disk, the oldest file first.
    pub(crate) fn output(&self, stream: &Stream) -> String {
        let base = self.log().join(format!("{}.{}.log", stream.service, stream.index));
        let mut text = String::new();
        for number in (1..10_000).rev() {
            let path = base.with_file_name(format!("{}.{}.log.{number}", stream.service, stream.index));
            text += &fs::read_to_string(path).unwrap_or_default();
        }
        text + &fs::read_to_string(base).unwrap_or_default()
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        // Some tests mount something there, most do not.
        let _ = nix::mount::umount2(&self.log(), nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn stream(service: &str, index: u16) -> Stream {
    Stream { service: service.to_owned(), index }
}

pub(crate) fn all_of(service: &str) -> StreamFilter {
    StreamFilter { service: service.to_owned(), index: None }
}

/// An agent's connection.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PacketSocket,
    pub(crate) last_seq: u64,
    /// Messages that nobody asked for yet.
    aside: Vec<FromLogs>,
}

impl Agent {
    pub(crate) fn connect(root: &Path) -> Self {
        let path = logs::socket_path(&root.join("run"));
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match PacketSocket::connect(&path) {
                Ok(socket) => break socket,
                Err(error) if Instant::now() > deadline => panic!("no role listens: {error}"),
                Err(_) => std::thread::yield_now(),
            }
        };
        let mut agent = Self { socket, last_seq: 0, aside: Vec::new() };
        agent.send(&ToLogs::Hello { agent_pid: 1, instance: "test".into() });
        agent.last_seq = agent.find(|message| match message {
            FromLogs::Hello { last_seq, .. } => Some(*last_seq),
            _ => None,
        });
        agent
    }

    pub(crate) fn send(&self, message: &ToLogs) {
        self.send_with(message, &[]);
    }

    pub(crate) fn send_with(&self, message: &ToLogs, fds: &[&dyn AsFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let bytes = serde_json::to_vec(message).unwrap();
        while !self.socket.send(&bytes, &fds).unwrap() {
            self.wait(PollFlags::POLLOUT, PATIENCE);
        }
    }

    pub(crate) fn watch(&self, dirs: &Dirs, stream: &Stream, settings: Settings) {
        self.send(&ToLogs::Watch { stream: stream.clone(), pipe: dirs.pipe_path(stream), settings });
    }

    pub(crate) fn begin(&self, stream: &Stream, run: u32, ready_text: Option<&str>) {
        self.send(&ToLogs::RunBegins { stream: stream.clone(), run, ready_text: ready_text.map(str::to_owned) });
    }

    /// Ends the run and returns its tail.
    pub(crate) fn end(&mut self, stream: &Stream, run: u32) -> Vec<String> {
        self.send(&ToLogs::RunEnded { stream: stream.clone(), run });
        self.find(|message| match message {
            FromLogs::Drained { stream: of, run: ended, tail } if of == stream && *ended == run => Some(tail.clone()),
            _ => None,
        })
    }

    /// The first message, old or new, that `wanted` makes something of; it is then used up.
    pub(crate) fn find<T>(&mut self, wanted: impl Fn(&FromLogs) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((at, found)) =
                self.aside.iter().enumerate().find_map(|(at, message)| Some((at, wanted(message)?)))
            {
                self.aside.remove(at);
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain; came instead: {:?}", self.aside);
            if let Some((message, _)) = self.receive(PATIENCE) {
                self.aside.push(message);
            }
        }
    }

    /// The next message with its descriptors.
    pub(crate) fn receive(&self, patience: Duration) -> Option<(FromLogs, Vec<OwnedFd>)> {
        self.wait(PollFlags::POLLIN, patience);
        let mut buffer = Vec::new();
        match self.socket.receive(&mut buffer).unwrap() {
            Received::Message { fds } => Some((serde_json::from_slice(&buffer).unwrap(), fds)),
            Received::WouldBlock => None,
            Received::Closed => panic!("the role closed the connection"),
        }
    }

    /// As the kernel does when an agent is killed.
    pub(crate) fn hang_up(&self) {
        nix::sys::socket::shutdown(self.socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    }

    /// Whether the role has closed this connection by the deadline.
    pub(crate) fn is_closed(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.wait(PollFlags::POLLIN, PATIENCE);
            if matches!(self.socket.receive(&mut Vec::new()), Ok(Received::Closed) | Err(_)) {
                return true;
            }
        }
        false
    }

    pub(crate) fn serve(&self, request: Serve) -> BufReader<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.send_with(&ToLogs::Serve { request }, &[&theirs]);
        BufReader::new(ours)
    }

    /// All lines that are there now.
    pub(crate) fn lines(&self, request: Serve) -> Vec<LogLine> {
        self.serve(request).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    fn wait(&self, flags: PollFlags, patience: Duration) {
        let mut fds = [PollFd::new(self.socket.as_fd(), flags)];
        poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap();
    }
}

pub(crate) fn past(streams: Vec<StreamFilter>, tail: Option<u64>) -> Serve {
    Serve::Logs { streams, tail, since_unix_ms: None, follow: false }
}

pub(crate) fn present(streams: Vec<StreamFilter>, tail: Option<u64>) -> Serve {
    Serve::Logs { streams, tail, since_unix_ms: None, follow: true }
}

/// A role in a thread, and its agent.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) dirs: Dirs,
    pub(crate) agent: Agent,
    thread: Option<JoinHandle<Result<(), LogsError>>>,
}

impl Role {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_in(Dirs::new(name))
    }

    pub(crate) fn start_in(dirs: Dirs) -> Self {
        let (readiness, listening) = fifo::pipe().unwrap();
        let arguments = Dirs::arguments(&dirs.root, Some(listening));
        let thread = std::thread::spawn(move || logs::run(arguments));
        let mut fds = [PollFd::new(readiness.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
        let mut newline = [0; 8];
        assert_eq!(nix::unistd::read(&readiness, &mut newline).unwrap(), 1);
        assert_eq!(newline[0], b'\n');
        let agent = Agent::connect(&dirs.root);
        Self { dirs, agent, thread: Some(thread) }
    }

    /// A watched stream in its first run, and its pipe.
    pub(crate) fn stream(&self, service: &str, index: u16, settings: Settings) -> (Stream, fs::File) {
        let stream = stream(service, index);
        let pipe = self.dirs.pipe(&stream);
        self.agent.watch(&self.dirs, &stream, settings);
        self.agent.begin(&stream, 1, None);
        (stream, pipe)
    }

    /// Everything is written when this returns.
    pub(crate) fn quit(mut self) -> Dirs {
        self.agent.send(&ToLogs::Quit);
        self.thread.take().unwrap().join().unwrap().unwrap();
        std::mem::replace(&mut self.dirs, Dirs { root: PathBuf::new() })
    }
}

impl Drop for Role {
    /// A role that outlives its test would write into directories that are removed.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        while !thread.is_finished() {
            if let Ok(socket) = PacketSocket::connect(&logs::socket_path(&self.dirs.root.join("run"))) {
                for message in [ToLogs::Hello { agent_pid: 1, instance: "last".into() }, ToLogs::Quit] {
                    let _ = socket.send(&serde_json::to_vec(&message).unwrap(), &[]);
                }
                // Until the role has heard it.
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLHUP)];
                let _ = poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap());
            }
            std::thread::yield_now();
        }
    }
}

/// `count` numbered lines of 128 bytes each, from `first` on.
pub(crate) fn write_lines(pipe: &mut fs::File, first: u64, count: u64) {
    let mut text = Vec::with_capacity(64 << 10);
    for number in first..first + count {
        writeln!(text, "{number:0127}").unwrap();
        if text.len() >= 32 << 10 {
            pipe.write_all(&text).unwrap();
            text.clear();
        }
    }
    pipe.write_all(&text).unwrap();
}

/// Asks again and again until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
