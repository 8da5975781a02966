//! A disk that fails under a service: it goes on from the newest verified copy, and nothing ever runs on what is stale.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::copies::catalog::{Catalog, Copy, FailedOver, Verified};
use crate::engine::copies::event::{CopyAction, CopyEvent, Direction};
use crate::engine::copies::order::{Failure, FailureKind, Job, Outcome, Report};
use crate::engine::copies::plan::{CopyPlan, OnSourceFailing};
use crate::engine::copies::testing;
use crate::engine::event::{Caller, Event, FoundProcess, Verb, Wait};
use crate::engine::host::Health;
use crate::engine::host::kind::CheckKind::DiskHung;
use crate::engine::plan::{Needs, Plan, ServicePlan};
use crate::engine::stories::host_helpers::{devices, disk, mount};
use crate::engine::testkit::{Kit, ms, service};
use crate::engine::types::{Exit, RequestId, StateName, Time};

const START: Time = Time(1_000_000_000_000);

fn on_disk(name: &str) -> ServicePlan {
    let mut plan = service(name);
    plan.needs = Some(Box::new(Needs { data: vec!["/srv/data".into()], ..Needs::default() }));
    plan
}

fn set() -> CopyPlan {
    CopyPlan { on_source_failing: Some(OnSourceFailing::Restore), ..testing::plan("data") }
}

/// Services `api` and `web` with data in one set on vda, whose copies 1 (verified) and 2 lie on vdb.
fn begin() -> Kit {
    let plan = Plan { copies: vec![set()], ..Kit::plan(vec![on_disk("api"), on_disk("web"), service("other")]) };
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    know_devices(&mut kit);
    for name in ["api", "web", "other"] {
        kit.exec(name);
    }
    link(&mut kit);
    kit
}

fn know_devices(kit: &mut Kit) {
    kit.step(devices(
        vec![disk("vda", &[]), disk("vdb", &[])],
        vec![mount("/", None), mount("/srv", Some("vda")), mount("/mnt/second", Some("vdb"))],
    ));
}

fn link(kit: &mut Kit) {
    say(kit, CopyEvent::Linked { set: "data".to_owned() });
    let verified = Some(Verified { at: kit.now.wall, cold: true });
    let copies = vec![Copy { verified, ..testing::copy(1, START) }, testing::copy(2, START)];
    report(kit, Report::Catalog(Box::new(testing::catalog(copies))));
}

fn say(kit: &mut Kit, event: CopyEvent) -> Vec<String> {
    kit.step(Event::Copies(Box::new(event)))
}

fn report(kit: &mut Kit, report: Report) -> Vec<String> {
    say(kit, CopyEvent::Report { set: "data".to_owned(), report })
}

fn done(kit: &mut Kit, outcome: Outcome) -> Vec<String> {
    let order = kit.engine.copies_order("data").expect("an order");
    report(kit, Report::Done { order, outcome })
}

fn fails(kit: &mut Kit) -> Vec<String> {
    kit.check(DiskHung, "vda", Health::Failing, "no answer for 12s")
}

fn stage(kit: &Kit) -> String {
    kit.engine.copies(kit.now)[0].failover.as_ref().map_or("none", |view| view.kept.stage.word()).to_owned()
}

/// The order that was given in the last step.
fn ordered(kit: &Kit) -> Option<Job> {
    kit.last.iter().find_map(|action| {
        let Action::Copy { what, .. } = action else { return None };
        if let CopyAction::Order(order) = &**what { Some(order.job.clone()) } else { None }
    })
}

fn switch_of(kit: &Kit) -> Option<(u64, Direction)> {
    kit.last.iter().find_map(|action| {
        let Action::Copy { what, .. } = action else { return None };
        if let CopyAction::Switch(switch) = &**what { Some((switch.id, switch.direction)) } else { None }
    })
}

fn switched(kit: &mut Kit, id: u64, result: Result<(), &str>) -> Vec<String> {
    let result = result.map_err(str::to_owned);
    say(kit, CopyEvent::Switched { set: "data".to_owned(), id, result })
}

