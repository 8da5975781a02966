//! Copies through the real binary: with an agent and its role, and without.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Agent, As, SOON, proc, sample};

/// A set `d` from `$DIR/src` to `$DIR/to`, with something in it.
fn prepared(services: &str, more: &str) -> Agent {
    let agent = Agent::prepared(As::Me);
    let sources = agent.path("src/below");
    fs::create_dir_all(&sources).unwrap();
    fs::create_dir(agent.path("to")).unwrap();
    for number in 0..20 {
        fs::write(sources.join(format!("file-{number}")), format!("content of {number}")).unwrap();
    }
    fs::write(agent.path("src/large"), vec![7; 300_000]).unwrap();
    configure(&agent, services, more);
    agent
}

pub(crate) fn configure(agent: &Agent, services: &str, more: &str) {
    let sets = "(name: \"d\", from: [\"$DIR/src\"], to: \"$DIR/to\", same_disk: true,";
    agent.configure_with(services, &format!("copies: [{sets} {more})],\n"));
}

/// An agent with the set, its target marked.
pub(crate) fn running(services: &str, more: &str) -> Agent {
    let mut agent = prepared(services, more);
    agent.cli_ok(&["copies", "init", "d"]);
    agent.start();
    agent.wait_until("the target is looked at", SOON, |agent| set(agent)["target"]["state"] == "ready");
    agent
}

pub(crate) fn set(agent: &Agent) -> Value {
    agent.get("/v1/copies").json()["copies"][0].clone()
}

/// The directory `data` of the copy with this number.
fn data(agent: &Agent, seq: u64) -> PathBuf {
    let copies = fs::read_dir(agent.path("to/d/copies")).unwrap().flatten();
    let wanted = format!("{seq:06}-");
    let copy =
        copies.map(|entry| entry.path()).find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&wanted));
    copy.unwrap_or_else(|| panic!("there is no copy {seq}")).join("data")
}

fn copied(agent: &Agent, seq: u64, file: &str) -> PathBuf {
    data(agent, seq).join(agent.path("src").strip_prefix("/").unwrap()).join(file)
}

fn flip(path: &Path) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(3)).unwrap();
    file.write_all(b"#").unwrap();
}

#[test]
fn copy_is_made_once_for_each_change_and_shares_what_is_as_before() {
    let agent = running("", "");
    agent.cli_ok(&["copies", "run", "d"]);
    let said = agent.cli_ok(&["copies", "run", "d"]);
    assert!(said.contains("nothing has changed since copy 1"), "{said}");
    fs::write(agent.path("src/below/file-3"), "something else").unwrap();
    agent.cli_ok(&["copies", "run", "d"]);
    assert_eq!(fs::read(copied(&agent, 2, "below/file-3")).unwrap(), b"something else");
    assert_eq!(fs::read(copied(&agent, 1, "below/file-3")).unwrap(), b"content of 3");
    let inode = |seq| fs::metadata(copied(&agent, seq, "below/file-4")).unwrap().ino();
    assert_eq!(inode(1), inode(2));
    let known = set(&agent);
    assert_eq!((&known["state"], &known["count"], &known["newest"]), (&"ok".into(), &2.into(), &2.into()), "{known:#}");
    assert!(agent.get("/metrics").body.contains("mainstay_copy_last_success_timestamp_seconds{"));
    assert_eq!(agent.cli(&["copies"]).code, 0);
}

