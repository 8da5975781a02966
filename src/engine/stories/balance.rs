//! Balancers: who is offered when, and how replicas leave without cutting a connection.

use std::time::Duration;

use crate::engine::action::{Action, Effect};
use crate::engine::balance::plan::{Address, BalancerPlan, Delivery, Destination};
use crate::engine::balance::table::Table;
use crate::engine::event::{Caller, Decision, Event, FoundProcess, Verb, Wait, Wanted};
use crate::engine::plan::{Alive, Launch, Listen, Plan, Readiness, Role, ServicePlan};
use crate::engine::testkit::{Kit, balancer, ms, service, tcp};
use crate::engine::types::{RunId, StateName, Time};

fn replicated(replicas: u16) -> ServicePlan {
    ServicePlan { replicas, port: Some(9_000), ..service("api") }
}

/// `api` with so many replicas behind `front`, all up.
fn up(replicas: u16) -> Kit {
    let mut kit = Kit::balanced(vec![replicated(replicas)], vec![balancer("front", "api")]);
    for index in 0..replicas {
        kit.exec(&format!("api/{index}"));
    }
    kit
}

fn tables(kit: &Kit) -> Vec<Table> {
    kit.last
        .iter()
        .filter_map(|action| if let Action::Balance { table } = action { Some((**table).clone()) } else { None })
        .collect()
}

fn reload(kit: &mut Kit, services: Vec<ServicePlan>, balancers: Vec<BalancerPlan>) -> Vec<String> {
    let plan = Box::new(Plan { balancers, ..Kit::plan(services) });
    let preview = kit.engine.preview(&plan);
    let told: Vec<String> = preview
        .iter()
        .filter(|change| change.effect != Effect::Unchanged)
        .map(|change| format!("{} {}: {}", change.effect.word(), change.service, change.why))
        .collect();
    kit.step(Event::Reload { request: None, caller: Caller::Agent, plan });
    told
}

#[test]
fn a_replica_is_offered_when_it_is_ready_and_out_when_it_ends() {
    let mut kit = Kit::balanced(vec![replicated(2)], vec![balancer("front", "api")]);
    assert_eq!(kit.words()[0], "balance front: api/0 Out, api/1 Out", "tables come before what else the step brings");
    assert_eq!(kit.exec("api/1"), ["balance front: api/0 Out, api/1 Up"]);
    let table = tables(&kit).remove(0);
    assert_eq!(table.backends[1].address, Address::Tcp("127.0.0.1:9001".parse().expect("an address")));
    assert!(table.hopeful, "api/0 starts");
    assert_eq!(kit.exec("api/0"), ["balance front: api/0 Up, api/1 Up"]);
    assert!(!tables(&kit)[0].hopeful);
    let words = kit.exit("api/0", 1);
    assert_eq!(words, ["balance front: api/0 Out, api/1 Up", "release api/0"]);
    assert!(tables(&kit)[0].hopeful, "it will be started again");
}

#[test]
fn ready_times_alone_are_no_news_but_a_new_proxy_is_told_them() {
    let mut kit = up(1);
    assert!(kit.pass(Duration::from_secs(7)).is_empty());
    let told = kit.engine.tables(kit.now);
    assert_eq!((told.len(), told[0].backends[0].ready_for), (1, Duration::from_secs(7)));
}

#[test]
fn a_degraded_replica_is_marked_and_one_that_is_not_alive_is_out_at_once() {
    let mut api = replicated(1);
    api.alive = Some(Box::new(Alive { probe: tcp(), every: ms(1_000), timeout: ms(500), fall: 2, rise: 1 }));
    let mut kit = Kit::balanced(vec![api], vec![balancer("front", "api")]);
    kit.exec("api");
    kit.pass(ms(1_000));
    assert_eq!(kit.answer("api", Err("connection refused")), ["balance front: api/0 Degraded"]);
    assert!(tables(&kit)[0].hopeful, "it may recover");
    kit.pass(ms(1_000));
    let words = kit.answer("api", Err("connection refused"));
    assert_eq!(words, ["balance front: api/0 Out", "SIGABRT to main of api/0"], "no drain for what is not alive");
}

