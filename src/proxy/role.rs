//! The process of the role: from its arguments to its end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{control, shared, worker};
use crate::engine::balance::pick::hash_key;
use crate::sys;
use crate::sys::files;
use crate::sys::identity::{self, Identity};
use crate::sys::packet::PacketListener;

/// Below the run directory.
pub const SOCKET: &str = "roles/proxy.sock";
/// Below the state directory: 16 random bytes.
const SECRET: &str = "balancer-secret";
/// Where the agent reads that the role listens: a newline on this descriptor, if it is open.
const READY_DESCRIPTOR: i32 = 3;
/// Worker threads at most; each holds a buffer of 256 KiB, and few hosts have a network that needs more.
const WORKERS_MAX: usize = 4;
/// A machine's id has 32 digits.
const ID_BYTES_MIN: usize = 32;
/// For the workers to reset their connections when the agent says quit.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(
        "{0}: the proxy role is started by the agent, with --run-dir PATH, --state-dir PATH and --user UID:GID[:GROUP,..]"
    )]
    Usage(String),
    #[error("cannot listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot become user {uid}")]
    Become {
        uid: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot tell descriptor {READY_DESCRIPTOR} that the role listens")]
    Ready(#[source] io::Error),
    #[error("cannot ignore signals")]
    Signals(#[source] io::Error),
    #[error("cannot {step}")]
    Loop {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    run_dir: PathBuf,
    /// Where the secret of the hash is kept; `None`: nowhere.
    state_dir: Option<PathBuf>,
    /// `None`: it stays who it is.
    user: Option<Identity>,
}

/// The process of the role: listens on `roles/proxy.sock` below `--run-dir`, becomes `--user`, says on descriptor 3 that it is there, and
/// serves until an agent orders it to leave.
///
/// # Errors
/// What keeps the role from listening, from giving up its rights or from waiting. A connection that fails is counted, never an error here.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), ProxyError> {
    // First of all: later, descriptor 3 could be one of ours.
    let ready = sys::inherited::take(READY_DESCRIPTOR).map_err(ProxyError::Ready)?;
    let Arguments { run_dir, state_dir, user } =
        read(arguments).map_err(|error| ProxyError::Usage(error.to_string()))?;
    sys::signal::ignore_role_signals().map_err(ProxyError::Signals)?;
    let descriptors = sys::host::raise_nofile();
    let (path, starter) = (run_dir.join(SOCKET), sys::host::uid());
    let listener = PacketListener::bind(&path, 0o600).map_err(|source| ProxyError::Listen { path, source })?;
    let secret = state_dir.and_then(|directory| kept_secret(&directory)).unwrap_or_else(secret);
    if let Some(user) = &user {
        identity::assume(user).map_err(|source| ProxyError::Become { uid: user.uid, source })?;
    }
    let step = |step: &'static str| move |source| ProxyError::Loop { step, source };
    identity::renounce().map_err(step("renounce further rights"))?;
    let count = sys::host::cpus().min(WORKERS_MAX);
    let (shared, outcome) = shared::Shared::new(count, secret, shared::sessions_max(descriptors))
        .map_err(step("make what the threads share"))?;
    let log = io::stderr().as_fd().try_clone_to_owned().map_err(step("copy the standard error"))?;
    let workers = worker::start(&shared).map_err(step("start the workers"))?;
    let control = control::Control::new(listener, starter, shared, outcome, log)
        .map_err(step("make the control thread's epoll"))?;
    if let Some(ready) = ready {
        File::from(ready).write_all(b"\n").map_err(ProxyError::Ready)?;
    }
    control.run()?;
    join(&workers);
    Ok(())
}

/// Lets the workers finish; whoever does not in time ends with the process.
fn join(workers: &[JoinHandle<()>]) {
    let until = Instant::now() + QUIT_PATIENCE;
    while !workers.iter().all(JoinHandle::is_finished) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Keys of the hash that only root can read, made once: the same after every restart, else each client would move to another backend.
/// Read before the role gives up the right to.
fn kept_secret(directory: &Path) -> Option<[u64; 2]> {
    let path = directory.join(SECRET);
    let read = || <[u8; 16]>::try_from(std::fs::read(&path).ok()?).ok();
    let make = || {
        let fresh = [sys::host::random_u64(), sys::host::random_u64()].map(u64::to_le_bytes);
        files::write_atomically(&path, fresh.as_flattened(), files::Durability::Disk).ok()?;
        // What is kept, never what was to be: a role without a disk must not have a secret of its own at each start.
        read()
    };
    let kept = read().or_else(make)?;
    let (low, high) = kept.split_at(8);
    Some([u64::from_le_bytes(low.try_into().ok()?), u64::from_le_bytes(high.try_into().ok()?)])
}

/// Where nothing can be kept: from the machine's id, which anybody on this host can read; without one, from that of the boot.
fn secret() -> [u64; 2] {
    let ids = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"].iter().filter_map(|path| std::fs::read(path).ok());
    // An image that has not been started yet has an empty file, or a word in it.
    let id = ids.map(|id| id.trim_ascii().to_vec()).find(|id| id.len() >= ID_BYTES_MIN).unwrap_or_default();
    [hash_key([0x7072_6f78_792d_6b65, 0], &id), hash_key([0x7072_6f78_792d_6b65, 1], &id)]
}

fn read(arguments: impl Iterator<Item = OsString>) -> Result<Arguments, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut run_dir, mut state_dir, mut user) = (None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("run-dir") => run_dir = Some(PathBuf::from(parser.value()?)),
            lexopt::Arg::Long("state-dir") => state_dir = Some(PathBuf::from(parser.value()?)),
            lexopt::Arg::Long("user") => {
                let text = parser.value()?;
                let parsed = text.to_str().and_then(read_user);
                user = Some(parsed.ok_or_else(|| format!("--user {} is not UID:GID[:GROUP,..]", text.display()))?);
            }
            lexopt::Arg::Long(_) | lexopt::Arg::Short(_) | lexopt::Arg::Value(_) => return Err(argument.unexpected()),
        }
    }
    Ok(Arguments { run_dir: run_dir.ok_or("--run-dir is missing")?, state_dir, user })
}

