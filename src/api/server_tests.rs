use std::io::Read;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::http::{CONTENT_TEXT, STREAM_HEAD};
use super::super::route::Roles;
use super::*;
use crate::sys::testing::TempDir;

const SECOND: u64 = 1_000_000_000;
const GET: &str = "GET /v1/services HTTP/1.1\r\nHost: localhost\r\n\r\n";
const FOLLOW: &str = "GET /v1/services/api/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server below a directory of its own, and a clock that only moves when told.
struct Story {
    _directory: TempDir,
    server: Server,
    now_ns: u64,
}

impl Story {
    fn new() -> Self {
        let directory = TempDir::new();
        let server = Server::bind(directory.path(), None).unwrap();
        Self { _directory: directory, server, now_ns: SECOND }
    }

    fn connect(&self, socket: &str) -> UnixStream {
        UnixStream::connect(self._directory.path().join(socket)).unwrap()
    }

    /// A client that the kernel would say is `uid`.
    fn client_of(&mut self, uid: u32, socket: Socket) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.server.admit(ours, Peer { pid: 1, uid, gid: uid }, socket, self.now_ns);
        theirs
    }

    /// Enough turns for whatever is under way.
    fn turns(&mut self) -> Vec<Incoming> {
        (0..16).flat_map(|_| self.server.turn(self.now_ns)).collect()
    }

    fn pass(&mut self, ns: u64) -> Vec<Incoming> {
        self.now_ns += ns;
        self.turns()
    }

    fn answer(&mut self, incoming: &Incoming, text: &str) {
        self.server.respond(self.now_ns, incoming.connection, Response::text(200, CONTENT_TEXT, text.to_owned()));
    }
}

/// What has arrived, and whether the connection has ended.
fn received(mut client: &UnixStream) -> (String, bool) {
    client.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    let ended = match client.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    (String::from_utf8_lossy(&bytes).into_owned(), ended)
}

fn status(client: &UnixStream) -> (u16, bool) {
    let (text, ended) = received(client);
    (text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0), ended)
}

fn send(mut client: &UnixStream, text: &str) {
    client.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_request_is_answered_and_the_next_one_comes_over_the_same_connection() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    for round in 0..3 {
        send(&client, GET);
        let incoming = story.turns();
        assert_eq!(incoming.len(), 1, "round {round}");
        assert_eq!(incoming[0].request, Request::Services { roles: Roles::Hidden });
        assert_eq!(
            (incoming[0].socket, incoming[0].peer.pid),
            (Socket::Admin, i32::try_from(std::process::id()).unwrap())
        );
        assert!(story.server.is_open(incoming[0].connection));
        story.answer(&incoming[0], "well\n");
        let (text, ended) = received(&client);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nwell\n"), "{text}");
        assert!(!ended);
    }
    send(&client, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let incoming = story.turns();
    story.answer(&incoming[0], "bye");
    assert_eq!(status(&client), (200, true));
    assert!(!story.server.is_open(incoming[0].connection));
}

#[test]
fn sockets_have_their_modes() {
    let story = Story::new();
    let mode = |name: &str| story._directory.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(ADMIN_SOCKET), mode(READ_SOCKET)), (0o600, 0o666));
    let directory = TempDir::new();
    let gid = directory.path().metadata().unwrap().gid();
    let _server = Server::bind(directory.path(), Some(gid)).unwrap();
    assert_eq!(directory.path().join(ADMIN_SOCKET).metadata().unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_slow_request_is_dropped_5_s_after_its_first_byte_however_it_trickles() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    story.turns();
    story.pass(4 * SECOND);
    for byte in GET[..5].chars() {
        send(&client, &byte.to_string());
        assert!(story.pass(SECOND - 1).is_empty());
        assert_eq!(received(&client), (String::new(), false));
    }
    story.pass(2 * SECOND);
    let (text, ended) = received(&client);
    assert!(text.contains("request.timeout") && ended, "{text}");
    assert_eq!(story.server.next_deadline(), None);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    story.turns();
    assert_eq!(story.server.next_deadline(), Some(6 * SECOND));
    story.pass(5 * SECOND);
    assert_eq!(received(&client), (String::new(), true));
}

#[test]
fn waiting_for_an_outcome_has_no_deadline_and_ends_when_the_client_leaves() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    send(
        &client,
        "POST /v1/services/api/stop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    );
    let incoming = story.turns();
    assert_eq!(story.server.next_deadline(), None);
    story.pass(3_600 * SECOND);
    assert!(story.server.is_open(incoming[0].connection));
    // A client that has sent all it will send still gets its answer.
    client.shutdown(Shutdown::Write).unwrap();
    story.turns();
    assert!(story.server.is_open(incoming[0].connection));
    drop(client);
    story.turns();
    assert!(!story.server.is_open(incoming[0].connection));
    story.answer(&incoming[0], "for nobody");
}

