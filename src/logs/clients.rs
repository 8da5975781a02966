//! Connections of people who read output or the journal: first the past, told by a history thread, then what comes, from here.
//!
//! From the moment of the request on, live lines are collected here; the past ends at exactly that place. A client that does not
//! keep up is told how much it missed and dropped; it never holds up anything else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::{Past, is_wanted, row};
use super::proto::{Stream, StreamFilter};
use super::reports::{Report, Reports};
use super::role::Key;
use crate::sys::epoll::{Epoll, Interest, Ready};

pub(super) const CLIENTS_MAX: usize = 32;
/// Live lines that wait for one client.
pub(super) const OUT_BYTES_MAX: usize = 256 << 10;
/// Threads that read old files at once; more requests wait.
const HISTORY_THREADS_MAX: usize = 4;
const HISTORY_STACK_BYTES: usize = 128 << 10;
/// For a writer thread to say where the past ends; then the answer begins with what memory holds.
const PAST_PATIENCE: Duration = Duration::from_secs(3);
/// For a client that did not keep up to take its last lines.
const LAGGED_PATIENCE: Duration = Duration::from_secs(10);

/// What a client gets once the past is told.
#[derive(Debug)]
pub(super) enum Follow {
    Nothing,
    Lines(Vec<StreamFilter>),
    /// Entries with a greater `seq`.
    Entries {
        since_seq: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A writer thread was asked where the past ends.
    Asking {
        until: Instant,
    },
    /// A history thread owns the connection, or is waited for.
    Past,
    Live,
    /// Closed once everything is sent, or at the deadline.
    Closing {
        until: Instant,
    },
}

#[derive(Debug)]
struct Client {
    socket: Arc<UnixStream>,
    follow: Follow,
    phase: Phase,
    out: Vec<u8>,
    sent: usize,
    missed: u64,
    interest: Interest,
}

#[derive(Debug)]
pub(super) struct Clients {
    epoll: Rc<Epoll>,
    reports: Arc<Reports>,
    table: BTreeMap<u32, Client>,
    next: u32,
    threads: usize,
    waiting: VecDeque<(u32, Past)>,
    /// Somebody left since [`Clients::take_left`].
    left: bool,
}

impl Clients {
    pub(super) fn new(epoll: Rc<Epoll>, reports: Arc<Reports>) -> Self {
        Self { epoll, reports, table: BTreeMap::new(), next: 0, threads: 0, waiting: VecDeque::new(), left: false }
    }

    /// Takes a connection whose past is asked for; its id, and the socket for the history thread.
    pub(super) fn add(&mut self, fd: OwnedFd, follow: Follow, now: Instant) -> io::Result<(u32, Arc<UnixStream>)> {
        let socket = Arc::new(UnixStream::from(fd));
        socket.set_nonblocking(true)?;
        if self.table.len() >= CLIENTS_MAX {
            let text = format!("{{\"type\":\"refused\",\"text\":\"{CLIENTS_MAX} readers are connected already\"}}\n");
            (&*socket).write_all(text.as_bytes())?;
            return Err(io::Error::other("too many readers"));
        }
        self.next = self.next.wrapping_add(1);
        let id = self.next;
        self.epoll.add(socket.as_fd(), Key::Client(id).into(), Interest::READ)?;
        let phase = Phase::Asking { until: now + PAST_PATIENCE };
        let (out, interest) = (Vec::new(), Interest::READ);
        let client = Client { socket: Arc::clone(&socket), follow, phase, out, sent: 0, missed: 0, interest };
        self.table.insert(id, client);
        Ok((id, socket))
    }

    /// Whether fewer may be followed than before.
    pub(super) fn take_left(&mut self) -> bool {
        std::mem::take(&mut self.left)
    }

    /// The filters of everybody who follows lines.
    pub(super) fn filters(&self) -> impl Iterator<Item = &StreamFilter> {
        self.table.values().flat_map(|client| match &client.follow {
            Follow::Lines(filters) => filters.as_slice(),
            Follow::Nothing | Follow::Entries { .. } => &[],
        })
    }

