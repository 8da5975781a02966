//! The two listening sockets and everybody connected to them, for a loop that must not block.
//!
//! The server has an epoll instance of its own. The runtime watches that one descriptor ([`AsFd`]) and calls [`Server::turn`] when it is
//! readable or when [`Server::next_deadline`] has come; what clients ask comes back as [`Incoming`] and is answered, at
//! any later time, by [`Server::respond`] or [`Server::hand_over`].
//!
//! Limits. `mainstay.sock`: [`ADMIN_CONNECTIONS_MAX`] connections, the last [`ROOT_RESERVE`] for uid 0. `read.sock`:
//! [`READ_CONNECTIONS_MAX`] connections, [`READ_PER_UID_MAX`] a uid, and no streams. Above a limit the client reads 503.
//!
//! A connection that was handed over no longer counts.
//!
//! Readers get at most a tenth of one CPU ([`Server::charge_readers`]): beyond it nothing is accepted and no request taken from `read.sock`
//! until that much is earned again. Nobody is refused for it, and no deadline of theirs passes meanwhile.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::allowance::Allowance;
use super::connection::{Connection, Step};
use super::error::{ApiError, Code};
use super::http::{After, Response};
use super::route::{Request, Socket};
use crate::sys::clock;
use crate::sys::connection::ConnectionListener;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::packet::Peer;
use crate::sys::stranger::Stranger;

pub const ADMIN_SOCKET: &str = "mainstay.sock";
pub const READ_SOCKET: &str = "read.sock";

pub const ADMIN_CONNECTIONS_MAX: usize = 32;
/// Of these, kept for uid 0: a leaky client must not lock root out.
pub const ROOT_RESERVE: usize = 2;
pub const READ_CONNECTIONS_MAX: usize = 16;
pub const READ_PER_UID_MAX: usize = 4;

const ACCEPTS_A_TURN: usize = 16;
/// More than there can be descriptors in the set, so that nobody is starved.
const READY_A_TURN: usize = 80;
/// A listener rests this long when the kernel has no descriptor for another connection.
const ACCEPT_PAUSE_NS: u64 = 1_000_000_000;

const KEY_ADMIN: u64 = 0;
const KEY_READ: u64 = 1;
const KEY_FIRST: u64 = 2;

/// Names a connection for as long as the agent lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

/// A request that the runtime must answer.
#[derive(Debug)]
pub struct Incoming {
    pub connection: ConnectionId,
    pub request: Request,
    pub peer: Peer,
    pub socket: Socket,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch the API sockets")]
    Watch(#[source] io::Error),
}

#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    admin: Listener,
    read: Listener,
    connections: BTreeMap<ConnectionId, Connection>,
    next_id: u64,
    ready: Vec<Ready>,
    allowance: Allowance,
    /// While nothing is taken from readers.
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    since_ns: u64,
    until_ns: u64,
}

#[derive(Debug)]
struct Listener {
    socket: ConnectionListener,
    path: PathBuf,
    /// Rests until then.
    paused_until_ns: Option<u64>,
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Server {
    /// Listens below `run_dir`. `admin_gid` is the group of `mainstay.sock`; without one only the agent's own user opens it.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn bind(run_dir: &Path, admin_gid: Option<u32>) -> Result<Self, ServerError> {
        let admin = Listener::bind_admin(run_dir.join(ADMIN_SOCKET), admin_gid)?;
        let read = Listener::bind(run_dir.join(READ_SOCKET), 0o666, None)?;
        let epoll = Epoll::new().map_err(ServerError::Watch)?;
        epoll.add(admin.socket.as_fd(), KEY_ADMIN, Interest::READ).map_err(ServerError::Watch)?;
        epoll.add(read.socket.as_fd(), KEY_READ, Interest::READ).map_err(ServerError::Watch)?;
        Ok(Self {
            epoll,
            admin,
            read,
            connections: BTreeMap::new(),
            next_id: KEY_FIRST,
            ready: Vec::with_capacity(READY_A_TURN),
            allowance: Allowance::default(),
            rest: None,
        })
    }

