//! Real process trees in real cgroups (as root, where there is a cgroup2 mount), and in the weak substitute.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::child::Ended;
use super::group::{Choice, Freezer, Group, Root};
use super::spawn::{ExecStatus, SpawnRequest, spawn_with};
use super::testing::{eventually, exit_of, outcome, read_pid, shell, start};
use super::{Fallbacks, fifo};

/// A root of one test; whatever lives below it is killed at its end.
struct TestRoot(Root);

impl TestRoot {
    /// `None` where there is no cgroup2 mount that we may write to.
    fn new(fallbacks: Fallbacks) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (root, notes) = Root::detect_with(Choice::Auto { name }, "instance-1", fallbacks);
        if root.is_weak() {
            eprintln!("skipped: {}", notes.join("; "));
            return None;
        }
        Some(Self(root))
    }

    fn path(&self) -> PathBuf {
        self.0.path().unwrap().to_owned()
    }
}

impl Drop for TestRoot {
    fn drop(&mut self) {
        fs::write(self.path().join("cgroup.kill"), "1").unwrap();
        let mut all = Group::cgroup(self.path(), Fallbacks::NONE).unwrap();
        eventually(|| all.remove().ok());
    }
}

fn in_group<'a>(script: &str, output: &'a OwnedFd, group: &'a Group) -> SpawnRequest<'a> {
    SpawnRequest { cgroup: group.directory(), ..shell(script, output) }
}

/// Waits for the kernel's word that nobody lives there.
fn await_empty(group: &mut Group) {
    while group.populated().unwrap() {
        let watched = group.watch().unwrap().unwrap();
        let mut polled = [PollFd::new(watched, PollFlags::POLLPRI)];
        assert_eq!(poll(&mut polled, PollTimeout::from(10_000_u16)), Ok(1), "still populated after ten seconds");
    }
}

#[test]
fn child_is_born_in_its_group_on_every_kernel() {
    let older = Fallbacks { no_clone_into_cgroup: true, ..Fallbacks::NONE };
    for fallbacks in [Fallbacks::NONE, older, Fallbacks::ALL] {
        let Some(root) = TestRoot::new(fallbacks) else { return };
        let mut group = root.0.create("api.0").unwrap();
        assert!(!group.populated().unwrap());
        let (_reader, output) = fifo::pipe().unwrap();
        let child = spawn_with(&in_group("exec sleep 60", &output, &group), fallbacks).unwrap();
        child.gate.open().unwrap();
        assert_eq!(outcome(&child), ExecStatus::Executed);
        assert_eq!(group.processes().unwrap(), [child.pid]);
        let own = fs::read_to_string(format!("/proc/{}/cgroup", child.pid)).unwrap();
        assert!(own.lines().any(|line| line.starts_with("0::") && line.ends_with("/api.0")), "{own}");
        assert_eq!(group.remove().unwrap_err().raw_os_error(), Some(libc::EBUSY));
        let mut group = root.0.open("api.0").unwrap().unwrap();
        assert_eq!(group.signal_all(libc::SIGTERM).unwrap(), 1);
        assert_eq!(exit_of(&child.pidfd), Ended::Signal { signal: libc::SIGTERM, core: false });
        await_empty(&mut group);
        group.remove().unwrap();
        group.remove().unwrap();
        assert!(!group.populated().unwrap());
        assert!(group.processes().unwrap().is_empty());
        group.kill().unwrap();
        assert!(root.0.open("api.0").unwrap().is_none());
    }
}

/// Never the same process for long; ends by itself should a test fail.
const FORKS_ON: &str = "f() { n=$((n + 1)); [ $n -gt 20000 ] || f & }; f";

#[test]
fn tree_that_keeps_forking_is_killed_on_every_kernel() {
    for fallbacks in [Fallbacks::NONE, Fallbacks::ALL] {
        let Some(root) = TestRoot::new(fallbacks) else { return };
        let mut group = root.0.create("bomb.0").unwrap();
        let (_reader, output) = fifo::pipe().unwrap();
        let child = start(&in_group(FORKS_ON, &output, &group));
        assert_eq!(exit_of(&child.pidfd), Ended::Code(0));
        assert!(group.populated().unwrap());
        group.kill().unwrap();
        await_empty(&mut group);
        group.remove().unwrap();
    }
}