/// Both services are gone, and the wait is over.
fn at_rest(kit: &mut Kit) {
    kit.exit_leaving("api", Exit::Code(0), 0);
    kit.exit_leaving("web", Exit::Code(0), 0);
    kit.pass(Duration::from_secs(10));
}

fn materialised() -> Outcome {
    Outcome::Materialised { seq: 1, files: 10, bytes: 1_000 }
}

/// As far as the services running on the copy.
fn over() -> Kit {
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    done(&mut kit, materialised());
    kit.persist();
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    kit.exec("api");
    kit.exec("web");
    kit
}

fn failback(kit: &mut Kit, force: bool) -> Vec<String> {
    let job = Job::Failback { dry_run: false, force };
    let (request, caller, wait) = (RequestId(900), Caller::Agent, Wait::Outcome);
    say(kit, CopyEvent::Command { request, caller, set: "data".to_owned(), job, wait })
}

#[test]
fn services_go_on_from_the_newest_verified_copy_once_every_process_is_gone() {
    let mut kit = begin();
    let words = fails(&mut kit);
    assert!(words.contains(&"SIGTERM to main of api/0".to_owned()), "{words:?}");
    kit.exit_leaving("api", Exit::Code(0), 0);
    kit.exit_leaving("web", Exit::Code(0), 1);
    kit.pass(Duration::from_secs(60));
    assert_eq!((stage(&kit).as_str(), kit.state("web")), ("holding", StateName::Stuck));
    assert_eq!(kit.state("other"), StateName::Ready);
    kit.empty("web");
    let Some(Job::Materialise(live)) = ordered(&kit) else { panic!("{:?}", kit.words()) };
    assert_eq!(live.seq, 1, "the newest that was verified, not the newest");
    let words = done(&mut kit, materialised());
    assert!(switch_of(&kit).is_none(), "not before it is on disk: {words:?}");
    kit.persist();
    let (id, direction) = switch_of(&kit).expect("a switch");
    assert_eq!(direction, Direction::Over);
    assert_eq!(kit.state("api"), StateName::Waiting);
    let words = switched(&mut kit, id, Ok(()));
    assert!(words.contains(&"spawn api/0 run 2".to_owned()) && words.contains(&"spawn web/0 run 2".to_owned()));
    kit.exec("api");
    assert!(kit.why("api").contains("runs from copy 1"), "{}", kit.why("api"));
    let causes: Vec<String> = kit.memory("api").causes.into_iter().map(|cause| cause.text).collect();
    assert!(causes.iter().any(|cause| cause.contains("is built on")), "{causes:?}");
    // Nothing of it concerns them any more.
    kit.check(DiskHung, "vda", Health::Failing, "no answer for 50s");
    assert_eq!(kit.state("api"), StateName::Ready);
    assert!(ordered(&kit).is_none(), "no copies are made of it meanwhile");
    kit.check(DiskHung, "vdb", Health::Failing, "no answer for 12s");
    assert_eq!(kit.state("api"), StateName::Stopping, "now it needs this one");
}

#[test]
fn disk_that_recovers_in_time_moves_nothing() {
    let mut kit = begin();
    fails(&mut kit);
    kit.exit_leaving("api", Exit::Code(0), 0);
    kit.exit_leaving("web", Exit::Code(0), 0);
    assert_eq!(stage(&kit), "holding");
    let words = kit.check(DiskHung, "vda", Health::Ok, "answers again");
    assert!(words.contains(&"spawn api/0 run 2".to_owned()), "{words:?}");
    assert_eq!(stage(&kit), "none");
}