#[test]
fn a_stop_drains_first_and_goes_on_when_the_last_connection_has_ended() {
    let mut kit = up(2);
    let words = kit.command(Verb::Stop, "api/0");
    assert_eq!(words, ["balance front: api/0 Draining, api/1 Up", "decide api Down"], "no signal yet");
    kit.persist();
    assert_eq!(kit.state("api/0"), StateName::Stopping);
    let why = kit.engine.service("api", kit.now).and_then(|view| view.replicas[0].why.clone());
    let expected = "stopped by an operator, draining: waiting for connections to end, at most 10s";
    assert_eq!(why.as_deref(), Some(expected));
    kit.pass(Duration::from_secs(3));
    let words = kit.drained("front", "api/0");
    assert_eq!(words, ["balance front: api/0 Out, api/1 Up", "SIGTERM to main of api/0"]);
    assert_eq!(kit.exit("api/0", 0), ["release api/0", "answer 1: done"]);
}

#[test]
fn connections_that_do_not_end_are_cut_after_the_longest_drain_timeout() {
    let mut slow = balancer("slow", "api");
    slow.rules.drain_timeout = Duration::from_secs(30);
    let mut kit = Kit::balanced(vec![replicated(1)], vec![balancer("front", "api"), slow]);
    kit.exec("api");
    kit.command(Verb::Stop, "api");
    kit.persist();
    assert!(kit.drained("front", "api").is_empty());
    assert!(kit.pass(ms(29_999)).is_empty());
    let words = kit.pass(ms(1));
    assert_eq!(words, ["balance front: api/0 Out", "balance slow: api/0 Out", "SIGTERM to main of api/0"]);
    let note = "service api: not drained: connections from slow have not ended within 30s; they are cut by its stop";
    assert!(kit.notes().iter().any(|line| line == note), "{:?}", kit.notes());
}

#[test]
fn a_second_stop_does_not_wait_for_connections() {
    let mut kit = up(1);
    kit.command(Verb::Stop, "api");
    let words = kit.command(Verb::Stop, "api");
    assert!(words.contains(&"SIGTERM to main of api/0".to_owned()), "{words:?}");
}

#[test]
fn connections_end_with_the_proxy() {
    let mut proxy = ServicePlan::with_defaults(Role::Proxy.service_name(), &[]);
    proxy.launch = Launch::Role(Role::Proxy);
    let mut kit = Kit::balanced(vec![proxy, replicated(2)], vec![balancer("front", "api")]);
    for name in ["@proxy", "api/0", "api/1"] {
        kit.exec(name);
    }
    kit.command(Verb::Stop, "api/0");
    kit.command(Verb::Drain, "api/1");
    kit.persist();
    let words = kit.exit("@proxy", 1);
    assert!(words.contains(&"SIGTERM to main of api/0".to_owned()), "{words:?}");
    assert!(words.contains(&"answer 2: done".to_owned()), "{words:?}");
}

#[test]
fn a_process_that_ends_while_it_drains_is_no_failure() {
    let mut kit = up(1);
    kit.command(Verb::RestartRolling, "api");
    let words = kit.exit("api", 1);
    assert_eq!(words, ["balance front: api/0 Out", "release api/0", "spawn api/0 run 2"]);
    assert_eq!(kit.memory("api").failures, 0);
}

#[test]
fn what_never_served_is_not_drained() {
    let mut api = replicated(1);
    api.ready = Readiness::Notify;
    let mut kit = Kit::balanced(vec![api], vec![balancer("front", "api")]);
    kit.exec("api");
    assert!(kit.command(Verb::Stop, "api").contains(&"SIGTERM to main of api/0".to_owned()));
    let mut shared = balancer("front", "api");
    shared.delivery = Delivery::Shared;
    let mut kit = Kit::balanced(vec![replicated(1)], vec![shared]);
    assert!(kit.exec("api").is_empty(), "an inherited socket has no table");
    assert!(kit.command(Verb::Stop, "api").contains(&"SIGTERM to main of api/0".to_owned()));
}

