//! Children as /proc sees them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};

use super::child::{self, Ended};
use super::rlimit::Resource;
use super::spawn::{Child, Credentials, ExecStatus, SpawnRequest, spawn, spawn_with};
use super::testing::{TempDir, eventually, exit_of, outcome, read_all, root_or_skip, shell, start};
use super::{Fallbacks, fifo};

fn status(pid: i32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(key, value)| (key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

fn open_descriptors(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut numbers: Vec<i32> =
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn end(child: &Child) {
    child::signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
    assert_eq!(exit_of(&child.pidfd), Ended::Signal { signal: libc::SIGKILL, core: false });
}

const WAIT: &str = "exec sleep 60";

/// Starts [`WAIT`] and sees it asleep: exec tells its parent early, and the loader opens files of its own.
fn start_waiting(request: &SpawnRequest<'_>) -> Child {
    let child = start(request);
    eventually(|| {
        let now = super::process::process(child.pid).unwrap();
        (now.comm == "sleep" && now.state == 'S').then_some(())
    });
    child
}

#[test]
fn child_is_clean_whatever_the_parent_is() {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.add(Signal::SIGTERM);
    blocked.thread_block().unwrap();
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start_waiting(&SpawnRequest { umask: 0o027, ..shell(WAIT, &output) });
    blocked.thread_unblock().unwrap();
    let status = status(child.pid);
    assert_eq!(status["SigBlk"], "0000000000000000");
    assert_eq!(status["SigIgn"], "0000000000000000");
    assert_eq!(status["SigCgt"], "0000000000000000");
    assert_eq!(status["Umask"], "0027");
    assert_eq!(status["NoNewPrivs"], "0");
    assert_eq!(super::process::process(child.pid).unwrap().session, child.pid);
    assert_eq!(open_descriptors(child.pid), [0, 1, 2]);
    assert_eq!(fs::read_link(format!("/proc/{}/fd/0", child.pid)).unwrap().to_str(), Some("/dev/null"));
    end(&child);
}

#[test]
fn every_setting_is_applied() {
    if !root_or_skip("becoming another user") {
        return;
    }
    let directory = TempDir::new();
    let cwd = CString::new(directory.path().as_os_str().as_bytes()).unwrap();
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start_waiting(&SpawnRequest {
        cwd: Some(cwd),
        credentials: Some(Credentials { uid: 1234, gid: 1235, groups: vec![1235, 4, 113] }),
        umask: 0o077,
        rlimits: vec![(Resource::Nofile, 100, 200), (Resource::Core, 0, u64::MAX)],
        nice: 5,
        oom_score_adj: 321,
        no_new_privileges: true,
        capabilities: Some(vec![10, 12]),
        ..shell(WAIT, &output)
    });
    let status = status(child.pid);
    assert_eq!(status["Uid"], "1234 1234 1234 1234");
    assert_eq!(status["Gid"], "1235 1235 1235 1235");
    assert_eq!(status["Groups"], "4 113 1235");
    assert_eq!(status["Umask"], "0077");
    assert_eq!(status["NoNewPrivs"], "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000001400", "{set}");
    }
    let proc = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.pid)).unwrap();
    assert_eq!(proc("oom_score_adj"), "321\n");
    let limits = proc("limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(limit("Max open files"), "100 200");
    assert_eq!(limit("Max core file size"), "0 unlimited");
    let nice = proc("stat").rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned();
    assert_eq!(nice, "5");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", child.pid)).unwrap(), directory.path());
    end(&child);
}

#[test]
fn user_without_capabilities_has_none() {
    if !root_or_skip("becoming another user") {
        return;
    }
    let (_reader, output) = fifo::pipe().unwrap();
    let user = Credentials { uid: 1234, gid: 1235, groups: Vec::new() };
    let plain = start_waiting(&SpawnRequest { credentials: Some(user.clone()), ..shell(WAIT, &output) });
    let bare = start_waiting(&SpawnRequest {
        credentials: Some(user),
        capabilities: Some(Vec::new()),
        ..shell(WAIT, &output)
    });
    assert_eq!(status(plain.pid)["CapEff"], "0000000000000000");
    assert_eq!(status(plain.pid)["Groups"], "");
    assert_eq!(status(bare.pid)["CapBnd"], "0000000000000000");
    // Root with a list is root with that list, after exec too.
    let root = start_waiting(&SpawnRequest { capabilities: Some(vec![0]), ..shell(WAIT, &output) });
    assert_eq!(status(root.pid)["CapEff"], "0000000000000001");
    for child in [plain, bare, root] {
        end(&child);
    }
}

#[test]
fn descriptors_get_their_numbers_although_these_are_taken_by_each_other() {
    let directory = TempDir::new();
    let file = |name: &str| -> OwnedFd {
        let file = fs::File::create(directory.path().join(name)).unwrap();
        fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(300)).map(own).unwrap()
    };
    let (one, other) = (file("one"), file("other"));
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start_waiting(&SpawnRequest {
        descriptors: vec![
            (one.as_fd(), other.as_raw_fd()),
            (other.as_fd(), one.as_raw_fd()),
            (one.as_fd(), 3),
            (output.as_fd(), 5),
        ],
        ..shell(WAIT, &output)
    });
    let mut expected = [0, 1, 2, 3, 5, one.as_raw_fd(), other.as_raw_fd()];
    expected.sort_unstable();
    assert_eq!(open_descriptors(child.pid), expected);
    let target = |number: i32| fs::read_link(format!("/proc/{}/fd/{number}", child.pid)).unwrap();
    assert_eq!(target(3), directory.path().join("one"));
    assert_eq!(target(one.as_raw_fd()), directory.path().join("other"));
    assert_eq!(target(other.as_raw_fd()), directory.path().join("one"));
    assert_eq!(target(5), target(1));
    end(&child);
}

