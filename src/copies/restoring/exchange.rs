//! Puts what was built beside something into its place, and keeps what was there beside it.
//!
//! By `renameat2(RENAME_EXCHANGE)`: whoever looks sees the one or the other. A mount point cannot be renamed: there each thing directly in it is exchanged
//! by itself, so that what is between the first and the last of them is seen mixed; nothing is lost meanwhile either.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::copies::format::layout::directory_of;
use crate::engine::copies::order::{Swap, SwapKind};
use crate::engine::types::Time;
use crate::sys::dir::{Dir, Rename};

/// What is built lies under this until it is whole; with `.NAME.` before it beside something, without a name within a mount point.
const BUILT: &str = "mainstay-restore";
/// In the name of what was there, and in that of what was put back out of its place.
const BEFORE: &[u8] = b"before-";
const FAILED: &[u8] = b"failed-";
/// A directory of the file system's own, which cannot be moved.
const LOST_AND_FOUND: &str = "lost+found";
/// Of a name that becomes part of another.
const NAME_BYTES_MAX: usize = 200;
/// Tries for a name that nothing has.
const NAMES_MAX: u32 = 100;

/// Something that is to be replaced.
#[derive(Debug)]
pub(in crate::copies) struct Spot {
    /// Absolute.
    pub(in crate::copies) path: PathBuf,
    pub(in crate::copies) kind: SpotKind,
    /// The directory in which `built` is renamed: the one that holds the spot, or a mount point itself.
    pub(in crate::copies) dir: Dir,
    /// The name of what is built, in `dir`.
    pub(in crate::copies) built: OsString,
    /// The name for what was there, in `dir`.
    pub(in crate::copies) kept: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copies) enum SpotKind {
    /// Nothing is there.
    Free,
    Taken,
    MountPoint,
}

/// A directory at or below a source by that source, any other by its path.
pub fn opened(path: &Path, sources: &[PathBuf]) -> io::Result<Dir> {
    let below = sources.iter().find_map(|source| Some((source, path.strip_prefix(source).ok()?)));
    match below.filter(|(_, rest)| !rest.as_os_str().is_empty()) {
        Some((source, rest)) => Dir::open(source)?.sub(rest),
        None => Dir::open(path),
    }
}

/// A mount point, with the same care: who owns what lies above it below a source could put a link there, and have another directory be taken for it.
pub fn mounted(path: &Path, sources: &[PathBuf]) -> io::Result<Dir> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => opened(parent, sources)?.enter(name),
        (Some(_) | None, _) => Dir::open(path),
    }
}