#[test]
fn a_rolling_restart_drains_each_replica_and_waits_until_it_is_back() {
    let mut kit = up(2);
    assert_eq!(kit.command(Verb::RestartRolling, "api"), ["balance front: api/0 Draining, api/1 Up"]);
    assert!(tables(&kit)[0].hopeful);
    kit.drained("front", "api/0");
    assert_eq!(
        kit.exit("api/0", 0),
        ["balance front: api/0 Out, api/1 Up", "release api/0", "spawn api/0 run 2"],
        "another run is another process"
    );
    assert_eq!(kit.exec("api/0"), ["balance front: api/0 Up, api/1 Draining"]);
    kit.drained("front", "api/1");
    kit.exit("api/1", 0);
    assert_eq!(kit.exec("api/1"), ["balance front: api/0 Up, api/1 Up", "answer 1: done"]);
}

#[test]
fn the_last_replica_drains_too_and_new_clients_may_hope() {
    let mut kit = up(1);
    kit.command(Verb::RestartRolling, "api");
    assert!(tables(&kit)[0].hopeful, "it comes back");
    let mut kit = up(1);
    kit.command(Verb::Stop, "api");
    assert!(!tables(&kit)[0].hopeful, "it does not");
}

#[test]
fn what_its_dependents_need_is_served_until_they_are_gone() {
    let mut web = service("web");
    web.requires = vec!["api".to_owned()];
    let mut kit = Kit::balanced(vec![replicated(1), web], vec![balancer("front", "api")]);
    kit.exec("api");
    kit.exec("web");
    assert_eq!(kit.step(Event::Shutdown { caller: Caller::Agent }), ["SIGTERM to main of web/0"]);
    assert_eq!(kit.exit("web", 0), ["balance front: api/0 Draining", "release web/0"]);
    assert_eq!(kit.drained("front", "api"), ["balance front: api/0 Out", "SIGTERM to main of api/0"]);
    assert_eq!(kit.exit("api", 0), ["release api/0", "exit Clean"]);
}

#[test]
fn a_shutdown_that_begins_during_a_drain_keeps_its_order() {
    let mut web = service("web");
    web.requires = vec!["api".to_owned()];
    let mut kit = Kit::balanced(vec![replicated(1), web], vec![balancer("front", "api")]);
    kit.exec("api");
    kit.exec("web");
    kit.command(Verb::RestartRolling, "api");
    kit.step(Event::Shutdown { caller: Caller::Agent });
    assert_eq!(kit.drained("front", "api"), ["balance front: api/0 Up"], "web still needs it");
    assert_eq!(kit.exit("web", 0), ["balance front: api/0 Draining", "release web/0"]);
}

#[test]
fn the_deadline_of_a_shutdown_is_above_every_drain() {
    let mut front = balancer("front", "api");
    front.rules.drain_timeout = Duration::from_secs(600);
    let mut kit = Kit::balanced(vec![replicated(1)], vec![front]);
    kit.exec("api");
    kit.step(Event::Shutdown { caller: Caller::Agent });
    assert_eq!(kit.pass(Duration::from_secs(90)), ["balance front: api/0 Out", "kill api/0"]);
}

