//! A disk that fails under a service whose set says `Restore`: the service goes on from the newest copy, and back by hand.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Agent, As, LoopDisk, SOON, apart};

/// A service that notes, at each start, what it finds in its data, and then writes to it.
fn service() -> String {
    let script = "cat $DIR/data/file >> $DIR/seen; echo run >> $DIR/data/written; exec sleep 1000";
    format!(
        "(name: \"api\", command: [\"/bin/sh\", \"-c\", \"{script}\"], data: [\"$DIR/data\"], stop: (timeout: \"2s\"), start_timeout: \"5s\")"
    )
}

const AFTER: &str = "500ms";

fn configure(agent: &Agent, more: &str) {
    let set = format!(
        "(name: \"d\", from: [\"$DIR/data\"], to: \"$DIR/to\", same_disk: true, on_source_failing: Restore, failover: (after: \"{AFTER}\"){more})"
    );
    let check = "checks: [(name: \"data\", check: Filesystem(path: \"$DIR/data\"), every: \"1s\", rise: 1)],\n";
    agent.configure_with(&service(), &format!("{check}copies: [{set}],\n"));
}

/// Whatever is mounted there goes with it, above the disk and the disk itself.
struct Disk {
    point: PathBuf,
    disk: LoopDisk,
}

impl Disk {
    fn find_an_error(&self) {
        self.disk.find_an_error();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.point, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// A set with one copy, whose source is a disk of its own with a service on it.
fn begin() -> Option<(Agent, Disk)> {
    let mut agent = Agent::prepared(As::Me);
    let disk = disk(&agent)?;
    fs::create_dir(agent.path("to")).unwrap();
    fs::write(agent.path("data/file"), "first\n").unwrap();
    configure(&agent, "");
    agent.cli_ok(&["copies", "init", "d"]);
    agent.start();
    agent.wait_for("api", "ready");
    agent.wait_until("the target is looked at", SOON, |agent| set(agent)["target"]["state"] == "ready");
    agent.wait_until("the check is well", SOON, |agent| check(agent)["state"] == "ok");
    agent.cli_ok(&["copies", "run", "d"]);
    Some((agent, disk))
}

#[expect(clippy::print_stdout, reason = "a test says that it is skipped, and why")]
fn disk(agent: &Agent) -> Option<Disk> {
    let point = agent.path("data");
    LoopDisk::on(&point).map(|disk| Disk { point, disk }).map_err(|why| println!("skipped: {why}")).ok()
}

fn set(agent: &Agent) -> Value {
    let answer = agent.try_get("/v1/copies").filter(|answer| answer.status == 200);
    answer.map_or(Value::Null, |answer| answer.json()["copies"][0].clone())
}

fn check(agent: &Agent) -> Value {
    let all = agent.try_get("/v1/checks").filter(|answer| answer.status == 200).map(|answer| answer.json());
    let all = all.unwrap_or_default();
    let found = all["checks"].as_array().and_then(|all| all.iter().find(|check| check["name"] == "data"));
    found.cloned().unwrap_or(Value::Null)
}

fn stage(agent: &Agent) -> String {
    set(agent)["failover"]["stage"].as_str().unwrap_or_default().to_owned()
}

fn seen(agent: &Agent) -> Vec<String> {
    let text = fs::read_to_string(agent.path("seen")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_over(agent: &mut Agent) {
    agent.wait_until("it has moved", SOON * 2, |agent| {
        stage(agent) == "over" && set(agent)["failover"]["in_force"] == true && agent.service_pid("api").is_some()
    });
}

/// Mounts over `$DIR/data` that show something of `$DIR/to`.
fn mounts(agent: &Agent) -> usize {
    let point = agent.path("data");
    let list = fs::read_to_string(format!("/proc/{}/mountinfo", std::process::id())).unwrap();
    let own = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or(list);
    own.lines().filter(|line| line.split(' ').nth(4) == point.to_str() && line.contains("/to/d/live/")).count()
}

fn live(agent: &Agent) -> PathBuf {
    PathBuf::from(set(agent)["failover"]["live"][0].as_str().unwrap())
}

#[test]
fn service_goes_on_from_the_copy_and_back_with_all_that_was_written() {
    apart(|| {
        let Some((mut agent, disk)) = begin() else { return };
        fs::write(agent.path("data/file"), "second\n").unwrap();
        let pid = agent.service_pid("api");
        disk.find_an_error();
        wait_over(&mut agent);
        assert_ne!(agent.service_pid("api"), pid);
        assert_eq!(mounts(&agent), 1);
        agent.wait_until("it has looked", SOON, |agent| seen(agent).len() == 2);
        assert_eq!(seen(&agent), ["first", "first"], "it goes on with what the copy has");
        let why = agent.cli_ok(&["why", "api"]);
        assert!(why.contains("runs from copy 1") && why.contains("old when it took over"), "{why}");
        let known = agent.cli(&["copies"]);
        assert_eq!(known.code, 3, "{known:?}");
        assert!(known.stdout.contains("failback d"), "{known:?}");
        let refused = agent.cli(&["copies", "run", "d"]);
        assert!(refused.code != 0 && refused.stderr.contains("not now"), "{refused:?}");

        // The agent dies, and the host too as far as it is concerned: the mount is gone, and so are the processes.
        agent.kill();
        agent.start();
        wait_over(&mut agent);
        assert_eq!(mounts(&agent), 1, "it is not mounted twice");
        fs::write(agent.path("data/new"), "written meanwhile").unwrap();

        // The disk is taken out, and another is in its place: the live data are laid over that too. With an agent there, they may be laid between the
        // two, and what the other disk is mounted on cannot be removed in the end.
        agent.kill();
        drop(disk);
        fs::rename(agent.path("data.img"), agent.path("first.img")).unwrap();
        let _second = LoopDisk::on(&agent.path("data")).unwrap();
        agent.start();
        agent.wait_until("the live data cover it", SOON, |agent| agent.path("data/new").exists());
        wait_over(&mut agent);
        agent.wait_until("the check is well", SOON, |agent| check(agent)["state"] == "ok");
        let told = agent.cli_ok(&["copies", "failback", "d", "--dry-run"]);
        assert!(told.contains("api") && stage(&agent) == "over", "{told}");
        agent.cli_ok(&["copies", "failback", "d"]);
        assert!(agent.path("data/lost+found").exists(), "it is the new disk");
        assert_eq!(fs::read_to_string(agent.path("data/new")).unwrap(), "written meanwhile");
        assert_eq!(fs::read_to_string(agent.path("data/file")).unwrap(), "first\n");
        agent.wait_for("api", "ready");
        agent.wait_until("nothing is left of it", SOON, |agent| set(agent)["failover"].is_null());
        agent.wait_until("copies are made again", SOON, |agent| set(agent)["state"] == "ok");
        agent.wait_until("what it ran from is removed", SOON, |agent| {
            fs::read_dir(agent.path("to/d/live")).unwrap().count() == 0
        });
        agent.cli_ok(&["copies", "run", "d"]);
    });
}

#[test]
fn death_of_the_agent_at_any_moment_of_it_changes_nothing() {
    apart(|| {
        for (round, pause) in [0_u64, 20, 60, 120, 250].into_iter().enumerate() {
            let Some((mut agent, disk)) = begin() else { return };
            disk.find_an_error();
            agent.wait_until("it fails", SOON, |agent| check(agent)["state"] == "failing");
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(pause + round as u64));
                agent.kill();
                assert!(mounts(&agent) <= 1);
                agent.start();
            }
            wait_over(&mut agent);
            assert_eq!(mounts(&agent), 1);
            let first = fs::read_to_string(live(&agent).join("file")).unwrap();
            assert_eq!(first, "first\n");
            agent.wait_until("it has looked", SOON, |agent| seen(agent).len() > 1);
            fs::write(agent.path("data/new"), "kept").unwrap();
            agent.cli_ok(&["stop", "api"]);
        }
    });
}

#[test]
fn after_a_reboot_nothing_is_started_before_the_live_data_are_there() {
    apart(|| {
        let Some((mut agent, disk)) = begin() else { return };
        disk.find_an_error();
        wait_over(&mut agent);
        fs::write(agent.path("data/file"), "since then\n").unwrap();
        agent.cli_ok(&["stop", "api"]);
        agent.kill();
        // What a reboot leaves: no mount, no run directory; and the target is not there yet.
        nix::mount::umount2(&agent.path("data"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(mounts(&agent), 0);
        let away = agent.path("away");
        fs::rename(agent.path("to"), &away).unwrap();
        agent.start();
        agent.cli(&["start", "--no-wait", "api"]);
        agent.wait_until("it is told", SOON, |agent| set(agent)["failover"]["trouble"].is_string());
        assert_eq!(agent.service_pid("api"), None, "nothing is started on what the failing disk has");
        fs::rename(&away, agent.path("to")).unwrap();
        agent.kill();
        agent.start();
        wait_over(&mut agent);
        agent.wait_until("it has looked", SOON, |agent| seen(agent).last().is_some_and(|last| last == "since then"));
    });
}

#[test]
fn link_is_switched_where_nothing_can_be_mounted() {
    apart(|| {
        let Some((mut agent, disk)) = begin() else { return };
        std::os::unix::fs::symlink(agent.path("data"), agent.path("link")).unwrap();
        configure(&agent, "");
        let text = fs::read_to_string(agent.config()).unwrap_or_default();
        assert!(!text.is_empty());
        let linked = text
            .replace(&format!("(after: {AFTER:?})"), &format!("(after: {AFTER:?}, link: {:?})", agent.path("link")));
        fs::write(agent.config(), linked).unwrap();
        agent.cli_ok(&["reload"]);
        disk.find_an_error();
        wait_over(&mut agent);
        assert_eq!(mounts(&agent), 0);
        assert_eq!(fs::read_link(agent.path("link")).unwrap(), live(&agent));
        let said = agent.cli(&["copies", "failback", "d"]);
        assert!(said.code != 0 && said.stderr.contains("still fails"), "{said:?}");
    });
}

#[test]
fn set_that_has_moved_outlives_a_configuration_without_it() {
    apart(|| {
        let Some((mut agent, disk)) = begin() else { return };
        disk.find_an_error();
        wait_over(&mut agent);
        fs::write(agent.path("data/new"), "written meanwhile").unwrap();
        let with = fs::read_to_string(agent.config()).unwrap();
        let without = {
            let (before, after) = with.split_once("copies: [").unwrap();
            format!("{before}{}", after.split_once("],\n").unwrap().1)
        };
        fs::write(agent.config(), &without).unwrap();
        let refused = agent.cli(&["reload"]);
        assert!(refused.code != 0 && refused.stderr.contains("it has left the configuration"), "{refused:?}");
        assert!(refused.stderr.contains("mainstay copies failback d"), "{refused:?}");
        fs::write(agent.config(), with.replace("$DIR/to", "$DIR/other").replace("/to\"", "/other\"")).unwrap();
        let refused = agent.cli(&["reload", "--dry-run"]);
        assert!(refused.code != 0 && refused.stderr.contains("its `to` is"), "{refused:?}");
        assert_eq!(stage(&agent), "over");

        // The next agent is started with that file, after a reboot.
        fs::write(agent.config(), &without).unwrap();
        agent.cli_ok(&["stop", "api"]);
        agent.kill();
        nix::mount::umount2(&agent.path("data"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(mounts(&agent), 0);
        agent.start();
        agent.cli_ok(&["start", "api"]);
        wait_over(&mut agent);
        assert_eq!(mounts(&agent), 1);
        assert_eq!(fs::read_to_string(agent.path("data/new")).unwrap(), "written meanwhile");
        let why = agent.cli_ok(&["why", "api"]);
        assert!(why.contains("left the configuration") && why.contains("mainstay reload"), "{why}");
        let known = agent.cli(&["copies"]);
        assert!(known.code == 3 && known.stdout.contains("left the configuration"), "{known:?}");
        let found = agent.cli(&["doctor"]);
        assert!(found.stdout.contains("write the set as it was"), "{found:?}");
        let refused = agent.cli(&["copies", "failback", "d"]);
        assert!(refused.code != 0 && refused.stderr.contains("write it as it was"), "{refused:?}");

        // It is written as it was.
        fs::write(agent.config(), &with).unwrap();
        agent.cli_ok(&["reload"]);
        drop(disk);
        fs::rename(agent.path("data.img"), agent.path("first.img")).unwrap();
        let _second = LoopDisk::on(&agent.path("data")).unwrap();
        agent.wait_until("the live data cover it", SOON, |agent| agent.path("data/new").exists());
        wait_over(&mut agent);
        agent.wait_until("the target is looked at", SOON, |agent| set(agent)["target"]["state"] == "ready");
        agent.wait_until("the check is well", SOON, |agent| check(agent)["state"] == "ok");
        agent.cli_ok(&["copies", "failback", "d"]);
        assert!(agent.path("data/lost+found").exists(), "it is the new disk");
        assert_eq!(fs::read_to_string(agent.path("data/new")).unwrap(), "written meanwhile");
    });
}
