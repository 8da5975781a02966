//! Work that is to be felt by nobody: the idle class of the disks, and a low priority of the CPU.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// From ioprio_set(2): one thread, by its number, 0 is the caller.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// IOPRIO_CLASS_IDLE in the upper bits (13).
const IDLE_CLASS: libc::c_int = 3 << 13;
/// IOPRIO_CLASS_NONE: by the nice value.
const NO_CLASS: libc::c_int = 0;

/// Makes the calling thread, and those that it starts from now on, give way to everybody. Disks without a scheduler know no classes.
///
/// # Errors
/// What the kernel says; the work may go on.
pub fn this_thread(nice: i32) -> io::Result<()> {
    set_class(IDLE_CLASS)?;
    set_nice(nice)
}

/// Ends [`this_thread`] for the calling thread: somebody stands still for what it does next.
///
/// # Errors
/// What the kernel says: to rise again may want a privilege.
pub fn no_longer() -> io::Result<()> {
    set_class(NO_CLASS)?;
    set_nice(0)
}

#[expect(unsafe_code, reason = "neither nix nor std has ioprio_set")]
fn set_class(class: libc::c_int) -> io::Result<()> {
    // SAFETY: three numbers; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[expect(unsafe_code, reason = "nix has no setpriority")]
fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: three numbers; no memory is touched. On Linux 0 is the calling thread alone.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, nice) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_and_the_others_do_not() {
        let nice = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{pid}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let own = nix::unistd::gettid().to_string();
        let before = nice(&own);
        let worker = std::thread::spawn(move || {
            this_thread(10).unwrap();
            let own = nix::unistd::gettid().to_string();
            let idle = nice(&own);
            // Only the privileged rise again.
            let risen = if no_longer().is_ok() { 0 } else { idle };
            assert_eq!(nice(&own), risen);
            idle
        });
        assert_eq!((worker.join().unwrap(), nice(&own)), (10, before));
    }
}