#[expect(unsafe_code, reason = "a descriptor from fcntl")]
fn own(number: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: F_DUPFD has just made it for the caller.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[test]
fn listen_pid_is_the_pid_of_the_child() {
    let (reader, output) = fifo::pipe().unwrap();
    let mut request = shell("echo $LISTEN_PID $$ $OTHER", &output);
    request.envp.extend([c"LISTEN_PID=0000000000".to_owned(), c"OTHER=0000000000".to_owned()]);
    request.listen_pid = true;
    let child = start(&request);
    drop(request);
    drop(output);
    assert_eq!(read_all(&reader), format!("{0} {0} 0000000000\n", child.pid));
    assert_eq!(exit_of(&child.pidfd), Ended::Code(0));
}

#[test]
fn failed_step_is_told_with_its_errno() {
    let (_reader, output) = fifo::pipe().unwrap();
    let failure = |request: &SpawnRequest<'_>| {
        let child = spawn(request).unwrap();
        child.gate.open().unwrap();
        let outcome = outcome(&child);
        assert_eq!(exit_of(&child.pidfd), Ended::Code(127));
        outcome
    };
    let missing = SpawnRequest { path: c"/nonexistent".to_owned(), ..shell("", &output) };
    assert_eq!(failure(&missing), ExecStatus::Failed { step: "execve", errno: Errno::ENOENT });
    let nowhere = SpawnRequest { cwd: Some(c"/nonexistent".to_owned()), ..shell("", &output) };
    assert_eq!(failure(&nowhere), ExecStatus::Failed { step: "chdir", errno: Errno::ENOENT });
    let absurd = SpawnRequest { rlimits: vec![(Resource::Core, 2, 1)], ..shell("", &output) };
    assert_eq!(failure(&absurd), ExecStatus::Failed { step: "setrlimit", errno: Errno::EINVAL });
    let not_a_group = fs::File::open("/proc/self").unwrap();
    let homeless = SpawnRequest { cgroup: Some(not_a_group.as_fd()), ..shell("", &output) };
    assert_eq!(failure(&homeless), ExecStatus::Failed { step: "cgroup.procs", errno: Errno::ENOENT });
}

#[test]
fn program_never_runs_when_the_gate_is_dropped() {
    let directory = TempDir::new();
    let marker = directory.path().join("ran");
    let (_reader, output) = fifo::pipe().unwrap();
    for fallbacks in [Fallbacks::NONE, Fallbacks::ALL] {
        let child = spawn_with(&shell(&format!("touch {}", marker.display()), &output), fallbacks).unwrap();
        assert_eq!(child.gate.status().unwrap(), None);
        drop(child.gate);
        assert_eq!(exit_of(&child.pidfd), Ended::Code(127));
        assert!(!marker.exists());
    }
}

