//! The child's side of [`super::spawn`]: what runs between clone and exec.
//!
//! INVARIANT: everything here is async-signal-safe. The child has a copy of the parent's memory in whatever state another thread
//! left it, and the heap may not be there at all ([`super::heap`]). So nothing may allocate, lock, or call a C library function that does; hence
//! direct system calls, and every string and list is in the [`super::luggage`]. (The C library's setuid would also try to change threads that do not exist here.)
//!
//! The order is fixed by privileges and by what each call needs: what needs root first, what the new user has to be allowed (the
//! working directory) after the change of user, and the gate last, so that nothing is left between it and exec.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_char, c_int, c_long};

use super::landlock;
use super::rlimit::Limit;

/// Step, errno and the number of a path, as the child reports them.
pub(super) const FAILURE_BYTES: usize = 7;
/// The step concerns no path of several.
pub(super) const NO_PATH: u16 = u16::MAX;
/// `-1000` is the longest score.
pub(super) const OOM_TEXT_MAX: usize = 5;

/// All that the child needs, made by the parent. Nothing in it refers to the heap.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) path: &'a CStr,
    /// Ends with a null pointer, as does `envp`.
    pub(super) argv: &'a [*const c_char],
    pub(super) envp: &'a [*const c_char],
    /// Ten bytes and a NUL that become the child's pid.
    pub(super) listen_pid: Option<*mut u8>,
    pub(super) cwd: Option<&'a CStr>,
    pub(super) gate: RawFd,
    /// Source and target; the gate's target is the number below the last range of `closing`.
    pub(super) moves: &'a mut [(RawFd, RawFd)],
    /// Inclusive ranges; the last one is open-ended.
    pub(super) closing: &'a [(u32, u32)],
    /// A group that the child joins by itself.
    pub(super) join: Option<RawFd>,
    /// `cgroup.procs` of other groups; ends with a null pointer.
    pub(super) joins: &'a [*const c_char],
    pub(super) wall: Option<landlock::Packed<'a>>,
    /// Of the path that is being worked on.
    pub(super) path_number: u16,
    pub(super) identification: Option<Identification<'a>>,
    pub(super) umask: u32,
    pub(super) rlimits: &'a [Limit],
    pub(super) nice: i32,
    pub(super) oom_score_adj: Option<([u8; OOM_TEXT_MAX], usize)>,
    pub(super) no_new_privileges: bool,
    pub(super) capabilities: Option<&'a [u8]>,
    /// Bit N is signal N + 1.
    pub(super) ignored_signals: u64,
    pub(super) new_session: bool,
}

#[derive(Debug)]
pub(super) struct Identification<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: &'a [u32],
}

macro_rules! steps {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// The calls of the child that may fail, under the names that the operator sees.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Step {
            $($variant),+
        }

        impl Step {
            const NAMES: &'static [&'static str] = &[$($name),+];
        }
    };
}

steps! {
    Session = "setsid",
    Group = "cgroup.procs",
    OomScore = "oom_score_adj",
    Descriptors = "dup3",
    Nice = "setpriority",
    Limits = "setrlimit",
    Landlock = "landlock",
    Bounding = "prctl(PR_CAPBSET_DROP)",
    KeepCapabilities = "prctl(PR_SET_KEEPCAPS)",
    Groups = "setgroups",
    Gid = "setgid",
    Uid = "setuid",
    Capabilities = "capset",
    Ambient = "prctl(PR_CAP_AMBIENT)",
    Directory = "chdir",
    Dispositions = "sigaction",
    NoNewPrivileges = "prctl(PR_SET_NO_NEW_PRIVS)",
    Mask = "sigprocmask",
    Exec = "execve",
}

impl Step {
    pub(super) fn name(number: u8) -> &'static str {
        Self::NAMES.get(usize::from(number)).copied().unwrap_or("start")
    }
}

type Failure = (Step, Errno);

/// Becomes the program of the plan, or reports the step that failed and ends with code 127.
///
/// # Safety
/// Only in the child of a fork: it never returns, and it closes descriptors that others own.
#[expect(unsafe_code, reason = "the child of a fork")]
pub(super) unsafe fn run(plan: &mut Plan<'_>) -> ! {
    let Err((step, errno)) = prepare(plan).and_then(|()| {
        wait_at_gate(plan.gate);
        execute(plan)
    });
    let [a, b, c, d] = (errno as i32).to_ne_bytes();
    let [high, low] = plan.path_number.to_be_bytes();
    let message: [u8; FAILURE_BYTES] = [step as u8, a, b, c, d, high, low];
    // SAFETY: the message lives on this frame. If the parent is gone nobody is left to tell, hence the ignored result.
    unsafe {
        libc::syscall(libc::SYS_sendto, plan.gate, message.as_ptr(), message.len(), libc::MSG_NOSIGNAL, 0_u64, 0)
    };
    leave()
}

