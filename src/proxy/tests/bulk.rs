//! Much at once, both ways, by copy and by splice.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::engine::balance::plan::Replay;
use crate::proxy::testing::*;
use crate::sys::testing::TempDir;

const BYTES: usize = 30 << 20;

/// What lies at each place of the stream that `seed` names.
fn pattern(seed: u64, at: usize, out: &mut [u8]) {
    for (place, byte) in out.iter_mut().enumerate() {
        let word = ((at + place) / 8) as u64;
        *byte = (word.wrapping_mul(seed | 1) >> (8 * ((at + place) % 8) % 56)).to_le_bytes()[0];
    }
}

fn send(mut to: impl Write, seed: u64, bytes: usize, chunk: usize) {
    let mut buffer = vec![0; chunk];
    let mut sent = 0;
    while sent < bytes {
        let now = chunk.min(bytes - sent);
        pattern(seed, sent, &mut buffer[..now]);
        to.write_all(&buffer[..now]).unwrap();
        sent += now;
    }
}

/// Reads to the end and compares every byte; `pause` after each read makes a slow reader.
fn check(mut from: impl Read, seed: u64, bytes: usize, pause: Duration) {
    let mut buffer = vec![0; 512 << 10];
    let mut expected = vec![0; 512 << 10];
    let mut got = 0;
    loop {
        let count = from.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        pattern(seed, got, &mut expected[..count]);
        assert!(buffer[..count] == expected[..count], "byte {got} or one of the next {count} differs");
        got += count;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    assert_eq!(got, bytes);
}

fn both_ways_on_tcp(client: &TcpStream, server: &TcpStream, bytes: usize, pause: Duration) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(client, 3, bytes, 128 << 10);
            client.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            send(server, 5, bytes, 128 << 10);
            server.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || check(client, 5, bytes, pause));
        check(server, 3, bytes, pause);
    });
}

#[test]
fn thirty_megabytes_both_ways_arrive_and_are_spliced() {
    let (listener, address) = listener();
    let lab = Lab::new(table(&[address], rules()));
    let client = lab.connect();
    let server = patient(listener.accept().unwrap().0);
    both_ways_on_tcp(&client, &server, BYTES, Duration::ZERO);
    drop((client, server));
    lab.until("closed", |stats| stats.active == 0);
    let backend = lab.backend(0);
    assert_eq!((backend.bytes_in, backend.bytes_out), (BYTES as u64, BYTES as u64));
    assert!(backend.spliced_bytes > BYTES as u64, "{}", backend.spliced_bytes);
}

#[test]
fn a_unix_backend_gets_every_byte_by_splice() {
    let directory = TempDir::new();
    let (path, address) = unix_address(&directory, "bulk.sock");
    let listener = UnixListener::bind(path).unwrap();
    let lab = Lab::new(table(&[address], rules()));
    let client = lab.connect();
    let (server, _) = listener.accept().unwrap();
    let (client, server): (&TcpStream, &UnixStream) = (&client, &server);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(client, 3, BYTES, 128 << 10);
            client.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            send(server, 5, BYTES, 128 << 10);
            server.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| check(client, 5, BYTES, Duration::ZERO));
        check(server, 3, BYTES, Duration::ZERO);
    });
    lab.until("closed", |stats| stats.active == 0);
    assert!(lab.backend(0).spliced_bytes > BYTES as u64 / 2);
}

#[test]
fn what_is_kept_for_replay_is_copied_until_the_answer() {
    let (listener, address) = listener();
    let mut rules = rules();
    rules.replay = Replay::Unanswered { max_bytes: 64 << 20 };
    let lab = Lab::new(table(&[address], rules));
    let client = lab.connect();
    let server = patient(listener.accept().unwrap().0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&client, 3, 8 << 20, 128 << 10);
            client.shutdown(Shutdown::Write).unwrap();
        });
        check(&server, 3, 8 << 20, Duration::ZERO);
    });
    drop((client, server));
    lab.until("closed", |stats| stats.active == 0);
    assert_eq!(lab.backend(0).spliced_bytes, 0);
}

#[test]
fn slow_readers_on_both_sides_lose_nothing() {
    let (listener, address) = listener();
    let lab = Lab::with(1, 100, table(&[address], rules()));
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let client = lab.connect();
        let server = patient(listener.accept().unwrap().0);
        for stream in [&client, &server] {
            setsockopt(stream, sockopt::RcvBuf, &(64 << 10)).unwrap();
        }
        pairs.push((client, server));
    }
    std::thread::scope(|scope| {
        for (client, server) in &pairs {
            scope.spawn(|| both_ways_on_tcp(client, server, 3 << 20, Duration::from_micros(300)));
        }
    });
    drop(pairs);
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn segments_of_usual_size_do_not_stop_a_splice() {
    let (listener, address) = listener();
    // Inherited by what it accepts: the backend gets and sends segments as on a real network.
    setsockopt(&listener, sockopt::TcpMaxSeg, &536).unwrap();
    let lab = Lab::new(table(&[address], rules()));
    setsockopt(&std::os::fd::AsFd::as_fd(&*lab.listener), sockopt::TcpMaxSeg, &1_460).unwrap();
    let client = lab.connect();
    let server = patient(listener.accept().unwrap().0);
    both_ways_on_tcp(&client, &server, 4 << 20, Duration::ZERO);
    drop((client, server));
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn end_behind_bulk_waits_for_a_reader_that_sleeps() {
    let (listener, address) = listener();
    let lab = Lab::new(table(&[address], rules()));
    let client = lab.connect();
    let server = patient(listener.accept().unwrap().0);
    let client_side = std::thread::spawn(move || {
        // All of it lies in sockets, tails and pipes when the end comes.
        std::thread::sleep(Duration::from_millis(300));
        check(&client, 5, 12 << 20, Duration::ZERO);
        client
    });
    send(&server, 5, 12 << 20, 1 << 20);
    drop(server);
    drop(client_side.join().unwrap());
    lab.until("closed", |stats| stats.active == 0);
    assert_eq!(lab.backend(0).bytes_out, 12 << 20);
}

#[test]
fn urgent_data_does_not_stop_or_spin_a_bulk_transfer() {
    let (listener, address) = listener();
    let lab = Lab::with(1, 100, table(&[address], rules()));
    let client = lab.connect();
    let server = patient(listener.accept().unwrap().0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&client, 3, 8 << 20, 128 << 10);
            nix::sys::socket::send(client.as_raw_fd(), b"!", nix::sys::socket::MsgFlags::MSG_OOB).unwrap();
            (&client).write_all(b"after").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let (bytes, error) = read_all(&server);
        // What is urgent is out of the stream and is not passed on.
        assert_eq!((bytes.len(), error), ((8 << 20) + 5, None));
        assert!(bytes.ends_with(b"after"));
    });
}
