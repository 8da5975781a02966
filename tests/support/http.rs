//! The API as a program without our client would use it: bytes over the Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::Agent;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An open stream of lines.
pub(crate) struct Follower(BufReader<UnixStream>);

impl Follower {
    /// The next line; panics when none comes in time.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    /// Lines until one holds `text`, that one included.
    pub(crate) fn lines_until(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the stream ended before {text:?}: {lines:?}");
            lines.push(line);
            if lines.last().is_some_and(|line| line.contains(text)) {
                return lines;
            }
        }
    }
}

impl Agent {
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|| panic!("GET {path}: no answer"))
    }

    pub(crate) fn try_get(&self, path: &str) -> Option<Answer> {
        request(&self.socket(), &head("GET", path, ""))
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        self.raw("mainstay.sock", &format!("{}{body}", head("POST", path, &more)))
    }

    /// These bytes to a socket of the run directory.
    pub(crate) fn raw(&self, socket: &str, text: &str) -> Answer {
        request(&self.run_dir().join(socket), text).unwrap_or_else(|| panic!("{socket}: no answer to {text:?}"))
    }

    pub(crate) fn follow(&self, path: &str) -> Follower {
        let mut stream = connect(&self.socket()).expect("the agent listens");
        stream.write_all(head("GET", path, "").as_bytes()).unwrap();
        let mut follower = Follower(BufReader::new(stream));
        let status = follower.line();
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        while !follower.line().is_empty() {}
        follower
    }
}

/// A request without its body; `more` are whole header lines.
pub(crate) fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

fn connect(socket: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

/// `None` when nobody listens or the connection ends before an answer.
fn request(socket: &Path, text: &str) -> Option<Answer> {
    let mut stream = connect(socket)?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    // A refusal may close the connection with our bytes unread, which is a reset behind the answer.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