#[expect(unsafe_code, reason = "system call")]
fn leave() -> ! {
    loop {
        // SAFETY: ends this process without running anything that was registered in the parent.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

fn check(step: Step, result: c_long) -> Result<c_long, Failure> {
    if result == -1 { Err((step, Errno::last())) } else { Ok(result) }
}

fn prepare(plan: &mut Plan<'_>) -> Result<(), Failure> {
    if plan.new_session {
        session()?;
    }
    if let Some(directory) = plan.join {
        write_at(Step::Group, directory, c"cgroup.procs", b"0")?;
    }
    join_all(plan)?;
    if let Some((text, length)) = &plan.oom_score_adj {
        let written = write_at(Step::OomScore, libc::AT_FDCWD, c"/proc/self/oom_score_adj", &text[..*length]);
        unless_refused(written, text[0] != b'-')?;
    }
    descriptors(plan)?;
    nice(plan.nice)?;
    limits(plan.rlimits)?;
    wall(plan)?;
    if plan.capabilities.is_some() {
        drop_bounding(plan.capabilities.unwrap_or_default())?;
    }
    if let Some(identification) = &plan.identification {
        identify(identification, plan.capabilities.is_some())?;
    }
    if let Some(wanted) = plan.capabilities {
        capabilities(wanted)?;
    }
    umask(plan.umask);
    if let Some(cwd) = plan.cwd {
        directory(cwd)?;
    }
    dispositions(plan.ignored_signals)?;
    if plan.no_new_privileges {
        prctl(Step::NoNewPrivileges, libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    }
    if let Some(digits) = plan.listen_pid {
        write_pid(digits);
    }
    Ok(())
}

fn join_all(plan: &mut Plan<'_>) -> Result<(), Failure> {
    for (number, procs) in (0..).zip(plan.joins) {
        if procs.is_null() {
            break;
        }
        plan.path_number = number;
        write_at_pointer(Step::Group, libc::AT_FDCWD, *procs, b"0")?;
    }
    plan.path_number = NO_PATH;
    Ok(())
}

/// As root, and before anything is given up: then it needs no `no_new_privs`, and its paths need not be open to the service's user.
fn wall(plan: &mut Plan<'_>) -> Result<(), Failure> {
    let Some(wall) = &plan.wall else { return Ok(()) };
    landlock::enforce(wall).map_err(|(rule, errno)| {
        let number = rule.map(|rule| rule + plan.joins.len() - 1);
        plan.path_number = number.and_then(|number| u16::try_from(number).ok()).unwrap_or(NO_PATH);
        (Step::Landlock, errno)
    })
}

/// Nice and the score of the OOM killer can be lowered only with privileges. What an unprivileged agent was started with (a session of systemd
/// gives 100 or 200) then holds for its children where they ask for nothing better than the default; to ask for more and not get it is
/// a failure.
fn unless_refused(outcome: Result<(), Failure>, default_or_worse: bool) -> Result<(), Failure> {
    match outcome {
        Err((_, Errno::EACCES | Errno::EPERM)) if default_or_worse => Ok(()),
        other => other,
    }
}

#[expect(unsafe_code, reason = "system call")]
fn session() -> Result<(), Failure> {
    // SAFETY: no arguments.
    check(Step::Session, unsafe { libc::syscall(libc::SYS_setsid) }).map(drop)
}

fn write_at(step: Step, directory: RawFd, name: &CStr, bytes: &[u8]) -> Result<(), Failure> {
    write_at_pointer(step, directory, name.as_ptr(), bytes)
}

#[expect(unsafe_code, reason = "system calls")]
fn write_at_pointer(step: Step, directory: RawFd, name: *const c_char, bytes: &[u8]) -> Result<(), Failure> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string of the plan or the program and outlives the call.
    let file = check(step, unsafe { libc::syscall(libc::SYS_openat, directory, name, flags, 0) })?;
    // SAFETY: pointer and length are those of `bytes`.
    let written = check(step, unsafe { libc::syscall(libc::SYS_write, file, bytes.as_ptr(), bytes.len()) });
    // SAFETY: `file` was opened above and nobody else uses it.
    unsafe { libc::syscall(libc::SYS_close, file) };
    written.map(drop)
}

/// Raises every source out of the way of the targets, then puts each where it belongs, then closes the rest.
#[expect(unsafe_code, reason = "system calls")]
fn descriptors(plan: &mut Plan<'_>) -> Result<(), Failure> {
    let (first_closed, _) = plan.closing.last().copied().unwrap_or((u32::MAX, u32::MAX));
    let first_closed = c_int::try_from(first_closed).unwrap_or(c_int::MAX);
    let gate_target = first_closed - 1;
    let raised = |source: RawFd| -> Result<RawFd, Failure> {
        if source > gate_target {
            return Ok(source);
        }
        // SAFETY: duplicates a descriptor of this process.
        let copy = unsafe { libc::syscall(libc::SYS_fcntl, source, libc::F_DUPFD_CLOEXEC, first_closed) };
        check(Step::Descriptors, copy).map(|copy| RawFd::try_from(copy).unwrap_or(source))
    };
    plan.gate = raised(plan.gate)?;
    for (source, _) in plan.moves.iter_mut() {
        *source = raised(*source)?;
    }
    for (source, target) in plan.moves.iter() {
        // SAFETY: whatever `target` was in the parent is not used by this process again.
        check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_dup3, *source, *target, 0) })?;
    }
    // SAFETY: as above.
    check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_dup3, plan.gate, gate_target, libc::O_CLOEXEC) })?;
    plan.gate = gate_target;
    for (first, last) in plan.closing {
        // SAFETY: the ranges hold nothing that this process uses again.
        if unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) } == -1 {
            close_one_by_one(*first, *last);
        }
    }
    Ok(())
}