#[test]
fn a_drained_replica_runs_on_without_connections_until_it_is_brought_back() {
    let mut kit = up(2);
    let words = kit.command(Verb::Drain, "api/0");
    assert_eq!(words, ["balance front: api/0 Draining, api/1 Up", "decide api Up drained"]);
    assert!(kit.persist().is_empty(), "the last connection has not ended");
    assert_eq!(kit.drained("front", "api/0"), ["answer 1: done"]);
    assert_eq!(kit.state("api/0"), StateName::Ready);
    let view = kit.engine.service("api", kit.now).expect("known");
    assert_eq!((view.replicas[0].drained, view.why.clone()), (true, None));
    let why = "drained by an operator: takes no connections until `undrain`";
    assert_eq!(view.replicas[0].why.as_deref(), Some(why));

    assert_eq!(kit.exit("api/0", 1)[0], "balance front: api/0 Out, api/1 Up");
    kit.pass(ms(100));
    assert_eq!(kit.exec("api/0"), ["balance front: api/0 Draining, api/1 Up"], "a new run stays drained");
    let words = kit.command(Verb::Undrain, "api/0");
    assert_eq!(words, ["balance front: api/0 Up, api/1 Up", "decide api Up"]);
    assert_eq!(kit.persist(), ["answer 2: done"]);
}

#[test]
fn a_drain_that_is_not_over_in_time_is_a_failure_but_stays_decided() {
    let mut kit = up(1);
    kit.command(Verb::Drain, "api");
    kit.persist();
    let words = kit.pass(Duration::from_secs(10));
    let expected = "answer 1: failed, api takes no new connection, but connections from front have not ended within 10s; \
                    `mainstay balancers` counts them";
    assert_eq!(words, [expected]);
    assert!(kit.memory("api").drained);
    kit.command_waiting(Verb::Drain, "api", Wait::Decision);
    assert_eq!(kit.persist(), ["answer 2: done"], "the decision alone is quick");
    kit.command(Verb::Drain, "api");
    let words = kit.command(Verb::Undrain, "api");
    assert!(words.contains(&"answer 3: conflict, a later `undrain` of api came first".to_owned()), "{words:?}");
    assert_eq!(kit.engine.next_deadline().map(|at| at.since(kit.now.mono)), Some(Duration::from_secs(2)));
}

#[test]
fn connections_are_reset_for_a_stop_but_never_for_a_drain_by_hand() {
    let mut kit = up(1);
    let cuts = |kit: &Kit| tables(kit).iter().map(|table| table.backends[0].cut).collect::<Vec<_>>();
    kit.command(Verb::Drain, "api");
    assert_eq!(cuts(&kit), [false]);
    kit.persist();
    kit.pass(Duration::from_secs(10));
    kit.command(Verb::Stop, "api");
    assert_eq!(cuts(&kit), [true], "the same standing, and yet another table");
}

#[test]
fn who_is_drained_already_is_stopped_without_another_drain() {
    let mut kit = up(1);
    kit.command(Verb::Drain, "api");
    kit.drained("front", "api");
    let words = kit.command(Verb::Stop, "api");
    assert_eq!(words, ["balance front: api/0 Out", "decide api Down drained", "SIGTERM to main of api/0"]);
    kit.exit("api", 0);
    kit.command(Verb::Start, "api");
    assert_eq!(kit.exec("api")[0], "balance front: api/0 Draining", "a start is no undrain");
}

#[test]
fn nothing_can_be_drained_that_no_balancer_leads_to() {
    let mut kit = Kit::new(vec![service("api")]);
    let words = kit.command(Verb::Drain, "api");
    assert!(words[0].starts_with("answer 1: conflict, no balancer leads to api"), "{words:?}");
}

#[test]
fn drains_by_hand_hold_over_a_reboot() {
    let drained =
        |replica| Decision { service: "api".into(), replica, wanted: Wanted::Up, drained: true, ..Decision::default() };
    let plan = Plan { balancers: vec![balancer("front", "api")], ..Kit::plan(vec![replicated(2)]) };
    let begin = |decisions| Kit::begin_with(Time(1_000_000_000_000), plan.clone(), Vec::new(), decisions);
    let mut kit = begin(vec![drained(Some(1))]);
    kit.exec("api/0");
    assert_eq!(kit.exec("api/1"), ["balance front: api/0 Up, api/1 Draining"]);
    let back = Decision { drained: false, ..drained(Some(0)) };
    let mut kit = begin(vec![drained(None), back.clone()]);
    assert!(!kit.engine.is_implied(&back), "without it the word about the whole service would count");
    kit.exec("api/0");
    assert_eq!(kit.exec("api/1"), ["balance front: api/0 Up, api/1 Draining"]);
    kit.command(Verb::Undrain, "api");
    assert!(kit.engine.is_implied(&back));
}

