use expect_test::expect;

use super::super::proto;
use super::super::testing::{World, stamp, usage};
use super::*;

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn a_service_has_the_fields_of_the_interface() {
    let world = World::new();
    let mut views = world.views();
    views[0].replicas.remove(0);
    let services = services(&views[..1], Roles::Hidden, &usage, &stamp());
    expect![[r#"
        {
          "at": "2026-11-22T08:00:00Z",
          "seq": 812,
          "services": [
            {
              "name": "api",
              "state": "ready",
              "health": "failing",
              "wanted": true,
              "why": null,
              "impaired": null,
              "kind": "daemon",
              "role": false,
              "edges": [],
              "replicas": [
                {
                  "replica": 1,
                  "state": "backoff",
                  "health": "failing",
                  "pid": null,
                  "run": 3,
                  "since_ms": 2000,
                  "restarts": 2,
                  "last_exit": {
                    "code": null,
                    "signal": 11,
                    "core": true,
                    "oom": false,
                    "at": "2026-11-22T08:00:00Z"
                  },
                  "cpu_percent": null,
                  "memory_bytes": null,
                  "release": null,
                  "fence": null,
                  "limits": null,
                  "wanted": true,
                  "flapping": true,
                  "pending_restart": false,
                  "drained": false,
                  "frozen": false,
                  "port": 9002,
                  "why": "exited with code 1",
                  "next": {
                    "what": "restart 3 of 10",
                    "at": "2026-11-22T08:00:00.800Z",
                    "in_ms": 800
                  },
                  "status": null
                }
              ]
            }
          ]
        }"#]]
    .assert_eq(&pretty(&services));
}

#[test]
fn roles_are_shown_on_request_only() {
    let world = World::new();
    let names = |roles| -> Vec<String> {
        services(&world.views(), roles, &usage, &stamp()).services.into_iter().map(|service| service.name).collect()
    };
    assert_eq!(names(Roles::Hidden), ["api", "web", "db", "job"]);
    assert_eq!(names(Roles::Shown), ["api", "web", "db", "job", "@logs"]);
}

#[test]
fn health_is_what_the_wanted_replicas_are() {
    let world = World::new();
    let words: Vec<&str> = world.views().iter().map(health).collect();
    assert_eq!(words, ["degraded", "unknown", "failing", "unknown", "ok"]);
}

#[test]
fn why_follows_the_blocking_edge_to_the_first_cause() {
    let world = World::new();
    let views = world.views();
    let why = why(&views[1], &views, &stamp());
    expect![[r#"
        {
          "at": "2026-11-22T08:00:00Z",
          "seq": 812,
          "service": "web",
          "state": "waiting",
          "wanted": true,
          "why": "waits for db",
          "impaired": null,
          "replicas": [
            {
              "replica": 0,
              "state": "waiting",
              "since_ms": 14000,
              "why": null,
              "chain": [],
              "next": null,
              "fence": null,
              "last_lines": []
            }
          ],
          "blocked_by": [
            {
              "service": "db",
              "state": "backoff",
              "wanted": true,
              "why": "exited with code 1",
              "impaired": null,
              "replicas": [
                {
                  "replica": 0,
                  "state": "backoff",
                  "since_ms": 12000,
                  "why": "exited with code 1",
                  "chain": [
                    {
                      "at": "2026-11-22T07:59:46Z",
                      "text": "started as pid 4711"
                    },
                    {
                      "at": "2026-11-22T07:59:48Z",
                      "text": "exited with code 1 after 2s"
                    }
                  ],
                  "next": {
                    "what": "restart 3 of 10",
                    "at": "2026-11-22T08:00:00.800Z",
                    "in_ms": 800
                  },
                  "fence": null,
                  "last_lines": [
                    "cannot open the data file"
                  ]
                }
              ],
              "blocked_by": []
            }
          ]
        }"#]]
    .assert_eq(&pretty(&why));
}

#[test]
fn services_that_wait_for_each_other_end_the_story_somewhere() {
    let world = World::new();
    let mut views = world.views();
    let plan_name = views[1].plan.name.as_str();
    views[2].edges = vec![crate::engine::view::EdgeView { to: plan_name, kind: EdgeKind::Requires, blocking: true }];
    let mut story = &why(&views[1], &views, &stamp()).story;
    let mut depth = 0;
    while let Some(next) = story.blocked_by.first() {
        story = next;
        depth += 1;
    }
    assert_eq!(depth, STORY_DEPTH_MAX);
}

#[test]
fn secrets_are_not_in_the_configuration_that_is_shown() {
    let world = World::new();
    let plan = Plan { services: vec![world.views()[0].plan.clone()], ..Plan::default() };
    let text = pretty(&config(&plan, "/etc/mainstay/mainstay.ron", &stamp()));
    assert!(text.contains("TOKEN") && text.contains("redacted") && !text.contains("secret"), "{text}");
}

#[test]
fn outcomes_become_answers() {
    let answer = |outcome: Outcome, wait| {
        let response = super::outcome(&outcome, "api", None, wait, &stamp());
        format!("{} {}", response.status, String::from_utf8(response.body).unwrap())
    };
    assert_eq!(
        answer(Outcome::Done { persisted: true }, Wait::Outcome),
        "200 {\"at\":\"2026-11-22T08:00:00Z\",\"seq\":812,\"service\":\"api\",\"replica\":null,\"outcome\":\"done\",\"persisted\":true}\n"
    );
    assert!(
        answer(Outcome::Done { persisted: false }, Wait::Decision)
            .contains("\"outcome\":\"accepted\",\"persisted\":false")
    );
    let failed = answer(Outcome::Failed { why: "exited with code 1".to_owned() }, Wait::Outcome);
    assert_eq!(
        failed,
        "422 {\"error\":{\"code\":\"service.failed\",\"message\":\"exited with code 1\",\"hint\":\"mainstay why api\"}}\n"
    );
    assert!(answer(Outcome::Conflict { message: "it is stuck".to_owned() }, Wait::Outcome).starts_with("409 "));
    let unknown = Outcome::Unknown { message: "no service \"api\"".to_owned(), hint: None };
    assert!(answer(unknown, Wait::Outcome).starts_with("404 "));
    let change = action::Change { service: "api".to_owned(), effect: Effect::Live, why: "logs.keep".to_owned() };
    let reloaded = answer(Outcome::Reloaded { changes: vec![change] }, Wait::Outcome);
    assert!(
        reloaded.contains(
            "\"dry_run\":false,\"changes\":[{\"service\":\"api\",\"effect\":\"live\",\"why\":\"logs.keep\"}]"
        )
    );
}

#[test]
fn a_wrong_name_is_answered_with_the_nearest() {
    let world = World::new();
    let hint = |name: &str| unknown_service(name, &world.views()).hint.unwrap();
    assert_eq!(hint("wbe"), "mainstay status lists the services");
    assert_eq!(hint("webb"), "did you mean \"web\"?");
    assert_eq!(hint("api-1"), "mainstay status lists the services");
    assert_eq!(nearest("databse", ["web", "database"].into_iter()), Some("database"));
}

#[test]
fn a_client_reads_words_and_fields_of_later_versions() {
    let world = World::new();
    let sent = services(&world.views(), Roles::Shown, &usage, &stamp());
    let text = serde_json::to_string(&sent).unwrap();
    assert_eq!(serde_json::from_str::<proto::Services>(&text).unwrap(), sent);
    let later = text.replace("\"state\":\"ready\"", "\"state\":\"levitating\",\"colour\":\"blue\"");
    let read: proto::Services = serde_json::from_str(&later).unwrap();
    assert_eq!(read.services[0].state, "levitating");
    let detail = serde_json::to_string(&service_detail(&world.views()[0], &usage, &stamp())).unwrap();
    let detail: proto::ServiceDetail = serde_json::from_str(&detail).unwrap();
    assert_eq!((detail.service.name.as_str(), detail.command.len(), detail.seq), ("api", 3, 812));
}

#[test]
fn what_services_said_is_concealed_down_the_whole_chain() {
    let world = World::new();
    let views = world.views();
    let of = |name: &str| views.iter().find(|view| view.plan.name == name).unwrap();
    let mut told = why(of("web"), &views, &stamp());
    assert_eq!(told.story.blocked_by[0].replicas[0].last_lines, ["cannot open the data file"]);
    conceal_story(&mut told.story);
    let text = serde_json::to_string(&told).unwrap();
    assert!(!text.contains("data file") && text.contains("exited with code 1"), "{text}");
    let mut detail = service_detail(of("api"), &usage, &stamp());
    detail.service.replicas[0].status = Some("token is swordfish".to_owned());
    conceal(&mut detail.service);
    assert!(!serde_json::to_string(&detail).unwrap().contains("swordfish"));
}

#[test]
fn service_whose_disk_fails_is_degraded_although_it_is_ready() {
    let world = World::new();
    let mut view = world.views().remove(4);
    view.impaired = Some("disk_hung sda: nothing is completed for 12s".to_owned());
    let shown = service_detail(&view, &usage, &stamp()).service;
    assert_eq!((shown.state.as_ref(), shown.health.as_ref()), ("ready", "degraded"));
    assert_eq!(shown.impaired.as_deref(), Some("disk_hung sda: nothing is completed for 12s"));
}