#[test]
fn what_cannot_be_done_is_told_and_tried_again_and_the_services_stay_held() {
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    done(&mut kit, materialised());
    kit.persist();
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Err("cannot mount /x over /srv/data (only root may): Operation not permitted"));
    assert_eq!(stage(&kit), "holding");
    assert!(kit.notes().iter().any(|note| note.contains("only root may")), "{:?}", kit.notes());
    assert!(kit.why("api").contains("only root may"), "{}", kit.why("api"));
    assert_eq!(kit.state("api"), StateName::Waiting);
    kit.pass(Duration::from_secs(61));
    assert!(matches!(ordered(&kit), Some(Job::Materialise(_))), "{:?}", kit.words());
    let failure = Failure { kind: FailureKind::Full, what: "no room".to_owned(), remedy: None };
    done(&mut kit, Outcome::Failed(failure));
    assert_eq!((stage(&kit).as_str(), kit.state("api")), ("holding", StateName::Waiting));
}

#[test]
fn job_that_waits_for_the_failing_disk_is_left_behind() {
    let mut kit = begin();
    let take = Job::Verify { which: crate::engine::copies::order::Which::Newest };
    let (request, caller, wait) = (RequestId(77), Caller::Agent, Wait::Outcome);
    say(&mut kit, CopyEvent::Command { request, caller, set: "data".to_owned(), job: take, wait });
    fails(&mut kit);
    at_rest(&mut kit);
    assert_eq!(stage(&kit), "materialising");
    kit.pass(Duration::from_secs(6));
    assert!(matches!(ordered(&kit), Some(Job::Materialise(_))), "{:?}", kit.words());
    assert!(kit.words().iter().any(|word| word.starts_with("answer 77")), "{:?}", kit.words());
}

#[test]
fn nothing_starts_on_what_is_stale_after_a_reboot() {
    let mut kit = over();
    kit.reboot();
    assert_eq!((kit.state("api"), kit.state("other")), (StateName::Waiting, StateName::Starting));
    let (id, _) = switch_of(&kit).expect("it is switched at once");
    switched(&mut kit, id, Err("cannot mount: No such file or directory"));
    assert!(kit.why("api").contains("nothing of it is started"), "{}", kit.why("api"));
    kit.command(Verb::Start, "api");
    assert_eq!(kit.state("api"), StateName::Waiting);
    kit.pass(Duration::from_secs(61));
    let (id, _) = switch_of(&kit).expect("it is tried again");
    let words = switched(&mut kit, id, Ok(()));
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
}

#[test]
fn heir_goes_on_wherever_the_agent_died() {
    let gone = FoundProcess::Gone { exit: None };
    let found = |gone: &FoundProcess| [("api", gone.clone()), ("web", gone.clone())];
    // While it was being built.
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    assert_eq!(stage(&kit), "materialising");
    kit.heir(&found(&gone));
    know_devices(&mut kit);
    // While it was switched: it is switched once more, which changes nothing where it is done.
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    done(&mut kit, materialised());
    kit.persist();
    assert!(switch_of(&kit).is_some());
    kit.heir(&found(&gone));
    kit.persist();
    let (id, direction) = switch_of(&kit).expect("a switch");
    assert_eq!((direction, kit.state("api")), (Direction::Over, StateName::Waiting));
    switched(&mut kit, id, Ok(()));
    assert_eq!(stage(&kit), "over");
    // While they ran: they run on while it is looked whether all is as it should be.
    let mut kit = over();
    let alive = FoundProcess::Alive { pid: 100 };
    kit.heir(&found(&alive));
    let (id, _) = switch_of(&kit).expect("a switch");
    assert_eq!(kit.state("api"), StateName::Ready);
    assert!(switched(&mut kit, id, Ok(())).iter().all(|word| !word.contains("api")));
}

