//! Exits of children, of others' children and of orphans; numbers that are used again.

use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::child::{self, Ended, identity, reap_orphans, wait, wait_with};
use super::spawn::SpawnRequest;
use super::testing::{await_ready, eventually, exit_of, read_pid, root_or_skip, shell, start};
use super::{Fallbacks, fifo, signal};

#[test]
fn child_is_waited_for_once() {
    let (_reader, output) = fifo::pipe().unwrap();
    let one = start(&shell("exit 42", &output));
    assert_eq!(exit_of(&one.pidfd), Ended::Code(42));
    let other = start(&shell("kill -ABRT $$", &output));
    assert!(matches!(exit_of(&other.pidfd), Ended::Signal { signal: libc::SIGABRT, .. }));
    let realtime = start(&shell("kill -40 $$", &output));
    assert_eq!(exit_of(&realtime.pidfd), Ended::Signal { signal: 40, core: false });
    let living = start(&shell("exec sleep 60", &output));
    assert_eq!(wait(living.pidfd.as_fd()).unwrap(), None);
    assert_eq!(
        identity(living.pid, living.pidfd.as_fd()).unwrap(),
        identity(living.pid, living.pidfd.as_fd()).unwrap()
    );
    child::signal(living.pidfd.as_fd(), libc::SIGTERM).unwrap();
    assert_eq!(exit_of(&living.pidfd), Ended::Signal { signal: libc::SIGTERM, core: false });
    assert_eq!(child::signal(living.pidfd.as_fd(), libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    assert!(identity(living.pid, living.pidfd.as_fd()).is_err());
}

#[test]
fn exit_is_seen_before_the_child_is_taken_away() {
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start(&shell("exit 42", &output));
    let pidfd = child.pidfd.as_fd();
    assert_eq!(eventually(|| child::peek(pidfd).unwrap()), Ended::Code(42));
    // Nobody else gets its number yet.
    child::signal(pidfd, 0).unwrap();
    assert_eq!(child::peek(pidfd).unwrap(), Some(Ended::Code(42)));
    child::bury(pidfd);
    assert_eq!(child::signal(pidfd, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    child::bury(pidfd);
    let living = start(&shell("exec sleep 60", &output));
    assert_eq!(child::peek(living.pidfd.as_fd()).unwrap(), None);
    child::bury(living.pidfd.as_fd());
    child::signal(living.pidfd.as_fd(), libc::SIGKILL).unwrap();
    exit_of(&living.pidfd);
}

/// Whether this kernel tells the exits of reaped strangers.
fn has_exit_information() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 15) {
        eprintln!("skipped: the exit of a reaped stranger needs Linux 6.15, this is {release}");
    }
    version >= (6, 15)
}

/// A grandchild that ends when the writer is dropped, and its parent's script behind it.
fn grandchild(code: &str, then: &str) -> (super::spawn::Child, i32, OwnedFd, OwnedFd) {
    let (told, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let (reader, output) = fifo::pipe().unwrap();
    let script = format!("sh -c 'read word <&3; {code}' & echo $!; {then}");
    let child = start(&SpawnRequest { descriptors: vec![(told.as_fd(), 3)], ..shell(&script, &output) });
    let pid = read_pid(&reader);
    let pidfd = child::open(pid).unwrap();
    assert_eq!(wait(pidfd.as_fd()).unwrap(), None);
    (child, pid, pidfd, writer)
}

#[test]
fn exit_of_a_stranger_is_told_after_its_parent_has_waited() {
    for (code, ended) in [("exit 42", Ended::Code(42)), ("kill -KILL $$", Ended::Signal { signal: 9, core: false })] {
        let (parent, _, pidfd, writer) = grandchild(code, "wait $!");
        drop(writer);
        exit_of(&parent.pidfd);
        await_ready(pidfd.as_fd());
        let old_kernel = Fallbacks { no_pidfd_info: true, ..Fallbacks::NONE };
        assert_eq!(wait_with(pidfd.as_fd(), old_kernel).unwrap(), Some(Ended::Unknown));
        let expected = if has_exit_information() { ended } else { Ended::Unknown };
        assert_eq!(wait(pidfd.as_fd()).unwrap(), Some(expected));
    }
}

#[test]
fn exit_of_a_zombie_stranger_is_told_on_every_kernel() {
    let (parent, pid, pidfd, writer) = grandchild("exit 42", "exec sleep 60");
    // A shell reaps its children between two commands; only the program behind it never does.
    while super::process::process(parent.pid).unwrap().comm != "sleep" {
        std::thread::yield_now();
    }
    drop(writer);
    await_ready(pidfd.as_fd());
    assert_eq!(super::process::process(pid).unwrap().state, 'Z');
    assert_eq!(wait_with(pidfd.as_fd(), Fallbacks::ALL).unwrap(), Some(Ended::Code(42)));
    child::signal(parent.pidfd.as_fd(), libc::SIGKILL).unwrap();
    exit_of(&parent.pidfd);
}

#[test]
fn orphans_are_reaped_and_mains_are_left() {
    signal::become_subreaper().unwrap();
    let (_reader, output) = fifo::pipe().unwrap();
    let main = start(&shell("exit 7", &output));
    await_ready(main.pidfd.as_fd());
    let (parent, orphan, pidfd, writer) = grandchild("exit 0", "exit 0");
    assert_eq!(exit_of(&parent.pidfd), Ended::Code(0));
    drop(writer);
    await_ready(pidfd.as_fd());
    // Other tests have children in this process: only the orphan is not a main.
    let mut is_main = |pid: i32| pid != orphan;
    eventually(|| {
        reap_orphans(&mut is_main, 256).unwrap();
        (!fs::exists(format!("/proc/{orphan}")).unwrap()).then_some(())
    });
    assert_eq!(exit_of(&main.pidfd), Ended::Code(7));
}

/// A process with this number that sleeps; `None` when the number is taken.
#[expect(unsafe_code, reason = "clone3 with a chosen pid")]
fn with_pid(pid: i32) -> Option<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let mut arguments = [0_u64; 10];
    arguments[0] = u64::from(libc::CLONE_PIDFD.unsigned_abs());
    arguments[1] = (&raw mut pidfd).expose_provenance() as u64;
    arguments[4] = u64::from(libc::SIGCHLD.unsigned_abs());
    arguments[8] = (&raw const pid).expose_provenance() as u64;
    arguments[9] = 1;
    // SAFETY: a fork (no stack, no shared memory); the pointers live on this frame.
    let result = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    match Errno::result(result) {
        Ok(0) => loop {
            // SAFETY: the child of a fork, which only sleeps until it is killed, at the latest by the alarm.
            unsafe {
                libc::alarm(60);
                libc::pause();
            }
        },
        Ok(_) => {
            // SAFETY: made by the kernel for us.
            Some(unsafe { OwnedFd::from_raw_fd(pidfd) })
        }
        Err(Errno::EEXIST) => None,
        Err(errno) => panic!("{errno}"),
    }
}

#[test]
fn reused_number_is_another_process() {
    if !root_or_skip("choosing a pid") {
        return;
    }
    let (_reader, output) = fifo::pipe().unwrap();
    let (old, new, before) = eventually(|| {
        let old = start(&shell("exec sleep 60", &output));
        let before = identity(old.pid, old.pidfd.as_fd()).unwrap();
        child::signal(old.pidfd.as_fd(), libc::SIGKILL).unwrap();
        exit_of(&old.pidfd);
        with_pid(old.pid).map(|new| (old, new, before))
    });
    let after = identity(old.pid, new.as_fd()).unwrap();
    assert_eq!(after.pid, before.pid);
    assert_ne!(after, before);
    assert!(identity(old.pid, old.pidfd.as_fd()).is_err());
    assert_eq!(child::signal(old.pidfd.as_fd(), libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    assert_eq!(wait(new.as_fd()).unwrap(), None);
    child::signal(new.as_fd(), libc::SIGKILL).unwrap();
    assert_eq!(exit_of(&new), Ended::Signal { signal: libc::SIGKILL, core: false });
}
