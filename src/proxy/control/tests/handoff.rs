//! `delivery: HandOff` with replicas of our own.

use std::os::fd::OwnedFd;

use super::*;

/// The replica's end of a channel.
struct Replica(PacketSocket);

/// A connection that a replica has received.
struct Passed {
    number: Vec<u8>,
    stream: TcpStream,
}

impl Replica {
    /// A channel, the proxy's end handed over.
    fn of(agent: &Agent, backend: &str, run: u32) -> Self {
        let (ours, theirs) = PacketSocket::pair().unwrap();
        let order = ToProxy::HandOff { balancer: "lab".to_owned(), backend: backend.to_owned(), run };
        agent.order_with(&order, &[ours.as_fd()]);
        Self(theirs)
    }

    fn take(&self) -> Option<Passed> {
        let mut buffer = Vec::new();
        match self.0.receive(&mut buffer).unwrap() {
            Received::Message { mut fds } => {
                assert_eq!((buffer.len(), fds.len()), (8, 1));
                Some(Passed { number: buffer, stream: TcpStream::from(fds.remove(0)) })
            }
            Received::WouldBlock => None,
            Received::Closed => panic!("the proxy has closed its end"),
        }
    }

    fn wait(&self) -> Passed {
        let begun = Instant::now();
        loop {
            if let Some(passed) = self.take() {
                return passed;
            }
            assert!(begun.elapsed() < PATIENCE, "no connection came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn acknowledge(&self, passed: &Passed) {
        assert!(self.0.send(&passed.number, &[]).unwrap());
    }
}

fn hand_off(replicas: usize, rules: Rules) -> Table {
    let addresses: Vec<Address> = (0..replicas).map(|_| Address::Unix("/never/connected/to".into())).collect();
    Table { delivery: Delivery::HandOff, hopeful: true, ..table(&addresses, rules) }
}

fn lab(replicas: usize, rules: Rules) -> (Role, SocketAddr, Vec<Replica>) {
    let role = Role::start();
    role.agent.table(hand_off(replicas, rules));
    let channels = (0..replicas).map(|index| Replica::of(&role.agent, &format!("b/{index}"), 1)).collect();
    let address = role.agent.listen();
    role.agent.complete();
    role.agent.stats();
    (role, address, channels)
}

fn queueing() -> Rules {
    Rules { none_left: NoneLeft::Queue(PATIENCE), ..rules() }
}

#[test]
fn connections_go_to_the_replicas_themselves() {
    let (role, address, replicas) = lab(2, rules());
    let mut clients = [connect(address), connect(address)];
    for (client, replica) in clients.iter_mut().zip(&replicas) {
        client.write_all(b"question").unwrap();
        let mut passed = replica.wait();
        assert_eq!(passed.stream.peer_addr().unwrap(), client.local_addr().unwrap());
        replica.acknowledge(&passed);
        // As accept(2) gives it: reading waits.
        let mut buffer = [0; 8];
        passed.stream.read_exact(&mut buffer).unwrap();
        passed.stream.write_all(b"answer").unwrap();
        drop(passed);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((&buffer, answer.as_str()), (b"question", "answer"), "our copy does not keep it open");
    }
    role.agent.until("both are acknowledged", |stats| {
        stats.active == 0 && stats.accepted == 2 && stats.backends.iter().all(|one| one.connections == 1)
    });
    let stats = &role.agent.stats()[0];
    assert!(stats.backends.iter().all(|one| one.connect_us.percentile_us(500).is_some()), "{stats:?}");
}

#[test]
fn what_a_dead_replica_did_not_acknowledge_goes_to_another() {
    let (role, address, mut replicas) = lab(2, rules());
    let mut clients: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();
    role.agent.until("all are passed", |stats| stats.backends.iter().all(|one| one.active == 5));
    let dying = replicas.remove(0);
    let mut served: Vec<Passed> = (0..2).map(|_| dying.wait()).collect();
    served.iter().for_each(|passed| dying.acknowledge(passed));
    // Received, and not acknowledged.
    let unacknowledged = dying.wait();
    drop((unacknowledged, dying));
    let survivor = &replicas[0];
    for _ in 0..8 {
        let passed = survivor.wait();
        survivor.acknowledge(&passed);
        served.push(passed);
    }
    served.iter_mut().for_each(|passed| passed.stream.write_all(b"served").unwrap());
    drop(served);
    for client in &mut clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served");
    }
    role.agent.until("all are acknowledged", |stats| stats.active == 0);
    let stats = &role.agent.stats()[0];
    assert_eq!((stats.redispatched, stats.backends[0].failed), (3, 3));
    assert_eq!([stats.backends[0].connections, stats.backends[1].connections], [2, 8]);
}

#[test]
fn single_replica_restarts_without_a_lost_connection() {
    let (role, address, mut replicas) = lab(1, queueing());
    let early = connect(address);
    role.agent.until("it is passed", |stats| stats.backends[0].active == 1);
    replicas.clear();
    role.agent.until("it waits", |stats| (stats.queued, stats.active) == (1, 1));
    let late = connect(address);
    role.agent.until("both wait", |stats| stats.queued == 2);
    let mut next = hand_off(1, queueing());
    next.backends[0].run = 2;
    role.agent.table(next);
    let replica = Replica::of(&role.agent, "b/0", 2);
    // The one that has waited longest comes first.
    for client in [early, late] {
        let passed = replica.wait();
        assert_eq!(passed.stream.peer_addr().unwrap(), client.local_addr().unwrap());
        replica.acknowledge(&passed);
    }
    role.agent.until("nobody waits", |stats| (stats.queued, stats.active, stats.queued_total) == (0, 0, 2));
}

#[test]
fn connection_that_kills_replica_after_replica_is_given_up() {
    let (role, address, mut replicas) = lab(5, queueing());
    let mut client = connect(address);
    for killed in 0..3 {
        let mut holder = None;
        let begun = Instant::now();
        while holder.is_none() {
            assert!(begun.elapsed() < PATIENCE, "{killed} had it");
            holder = replicas.iter().position(|replica| replica.take().is_some());
        }
        replicas.remove(holder.unwrap());
    }
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)));
    role.agent.until("it is refused", |stats| stats.refused == [("no_backend".to_owned(), 1)] && stats.active == 0);
    assert!(replicas.iter().all(|replica| replica.take().is_none()), "the other two never see it");
}

