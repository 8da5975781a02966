//! Databases of SQLite that are in use while they are copied, and nobody holds still for it: copied under their own locks, or marked.
//!
//! A file that begins with `SQLite format 3\0` (sqlite.org/fileformat.html) is one. Locks are those of its Unix VFS (`os_unix.c`, sqlite.org/lockingv3.html,
//! sqlite.org/walformat.html): byte ranges that are locked for reading or writing. Ours are all for reading, taken by an open file of our own, so that a
//! program that has the database open neither sees nor loses anything of its own.
//!
//! **Rollback journal.** The database file is written to only under EXCLUSIVE, which is a write lock on all 510 bytes of SHARED. A read lock there keeps it
//! as it is: a transaction that is ready waits with its commit, as for any reader. It is taken as a reader takes it, with PENDING before it, so that a writer that
//! waits already goes first. What the file holds then is what the last commit left, unless a journal is *hot*: somebody died in
//! the middle of writing, and what is in the file is half of a transaction. A journal is hot when it has a header and nobody has RESERVED. The
//! journal of a transaction that is under way holds pages of just this state of the file, for nobody can commit while we look: to roll it back after a restore changes
//! nothing. So the lock is kept until the journal, whose name comes soon after, is copied too.
//!
//! **WAL.** Commits are appended to `-wal`; the database file is written to only by a checkpoint, under CKPT, a byte of `-shm`. A read lock on
//! it lets checkpoints fail, which those that make them by the way do not even tell. What would be left to fear is that `-wal` is begun anew from its start
//! while it is copied: old frames followed by nothing would be applied over newer pages of the database file. Whoever begins it anew needs all of
//! the READ locks 1 to 4 for himself, so a read lock on one of them is enough; the last one to close the database, who would check it in and delete `-wal`,
//! needs EXCLUSIVE of the database file, which SHARED refuses. So, from before the database file is read until `-wal` is read, the file stays
//! as it is, and `-wal` only grows: whatever was read of it begins with all that the file may have been given of it, and ends, for SQLite,
//! with the last commit whose checksums are right. `-shm` is built anew by whoever opens the database first.
//!
//! A database file that has not changed since the older copy is linked, not read. Then the locks are taken when its journal or `-wal` is, and the file must still be the one
//! that was linked.
//!
//! A lock that is not had in [`WAIT_MAX`], a hot journal, a `-wal` without `-shm`: the file is copied as it lies, marked, and told of once.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::scan::Found;
use crate::copies::format::entry::{Entry, Kind, Origin, order};
use crate::sys::dir::Dir;
use crate::sys::record_lock::{self, Part};
use crate::sys::stat;

/// What a database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Of the write version in the header: 1 is a rollback journal, 2 is WAL.
const VERSION_AT: usize = 18;
const WAL_VERSION: u8 = 2;
/// The smallest page; a database is a multiple of it.
const PAGE_BYTES: u64 = 512;

const PENDING: Part = Part { from: 0x4000_0000, length: 1 };
const RESERVED: Part = Part { from: PENDING.from + 1, length: 1 };
const SHARED: Part = Part { from: PENDING.from + 2, length: 510 };
/// Of `-shm`: the locks are eight bytes from 120 on: WRITE, CKPT, RECOVER, READ 0 to 4.
const CHECKPOINT: Part = Part { from: 121, length: 1 };
const READ_FIRST: u64 = 124;
const READ_LAST: u64 = 127;

/// For a lock; beyond it the database is copied as it lies.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// For all locks of one copy: whoever keeps a thousand databases locked keeps nobody else's files from being copied. Beyond it each is tried once.
const WAITS_MAX: Duration = Duration::from_secs(60);
const WAIT_STEP: Duration = Duration::from_millis(1);

/// What SQLite has beside a database, by the ends of their names.
const JOURNAL: &str = "-journal";
const WAL: &str = "-wal";
const INDEX: &str = "-shm";

/// How a file is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::copies) enum Guard {
    /// As any other.
    None,
    /// A database whose locks are held.
    Database,
    /// What lies beside one whose locks are held: where it changes meanwhile, that is of no consequence.
    Beside,
    /// As it lies, and why.
    Live(String),
}

/// Those on the way of one walk.
#[derive(Debug, Default)]
pub(in crate::copies) struct Databases {
    held: Option<Held>,
    /// The last file that may be a database, and what it was in this copy.
    last: Option<(Vec<u8>, Origin)>,
    /// For locks so far.
    waited: Duration,
}

