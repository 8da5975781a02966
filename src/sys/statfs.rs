//! File systems, asked about the directory that they are mounted on. Each of these may wait for the device or the server below.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::statfs::{FsType, MSDOS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

/// What statvfs(3) says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub size_bytes: u64,
    /// What others than root may use.
    pub available_bytes: u64,
    pub free_bytes: u64,
    /// 0 where inodes are made as needed.
    pub inodes: u64,
    pub inodes_available: u64,
}

pub fn space(path: &Path) -> io::Result<Space> {
    let found = statvfs(path)?;
    let unit = found.fragment_size();
    Ok(Space {
        size_bytes: found.blocks().saturating_mul(unit),
        available_bytes: found.blocks_available().saturating_mul(unit),
        free_bytes: found.blocks_free().saturating_mul(unit),
        inodes: found.files(),
        inodes_available: found.files_available(),
    })
}

/// FAT or exFAT: boot partitions and memory cards, without a journal.
pub fn is_fat(path: &Path) -> io::Result<bool> {
    /// EXFAT_SUPER_MAGIC of linux/magic.h, unknown to the library.
    const EXFAT_SUPER_MAGIC: u64 = 0x2011_bab0;
    let kind = statfs(path)?.filesystem_type();
    Ok(kind == MSDOS_SUPER_MAGIC || kind == FsType(EXFAT_SUPER_MAGIC as _))
}

/// Writes back what is in memory of the file system that the directory lies on, after a remount of it that is under way.
pub fn sync(directory: &Path) -> io::Result<()> {
    let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(directory)?;
    Ok(nix::unistd::syncfs(&directory)?)
}

/// Whether something is mounted on this directory; `None` before Linux 5.8, which does not tell.
#[expect(unsafe_code, reason = "statx has no wrapper here")]
pub fn is_mount_point(path: &Path) -> io::Result<Option<bool>> {
    const FLAG: u64 = libc::STATX_ATTR_MOUNT_ROOT.cast_unsigned() as u64;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: a C string, and room for the answer.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_TYPE, found.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: numbers only, for which zero is a value, and filled in by the kernel.
    let found = unsafe { found.assume_init() };
    Ok((found.stx_attributes_mask & FLAG != 0).then_some(found.stx_attributes & FLAG != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn root_is_mounted_and_has_a_size_and_a_fresh_directory_is_not() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.size_bytes > 0 && space.available_bytes <= space.free_bytes);
        assert!(space.free_bytes <= space.size_bytes);
        let directory = TempDir::new();
        assert_ne!(is_mount_point(Path::new("/proc")).unwrap(), Some(false));
        assert_ne!(is_mount_point(directory.path()).unwrap(), Some(true));
        let gone = super::space(&directory.path().join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
