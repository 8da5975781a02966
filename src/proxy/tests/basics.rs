//! One connection at a time.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::engine::balance::plan::NoneLeft;
use crate::proxy::testing::*;
use crate::sys::testing::TempDir;

#[test]
fn bytes_go_there_and_back_and_counters_know() {
    let (listener, address) = listener();
    serve(listener, echo);
    let lab = Lab::new(table(&[address], rules()));
    let mut client = lab.connect();
    for size in [1, 100, 70_000] {
        let sent = vec![7; size];
        client.write_all(&sent).unwrap();
        let mut got = vec![0; size];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), (vec![], None));
    drop(client);
    lab.until("closed", |stats| stats.active == 0);
    let stats = lab.stats();
    assert_eq!((stats.accepted, stats.backends[0].connections, stats.backends[0].active), (1, 1, 0));
    assert_eq!((stats.backends[0].bytes_in, stats.backends[0].bytes_out), (70_101, 70_101));
    assert_eq!(stats.backends[0].first_byte_us.buckets.iter().sum::<u64>(), 1);
}

#[test]
fn answer_that_comes_long_after_the_clients_end_arrives() {
    let (listener, address) = listener();
    serve(listener, |stream| {
        let (request, error) = read_all(&stream);
        assert_eq!((request.as_slice(), error), (b"question".as_slice(), None));
        std::thread::sleep(Duration::from_millis(200));
        (&stream).write_all(b"answer").unwrap();
    });
    let lab = Lab::new(table(&[address], rules()));
    let mut client = lab.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(client), (b"answer".to_vec(), None));
}

#[test]
fn server_may_speak_first_and_end_first() {
    let (listener, address) = listener();
    serve(listener, |stream| {
        (&stream).write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&stream), (b"still talking".to_vec(), None));
    });
    let lab = Lab::new(table(&[address], rules()));
    let mut client = lab.connect();
    assert_eq!(read_all(&client), (b"hello".to_vec(), None));
    client.write_all(b"still ").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    client.write_all(b"talking").unwrap();
    drop(client);
    lab.until("closed", |stats| stats.active == 0);
    assert_eq!(lab.backend(0).bytes_in, 13);
}

#[test]
fn unix_backend_is_reached_and_its_end_is_passed_on() {
    let directory = TempDir::new();
    let (path, address) = unix_address(&directory, "b.sock");
    let listener = UnixListener::bind(path).unwrap();
    let lab = Lab::new(table(&[address], rules()));
    let mut client = lab.connect();
    client.write_all(b"ping").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut buffer = [0; 4];
    server.read_exact(&mut buffer).unwrap();
    server.write_all(b"pong and more").unwrap();
    drop(server);
    assert_eq!(read_all(client), (b"pong and more".to_vec(), None));
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn dead_backends_are_passed_over_and_tried_once_each() {
    let dead: Vec<_> = (0..3).map(|_| dead_address()).collect();
    let mut addresses: Vec<_> = dead.iter().map(|(_, address)| address.clone()).collect();
    addresses.push(name_server("alive"));
    let mut rules = rules();
    rules.eject.after = 0;
    let lab = Lab::new(table(&addresses, rules));
    for _ in 0..8 {
        assert_eq!(read_all(lab.connect()), (b"alive".to_vec(), None));
    }
    let stats = lab.stats();
    let tried: u64 = stats.backends[..3].iter().flat_map(|backend| &backend.connect_failed).map(|(_, n)| n).sum();
    assert_eq!(stats.redispatched, 6, "once for each client: two met the living one first");
    assert!((6..=8 * 3).contains(&tried), "{tried}");
    assert_eq!(stats.backends[3].connections, 8);
}

#[test]
fn nobody_left_means_a_reset_where_waiting_is_pointless() {
    let (_held, address) = dead_address();
    let mut rules = rules();
    rules.none_left = NoneLeft::Refuse;
    let lab = Lab::new(table(&[address], rules));
    let mut client = lab.connect();
    // The reset may be there before the write, which then takes it.
    let written = client.write_all(b"x").map_err(|error| error.kind());
    let (bytes, error) = read_all(client);
    let error = written.err().or(error);
    assert_eq!((bytes.as_slice(), error), (b"".as_slice(), Some(std::io::ErrorKind::ConnectionReset)));
    lab.until("counted", |stats| stats.refused == [("no_backend".to_owned(), 1)] && stats.active == 0);
}

#[test]
fn reset_on_one_side_is_a_reset_on_the_other() {
    let (listener, address) = listener();
    let lab = Lab::new(table(&[address], rules()));
    // The backend resets in the middle of its answer.
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    let (server, _) = listener.accept().unwrap();
    (&server).write_all(b"half an ans").unwrap();
    let mut half = [0; 11];
    client.read_exact(&mut half).unwrap();
    crate::sys::stream::reset(server.into());
    assert_eq!(client.read(&mut half).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    // The client resets.
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    let (server, _) = listener.accept().unwrap();
    let server = patient(server);
    (&server).read_exact(&mut [0]).unwrap();
    crate::sys::stream::reset(client.into());
    assert_eq!(read_all(&server).1, Some(std::io::ErrorKind::ConnectionReset));
    lab.until("closed", |stats| stats.active == 0);
}
