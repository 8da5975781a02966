//! A changed file: what is planned, what is applied, what is refused.

use nix::sys::signal::Signal;

use crate::support::{Agent, SOON, proc, sample, shell};

#[test]
fn reload_starts_stops_and_restarts_what_the_file_changed_and_nothing_else() {
    let services = [sample("same", "", ""), sample("changed", "", ""), sample("removed", "--fork-child", "")];
    let agent = Agent::running(&services.concat());
    for name in ["same", "changed", "removed"] {
        agent.wait_for(name, "ready");
    }
    let (same, changed) = (agent.service_pid("same"), agent.service_pid("changed"));
    agent.configure(
        &[sample("same", "", ""), sample("changed", "--slow-stop 1ms", ""), sample("added", "", "")].concat(),
    );

    let plan = agent.cli_ok(&["reload", "--dry-run"]);
    let line = |name: &str| plan.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("added").contains("start"), "{plan}");
    assert!(line("changed").contains("restart") && line("changed").contains("command"), "{plan}");
    assert!(line("removed").contains("stop"), "{plan}");
    assert_eq!(agent.service_pid("changed"), changed, "a dry run changes nothing");
    assert_eq!(agent.state("removed"), "ready");

    agent.cli_ok(&["reload"]);
    agent.wait_for("added", "ready");
    let mut agent = agent;
    agent.wait_until("the changed service runs again", SOON, |agent| {
        agent.state("changed") == "ready" && agent.service_pid("changed") != changed
    });
    agent.wait_until("the removed service is gone", SOON, |agent| agent.service("removed").is_null());
    assert_eq!(agent.service_pid("same"), same);
    let runaways = agent.processes_with("--stage grandchild");
    assert!(runaways.is_empty(), "its tree went with it");
}

#[test]
fn fields_that_need_no_restart_are_applied_without_one() {
    let agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a");
    agent.configure(&sample(
        "a",
        "",
        "restart: Always, backoff: (min: \"7ms\"), stop: (timeout: \"3s\"), logs: (keep: 1), \
         budget: (restarts: 3, within: \"1m\")",
    ));
    let changes = agent.post("/v1/config/reload?dry_run=1", "").json();
    assert_eq!(changes["changes"][0]["effect"], "live", "{changes:#}");
    agent.cli_ok(&["reload"]);
    assert_eq!(agent.service_pid("a"), pid);
    assert_eq!(agent.replica("a", 0)["pending_restart"], false);
    let config = agent.get("/v1/config").body;
    assert!(config.contains("7000000") || config.contains("7ms"), "the new back-off is in force: {config}");
}

#[test]
fn hup_reloads() {
    let mut agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    agent.configure(&[sample("a", "", ""), sample("b", "", "")].concat());
    agent.signal(Signal::SIGHUP);
    agent.wait_until("the new service is ready", SOON, |agent| agent.state("b") == "ready");
}

#[test]
fn bad_file_is_refused_with_78_and_the_old_configuration_stays() {
    let agent = Agent::running(&sample("a", "", ""));
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a");
    agent.configure(
        &[sample("a", "", "requires: [\"nobody-knows\"], restart: Sometimes"), shell("b", "true", "kind: Once")]
            .concat(),
    );
    let ended = agent.cli(&["reload"]);
    assert_eq!(ended.code, 78, "{ended:?}");
    for part in ["nobody-knows", "Sometimes", "Once"] {
        assert!(ended.stderr.contains(part), "every error at once: {}", ended.stderr);
    }
    assert_eq!(agent.state("a"), "ready");
    assert_eq!(agent.service_pid("a"), pid);
    agent.signal(Signal::SIGHUP);
    let mut agent = agent;
    agent.wait_until("the refusal is in the journal", SOON, |agent| {
        agent.events().iter().any(|event| event["type"] == "reload_refused")
    });
    assert!(proc::is_alive(pid.unwrap()));
}

#[test]
fn agent_does_not_start_with_a_bad_file() {
    let mut agent = Agent::prepared(crate::support::As::Me);
    agent.configure(&sample("a", "", "restart: Sometimes"));
    agent.spawn(&[]);
    assert_eq!(agent.wait_exit(SOON).code(), Some(78));
    let said = std::fs::read_to_string(agent.path("agent.log")).unwrap();
    assert!(said.contains("Sometimes") && said.contains("mainstay.ron:"), "{said}");
}

#[test]
fn changed_file_is_applied_by_the_agent_that_comes_after_a_kill() {
    let mut agent = Agent::running(&[sample("a", "", ""), sample("b", "", "")].concat());
    agent.wait_for("a", "ready");
    agent.wait_for("b", "ready");
    let pid = agent.service_pid("a");
    agent.kill();
    agent.configure(&[sample("a", "--slow-stop 1ms", ""), sample("c", "", "")].concat());
    agent.start();
    agent.wait_for("c", "ready");
    agent.wait_until("what left the file is stopped", SOON, |agent| {
        agent.processes_with("--name b").is_empty() && agent.service("b").is_null()
    });
    let replica = agent.replica("a", 0);
    assert_eq!(agent.service_pid("a"), pid, "adopted as it is: {replica:#}");
    assert_eq!(replica["pending_restart"], true, "{replica:#}");
}
