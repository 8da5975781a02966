//! What happens to a service when another one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Agent, SOON, free_ports, proc, sample, shell};

#[test]
fn dependent_of_a_stopped_service_waits_and_comes_back_by_itself() {
    let services = [sample("db", "--notify", "ready: Notify"), sample("api", "", "requires: [\"db\"]")];
    let mut agent = Agent::running(&services.concat());
    agent.wait_for("api", "ready");
    agent.cli_ok(&["stop", "db"]);
    agent.wait_for("api", "waiting");
    assert!(agent.service_pid("api").is_none());
    let why = agent.cli(&["why", "api"]).stdout;
    assert!(why.contains("db"), "{why}");
    let tree = agent.cli(&["tree"]).stdout;
    assert!(tree.contains("api") && tree.contains("db"), "{tree}");
    agent.cli_ok(&["start", "db"]);
    agent.wait_until("api is back", SOON, |agent| agent.state("api") == "ready");
}

#[test]
fn dependent_waits_for_one_that_never_comes_up_and_a_wish_does_not() {
    let services = [
        sample("db", "--notify --never-ready", "ready: Notify"),
        sample("needs", "", "requires: [\"db\"]"),
        shell("broken", "exit 1", "restart: Never"),
        sample("wishes", "", "wants: [\"broken\"]"),
    ];
    let agent = Agent::running(&services.concat());
    agent.wait_for("wishes", "ready");
    assert_eq!(agent.state("needs"), "waiting");
    let edges = agent.service("needs")["edges"].clone();
    assert_eq!(edges[0]["to"], "db", "{edges:#}");
    assert_eq!(edges[0]["blocking"], true);
}

#[test]
fn restart_with_follows_a_restart() {
    let services = [sample("db", "", ""), sample("api", "", "after: [\"db\"], restart_with: [\"db\"]")];
    let mut agent = Agent::running(&services.concat());
    agent.wait_for("api", "ready");
    let (db, api) = (agent.service_pid("db"), agent.service_pid("api"));
    agent.cli_ok(&["restart", "db"]);
    agent.wait_until("both have another process", SOON, |agent| {
        let changed = |name: &str, before| agent.service_pid(name).is_some_and(|pid| Some(pid) != before);
        changed("db", db) && changed("api", api) && agent.state("api") == "ready"
    });
}

#[test]
fn rolling_restart_leaves_one_replica_reachable_at_any_time() {
    let port = free_ports(2);
    let agent = Agent::running(&sample(
        "a",
        "--listen 127.0.0.1:{port} --listen-after 200ms",
        &format!("replicas: 2, port: {port}, ready: Tcp(\"127.0.0.1:{{port}}\")"),
    ));
    agent.wait_for("a", "ready");
    let both = || (0..2).all(|index| agent.replica("a", index)["state"] == "ready");
    let deadline = std::time::Instant::now() + SOON;
    while !both() {
        assert!(std::time::Instant::now() < deadline, "both replicas are ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    let before: Vec<_> = (0..2).map(|index| agent.replica("a", index)["pid"].clone()).collect();
    let over = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                let reachable = (0..2).any(|index| std::net::TcpStream::connect(("127.0.0.1", port + index)).is_ok());
                assert!(reachable, "no replica was reachable at look {looks}");
                looks += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            looks
        }
    });
    agent.cli_ok(&["restart", "a"]);
    over.store(true, Ordering::Relaxed);
    assert!(watcher.join().expect("reachable throughout") > 10);
    assert!(both(), "the command returns when all are ready again");
    for (index, before) in before.iter().enumerate() {
        assert_ne!(&agent.replica("a", index)["pid"], before);
    }
}

#[test]
fn restart_of_one_replica_leaves_the_other_alone() {
    let agent = Agent::running(&sample("a", "", "replicas: 2"));
    agent.wait_for("a", "ready");
    let pid = |index| agent.replica("a", index)["pid"].clone();
    let deadline = std::time::Instant::now() + SOON;
    while pid(0).is_null() || pid(1).is_null() {
        assert!(std::time::Instant::now() < deadline, "both run");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (first, second) = (pid(0), pid(1));
    agent.cli_ok(&["restart", "a/1"]);
    assert_eq!(pid(0), first);
    assert_ne!(pid(1), second);
    assert!(proc::is_alive(i32::try_from(first.as_i64().unwrap()).unwrap()));
}

#[test]
fn listening_socket_outlives_every_restart() {
    let port = free_ports(1);
    let mut agent = Agent::running(&sample(
        "a",
        "--listen-fd",
        &format!("listen: [\"tcp:127.0.0.1:{port}\"], ready: Tcp(\"127.0.0.1:{port}\"), backoff: (min: \"100ms\")"),
    ));
    agent.wait_for("a", "ready");
    let over = Arc::new(AtomicBool::new(false));
    let client = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) {
                match proc::http_try(port, "/") {
                    Ok(_) => answered += 1,
                    // A request that the killed process had taken is lost with it; a refused one would be our fault.
                    Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused),
                }
            }
            answered
        }
    });
    for run in 1..4 {
        agent.wait_until("it runs", SOON, |agent| agent.run_of("a") == run && agent.state("a") == "ready");
        std::thread::sleep(Duration::from_millis(50));
        let pid = agent.service_pid("a").unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    agent.wait_until("it runs", SOON, |agent| agent.run_of("a") == 4 && agent.state("a") == "ready");
    agent.cli_ok(&["restart", "a"]);
    agent.kill();
    agent.start();
    agent.wait_for("a", "ready");
    std::thread::sleep(Duration::from_millis(100));
    over.store(true, Ordering::Relaxed);
    // The client may be waiting for an answer that comes from the running service.
    assert!(client.join().expect("never refused") > 0);
}
