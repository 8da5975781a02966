//! Balancers: every rule with the text it answers with.

use std::net::IpAddr;

use expect_test::{Expect, expect};
use mainstay::config::explain;
use mainstay::engine::balance::plan::{Address, Algorithm, Destination, Key, NoneLeft, Replay, Rules};
use mainstay::engine::plan::{Listen, Plan};

use super::{Host, short};

/// Something to lead to: `api` (three replicas from port 9000 on), `sock` without a port, and a task.
const SERVICES: &str = "services: [\
    (name: \"api\", command: [\"true\", \"{port}\"], port: 9000, replicas: 3, ready: Tcp(\"127.0.0.1:{port}\")), \
    (name: \"sock\", command: [\"true\"], replicas: 2, user: \"api\", ready: Notify, listen: [\"tcp:127.0.0.1:{replica}00\"]), \
    (name: \"task\", command: [\"true\"], kind: Oneshot)]";

/// The findings about balancers, each on a line of its own from line 2 on.
fn balancers(text: &str, expected: &Expect) {
    let host = Host::new();
    let result = host.load_text(&format!("({SERVICES}, balancers: [\n{text}])"));
    expected.assert_eq(&short(&result, &host.root));
}

/// The findings about one balancer with these keys.
fn keys_of_balancer(text: &str, expected: &Expect) {
    balancers(&format!("(name: \"front\", listen: [\"tcp:0.0.0.0:80\"], to: \"api\",\n{text})"), expected);
}

fn plan(text: &str) -> Plan {
    let host = Host::new();
    let result = host.load_text(&format!("({SERVICES}, balancers: [{text}])"));
    result.unwrap_or_else(|found| panic!("{}", found[0])).plan
}

#[test]
fn the_least_balancer_has_the_defaults_of_the_engine() {
    let plan = plan("(name: \"front\", listen: [\"tcp:0.0.0.0:80\", \"unix:{run_dir}/{name}.sock\"], to: \"api\")");
    let front = &plan.balancers[0];
    assert_eq!(front.rules, Rules::default());
    let listen: Vec<String> = front.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["tcp:0.0.0.0:80", "unix:/run/mainstay/front.sock"]);
    let to = Destination::Service { name: "api".into(), socket: None, weights: Vec::new() };
    assert_eq!(front.to, to);
    assert_eq!(plan.agent.proxy_user.map(|user| (user.name, user.uid)), Some(("mainstay-proxy".to_owned(), 901)));
}

#[test]
fn every_key_arrives() {
    let plan = plan(
        "(name: \"far\", listen: [\"tcp:[::]:80\"], backends: [\"tcp:10.0.0.2:80\", \"unix:/run/x.sock\"], weights: [5], algorithm: Modulo, \
         key: HttpHeader(\"X-User\"), max_load: None, replay: Unanswered(max: \"8KiB\"), none_left: FailOpen, drain_timeout: \"0s\", \
         ramp: \"1s\", eject: (after: 0), connect_timeout: \"1s\", idle_timeout: \"2s\", half_closed_timeout: \"3s\", \
         first_bytes_timeout: \"4s\", max_connections: 5, max_per_source: 6, max_per_backend: 7, max_queued: 8, peek_bytes: \"1KiB\", \
         send_proxy: true, accept_proxy_from: [\"10.0.0.0/8\", \"fd00::1\"], access_log: true)",
    );
    let far = &plan.balancers[0];
    let to = |text: &str| text.parse().map(Address::Tcp).expect("an address");
    let backends = vec![(to("10.0.0.2:80"), 5), (Address::Unix("/run/x.sock".into()), 1)];
    assert_eq!(far.to, Destination::Backends(backends));
    let rules = &far.rules;
    assert_eq!((rules.algorithm, &rules.key), (Algorithm::Modulo, &Key::HttpHeader("X-User".into())));
    assert_eq!((rules.max_load_permille, rules.replay), (None, Replay::Unanswered { max_bytes: 8 << 10 }));
    assert_eq!((rules.none_left, rules.eject.after, rules.eject.max.as_secs()), (NoneLeft::FailOpen, 0, 30));
    let times = [rules.timeouts.connect, rules.timeouts.idle, rules.timeouts.half_closed, rules.timeouts.first_bytes];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 3, 4]);
    let limits = rules.limits;
    let counts = (limits.connections, limits.per_source, limits.per_backend, limits.queued, limits.peek_bytes);
    assert_eq!(counts, (5, Some(6), Some(7), 8, 1_024));
    let network = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert_eq!(rules.accept_proxy_from, [(network("10.0.0.0"), 8), (network("fd00::1"), 128)]);
    assert!(rules.send_proxy && rules.access_log);
}