    /// Does what can be done now: accepts, reads, writes, drops who is late. Bounded work; never waits.
    pub fn turn(&mut self, mono_ns: u64) -> Vec<Incoming> {
        if self.rest.is_some_and(|rest| rest.until_ns <= mono_ns) {
            self.end_rest(mono_ns);
        }
        let mut incoming = Vec::new();
        let mut ready = std::mem::take(&mut self.ready);
        if let Err(error) = self.epoll.wait(&mut ready, Some(Duration::ZERO)) {
            log::warn!("api: cannot ask which clients are ready: {error}; asking again next turn");
        }
        for one in ready.drain(..) {
            match one.key {
                KEY_ADMIN => self.accept(Socket::Admin, mono_ns),
                KEY_READ if self.rest.is_some() => {}
                KEY_READ => {
                    let before_ns = clock::thread_cpu_ns();
                    self.accept(Socket::Read, mono_ns);
                    self.charge_readers(mono_ns, clock::thread_cpu_ns().saturating_sub(before_ns));
                }
                key => self.client_ready(ConnectionId(key), one, mono_ns, &mut incoming),
            }
        }
        self.ready = ready;
        // After the reading, so that a stall of our own loop is nobody's fault.
        self.expire(mono_ns);
        incoming
    }

    /// When `turn` must be called at the latest (monotonic nanoseconds).
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let clients = self.connections.values().filter(|connection| !self.is_held(connection));
        let clients = clients.filter_map(|connection| connection.deadline_ns);
        let pauses = [self.admin.paused_until_ns, self.read.paused_until_ns, self.rest.map(|rest| rest.until_ns)];
        clients.chain(pauses.into_iter().flatten()).min()
    }

    /// Answers a request. A client that has left meanwhile is no error.
    pub fn respond(&mut self, mono_ns: u64, connection: ConnectionId, response: Response) {
        let Some(client) = self.connections.get_mut(&connection) else { return };
        if client.is_waiting() {
            let step = client.respond(response, mono_ns);
            self.settle(connection, &step);
        }
    }

    /// Writes `head` ([`STREAM_HEAD`](super::http::STREAM_HEAD)) and gives the connection away. `None`: the client has left or does not read.
    pub fn hand_over(&mut self, connection: ConnectionId, head: &[u8]) -> Option<OwnedFd> {
        let client = self.remove(connection)?;
        if !client.is_waiting() {
            return None;
        }
        client.hand_over(head)
    }

    /// Whether the client is still there.
    #[must_use]
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    /// Whether this is a client of `read.sock`.
    #[must_use]
    pub fn is_reader(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|client| client.socket == Socket::Read)
    }

    /// So much CPU time was spent on clients of `read.sock`. Where it is more than their tenth, they rest.
    pub fn charge_readers(&mut self, now_ns: u64, spent_ns: u64) {
        self.allowance.spend(now_ns, spent_ns);
        let Some(until_ns) = self.allowance.rests_until(now_ns) else { return };
        let begins = self.rest.is_none();
        let since_ns = self.rest.map_or(now_ns, |rest| rest.since_ns);
        self.rest = Some(Rest { since_ns, until_ns });
        if begins {
            self.watch_readers();
        }
    }

    fn end_rest(&mut self, now_ns: u64) {
        let Some(rest) = self.rest.take() else { return };
        let rested_ns = now_ns.saturating_sub(rest.since_ns);
        for client in
            self.connections.values_mut().filter(|client| client.socket == Socket::Read && client.is_reading())
        {
            client.deadline_ns = client.deadline_ns.map(|deadline| deadline.saturating_add(rested_ns));
        }
        self.watch_readers();
    }

    /// Brings the epoll set in line with the beginning or the end of a rest.
    fn watch_readers(&mut self) {
        let interest =
            if self.rest.is_some() || self.read.paused_until_ns.is_some() { Interest::NONE } else { Interest::READ };
        if let Err(error) = self.epoll.modify(self.read.socket.as_fd(), KEY_READ, interest) {
            log::error!("api: cannot watch {}: {error}", self.read.path.display());
        }
        let readers: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, client)| client.socket == Socket::Read && client.is_reading())
            .map(|(id, _)| *id)
            .collect();
        for id in readers {
            self.settle(id, &Step::Pending);
        }
    }

    /// A reader whose next request is not taken yet.
    fn is_held(&self, client: &Connection) -> bool {
        self.rest.is_some() && client.socket == Socket::Read && client.is_reading()
    }

    /// Removes the sockets' names; for an agent that ends for good and still holds the lock of its run_dir.
    pub fn remove_sockets(&self) {
        for listener in [&self.admin, &self.read] {
            if let Err(error) = std::fs::remove_file(&listener.path) {
                log::warn!("api: cannot remove {}: {error}; the next agent replaces it", listener.path.display());
            }
        }
    }

    fn listener(&mut self, socket: Socket) -> &mut Listener {
        match socket {
            Socket::Admin => &mut self.admin,
            Socket::Read => &mut self.read,
        }
    }

    fn accept(&mut self, socket: Socket, now_ns: u64) {
        for _ in 0..ACCEPTS_A_TURN {
            match self.listener(socket).socket.accept() {
                Ok(Some((stream, peer))) => self.admit(stream, peer, socket, now_ns),
                Ok(None) => return,
                Err(error) => return self.pause(socket, &error, now_ns),
            }
        }
    }

    /// A level-triggered listener that cannot accept would keep the loop busy: it rests for a second.
    fn pause(&mut self, socket: Socket, error: &io::Error, now_ns: u64) {
        let key = key_of(socket);
        let listener = self.listener(socket);
        log::warn!("api: cannot accept on {}: {error}; next try in 1 s", listener.path.display());
        listener.paused_until_ns = Some(now_ns.saturating_add(ACCEPT_PAUSE_NS));
        let listener = match socket {
            Socket::Admin => &self.admin,
            Socket::Read => &self.read,
        };
        if let Err(error) = self.epoll.modify(listener.socket.as_fd(), key, Interest::NONE) {
            log::warn!("api: cannot pause {}: {error}", listener.path.display());
        }
    }

    fn admit(&mut self, stream: UnixStream, peer: Peer, socket: Socket, now_ns: u64) {
        let stream = Stranger::new(stream);
        if let Err(error) = self.room(&peer, socket) {
            turn_away(stream.stream(), &error);
            return;
        }
        let id = ConnectionId(self.next_id);
        let connection = Connection::new(stream, peer, socket, now_ns);
        match self.epoll.add(connection.stream().as_fd(), id.0, Interest::READ) {
            Ok(()) => {
                self.next_id += 1;
                self.connections.insert(id, connection);
            }
            Err(error) => log::warn!("api: cannot watch a connection of uid {}: {error}; dropped", connection.peer.uid),
        }
    }

    /// Whether another connection of this peer has room.
    fn room(&self, peer: &Peer, socket: Socket) -> Result<(), ApiError> {
        let of_socket = self.connections.values().filter(|connection| connection.socket == socket);
        let (all, same_uid) = of_socket
            .fold((0, 0), |(all, same), connection| (all + 1, same + usize::from(connection.peer.uid == peer.uid)));
        let (limit, per_uid) = match socket {
            Socket::Admin if peer.uid == 0 => (ADMIN_CONNECTIONS_MAX, ADMIN_CONNECTIONS_MAX),
            Socket::Admin => (ADMIN_CONNECTIONS_MAX - ROOT_RESERVE, ADMIN_CONNECTIONS_MAX),
            Socket::Read => (READ_CONNECTIONS_MAX, READ_PER_UID_MAX),
        };
        if all >= limit {
            let message = format!("all {limit} connections are in use");
            return Err(ApiError::new(Code::ConnectionsTooMany, message).hint("close a connection or try again"));
        }
        if same_uid >= per_uid {
            let message = format!("uid {} has {per_uid} connections already", peer.uid);
            return Err(ApiError::new(Code::ConnectionsTooMany, message).hint("close one of them"));
        }
        Ok(())
    }

    fn client_ready(&mut self, id: ConnectionId, ready: Ready, now_ns: u64, incoming: &mut Vec<Incoming>) {
        let Some(client) = self.connections.get(&id) else { return };
        let held = self.is_held(client);
        // One request of readers a turn: what it takes is known only when it is answered.
        let is_next = client.socket == Socket::Read && client.is_reading();
        let one_is_taken = is_next && incoming.iter().any(|incoming| incoming.socket == Socket::Read);
        if one_is_taken || (held && !ready.hangup) {
            return;
        }
        let before_ns = clock::thread_cpu_ns();
        let Some(client) = self.connections.get_mut(&id) else { return };
        let step = client.ready(ready.readable && !held, ready.hangup, now_ns);
        let (peer, socket) = (client.peer, client.socket);
        self.settle(id, &step);
        if let Step::Request(request) = step {
            incoming.push(Incoming { connection: id, request, peer, socket });
        }
        if socket == Socket::Read {
            self.charge_readers(now_ns, clock::thread_cpu_ns().saturating_sub(before_ns));
        }
    }

    /// Brings the epoll set in line with what a step made of a connection.
    fn settle(&mut self, id: ConnectionId, step: &Step) {
        if matches!(step, Step::Closed) {
            self.remove(id);
            return;
        }
        let Some(client) = self.connections.get(&id) else { return };
        let interest = if self.is_held(client) { Interest::NONE } else { client.interest() };
        if let Err(error) = self.epoll.modify(client.stream().as_fd(), id.0, interest) {
            log::warn!("api: cannot watch a connection of uid {}: {error}; dropped", client.peer.uid);
            self.remove(id);
        }
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let client = self.connections.remove(&id)?;
        self.forget(client.stream());
        Some(client)
    }

    fn forget(&self, stream: &UnixStream) {
        if let Err(error) = self.epoll.remove(stream.as_fd()) {
            log::warn!("api: cannot stop watching a connection: {error}; it is closed anyway");
        }
    }

    fn expire(&mut self, now_ns: u64) {
        let due = |deadline: Option<u64>| deadline.is_some_and(|at| at <= now_ns);
        let late = self.connections.iter().filter(|(_, client)| due(client.deadline_ns) && !self.is_held(client));
        let late: Vec<ConnectionId> = late.map(|(id, _)| *id).collect();
        for id in late {
            if let Some(client) = self.connections.get_mut(&id) {
                let step = client.expire(now_ns);
                self.settle(id, &step);
            }
        }
        let rests = self.rest.is_some();
        for (listener, key) in [(&mut self.admin, KEY_ADMIN), (&mut self.read, KEY_READ)] {
            if due(listener.paused_until_ns) {
                listener.paused_until_ns = None;
                if rests && key == KEY_READ {
                    continue;
                }
                if let Err(error) = self.epoll.modify(listener.socket.as_fd(), key, Interest::READ) {
                    log::error!("api: {} accepts no more clients: {error}", listener.path.display());
                }
            }
        }
    }
}