impl Spot {
    /// Looks at what is there. `seq` is the copy that goes there, `now` the wall clock. Below one of `sources` no link is followed: there it is the
    /// service that says what lies where.
    pub(in crate::copies) fn look(path: &Path, sources: &[PathBuf], seq: u64, now: Time) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Self::mount_point(path, sources, seq, now);
        };
        let dir = opened(parent, sources)?;
        let kind = match dir.stat(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => SpotKind::Free,
            Err(error) => return Err(error),
            Ok(stat) if stat.is_mount_root || stat.dev != dir.stat_self()?.dev => {
                return Self::mount_point(path, sources, seq, now);
            }
            Ok(_) => SpotKind::Taken,
        };
        let (built, kept) = (beside(name, BUILT), beside(name, &format!("before-{}", directory_of(seq, now))));
        let kept = free_name(&dir, kept)?;
        Ok(Self { path: path.to_owned(), kind, dir, built, kept })
    }

    fn mount_point(path: &Path, sources: &[PathBuf], seq: u64, now: Time) -> io::Result<Self> {
        let dir = mounted(path, sources)?;
        let kept = free_name(&dir, format!(".before-{}", directory_of(seq, now)).into())?;
        Ok(Self { path: path.to_owned(), kind: SpotKind::MountPoint, dir, built: format!(".{BUILT}").into(), kept })
    }

    /// The directory that `built` and `kept` lie in, for messages.
    pub(in crate::copies) fn around(&self) -> &Path {
        match self.kind {
            SpotKind::MountPoint => &self.path,
            SpotKind::Free | SpotKind::Taken => self.path.parent().unwrap_or(&self.path),
        }
    }

    pub(in crate::copies) fn kept_path(&self) -> PathBuf {
        self.around().join(&self.kept)
    }

    /// What an exchange must know, once something is built.
    pub(super) fn swap(&self) -> io::Result<Swap> {
        let kind = match self.kind {
            SpotKind::Free => SwapKind::Free,
            SpotKind::Taken => SwapKind::Taken,
            SpotKind::MountPoint => SwapKind::MountPoint,
        };
        let kept = self.kept.as_bytes();
        let before = kept.windows(BEFORE.len()).rposition(|part| part == BEFORE).unwrap_or(0);
        let failed = [&kept[..before], FAILED, &kept[before + BEFORE.len()..]].concat();
        let aside = free_name(&self.dir, OsString::from_vec(failed))?;
        Ok(Swap {
            path: self.path.clone(),
            kind,
            built: self.around().join(&self.built),
            kept: self.kept_path(),
            aside: self.around().join(aside),
            new: self.dir.stat(&self.built)?.ino,
        })
    }

    /// Takes away what a run that was cut off has left, or this one.
    pub(in crate::copies) fn clear(&self) -> io::Result<()> {
        match self.dir.stat(&self.built) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.dir.remove_tree(&self.built, &mut || {}).map(drop),
        }
    }

    /// Puts what was built into its place. True: something was there and is kept.
    pub(in crate::copies) fn replace(&self) -> io::Result<bool> {
        let kept = match self.kind {
            SpotKind::MountPoint => self.replace_in_mount()?,
            SpotKind::Free => {
                self.dir.rename(&self.built, &self.dir, self.name()?, Rename::New)?;
                false
            }
            SpotKind::Taken => {
                // INVARIANT: `built` never has what was there, so that it can always be removed. It is given its other name before it is exchanged.
                self.dir.rename(&self.built, &self.dir, &self.kept, Rename::New)?;
                match self.dir.rename(&self.kept, &self.dir, self.name()?, Rename::Exchange) {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.replace_in_two_steps()?,
                    exchanged => exchanged?,
                }
                true
            }
        };
        self.dir.sync()?;
        Ok(kept)
    }

    /// Where the file system cannot exchange.
    fn replace_in_two_steps(&self) -> io::Result<()> {
        self.dir.rename(&self.kept, &self.dir, &self.built, Rename::New)?;
        self.dir.rename(self.name()?, &self.dir, &self.kept, Rename::New)?;
        self.dir.rename(&self.built, &self.dir, self.name()?, Rename::New)
    }

    fn replace_in_mount(&self) -> io::Result<bool> {
        let built = self.dir.sub(Path::new(&self.built))?;
        self.dir.make_dir(&self.kept, 0o700)?;
        let kept = self.dir.sub(Path::new(&self.kept))?;
        let mut is_anything_kept = false;
        for (name, _, _) in self.dir.entries()? {
            if name == self.built || name == self.kept || is_of_file_system(&name) || is_of_earlier_restore(&name) {
                continue;
            }
            match built.rename(&name, &kept, &name, Rename::New) {
                Ok(()) => kept.rename(&name, &self.dir, &name, Rename::Exchange)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.dir.rename(&name, &kept, &name, Rename::New)?;
                }
                Err(error) => return Err(error),
            }
            is_anything_kept = true;
        }
        for (name, _, _) in built.entries()? {
            if !is_of_file_system(&name) {
                built.rename(&name, &self.dir, &name, Rename::New)?;
            }
        }
        self.clear()?;
        if !is_anything_kept {
            self.dir.remove_dir(&self.kept)?;
        }
        Ok(is_anything_kept)
    }

    /// Makes it as it was before [`Spot::replace`]; what had been built is removed.
    pub(in crate::copies) fn undo(&self, is_kept: bool) -> io::Result<()> {
        match (self.kind, is_kept) {
            (SpotKind::MountPoint, _) => {
                Err(io::Error::other("what was there lies in the directory beside, to be moved back by hand"))
            }
            (SpotKind::Free | SpotKind::Taken, false) => {
                self.dir.rename(self.name()?, &self.dir, &self.built, Rename::New)?;
                self.clear()
            }
            (SpotKind::Free | SpotKind::Taken, true) => {
                self.dir.rename(&self.kept, &self.dir, self.name()?, Rename::Exchange)?;
                self.dir.rename(&self.kept, &self.dir, &self.built, Rename::New)?;
                self.clear()
            }
        }
    }

    fn name(&self) -> io::Result<&OsStr> {
        self.path.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

pub fn is_of_file_system(name: &OsStr) -> bool {
    name == LOST_AND_FOUND
}

/// What an earlier restore kept is not moved on by a later one.
pub fn is_of_earlier_restore(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let seq = name.strip_prefix(b".before-").or_else(|| name.strip_prefix(b".failed-")).map(OsStr::from_bytes);
    seq.is_some_and(|seq| crate::copies::format::layout::seq_of(seq).is_some())
}

/// `.NAME.what`, which may be shorter than NAME is.
fn beside(name: &OsStr, what: &str) -> OsString {
    let name = name.as_bytes();
    let name = &name[..name.len().min(NAME_BYTES_MAX)];
    OsString::from_vec([b".", name, b".", what.as_bytes()].concat())
}

fn free_name(dir: &Dir, wanted: OsString) -> io::Result<OsString> {
    for number in 1..NAMES_MAX {
        let mut name = wanted.clone();
        if number > 1 {
            name.push(format!("-{number}"));
        }
        match dir.stat(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Moves everything in `from` to `to`; a directory that is there already gets what the other one has. Nothing else that is there is touched: an error.
pub(in crate::copies) fn merge(from: &Dir, to: &Dir) -> io::Result<()> {
    for (name, _, _) in from.entries()? {
        match from.rename(&name, to, &name, Rename::New) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let (inner, outer) = (from.sub(Path::new(&name))?, to.sub(Path::new(&name)).map_err(|_| error)?);
                merge(&inner, &outer)?;
                from.remove_dir(&name)?;
            }
            renamed => renamed?,
        }
    }
    Ok(())
}