#[test]
fn way_back_loses_nothing_and_ends_with_services_that_are_ready() {
    let mut kit = over();
    let refused = failback(&mut kit, false);
    assert!(refused[0].contains("its own disk still fails"), "{refused:?}");
    kit.check(DiskHung, "vda", Health::Ok, "another disk");
    let words = failback(&mut kit, false);
    assert!(words.contains(&"SIGTERM to main of api/0".to_owned()), "{words:?}");
    kit.exit("api", 0);
    kit.exit("web", 0);
    assert!(matches!(ordered(&kit), Some(Job::Gather { .. })), "{:?}", kit.words());
    done(&mut kit, Outcome::Taken { seq: 3, files: 10, written_bytes: 1, linked: 9 });
    let (id, direction) = switch_of(&kit).expect("a switch");
    assert_eq!(direction, Direction::Back);
    switched(&mut kit, id, Ok(()));
    let Some(Job::Restore(restore)) = ordered(&kit) else { panic!("{:?}", kit.words()) };
    assert_eq!(restore.seq, Some(3));
    let kept = vec!["/srv/.data.before".into()];
    let words = done(&mut kit, Outcome::Restored { seq: 3, files: 10, bytes: 1_000, kept });
    assert!(!words.iter().any(|word| word.starts_with("spawn")), "not before it is on disk: {words:?}");
    let words = kit.persist();
    assert!(words.contains(&"spawn api/0 run 3".to_owned()), "{words:?}");
    kit.exec("api");
    let words = kit.exec("web");
    assert!(words.iter().any(|word| word.starts_with("answer 900: copied Restored")), "{words:?}");
    assert!(matches!(ordered(&kit), Some(Job::Dismiss { .. })), "{words:?}");
    done(&mut kit, Outcome::Dismissed);
    assert_eq!((stage(&kit).as_str(), kit.why("api").as_str()), ("none", ""));
}

#[test]
fn way_back_that_fails_leaves_the_services_where_they_were() {
    let mut kit = over();
    kit.check(DiskHung, "vda", Health::Ok, "another disk");
    failback(&mut kit, false);
    kit.exit("api", 0);
    kit.exit("web", 0);
    done(&mut kit, Outcome::Taken { seq: 3, files: 10, written_bytes: 1, linked: 9 });
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    let failure = Failure { kind: FailureKind::Other, what: "I/O error".to_owned(), remedy: None };
    let words = done(&mut kit, Outcome::Failed(failure));
    assert!(words.iter().any(|word| word.starts_with("answer 900: failed")), "{words:?}");
    let (id, direction) = switch_of(&kit).expect("it is switched again");
    assert_eq!((direction, kit.state("api")), (Direction::Over, StateName::Waiting));
    switched(&mut kit, id, Ok(()));
    kit.exec("api");
    assert_eq!((stage(&kit).as_str(), kit.state("api")), ("over", StateName::Ready));
    // Nor does one that is cut off by the death of the agent.
    failback(&mut kit, false);
    kit.heir(&[("api", FoundProcess::Gone { exit: None }), ("web", FoundProcess::Gone { exit: None })]);
    assert_eq!((stage(&kit).as_str(), kit.state("api")), ("over", StateName::Waiting));
}

#[test]
fn services_that_do_not_become_ready_at_home_go_on_from_the_live_data() {
    let mut kit = over();
    kit.check(DiskHung, "vda", Health::Ok, "another disk");
    failback(&mut kit, false);
    kit.exit("api", 0);
    kit.exit("web", 0);
    done(&mut kit, Outcome::Taken { seq: 3, files: 10, written_bytes: 1, linked: 9 });
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    done(&mut kit, Outcome::Restored { seq: 3, files: 10, bytes: 1_000, kept: Vec::new() });
    kit.persist();
    kit.exec("web");
    kit.pass(Duration::from_secs(120));
    assert_eq!(stage(&kit), "again", "{:?}", kit.notes());
    kit.exit_leaving("web", Exit::Code(0), 0);
    kit.exit_leaving("api", Exit::Code(0), 0);
    kit.pass(ms(1));
    kit.persist();
}

/// What is otherwise in a configuration.
type Change<'a> = &'a dyn Fn(&mut Plan);