#[test]
fn target_without_a_marker_gets_nothing() {
    let mut agent = prepared("", "every: \"1s\"");
    agent.start();
    agent.wait_until("it was looked at", SOON, |agent| set(agent)["target"]["state"] == "unmarked");
    let ended = agent.cli(&["copies", "run", "d"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("init"), "{ended:?}");
    assert_eq!(fs::read_dir(agent.path("to")).unwrap().count(), 0, "nothing is made where nobody said so");
    assert_eq!(agent.cli(&["copies"]).code, 3);
    // Once it is marked, the copy that was due is made by itself.
    agent.cli_ok(&["copies", "init", "d"]);
    agent.wait_until("the first copy", SOON, |agent| set(agent)["count"] == 1);
}

#[test]
fn changes_are_copied_once_they_have_come_to_rest() {
    let mut agent = running("", "on_change: \"200ms\"");
    agent.wait_until("the first copy", SOON, |agent| set(agent)["count"] == 1);
    assert_eq!(fs::read(copied(&agent, 1, "below/file-1")).unwrap(), b"content of 1");
}

#[test]
fn what_was_lost_is_restored_and_what_is_there_is_kept() {
    let agent = running("", "");
    agent.cli_ok(&["copies", "run", "d"]);
    fs::remove_dir_all(agent.path("src/below")).unwrap();
    fs::write(agent.path("src/large"), "spoilt").unwrap();
    let into = agent.path("elsewhere");
    fs::create_dir(&into).unwrap();
    agent.cli_ok(&["copies", "restore", "d", "--into", into.to_str().unwrap()]);
    let restored = into.join(agent.path("src").strip_prefix("/").unwrap());
    assert_eq!(fs::read(restored.join("below/file-7")).unwrap(), b"content of 7");
    let again = agent.cli(&["copies", "restore", "d", "--into", into.to_str().unwrap()]);
    assert_ne!(again.code, 0, "nothing is overwritten: {again:?}");
    agent.cli_ok(&["copies", "restore", "d", "--replace", "--dry-run"]);
    assert!(!agent.path("src/below").exists());
    let said = agent.cli_ok(&["copies", "restore", "d", "--replace"]);
    assert_eq!(fs::read(agent.path("src/below/file-7")).unwrap(), b"content of 7");
    assert_eq!(fs::metadata(agent.path("src/large")).unwrap().len(), 300_000);
    let kept = said.lines().find_map(|line| line.strip_prefix("kept what was there: ")).unwrap();
    assert_eq!(fs::read(Path::new(kept).join("large")).unwrap(), b"spoilt");
}

#[test]
fn rot_is_found_and_mended_where_there_is_something_to_mend_it_with() {
    let agent = running("", "");
    agent.cli_ok(&["copies", "run", "d"]);
    fs::write(agent.path("src/new"), "new").unwrap();
    agent.cli_ok(&["copies", "run", "d"]);
    flip(&copied(&agent, 2, "below/file-9"));
    agent.cli_ok(&["copies", "verify", "d", "all"]);
    for seq in 1..=2 {
        assert_eq!(fs::read(copied(&agent, seq, "below/file-9")).unwrap(), b"content of 9", "in copy {seq}");
    }
    assert_eq!(set(&agent)["state"], "ok");
    flip(&copied(&agent, 2, "below/file-9"));
    fs::remove_file(agent.path("src/below/file-9")).unwrap();
    assert_eq!(agent.cli(&["copies", "verify", "d", "all"]).code, 3);
    let known = set(&agent);
    assert_eq!(known["state"], "degraded", "{known:#}");
    assert!(known["why"].as_str().unwrap().contains("bad"), "{known:#}");
}

#[test]
fn empty_source_pushes_no_good_copy_out() {
    let agent = running("", "keep: (last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0, min_keep: 1)");
    agent.cli_ok(&["copies", "run", "d"]);
    for entry in fs::read_dir(agent.path("src")).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    agent.cli_ok(&["copies", "run", "d"]);
    let list = agent.cli_ok(&["copies", "list", "d"]);
    assert!(list.contains("suspect") && list.contains("is empty"), "{list}");
    let ended = agent.cli(&["copies", "prune", "d"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("accept d 2"), "{ended:?}");
    assert_eq!(fs::read(copied(&agent, 1, "below/file-1")).unwrap(), b"content of 1");
}

#[test]
fn without_an_agent_the_same_is_done_and_two_do_not_work_at_once() {
    let agent = prepared("", "");
    agent.cli_ok(&["copies", "init", "d"]);
    agent.cli_ok(&["copies", "run", "d"]);
    agent.cli_ok(&["copies", "verify", "d"]);
    let list = agent.cli_ok(&["copies", "list", "d"]);
    assert!(list.contains("newest_good"), "{list}");
    let place = fs::File::open(agent.path("to/d")).unwrap();
    let _held = nix::fcntl::Flock::lock(place, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let ended = agent.cli(&["copies", "run", "d"]);
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("somebody else"), "{ended:?}");
}

#[test]
fn death_of_the_agent_or_of_the_role_costs_no_copy() {
    let mut agent = running(&sample("a", "", ""), "every: \"1h\"");
    agent.wait_until("the first copy", SOON, |agent| set(agent)["count"] == 1);
    agent.wait_for("a", "ready");
    fs::write(agent.path("src/new"), vec![1; 4_000_000]).unwrap();
    let mut run = agent.cli_command(&["copies", "run", "d"]).spawn().unwrap();
    agent.kill();
    // Whatever it answers: there is nobody who could know better.
    let _ = run.wait().unwrap();
    agent.start();
    agent.wait_until("its role is spoken to", SOON, |agent| set(agent)["target"]["state"] == "ready");
    agent.cli_ok(&["copies", "run", "d"]);
    let role = agent.service_pid("@copy.d").unwrap();
    kill(Pid::from_raw(role), Signal::SIGKILL).unwrap();
    agent.wait_until("another role", SOON, |agent| agent.service_pid("@copy.d").is_some_and(|pid| pid != role));
    agent.wait_until("it has looked", SOON, |agent| set(agent)["target"]["state"] == "ready");
    fs::write(agent.path("src/newer"), "newer").unwrap();
    agent.cli_ok(&["copies", "run", "d"]);
    let known = set(&agent);
    let newest = known["newest"].as_u64().unwrap();
    assert_eq!(fs::read(copied(&agent, newest, "newer")).unwrap(), b"newer");
    assert_eq!(fs::metadata(copied(&agent, newest, "new")).unwrap().len(), 4_000_000);
    assert_eq!(fs::read_dir(agent.path("to/d/work")).unwrap().count(), 0);
    agent.cli_ok(&["copies", "verify", "d", "all"]);
}

#[test]
fn service_is_frozen_for_its_copy_and_goes_on() {
    let Some(_) = proc::cgroup_root() else { return println!("skipped: no cgroup2 to freeze in") };
    let agent = running(&sample("a", "--say tick-{n} --say-every 20ms", ""), "quiesce: Freeze(\"a\", max: \"5s\")");
    agent.wait_for("a", "ready");
    let pid = agent.service_pid("a").unwrap();
    agent.cli_ok(&["copies", "run", "d"]);
    let said = agent.cli_ok(&["events", "-n", "50"]);
    assert!(said.contains("held still"), "{said}");
    assert_eq!(agent.service_pid("a"), Some(pid));
    let group = proc::cgroup_root().unwrap().join(proc::group_of(pid).trim_start_matches('/'));
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap();
    assert!(events.contains("frozen 0"), "{events}");
    assert_eq!(agent.state("a"), "ready");
}

#[test]
fn service_is_stopped_for_its_copy_and_started_again() {
    let agent = running(&sample("a", "", ""), "quiesce: Stop(\"a\")");
    agent.wait_for("a", "ready");
    let run = agent.run_of("a");
    agent.cli_ok(&["copies", "run", "d"]);
    agent.wait_for("a", "ready");
    assert_eq!(agent.run_of("a"), run + 1);
    assert_eq!(set(&agent)["count"], 1);
}

#[test]
fn hooks_run_before_and_after_and_a_failed_one_forbids_the_copy() {
    let hooks =
        |pre: &str| format!("quiesce: Exec(pre: [\"sh\", \"-c\", \"{pre}\"], post: [\"touch\", \"$DIR/post\"])");
    let agent = running("", &hooks("echo dumped > $DIR/src/dump"));
    agent.cli_ok(&["copies", "run", "d"]);
    assert_eq!(fs::read(copied(&agent, 1, "dump")).unwrap(), b"dumped\n");
    assert!(agent.path("post").exists());
    configure(&agent, "", &hooks("echo no room >&2; exit 3"));
    agent.cli_ok(&["reload"]);
    fs::write(agent.path("src/new"), "new").unwrap();
    let ended = agent.cli(&["copies", "run", "d"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("no room"), "{ended:?}");
    assert_eq!(set(&agent)["count"], 1);
}
