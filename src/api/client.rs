//! The blocking end of the API, for the commands: one connection a request, every wait with a deadline.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::error::{Code, ErrorBody, ErrorDetail};
use super::http::HEAD_BYTES_MAX;
use super::server::{ADMIN_SOCKET, READ_SOCKET};

/// A whole answer; 1,000 services are about half a MiB.
pub const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How long the agent may take for what it answers at once.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether `read.sock` will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Admin,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no agent is reachable (tried {}); is `mainstay run` running?", list(tried))]
    Unreachable { tried: Vec<PathBuf> },
    #[error("{path} may not be opened by this user; be root or a member of the admin group")]
    NotAllowed { path: PathBuf },
    #[error("cannot connect to {path}")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no answer from the agent within {}; what was asked may still be done", crate::engine::types::human(*after))]
    TimedOut { after: Duration },
    #[error("the agent went away before it answered; what was asked may have been done")]
    Lost(#[source] io::Error),
    #[error("the agent's answer is not understood: {what}")]
    Garbled { what: String },
    #[error("{}", .0.message)]
    Refused(ErrorDetail),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl ClientError {
    /// The API's code when the agent itself refused.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(detail) => Code::from_word(&detail.code),
            Self::Unreachable { .. }
            | Self::NotAllowed { .. }
            | Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Lost(_)
            | Self::Garbled { .. } => None,
        }
    }
}

/// Knows which socket answers.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The first of `places` (run directories or sockets) where an agent listens. With [`Access::Read`] a `mainstay.sock` that this user may not
    /// open is replaced by the `read.sock` beside it.
    ///
    /// # Errors
    /// None of them answers, or this user may not.
    pub fn find(places: &[PathBuf], access: Access) -> Result<Self, ClientError> {
        let mut tried = Vec::new();
        for place in places {
            let path = if place.is_dir() { place.join(ADMIN_SOCKET) } else { place.clone() };
            match UnixStream::connect(&path) {
                Ok(_) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Self::fall_back(path, access),
                Err(error) if is_absent(&error) => tried.push(path),
                Err(source) => return Err(ClientError::Connect { path, source }),
            }
        }
        Err(ClientError::Unreachable { tried })
    }

    fn fall_back(denied: PathBuf, access: Access) -> Result<Self, ClientError> {
        let path = denied.with_file_name(READ_SOCKET);
        if access == Access::Admin {
            return Err(ClientError::NotAllowed { path: denied });
        }
        match UnixStream::connect(&path) {
            Ok(_) => Ok(Self { path }),
            Err(error) if is_absent(&error) => Err(ClientError::Unreachable { tried: vec![denied, path] }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::NotAllowed { path: denied })
            }
            Err(source) => Err(ClientError::Connect { path, source }),
        }
    }

    /// The socket that answers.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the socket that everybody may open.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == READ_SOCKET)
    }

    /// The body of a GET.
    ///
    /// # Errors
    /// The agent cannot be asked or refuses.
    pub fn get(&self, target: &str) -> Result<Vec<u8>, ClientError> {
        self.send("GET", target, None, Some(ANSWER_TIMEOUT))?.body()
    }

    /// The body of a GET, as one of our types.
    ///
    /// # Errors
    /// The agent cannot be asked, refuses, or answers something else.
    pub fn get_json<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        parse(&self.get(target)?)
    }

    /// Sends a verb; the answer is read from what comes back. `timeout`: for the outcome.
    ///
    /// # Errors
    /// The agent cannot be asked.
    pub fn post(&self, target: &str, body: &str, timeout: Option<Duration>) -> Result<Pending, ClientError> {
        self.send("POST", target, Some(body), timeout)
    }

    /// Takes something back; otherwise as [`Client::post`].
    ///
    /// # Errors
    /// The agent cannot be asked.
    pub fn delete(&self, target: &str, body: &str, timeout: Option<Duration>) -> Result<Pending, ClientError> {
        self.send("DELETE", target, Some(body), timeout)
    }

    /// A stream of lines. `timeout`: for its beginning, and for each line of a stream that has an end.
    ///
    /// # Errors
    /// The agent cannot be asked or refuses.
    pub fn lines(&self, target: &str, each: Option<Duration>) -> Result<Lines, ClientError> {
        let mut pending = self.send("GET", target, None, Some(ANSWER_TIMEOUT))?;
        let status = pending.head()?.0;
        if status != 200 {
            return Err(match pending.body() {
                Err(error) => error,
                Ok(_) => ClientError::Garbled { what: format!("status {status}") },
            });
        }
        pending.deadline = None;
        pending.stream.get_ref().set_read_timeout(each).map_err(ClientError::Lost)?;
        Ok(Lines { stream: pending.stream, each })
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        body: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<Pending, ClientError> {
        let stream = UnixStream::connect(&self.path).map_err(|source| {
            if is_absent(&source) {
                ClientError::Unreachable { tried: vec![self.path.clone()] }
            } else {
                ClientError::Connect { path: self.path.clone(), source }
            }
        })?;
        let content = body.map_or_else(String::new, |body| {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        });
        let body = body.unwrap_or_default();
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{content}\r\n{body}");
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(ClientError::Lost)?;
        match (&stream).write_all(request.as_bytes()) {
            Ok(()) => {}
            // Turned away above a limit: the reason can still be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(lost(error, ANSWER_TIMEOUT)),
        }
        let deadline = timeout.map(|timeout| (Instant::now() + timeout, timeout));
        Ok(Pending { stream: BufReader::new(stream), deadline, head: None })
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

fn lost(error: io::Error, after: Duration) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut { after },
        _ => ClientError::Lost(error),
    }
}