/// Descriptors that a kernel without close_range (before 5.9) closes here; higher ones are close-on-exec like all that the agent opens.
const CLOSED_ONE_BY_ONE_MAX: u32 = 4096;

#[expect(unsafe_code, reason = "system call")]
fn close_one_by_one(first: u32, last: u32) {
    for number in first..=last.min(CLOSED_ONE_BY_ONE_MAX) {
        // SAFETY: as in `descriptors`. Most numbers are not open, hence the ignored result.
        unsafe { libc::syscall(libc::SYS_close, number) };
    }
}

#[expect(unsafe_code, reason = "system calls")]
fn nice(wanted: i32) -> Result<(), Failure> {
    // SAFETY: numbers only. The kernel answers 20 - nice, so that no answer is negative.
    let current = 20 - check(Step::Nice, unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) })?;
    if current == c_long::from(wanted) {
        return Ok(());
    }
    // SAFETY: numbers only.
    let set = check(Step::Nice, unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, wanted) });
    unless_refused(set.map(drop), wanted >= 0)
}

#[expect(unsafe_code, reason = "system call")]
fn limits(limits: &[Limit]) -> Result<(), Failure> {
    for limit in limits {
        let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
        let none = ptr::null_mut::<libc::rlimit64>();
        // SAFETY: `value` lives on this frame; the old value is not asked for.
        let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, limit.number, &raw const value, none) };
        check(Step::Limits, result)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "system call")]
fn prctl(step: Step, operation: c_int, first: u64, second: u64) -> Result<c_long, Failure> {
    // SAFETY: none of the operations used here takes a pointer.
    check(step, unsafe { libc::syscall(libc::SYS_prctl, operation, first, second, 0_u64, 0_u64) })
}

/// More than any kernel has; the kernel says EINVAL behind its last one.
const CAPABILITIES_MAX: u8 = 64;

