//! The one fork. The child is born with its pidfd and in its group, becomes everything the request says, and then waits at the gate:
//! no line of its program runs before the parent has said so, and if the parent dies first it never runs at all. One seqpacket
//! socket is both the gate (parent to child) and the status of exec (child to parent: a failed step, or closed by exec).
//!
//! It is a real fork and not a vfork, although that would save copying page tables: with the parent suspended until exec
//! nobody could open the gate. Nor may a child share the memory of a parent that goes on: the kernel gives all processes of one memory
//! the same score for its OOM killer (the child's own would become the agent's), and kills them together, so that a service whose group is
//! out of memory while it starts would take the agent with it. What a fork copies is kept small instead ([`super::heap`]).
//!
//! This module prepares all that the child needs; [`super::spawn_child`] is what runs in it. Oldest kernel: 5.4.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::stat::Mode;

use super::Fallbacks;
use super::landlock::Wall;
use super::luggage::{self, Luggage};
use super::rlimit::{Limit, Resource};
use super::spawn_child::{self, Identification, OOM_TEXT_MAX, Step};
use super::{clock, host, process, signal};

/// Who the child becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Everything the child becomes between clone and exec.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    pub path: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// `LISTEN_PID=0000000000` in `envp` becomes `LISTEN_PID=` and the child's pid.
    pub listen_pid: bool,
    /// `None`: the parent's.
    pub cwd: Option<CString>,
    /// `None`: /dev/null.
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// Source and its number in the child (3 or above). No other descriptor is passed on.
    pub descriptors: Vec<(BorrowedFd<'a>, i32)>,
    pub credentials: Option<Credentials>,
    pub umask: u32,
    /// Soft and hard value; `u64::MAX` is unlimited. Without `Nofile` the child gets what this process had before
    /// [`host::raise_nofile`].
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// Without privileges nice and score cannot be lowered: a child that asks for 0 or more keeps this process's then, one that asks for
    /// less fails.
    pub nice: i32,
    pub oom_score_adj: i32,
    pub no_new_privileges: bool,
    /// `Some`: exactly these (bounding, permitted, inheritable, effective and ambient).
    pub capabilities: Option<Vec<u8>>,
    /// Directory of the group to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` of groups in other hierarchies (v1), which the child joins by itself: a move may take the kernel many milliseconds.
    pub joins: Vec<CString>,
    /// What it may reach.
    pub wall: Option<Box<Wall>>,
    pub new_session: bool,
}

impl<'a> SpawnRequest<'a> {
    /// A request with nothing set: no command, no other user, limits or descriptors; a session of its own, both outputs to `output`.
    #[must_use]
    pub fn plain(output: BorrowedFd<'a>) -> Self {
        Self {
            path: CString::default(),
            argv: Vec::new(),
            envp: Vec::new(),
            listen_pid: false,
            cwd: None,
            stdin: None,
            stdout: output,
            stderr: output,
            descriptors: Vec::new(),
            credentials: None,
            umask: 0o022,
            rlimits: Vec::new(),
            nice: 0,
            oom_score_adj: 0,
            no_new_privileges: false,
            capabilities: None,
            cgroup: None,
            joins: Vec::new(),
            wall: None,
            new_session: true,
        }
    }
}

/// A child that waits at its gate.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// When it was born, as `/proc/PID/stat` counts (field 22), where our own clock can tell: to read it there costs as much as a third of the
    /// clone, and again at the child's end, when the kernel takes the entries of /proc away.
    pub start_ticks: Option<u64>,
    pub gate: Gate,
}

/// The parent's end of the socket between it and a child that has not executed yet.
#[derive(Debug)]
pub struct Gate {
    socket: OwnedFd,
    opened: Cell<bool>,
    /// Paths by the number under which the child names the one that failed.
    paths: Vec<CString>,
}