impl Listener {
    fn bind_admin(path: PathBuf, gid: Option<u32>) -> Result<Self, ServerError> {
        let Some(gid) = gid else { return Self::bind(path, 0o600, None) };
        match Self::bind(path.clone(), 0o660, Some(gid)) {
            // An agent without root can give a socket only to its own groups; its own user keeps every right.
            Err(ServerError::Listen { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                log::info!(
                    "api: {} stays with the agent's user: group {gid} cannot be given without root",
                    path.display()
                );
                Self::bind(path, 0o600, None)
            }
            bound => bound,
        }
    }

    fn bind(path: PathBuf, mode: u32, gid: Option<u32>) -> Result<Self, ServerError> {
        match ConnectionListener::bind(&path, mode, gid) {
            Ok(socket) => Ok(Self { socket, path, paused_until_ns: None }),
            Err(source) => Err(ServerError::Listen { path, source }),
        }
    }
}

fn key_of(socket: Socket) -> u64 {
    match socket {
        Socket::Admin => KEY_ADMIN,
        Socket::Read => KEY_READ,
    }
}

/// One try to say why; the buffer of a new connection is empty.
fn turn_away(mut stream: &UnixStream, error: &ApiError) {
    if let Err(error) = stream.write(&error.response().into_bytes(After::Close)) {
        log::debug!("api: a client above the limit left before it was told: {error}");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