fn drop_bounding(wanted: &[u8]) -> Result<(), Failure> {
    for number in 0..CAPABILITIES_MAX {
        if wanted.contains(&number) {
            continue;
        }
        match prctl(Step::Bounding, libc::PR_CAPBSET_DROP, u64::from(number), 0) {
            Ok(_) => {}
            Err((_, Errno::EINVAL)) => return Ok(()),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "system calls")]
fn identify(who: &Identification<'_>, keep_capabilities: bool) -> Result<(), Failure> {
    if keep_capabilities {
        prctl(Step::KeepCapabilities, libc::PR_SET_KEEPCAPS, 1, 0)?;
    }
    let (uid, gid) = (who.uid, who.gid);
    // SAFETY: pointer and length are those of the list.
    let groups = unsafe { libc::syscall(libc::SYS_setgroups, who.groups.len(), who.groups.as_ptr()) };
    check(Step::Groups, groups)?;
    // SAFETY: numbers only.
    check(Step::Gid, unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: numbers only.
    check(Step::Uid, unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Version 3 of capset's header: two words of 32 for each set.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[expect(unsafe_code, reason = "system call")]
fn capabilities(wanted: &[u8]) -> Result<(), Failure> {
    let mut words = [CapabilityWords::default(); 2];
    for number in wanted {
        let bit = 1_u32 << (number % 32);
        if let Some(word) = words.get_mut(usize::from(number / 32)) {
            word.effective |= bit;
            word.permitted |= bit;
            word.inheritable |= bit;
        }
    }
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: both structures live on this frame and have the layout of version 3.
    check(Step::Capabilities, unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) })?;
    prctl(Step::Ambient, libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL, 0)?;
    for number in wanted {
        prctl(Step::Ambient, libc::PR_CAP_AMBIENT, AMBIENT_RAISE, u64::from(*number))?;
    }
    Ok(())
}

const AMBIENT_RAISE: u64 = 2;
const AMBIENT_CLEAR_ALL: u64 = 4;

#[expect(unsafe_code, reason = "system call")]
fn umask(mask: u32) {
    // SAFETY: a number; it cannot fail.
    unsafe { libc::syscall(libc::SYS_umask, mask) };
}

#[expect(unsafe_code, reason = "system call")]
fn directory(cwd: &CStr) -> Result<(), Failure> {
    // SAFETY: a C string that outlives the call.
    check(Step::Directory, unsafe { libc::syscall(libc::SYS_chdir, cwd.as_ptr()) }).map(drop)
}

/// Exec resets handlers by itself; what is ignored stays ignored, so that is what is reset here.
#[expect(unsafe_code, reason = "system call")]
fn dispositions(mut ignored: u64) -> Result<(), Failure> {
    while ignored != 0 {
        let signal = ignored.trailing_zeros() + 1;
        ignored &= ignored - 1;
        // The kernel's structure is never larger than this, and all zero it is the default action with no flags.
        let default = [0_u64; 4];
        let none = ptr::null_mut::<u64>();
        // SAFETY: `default` lives on this frame; the size is that of the kernel's signal set.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, SIGNAL_SET_BYTES) };
        check(Step::Dispositions, result)?;
    }
    Ok(())
}

const SIGNAL_SET_BYTES: usize = 8;

/// Digits from the front, then the NUL: the variable gets shorter rather than padded.
#[expect(unsafe_code, reason = "a buffer of the plan")]
fn write_pid(digits: *mut u8) {
    // SAFETY: no arguments.
    let mut rest = unsafe { libc::syscall(libc::SYS_getpid) };
    let mut reversed = [0_u8; 10];
    let mut length = 0;
    while rest > 0 && length < reversed.len() {
        reversed[length] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        length += 1;
    }
    for index in 0..length {
        // SAFETY: the plan's buffer has room for ten digits and a NUL.
        unsafe { digits.add(index).write(reversed[length - 1 - index]) };
    }
    // SAFETY: as above, `length` is at most ten.
    unsafe { digits.add(length).write(0) };
}

/// Returns when the parent has opened the gate; ends this process when it is closed instead.
#[expect(unsafe_code, reason = "system call")]
fn wait_at_gate(gate: RawFd) {
    let mut byte = [0_u8; 1];
    loop {
        // SAFETY: one byte of this frame.
        match unsafe { libc::syscall(libc::SYS_recvfrom, gate, byte.as_mut_ptr(), 1, 0, 0_u64, 0_u64) } {
            1 => return,
            -1 if Errno::last() == Errno::EINTR => {}
            _ => leave(),
        }
    }
}

#[expect(unsafe_code, reason = "system calls")]
fn execute(plan: &Plan<'_>) -> Result<std::convert::Infallible, Failure> {
    let nothing_blocked = 0_u64;
    let none = ptr::null_mut::<u64>();
    // SAFETY: the mask lives on this frame; the size is that of the kernel's signal set.
    let masked = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const nothing_blocked, none, SIGNAL_SET_BYTES)
    };
    check(Step::Mask, masked)?;
    // SAFETY: the path is a C string, and both lists end with a null pointer.
    unsafe { libc::syscall(libc::SYS_execve, plan.path.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
    Err((Step::Exec, Errno::last()))
}
