//! Clients that wait for a backend.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::time::Duration;

use super::failing::out;
use super::limits::alone;
use crate::engine::balance::plan::{Address, Delivery, NoneLeft};
use crate::proxy::testing::*;

#[test]
fn client_that_leaves_the_queue_is_forgotten_and_half_a_request_is_not() {
    alone("waiting::leaver_and_half_a_request");
}

#[test]
#[ignore = "started by other tests"]
fn leaver_and_half_a_request() {
    let (server, address) = listener();
    let lab = Lab::new(out(table(std::slice::from_ref(&address), rules()), true));
    let leaver = lab.connect();
    let mut patient_one = lab.connect();
    patient_one.write_all(b"question").unwrap();
    patient_one.shutdown(Shutdown::Write).unwrap();
    lab.until("queued", |stats| stats.queued_total == 2);
    drop(leaver);
    lab.until("left", |stats| stats.queued == 1);
    let before = worker_cpu_ms();
    std::thread::sleep(Duration::from_millis(200));
    assert!(worker_cpu_ms() - before < 50, "a half-closed client in the queue keeps a worker busy");
    lab.replace(table(&[address], rules()));
    let connection = patient(server.accept().unwrap().0);
    assert_eq!(read_all(&connection), (b"question".to_vec(), None));
    (&connection).write_all(b"answer").unwrap();
    drop(connection);
    assert_eq!(read_all(patient_one), (b"answer".to_vec(), None));
}

#[test]
fn backends_are_not_blamed_when_a_reload_hands_their_connections_over() {
    let (_server, address) = listener();
    let mut rules = rules();
    rules.none_left = NoneLeft::Queue(Duration::from_millis(300));
    let lab = Lab::new(out(table(std::slice::from_ref(&address), rules.clone()), true));
    let client = lab.connect();
    lab.until("queued", |stats| stats.queued == 1);
    let mut handed_over = table(&[Address::Unix(PathBuf::new())], rules);
    handed_over.delivery = Delivery::HandOff;
    lab.replace(handed_over);
    assert_eq!(read_all(client), (vec![], Some(ErrorKind::ConnectionReset)));
    let stats = lab.stats();
    assert_eq!(stats.refused, [("no_backend".to_owned(), 1)]);
    assert!(stats.backends[0].connect_failed.iter().all(|(_, count)| *count == 0), "{stats:?}");
}
