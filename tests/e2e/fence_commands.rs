//! Fences by hand, from the command line and the API: exit codes, evidence, and who may what.

use serde_json::Value;

use crate::support::{Agent, head, sample, shell};

fn agent() -> Agent {
    let agent = Agent::running(&[sample("a", "", "replicas: 2"), shell("b", "sleep 1000 & wait", "")].concat());
    agent.wait_for("a", "ready");
    agent.wait_for("b", "ready");
    agent
}

fn fences(agent: &Agent) -> Value {
    agent.get("/v1/fences").json()
}

#[test]
fn what_is_held_stays_down_until_it_is_unfenced() {
    let mut agent = agent();
    assert_eq!(agent.cli(&["fences"]).code, 0);
    assert_eq!(agent.cli_ok(&["fence", "b", "--why", "eats the cake"]), "b: held\n");
    assert_eq!(agent.state("b"), "held");
    assert!(agent.processes_with("sleep 1000").is_empty(), "{:?}", agent.survivors());
    let listing = agent.cli(&["fences"]);
    assert_eq!(listing.code, 3, "{listing:?}");
    assert!(listing.stdout.contains("b/0") && listing.stdout.contains("eats the cake"), "{listing:?}");
    let refused = agent.cli(&["start", "b"]);
    assert!(refused.code == 1 && refused.stderr.contains("mainstay unfence b"), "{refused:?}");
    assert!(agent.cli_ok(&["why", "b"]).contains("eats the cake"));
    // Neither a new agent nor its death lifts it.
    agent.kill();
    agent.start();
    agent.wait_for("b", "held");
    assert_eq!(agent.cli_ok(&["unfence", "b"]), "b: no longer fenced\n");
    agent.wait_for("b", "ready");
    assert_eq!(agent.cli(&["fences"]).code, 0);
}

#[test]
fn evidence_says_who_and_what_proves_it() {
    let agent = agent();
    agent.cli_ok(&["fence", "a/1", "--why", "eats the cake"]);
    assert_eq!(
        (agent.replica("a", 0)["state"].clone(), agent.replica("a", 1)["state"].clone()),
        ("ready".into(), "held".into())
    );
    let active = &fences(&agent)["fences"][0];
    assert_eq!((&active["service"], &active["replica"], &active["level"]), (&"a".into(), &1.into(), &"hold".into()));
    assert_eq!((&active["state"], &active["trigger"]), (&"proven".into(), &"operator".into()));
    let id = active["id"].as_u64().unwrap();
    let record = agent.get(&format!("/v1/fences/records/{id}")).json();
    assert!(record["evidence"][0].as_str().unwrap().contains("eats the cake"), "{record:#}");
    let last = record["steps"].as_array().unwrap().last().unwrap().clone();
    assert!(last["proven_after_us"].is_u64() && last["processes_after"] == 0, "{record:#}");
    assert_eq!(agent.replica("a", 1)["fence"]["id"].as_u64(), Some(id));
    for name in [id.to_string(), "a/1".to_owned(), "a".to_owned()] {
        let told = agent.cli(&["fences", &name]).stdout;
        assert!(told.contains("proven") && told.contains("by an operator"), "{told}");
    }
    agent.cli_ok(&["unfence", "a"]);
    let past = &fences(&agent)["records"][0];
    assert_eq!((past["id"].as_u64(), &past["state"]), (Some(id), &"released".into()));
}

#[test]
fn mistakes_have_the_exit_codes_of_the_manual() {
    let agent = agent();
    let code = |arguments: &[&str]| agent.cli(arguments).code;
    assert_eq!(code(&["fence", "nope"]), 4);
    assert_eq!(code(&["unfence", "nope"]), 4);
    assert_eq!(code(&["fences", "nope"]), 4);
    assert_eq!(code(&["fences", "1"]), 4);
    assert_eq!(code(&["fence", "b", "--level", "gently"]), 2);
    assert_eq!(code(&["fence", "b", "--why", "two\nlines"]), 1);
    assert_eq!(code(&["fence"]), 2);
    assert_eq!(code(&["unfence", "b"]), 0, "there is nothing to lift, and nothing wrong with that");
    assert_eq!(agent.state("b"), "ready");
}

#[test]
fn the_api_sets_and_lifts_and_everybody_may_look() {
    let agent = agent();
    let answer = agent.post("/v1/fences/b", "{\"level\":\"kill\",\"why\":\"eats the cake\"}");
    assert_eq!(answer.status, 200, "{answer:?}");
    agent.wait_for("b", "held");
    let public = agent.raw("read.sock", &head("GET", "/v1/fences", ""));
    assert_eq!((public.status, &public.json()["automatic"]["used"]), (200, &0.into()));
    assert_eq!(agent.raw("read.sock", &head("DELETE", "/v1/fences/b", "")).status, 403);
    let untyped = agent.raw("mainstay.sock", &head("POST", "/v1/fences/b", "Content-Length: 0\r\n"));
    assert_eq!(untyped.status, 400, "{untyped:?}");
    let page = agent.raw("mainstay.sock", &head("DELETE", "/v1/fences/b", "Origin: http://localhost:8000\r\n"));
    assert_eq!(page.status, 403, "{page:?}");
    assert_eq!(agent.state("b"), "held");
    assert_eq!(agent.raw("mainstay.sock", &head("DELETE", "/v1/fences/b", "")).status, 200);
    agent.wait_for("b", "ready");
    assert_eq!(agent.get("/v1/fences/b").status, 405);
    assert_eq!(agent.get("/v1/fences/records/1").status, 404);
    assert!(agent.get("/metrics").body.contains("mainstay_fences_total{service=\"b\",trigger=\"operator\"} 1"));
}
