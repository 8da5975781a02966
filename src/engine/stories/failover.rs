//! A disk that fails under a service: it goes on from the newest verified copy, and nothing ever runs on what is stale.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::copies::catalog::{Copy, Verified};
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

pub(super) fn set() -> CopyPlan {
    CopyPlan { on_source_failing: Some(OnSourceFailing::Restore), ..testing::plan("data") }
}

/// Services `api` and `web` with data in one set on vda, whose copies 1 (verified) and 2 lie on vdb.
pub(super) fn begin() -> Kit {
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

pub(super) fn link(kit: &mut Kit) {
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

pub(super) fn done(kit: &mut Kit, outcome: Outcome) -> Vec<String> {
    let order = kit.engine.copies_order("data").expect("an order");
    report(kit, Report::Done { order, outcome })
}

pub(super) fn fails(kit: &mut Kit) -> Vec<String> {
    kit.check(DiskHung, "vda", Health::Failing, "no answer for 12s")
}

pub(super) fn stage(kit: &Kit) -> String {
    kit.engine.copies(kit.now)[0].failover.as_ref().map_or("none", |view| view.kept.stage.word()).to_owned()
}

/// The order that was given in the last step.
pub(super) fn ordered(kit: &Kit) -> Option<Job> {
    kit.last.iter().find_map(|action| {
        let Action::Copy { what, .. } = action else { return None };
        if let CopyAction::Order(order) = &**what { Some(order.job.clone()) } else { None }
    })
}

pub(super) fn switch_of(kit: &Kit) -> Option<(u64, Direction)> {
    kit.last.iter().find_map(|action| {
        let Action::Copy { what, .. } = action else { return None };
        if let CopyAction::Switch(switch) = &**what { Some((switch.id, switch.direction)) } else { None }
    })
}

pub(super) fn switched(kit: &mut Kit, id: u64, result: Result<(), &str>) -> Vec<String> {
    let result = result.map_err(str::to_owned);
    say(kit, CopyEvent::Switched { set: "data".to_owned(), id, result })
}

/// Both services are gone, and the wait is over.
pub(super) fn at_rest(kit: &mut Kit) {
    kit.exit_leaving("api", Exit::Code(0), 0);
    kit.exit_leaving("web", Exit::Code(0), 0);
    kit.pass(Duration::from_secs(10));
}

pub(super) fn materialised() -> Outcome {
    Outcome::Materialised { seq: 1, files: 10, bytes: 1_000 }
}

/// As far as the services running on the copy.
pub(super) fn over() -> Kit {
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

pub(super) fn failback(kit: &mut Kit, force: bool) -> Vec<String> {
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

/// On the way back, as far as that it is at home is being written down.
fn returning() -> Kit {
    let mut kit = over();
    kit.check(DiskHung, "vda", Health::Ok, "another disk");
    failback(&mut kit, false);
    kit.exit("api", 0);
    kit.exit("web", 0);
    done(&mut kit, Outcome::Taken { seq: 3, files: 10, written_bytes: 1, linked: 9 });
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Ok(()));
    done(&mut kit, Outcome::Restored { seq: 3, files: 10, bytes: 1_000, kept: Vec::new() });
    assert_eq!(stage(&kit), "returning");
    kit
}

#[test]
fn live_data_that_cannot_be_put_back_in_place_are_not_replaced_by_an_older_copy() {
    let mut kit = returning();
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

/// What the decision of the last step is answered with.
fn saved(kit: &mut Kit, result: Result<(), &str>) -> Vec<String> {
    let decided = |action: &Action| if let Action::Decide { decision, .. } = action { Some(*decision) } else { None };
    let decision = kit.last.iter().find_map(decided).expect("a decision");
    kit.step(Event::Persisted { decision, result: result.map_err(str::to_owned) })
}

#[test]
fn nothing_is_written_to_the_live_data_before_it_is_on_disk_again_that_they_count() {
    let mut kit = returning();
    let words = saved(&mut kit, Err("no space"));
    assert!(words.iter().any(|word| word.starts_with("answer 900: failed")), "{words:?}");
    assert!(switch_of(&kit).is_none(), "the disk may say that it is at home: {words:?}");
    saved(&mut kit, Ok(()));
    let (id, direction) = switch_of(&kit).expect("a switch");
    assert_eq!(direction, Direction::Over);
    switched(&mut kit, id, Ok(()));
    assert_eq!(stage(&kit), "over");
}

#[test]
fn live_data_that_services_have_written_to_are_never_swept_away_for_a_disk_that_is_well() {
    for failing in ["decision", "switch"] {
        let mut kit = returning();
        saved(&mut kit, Err("no space"));
        if failing == "decision" {
            saved(&mut kit, Err("no space"));
        } else {
            saved(&mut kit, Ok(()));
            let (id, _) = switch_of(&kit).expect("a switch");
            switched(&mut kit, id, Err("busy"));
        }
        kit.check(DiskHung, "vda", Health::Ok, "still well");
        assert!(!matches!(ordered(&kit), Some(Job::Dismiss { .. })), "{failing}: {}", stage(&kit));
        assert_eq!((stage(&kit).as_str(), kit.state("api")), ("again", StateName::Waiting), "{failing}");
        let why = kit.why("api");
        assert!(why.contains(if failing == "switch" { "busy" } else { "no space" }), "{why}");
        // Neither is another copy taken for it when that disk fails once more.
        fails(&mut kit);
        kit.pass(Duration::from_secs(59));
        assert!(ordered(&kit).is_none() && switch_of(&kit).is_none(), "{failing}: tried again later");
        kit.pass(ms(1_000));
        saved(&mut kit, Ok(()));
        let (id, _) = switch_of(&kit).expect("a switch");
        switched(&mut kit, id, Ok(()));
        kit.exec("api");
        assert_eq!((stage(&kit).as_str(), kit.state("api")), ("over", StateName::Ready), "{failing}");
    }
}

#[test]
fn switch_that_failed_is_undone_before_what_it_may_have_mounted_is_removed() {
    let mut kit = begin();
    fails(&mut kit);
    at_rest(&mut kit);
    done(&mut kit, materialised());
    kit.persist();
    let (id, _) = switch_of(&kit).expect("a switch");
    switched(&mut kit, id, Err("killed"));
    assert_eq!(stage(&kit), "holding");
    let words = kit.check(DiskHung, "vda", Health::Ok, "answers again");
    assert!(ordered(&kit).is_none() && !words.iter().any(|word| word.starts_with("spawn")), "{words:?}");
    let (id, direction) = switch_of(&kit).expect("it is undone");
    assert_eq!(direction, Direction::Back);
    let words = switched(&mut kit, id, Ok(()));
    assert!(matches!(ordered(&kit), Some(Job::Dismiss { .. })), "{words:?}");
    assert!(words.contains(&"spawn api/0 run 2".to_owned()), "{words:?}");
}