/// Reads one of our types from a body.
///
/// # Errors
/// It is something else.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Garbled { what: error.to_string() })
}

/// A request that was sent, its answer still to be read.
#[derive(Debug)]
pub struct Pending {
    stream: BufReader<UnixStream>,
    deadline: Option<(Instant, Duration)>,
    /// Status and length, once read.
    head: Option<(u16, Option<u64>)>,
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// It does not come, or it is a refusal.
    pub fn body(mut self) -> Result<Vec<u8>, ClientError> {
        let (status, length) = self.head()?;
        if length.is_some_and(|length| length > ANSWER_BYTES_MAX) {
            return Err(ClientError::Garbled { what: format!("above {ANSWER_BYTES_MAX} bytes") });
        }
        let mut body = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            let missing = length.unwrap_or(ANSWER_BYTES_MAX).saturating_sub(body.len() as u64);
            let wanted = usize::try_from(missing).unwrap_or(usize::MAX).min(chunk.len());
            if wanted == 0 {
                break;
            }
            let bytes = self.read(&mut chunk[..wanted])?;
            if bytes == 0 && length.is_some() {
                return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            if bytes == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..bytes]);
        }
        if status == 200 { Ok(body) } else { Err(refusal(status, &body)) }
    }

    fn head(&mut self) -> Result<(u16, Option<u64>), ClientError> {
        if let Some(head) = self.head {
            return Ok(head);
        }
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut one = [0];
            if self.read(&mut one)? == 0 {
                return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            bytes.push(one[0]);
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(ClientError::Garbled { what: "the head is too long".to_owned() });
            }
        }
        let head = parse_answer_head(&bytes)?;
        self.head = Some(head);
        Ok(head)
    }

    /// One buffered read within the deadline.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ClientError> {
        loop {
            if let (Some((deadline, after)), true) = (self.deadline, self.stream.buffer().is_empty()) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ClientError::TimedOut { after });
                }
                self.stream.get_ref().set_read_timeout(Some(left)).map_err(ClientError::Lost)?;
            }
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error, self.deadline.map_or(ANSWER_TIMEOUT, |(_, after)| after))),
                Ok(bytes) => return Ok(bytes),
            }
        }
    }
}

fn parse_answer_head(bytes: &[u8]) -> Result<(u16, Option<u64>), ClientError> {
    let garbled = |what: &str| ClientError::Garbled { what: what.to_owned() };
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(bytes).map_err(|error| garbled(&error.to_string()))?;
    let status = response.code.ok_or_else(|| garbled("no status"))?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|header| std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok()));
    match length {
        None => Ok((status, None)),
        Some(Some(length)) => Ok((status, Some(length))),
        Some(None) => Err(garbled("Content-Length is no number")),
    }
}

fn refusal(status: u16, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => ClientError::Refused(body.error),
        Err(_) => ClientError::Garbled { what: format!("status {status}") },
    }
}

/// The lines of a stream, as they come.
#[derive(Debug)]
pub struct Lines {
    stream: BufReader<UnixStream>,
    each: Option<Duration>,
}

impl Lines {
    /// The next line without its end; `None` when the stream has ended.
    ///
    /// # Errors
    /// The agent's side went away, or nothing came in time.
    pub fn read_line(&mut self) -> Result<Option<String>, ClientError> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            // What a role that was killed leaves behind: its stream is over.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(lost(error, self.each.unwrap_or(ANSWER_TIMEOUT))),
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    /// Whether a further line is there already, so that output need not be flushed yet.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.stream.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