#[test]
fn old_decisions_can_still_be_read() {
    let text = r#"{"service":"api","replica":1,"wanted":"down"}"#;
    let expected = Decision {
        service: "api".into(),
        replica: Some(1),
        wanted: Wanted::Down,
        drained: false,
        ..Decision::default()
    };
    assert_eq!(serde_json::from_str::<Decision>(text).expect("as before"), expected);
}

#[test]
fn the_next_agent_resumes_a_drain_with_the_time_that_is_left() {
    let mut kit = up(1);
    kit.command(Verb::Stop, "api");
    kit.pass(Duration::from_secs(4));
    let plan = Plan { balancers: vec![balancer("front", "api")], ..Kit::plan(vec![replicated(1)]) };
    let found = vec![kit.found("api", FoundProcess::Alive { pid: 100 })];
    let later = kit.now.mono.after(Duration::from_secs(1));
    let mut next = Kit::begin_with(later, plan.clone(), found.clone(), Vec::new());
    assert_eq!(next.words(), ["balance front: api/0 Draining"]);
    assert!(next.pass(ms(4_999)).is_empty());
    assert_eq!(next.pass(ms(1)), ["balance front: api/0 Out", "SIGTERM to main of api/0"]);

    let mut quick = Kit::begin_with(later, plan.clone(), found.clone(), Vec::new());
    assert_eq!(quick.drained("front", "api"), ["balance front: api/0 Out", "SIGTERM to main of api/0"]);
    let late = Kit::begin_with(kit.now.mono.after(Duration::from_secs(60)), plan, found, Vec::new());
    assert_eq!(late.words(), ["balance front: api/0 Out", "SIGTERM to main of api/0"]);
}

#[test]
fn late_words_of_the_proxy_are_dropped_and_counted() {
    let mut kit = up(1);
    let stale = kit.engine.counters().stale_events;
    kit.drained("front", "api");
    kit.command(Verb::Stop, "api");
    kit.drained("nobody", "api");
    let replica = kit.id("api");
    kit.step(Event::Drained { balancer: "front".into(), replica, run: RunId(0) });
    kit.step(Event::Ejected { balancer: "front".into(), backend: "api/7".into(), out: None });
    kit.step(Event::Ejected { balancer: "front".into(), backend: "api/0".into(), out: None });
    assert_eq!(kit.engine.counters().stale_events, stale + 5);
    assert_eq!(kit.state("api"), StateName::Stopping, "and it still drains");
}

#[test]
fn an_ejection_is_told_once_and_again_only_after_it_was_over() {
    let mut kit = up(2);
    let eject = |kit: &mut Kit, out: Option<(&str, u64)>| {
        let out = out.map(|(why, seconds)| (why.to_owned(), Duration::from_secs(seconds)));
        kit.step(Event::Ejected { balancer: "front".into(), backend: "api/1".into(), out });
        kit.notes()
    };
    let note = "service api/1: kept out of balancer front for 1s: 3 connects refused";
    assert_eq!(eject(&mut kit, Some(("3 connects refused", 1))), [note]);
    eject(&mut kit, Some(("3 connects refused", 2)));
    let why = |kit: &Kit| kit.engine.service("api", kit.now).expect("known").replicas[1].why.clone();
    let text = "balancer front gives it no connections for 2s more (2 times in a row): 3 connects refused";
    assert_eq!(why(&kit).as_deref(), Some(text));
    let causes: Vec<String> = kit.memory("api/1").causes.iter().map(|cause| cause.text.clone()).collect();
    assert_eq!(causes[1..], [note], "the second is in the debug log only");
    assert_eq!(eject(&mut kit, None), ["service api/1: back in balancer front, it answers again"]);
    assert_eq!(why(&kit), None);
}