/// Locks, as long as their files are open.
#[derive(Debug)]
struct Held {
    path: Vec<u8>,
    database: File,
    #[expect(dead_code, reason = "held, not used")]
    index: Option<File>,
}

impl Databases {
    /// The walk is here now: what lies beside a database has been passed, or is about to be.
    pub(in crate::copies) fn pass(&mut self, entry: &Entry) {
        let is_passed = |held: &Held| order(&entry.path, &[&held.path, WAL.as_bytes()].concat()).is_gt();
        if self.held.as_ref().is_some_and(is_passed) {
            self.held = None;
        }
        if may_be_database(entry) {
            let (path, origin) = self.last.get_or_insert_default();
            path.clone_from(&entry.path);
            *origin = entry.source;
        }
    }

    /// Before this file is read.
    pub(in crate::copies) fn guard(&mut self, found: &Found) -> Guard {
        let guarded = match beside(&found.entry.path) {
            Some(main) => self.guard_beside(found, main),
            None if may_be_database(&found.entry) => self.guard_database(found),
            None => Ok(Guard::None),
        };
        guarded.unwrap_or_else(|error| Guard::Live(format!("its locks cannot be used: {error}")))
    }

    fn guard_database(&mut self, found: &Found) -> io::Result<Guard> {
        let Some(file) = open(&found.parent, name(&found.entry.path))? else { return Ok(Guard::None) };
        self.held = None;
        Ok(match self.lock(&found.parent, &found.entry.path, file)? {
            Locked::Yes(held) => {
                self.held = Some(held);
                Guard::Database
            }
            Locked::No(why) => Guard::Live(why.to_owned()),
        })
    }

    fn lock(&mut self, dir: &Dir, path: &[u8], database: File) -> io::Result<Locked> {
        let began = Instant::now();
        let locked = lock(dir, path, database, began + WAIT_MAX.min(WAITS_MAX.saturating_sub(self.waited)));
        self.waited = self.waited.saturating_add(began.elapsed());
        locked
    }

    fn guard_beside(&mut self, found: &Found, main: &[u8]) -> io::Result<Guard> {
        if self.held.as_ref().is_some_and(|held| held.path == main) {
            return Ok(Guard::Beside);
        }
        if found.entry.path.ends_with(INDEX.as_bytes()) {
            return Ok(Guard::None);
        }
        let Some(file) = open(&found.parent, name(main))? else { return Ok(Guard::None) };
        let stat = stat::of(file.as_fd())?;
        let now = Origin { dev: stat.dev, ino: stat.ino, ctime: stat.ctime, btime: stat.btime };
        let held = match self.lock(&found.parent, main, file)? {
            Locked::Yes(held) => held,
            Locked::No(why) => return Ok(Guard::Live(why.to_owned())),
        };
        // Looked at again: before the lock it could still be written to.
        let is_same = |(path, origin): &(Vec<u8>, Origin)| {
            let after = stat::of(held.database.as_fd()).map(|stat| stat.ctime);
            path == main && *origin == now && after.is_ok_and(|after| after == origin.ctime)
        };
        if !self.last.as_ref().is_some_and(is_same) {
            return Ok(Guard::Live("the database has changed since it was copied".to_owned()));
        }
        self.held = Some(held);
        Ok(Guard::Beside)
    }
}