#[test]
fn run_that_is_replaced_is_not_waited_for() {
    let (role, address, replicas) = lab(1, queueing());
    let client = connect(address);
    role.agent.until("it is passed", |stats| stats.backends[0].active == 1);
    // A grandchild may hold the old end open for ever.
    let mut next = hand_off(1, queueing());
    next.backends[0].run = 2;
    role.agent.table(next);
    let replica = Replica::of(&role.agent, "b/0", 2);
    assert_eq!(replica.wait().stream.peer_addr().unwrap(), client.local_addr().unwrap());
    drop(replicas);
}

#[test]
fn replica_that_does_not_keep_up_is_passed_by_and_clients_wait() {
    let limits = crate::engine::balance::plan::Limits { per_backend: Some(2), ..Rules::default().limits };
    let (role, address, replicas) = lab(2, Rules { limits, ..queueing() });
    let _clients: Vec<TcpStream> = (0..6).map(|_| connect(address)).collect();
    role.agent
        .until("two each, and two wait", |stats| stats.queued == 2 && stats.backends.iter().all(|one| one.active == 2));
    let passed = replicas[1].wait();
    replicas[1].acknowledge(&passed);
    role.agent.until("one moves up", |stats| stats.queued == 1 && stats.backends.iter().all(|one| one.active == 2));
}

#[test]
fn nobody_waits_longer_than_the_rule_says_or_where_nobody_may_come() {
    let patience = Duration::from_millis(200);
    let role = Role::start();
    let mut out = hand_off(1, Rules { none_left: NoneLeft::Queue(patience), ..rules() });
    out.backends[0].standing = Standing::Out;
    role.agent.table(out.clone());
    let address = role.agent.listen();
    role.agent.complete();
    role.agent.stats();
    let begun = Instant::now();
    assert_eq!(read_all(connect(address)).0, b"");
    assert!(begun.elapsed() >= patience);
    out.hopeful = false;
    role.agent.table(out);
    role.agent.stats();
    let begun = Instant::now();
    assert_eq!(read_all(connect(address)).0, b"");
    assert!(begun.elapsed() < patience, "{:?}", begun.elapsed());
    let refused = [("no_backend".to_owned(), 1), ("queue_timeout".to_owned(), 1)];
    role.agent.until("both are counted", |stats| stats.refused == refused && stats.active == 0);
}

#[test]
fn limit_of_connections_leaves_clients_in_the_backlog() {
    let limits = crate::engine::balance::plan::Limits { connections: 3, ..Rules::default().limits };
    let (role, address, replicas) = lab(1, Rules { limits, ..queueing() });
    let _clients: Vec<TcpStream> = (0..6).map(|_| connect(address)).collect();
    role.agent.until("three are in", |stats| stats.active == 3);
    for _ in 0..6 {
        let passed = replicas[0].wait();
        assert!(role.agent.stats()[0].active <= 3);
        replicas[0].acknowledge(&passed);
    }
    role.agent.until("all went through", |stats| {
        stats.active == 0 && stats.backends[0].connections == 6 && stats.accept_paused_ms > 0
    });
}

