//! Who is told of what, and how often.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::event::{Event, FoundProcess, Verb};
use crate::engine::fence::plan::FenceLevel;
use crate::engine::host::kind::CheckKind::{DiskErrors, DiskHung, DiskSpace, Filesystem, Memory};
use crate::engine::host::plan::{AlertOn, AlertPlan, OnDiskFailing};
use crate::engine::host::view::AlertBody;
use crate::engine::host::{Health, HostEvent, HostMemory};
use crate::engine::plan::{Budget, BudgetSpent, Needs, Plan, ServicePlan};
use crate::engine::stories::host_helpers::{devices, disk, mount};
use crate::engine::testkit::{Kit, service};
use crate::engine::types::Time;

const START: Time = Time(1_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn alert(on: &[AlertOn], at_most: u32) -> AlertPlan {
    AlertPlan {
        exec: vec!["/bin/page".to_owned()],
        user: None,
        on: on.to_vec(),
        at_most,
        within: HOUR,
        timeout: Duration::from_secs(30),
        cwd: None,
    }
}

fn plan(services: Vec<ServicePlan>, alerts: Vec<AlertPlan>) -> Plan {
    Plan { alerts, ..Kit::plan(services) }
}

fn begin(services: Vec<ServicePlan>, alert: AlertPlan) -> Kit {
    let names: Vec<String> = services.iter().map(|plan| plan.name.clone()).collect();
    let mut kit = Kit::begin_with(START, plan(services, vec![alert]), Vec::new(), Vec::new());
    kit.step(devices(vec![disk("vda", &[])], vec![mount("/srv", Some("vda"))]));
    for name in names {
        kit.exec(&name);
    }
    kit
}

fn told(kit: &Kit) -> Vec<(u64, AlertBody)> {
    let alert = |action: &Action| {
        if let Action::Alert { alert, body, .. } = action { Some((*alert, (**body).clone())) } else { None }
    };
    kit.last.iter().filter_map(alert).collect()
}

/// The command of the alert under way ends.
fn done(kit: &mut Kit, alert: u64, result: Result<(), &str>) -> Vec<String> {
    let result = result.map_err(str::to_owned);
    kit.step(Event::Host(Box::new(HostEvent::AlertDone { alert, result })))
}

/// The one alert of the last step, whose command succeeds.
fn one(kit: &mut Kit) -> AlertBody {
    let (alert, body) = told(kit).pop().expect("an alert");
    done(kit, alert, Ok(()));
    body
}

fn memory(kit: &Kit) -> HostMemory {
    kit.engine.host_memory()
}

/// Fails at once, and for good.
fn frail() -> ServicePlan {
    let mut api = service("api");
    api.budget = Some(Budget { restarts: 1, then: BudgetSpent::Retry, ..Budget::default() });
    api.needs =
        Some(Box::new(Needs { data: vec!["/srv".into()], nics: Vec::new(), on_disk_failing: OnDiskFailing::Ignore }));
    api
}

fn spend(kit: &mut Kit) {
    kit.exit("api", 1);
    kit.pass(Duration::from_secs(1));
    kit.exec("api");
    kit.exit("api", 1);
}

#[test]
fn one_alert_a_transition_then_rarer_and_rarer_reminders_and_the_end() {
    let mut kit = begin(Vec::new(), alert(&[AlertOn::Failing, AlertOn::Recovered], 10));
    assert!(kit.check(Memory, "", Health::Degraded, "91 %").is_empty());
    assert_eq!(kit.check(Memory, "", Health::Failing, "98 %"), ["alert failing check memory"]);
    let body = one(&mut kit);
    assert_eq!((body.state.as_str(), body.text.as_str()), ("failing", "check memory: failing: 98 %"));
    let mut at = Vec::new();
    for hour in 1..100_u64 {
        if kit.pass(HOUR) == ["alert reminder check memory"] {
            at.push((hour, one(&mut kit).reminder));
        }
    }
    assert_eq!(at, [(1, 1), (3, 2), (7, 3), (15, 4), (31, 5), (55, 6), (79, 7)], "at last once a day");
    assert_eq!(kit.check(Memory, "", Health::Ok, "40 %"), ["alert recovered check memory"]);
    assert_eq!(one(&mut kit).text, "check memory: ok: 40 %");
    assert_eq!(kit.engine.next_deadline(), None, "nothing is armed when nothing is wrong");
}

#[test]
fn a_check_that_cannot_tell_has_not_recovered() {
    let mut kit = begin(Vec::new(), alert(&[AlertOn::Failing, AlertOn::Recovered], 10));
    kit.check(Memory, "", Health::Failing, "98 %");
    one(&mut kit);
    assert!(kit.check(Memory, "", Health::Unknown, "no sample").is_empty());
    assert!(kit.check(Memory, "", Health::Failing, "98 %").is_empty(), "nor is it news");
    assert_eq!(kit.check(Memory, "", Health::Degraded, "91 %"), ["alert recovered check memory"]);
}

#[test]
fn a_failed_service_is_told_with_its_causes_and_when_it_is_ready_again() {
    let mut kit = begin(vec![frail()], alert(&[AlertOn::Failing, AlertOn::Recovered], 10));
    spend(&mut kit);
    let body = one(&mut kit);
    assert_eq!((body.event.as_str(), body.subject.as_str(), body.state.as_str()), ("failing", "service api", "failed"));
    assert!(body.text.contains("restart budget spent") && body.why.len() >= 3, "{body:?}");
    // The one try after the hold is no end and no new story.
    kit.pass(Duration::from_secs(60));
    kit.exec("api");
    let body = one(&mut kit);
    assert_eq!((body.event.as_str(), body.text.as_str()), ("recovered", "service api: ready"));
    // An operator who stops it knows.
    kit.pass(Duration::from_secs(100));
    spend(&mut kit);
    assert_eq!(one(&mut kit).event, "failing");
    kit.command(Verb::Stop, "api");
    kit.persist();
    assert!(told(&kit).is_empty());
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn what_follows_from_a_failing_disk_is_not_told_beside_it() {
    let mut kit = begin(vec![frail()], alert(&[AlertOn::Failing, AlertOn::Recovered], 10));
    kit.check(DiskHung, "vda", Health::Failing, "no answer for 12s");
    let body = one(&mut kit);
    assert_eq!(
        (body.subject.as_str(), body.services.as_slice()),
        ("check disk_hung vda", ["api".to_owned()].as_slice())
    );
    for kind in [Filesystem, DiskSpace] {
        assert!(kit.check(kind, "/srv", Health::Failing, "no answer").is_empty());
    }
    spend(&mut kit);
    assert!(told(&kit).is_empty(), "its disk is to blame");
    // What is still wrong a while after is told.
    kit.check(Filesystem, "/srv", Health::Ok, "written");
    assert_eq!(kit.check(DiskHung, "vda", Health::Ok, "answers"), ["alert recovered check disk_hung vda"]);
    one(&mut kit);
    kit.command(Verb::Start, "api");
    kit.persist();
    kit.exec("api");
    assert_eq!(kit.pass(Duration::from_secs(29)), Vec::<String>::new());
    assert_eq!(kit.pass(Duration::from_secs(1)), ["alert failing check disk_space /srv"]);
}

#[test]
fn beyond_the_cap_one_summary_is_told_when_there_is_room() {
    let mut kit = begin(Vec::new(), alert(&[AlertOn::Failing, AlertOn::Degraded, AlertOn::Recovered], 2));
    let mut sent = 0;
    for round in 0..20 {
        let to = if round % 2 == 0 { Health::Failing } else { Health::Ok };
        kit.check(DiskErrors, "vda", to, "errors");
        for (alert, _) in told(&kit) {
            sent += 1;
            done(&mut kit, alert, Ok(()));
        }
        kit.pass(Duration::from_secs(10));
    }
    kit.check(DiskSpace, "/srv", Health::Failing, "98 %");
    assert_eq!(sent, 2);
    let words = kit.pass(HOUR - Duration::from_secs(200));
    assert_eq!(words, ["alert summary alerts"]);
    assert!(kit.notes().contains(&"agent: 19 alerts above the cap were told as one".to_owned()), "{:?}", kit.notes());
    let body = one(&mut kit);
    assert_eq!(
        (body.suppressed, body.why.as_slice()),
        (19, ["check disk_space /srv: failing: 98 %".to_owned()].as_slice())
    );
}

#[test]
fn one_is_under_way_and_a_flood_behind_it_is_bounded() {
    let mut kit = begin(Vec::new(), alert(&[AlertOn::Failing], 1_000));
    assert_eq!(kit.check(DiskErrors, "d0", Health::Failing, "errors").len(), 1);
    let (first, _) = told(&kit).remove(0);
    for number in 1..=80 {
        assert!(kit.check(DiskErrors, &format!("d{number}"), Health::Failing, "errors").is_empty());
    }
    assert_eq!(done(&mut kit, first, Ok(())), ["alert summary alerts"]);
    let body = one(&mut kit);
    assert_eq!(body.suppressed, 16, "64 wait");
    assert_eq!(told(&kit).pop().map(|(_, body)| body.subject), Some("check disk_errors d17".to_owned()));
}

#[test]
fn a_command_that_fails_is_run_once_more_and_then_told_of() {
    let mut kit = begin(Vec::new(), alert(&[AlertOn::Failing], 10));
    kit.check(Memory, "", Health::Failing, "98 %");
    let (alert, _) = told(&kit).remove(0);
    assert!(done(&mut kit, alert, Err("exit code 7")).is_empty());
    assert_eq!(kit.pass(Duration::from_secs(10)), ["alert failing check memory"]);
    assert_eq!(told(&kit)[0].0, alert, "the same one");
    // The second time it says nothing at all.
    kit.pass(Duration::from_secs(60));
    assert!(kit.notes().iter().any(|note| note == "agent: alert /bin/page: the command has not ended"));
    let before = kit.engine.counters().stale_events;
    done(&mut kit, alert, Ok(()));
    assert_eq!(kit.engine.counters().stale_events, before + 1);
}

#[test]
fn what_was_told_outlives_the_agent() {
    let on = [AlertOn::Failing, AlertOn::Recovered];
    let mut kit = begin(vec![frail()], alert(&on, 10));
    spend(&mut kit);
    one(&mut kit);
    let written = kit.engine.host_memory();
    let text = serde_json::to_string(&written).expect("it is written as JSON");
    assert_eq!(serde_json::from_str::<HostMemory>(&text).expect("and read"), memory(&kit));
    let found = vec![kit.found("api", FoundProcess::Gone { exit: None })];
    let begin =
        Event::Begin { found, decisions: Vec::new(), host: Some(Box::new(written)), fences: None, tables: None };
    let mut next = Kit::begin_on(kit.now.mono, plan(vec![frail()], vec![alert(&on, 10)]), begin);
    let words = next.pass(Duration::from_secs(70));
    assert!(!words.iter().any(|word| word.starts_with("alert")), "nothing is repeated: {words:?}");
    next.exec("api");
    assert_eq!(one(&mut next).event, "recovered");
}

#[test]
fn what_was_wrong_before_this_agent_is_looked_at_again_before_it_is_told() {
    let on = [AlertOn::Failing, AlertOn::Recovered];
    let mut kit = begin(vec![frail()], alert(&[AlertOn::Recovered], 10));
    spend(&mut kit);
    let found = vec![kit.found("api", FoundProcess::Gone { exit: None })];
    let begin = Event::Begin { found, decisions: Vec::new(), host: None, fences: None, tables: None };
    let mut next = Kit::begin_on(kit.now.mono, plan(vec![frail()], vec![alert(&on, 10)]), begin);
    assert!(next.words().is_empty());
    assert!(next.pass(Duration::from_secs(9)).is_empty());
    assert_eq!(next.pass(Duration::from_secs(1)), ["alert failing service api"]);
}

#[test]
fn a_reload_keeps_what_each_command_was_told() {
    let on = [AlertOn::Failing, AlertOn::Recovered];
    let mut kit = begin(Vec::new(), alert(&on, 10));
    kit.check(Memory, "", Health::Failing, "98 %");
    one(&mut kit);
    let mut other = alert(&on, 10);
    other.exec = vec!["/bin/mail".to_owned()];
    let reload = |alerts| {
        let plan = Box::new(plan(Vec::new(), alerts));
        Event::Reload { request: None, caller: crate::engine::event::Caller::Agent, plan }
    };
    assert_eq!(
        kit.step(reload(vec![other, alert(&on, 10)])),
        ["alert failing check memory"],
        "the new one knows nothing"
    );
    one(&mut kit);
    kit.step(reload(Vec::new()));
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn an_alert_of_a_fence_says_once_what_the_service_is() {
    let mut kit = begin(vec![service("api")], alert(&[AlertOn::Fenced], 10));
    kit.command(Verb::Fence(FenceLevel::Hold), "api");
    let body = one(&mut kit);
    assert_eq!(body.text, "service api: killed: fenced by the agent (not proven yet); its processes are being killed");
}