enum Locked {
    Yes(Held),
    No(&'static str),
}

/// `None`: it is no database.
fn open(dir: &Dir, name: &[u8]) -> io::Result<Option<File>> {
    let file = match dir.read(std::ffi::OsStr::from_bytes(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Whoever reads it will tell.
        Err(_) => return Ok(None),
        Ok(file) => file,
    };
    let mut head = [0; MAGIC.len()];
    Ok((file.read_exact_at(&mut head, 0).is_ok() && head == *MAGIC).then_some(file))
}

fn lock(dir: &Dir, path: &[u8], database: File, until: Instant) -> io::Result<Locked> {
    if !share(&database, until)? {
        return Ok(Locked::No("somebody has locked it for himself all the time"));
    }
    let mut version = [0];
    database.read_exact_at(&mut version, VERSION_AT as u64)?;
    let index = match version {
        [WAL_VERSION] => match lock_index(dir, path, until)? {
            Index::Locked(index) => Some(index),
            Index::NotNeeded => None,
            Index::Refused(why) => return Ok(Locked::No(why)),
        },
        _ if is_hot(dir, path, &database)? => {
            return Ok(Locked::No("somebody died while he wrote to it, and its journal has not been applied yet"));
        }
        _ => None,
    };
    Ok(Locked::Yes(Held { path: path.to_vec(), database, index }))
}

/// As a reader does it.
fn share(database: &File, until: Instant) -> io::Result<bool> {
    let shared = wait(until, || {
        if !record_lock::try_share(database, PENDING)? {
            return Ok(false);
        }
        let shared = record_lock::try_share(database, SHARED);
        record_lock::release(database, PENDING)?;
        shared
    })?;
    Ok(shared)
}

enum Index {
    Locked(File),
    /// There is no `-wal` that anybody could check in.
    NotNeeded,
    Refused(&'static str),
}

fn lock_index(dir: &Dir, path: &[u8], until: Instant) -> io::Result<Index> {
    let beside = |end: &str| [name(path), end.as_bytes()].concat();
    let index = match dir.read(std::ffi::OsStr::from_bytes(&beside(INDEX))) {
        Ok(index) => index,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let wal = dir.stat(std::ffi::OsStr::from_bytes(&beside(WAL)));
            return Ok(match wal {
                Ok(wal) if wal.size > 0 => {
                    Index::Refused("it has a -wal but no -shm, so nobody can be kept from writing")
                }
                Ok(_) | Err(_) => Index::NotNeeded,
            });
        }
        Err(error) => return Err(error),
    };
    let part = |from| Part { from, length: 1 };
    let locked = wait(until, || {
        if !record_lock::try_share(&index, CHECKPOINT)? {
            return Ok(false);
        }
        for slot in (READ_FIRST..=READ_LAST).rev() {
            if record_lock::try_share(&index, part(slot))? {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    Ok(if locked { Index::Locked(index) } else { Index::Refused("a checkpoint was under way all the time") })
}

/// A journal with a header, and nobody who is writing it.
fn is_hot(dir: &Dir, path: &[u8], database: &File) -> io::Result<bool> {
    let journal = [name(path), JOURNAL.as_bytes()].concat();
    let Ok(file) = dir.read(std::ffi::OsStr::from_bytes(&journal)) else { return Ok(false) };
    let mut first = [0];
    let has_header = file.read_exact_at(&mut first, 0).is_ok() && first != [0];
    Ok(has_header && !record_lock::is_taken(database, RESERVED)?)
}

fn wait(until: Instant, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    while !done()? {
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(WAIT_STEP);
    }
    Ok(true)
}

/// By its size and name; whether it is one is in its first bytes.
fn may_be_database(entry: &Entry) -> bool {
    let has_size =
        matches!(entry.kind, Kind::File { size, .. } if size >= PAGE_BYTES && size.is_multiple_of(PAGE_BYTES));
    has_size && beside(&entry.path).is_none()
}

/// The path of the database that this lies beside, if it is called so.
fn beside(path: &[u8]) -> Option<&[u8]> {
    let ends = [JOURNAL, WAL, INDEX];
    let main = ends.iter().find_map(|end| path.strip_suffix(end.as_bytes()))?;
    (!name(main).is_empty()).then_some(main)
}

fn name(path: &[u8]) -> &[u8] {
    super::cursor::name(path).as_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn locks_are_waited_for_no_longer_than_all_of_them_may_take() {
        let directory = TempDir::new();
        let path = directory.path().join("db");
        fs::write(&path, [MAGIC.as_slice(), &[0; 496]].concat()).unwrap();
        let owner = File::options().read(true).write(true).open(&path).unwrap();
        let (start, length) = (i64::try_from(SHARED.from).unwrap(), i64::try_from(SHARED.length).unwrap());
        let alone = libc::flock { l_type: 1, l_whence: 0, l_start: start, l_len: length, l_pid: 0 };
        fcntl(&owner, FcntlArg::F_OFD_SETLK(&alone)).unwrap();
        let dir = Dir::open(Path::new(directory.path())).unwrap();
        let mut databases = Databases { waited: WAITS_MAX - Duration::from_millis(20), ..Databases::default() };
        let began = Instant::now();
        for _ in 0..3 {
            let file = File::open(&path).unwrap();
            assert!(matches!(databases.lock(&dir, b"db", file).unwrap(), Locked::No(_)));
        }
        assert!(began.elapsed() < WAIT_MAX, "{:?}", began.elapsed());
        drop(owner);
        assert!(
            matches!(databases.lock(&dir, b"db", File::open(&path).unwrap()).unwrap(), Locked::Yes(_)),
            "tried once"
        );
    }
}
