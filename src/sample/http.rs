//! The HTTP side of the sample: one request a connection, one thread a connection.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

use crate::sys::wake::Wake;

/// A longer request head is answered 431.
const HEAD_BYTES_MAX: usize = 4096;
/// Connections beyond are answered 503 at once.
const CONNECTIONS_MAX: usize = 256;
/// A client that neither sends nor reads for this long is dropped; longer than a test holds an idle connection.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
const SLOW_MAX: Duration = Duration::from_secs(60);
/// What `/env` shows when nothing is named; variables that begin with MAINSTAY_ come on top.
const ENV_SHOWN: [&str; 11] = [
    "HOME",
    "LANG",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LOGNAME",
    "NOTIFY_SOCKET",
    "PATH",
    "SHELL",
    "USER",
    "WATCHDOG_USEC",
];

#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) started: Instant,
    pub(super) ready: AtomicBool,
    /// Toggled by `/fail`.
    pub(super) failing: AtomicBool,
    pub(super) requests: AtomicU64,
    pub(super) open: AtomicUsize,
    /// Before each answer to `/`.
    pub(super) answer_after: Duration,
    /// The request for `/` at which it dies, and how many there have been.
    pub(super) die_after: Option<u64>,
    pub(super) asked: AtomicU64,
    pub(super) leaving: Leaving,
}

/// The end of accepting from a socket that others share: what is still in its queue is theirs.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Held while a connection is taken: once this is set, none will be.
    begun: Mutex<bool>,
    wake: Wake,
}

impl Leaving {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { begun: Mutex::new(false), wake: Wake::new()? })
    }

    pub(super) fn begin(&self) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.wake();
    }
}