    /// Hands the connection to a history thread, at once or when one is free. A client that is not asking any more is left alone.
    pub(super) fn tell_past(&mut self, id: u32, past: Past) {
        let Some(client) = self.table.get_mut(&id).filter(|client| matches!(client.phase, Phase::Asking { .. })) else {
            return;
        };
        client.phase = Phase::Past;
        self.waiting.push_back((id, past));
        self.start_history();
    }

    fn start_history(&mut self) {
        while self.threads < HISTORY_THREADS_MAX {
            let Some((client, past)) = self.waiting.pop_front() else { return };
            let reports = Arc::clone(&self.reports);
            let work = move || {
                let alive = past.tell().is_ok();
                drop(past);
                reports.push(Report::Told { client, alive });
            };
            let builder = std::thread::Builder::new().name("history".to_owned()).stack_size(HISTORY_STACK_BYTES);
            self.threads += 1;
            if builder.spawn(work).is_err() {
                self.reports.push(Report::Told { client, alive: false });
            }
        }
    }

    /// A history thread is done.
    pub(super) fn past_told(&mut self, id: u32, alive: bool) {
        self.threads -= 1;
        self.start_history();
        let Some(client) = self.table.get_mut(&id) else { return };
        let follows = !matches!(client.follow, Follow::Nothing);
        if alive && follows {
            client.phase = Phase::Live;
            self.flush(id);
        } else {
            self.remove(id);
        }
    }

    /// The past of this client will not be told by a writer thread.
    pub(super) fn forsake(&mut self, id: u32, now: Instant) {
        if let Some(client) = self.table.get_mut(&id) {
            client.phase = Phase::Asking { until: now };
        }
    }

    /// Clients whose writer thread did not answer in time.
    pub(super) fn forsaken(&self, now: Instant) -> Vec<u32> {
        let late = |client: &Client| matches!(client.phase, Phase::Asking { until } if until <= now);
        self.table.iter().filter(|(_, client)| late(client)).map(|(id, _)| *id).collect()
    }

    /// Tells `rows` instead of what the files hold, then goes on live with what comes from now on.
    pub(super) fn tell_instead(&mut self, id: u32, rows: &[Vec<u8>], now: Instant) {
        let Some(client) = self.table.get_mut(&id) else { return };
        client.out.clear();
        client.missed = 0;
        client.phase = match client.follow {
            Follow::Nothing => Phase::Closing { until: now + LAGGED_PATIENCE },
            Follow::Lines(_) | Follow::Entries { .. } => Phase::Live,
        };
        for row in rows {
            client.add(row);
        }
        self.flush(id);
    }

    /// A line of a stream, for everybody who follows it.
    pub(super) fn line(&mut self, stream: &Stream, at_unix_ms: u64, line: &[u8]) {
        let mut bytes = Vec::new();
        for client in self.table.values_mut().filter(|client| client.wants(stream)) {
            if bytes.is_empty() {
                bytes = row(at_unix_ms, stream, line);
            }
            client.add(&bytes);
        }
    }

    /// A journal entry, for everybody who follows the journal.
    pub(super) fn entry(&mut self, seq: u64, line: &str) {
        for client in self.table.values_mut() {
            if matches!(client.follow, Follow::Entries { since_seq } if seq > since_seq) {
                client.add(format!("{line}\n").as_bytes());
            }
        }
    }

    /// Sends what is collected; once a turn.
    pub(super) fn flush_all(&mut self) {
        let ids: Vec<u32> = self.table.iter().filter(|(_, client)| client.is_sendable()).map(|(id, _)| *id).collect();
        for id in ids {
            self.flush(id);
        }
    }

    pub(super) fn ready(&mut self, id: u32, ready: Ready) {
        let Some(client) = self.table.get_mut(&id) else { return };
        if ready.hangup {
            self.remove(id);
            return;
        }
        if ready.readable {
            // A client has nothing to say; when it has shut its sending side there would be no end of being told so.
            let mut scrap = [0; 512];
            let mut socket = &*client.socket;
            if matches!(socket.read(&mut scrap), Ok(0)) {
                self.set_interest(id, |_| Interest::NONE);
            }
        }
        if ready.writable {
            self.flush(id);
        }
    }

