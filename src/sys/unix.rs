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
use nix::libc;
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
    let placed = dress(&fresh, mode, owner).and_then(|()| prepare(&socket)).and_then(|()| fs::rename(&fresh, path));
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

/// Gives the socket that was just bound at `path` its permissions and owner. Whoever can write to the directory may have put something else
/// there meanwhile, so they are given to one inode, looked at before: a socket of ours with no other name, never the target of a link.
pub(super) fn dress(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    dress_if(path, mode, owner, |found| found.st_uid == super::host::uid())
}

/// As [`dress`], of a socket that has been given away before.
pub(super) fn redress(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    dress_if(path, mode, owner, |_| true)
}

fn dress_if(path: &Path, mode: u32, owner: Option<(u32, u32)>, is_ours: fn(&libc::stat) -> bool) -> io::Result<()> {
    let inode = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let found = nix::sys::stat::fstat(&inode)?;
    let is_socket = found.st_mode & libc::S_IFMT == libc::S_IFSOCK;
    if !is_socket || !is_ours(&found) || found.st_nlink != 1 {
        return Err(Errno::EEXIST.into());
    }
    let inode = PathBuf::from(format!("/proc/self/fd/{}", inode.as_raw_fd()));
    fs::set_permissions(&inode, fs::Permissions::from_mode(mode))?;
    match owner {
        Some((uid, gid)) => std::os::unix::fs::chown(&inode, Some(uid), Some(gid)),
        None => Ok(()),
    }
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

/// The connect does not wait: a listener whose queue is full would keep us as long as it likes.
pub(super) fn refuse_occupied(kind: SockType, path: &Path) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn permissions_go_to_the_socket_that_was_bound_and_never_through_a_link() {
        let directory = TempDir::new();
        let (path, precious) = (directory.path().join("sock"), directory.path().join("precious"));
        fs::write(&precious, "secret").unwrap();
        fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        // What the owner of the directory can make of our new name between our bind and our chmod.
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(dress(&path, 0o666, None).is_err());
        fs::remove_file(&path).unwrap();
        fs::hard_link(&precious, &path).unwrap();
        assert!(dress(&path, 0o666, None).is_err());
        assert_eq!(mode(&precious), 0o600);
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        let other = directory.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        assert!(dress(&path, 0o666, None).is_err());
        fs::remove_file(&other).unwrap();
        dress(&path, 0o620, None).unwrap();
        assert_eq!(mode(&path), 0o620);
    }
}