/// Where connections come from.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// A socket that was inherited, of either kind.
    /// It does not block: another replica may have taken the connection that woke this one.
    pub(super) fn inherited(socket: OwnedFd) -> io::Result<Self> {
        crate::sys::listen::set_nonblocking(&socket)?;
        let address = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
        Ok(match address.family() {
            Some(AddressFamily::Unix) => Self::Unix(socket.into()),
            Some(_) | None => Self::Tcp(socket.into()),
        })
    }

    /// A connection, whatever it is made of: reading, writing and timeouts are the same for all stream sockets.
    fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(listener) => Ok(listener.accept()?.0),
            Self::Unix(listener) => Ok(OwnedFd::from(listener.accept()?.0).into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Accepts for ever.
pub(super) fn serve(listener: &Listener, state: &Arc<State>) {
    loop {
        let Ok(stream) = listener.accept() else {
            // Out of descriptors, perhaps on purpose: try again rather than spin.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        take(stream, state);
    }
}

/// Accepts from a socket that others share, until this one leaves.
pub(super) fn serve_shared(listener: &Listener, state: &Arc<State>) {
    loop {
        let mut sources = [listener.as_fd(), state.leaving.wake.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let waited = poll(&mut sources, PollTimeout::NONE);
        let leaves = state.leaving.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if *leaves {
            return;
        }
        match listener.accept() {
            Ok(stream) => take(stream, state),
            Err(error) if waited.is_ok() && error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                drop(leaves);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Serves one connection in a thread of its own.
pub(super) fn take(stream: TcpStream, state: &Arc<State>) {
    if state.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        state.open.fetch_sub(1, Ordering::Relaxed);
        let _ = respond(&stream, 503, "too many connections\n");
        return;
    }
    let shared = Arc::clone(state);
    let started = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        // A client that went away is its own affair.
        let _ = handle(&stream, &shared);
        shared.open.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        state.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn handle(stream: &TcpStream, state: &State) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let target = match read_target(stream)? {
        Ok(target) => target,
        Err((status, text)) => return respond(stream, status, text),
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let requests = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
    match path {
        "/" => {
            die_if_asked_often_enough(state);
            std::thread::sleep(state.answer_after);
            respond(stream, 200, &about(state, requests))
        }
        "/healthz" if !state.ready.load(Ordering::Relaxed) => respond(stream, 503, "not ready\n"),
        "/healthz" if state.failing.load(Ordering::Relaxed) => respond(stream, 503, "failing on purpose\n"),
        "/healthz" => respond(stream, 200, "ok\n"),
        "/fail" => {
            let was = state.failing.fetch_xor(true, Ordering::Relaxed);
            respond(stream, 200, if was { "healthy again\n" } else { "failing from now on\n" })
        }
        "/crash" => {
            respond(stream, 200, "crashing\n")?;
            std::process::exit(parameter(query, "code").and_then(|code| code.parse().ok()).unwrap_or(1))
        }
        "/env" => respond(stream, 200, &environment(query)),
        "/slow" => {
            let ms = parameter(query, "ms").and_then(|ms| ms.parse().ok()).unwrap_or(1_000);
            std::thread::sleep(Duration::from_millis(ms).min(SLOW_MAX));
            respond(stream, 200, "at last\n")
        }
        _ => respond(stream, 404, "there is / /healthz /fail /crash /env /slow\n"),
    }
}

fn die_if_asked_often_enough(state: &State) {
    let asked = state.asked.fetch_add(1, Ordering::Relaxed) + 1;
    if state.die_after.is_some_and(|limit| asked >= limit) {
        // As a crash is: nothing is closed properly, nothing is said.
        let _ = raise(Signal::SIGKILL);
    }
}

/// The target of the request line, or what is wrong with the request.
fn read_target(mut stream: &TcpStream) -> io::Result<Result<String, (u16, &'static str)>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(Err((431, "the request is too long\n")));
        }
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..count]);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<_> = std::str::from_utf8(line).unwrap_or_default().split(' ').collect();
    Ok(match words[..] {
        ["GET" | "POST" | "HEAD", target, version] if version.starts_with("HTTP/1.") => Ok(target.to_owned()),
        _ => Err((400, "this is not a request\n")),
    })
}

fn about(state: &State, requests: u64) -> String {
    let pid = std::process::id();
    let uptime_ms = state.started.elapsed().as_millis();
    let about = serde_json::json!({"name": state.name, "pid": pid, "uptime_ms": uptime_ms, "requests": requests});
    format!("{about}\n")
}

fn environment(query: &str) -> String {
    let named = parameter(query, "name");
    let mut shown: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| match named {
            Some(wanted) => name == wanted,
            None => name.starts_with("MAINSTAY_") || ENV_SHOWN.contains(&name.as_str()),
        })
        .collect();
    shown.sort();
    shown.into_iter().fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{name}={value}");
        out
    })
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn respond(mut stream: &TcpStream, status: u16, body: &str) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(listener: &TcpListener, state: &Arc<State>, request: &str) -> String {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        client.write_all(request.as_bytes()).unwrap();
        handle(&served, state).unwrap();
        drop(served);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    fn sample() -> (TcpListener, Arc<State>) {
        let state = State {
            name: "a".to_owned(),
            started: Instant::now(),
            ready: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            answer_after: Duration::ZERO,
            die_after: None,
            asked: AtomicU64::new(0),
            leaving: Leaving::new().unwrap(),
        };
        (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(state))
    }

    #[test]
    fn health_follows_readiness_and_the_failure_asked_for() {
        let (listener, state) = sample();
        let health = "GET /healthz HTTP/1.1\r\n\r\n";
        assert!(ask(&listener, &state, health).starts_with("HTTP/1.1 503 "));
        state.ready.store(true, Ordering::Relaxed);
        assert!(ask(&listener, &state, health).starts_with("HTTP/1.1 200 "));
        assert!(ask(&listener, &state, "POST /fail HTTP/1.1\r\n\r\n").ends_with("failing from now on\n"));
        assert!(ask(&listener, &state, health).ends_with("failing on purpose\n"));
        assert!(ask(&listener, &state, "GET /fail HTTP/1.1\r\n\r\n").ends_with("healthy again\n"));
        assert!(ask(&listener, &state, health).starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn root_tells_who_answers_and_how_often_it_was_asked() {
        let (listener, state) = sample();
        ask(&listener, &state, "GET / HTTP/1.1\r\n\r\n");
        let answer = ask(&listener, &state, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["name"], "a");
        assert_eq!(body["requests"], 2);
        assert_eq!(body["pid"], std::process::id());
    }

    #[test]
    fn environment_shows_what_is_named_and_nothing_else() {
        let (listener, state) = sample();
        let answer = ask(&listener, &state, "GET /env?name=PATH HTTP/1.1\r\n\r\n");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(body, format!("PATH={}\n", std::env::var("PATH").unwrap()));
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        let (listener, state) = sample();
        assert!(ask(&listener, &state, "hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
        assert!(ask(&listener, &state, "GET /nothing HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        // Not a byte more than is read, or the close would be a reset.
        assert!(ask(&listener, &state, &"x".repeat(HEAD_BYTES_MAX)).starts_with("HTTP/1.1 431 "));
    }
}
