//! A directory by its descriptor. Everything below it is reached from there and from nowhere else: no path is resolved again, no link is followed,
//! and nothing leaves its mount, so that a disk that goes away in the middle leaves errors and not files on the disk below.
//!
//! Names are single components unless a function says otherwise; bytes, not text.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat, mknodat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

pub use super::listing::{Listed, Listing};
use super::stat;
pub use super::stat::{FileType, Stamp, Stat};

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// What a rename does with what has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// It goes away.
    Replace,
    /// An error: `AlreadyExists`.
    New,
    /// It gets the old name.
    Exchange,
}

/// The lock of a directory, until it is dropped or the process ends, however that comes about.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] Flock<OwnedFd>);

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("somebody else works on it")]
    Busy,
    #[error("cannot lock it")]
    Failed(#[source] io::Error),
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What others than root may use.
    pub free_bytes: u64,
    pub size_bytes: u64,
    pub free_inodes: u64,
    /// 0 where inodes are made as needed.
    pub inodes: u64,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Dir {
    /// An absolute path. Its last component is no link; those before it may be, and mounts are crossed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(AT_FDCWD, path, DIRECTORY, Mode::empty())?))
    }

    /// A directory below this one: a relative path of several components, on the same mount, none of them a link.
    pub fn sub(&self, path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.starts_with(b"/") || bytes.split(|byte| *byte == b'/').any(|name| name == b"..") {
            return Err(Errno::EINVAL.into());
        }
        Ok(Self(self.beneath(path, DIRECTORY, Mode::empty())?))
    }

    /// A directory in this one, also where another file system is mounted there; no link.
    pub fn enter(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self(openat(&self.0, single(name)?, DIRECTORY, Mode::empty())?))
    }

    /// The directory once more, by a descriptor of its own.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Self(openat(&self.0, ".", DIRECTORY, Mode::empty())?))
    }

    /// For reading. Does not wait for the other end of a fifo; leaves the time of the last access alone where that is allowed. The caller looks at what
    /// kind of file it got.
    pub fn read(&self, name: &OsStr) -> io::Result<File> {
        self.read_with(name, OFlag::empty())
    }

    /// As [`Self::read`], past the page cache: reads are of multiples of a disk's block, to such addresses. `None`: its file system does not do that.
    pub fn read_direct(&self, name: &OsStr) -> io::Result<Option<File>> {
        match self.read_with(name, OFlag::O_DIRECT) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn read_with(&self, name: &OsStr, how: OFlag) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | how;
        let opened = match self.open_name(name, flags | OFlag::O_NOATIME, 0) {
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => self.open_name(name, flags, 0),
            opened => opened,
        };
        opened.map(File::from)
    }

    /// A new file, for reading and writing; less the umask.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        self.open_name(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, mode).map(File::from)
    }

    /// A file of mode 0600 that is empty now, whatever there was.
    pub fn overwrite(&self, name: &OsStr) -> io::Result<File> {
        self.open_name(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC, 0o600).map(File::from)
    }

    /// Whatever has this name, a link too, as a handle for its attributes only.
    pub fn handle(&self, name: &OsStr) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, single(name)?, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(mkdirat(&self.0, single(name)?, Mode::from_bits_truncate(mode))?)
    }

    /// Takes the name away from whatever it is, but a directory.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, single(name)?, UnlinkatFlags::NoRemoveDir)?)
    }

    /// The same, and no error if there is nothing of that name.
    pub fn remove_file_if_there(&self, name: &OsStr) -> io::Result<()> {
        match self.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// An empty directory.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, single(name)?, UnlinkatFlags::RemoveDir)?)
    }

    pub fn rename(&self, name: &OsStr, to: &Self, to_name: &OsStr, how: Rename) -> io::Result<()> {
        stat::rename(self.0.as_fd(), single(name)?, to.0.as_fd(), single(to_name)?, how)
    }

    /// Another name for the same inode. A symbolic link gets one itself.
    pub fn link(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        Ok(linkat(&self.0, single(name)?, &to.0, single(to_name)?, AtFlags::empty())?)
    }

    pub fn symlink(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, &self.0, single(name)?)?)
    }

    pub fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, single(name)?)?)
    }

    /// A fifo, socket or device node; the type is part of the mode, as in `st_mode`. Less the umask.
    pub fn make_node(&self, name: &OsStr, mode_with_type: u32, rdev: u64) -> io::Result<()> {
        let kind = SFlag::from_bits_truncate(mode_with_type & SFlag::S_IFMT.bits());
        Ok(mknodat(&self.0, single(name)?, kind, Mode::from_bits_truncate(mode_with_type), rdev)?)
    }

    /// Of what has this name, a link itself.
    pub fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        stat::at(self.0.as_fd(), single(name)?)
    }

    pub fn stat_self(&self) -> io::Result<Stat> {
        stat::of(self.0.as_fd())
    }

    /// What is in it, by the bytes of the names, without `.` and `..`. For directories of any size there is [`Dir::listing`].
    pub fn entries(&self) -> io::Result<Vec<(OsString, FileType, u64)>> {
        let listing = self.listing()?;
        Ok(listing.iter().map(|listed| (listed.name.to_os_string(), listed.kind, listed.ino)).collect())
    }

    /// What is in it, in as little memory as may be.
    pub fn listing(&self) -> io::Result<Listing> {
        // By a descriptor of its own, because the position is part of it.
        Listing::read(self.again()?.0.as_fd())
    }

    /// Some hundreds of the names in it, from where its descriptor's position is, which moves on.
    pub fn glance(&self) -> io::Result<Listing> {
        Listing::glance(self.0.as_fd())
    }

    /// The permissions of the directory itself.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.0, Mode::from_bits_truncate(mode))?)
    }

    /// Makes the names in it last.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(&self.0)?)
    }

    /// Writes back everything of its file system. Reports what failed to be written since this directory was opened (Linux 5.8), so it must have been open
    /// before.
    pub fn sync_fs(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&self.0)?)
    }

    /// The kernel lets go of the lock when its holder dies, so there are no stale ones.
    pub fn lock(&self) -> Result<Lock, LockError> {
        let own = self.again().map_err(LockError::Failed)?;
        match Flock::lock(own.0, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(LockError::Busy),
            Err((_, errno)) => Err(LockError::Failed(errno.into())),
        }
    }

    pub fn space(&self) -> io::Result<Space> {
        let found = fstatvfs(&self.0)?;
        let unit = found.fragment_size();
        Ok(Space {
            free_bytes: found.blocks_available().saturating_mul(unit),
            size_bytes: found.blocks().saturating_mul(unit),
            free_inodes: found.files_available(),
            inodes: found.files(),
        })
    }

    fn open_name(&self, name: &OsStr, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let name = single(name)?;
        self.beneath(Path::new(name), flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::from_bits_truncate(mode))
    }

    fn beneath(&self, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        match openat2(&self.0, path, OpenHow::new().flags(flags).mode(mode).resolve(resolve)) {
            Err(Errno::ENOSYS) => self.beneath_by_steps(path, flags, mode),
            opened => Ok(opened?),
        }
    }

    /// Before Linux 5.6: one component after the other, none of them a link, all on the same device.
    fn beneath_by_steps(&self, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let device = fstat(&self.0)?.st_dev;
        let mut names = path.iter().peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(name) = names.next() {
            let (flags, mode) = if names.peek().is_some() { (DIRECTORY, Mode::empty()) } else { (flags, mode) };
            let next = openat(at.as_ref().unwrap_or(&self.0), single(name)?, flags, mode)?;
            if fstat(&next)?.st_dev != device {
                return Err(Errno::EXDEV.into());
            }
            at = Some(next);
        }
        Ok(at.ok_or(Errno::EINVAL)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is not one component could lead elsewhere.
fn single(name: &OsStr) -> Result<&OsStr, Errno> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
        _ => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::sys::testing::TempDir;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn opened() -> (TempDir, Dir) {
        let directory = TempDir::new();
        let dir = Dir::open(directory.path()).unwrap();
        (directory, dir)
    }

    #[test]
    fn links_and_ways_out_are_refused() {
        let (directory, dir) = opened();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        symlink("a", directory.path().join("link")).unwrap();
        symlink("/etc/passwd", directory.path().join("file")).unwrap();
        assert!(dir.sub(Path::new("a/b")).is_ok());
        for path in ["link", "link/b", "a/../..", "..", "/etc", ""] {
            assert!(dir.sub(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(dir.read(name("file")).unwrap_err().raw_os_error(), Some(Errno::ELOOP as i32));
        assert!(dir.overwrite(name("file")).is_err());
        for bad in ["", ".", "..", "a/b", "/"] {
            assert!(dir.stat(name(bad)).is_err(), "{bad}");
            assert!(dir.make_dir(name(bad), 0o700).is_err(), "{bad}");
        }
        let error = Dir::open(&directory.path().join("link")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        assert!(dir.beneath_by_steps(Path::new("a/b"), DIRECTORY, Mode::empty()).is_ok());
        assert!(dir.beneath_by_steps(Path::new("link/b"), DIRECTORY, Mode::empty()).is_err());
    }

    #[test]
    fn another_mount_is_not_entered() {
        let root = Dir::open(Path::new("/")).unwrap();
        assert_eq!(root.sub(Path::new("proc")).unwrap_err().raw_os_error(), Some(Errno::EXDEV as i32));
        assert!(root.beneath_by_steps(Path::new("proc"), DIRECTORY, Mode::empty()).is_err());
        let proc = root.stat(name("proc")).unwrap();
        assert!(proc.is_mount_root);
        assert_ne!(proc.mount_id, root.stat_self().unwrap().mount_id);
    }

    #[test]
    fn files_are_made_renamed_exchanged_and_linked() {
        let (_directory, dir) = opened();
        dir.create(name("one"), 0o600).unwrap().write_all(b"1").unwrap();
        assert_eq!(dir.create(name("one"), 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        dir.create(name("two"), 0o600).unwrap().write_all(b"22").unwrap();
        let refused = dir.rename(name("one"), &dir, name("two"), Rename::New).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        dir.rename(name("one"), &dir, name("two"), Rename::Exchange).unwrap();
        assert_eq!(dir.stat(name("one")).unwrap().size, 2);
        dir.rename(name("one"), &dir, name("two"), Rename::Replace).unwrap();
        dir.make_dir(name("d"), 0o700).unwrap();
        let below = dir.sub(Path::new("d")).unwrap();
        dir.link(name("two"), &below, name("three")).unwrap();
        let stat = below.stat(name("three")).unwrap();
        assert_eq!((stat.size, stat.nlink, stat.kind()), (2, 2, FileType::File));
        assert_eq!(stat.ino, dir.stat(name("two")).unwrap().ino);
        let mut text = String::new();
        below.read(name("three")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "22");
        dir.symlink(name("two"), name("l")).unwrap();
        assert_eq!(dir.read_link(name("l")).unwrap(), "two");
        let listed: Vec<_> = dir.entries().unwrap().into_iter().map(|(name, kind, _)| (name, kind)).collect();
        assert_eq!(listed, [("d".into(), FileType::Dir), ("l".into(), FileType::Link), ("two".into(), FileType::File)]);
        below.remove_file(name("three")).unwrap();
        dir.remove_dir(name("d")).unwrap();
        dir.overwrite(name("two")).unwrap();
        assert_eq!(dir.stat(name("two")).unwrap().size, 0);
        dir.sync().unwrap();
        dir.sync_fs().unwrap();
    }

    #[test]
    fn stat_says_what_the_standard_library_says() {
        let (directory, dir) = opened();
        fs::write(directory.path().join("f"), "four").unwrap();
        let (ours, theirs) = (dir.stat(name("f")).unwrap(), fs::symlink_metadata(directory.path().join("f")).unwrap());
        assert_eq!(
            (ours.dev, ours.ino, ours.mode, ours.uid),
            (theirs.dev(), theirs.ino(), theirs.mode(), theirs.uid())
        );
        assert_eq!((ours.mtime.s, i64::from(ours.mtime.ns)), (theirs.mtime(), theirs.mtime_nsec()));
        assert_eq!((ours.size, ours.blocks, ours.is_mount_root), (4, theirs.blocks(), false));
        assert_eq!(dir.stat_self().unwrap().ino, fs::metadata(directory.path()).unwrap().ino());
    }

    #[test]
    fn fifo_is_opened_without_waiting_and_nodes_have_their_type() {
        let (_directory, dir) = opened();
        dir.make_node(name("pipe"), 0o010_600, 0).unwrap();
        assert_eq!(dir.stat(name("pipe")).unwrap().kind(), FileType::Fifo);
        assert!(dir.read(name("pipe")).is_ok());
    }

    #[test]
    fn lock_is_for_one_and_ends_with_it() {
        let (directory, dir) = opened();
        let lock = dir.lock().unwrap();
        let other = Dir::open(directory.path()).unwrap();
        assert!(matches!(other.lock(), Err(LockError::Busy)));
        assert!(matches!(dir.lock(), Err(LockError::Busy)));
        drop(lock);
        assert!(other.lock().is_ok());
    }

    #[test]
    fn space_is_some() {
        let (_directory, dir) = opened();
        let space = dir.space().unwrap();
        assert!(space.size_bytes >= space.free_bytes && space.size_bytes > 0);
    }
}
