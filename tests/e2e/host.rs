//! What disks, NICs and mounts that fail mean to services, with real ones in namespaces of the test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{SOON, SilentMount, apart, proc};

/// The tool itself: without it the stories below would show nothing.
#[test]
fn who_asks_a_silent_mount_cannot_be_killed_until_it_is_gone() {
    apart(|| {
        let point = std::env::temp_dir().join(format!("mainstay-silent-{}", std::process::id()));
        let mount = SilentMount::on(&point).unwrap();
        let asking = || -> Child {
            Command::new("stat").arg("-f").arg(&point).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        assert!(asking().wait().unwrap().success());
        mount.fall_silent();
        let mut stuck = asking();
        let pid = i32::try_from(stuck.id()).unwrap();
        until("it waits", || mount.unanswered() == 1);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        until("it waits for ever", || proc::stat(pid).is_some_and(|fields| fields[0] == "D"));
        assert!(stuck.try_wait().unwrap().is_none());
        drop(mount);
        assert!(!stuck.wait().unwrap().success());
        std::fs::remove_dir(&point).unwrap();
    });
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
