//! Fences, and what comes late: the answer to an earlier question, the process of what was throttled, the service that had left.

use crate::engine::event::{Caller, Event, FoundProcess, NotifyMessage, Verb};
use crate::engine::fence::gauge::Gauge;
use crate::engine::fence::plan::FenceLevel;
use crate::engine::fence::record::Standing;
use crate::engine::plan::Readiness;
use crate::engine::testkit::{Kit, service};
use crate::engine::types::Exit;

const HOLD: Verb = Verb::Fence(FenceLevel::Hold);
const FREEZE: Verb = Verb::Fence(FenceLevel::Freeze);
const THROTTLE: Verb = Verb::Fence(FenceLevel::Throttle);

fn up() -> Kit {
    let mut kit = Kit::new(vec![service("api")]);
    kit.exec("api");
    kit
}

#[test]
fn a_reading_that_was_asked_for_in_an_earlier_freeze_does_not_prove_the_next_one() {
    let mut kit = up();
    kit.command(FREEZE, "api");
    kit.persist();
    let earlier = kit.engine.fence.asked;
    kit.command(Verb::Unfence, "api");
    kit.persist();
    kit.command(FREEZE, "api");
    kit.persist();
    let gauge = Gauge { frozen: Some(true), ..kit.gauge("api") };
    kit.step(Event::Gauged { asked: earlier, gauges: vec![gauge.clone()] });
    assert_eq!(kit.record("api").standing, Standing::Proving);
    kit.gauged(gauge);
    assert_eq!(kit.record("api").standing, Standing::Proven);
}

#[test]
fn a_throttle_by_hand_of_what_does_not_run_is_proven_when_it_runs() {
    let mut kit = up();
    kit.command(Verb::Stop, "api");
    kit.persist();
    kit.exit("api", 0);
    let words = [kit.command(THROTTLE, "api"), kit.persist()].concat();
    assert_eq!(words, ["decide api Down fenced throttle", "answer 2: done"], "nothing to wait for");
    assert_eq!(kit.record("api").standing, Standing::Proving);
    assert!(kit.record("api").steps[0].proof.starts_with("nothing runs"));
    assert_eq!(kit.why("api"), "fenced by the agent (from its next start on); until `unfence`");
    assert_eq!(kit.engine.next_deadline(), None);
    kit.heir(&[("api", FoundProcess::Gone { exit: None })]);
    assert_eq!((kit.record("api").standing, kit.engine.next_deadline()), (Standing::Proving, None));
    let words = [kit.command(Verb::Start, "api"), kit.persist()].concat();
    assert!(words.contains(&"spawn api/0 run 2".to_owned()), "{words:?}");
    let words = kit.exec("api");
    assert!(words.contains(&"gauge api/0".to_owned()), "{words:?}");
    assert_eq!(kit.record("api").steps[0].method, "before its start");
    let reading = |kit: &Kit, throttled| Gauge { cpu_throttled: Some(throttled), ..kit.gauge("api") };
    kit.gauged(reading(&kit, 0));
    assert_eq!(kit.record("api").standing, Standing::Proving);
    kit.gauged(reading(&kit, 3));
    assert_eq!(kit.record("api").standing, Standing::Proven);
    assert_eq!(kit.record("api").steps[0].proof, "nr_throttled 0 -> 3");
}

#[test]
fn what_is_on_disk_of_a_service_that_is_not_configured_holds_when_it_comes_back() {
    let mut api = service("api");
    api.replicas = 2;
    let mut kit = Kit::new(vec![api.clone(), service("web")]);
    for name in ["api/0", "api/1", "web"] {
        kit.exec(name);
    }
    kit.command(HOLD, "api/1");
    kit.persist();
    kit.exit_leaving("api/1", Exit::Signal { signal: 9, core: false }, 0);
    let reload = |kit: &mut Kit, services| {
        kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(Kit::plan(services)) })
    };
    reload(&mut kit, vec![service("web")]);
    kit.exit("api/0", 0);
    kit.heir(&[("web", FoundProcess::Alive { pid: 100 })]);
    let words = reload(&mut kit, vec![service("api"), service("web")]);
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
    let words = reload(&mut kit, vec![api, service("web")]);
    assert!(!words.iter().any(|word| word.starts_with("spawn api/1")), "{words:?}");
    assert_eq!(kit.word_of("api/1"), "held");
}

/// Found by the simulation: the word that the program runs may be the first one of its process.
#[test]
fn what_is_throttled_at_its_birth_is_limited_whatever_is_heard_of_it_first() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.command(THROTTLE, "api");
    kit.persist();
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let words = kit.step(Event::Executed { replica, run });
    assert!(words.contains(&"limit api/0".to_owned()), "{words:?}");
}

/// Found by the simulation, as the one before.
#[test]
fn what_is_throttled_before_its_start_is_proven_also_when_its_program_cannot_be_executed() {
    let mut kit = up();
    kit.command(Verb::Stop, "api");
    kit.persist();
    kit.exit("api", 0);
    kit.command(THROTTLE, "api");
    kit.persist();
    kit.command(Verb::Start, "api");
    kit.persist();
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let words = kit.step(Event::ExecFailed { replica, run, error: "no such file".to_owned() });
    assert!(words.contains(&"gauge api/0".to_owned()), "{words:?}");
    assert_eq!(kit.record("api").steps[0].method, "before its start");
}

#[test]
fn what_is_throttled_before_its_start_is_proven_also_when_its_readiness_is_heard_first() {
    let mut api = service("api");
    api.ready = Readiness::Notify;
    let mut kit = Kit::new(vec![api]);
    kit.exec("api");
    kit.command(Verb::Stop, "api");
    kit.exit("api", 0);
    kit.command(THROTTLE, "api");
    kit.command(Verb::Start, "api");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    kit.step(Event::Notified { replica, run, message: NotifyMessage::Ready });
    assert_eq!(kit.record("api").steps[0].method, "before its start");
}
