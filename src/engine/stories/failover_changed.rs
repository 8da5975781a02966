//! What the configuration says of a set that has moved, and of what would keep a failover from helping.

use std::time::Duration;

use super::failover::{
    at_rest, begin, done, failback, fails, link, materialised, ordered, over, set, stage, switch_of, switched,
};
use crate::engine::copies::event::Direction;
use crate::engine::copies::plan::{CopyPlan, OnSourceFailing};
use crate::engine::event::{Caller, Event};
use crate::engine::plan::{Needs, Plan};
use crate::engine::stories::host_helpers::{devices, disk, mount};
use crate::engine::testkit::Kit;
use crate::engine::types::{RequestId, StateName};

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