/// The agent reads this plan; whether it is taken over, and what is said of it.
fn reload(kit: &mut Kit, change: Change<'_>) -> String {
    let mut plan = kit.engine.plan().clone();
    change(&mut plan);
    let refusal = kit.engine.refusal(&plan);
    let event = Event::Reload { request: Some(RequestId(500)), caller: Caller::Agent, plan: Box::new(plan) };
    let words = kit.step(event);
    let word = words.into_iter().find(|word| word.starts_with("answer 500")).expect("an answer");
    assert_eq!(refusal.is_some(), word.contains("conflict"), "{word}");
    word
}

/// The next agent (of another boot) reads this plan.
fn restart(kit: &mut Kit, change: Change<'_>) -> String {
    kit.reboot_with(change);
    kit.notes().join("\n")
}

fn leave(plan: &mut Plan) {
    plan.copies.clear();
}

#[test]
fn set_that_has_moved_is_not_changed_by_a_reload() {
    let changes: [(&str, Change<'_>); 4] = [
        ("has left the configuration", &leave),
        ("`from` is /srv/other", &|plan| plan.copies[0].from = vec!["/srv/other".into()]),
        ("`to` is /mnt/third", &|plan| plan.copies[0].to = "/mnt/third".into()),
        ("`failover.link` is /run/link, and was None", &|plan| plan.copies[0].failover.link = Some("/run/link".into())),
    ];
    let mut kit = over();
    for (what, change) in changes {
        let said = reload(&mut kit, change);
        assert!(said.contains("copies data: ") && said.contains(what), "{said}");
        assert!(said.contains("`mainstay copies failback data` first"), "{said}");
        assert_eq!((stage(&kit).as_str(), kit.state("api")), ("over", StateName::Ready));
    }
    let said = reload(&mut kit, &|plan| {
        plan.copies[0].max_age = Some(Duration::from_secs(5));
        plan.services.retain(|service| service.name != "other");
    });
    assert!(said.contains("reloaded"), "{said}");
    // Before anything has moved the configuration counts, and afterwards too.
    let mut kit = begin();
    assert!(reload(&mut kit, &leave).contains("reloaded"));
    let mut kit = begin();
    fails(&mut kit);
    assert!(reload(&mut kit, &leave).contains("reloaded"));
    assert_eq!(kit.engine.copies(kit.now).len(), 0);
    at_rest(&mut kit);
    assert!(!kit.why("api").contains("goes on from a copy"), "{}", kit.why("api"));
}

#[test]
fn sources_that_change_before_anything_has_moved_are_looked_at_anew() {
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    assert_eq!(stage(&kit), "materialising");
    let said = reload(&mut kit, &|plan| plan.copies[0].from = vec!["/srv/data".into(), "/srv/more".into()]);
    assert!(said.contains("reloaded"), "{said}");
    assert!(kit.notes().iter().any(|note| note.contains("nothing has moved yet")), "{:?}", kit.notes());
    assert_eq!((stage(&kit).as_str(), kit.state("api")), ("holding", StateName::Waiting));
    let view = &kit.engine.copies(kit.now)[0];
    assert_eq!(view.failover.expect("on its way").kept.sources.len(), 2);
    assert!(kit.words().iter().all(|word| !word.starts_with("spawn")), "{:?}", kit.words());
}

#[test]
fn set_that_has_moved_stays_where_it_is_when_the_next_agent_knows_it_no_more() {
    let mut kit = over();
    let told = restart(&mut kit, &leave);
    assert!(told.contains("copies data: api, web: it has left the configuration"), "{told}");
    assert!(told.contains("from: [\"/srv/data\"], to: \"/mnt/second/copies\""), "{told}");
    assert_eq!((kit.state("api"), kit.state("other")), (StateName::Waiting, StateName::Starting));
    let (id, direction) = switch_of(&kit).expect("it is switched all the same");
    assert_eq!(direction, Direction::Over);
    switched(&mut kit, id, Err("cannot mount: No such file or directory"));
    assert_eq!(kit.state("api"), StateName::Waiting, "not on what the failing disk has");
    kit.pass(Duration::from_secs(61));
    let (id, _) = switch_of(&kit).expect("it is tried again");
    let words = switched(&mut kit, id, Ok(()));
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
    kit.exec("api");
    assert!(kit.why("api").contains("`mainstay reload`, then `mainstay copies failback data`"), "{}", kit.why("api"));
    let view = &kit.engine.copies(kit.now)[0];
    assert_eq!((view.plan.name.as_str(), view.state.word()), ("data", "failing"));
    let said = failback(&mut kit, false);
    assert!(said[0].contains("it has left the configuration") && said[0].contains("write it as it was"), "{said:?}");
    // What is so already is no reason to refuse another change; another change of the set is.
    assert!(reload(&mut kit, &|plan| plan.agent.shutdown_timeout = Duration::from_secs(7)).contains("reloaded"));
    let other = |plan: &mut Plan| plan.copies = vec![CopyPlan { to: "/mnt/third".into(), ..set() }];
    let said = reload(&mut kit, &other);
    assert!(said.contains("conflict") && said.contains("write it as it was"), "{said}");
    // It is written as it was, and comes back.
    assert!(reload(&mut kit, &|plan| plan.copies = vec![set()]).contains("reloaded"));
    assert!(kit.notes().iter().any(|note| note.contains("again as it was")), "{:?}", kit.notes());
    assert_eq!(kit.engine.copies(kit.now).len(), 1);
    link(&mut kit);
    kit.exec("web");
    let words = failback(&mut kit, true);
    assert!(words.contains(&"SIGTERM to main of api/0".to_owned()), "{words:?}");
}

#[test]
fn set_that_has_moved_is_not_brought_back_to_where_it_was_not() {
    for change in [
        &(|plan: &mut Plan| plan.copies[0].from = vec!["/srv/data".into(), "/srv/other".into()]) as Change<'_>,
        &|plan| plan.copies[0].to = "/mnt/third".into(),
        &|plan| plan.copies[0].failover.link = Some("/run/link".into()),
    ] {
        let mut kit = over();
        let told = restart(&mut kit, change);
        assert!(told.contains("stays in force as it was"), "{told}");
        let (id, _) = switch_of(&kit).expect("it is switched all the same");
        switched(&mut kit, id, Ok(()));
        link(&mut kit);
        assert!(ordered(&kit).is_none(), "{:?}", kit.words());
        let said = failback(&mut kit, true);
        assert!(said[0].contains("conflict, copies data: its `") && said[0].contains("and was"), "{said:?}");
        assert_eq!(stage(&kit), "over");
    }
}

#[test]
fn copy_that_was_being_built_when_the_set_left_holds_nothing_up() {
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    assert_eq!(stage(&kit), "materialising");
    let told = restart(&mut kit, &leave);
    assert!(told.contains("nothing has moved yet") && told.contains("can be removed by hand"), "{told}");
    assert!(kit.words().iter().any(|word| word.starts_with("spawn api/0")), "{:?}", kit.words());
    assert!(!kit.engine.plan().copies.iter().any(|plan| plan.name == "data") && kit.engine.copies(kit.now).is_empty());
}

#[test]
fn service_that_goes_around_the_link_is_not_started_on_the_failing_disk() {
    let linked = |plan: &mut Plan| plan.copies[0].failover.link = Some("/run/link".into());
    let data = |path: &'static str| {
        move |plan: &mut Plan| {
            plan.services[0].needs = Some(Box::new(Needs { data: vec![path.into()], ..Needs::default() }))
        }
    };
    let mut kit = begin();
    reload(&mut kit, &linked);
    fails(&mut kit);
    at_rest(&mut kit);
    done(&mut kit, materialised());
    kit.persist();
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    kit.exec("api");
    // The link leads nowhere yet: what is known of its data is the path of the link.
    restart(&mut kit, &data("/run/link"));
    assert_eq!(kit.state("api"), StateName::Waiting);
    let (id, _) = switch_of(&kit).expect("a switch");
    let words = switched(&mut kit, id, Ok(()));
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
    // Another file: the set has no link, and the service names the source.
    let direct = |plan: &mut Plan| {
        data("/srv/data")(plan);
        plan.copies[0].failover.link = None;
    };
    restart(&mut kit, &direct);
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    assert_eq!(kit.state("api"), StateName::Waiting);
    assert!(
        kit.why("api").contains("/srv/data is on the disk that failed, and only /run/link leads"),
        "{}",
        kit.why("api")
    );
    let words = {
        reload(&mut kit, &linked);
        kit.words()
    };
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
}