/// Counts on while it runs.
const COUNTS_ON: &str = "while :; do echo; done";

/// Takes all that was written, and tells whether anything was.
fn emptied(reader: &OwnedFd) -> bool {
    super::listen::set_nonblocking(reader).unwrap();
    let (mut buffer, mut any) = ([0; 4096], false);
    while nix::unistd::read(reader, &mut buffer).is_ok_and(|length| length > 0) {
        any = true;
    }
    any
}

/// It writes, some time after its output was emptied.
fn goes_on(reader: &OwnedFd) {
    emptied(reader);
    eventually(|| emptied(reader).then_some(()));
}

/// What was on its way has come, and what was written until the kernel had frozen it; after that, nothing for a while.
fn stands_still(reader: &OwnedFd) {
    eventually(|| {
        emptied(reader);
        std::thread::sleep(std::time::Duration::from_millis(100));
        (!emptied(reader)).then_some(())
    });
}

#[test]
fn frozen_tree_stands_still_and_goes_on_when_it_is_thawed() {
    for fallbacks in [Fallbacks::NONE, Fallbacks::ALL] {
        let Some(root) = TestRoot::new(fallbacks) else { return };
        let mut group = root.0.create("api.0").unwrap();
        let (reader, output) = fifo::pipe().unwrap();
        let child = start(&in_group(COUNTS_ON, &output, &group));
        goes_on(&reader);
        group.freeze(Freezer::Frozen).unwrap();
        assert_eq!(group.freezer(), Some(Freezer::Frozen));
        stands_still(&reader);
        group.freeze(Freezer::Thawed).unwrap();
        goes_on(&reader);
        group.freeze(Freezer::Frozen).unwrap();
        group.kill().unwrap();
        assert_eq!(exit_of(&child.pidfd), Ended::Signal { signal: libc::SIGKILL, core: false });
        await_empty(&mut group);
        // A kill without cgroup.kill thaws by itself.
        assert_eq!(group.freezer() == Some(Freezer::Frozen), fallbacks == Fallbacks::NONE);
        // The next run of this name is not born frozen.
        group.remove().unwrap();
        let group = root.0.create("api.0").unwrap();
        assert_eq!(group.freezer(), Some(Freezer::Thawed));
    }
}

#[test]
fn weak_tree_is_stopped_and_continued() {
    let cookie = unique_cookie();
    let (reader, output) = fifo::pipe().unwrap();
    let request = shell(COUNTS_ON, &output);
    let child = start(&request);
    let group = Group::weak(cookie, child.pid);
    goes_on(&reader);
    group.freeze(Freezer::Frozen).unwrap();
    stands_still(&reader);
    group.freeze(Freezer::Thawed).unwrap();
    goes_on(&reader);
    group.freeze(Freezer::Frozen).unwrap();
    group.kill().unwrap();
    assert_eq!(exit_of(&child.pidfd), Ended::Signal { signal: libc::SIGKILL, core: false });
}

#[test]
fn groups_below_are_counted_killed_and_removed() {
    let Some(root) = TestRoot::new(Fallbacks::NONE) else { return };
    let mut group = root.0.create("nested.0").unwrap();
    let below = group.path().unwrap().join("own/deeper");
    fs::create_dir_all(&below).unwrap();
    let (reader, output) = fifo::pipe().unwrap();
    let script = format!("sleep 60 & echo $! > {0}/cgroup.procs; echo $!; exec sleep 60", below.display());
    let child = start(&in_group(&script, &output, &group));
    let deep = read_pid(&reader);
    let mut processes = group.processes().unwrap();
    processes.sort_unstable();
    let mut expected = [child.pid, deep];
    expected.sort_unstable();
    assert_eq!(processes, expected);
    assert_eq!(group.signal_all(0).unwrap(), 2);
    // The kernel adds up lazily.
    let used = |amount: Option<u64>| amount.is_some_and(|amount| amount > 0);
    eventually(|| (used(group.usage().cpu_usec) && used(group.usage().memory_bytes)).then_some(()));
    assert_eq!(group.oom_kills(), 0);
    group.kill().unwrap();
    await_empty(&mut group);
    group.remove().unwrap();
    assert!(!fs::exists(&below).unwrap());
    exit_of(&child.pidfd);
}