impl Gate {
    /// Lets the child go on to exec; a gate that is dropped unopened ends the child with code 127. A child that is gone already is no
    /// error here: [`Gate::status`] tells why.
    pub fn open(&self) -> io::Result<()> {
        self.opened.set(true);
        match send(self.socket.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The path of [`ExecStatus::FailedAt`].
    #[must_use]
    pub fn path(&self, number: u16) -> String {
        let path = self.paths.get(usize::from(number));
        path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// `None`: not known yet. To be asked until it answers; a failed step is told once. `Executed` is also the answer for a child that was
    /// killed between the gate and exec: its exit tells.
    pub fn status(&self) -> io::Result<Option<ExecStatus>> {
        let mut message = [0_u8; spawn_child::FAILURE_BYTES];
        let mut left_gate_unread = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(spawn_child::FAILURE_BYTES) => {
                    let [step, a, b, c, d, high, low] = message;
                    let (step, errno) = (Step::name(step), Errno::from_raw(i32::from_ne_bytes([a, b, c, d])));
                    let path = u16::from_be_bytes([high, low]);
                    return Ok(Some(match path {
                        spawn_child::NO_PATH => ExecStatus::Failed { step, errno },
                        path => ExecStatus::FailedAt { step, errno, path },
                    }));
                }
                Ok(_) if left_gate_unread || !self.opened.get() => {
                    return Ok(Some(ExecStatus::Failed { step: "gate", errno: Errno::ESRCH }));
                }
                Ok(_) => return Ok(Some(ExecStatus::Executed)),
                Err(Errno::EAGAIN) => return Ok(None),
                // The child ended with our byte unread; a message of its own still waits behind this error.
                Err(Errno::ECONNRESET) if !left_gate_unread => left_gate_unread = true,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What became of the child's exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecStatus {
    Executed,
    /// The call that failed, and how; `gate` with ESRCH: the child was ended before the gate was opened.
    Failed {
        step: &'static str,
        errno: Errno,
    },
    /// The same at one of several paths: [`Gate::path`].
    FailedAt {
        step: &'static str,
        errno: Errno,
        path: u16,
    },
}

/// Why there is no child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot create the gate of a new process")]
    Gate(#[source] Errno),
    #[error("cannot open /dev/null")]
    Null(#[source] Errno),
    #[error("cannot create a process")]
    Clone(#[source] Errno),
    #[error("cannot open a pidfd of the new process")]
    Pidfd(#[source] Errno),
}

impl SpawnError {
    /// Whether the agent lacks something (memory, descriptors, processes): not the service's failure.
    #[must_use]
    pub fn ours(&self) -> bool {
        let (Self::Gate(errno) | Self::Null(errno) | Self::Clone(errno) | Self::Pidfd(errno)) = self;
        matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS)
    }
}

/// Creates the child, which waits at its gate.
pub fn spawn(request: &SpawnRequest<'_>) -> Result<Child, SpawnError> {
    spawn_with(request, Fallbacks::NONE)
}

/// [`spawn`] as on a kernel without what `fallbacks` names.
pub fn spawn_with(request: &SpawnRequest<'_>, fallbacks: Fallbacks) -> Result<Child, SpawnError> {
    let null = null_device().map_err(SpawnError::Null)?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(SpawnError::Gate)?;
    let (mut small, mut large) = ([const { MaybeUninit::uninit() }; luggage::SMALL_BYTES], None);
    let mut luggage = Luggage::new(luggage_bytes(request), &mut small, &mut large).map_err(SpawnError::Clone)?;
    let mut plan = pack(request, null, theirs.as_fd(), &mut luggage).map_err(SpawnError::Clone)?;
    let before_ns = clock::boot_ns();
    let (pid, pidfd) = clone_child(&mut plan, request.cgroup, fallbacks)?;
    let start_ticks = process::start_ticks_between(before_ns, clock::boot_ns());
    let gate = Gate { socket: ours, opened: Cell::new(false), paths: paths(request) };
    Ok(Child { pid, pidfd, start_ticks, gate })
}

/// In the order in which the child meets them.
fn paths(request: &SpawnRequest<'_>) -> Vec<CString> {
    let allowed = request.wall.iter().flat_map(|wall| wall.paths()).map(CStr::to_owned);
    request.joins.iter().cloned().chain(allowed).collect()
}

/// As the caller writes it into `envp`: room for any pid. Not padded with zeros in the child, which some readers take for octal.
const LISTEN_PID: &[u8; 22] = b"LISTEN_PID=0000000000\0";
const LISTEN_PID_DIGITS_AT: usize = 11;

/// The request as the child finds it.
fn pack<'m>(
    request: &SpawnRequest<'_>,
    null: BorrowedFd<'_>,
    gate: BorrowedFd<'_>,
    luggage: &mut Luggage<'m>,
) -> Result<spawn_child::Plan<'m>, Errno> {
    let stdin = request.stdin.unwrap_or(null);
    let mut moves = vec![(stdin.as_raw_fd(), 0), (request.stdout.as_raw_fd(), 1), (request.stderr.as_raw_fd(), 2)];
    moves.extend(request.descriptors.iter().map(|(source, target)| (source.as_raw_fd(), *target)));
    let mut listen_pid = None;
    let mut envp = Vec::with_capacity(request.envp.len() + 1);
    for variable in &request.envp {
        let bytes = luggage.pack(variable.as_bytes_with_nul())?;
        envp.push(bytes.as_ptr().cast());
        if request.listen_pid && bytes == LISTEN_PID {
            listen_pid = Some(bytes[LISTEN_PID_DIGITS_AT..].as_mut_ptr());
        }
    }
    Ok(spawn_child::Plan {
        path: luggage.pack_string(&request.path)?,
        argv: luggage.pack_strings(&request.argv)?,
        envp: luggage.pack_pointers(envp)?,
        listen_pid,
        cwd: request.cwd.as_deref().map(|cwd| luggage.pack_string(cwd)).transpose()?,
        gate: gate.as_raw_fd(),
        closing: luggage.pack(&closing(&moves))?,
        moves: luggage.pack(&moves)?,
        join: None,
        joins: luggage.pack_strings(&request.joins)?,
        wall: request.wall.as_ref().map(|wall| wall.pack(luggage)).transpose()?,
        path_number: spawn_child::NO_PATH,
        identification: identification(request, luggage)?,
        umask: request.umask,
        rlimits: luggage.pack(&rlimits(request))?,
        nice: request.nice,
        oom_score_adj: oom_text(request.oom_score_adj),
        no_new_privileges: request.no_new_privileges,
        capabilities: match &request.capabilities {
            Some(wanted) => Some(luggage.pack(wanted)?),
            None => None,
        },
        ignored_signals: signal::ignored(),
        new_session: request.new_session,
    })
}

/// At least what [`pack`] needs.
fn luggage_bytes(request: &SpawnRequest<'_>) -> usize {
    /// Of any list's item, the gap before it included.
    const ITEM_BYTES_MAX: usize = 32;
    let strings =
        request.argv.iter().chain(&request.envp).chain(&request.cwd).chain([&request.path]).chain(&request.joins);
    let allowed = request.wall.iter().flat_map(|wall| wall.paths());
    // Beside a rule's path lies the rule.
    let allowed: usize = allowed.map(|path| path.to_bytes_with_nul().len() + 2 * ITEM_BYTES_MAX).sum();
    let strings: usize = strings.map(|string| string.as_bytes_with_nul().len() + ITEM_BYTES_MAX).sum();
    let groups = request.credentials.as_ref().map_or(0, |credentials| credentials.groups.len());
    let capabilities = request.capabilities.as_ref().map_or(0, Vec::len);
    // Null, both outputs, the ends of lists, and the limit on descriptors that is always set.
    let items = 2 * request.descriptors.len() + request.rlimits.len() + groups + capabilities + 16;
    strings + allowed + items * ITEM_BYTES_MAX
}

/// The ranges of descriptors that the child closes: everything but its targets and its gate, which is moved right above them.
fn closing(moves: &[(RawFd, i32)]) -> Vec<(u32, u32)> {
    let mut targets: Vec<u32> = moves.iter().filter_map(|(_, target)| u32::try_from(*target).ok()).collect();
    targets.sort_unstable();
    let mut ranges = Vec::new();
    let mut next = 0;
    for target in targets {
        if target > next {
            ranges.push((next, target - 1));
        }
        next = target + 1;
    }
    ranges.push((next + 1, u32::MAX));
    ranges
}

/// `None` when it would change nothing: an agent without privileges may name its own user.
fn identification<'m>(
    request: &SpawnRequest<'_>,
    luggage: &mut Luggage<'m>,
) -> Result<Option<Identification<'m>>, Errno> {
    let Some(wanted) = &request.credentials else { return Ok(None) };
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if !uid.is_root() && uid.as_raw() == wanted.uid && gid.as_raw() == wanted.gid {
        return Ok(None);
    }
    Ok(Some(Identification { uid: wanted.uid, gid: wanted.gid, groups: luggage.pack(&wanted.groups)? }))
}

fn rlimits(request: &SpawnRequest<'_>) -> Vec<Limit> {
    let mut limits: Vec<Limit> =
        request.rlimits.iter().map(|(resource, soft, hard)| Limit::new(*resource, *soft, *hard)).collect();
    if !request.rlimits.iter().any(|(resource, ..)| *resource == Resource::Nofile) {
        limits.extend(host::nofile_before_raise().map(|(soft, hard)| Limit::new(Resource::Nofile, soft, hard)));
    }
    limits
}

fn oom_text(wanted: i32) -> Option<([u8; OOM_TEXT_MAX], usize)> {
    if host::oom_score_adj() == Some(wanted) {
        return None;
    }
    let text = wanted.clamp(-1000, 1000).to_string();
    let mut bytes = [0; OOM_TEXT_MAX];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    Some((bytes, text.len()))
}

fn null_device() -> Result<BorrowedFd<'static>, Errno> {
    static NULL: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(null) = NULL.get() {
        return Ok(null.as_fd());
    }
    let opened = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(NULL.get_or_init(|| opened).as_fd())
}

/// Clones with the best the kernel has. Where the child cannot be born in its group it joins it itself, and reports it when that fails
/// too, so an error of the group never counts as ours.
fn clone_child(
    plan: &mut spawn_child::Plan<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    fallbacks: Fallbacks,
) -> Result<(i32, OwnedFd), SpawnError> {
    if !fallbacks.no_clone3 {
        if let Some(directory) = cgroup.filter(|_| !fallbacks.no_clone_into_cgroup) {
            match clone3(plan, Some(directory)) {
                Ok(child) => return Ok(child),
                Err(errno @ (Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)) => {
                    return Err(SpawnError::Clone(errno));
                }
                Err(_) => {}
            }
        }
        plan.join = cgroup.map(|directory| directory.as_raw_fd());
        match clone3(plan, None) {
            // Filters of containers answer EPERM for the call they do not know.
            Err(Errno::ENOSYS | Errno::EPERM) => {}
            other => return other.map_err(SpawnError::Clone),
        }
    }
    plan.join = cgroup.map(|directory| directory.as_raw_fd());
    clone_without_clone3(plan)
}

/// The kernel's `struct clone_args` up to 5.7, with `cgroup`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Size of the structure on kernels before `cgroup` (5.5, with `set_tid`).
const CLONE_ARGS_WITHOUT_CGROUP: usize = 80;

/// Not in the C library's headers for musl.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[expect(unsafe_code, reason = "clone3 has no wrapper")]
fn clone3(plan: &mut spawn_child::Plan<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<(i32, OwnedFd), Errno> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: u64::from(libc::CLONE_PIDFD.unsigned_abs()),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    let mut size = CLONE_ARGS_WITHOUT_CGROUP;
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
        size = size_of::<CloneArgs>();
    }
    // SAFETY: without CLONE_VM and with no stack this is a fork: the child goes on with its own copy of this frame, and of all memory that the
    // plan refers to. `arguments` and `pidfd` live until the call returns in the parent, and `size` is within `arguments`.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) })?;
    if pid == 0 {
        // SAFETY: this is the child of a fork, and the plan was prepared in the parent.
        unsafe { spawn_child::run(plan) }
    }
    let pid = i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: CLONE_PIDFD made the kernel store a descriptor that nobody else knows.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

#[expect(unsafe_code, reason = "fork and nothing else")]
fn clone_without_clone3(plan: &mut spawn_child::Plan<'_>) -> Result<(i32, OwnedFd), SpawnError> {
    // SAFETY: SIGCHLD alone makes the old clone a plain fork; its other arguments are unused then.
    let pid =
        Errno::result(unsafe { libc::syscall(libc::SYS_clone, i64::from(libc::SIGCHLD), 0_i64, 0_i64, 0_i64, 0_i64) })
            .map_err(SpawnError::Clone)?;
    if pid == 0 {
        // SAFETY: this is the child of a fork, and the plan was prepared in the parent.
        unsafe { spawn_child::run(plan) }
    }
    let pid = i32::try_from(pid).map_err(|_| SpawnError::Clone(Errno::EOVERFLOW))?;
    // The number is the child's: whoever reaps is this thread, and it is here. A child without a pidfd ends at its gate.
    match super::child::open(pid) {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(error) => Err(SpawnError::Pidfd(Errno::from_raw(error.raw_os_error().unwrap_or_default()))),
    }
}