#[test]
fn mistakes_of_types_are_all_found_at_once() {
    keys_of_balancer(
        "algoritm: Modulo, key: Src, max_load: 1.5, replay: Unanswered(max: 16), none_left: Queue(5), eject: (after: -1, bse: \"1s\"), weights: [\"1\"], delivery: Shard, send_proxy: yes, peek_bytes: \"4K\"",
        &expect![[r#"
            error test.ron:3:1 balancers[0].algoritm: unknown key `algoritm` (did you mean "algorithm"?)
            error test.ron:3:24 balancers[0].key: unknown word `Src`; expected Auto, SourceIp, SourceIpPort, PeerCred, TlsSni or HttpHeader
            error test.ron:3:39 balancers[0].max_load: 1.5 lacks a unit; write "1.5%"
            error test.ron:3:68 balancers[0].replay.max: 16 lacks a unit; write "16B"
            error test.ron:3:90 balancers[0].none_left: 5 lacks a unit; write "5s"
            error test.ron:3:109 balancers[0].eject.after: the number is out of range
            error test.ron:3:135 balancers[0].weights[0]: expected a whole number (write 1)
            error test.ron:3:151 balancers[0].delivery: unknown word `Shard`; expected Proxy, HandOff or Shared (did you mean Shared?)
            error test.ron:3:170 balancers[0].send_proxy: expected true or false
            error test.ron:3:187 balancers[0].peek_bytes: "4K" is not a size: there is no unit "K"; did you mean "4KiB"?
        "#]],
    );
    let host = Host::new();
    let result = host.load_text("(balancers: [(name: \"front\" listen: [])])");
    expect![[r#"
        error test.ron:1:29 balancers[0].listen: expected a comma before this
    "#]]
    .assert_eq(&short(&result, &host.root));
}

#[test]
fn names_and_what_is_missing() {
    balancers(
        "(),\n(name: \"Front End\", listen: [\"tcp:0.0.0.0:81\"], to: \"apj\"),\n(name: \"a\", listen: [\"tcp:0.0.0.0:82\"], to: \"api\"),\n(name: \"a\", listen: [\"tcp:0.0.0.0:83\"], to: \"api\", backends: [\"tcp:10.0.0.1:1\"]),\n(name: \"b\", listen: [\"tcp:0.0.0.0:84\"], backends: [])",
        &expect![[r#"
            error test.ron:2:1 balancers[0].name: the key `name` is missing or empty (each balancer needs a name such as "front")
            error test.ron:2:1 balancers[0].listen: the key `listen` is missing or empty (write where clients come in, such as ["tcp:0.0.0.0:8080"])
            error test.ron:2:1 balancers[0]: neither `to` nor `backends`: there is nobody to take the connections (to: "NAME" leads to the replicas of a service)
            error test.ron:3:8 balancers[1].name: "Front End" cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . - (write "front-end")
            error test.ron:3:53 balancers[1].to: there is no service "apj" (did you mean "api"?)
            error test.ron:5:8 balancers[3].name: there are two balancers "a" (the other one is at test.ron:4:8)
            error test.ron:5:45 balancers[3].to: `to` and `backends` exclude each other (remove one of them; two balancers can do both)
            error test.ron:6:51 balancers[4].backends: an empty list: there is nobody to take the connections
        "#]],
    );
}

#[test]
fn targets_and_their_addresses() {
    balancers(
        "(name: \"a\", listen: [\"tcp:0.0.0.0:81\"], to: \"task\"),\n(name: \"b\", listen: [\"tcp:0.0.0.0:82\"], to: \"sock\"),\n(name: \"c\", listen: [\"tcp:0.0.0.0:83\"], to: \"sock\", socket: \"/run/c.sock\"),\n(name: \"d\", listen: [\"tcp:0.0.0.0:84\"], to: \"sock\", socket: \"d.{replica}\"),\n(name: \"e\", listen: [\"tcp:0.0.0.0:85\"], to: \"sock\", socket: \"/run/{port}{replica}\"),\n(name: \"f\", listen: [\"tcp:0.0.0.0:86\"], to: \"sock\", socket: \"{service_dir}/{replica}\"),\n(name: \"g\", listen: [\"tcp:0.0.0.0:87\"], to: \"api\", weights: [1, 0, 257, 4]),\n(name: \"h\", listen: [\"tcp:0.0.0.0:88\"], backends: [\"tcp:web:80\", \"10.0.0.1:80\", \"tcp:0.0.0.0:80\", \"udp:10.0.0.1:80\", \"tcp:10.0.0.1:0\", \"tcp:10.0.0.1:80\", \"tcp:10.0.0.1:80\", \"unix:{service_dir}/x\"], weights: [1, 1, 1, 1, 1, 1, 1, 1, 1], socket: \"/x\", delivery: HandOff)",
        &expect![[r#"
            error test.ron:2:45 balancers[0].to: "task" is a task: it ends, and takes no connections (lead to a service with `kind: Daemon`)
            error test.ron:3:45 balancers[1].to: "sock" has no `port`, so nobody knows where its replicas accept (give "sock" a port, or the balancer a socket: "{service_dir}/{replica}.sock" that "sock" makes)
            error test.ron:4:61 balancers[2].socket: all 2 replicas of "sock" would have the same socket /run/c.sock (put {replica} into it)
            error test.ron:5:61 balancers[3].socket: "d.1" is not an absolute path (it must start with /)
            error test.ron:6:61 balancers[4].socket: `{port}` stands here, but "sock" has no `port`
            warning test.ron:7:61 balancers[5].socket: the proxy runs as mainstay-proxy and may not enter /run/mainstay/svc/sock: it could not connect (set umask: 0o007 for "sock", and `adduser mainstay-proxy GROUP` with the service's group)
            error test.ron:8:61 balancers[6].weights: 4 weights for 3 replicas of "api"
            error test.ron:8:65 balancers[6].weights[1]: 0 is no weight: they are 1 to 256 (`mainstay drain NAME/replica` takes one out)
            error test.ron:8:68 balancers[6].weights[2]: 257 is no weight: they are 1 to 256
            error test.ron:9:52 balancers[7].backends[0]: "web:80" is not a numeric address with a port (write "tcp:10.0.0.2:80" or "unix:/run/other.sock")
            error test.ron:9:66 balancers[7].backends[1]: "10.0.0.1:80" is no address: it starts with none of tcp: udp: unix: (write "tcp:10.0.0.2:80" or "unix:/run/other.sock")
            error test.ron:9:81 balancers[7].backends[2]: "tcp:0.0.0.0:80" is no address of a host (write "tcp:127.0.0.1:80")
            error test.ron:9:99 balancers[7].backends[3]: "udp:10.0.0.1:80": UDP has no connections to balance (write tcp: or unix:)
            error test.ron:9:118 balancers[7].backends[4]: port 0 is none
            error test.ron:9:155 balancers[7].backends[6]: "tcp:10.0.0.1:80" stands here twice (`weights` gives one a greater share)
            error test.ron:9:174 balancers[7].backends[7]: `{service_dir}` has no meaning here: it belongs to a replica (write "tcp:10.0.0.2:80" or "unix:/run/other.sock")
            error test.ron:9:208 balancers[7].weights: 9 weights for 8 backends
            error test.ron:9:245 balancers[7].socket: `socket` and `backends` exclude each other (remove one of them; two balancers can do both)
            warning test.ron:9:245 balancers[7].socket: `socket` has no effect with `delivery: HandOff`: the replica itself speaks with the client (remove it)
            error test.ron:9:261 balancers[7].delivery: `delivery: HandOff` needs replicas of our own (use `to`, or `delivery: Proxy`)
        "#]],
    );
}

#[test]
fn a_service_that_is_ready_too_early_is_pointed_out() {
    let host = Host::new();
    let result = host.load_text(
        "(services: [(name: \"api\", command: [\"true\", \"{port}\"], port: 9000)],\nbalancers: [(name: \"front\", listen: [\"tcp:0.0.0.0:80\"], to: \"api\")])",
    );
    expect![[r#"
        warning test.ron:2:61 balancers[0].to: "api" counts as ready as soon as its program runs, perhaps before it accepts (give "api" a check such as ready: Tcp("127.0.0.1:{port}"))
        accepted
    "#]].assert_eq(&short(&result, &host.root));
}

#[test]
fn listeners() {
    keys_of_balancer("", &expect!["accepted\n"]);
    balancers(
        "(name: \"a\", to: \"api\", listen: [\"tcp:localhost:80\", \"80\", \"udp:0.0.0.0:53\", \"unix:front.sock\", \"unix:/nosuch/front.sock\", \"unix:{service_dir}/x\", \"tcp:0.0.0.0:0\"])",
        &expect![[r#"
            error test.ron:2:33 balancers[0].listen[0]: "localhost:80" is not a numeric address with a port (write 127.0.0.1 or [::1] in place of localhost)
            error test.ron:2:53 balancers[0].listen[1]: "80" is no address: it starts with none of tcp: udp: unix: (write "tcp:0.0.0.0:8080" or "unix:{run_dir}/front.sock")
            error test.ron:2:59 balancers[0].listen[2]: "udp:0.0.0.0:53": UDP has no connections to balance (only `delivery: Shared` takes udp: every replica reads from it)
            error test.ron:2:77 balancers[0].listen[3]: "front.sock" is not an absolute path (it must start with /)
            warning test.ron:2:96 balancers[0].listen[4]: there is no directory /nosuch: clients cannot come in until there is
            error test.ron:2:123 balancers[0].listen[5]: `{service_dir}` has no meaning here: it belongs to a replica (write "tcp:0.0.0.0:8080" or "unix:{run_dir}/front.sock")
            error test.ron:2:147 balancers[0].listen[6]: port 0 is none
        "#]],
    );
}

#[test]
fn addresses_are_taken_once() {
    balancers(
        "(name: \"a\", to: \"api\", listen: [\"tcp:127.0.0.1:9002\", \"tcp:10.0.0.1:9002\", \"tcp:0.0.0.0:9003\", \"tcp:127.0.0.1:9003\"]),\n(name: \"b\", to: \"sock\", socket: \"{run_dir}/b.{replica}\", listen: [\"tcp:0.0.0.0:100\", \"unix:/run/mainstay/b.1\", \"tcp:[::]:9003\", \"tcp:127.0.0.2:9003\"])",
        &expect![[r#"
            error test.ron:2:33 balancers[0].listen[0]: tcp:127.0.0.1:9002 uses a `port` of service api (9000 to 9002) (a balancer needs a port of its own)
            warning test.ron:2:55 balancers[0].listen[1]: tcp:10.0.0.1:9002 uses a `port` of service api (9000 to 9002) (a balancer needs a port of its own)
            error test.ron:2:96 balancers[0].listen[3]: tcp:127.0.0.1:9003 is taken already, by balancer "a" (the other one is at test.ron:2:76)
            warning test.ron:3:33 balancers[1].socket: the proxy runs as mainstay-proxy and may not write the sockets of "sock" (umask 0o022): it could not connect (set umask: 0o007 for "sock", and `adduser mainstay-proxy GROUP` with the service's group)
            error test.ron:3:67 balancers[1].listen[0]: tcp:0.0.0.0:100 is taken already, by service "sock" (the other one is at test.ron:1:197)
            error test.ron:3:86 balancers[1].listen[1]: unix:/run/mainstay/b.1 is taken already, by replica sock/1 (the other one is at test.ron:1:121)
            error test.ron:3:129 balancers[1].listen[3]: tcp:127.0.0.2:9003 is taken already, by balancer "a" (the other one is at test.ron:2:76)
        "#]],
    );
}

#[test]
fn connections_must_not_run_in_a_circle() {
    balancers(
        "(name: \"a\", listen: [\"tcp:0.0.0.0:81\"], backends: [\"tcp:10.0.0.1:80\", \"tcp:127.0.0.1:81\"]),\n(name: \"b\", listen: [\"unix:/run/mainstay/b\"], backends: [\"tcp:127.0.0.1:83\"]),\n(name: \"c\", listen: [\"tcp:127.0.0.1:83\"], backends: [\"tcp:127.0.0.1:84\", \"unix:/run/mainstay/b\"]),\n(name: \"d\", listen: [\"tcp:127.0.0.1:84\"], to: \"api\")",
        &expect![[r#"
            error test.ron:2:71 balancers[0].backends[1]: connections would run in a circle: a -> a (remove this backend)
            error test.ron:3:58 balancers[1].backends[0]: connections would run in a circle: b -> c -> b (remove this backend)
        "#]],
    );
}

#[test]
fn ranges() {
    keys_of_balancer(
        "max_load: \"99%\", replay: Unanswered(max: \"1MiB\"), none_left: Queue(\"0s\"), ramp: \"2h\", eject: (after: 2000, base: \"1m\", max: \"1s\"),\nconnect_timeout: \"0s\", idle_timeout: \"0s\", half_closed_timeout: \"0s\", first_bytes_timeout: \"0s\", key: HttpHeader(\"X User\"),\nmax_connections: 0, max_per_source: 0, max_per_backend: 0, max_queued: 1000000, peek_bytes: \"1B\", accept_proxy_from: [\"10.0.0.1/8\", \"10.0.0.0/33\", \"host\"]",
        &expect![[r#"
            error test.ron:3:11 balancers[0].max_load: `max_load` 99% is below 100%: not all connections would find a place ("150%" of the mean, or None for no bound)
            error test.ron:3:26 balancers[0].replay: 1048576 bytes cannot be kept for a replay: 1B to 64KiB (Unanswered(max: "16KiB"), or Off)
            error test.ron:3:62 balancers[0].none_left: a queue in which nobody waits (write Refuse)
            error test.ron:3:81 balancers[0].ramp: `ramp` is at most 1h
            error test.ron:3:102 balancers[0].eject.after: more than 1000 failures in a row (0 is never)
            error test.ron:3:114 balancers[0].eject.base: `base` 1m is longer than `max` 1s
            error test.ron:4:18 balancers[0].connect_timeout: `connect_timeout` must be longer than 0s
            error test.ron:4:38 balancers[0].idle_timeout: `idle_timeout` must be longer than 0s
            error test.ron:4:65 balancers[0].half_closed_timeout: `half_closed_timeout` must be longer than 0s
            error test.ron:4:92 balancers[0].first_bytes_timeout: `first_bytes_timeout` must be longer than 0s
            error test.ron:4:103 balancers[0].key: "X User" is no name of an HTTP header (write HttpHeader("X-User"))
            error test.ron:5:18 balancers[0].max_connections: 0 connections: 1 to 1000000 are possible
            error test.ron:5:37 balancers[0].max_per_source: 0 would let nobody in (None is no limit)
            error test.ron:5:57 balancers[0].max_per_backend: 0 would let nobody in (None is no limit)
            error test.ron:5:72 balancers[0].max_queued: at most 100000 clients can wait
            error test.ron:5:93 balancers[0].peek_bytes: 1 bytes: 64B to 64KiB can be looked at
            warning test.ron:5:119 balancers[0].accept_proxy_from[0]: "10.0.0.1/8" is an address inside of the network 10.0.0.0/8, which is what counts (write "10.0.0.0/8")
            error test.ron:5:133 balancers[0].accept_proxy_from[1]: "10.0.0.0/33" is no network (write "10.0.0.0/8", "fd00::/8" or "192.0.2.7")
            error test.ron:5:148 balancers[0].accept_proxy_from[2]: "host" is no network (write "10.0.0.0/8", "fd00::/8" or "192.0.2.7")
        "#]],
    );
}

#[test]
fn what_means_nothing_together() {
    balancers(
        "(name: \"a\", listen: [\"tcp:0.0.0.0:81\"], to: \"api\", algorithm: RoundRobin, key: SourceIp, max_load: \"200%\", first_bytes_timeout: \"3s\", peek_bytes: \"1KiB\", max_queued: 0),\n(name: \"b\", listen: [\"tcp:0.0.0.0:82\"], to: \"api\", key: PeerCred),\n(name: \"c\", listen: [\"unix:/run/mainstay/c\"], to: \"api\", key: SourceIp),\n(name: \"d\", listen: [\"tcp:0.0.0.0:84\"], to: \"sock\", delivery: HandOff, socket: \"{service_dir}/{replica}\", replay: Off, send_proxy: true, idle_timeout: \"1m\", max_per_source: Some(3), key: TlsSni, accept_proxy_from: [\"10.0.0.0/8\"], peek_bytes: \"1KiB\"),\n(name: \"e\", listen: [\"udp:0.0.0.0:85\"], to: \"sock\", delivery: Shared, algorithm: RoundRobin, ramp: \"1s\", max_queued: 5)",
        &expect![[r#"
            warning test.ron:2:80 balancers[0].key: `key` has no effect with `algorithm: RoundRobin`, which goes by no key (remove it, or use Rendezvous)
            warning test.ron:2:100 balancers[0].max_load: `max_load` has no effect with `algorithm: RoundRobin`, which goes by no key (remove it, or use Rendezvous)
            warning test.ron:2:147 balancers[0].peek_bytes: `peek_bytes` has no effect: nobody looks at the first bytes (TlsSni and HttpHeader do, or remove it)
            warning test.ron:2:167 balancers[0].max_queued: `max_queued: 0` lets nobody wait, whatever `none_left` says (write none_left: Refuse)
            warning test.ron:3:57 balancers[1].key: no client has this key: only clients of a Unix socket have credentials, and none comes in by one (use Auto)
            warning test.ron:4:63 balancers[2].key: no client has this key: clients of a Unix socket have no address (use Auto)
            warning test.ron:5:80 balancers[3].socket: `socket` has no effect with `delivery: HandOff`: the replica itself speaks with the client (remove it)
            warning test.ron:5:132 balancers[3].send_proxy: `send_proxy` has no effect with `delivery: HandOff`: the replica itself speaks with the client (remove it)
            warning test.ron:5:152 balancers[3].idle_timeout: `idle_timeout` has no effect with `delivery: HandOff`: the replica itself speaks with the client (remove it)
            warning test.ron:5:174 balancers[3].max_per_source: `max_per_source` has no effect with `delivery: HandOff`: the replica itself speaks with the client (remove it)
            error test.ron:5:188 balancers[3].key: `delivery: HandOff` looks at no byte of a connection, so it has no such key (use SourceIp, or `delivery: Proxy`)
            error test.ron:5:215 balancers[3].accept_proxy_from: `delivery: HandOff` reads no PROXY header: the replica would find it in front of the request (remove it, or use `delivery: Proxy`)
            warning test.ron:5:243 balancers[3].peek_bytes: `peek_bytes` has no effect with `delivery: HandOff`: the replica itself speaks with the client (remove it)
            warning test.ron:6:82 balancers[4].algorithm: `algorithm` has no effect with `delivery: Shared`: each replica accepts from the shared socket by itself (remove it)
            warning test.ron:6:100 balancers[4].ramp: `ramp` has no effect with `delivery: Shared`: each replica accepts from the shared socket by itself (remove it)
            warning test.ron:6:118 balancers[4].max_queued: `max_queued` has no effect with `delivery: Shared`: each replica accepts from the shared socket by itself (remove it)
        "#]],
    );
}

#[test]
fn shared_listeners_become_sockets_of_the_service() {
    let plan = plan(
        "(name: \"dns\", listen: [\"udp:0.0.0.0:53\", \"tcp:0.0.0.0:53\"], to: \"sock\", delivery: Shared), (name: \"more\", listen: [\"unix:{run_dir}/more.sock\"], to: \"sock\", delivery: Shared)",
    );
    let sock = &plan.services[1].process.listen;
    let own = Listen::Tcp("127.0.0.1:{replica}00".into());
    let more = Listen::Unix("/run/mainstay/more.sock".into());
    assert_eq!(*sock, [own, Listen::Udp("0.0.0.0:53".into()), Listen::Tcp("0.0.0.0:53".into()), more]);
}

#[test]
fn the_proxy_has_a_user_of_its_own() {
    let host = Host::new();
    let front = "balancers: [(name: \"far\", listen: [\"tcp:0.0.0.0:80\"], backends: [\"tcp:10.0.0.1:80\"])]";
    let load = |user: &str, uid| {
        let text = format!("(agent: (proxy_user: \"{user}\"), {front})");
        mainstay::config::load_text("test.ron", &text, &host.context(uid))
    };
    let uid = |user: &str| load(user, 0).expect("accepted").plan.agent.proxy_user.map(|user| user.uid);
    assert_eq!((uid("mainstay-proxy"), uid("nobody"), uid("nosuch")), (Some(901), Some(65_534), Some(65_533)));
    let mut all = String::new();
    for (user, uid) in [("mainstay-proxy", 0), ("mainstay-prox", 0), ("root", 0), ("api", 900)] {
        all.push_str(&format!("{user}:\n{}", short(&load(user, uid), &host.root)));
    }
    expect![[r#"
        mainstay-proxy:
        accepted
        mainstay-prox:
        warning test.ron:1:22 agent.proxy_user: there is no user "mainstay-prox": the proxy runs as uid 65533, which nobody else uses (did you mean "mainstay-proxy"?)
        note test.ron:1:59 balancers[0]: the proxy runs as uid 65533, which nobody else uses: it has no user on this host (adduser --system --group mainstay-proxy)
        accepted
        root:
        error test.ron:1:22 agent.proxy_user: the proxy speaks with strangers and must not run as "root", which is root (adduser --system --group mainstay-proxy)
        api:
        warning test.ron:1:22 agent.proxy_user: only an agent that runs as root can run the proxy as another user (remove `proxy_user`)
        accepted
    "#]].assert_eq(&all);
    host.file("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/bash\nother:x:65533:900::/:/bin/sh\n");
    let result = host.load_text(&format!("({front})"));
    assert_eq!(
        result.as_ref().map(|loaded| loaded.plan.agent.proxy_user.as_ref().map(|user| user.uid)),
        Ok(Some(65_532))
    );
    expect![[r#"
        note test.ron:1:21 balancers[0]: the proxy runs as uid 65532, which nobody else uses: it has no user on this host (adduser --system --group mainstay-proxy)
        accepted
    "#]].assert_eq(&short(&result, &host.root));
}

#[test]
fn included_files_bring_balancers() {
    let host = Host::new();
    let main = host.file("/main.ron", 0o644, &format!("(include: [\"conf.d/*.ron\"], {SERVICES})"));
    let text = "(balancers: [(name: \"front\", listen: [\"tcp:0.0.0.0:80\"], to: \"api\")])";
    host.file("/conf.d/front.ron", 0o644, text);
    let loaded = mainstay::config::load(&main, &host.context(host.own_uid()));
    let names = |plan: &Plan| plan.balancers.iter().map(|plan| plan.name.clone()).collect::<Vec<_>>();
    // Users of the services are looked up, and only root may start another one.
    if host.own_uid() == 0 {
        assert_eq!(names(&loaded.expect("accepted").plan), ["front"]);
    } else {
        assert!(loaded.is_err());
    }
}

#[test]
fn an_explanation_shows_balancers() {
    let plan = plan(
        "(name: \"front\", listen: [\"tcp:0.0.0.0:80\", \"unix:{run_dir}/front.sock\"], to: \"api\", weights: [1, 2], replay: Unanswered(max: \"16KiB\")), (name: \"far\", listen: [\"tcp:0.0.0.0:81\"], backends: [\"tcp:10.0.0.2:80\", \"tcp:10.0.0.3:80\"], weights: [3], algorithm: LeastConnections, eject: (after: 0), send_proxy: true, accept_proxy_from: [\"10.0.0.0/8\"], max_per_source: 10, access_log: true), (name: \"dns\", listen: [\"udp:0.0.0.0:53\"], to: \"sock\", delivery: Shared)",
    );
    let text = explain(&plan);
    let from = text.find("balancer front").expect("told");
    assert!(text.contains("  proxy_user         mainstay-proxy (uid 901, gid 901)\n"), "{text}");
    expect![[r#"
        balancer front
          listen             tcp:0.0.0.0:80, unix:/run/mainstay/front.sock
          to                 the replicas of api
          weights            1, 2
          delivery           Proxy: the proxy moves the bytes
          algorithm          Rendezvous by the client's address, if it has one that tells it apart, at most 150% of the mean load
          none_left          clients wait 5s, 1024 at most
          drain_timeout      10s
          ramp               10s
          eject              after 3 failures in a row, for 1s, doubling up to 30s
          replay             what is unanswered, up to 16KiB
          timeouts           connect 3s, idle 1h, half closed 30s
          limits             100000 connections

        balancer far
          listen             tcp:0.0.0.0:81
          backends           tcp:10.0.0.2:80 (weight 3), tcp:10.0.0.3:80
          delivery           Proxy: the proxy moves the bytes
          algorithm          LeastConnections
          none_left          clients wait 5s, 1024 at most
          drain_timeout      10s
          ramp               10s
          eject              never
          replay             Off
          timeouts           connect 3s, idle 1h, half closed 30s
          send_proxy         PROXY v2
          limits             100000 connections, 10 of one client
          first bytes        up to 4KiB within 3s
          accept_proxy_from  10.0.0.0/8
          access_log         one line a connection

        balancer dns
          listen             udp:0.0.0.0:53
          to                 the replicas of sock
          delivery           Shared: every replica inherits the sockets (LISTEN_FDS)
    "#]].assert_eq(&text[from..]);
}
