//! Files that share pages, files without names, holes in files, and room set aside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek, lseek64};

use super::dir::Dir;

/// Makes the whole content of one file that of another, without writing it: pages are parted only when one of the two is written to. Both lie
/// on one file system that can do so (XFS, btrfs); see [`is_unsupported`].
#[expect(unsafe_code, reason = "FICLONE has no wrapper")]
pub fn clone_file(from: &File, to: &File) -> io::Result<()> {
    /// `_IOW(0x94, 9, int)`
    const FICLONE: libc::Ioctl = 0x4004_9409_u32 as libc::Ioctl;
    // SAFETY: two descriptors that are open.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) };
    Errno::result(result)?;
    Ok(())
}

/// A new file on the file system of this directory that has no name anywhere: whoever dies, nothing of it is left.
pub fn nameless(dir: &Dir) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    Ok(File::from(openat(dir.as_fd(), ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
}

/// Whether an error of [`clone_file`] says that it will never do for these two, so that the content is to be copied instead.
#[must_use]
pub fn is_unsupported(error: &io::Error) -> bool {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else { return false };
    matches!(
        errno,
        Errno::EOPNOTSUPP
            | Errno::EXDEV
            | Errno::EINVAL
            | Errno::ENOTTY
            | Errno::ENOSYS
            | Errno::EPERM
            | Errno::ETXTBSY
    )
}

/// Where data is, at or after `offset`; `None`: a hole until the end. Moves the position of the file.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    seek(file, offset, Whence::SeekData)
}

/// Where a hole is, at or after `offset`; the end of the file counts as one. `None`: `offset` is beyond the end. Moves the position of the file.
pub fn next_hole(file: &File, offset: u64) -> io::Result<Option<u64>> {
    seek(file, offset, Whence::SeekHole)
}

fn seek(file: &File, offset: u64, whence: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    match lseek64(file, offset, whence) {
        Ok(found) => Ok(Some(found.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets room aside, without making the file longer.
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    fallocate_part(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length)
}

/// Gives the room of this part back; it reads as zeros.
pub fn punch_hole(file: &File, from: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate_part(file, flags, from, length)
}

fn fallocate_part(file: &File, flags: FallocateFlags, from: u64, length: u64) -> io::Result<()> {
    let [from, length] = [from, length].map(i64::try_from);
    let (from, length) = (from.map_err(|_| Errno::EOVERFLOW)?, length.map_err(|_| Errno::EOVERFLOW)?);
    Ok(fallocate(file.as_fd(), flags, from, length)?)
}

/// To the beginning, for whoever reads on by position.
pub fn rewind(file: &File) -> io::Result<()> {
    lseek(file, 0, Whence::SeekSet)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::sys::testing::TempDir;

    const MIB: u64 = 1 << 20;

    #[test]
    fn holes_are_found_and_made() {
        let directory = TempDir::new();
        let path = directory.path().join("f");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(4 * MIB).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), None);
        assert_eq!(next_hole(&file, 0).unwrap(), Some(0));
        file.write_all_at(&vec![1; 65_536], MIB).unwrap();
        if next_data(&file, 0).unwrap() != Some(MIB) {
            eprintln!("skipped: {} knows of no holes", directory.path().display());
            return;
        }
        assert_eq!(next_hole(&file, MIB).unwrap(), Some(MIB + 65_536));
        assert_eq!(next_data(&file, 2 * MIB).unwrap(), None);
        assert_eq!(next_hole(&file, 5 * MIB).unwrap(), None);
        punch_hole(&file, MIB, 65_536).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), None);
        rewind(&file).unwrap();
    }

    #[test]
    fn nameless_file_is_in_no_directory() {
        let directory = TempDir::new();
        let dir = Dir::open(directory.path()).unwrap();
        let file = match nameless(&dir) {
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                eprintln!("skipped: {} makes no files without names", directory.path().display());
                return;
            }
            made => made.unwrap(),
        };
        file.write_all_at(b"content", 0).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert!(dir.entries().unwrap().is_empty());
    }

    #[test]
    fn reserved_room_is_not_content() {
        let directory = TempDir::new();
        let file = File::create_new(directory.path().join("f")).unwrap();
        reserve(&file, MIB).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!((found.len(), found.blocks()), (0, MIB / 512));
    }

    #[test]
    fn file_system_that_shares_no_pages_says_so() {
        let directory = TempDir::new();
        let from = File::create_new(directory.path().join("from")).unwrap();
        from.write_all_at(&[5; 8192], 0).unwrap();
        let to = File::options().read(true).write(true).create_new(true).open(directory.path().join("to")).unwrap();
        match clone_file(&File::open(directory.path().join("from")).unwrap(), &to) {
            Ok(()) => {
                let mut content = [0; 8192];
                to.read_exact_at(&mut content, 0).unwrap();
                assert_eq!(content, [5; 8192]);
            }
            Err(error) => assert!(is_unsupported(&error), "{error}"),
        }
    }
}