/// `UID:GID[:GROUP,GROUP..]`
fn read_user(text: &str) -> Option<Identity> {
    let mut parts = text.split(':');
    let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let groups = match parts.next() {
        None => Vec::new(),
        Some(groups) => groups.split(',').map(|group| group.parse().ok()).collect::<Option<_>>()?,
    };
    parts.next().is_none().then_some(Identity { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn arguments_are_a_directory_and_a_user() {
        let read = |line: &str| read(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string());
        let run_dir = PathBuf::from("/run/x");
        assert_eq!(read("--run-dir /run/x"), Ok(Arguments { run_dir: run_dir.clone(), state_dir: None, user: None }));
        let user = |groups: &[u32]| Some(Identity { uid: 7, gid: 8, groups: groups.to_vec() });
        assert_eq!(
            read("--run-dir /run/x --user 7:8"),
            Ok(Arguments { run_dir: run_dir.clone(), state_dir: None, user: user(&[]) })
        );
        assert_eq!(
            read("--run-dir /run/x --state-dir /s --user 7:8:9,10"),
            Ok(Arguments { run_dir, state_dir: Some("/s".into()), user: user(&[9, 10]) })
        );
        assert_eq!(read(""), Err("--run-dir is missing".to_owned()));
        for broken in ["7", "7:", "a:8", "7:8:", "7:8:9,", "7:8:9:1", "-1:8"] {
            assert!(read(&format!("--run-dir /run/x --user {broken}")).is_err(), "{broken}");
        }
    }

    #[test]
    fn secret_is_made_once_and_only_its_owner_can_read_it() {
        let directory = TempDir::new();
        let first = kept_secret(directory.path()).unwrap();
        assert_eq!(kept_secret(directory.path()), Some(first));
        let path = directory.path().join(SECRET);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"cut short").unwrap();
        assert_ne!(kept_secret(directory.path()).unwrap(), first, "made anew");
        assert_eq!(kept_secret(&directory.path().join("nowhere")), None);
    }

    #[test]
    fn secret_is_the_same_each_time() {
        assert_eq!(secret(), secret());
        assert_ne!(secret()[0], secret()[1]);
    }
}