#[test]
fn fenced_replica_keeps_no_connection_and_hands_none_on() {
    let (role, address, replicas) = lab(2, rules());
    let mut client = connect(address);
    role.agent.until("it is passed", |stats| stats.backends[0].active == 1);
    let mut fenced = hand_off(2, rules());
    fenced.backends[0].standing = Standing::Fenced;
    role.agent.table(fenced);
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)));
    role.agent.until("nothing is left", |stats| stats.active == 0);
    assert!(replicas[1].take().is_none());
}

#[test]
fn draining_replica_has_drained_when_it_has_acknowledged_everything() {
    let (role, address, replicas) = lab(1, rules());
    let _client = connect(address);
    let passed = replicas[0].wait();
    let mut drain = hand_off(1, rules());
    drain.backends[0].standing = Standing::Draining;
    role.agent.table(drain.clone());
    role.agent.until("it has one", |stats| stats.backends[0].active == 1);
    replicas[0].acknowledge(&passed);
    role.agent.expect_drained("b/0");
    let second = role.another_agent();
    second.table(drain);
    second.complete();
    second.expect_drained("b/0");
}

#[test]
fn channels_outlive_the_agent_and_a_copy_that_comes_again_is_closed() {
    let (role, address, replicas) = lab(2, rules());
    let second = role.another_agent();
    second.table(hand_off(2, rules()));
    let order = ToProxy::HandOff { balancer: "lab".to_owned(), backend: "b/0".to_owned(), run: 1 };
    let (copy, other_end) = PacketSocket::pair().unwrap();
    second.order_with(&order, &[copy.as_fd()]);
    drop(copy);
    let named = ToProxy::Listen { balancer: "lab".to_owned(), address: Address::Tcp(address) };
    let socket: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    second.order_with(&named, &[socket.as_fd()]);
    second.complete();
    second.stats();
    let mut buffer = Vec::new();
    assert!(matches!(other_end.receive(&mut buffer).unwrap(), Received::Closed));
    let clients = [connect(address), connect(address)];
    for (replica, client) in replicas.iter().zip(&clients) {
        assert_eq!(replica.wait().stream.peer_addr().unwrap(), client.local_addr().unwrap());
    }
}

#[test]
fn living_replica_that_does_not_acknowledge_is_cut_when_its_time_to_drain_is_over() {
    let patience = Duration::from_millis(200);
    let rules = Rules { drain_timeout: patience, ..rules() };
    let (role, address, replicas) = lab(2, rules.clone());
    let mut client = connect(address);
    let _unacknowledged = replicas[0].wait();
    let mut drain = hand_off(2, rules);
    drain.backends[0].standing = Standing::Draining;
    drain.backends[0].cut = true;
    let begun = Instant::now();
    role.agent.table(drain.clone());
    role.agent.expect_drained("b/0");
    assert!(begun.elapsed() >= patience);
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)));
    assert!(replicas[1].take().is_none(), "two cannot serve one connection");
    // Taken back, it goes on over the same channel.
    drain.backends[0].standing = Standing::Up;
    role.agent.table(drain);
    let _clients = [connect(address), connect(address)];
    replicas[0].acknowledge(&replicas[0].wait());
}

#[test]
fn replica_that_answers_nonsense_harms_nobody() {
    let (role, address, replicas) = lab(1, rules());
    let _client = connect(address);
    let passed = replicas[0].wait();
    let file = std::fs::File::open("/dev/null").unwrap();
    for nonsense in [&b"1"[..], b"12345678", b"123456789", &[0; 4_096]] {
        assert!(replicas[0].0.send(nonsense, &[file.as_fd()]).unwrap());
    }
    role.agent.until("it is still held", |stats| stats.active == 1);
    replicas[0].acknowledge(&passed);
    replicas[0].acknowledge(&passed);
    role.agent.until("it is acknowledged once", |stats| stats.active == 0 && stats.backends[0].connections == 1);
}

#[test]
fn balancer_may_change_from_one_delivery_to_the_other() {
    let (role, address, replicas) = lab(1, rules());
    role.agent.table(table(&[name_server("proxied")], rules()));
    role.agent.stats();
    assert_eq!(answer(address), "proxied");
    role.agent.table(hand_off(1, rules()));
    role.agent.stats();
    let client = connect(address);
    assert_eq!(replicas[0].wait().stream.peer_addr().unwrap(), client.local_addr().unwrap());
}