#[test]
fn a_reader_that_does_not_read_is_dropped() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    send(&client, GET);
    let incoming = story.turns();
    story.answer(&incoming[0], &"x".repeat(4 << 20));
    story.pass(4 * SECOND);
    assert!(story.server.is_open(incoming[0].connection));
    assert!(received(&client).0.len() > 100_000);
    // Progress: five more seconds.
    story.pass(4 * SECOND);
    assert!(story.server.is_open(incoming[0].connection));
    story.pass(5 * SECOND);
    assert!(!story.server.is_open(incoming[0].connection));
}

#[test]
fn a_large_answer_arrives_whole() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    send(&client, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let incoming = story.turns();
    story.answer(&incoming[0], &"~".repeat(3 << 20));
    let mut all = String::new();
    loop {
        let (text, ended) = received(&client);
        all.push_str(&text);
        if ended {
            break;
        }
        story.turns();
    }
    assert_eq!(all.bytes().filter(|byte| *byte == b'~').count(), 3 << 20);
}

#[test]
fn what_is_wrong_is_refused_with_its_status() {
    let mut story = Story::new();
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    for (text, expected) in [
        ("\u{0}\u{1}garbage\r\n\r\n", (400, true)),
        ("GET /v1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", (400, true)),
        ("GET /v1 HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n", (403, true)),
        ("GET /v1 HTTP/1.1\r\nHost: example.org\r\n\r\n", (403, true)),
        ("POST /v1/config/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n", (413, true)),
        (huge.as_str(), (413, true)),
        ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", (404, false)),
        ("PUT /v1 HTTP/1.1\r\nHost: localhost\r\n\r\n", (405, false)),
        ("POST /v1/services/a/stop HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, false)),
    ] {
        let client = story.connect(ADMIN_SOCKET);
        send(&client, text);
        assert!(story.turns().is_empty());
        assert_eq!(status(&client), expected, "{text:.60}");
    }
}

#[test]
fn bytes_after_a_request_are_never_a_second_request() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    send(&client, &format!("{GET}{GET}\u{7f}garbage"));
    let incoming = story.turns();
    assert_eq!(incoming.len(), 1);
    story.answer(&incoming[0], "one");
    assert!(story.turns().is_empty());
    let (text, ended) = received(&client);
    assert_eq!((text.matches("HTTP/1.1 ").count(), ended), (1, true));
    assert!(text.contains("Connection: close\r\n"));
}

#[test]
fn two_connections_of_the_admin_socket_are_kept_for_root() {
    let mut story = Story::new();
    let clients: Vec<UnixStream> = (0..31).map(|_| story.client_of(1_000, Socket::Admin)).collect();
    assert!(clients[..30].iter().all(|client| received(client) == (String::new(), false)));
    assert_eq!(status(&clients[30]), (503, true));
    let roots: Vec<UnixStream> = (0..3).map(|_| story.client_of(0, Socket::Admin)).collect();
    assert!(roots[..2].iter().all(|client| received(client) == (String::new(), false)));
    assert_eq!(status(&roots[2]), (503, true));
    // The other socket has a pool of its own.
    let reader = story.client_of(1_000, Socket::Read);
    assert_eq!(received(&reader), (String::new(), false));
    drop(clients);
    story.turns();
    let late = story.client_of(1_000, Socket::Admin);
    assert_eq!(received(&late), (String::new(), false));
}

#[test]
fn the_read_socket_has_16_connections_and_4_a_user() {
    let mut story = Story::new();
    let mut clients: Vec<UnixStream> = (0..5).map(|_| story.client_of(1_000, Socket::Read)).collect();
    assert_eq!(status(&clients[4]), (503, true));
    clients.extend((0..12).map(|index| story.client_of(2_000 + index, Socket::Read)));
    assert!(clients[5..].iter().all(|client| received(client) == (String::new(), false)));
    let late = story.client_of(3_000, Socket::Read);
    assert_eq!(status(&late), (503, true));
}

#[test]
fn a_stream_is_handed_over_with_its_head_written() {
    let mut story = Story::new();
    let client = story.connect(ADMIN_SOCKET);
    send(&client, FOLLOW);
    let incoming = story.turns();
    let role = UnixStream::from(story.server.hand_over(incoming[0].connection, STREAM_HEAD).unwrap());
    assert!(!story.server.is_open(incoming[0].connection));
    send(&role, "{\"line\":1}\n");
    drop(role);
    story.turns();
    let (text, ended) = received(&client);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n{\"line\":1}\n") && ended, "{text}");
    assert!(story.server.hand_over(incoming[0].connection, STREAM_HEAD).is_none());
}

