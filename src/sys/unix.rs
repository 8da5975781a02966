//! Unix sockets by path: binding so that nobody ever sees a socket with the wrong mode, and connecting. Paths of any length: one that does
//! not fit into `sun_path` goes through the directory's descriptor in /proc.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::stat::Mode;

use super::packet::Peer;

/// Binds a non-blocking socket at `path` with these permissions, under another name first: whoever finds the path finds it
/// complete. A socket that nobody listens on is replaced; one that answers is EADDRINUSE, and anything but a socket is EEXIST.
/// `prepare` is called before the path is there: what listens, listens by then.
pub(super) fn bind(
    kind: SockType,
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
    prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    refuse_occupied(kind, path)?;
    let socket = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let fresh = beside(path)?;
    remove_if_there(&fresh)?;
    let (address, _directory) = address(&fresh)?;
    // The mode of an unbound socket is the mode of what bind creates: it is never wider than asked, whatever the umask.
    nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(mode))?;
    socket::bind(socket.as_raw_fd(), &address)?;
    let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))
        .and_then(|()| give(&fresh, owner))
        .and_then(|()| prepare(&socket))
        .and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = placed {
        remove_if_there(&fresh)?;
        return Err(error);
    }
    Ok(socket)
}

/// Connects a non-blocking socket.
pub(super) fn connect(kind: SockType, path: &Path) -> io::Result<OwnedFd> {
    let socket = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let (address, _directory) = address(path)?;
    socket::connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Accepts a non-blocking connection; `None` when there is none (any more).
pub(super) fn accept(listener: &impl AsFd) -> io::Result<Option<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match accept4(listener.as_fd().as_raw_fd(), flags) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[expect(unsafe_code, reason = "the descriptor's owner")]
fn accept4(listener: i32, flags: SockFlag) -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    let fd = socket::accept4(listener, flags)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process at the other end, as it was when it connected (or made the pair).
pub(super) fn peer(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials = socket::getsockopt(&socket.as_fd(), socket::sockopt::PeerCredentials)?;
    Ok(Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
}

pub(super) fn give(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => std::os::unix::fs::lchown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn refuse_occupied(kind: SockType, path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Err(Errno::EEXIST.into()),
        Ok(_) => {}
    }
    match connect(kind, path) {
        // EAGAIN: somebody listens, with a full queue.
        Ok(_) => Err(Errno::EADDRINUSE.into()),
        Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => Err(Errno::EADDRINUSE.into()),
        Err(_) => Ok(()),
    }
}

/// A hidden name in the same directory.
pub(super) fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let mut fresh = OsString::from(".");
    fresh.push(name);
    fresh.push(".new");
    Ok(path.with_file_name(fresh))
}

/// The address, and what keeps it valid.
fn address(path: &Path) -> io::Result<(UnixAddr, Option<OwnedFd>)> {
    match UnixAddr::new(path) {
        Ok(address) => return Ok((address, None)),
        Err(Errno::ENAMETOOLONG) => {}
        Err(errno) => return Err(errno.into()),
    }
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((UnixAddr::new(&short)?, Some(directory)))
}