#[test]
fn group_is_empty_and_can_be_used_again_before_its_dead_are_taken_away() {
    let Some(root) = TestRoot::new(Fallbacks::NONE) else { return };
    let mut group = root.0.create("api.0").unwrap();
    let (_reader, output) = fifo::pipe().unwrap();
    let first = start(&in_group("exit 3", &output, &group));
    eventually(|| super::child::peek(first.pidfd.as_fd()).unwrap());
    eventually(|| (!group.populated().unwrap()).then_some(()));
    assert!(group.reopen());
    let second = start(&in_group("exec sleep 60", &output, &group));
    assert_eq!(group.processes().unwrap(), [second.pid]);
    assert_eq!(exit_of(&first.pidfd), Ended::Code(3));
    assert!(group.populated().unwrap());
    group.kill().unwrap();
    exit_of(&second.pidfd);
}

#[test]
fn group_of_another_instance_is_refused() {
    let Some(root) = TestRoot::new(Fallbacks::NONE) else { return };
    let group = root.0.create("api.0").unwrap();
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start(&in_group("exec sleep 60", &output, &group));
    root.0.create("idle.0").unwrap();
    fs::create_dir(root.path().join("unmarked")).unwrap();
    let list = |entries: &[(&str, bool)]| -> Vec<(String, bool)> {
        entries.iter().map(|(name, ours)| ((*name).to_owned(), *ours)).collect()
    };
    assert_eq!(root.0.list().unwrap(), list(&[("api.0", true), ("idle.0", true), ("unmarked", false)]));
    assert!(root.0.open("unmarked").is_err());
    assert_eq!(root.0.create("api.0").unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);

    let (other, _) = Root::detect(Choice::Path(root.path()), "instance-2");
    assert_eq!(other.list().unwrap(), list(&[("api.0", false), ("idle.0", false), ("unmarked", false)]));
    assert_eq!(other.open("api.0").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let refused = other.create("api.0").unwrap_err();
    assert!(refused.to_string().ends_with("in use by another instance"), "{refused}");
    // Empty groups may be had by whoever needs the name, fresh.
    fs::write(root.path().join("idle.0/cgroup.freeze"), "1").unwrap();
    other.create("idle.0").unwrap();
    assert_eq!(fs::read_to_string(root.path().join("idle.0/cgroup.freeze")).unwrap(), "0\n");
    assert!(root.0.open("idle.0").is_err());
    for name in ["", "..", "a/b", "cgroup.procs"] {
        assert_eq!(root.0.create(name).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{name}");
    }
    group.kill().unwrap();
    exit_of(&child.pidfd);
}

#[test]
fn watched_group_can_be_spawned_into_after_its_directory_is_closed_and_opened_again() {
    let Some(root) = TestRoot::new(Fallbacks::NONE) else { return };
    let mut group = root.0.create("api.0").unwrap();
    let watched = group.watch().unwrap().unwrap().as_raw_fd();
    assert_eq!(group.watch().unwrap().unwrap().as_raw_fd(), watched);
    group.close_directory();
    assert!(group.directory().is_none());
    let group = root.0.open("api.0").unwrap().unwrap();
    assert!(group.directory().is_some());
}

fn weak_tree(script: &str, cookie: &str) -> (super::spawn::Child, Group, Vec<i32>) {
    let (reader, output) = fifo::pipe().unwrap();
    let mut request = shell(script, &output);
    request.envp.push(std::ffi::CString::new(format!("MAINSTAY_RUN={cookie}")).unwrap());
    let child = start(&request);
    let group = Group::weak(cookie.to_owned(), child.pid);
    let pids = vec![read_pid(&reader), read_pid(&reader)];
    (child, group, pids)
}

fn unique_cookie() -> String {
    format!("{:016x}", super::host::random_u64())
}

#[test]
fn weak_group_finds_and_kills_a_double_fork_in_a_session_of_its_own() {
    let script =
        "setsid sh -c 'sh -c \"echo \\$\\$; exec sleep 60\" & exit 0'; env -i sleep 60 & echo $!; exec sleep 60";
    let (child, group, mut expected) = weak_tree(script, &unique_cookie());
    expected.push(child.pid);
    expected.sort_unstable();
    let mut found = group.processes().unwrap();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(group.populated().unwrap() && group.path().is_none() && group.directory().is_none());
    eventually(|| group.usage().memory_bytes.filter(|used| *used > 0));
    group.kill().unwrap();
    assert_eq!(exit_of(&child.pidfd), Ended::Signal { signal: libc::SIGKILL, core: false });
    eventually(|| (!group.populated().unwrap()).then_some(()));
}

#[test]
fn weak_group_outlives_its_main_process() {
    let script = "sleep 60 & echo $!; setsid sleep 60 & echo $!; exit 0";
    let (child, group, mut expected) = weak_tree(script, &unique_cookie());
    exit_of(&child.pidfd);
    expected.sort_unstable();
    assert_eq!(group.processes().unwrap(), expected);
    assert_eq!(group.signal_all(libc::SIGTERM).unwrap(), 2);
    eventually(|| (!group.populated().unwrap()).then_some(()));
}

#[test]
fn process_in_a_session_of_its_own_is_found_also_while_it_executes() {
    let again = "exec sh -c \"$0\" \"$0\"";
    // Ends by itself also when the test fails.
    let script = format!("ulimit -t 300; setsid sh -c '{again}' '{again}' & echo $!; echo $$; exit 0");
    let (child, group, pids) = weak_tree(&script, &unique_cookie());
    exit_of(&child.pidfd);
    for _ in 0..300 {
        // On a busy machine it may wait for a processor in the middle of it for longer than one look takes.
        let found = (0..3).any(|_| group.processes().unwrap() == [pids[0]]);
        assert!(found, "{:?}", group.processes());
    }
    group.kill().unwrap();
    eventually(|| (!group.populated().unwrap()).then_some(()));
}

#[test]
fn weak_tree_that_keeps_forking_is_killed() {
    let (child, group, _) = weak_tree(&format!("echo $$; echo $$; {FORKS_ON}"), &unique_cookie());
    exit_of(&child.pidfd);
    // Stopping and looking again catches it within a few rounds, or the next call does: the engine calls until it is empty.
    eventually(|| {
        group.kill().unwrap();
        (!group.populated().unwrap()).then_some(())
    });
}

#[test]
fn session_that_is_led_by_a_stranger_is_not_ours() {
    let session = nix::unistd::getsid(None).unwrap().as_raw();
    let group = Group::weak(unique_cookie(), session);
    assert!(fs::exists(format!("/proc/{session}")).unwrap() || session == 0);
    assert!(group.processes().unwrap().is_empty());
}

#[test]
fn weak_group_of_an_earlier_agent_is_known_by_the_start_of_its_leader() {
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start(&shell("exec env -i sleep 60", &output));
    let start_ticks = super::process::process(child.pid).unwrap().start_ticks;
    let found = |start_ticks| Group::weak_led_by(&unique_cookie(), child.pid, start_ticks).processes().unwrap();
    assert_eq!(found(start_ticks), [child.pid]);
    assert!(found(start_ticks + 1).is_empty());
    super::child::signal(std::os::fd::AsFd::as_fd(&child.pidfd), libc::SIGKILL).unwrap();
    exit_of(&child.pidfd);
}