    /// When to call [`Clients::expire`] and [`Clients::forsaken`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        let until = |client: &Client| match client.phase {
            Phase::Asking { until } | Phase::Closing { until } => Some(until),
            Phase::Past | Phase::Live => None,
        };
        self.table.values().filter_map(until).min()
    }

    /// Drops clients that were to be closed and took too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let late = |client: &Client| matches!(client.phase, Phase::Closing { until } if until <= now);
        let ids: Vec<u32> = self.table.iter().filter(|(_, client)| late(client)).map(|(id, _)| *id).collect();
        for id in ids {
            self.remove(id);
        }
    }

    fn flush(&mut self, id: u32) {
        let Some(client) = self.table.get_mut(&id) else { return };
        match client.send(Instant::now()) {
            Ok(Sent::All) => self.set_interest(id, without_write),
            Ok(Sent::Waits) => self.set_interest(id, with_write),
            Ok(Sent::Finished) | Err(_) => self.remove(id),
        }
    }

    fn set_interest(&mut self, id: u32, change: impl FnOnce(Interest) -> Interest) {
        let Some(client) = self.table.get_mut(&id) else { return };
        let interest = change(client.interest);
        if interest != client.interest {
            client.interest = interest;
            if self.epoll.modify(client.socket.as_fd(), Key::Client(id).into(), interest).is_err() {
                self.remove(id);
            }
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(client) = self.table.remove(&id) {
            self.left = true;
            // Removed before it is closed: a history thread may still hold the socket.
            let _ = self.epoll.remove(client.socket.as_fd());
            let _ = client.socket.shutdown(std::net::Shutdown::Both);
        }
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }
}

fn with_write(interest: Interest) -> Interest {
    if interest == Interest::READ || interest == Interest::READ_WRITE { Interest::READ_WRITE } else { Interest::WRITE }
}

fn without_write(interest: Interest) -> Interest {
    if interest == Interest::READ || interest == Interest::READ_WRITE { Interest::READ } else { Interest::NONE }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    All,
    Waits,
    /// Nothing more will be sent.
    Finished,
}

impl Client {
    fn wants(&self, stream: &Stream) -> bool {
        match &self.follow {
            Follow::Lines(filters) => is_wanted(filters, stream),
            Follow::Nothing | Follow::Entries { .. } => false,
        }
    }

    fn add(&mut self, line: &[u8]) {
        if self.missed > 0 || self.out.len() - self.sent + line.len() > OUT_BYTES_MAX {
            self.missed += 1;
        } else {
            self.out.extend_from_slice(line);
        }
    }

    fn is_sendable(&self) -> bool {
        let waits = self.interest == Interest::WRITE || self.interest == Interest::READ_WRITE;
        match self.phase {
            Phase::Asking { .. } | Phase::Past => false,
            Phase::Live => self.missed > 0 || (!waits && self.sent < self.out.len()),
            Phase::Closing { .. } => !waits,
        }
    }

    fn send(&mut self, now: Instant) -> io::Result<Sent> {
        let closing = match self.phase {
            Phase::Asking { .. } | Phase::Past => return Ok(Sent::All),
            Phase::Live if self.missed > 0 => {
                self.phase = Phase::Closing { until: now + LAGGED_PATIENCE };
                true
            }
            Phase::Live => false,
            Phase::Closing { .. } => true,
        };
        loop {
            while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
                let mut socket = &*self.socket;
                match socket.write(rest) {
                    Ok(written) => self.sent += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.out.drain(..std::mem::take(&mut self.sent));
                        return Ok(Sent::Waits);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            // A client that is idle holds no memory.
            (self.out, self.sent) = (Vec::new(), 0);
            match std::mem::take(&mut self.missed) {
                0 => return Ok(if closing { Sent::Finished } else { Sent::All }),
                missed => {
                    self.out = format!("{{\"type\":\"lagged\",\"missed\":{missed}}}\n").into_bytes();
                    self.follow = Follow::Nothing;
                }
            }
        }
    }
}
