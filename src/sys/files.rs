//! Files that are whole or absent, locks, and directories nobody else can write to.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;

use super::unix::beside;

/// What a written file must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process. For tmpfs, and for what can be made anew.
    Memory,
    /// A power loss: the file and its directory are synced. May wait for the disk.
    Disk,
}

/// Replaces a file in one step, with mode 0600: a reader sees the old or the new content, also after a crash. One writer a file.
pub fn write_atomically(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    write_atomically_with_mode(path, bytes, durability, 0o600)
}

/// [`write_atomically`] with these permissions, less the umask.
pub fn write_atomically_with_mode(path: &Path, bytes: &[u8], durability: Durability, mode: u32) -> io::Result<()> {
    let fresh = beside(path)?;
    let written = write_fresh(&fresh, bytes, durability, mode).and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = written {
        // The first error is the one to tell; what is left is overwritten next time.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    match durability {
        Durability::Memory => Ok(()),
        Durability::Disk => File::open(parent_of(path))?.sync_all(),
    }
}

/// What [`overwrite`] takes at most: the kernel copies it in one go.
pub const OVERWRITTEN_BYTES_MAX: usize = 4096;

/// Replaces the content of a file that is there, without making another one; a shorter text gets spaces at its end. Whole or not at all when
/// this process is killed meanwhile, because a signal is looked at only between pages; but not for readers at the same time, nor after a power
/// loss.
pub fn overwrite(path: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(AT_FDCWD, path, flags, Mode::empty())?);
    let former = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let length = text.len().max(former);
    if length > OVERWRITTEN_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    text.resize(length, b' ');
    match file.write_at(text, 0)? {
        written if written == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn write_fresh(fresh: &Path, bytes: &[u8], durability: Durability, mode: u32) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(fresh)?;
    file.write_all(bytes)?;
    match durability {
        Durability::Memory => Ok(()),
        Durability::Disk => file.sync_all(),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// A lock on a file, held until dropped or until this process ends; children do not hold it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// `pid` is 0 when the holder has not written it yet.
    #[error("{} is locked by process {pid}", path.display())]
    Held { path: PathBuf, pid: i32 },
    #[error("cannot lock {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock without waiting and writes our pid into the file, which is made with mode 0600 and never removed.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::File { path: path.to_owned(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                lock.set_len(0).map_err(failed)?;
                lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(failed)?;
                Ok(Self(lock))
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let text = fs::read_to_string(path).unwrap_or_default();
                Err(LockError::Held { path: path.to_owned(), pid: text.trim().parse().unwrap_or_default() })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// Makes a directory with exactly this mode (and what is missing above it, 0755), or checks one that is there: a directory and no link, of
/// `owner` (`None`: us) or us, and not writable for anybody that `mode` does not let write. Then gives it mode and owner.
pub fn secure_directory(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    directory(path, mode, owner, Former::OursOrTheOwners)
}

/// A directory for `owner` below one that only we can write to: whoever had it before (another user of an earlier configuration) loses it.
pub fn directory_for(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    directory(path, mode, owner, Former::Anybodys)
}

/// Whose a directory may be that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Former {
    OursOrTheOwners,
    Anybodys,
}

fn directory(path: &Path, mode: u32, owner: Option<(u32, u32)>, former: Former) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(parent_of(path))?;
    let made = match DirBuilder::new().mode(mode & 0o700).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    // Opened once, so that what is checked is what is changed.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory: OwnedFd = open(path, flags, Mode::empty())?;
    let directory = File::from(directory);
    let found = directory.metadata()?;
    let own = super::host::uid();
    if !made && former == Former::OursOrTheOwners {
        let refused = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        if found.uid() != own && owner.is_none_or(|(uid, _)| found.uid() != uid) {
            return Err(refused(format!("it belongs to user {}, not to {own}", found.uid())));
        }
        let stray = found.mode() & 0o022 & !mode;
        if stray != 0 {
            return Err(refused(format!("others can write to it (mode {:o}); chmod go-w it", found.mode() & 0o7777)));
        }
    }
    let anew = former == Former::Anybodys && own == 0;
    let wanted = owner.or_else(|| anew.then(|| (own, nix::unistd::getegid().as_raw())));
    if let Some((uid, gid)) = wanted
        && (found.uid(), found.gid()) != (uid, gid)
    {
        std::os::unix::fs::fchown(&directory, Some(uid), Some(gid))?;
    }
    if found.mode() & 0o7777 != mode && (found.uid() == own || own == 0) {
        directory.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TempDir, root_or_skip};

    #[test]
    fn directory_of_a_former_user_is_given_to_the_next_one_and_refused_elsewhere() {
        if !root_or_skip("ownership") {
            return;
        }
        let parent = TempDir::new();
        let path = parent.path().join("api");
        directory_for(&path, 0o750, Some((65_534, 65_534))).unwrap();
        assert!(secure_directory(&path, 0o750, Some((65_533, 65_533))).is_err());
        for (owner, uid) in [(Some((65_533, 65_533)), 65_533), (None, 0)] {
            directory_for(&path, 0o750, owner).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (uid, uid, 0o750));
        }
    }

    #[test]
    fn file_is_replaced_whole_and_nothing_stays_beside_it() {
        let directory = TempDir::new();
        let path = directory.path().join("state.json");
        write_atomically(&path, b"one", Durability::Memory).unwrap();
        write_atomically(&path, b"two", Durability::Disk).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let under_file = path.join("impossible");
        assert!(write_atomically(&under_file, b"", Durability::Memory).is_err());
    }

    #[test]
    fn only_what_is_there_is_written_over_and_no_more_than_a_page() {
        let directory = TempDir::new();
        let path = directory.path().join("state.json");
        let over = |path: &Path, text: &[u8]| overwrite(path, &mut text.to_vec());
        assert_eq!(over(&path, b"one").unwrap_err().kind(), io::ErrorKind::NotFound);
        write_atomically(&path, b"three", Durability::Memory).unwrap();
        over(&path, b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one  ");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("state.json", &link).unwrap();
        assert!(over(&link, b"two").is_err());
        assert!(over(&path, &[0; OVERWRITTEN_BYTES_MAX + 1]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one  ");
        over(&path, b"longer than before").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"longer than before");
    }

    #[test]
    fn failed_write_leaves_the_old_file() {
        let directory = TempDir::new();
        let path = directory.path().join("state.json");
        write_atomically(&path, b"one", Durability::Memory).unwrap();
        // A directory in the way of the temporary name.
        fs::create_dir(directory.path().join(".state.json.new")).unwrap();
        assert!(write_atomically(&path, b"two", Durability::Memory).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn second_lock_names_the_holder() {
        let directory = TempDir::new();
        let path = directory.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        match Lock::take(&path) {
            Err(LockError::Held { pid, .. }) => assert_eq!(pid.unsigned_abs(), std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(lock);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn directory_that_others_can_write_is_refused() {
        let directory = TempDir::new();
        let path = directory.path().join("deep/run");
        secure_directory(&path, 0o711, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o711);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        secure_directory(&path, 0o700, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let error = secure_directory(&path, 0o700, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("deep", &link).unwrap();
        assert!(secure_directory(&link, 0o700, None).is_err());
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(secure_directory(&file, 0o700, None).is_err());
    }

    #[test]
    fn directory_of_a_stranger_is_refused_and_of_the_owner_is_not() {
        if !root_or_skip("changing owners") {
            return;
        }
        let directory = TempDir::new();
        let path = directory.path().join("svc");
        secure_directory(&path, 0o750, Some((1234, 1235))).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 1235, 0o750));
        secure_directory(&path, 0o750, Some((1234, 1235))).unwrap();
        assert!(secure_directory(&path, 0o750, Some((1236, 1235))).is_err());
        assert!(secure_directory(&path, 0o750, None).is_err());
    }
}