#[test]
fn live_data_that_cannot_be_put_back_in_place_are_not_replaced_by_an_older_copy() {
    let mut kit = over();
    kit.check(DiskHung, "vda", Health::Ok, "another disk");
    failback(&mut kit, false);
    kit.exit("api", 0);
    kit.exit("web", 0);
    done(&mut kit, Outcome::Taken { seq: 3, files: 10, written_bytes: 1, linked: 9 });
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    done(&mut kit, Outcome::Restored { seq: 3, files: 10, bytes: 1_000, kept: Vec::new() });
    kit.persist();
    kit.exec("web");
    kit.pass(Duration::from_secs(120));
    kit.exit_leaving("web", Exit::Code(0), 0);
    kit.exit_leaving("api", Exit::Code(0), 0);
    kit.persist();
    let (id, _) = switch_of(&kit).expect("a switch");
    // The disk is well, and still nothing but the live data will do.
    switched(&mut kit, id, Err("cannot mount: Device or resource busy"));
    assert_eq!((stage(&kit).as_str(), kit.state("web")), ("again", StateName::Waiting));
    assert!(kit.why("web").contains("Device or resource busy"), "{}", kit.why("web"));
    kit.pass(Duration::from_secs(61));
    assert!(ordered(&kit).is_none(), "{:?}", kit.words());
    kit.persist();
    let (id, direction) = switch_of(&kit).expect("it is tried again");
    assert_eq!(direction, Direction::Over);
    let words = switched(&mut kit, id, Ok(()));
    assert_eq!(stage(&kit), "over");
    assert!(words.iter().any(|word| word.starts_with("spawn web/0")), "{words:?}");
}