#[test]
fn fixed_backends_are_always_up_and_named_by_their_address() {
    let mut far = balancer("far", "api");
    let address = Address::Tcp("10.0.0.2:80".parse().expect("an address"));
    far.to = Destination::Backends(vec![(address, 5)]);
    let mut kit = Kit::balanced(vec![service("api")], vec![far]);
    assert_eq!(kit.words()[0], "balance far: tcp:10.0.0.2:80 Up");
    let out = Some(("connection refused".to_owned(), Duration::from_secs(1)));
    kit.step(Event::Ejected { balancer: "far".into(), backend: "tcp:10.0.0.2:80".into(), out });
    assert_eq!(kit.notes(), ["agent: tcp:10.0.0.2:80 is kept out of balancer far for 1s: connection refused"]);
}

#[test]
fn unix_backends_have_a_socket_each() {
    let mut front = balancer("front", "api");
    let socket = Some("{service_dir}/{replica}.sock".to_owned());
    front.to = Destination::Service { name: "api".into(), socket, weights: vec![1, 3] };
    let mut plan = Plan { balancers: vec![front], ..Kit::plan(vec![replicated(2)]) };
    plan.agent.run_dir = "/run/mainstay".into();
    let kit = Kit::begin_with(Time(1_000_000_000_000), plan, Vec::new(), Vec::new());
    let table = tables(&kit).remove(0);
    assert_eq!(table.backends[1].address, Address::Unix("/run/mainstay/svc/api/1.sock".into()));
    assert_eq!(table.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_reload_changes_balancers_without_touching_a_replica() {
    let mut kit = up(1);
    let mut front = balancer("front", "api");
    front.rules.ramp = Duration::ZERO;
    front.rules.limits.queued = 1;
    front.to = Destination::Service { name: "api".into(), socket: None, weights: vec![2] };
    let told = reload(&mut kit, vec![replicated(1)], vec![front.clone(), balancer("back", "api")]);
    assert_eq!(told, ["live balancer front: weights, ramp, max_queued", "start balancer back: new"]);
    assert_eq!(kit.words(), ["balance back: api/0 Up", "balance front: api/0 Up"]);
    let told = reload(&mut kit, vec![replicated(1)], vec![front]);
    assert_eq!(told, ["stop balancer back: no longer configured"]);
    assert_eq!(kit.words(), ["unbalance back"]);
}

#[test]
fn what_leaves_the_configuration_with_its_balancer_drains_all_the_same() {
    let mut kit = up(2);
    reload(&mut kit, vec![replicated(1)], vec![balancer("front", "api")]);
    assert_eq!(kit.words(), ["balance front: api/0 Up, api/1 Draining"]);
    kit.drained("front", "api/1");
    kit.exit("api/1", 0);
    assert_eq!(kit.engine.tables(kit.now)[0].backends.len(), 1);

    reload(&mut kit, Vec::new(), Vec::new());
    assert_eq!(kit.words(), ["balance front: api/0 Draining"]);
    let words = kit.drained("front", "api/0");
    assert_eq!(words, ["unbalance front", "SIGTERM to main of api/0"]);
}

#[test]
fn a_balancer_that_turns_to_another_service_lets_go_of_the_old_one() {
    let mut kit = up(1);
    let other = ServicePlan { port: Some(9_100), ..service("other") };
    reload(&mut kit, vec![other.clone()], vec![balancer("front", "other")]);
    assert_eq!(kit.words()[0], "balance front: other/0 Out, api/0 Draining");
    assert_eq!(kit.drained("front", "api/0")[0], "balance front: other/0 Out");
}

#[test]
fn a_new_port_counts_from_the_next_run_on() {
    let mut kit = up(2);
    let moved = ServicePlan { port: Some(7_000), ..replicated(2) };
    reload(&mut kit, vec![moved], vec![balancer("front", "api")]);
    let addresses = |kit: &Kit| {
        let table = kit.engine.tables(kit.now).remove(0);
        table.backends.iter().map(|backend| backend.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&kit), ["tcp:127.0.0.1:9000", "tcp:127.0.0.1:9001"]);
    kit.drained("front", "api/0");
    kit.exit("api/0", 0);
    kit.exec("api/0");
    assert_eq!(addresses(&kit), ["tcp:127.0.0.1:7000", "tcp:127.0.0.1:9001"]);
}

#[test]
fn a_new_socket_counts_from_the_next_run_on() {
    let by = |socket: Option<&str>| {
        let to = Destination::Service { name: "api".into(), socket: socket.map(str::to_owned), weights: Vec::new() };
        BalancerPlan { to, ..balancer("front", "api") }
    };
    let mut kit = Kit::balanced(vec![replicated(2)], vec![by(Some("/run/old.{replica}"))]);
    kit.exec("api/0");
    kit.exec("api/1");
    let addresses = |kit: &Kit| {
        let table = kit.engine.tables(kit.now).remove(0);
        table.backends.iter().map(|backend| backend.address.to_string()).collect::<Vec<_>>()
    };
    let told = reload(&mut kit, vec![replicated(2)], vec![by(Some("/run/new.{replica}"))]);
    let expected = "live balancer front: socket (the socket counts from the next run on: `mainstay restart api`)";
    assert_eq!(told, [expected]);
    assert_eq!(addresses(&kit), ["unix:/run/old.0", "unix:/run/old.1"]);
    kit.exit("api/0", 1);
    kit.pass(ms(100));
    kit.exec("api/0");
    assert_eq!(addresses(&kit), ["unix:/run/new.0", "unix:/run/old.1"]);
    reload(&mut kit, vec![replicated(2)], vec![by(None)]);
    assert_eq!(addresses(&kit), ["unix:/run/new.0", "unix:/run/old.1"]);
    kit.exit("api/0", 1);
    kit.pass(Duration::from_secs(1));
    kit.exec("api/0");
    assert_eq!(addresses(&kit), ["tcp:127.0.0.1:9000", "unix:/run/old.1"]);
}

/// Found by the simulation: what the proxy had said was kept for ever.
#[test]
fn a_drained_replica_whose_balancer_leaves_ends_like_any_other() {
    let mut kit = up(1);
    kit.command(Verb::Drain, "api");
    kit.persist();
    kit.drained("front", "api");
    reload(&mut kit, vec![replicated(1)], Vec::new());
    assert_eq!(kit.words(), ["unbalance front"]);
    assert_eq!(kit.exit("api", 1), ["release api/0"]);
    let words = kit.command(Verb::Undrain, "api");
    assert_eq!(words, ["decide api Up"], "what is drained can be brought back without a balancer");
}

/// `@proxy` and `api` with so many replicas behind `front`, all up.
fn up_with_proxy(replicas: u16) -> Kit {
    let mut proxy = ServicePlan::with_defaults(Role::Proxy.service_name(), &[]);
    proxy.launch = Launch::Role(Role::Proxy);
    let mut kit = Kit::balanced(vec![proxy, replicated(replicas)], vec![balancer("front", "api")]);
    kit.exec("@proxy");
    for index in 0..replicas {
        kit.exec(&format!("api/{index}"));
    }
    kit
}

/// As a reload to `delivery: Shared` makes them.
fn sharing(replicas: u16) -> (Vec<ServicePlan>, Vec<BalancerPlan>) {
    let mut api = replicated(replicas);
    api.process.listen.push(Listen::Tcp("127.0.0.1:80".to_owned()));
    (vec![api], vec![BalancerPlan { delivery: Delivery::Shared, ..balancer("front", "api") }])
}

#[test]
fn replicas_that_are_to_share_the_socket_are_served_by_the_proxy_until_they_are_restarted() {
    let mut kit = up_with_proxy(2);
    let (services, balancers) = sharing(2);
    reload(&mut kit, services, balancers);
    assert_eq!(kit.words(), ["balance front: api/0 Draining, api/1 Up"], "and the proxy stays");
    assert!(kit.engine.accepts_meanwhile("front"));
    let cuts: Vec<bool> = tables(&kit)[0].backends.iter().map(|backend| backend.cut).collect();
    assert_eq!(cuts, [true, false]);
    kit.pass(Duration::from_secs(4));
    let words = kit.drained("front", "api/0");
    assert_eq!(words, ["balance front: api/1 Up", "SIGTERM to main of api/0"]);
    assert_eq!(tables(&kit)[0].backends[0].ready_for, Duration::from_secs(4), "its ramp goes on");
    assert!(!kit.engine.accepts_meanwhile("front"), "the next run accepts by itself");
    kit.exit("api/0", 0);
    assert_eq!(
        kit.exec("api/0"),
        ["balance front: api/1 Draining"],
        "it is not stopped while the proxy has connections to it"
    );
    assert_eq!(kit.state("@proxy"), StateName::Ready);
    let words = kit.drained("front", "api/1");
    assert_eq!(words, ["unbalance front", "SIGTERM to main of api/1", "SIGTERM to main of @proxy/0"]);
    assert_eq!(kit.exit("api/1", 0), ["release api/1", "spawn api/1 run 2"]);
}

#[test]
fn single_replica_that_is_to_share_the_socket_takes_nothing_new_while_it_drains() {
    let mut kit = up_with_proxy(1);
    let (services, balancers) = sharing(1);
    reload(&mut kit, services, balancers);
    assert_eq!(kit.words(), ["balance front: api/0 Draining"]);
    assert!(!kit.engine.accepts_meanwhile("front"), "clients wait in the queue of the socket");
    let words = kit.pass(Duration::from_secs(10));
    assert_eq!(words, ["unbalance front", "SIGTERM to main of api/0", "SIGTERM to main of @proxy/0"]);
}

#[test]
fn balancer_comes_back_before_its_replicas_share_the_socket() {
    let mut kit = up_with_proxy(2);
    let (services, balancers) = sharing(2);
    reload(&mut kit, services, balancers);
    kit.drained("front", "api/0");
    let mut proxy = ServicePlan::with_defaults(Role::Proxy.service_name(), &[]);
    proxy.launch = Launch::Role(Role::Proxy);
    reload(&mut kit, vec![proxy, replicated(2)], vec![balancer("front", "api")]);
    assert_eq!(kit.words(), ["balance front: api/0 Out, api/1 Up"]);
    assert_eq!(kit.state("@proxy"), StateName::Ready, "with its connections");
}

#[test]
fn restart_that_comes_with_the_end_of_a_balancer_waits_for_its_connections() {
    let mut kit = up_with_proxy(2);
    let (services, _) = sharing(2);
    reload(&mut kit, services, Vec::new());
    assert_eq!(kit.words(), ["balance front: api/0 Draining, api/1 Draining"]);
    assert_eq!(kit.drained("front", "api/1"), ["balance front: api/0 Draining"], "before its turn");
    let words = kit.drained("front", "api/0");
    assert_eq!(words, ["unbalance front", "SIGTERM to main of api/0", "SIGTERM to main of @proxy/0"]);
    kit.exit("api/0", 0);
    assert_eq!(kit.exec("api/0"), ["SIGTERM to main of api/1"], "nothing is left to wait for");
}

#[test]
fn nothing_leaves_slowly_when_the_proxy_has_ended() {
    let mut kit = up_with_proxy(2);
    let (services, balancers) = sharing(2);
    reload(&mut kit, services, balancers);
    let words = kit.exit("@proxy", 1);
    assert!(words.starts_with(&["unbalance front".to_owned()]), "{words:?}");
    assert!(words.contains(&"SIGTERM to main of api/0".to_owned()), "{words:?}");
    kit.exit("api/0", 0);
    assert_eq!(kit.exec("api/0"), ["SIGTERM to main of api/1"]);
}
