//! One probe on its way: connect, send, read the head of the answer. Nothing here waits; the loop calls again when the socket is
//! ready.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::answer::{Head, Verdict};
use super::target::Target;
use crate::sys::connect;
use crate::sys::epoll::Interest;

/// Read from a socket at once.
const CHUNK_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) struct Probe {
    socket: TcpStream,
    /// Tried when this connect fails, with the sentence of the first failure then.
    second: Option<SocketAddr>,
    first_failure: Option<String>,
    request: Option<Vec<u8>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Sending { sent: usize },
    Reading { head: Head },
}

/// What follows from a look at the socket.
#[derive(Debug)]
pub(super) enum Progress {
    /// The socket is to be watched for this.
    Wait(Interest),
    /// Another socket took the place of the one before, which is closed.
    Replaced(Interest),
    Done(Result<(), String>),
}

impl Probe {
    /// Begins; the socket is to be watched for writing. The sentence is the answer of a probe that ended at once.
    pub(super) fn start(target: Target) -> Result<Self, String> {
        let Target { first, mut second, request } = target;
        let (socket, first_failure) = match (connect::start(first), second) {
            (Ok(socket), _) => (socket, None),
            (Err(error), None) => return Err(sentence(&error)),
            (Err(error), Some(other)) => {
                second = None;
                let failure = sentence(&error);
                match connect::start(other) {
                    Ok(socket) => (socket, Some(failure)),
                    Err(_) => return Err(failure),
                }
            }
        };
        Ok(Self { socket, second, first_failure, request, stage: Stage::Connecting })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The sentence for a probe whose deadline has come.
    pub(super) fn late(&self, timeout: &str) -> String {
        match &self.stage {
            Stage::Reading { head } if !head.is_empty() => format!("answer not complete within {timeout}"),
            Stage::Connecting | Stage::Sending { .. } | Stage::Reading { .. } => format!("no answer within {timeout}"),
        }
    }

    /// The socket is ready for what it was watched for.
    pub(super) fn advance(&mut self) -> Progress {
        loop {
            let step = match &mut self.stage {
                Stage::Connecting => match self.socket.take_error() {
                    Ok(None) => Step::Next(Stage::Sending { sent: 0 }),
                    Ok(Some(error)) | Err(error) => return self.connect_failed(&error),
                },
                Stage::Sending { sent } => match &self.request {
                    None => Step::Done(Ok(())),
                    Some(request) => send(&self.socket, request, sent),
                },
                Stage::Reading { head } => read(&self.socket, head),
            };
            match step {
                Step::Next(stage) => self.stage = stage,
                Step::Wait(interest) => return Progress::Wait(interest),
                Step::Done(result) => return Progress::Done(result),
            }
        }
    }

    fn connect_failed(&mut self, error: &io::Error) -> Progress {
        let failure = self.first_failure.take().unwrap_or_else(|| sentence(error));
        match self.second.take().map(connect::start) {
            Some(Ok(socket)) => {
                self.socket = socket;
                self.first_failure = Some(failure);
                Progress::Replaced(Interest::WRITE)
            }
            Some(Err(_)) | None => Progress::Done(Err(failure)),
        }
    }
}

enum Step {
    Next(Stage),
    Wait(Interest),
    Done(Result<(), String>),
}

fn send(mut socket: &TcpStream, request: &[u8], sent: &mut usize) -> Step {
    while *sent < request.len() {
        match socket.write(&request[*sent..]) {
            Ok(count) => *sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Wait(Interest::WRITE),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Step::Done(Err(sentence(&error))),
        }
    }
    Step::Next(Stage::Reading { head: Head::default() })
}

fn read(mut socket: &TcpStream, head: &mut Head) -> Step {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => return Step::Done(head.closed()),
            Ok(count) => match head.push(&chunk[..count]) {
                Verdict::More => {}
                Verdict::Done(result) => return Step::Done(result),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Wait(Interest::READ),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Step::Done(Err(sentence(&error))),
        }
    }
}

/// A network error as people say it.
fn sentence(error: &io::Error) -> String {
    let text = match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => "connection reset",
        ErrorKind::TimedOut => "connection timed out",
        ErrorKind::HostUnreachable => "host unreachable",
        ErrorKind::NetworkUnreachable => "network unreachable",
        ErrorKind::AddrNotAvailable => "address not available",
        ErrorKind::PermissionDenied => "permission denied",
        _ => return error.to_string(),
    };
    text.to_owned()
}