#[test]
fn what_would_keep_it_from_helping_is_seen_beforehand() {
    let prospects = |kit: &Kit| kit.engine.copies(kit.now)[0].prospects.clone();
    let mut kit = begin();
    let seen = prospects(&kit).expect("it would go on from a copy");
    assert_eq!((seen.services, seen.shared), (vec!["api".to_owned(), "web".to_owned()], Vec::new()));
    kit.step(devices(
        vec![disk("vda", &[]), disk("vdb", &["vda"])],
        vec![mount("/", None), mount("/srv", Some("vda")), mount("/mnt/second", Some("vdb"))],
    ));
    assert_eq!(prospects(&kit).expect("still").shared, ["vda"]);
    reload(&mut kit, &|plan| plan.copies[0].on_source_failing = Some(OnSourceFailing::Hold));
    assert_eq!(prospects(&kit), None);
    assert_eq!(prospects(&over()).expect("it has").shared, [""; 0]);
}

#[test]
fn live_data_that_nothing_is_known_of_are_told() {
    let mut kit = begin();
    kit.reboot();
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    let failed_over = Some(FailedOver { seq: 1, since: START, age: ms(1) });
    let catalog = Catalog { failed_over, ..testing::catalog(vec![testing::copy(1, START)]) };
    report(&mut kit, Report::Catalog(Box::new(catalog.clone())));
    assert!(
        kit.notes()
            .iter()
            .any(|note| note.contains("/mnt/second/copies/data/live has what services once went on from"))
    );
    let mut kit = over();
    kit.reboot();
    say(&mut kit, CopyEvent::Linked { set: "data".to_owned() });
    report(&mut kit, Report::Catalog(Box::new(catalog)));
    assert!(!kit.notes().iter().any(|note| note.contains("once went on from")), "{:?}", kit.notes());
}
