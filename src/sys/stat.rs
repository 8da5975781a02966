//! statx and renameat2, which the library has not for every C library.

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::libc;

use super::dir::Rename;

/// A time of the wall clock, as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Since 1970.
    pub s: i64,
    pub ns: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    File,
    Dir,
    Link,
    Fifo,
    Socket,
    Char,
    Block,
    /// A directory does not say it on every file system.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    /// With the type.
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub mtime: Stamp,
    pub ctime: Stamp,
    /// Not on every file system.
    pub btime: Option<Stamp>,
    /// 0 before Linux 5.8.
    pub mount_id: u64,
    /// False before Linux 5.8.
    pub is_mount_root: bool,
}

impl Stat {
    #[must_use]
    pub fn kind(&self) -> FileType {
        match self.mode & libc::S_IFMT {
            libc::S_IFREG => FileType::File,
            libc::S_IFDIR => FileType::Dir,
            libc::S_IFLNK => FileType::Link,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR => FileType::Char,
            libc::S_IFBLK => FileType::Block,
            _ => FileType::Unknown,
        }
    }
}

/// Of a name in a directory; a link itself, an automount point itself.
pub(super) fn at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    name.with_nix_path(|name| statx(directory, name, flags))?
}

/// Of a path; a link itself.
pub fn of_path(path: &Path) -> io::Result<Stat> {
    at(nix::fcntl::AT_FDCWD, path.as_os_str())
}

/// Of an open file.
pub fn of(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd, c"", libc::AT_EMPTY_PATH)
}

#[expect(unsafe_code, reason = "statx has no wrapper here")]
fn statx(directory: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<Stat> {
    /// `STATX_MNT_ID` of linux/stat.h, unknown to the library for musl.
    const MOUNT_ID: libc::c_uint = 0x1000;
    const WANTED: libc::c_uint = libc::STATX_BASIC_STATS | libc::STATX_BTIME | MOUNT_ID;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: a descriptor that is open, a C string, and room for the answer.
    let result = unsafe { libc::statx(directory.as_raw_fd(), name.as_ptr(), flags, WANTED, found.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: numbers only, for which zero is a value, and filled in by the kernel.
    let found = unsafe { found.assume_init() };
    Ok(Stat {
        dev: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        mode: u32::from(found.stx_mode),
        nlink: u64::from(found.stx_nlink),
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: libc::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        size: found.stx_size,
        blocks: found.stx_blocks,
        mtime: stamp(found.stx_mtime),
        ctime: stamp(found.stx_ctime),
        btime: (found.stx_mask & libc::STATX_BTIME != 0).then(|| stamp(found.stx_btime)),
        mount_id: if found.stx_mask & MOUNT_ID == 0 { 0 } else { found.stx_mnt_id },
        is_mount_root: found.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT.cast_unsigned() as u64 != 0,
    })
}

fn stamp(found: libc::statx_timestamp) -> Stamp {
    Stamp { s: found.tv_sec, ns: found.tv_nsec }
}

/// By its number, because the C library of the static build has no such function.
#[expect(unsafe_code, reason = "renameat2")]
pub(super) fn rename(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
    how: Rename,
) -> io::Result<()> {
    let flags: libc::c_uint = match how {
        Rename::Replace => 0,
        Rename::New => 1,
        Rename::Exchange => 2,
    };
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let result = name.with_nix_path(|name| {
        to_name.with_nix_path(|to_name| {
            // SAFETY: two descriptors that are open, and two C strings.
            unsafe { libc::syscall(libc::SYS_renameat2, from, name.as_ptr(), to, to_name.as_ptr(), flags) }
        })
    })??;
    Errno::result(result)?;
    Ok(())
}