#[test]
fn child_that_is_killed_at_its_gate_has_not_executed() {
    let (_reader, output) = fifo::pipe().unwrap();
    let gone = ExecStatus::Failed { step: "gate", errno: Errno::ESRCH };
    let closed = spawn(&shell(WAIT, &output)).unwrap();
    end(&closed);
    assert_eq!(outcome(&closed), gone);
    closed.gate.open().unwrap();
    // And one whose gate was opened without it having seen that.
    let stopped = spawn(&shell(WAIT, &output)).unwrap();
    child::signal(stopped.pidfd.as_fd(), libc::SIGSTOP).unwrap();
    eventually(|| (super::process::process(stopped.pid).unwrap().state == 'T').then_some(()));
    stopped.gate.open().unwrap();
    end(&stopped);
    assert_eq!(outcome(&stopped), gone);
}

#[test]
fn lack_of_descriptors_is_ours_and_a_missing_program_is_not() {
    use super::spawn::SpawnError;
    assert!(SpawnError::Clone(Errno::EAGAIN).ours());
    assert!(SpawnError::Gate(Errno::EMFILE).ours());
    assert!(!SpawnError::Clone(Errno::EPERM).ours());
}

#[test]
fn child_without_clone3_is_the_same() {
    let (reader, output) = fifo::pipe().unwrap();
    let child = spawn_with(&shell("echo here; exit 3", &output), Fallbacks::ALL).unwrap();
    let flags = fcntl(&child.pidfd, FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
    child.gate.open().unwrap();
    assert_eq!(outcome(&child), ExecStatus::Executed);
    drop(output);
    assert_eq!(read_all(&reader), "here\n");
    assert_eq!(exit_of(&child.pidfd), Ended::Code(3));
}

#[test]
fn better_than_the_default_is_refused_without_privileges() {
    let capabilities = status(std::process::id().cast_signed())["CapEff"].clone();
    let has = |number: u32| u64::from_str_radix(&capabilities, 16).unwrap() & (1 << number) != 0;
    const SYS_NICE: u32 = 23;
    const SYS_RESOURCE: u32 = 24;
    let (_reader, output) = fifo::pipe().unwrap();
    let outcome_of = |request: &SpawnRequest<'_>| {
        let child = spawn(request).unwrap();
        child.gate.open().unwrap();
        let outcome = outcome(&child);
        exit_of(&child.pidfd);
        outcome
    };
    if has(SYS_RESOURCE) {
        eprintln!("skipped: may lower oom_score_adj");
    } else {
        let precious = SpawnRequest { oom_score_adj: -500, ..shell("exit 0", &output) };
        assert_eq!(outcome_of(&precious), ExecStatus::Failed { step: "oom_score_adj", errno: Errno::EACCES });
    }
    if has(SYS_NICE) {
        eprintln!("skipped: may lower nice");
    } else {
        let urgent = SpawnRequest { nice: -5, ..shell("exit 0", &output) };
        assert_eq!(outcome_of(&urgent), ExecStatus::Failed { step: "setpriority", errno: Errno::EACCES });
    }
}

/// An adopting agent compares what was recorded with what /proc says.
#[test]
fn birth_that_our_clock_tells_is_the_one_that_proc_tells() {
    let (_reader, output) = fifo::pipe().unwrap();
    let (mut known, deadline) = (0, Instant::now() + Duration::from_secs(60));
    // How often it is known, is a matter of the host's load.
    for number in 0.. {
        if number >= 50 && known > 0 || Instant::now() > deadline {
            break;
        }
        let child = spawn(&shell("exit 0", &output)).unwrap();
        let shown = super::process::process(child.pid).unwrap().start_ticks;
        assert_eq!(child::identity_of_newborn(&child).unwrap().start_ticks, shown);
        known += i32::from(child.start_ticks.is_some());
        assert!(child.start_ticks.is_none_or(|ticks| ticks == shown));
        end(&child);
    }
    assert!(known > 0);
}