#[test]
fn a_quiet_server_is_never_ready() {
    let mut story = Story::new();
    let client = story.client_of(1_000, Socket::Admin);
    send(&client, FOLLOW);
    let asked = story.turns();
    let role = story.server.hand_over(asked[0].connection, STREAM_HEAD).unwrap();
    let _waiting = story.connect(ADMIN_SOCKET);
    send(&_waiting, GET);
    assert_eq!(story.turns().len(), 1);
    let outer = Epoll::new().unwrap();
    outer.add(story.server.as_fd(), 7, Interest::READ).unwrap();
    let mut ready = Vec::with_capacity(4);
    outer.wait(&mut ready, Some(Duration::ZERO)).unwrap();
    assert!(ready.is_empty(), "{ready:?}");
    drop(role);
}

#[test]
fn seeded_garbage_leaves_no_connection_behind() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below).unwrap()
    };
    let parts = [
        GET,
        FOLLOW,
        "\r\n",
        "GET ",
        "/v1",
        " HTTP/1.1",
        "Host: localhost\r\n",
        "Content-Length: 9\r\n\r\n",
        "{}",
        "\u{0}",
        "é",
        "POST ",
    ];
    let mut story = Story::new();
    let mut clients = Vec::new();
    for _ in 0..3_000 {
        match next(8) {
            0 => {
                clients.push(story.client_of(
                    u32::try_from(next(3)).unwrap(),
                    if next(2) == 0 { Socket::Admin } else { Socket::Read },
                ))
            }
            1 if !clients.is_empty() => drop(clients.swap_remove(next(clients.len() as u64))),
            _ if !clients.is_empty() => {
                let mut client = &clients[next(clients.len() as u64)];
                // The server may have closed it.
                let _ = client.write(parts[next(parts.len() as u64)].as_bytes());
            }
            _ => {}
        }
        for incoming in story.pass(next(2) as u64 * SECOND / 4) {
            if next(3) == 0 {
                drop(story.server.hand_over(incoming.connection, STREAM_HEAD));
            } else if next(2) == 0 {
                story.answer(&incoming, "well");
            }
        }
        assert!(story.server.connections.len() <= ADMIN_CONNECTIONS_MAX + READ_CONNECTIONS_MAX);
    }
    drop(clients);
    story.pass(10 * SECOND);
    assert!(story.server.connections.is_empty());
}

#[test]
fn readers_that_took_their_tenth_wait_and_none_is_refused() {
    let mut story = Story::new();
    let (reader, admin) = (story.connect(READ_SOCKET), story.connect(ADMIN_SOCKET));
    send(&reader, GET);
    let incoming = story.turns();
    story.server.charge_readers(story.now_ns, SECOND);
    // What was taken is answered.
    story.answer(&incoming[0], "well");
    assert_eq!(status(&reader).0, 200);
    send(&reader, GET);
    send(&admin, GET);
    let late = story.connect(READ_SOCKET);
    send(&late, GET);
    let gone = story.client_of(7, Socket::Read);
    drop(gone);
    let incoming = story.turns();
    assert_eq!(incoming.iter().map(|incoming| incoming.socket).collect::<Vec<_>>(), [Socket::Admin]);
    story.answer(&incoming[0], "well");
    assert_eq!(status(&admin).0, 200);
    // Longer than a request may take; nothing wakes the loop before.
    assert!(story.pass(9 * SECOND).is_empty());
    let deadline = story.server.next_deadline().unwrap();
    assert!(deadline > story.now_ns && deadline < story.now_ns + SECOND, "{deadline}");
    let mut ready = Vec::with_capacity(READY_A_TURN);
    story.server.epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
    assert!(ready.is_empty(), "{ready:?}");
    let pause = deadline - story.now_ns;
    let incoming = story.pass(pause);
    assert_eq!(incoming.len(), 2);
    for one in &incoming {
        story.answer(one, "well");
    }
    assert_eq!((status(&reader).0, status(&late).0), (200, 200));
}

#[test]
fn one_request_of_readers_is_taken_a_turn() {
    let mut story = Story::new();
    let clients = [(); 3].map(|()| story.connect(READ_SOCKET));
    story.turns();
    for client in &clients {
        send(client, GET);
    }
    for _ in &clients {
        assert_eq!(story.server.turn(story.now_ns).len(), 1);
    }
    assert!(story.turns().is_empty());
}
