//! The same without any right: no root, no cgroups.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, As, NOBODY, SOON, free_ports, proc, sample, shell};

#[test]
fn everything_but_groups_works_without_root() {
    let port = free_ports(1);
    let services = [
        sample("db", "--notify --ready-after 100ms", "ready: Notify"),
        sample(
            "web",
            "--listen-fd --fork-child",
            &format!(
                "requires: [\"db\"], listen: [\"tcp:127.0.0.1:{port}\"], ready: Http(\"http://127.0.0.1:{port}/healthz\"), \
                 backoff: (min: \"10ms\"), stop: (timeout: \"500ms\")"
            ),
        ),
        shell("once", "id -u", "kind: Oneshot"),
        shell("exec", "exec sleep 1000", "ready: Exec([\"/bin/true\"])"),
    ];
    let mut agent = Agent::running_as(As::Unprivileged, &services.concat());
    for name in ["db", "web", "exec"] {
        agent.wait_for(name, "ready");
    }
    agent.wait_for("once", "done");
    if nix::unistd::geteuid().is_root() {
        agent.wait_until("its user is nobody", SOON, |agent| {
            agent.cli_ok(&["logs", "once"]).trim() == NOBODY.to_string()
        });
    }
    assert_eq!(agent.cli(&["status"]).code, 0);

    let first = agent.service_pid("web").unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    agent.wait_until("it came back", SOON, |agent| {
        agent.service_pid("web").is_some_and(|pid| pid != first) && agent.state("web") == "ready"
    });
    agent.wait_until("one runaway, that of the second run", SOON, |agent| {
        agent.processes_with("--stage grandchild").len() == 1
    });

    let pid = agent.service_pid("web");
    agent.kill();
    assert!(proc::is_alive(pid.unwrap()));
    agent.start();
    agent.wait_for("web", "ready");
    assert_eq!(agent.service_pid("web"), pid, "adopted");

    agent.cli_ok(&["stop", "web"]);
    assert!(agent.processes_with("--listen-fd").is_empty());
    assert!(agent.processes_with("--stage grandchild").is_empty());
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait_exit(SOON).code(), Some(0));
    assert_eq!(agent.survivors(), []);
}

#[test]
fn what_cannot_be_promised_is_said() {
    let agent = Agent::running_as(As::Unprivileged, &sample("a", "", ""));
    agent.wait_for("a", "ready");
    let limits = agent.get("/v1").json()["limits"].clone();
    let said = limits.as_array().is_some_and(|limits| limits.iter().any(|limit| limit.to_string().contains("cgroup")));
    assert!(said, "{limits:#}");
}

#[test]
fn service_is_adopted_once_although_the_place_of_the_groups_has_changed() {
    let mut agent = Agent::prepared(As::Me);
    let services = sample("a", "", "");
    agent.write_config(&format!(
        "(agent: (run_dir: \"$DIR/run\", state_dir: \"$DIR/state\", log_dir: \"$DIR/log\", cgroup: Off), services: [\n{services}\n])"
    ));
    agent.start();
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.kill();
    agent.configure(&services);
    agent.start();
    agent.wait_for("a", "ready");
    assert_eq!(agent.service_pid("a"), Some(pid));
    assert_eq!(agent.processes_with("--name a"), [pid]);
    agent.cli_ok(&["restart", "a"]);
    assert_eq!(agent.processes_with("--name a"), [agent.service_pid("a").unwrap()]);
    assert_ne!(agent.service_pid("a"), Some(pid));
}
