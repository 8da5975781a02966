//! Exchanges what was built by a restore beside with what is there, and back, while nothing that uses it runs.
//!
//! How far an exchange has come can be told at any time from the names and the inode of what was built alone, so whoever comes after a crash finishes it in either direction:
//!
//! ```text
//!            there        built   kept     aside
//! before     old          new
//!            old                  new              (the inode tells)
//! exchanged  new                  old
//! going back -                    old      new
//! back       old                           new
//! ```
//!
//! A mount point cannot be renamed. What lies in it is moved piece by piece; a directory that is called `NAME.moving` says that what lies in the mount point is still, or again, what
//! was there before, and `NAME` that all of that is in it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::exchange::{is_of_earlier_restore, is_of_file_system, mounted, opened};
use super::restore_checks as checks;
use crate::copies::conduct::Conduct;
use crate::copies::failure::other;
use crate::engine::copies::order::{Exchange, Failure, Outcome, Phase, Progress, Swap, SwapKind, SwapTo};
use crate::engine::copies::plan::CopyPlan;
use crate::sys::attributes::Inode;
use crate::sys::dir::{Dir, Rename};

const MOVING: &str = ".moving";

/// # Errors
/// What is in the way, or the first of them that could not be exchanged: the others are as they were, or done.
pub fn exchange(plan: &CopyPlan, wanted: &Exchange, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    conduct.progress(Progress { phase: Phase::Restore, ..Progress::default() });
    let places: Vec<PathBuf> = wanted.swaps.iter().map(|swap| swap.path.clone()).collect();
    if wanted.to == SwapTo::New {
        checks::no_mounts_below(&places)?;
        if !wanted.force {
            checks::nobody_writes(&places)?;
        }
    }
    let mut aside = Vec::new();
    for swap in &wanted.swaps {
        let failed = |error: io::Error| failed(swap, &error);
        let place = Place::open(plan, swap).map_err(failed)?;
        match wanted.to {
            SwapTo::New => {
                place.no_log_is_left(&places)?;
                place.forward().map_err(failed)?;
            }
            SwapTo::Old => {
                if place.back().map_err(failed)? {
                    aside.push(swap.aside.clone());
                }
            }
        }
        place.dir.sync_fs().map_err(failed)?;
    }
    Ok(Outcome::Swapped { aside })
}

fn failed(swap: &Swap, error: &io::Error) -> Failure {
    let remedy = "see the health of that disk (mainstay checks)";
    Failure { remedy: Some(remedy.to_owned()), ..other(swap.path.display(), error) }
}

/// One of them, opened.
struct Place<'a> {
    swap: &'a Swap,
    /// In which names are changed: the directory that holds it, or the mount point itself.
    dir: Dir,
    built: &'a OsStr,
    kept: &'a OsStr,
    aside: &'a OsStr,
}

impl<'a> Place<'a> {
    fn open(plan: &CopyPlan, swap: &'a Swap) -> io::Result<Self> {
        let name = |path: &'a Path| path.file_name().ok_or(io::ErrorKind::InvalidInput);
        let dir = match (swap.kind, swap.path.parent()) {
            (SwapKind::MountPoint, _) | (_, None) => mounted(&swap.path, &plan.from)?,
            (SwapKind::Free | SwapKind::Taken, Some(parent)) => opened(parent, &plan.from)?,
        };
        Ok(Self { swap, dir, built: name(&swap.built)?, kept: name(&swap.kept)?, aside: name(&swap.aside)? })
    }

    fn name(&self) -> io::Result<&OsStr> {
        self.swap.path.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn inode(&self, name: &OsStr) -> io::Result<Option<u64>> {
        match self.dir.stat(name) {
            Ok(stat) => Ok(Some(stat.ino)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_there(&self, name: &OsStr) -> io::Result<bool> {
        self.inode(name).map(|inode| inode.is_some())
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.dir.rename(from, &self.dir, to, Rename::New)
    }

    fn forward(&self) -> io::Result<()> {
        match self.swap.kind {
            SwapKind::Free => self.fill(),
            SwapKind::Taken => self.replace(),
            SwapKind::MountPoint => self.replace_within(),
        }
    }

    /// Whether what was built has been in its place, and lies aside now.
    fn back(&self) -> io::Result<bool> {
        match self.swap.kind {
            SwapKind::Free => self.empty()?,
            SwapKind::Taken => self.put_back()?,
            SwapKind::MountPoint => self.put_back_within()?,
        }
        self.is_there(self.aside)
    }

    fn gone(&self) -> io::Error {
        io::Error::other(format!("what was built ({}) is gone", self.swap.built.display()))
    }

    fn taken(&self) -> io::Error {
        io::Error::other(format!("{} is somebody else's, so what is there cannot be kept", self.swap.kept.display()))
    }

    fn fill(&self) -> io::Result<()> {
        match (self.is_there(self.built)?, self.is_there(self.name()?)?) {
            (true, _) => self.rename(self.built, self.name()?),
            (false, true) => Ok(()),
            (false, false) => Err(self.gone()),
        }
    }

    fn empty(&self) -> io::Result<()> {
        if self.is_there(self.built)? {
            return self.clear();
        }
        // Something else that has come to lie there is the service's own.
        if self.inode(self.name()?)? == Some(self.swap.new) && !self.is_there(self.aside)? {
            self.rename(self.name()?, self.aside)?;
        }
        Ok(())
    }

    fn replace(&self) -> io::Result<()> {
        let (built, kept) = (self.inode(self.built)?, self.inode(self.kept)?);
        let name = self.name()?;
        match kept {
            None if built != Some(self.swap.new) => return Err(self.gone()),
            None => self.rename(self.built, self.kept)?,
            Some(kept) if kept == self.swap.new => {}
            // Where names cannot be exchanged, it may have ended between the two steps.
            Some(_) if !self.is_there(name)? => return self.rename(self.built, name),
            Some(_) if self.inode(name)? == Some(self.swap.new) => return Ok(()),
            Some(_) => return Err(self.taken()),
        }
        match self.dir.rename(self.kept, &self.dir, name, Rename::Exchange) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.rename(self.kept, self.built)?;
                self.rename(name, self.kept)?;
                self.rename(self.built, name)
            }
            exchanged => exchanged,
        }
    }

    fn put_back(&self) -> io::Result<()> {
        let name = self.name()?;
        match self.inode(self.kept)? {
            None => {}
            Some(kept) if kept == self.swap.new => self.rename(self.kept, self.built)?,
            // Somebody else's: it has never been in the place.
            Some(_) if self.inode(self.built)? == Some(self.swap.new) && self.is_there(name)? => {}
            Some(_) => {
                if self.is_there(name)? {
                    self.rename(name, self.aside)?;
                    self.dir.sync()?;
                }
                self.rename(self.kept, name)?;
            }
        }
        self.clear()
    }

    /// Takes away what was built and has never been in its place.
    fn clear(&self) -> io::Result<()> {
        if self.is_there(self.built)? { self.dir.remove_tree(self.built, &mut || {}).map(drop) } else { Ok(()) }
    }

    fn moving(&self) -> OsString {
        let mut name = self.kept.to_owned();
        name.push(MOVING);
        name
    }

    fn replace_within(&self) -> io::Result<()> {
        let moving = self.moving();
        if !self.is_there(self.kept)? {
            if !self.is_there(&moving)? {
                if self.inode(self.built)? != Some(self.swap.new) {
                    return Err(self.gone());
                }
                self.dir.make_dir(&moving, 0o700)?;
                look_alike(&self.dir, &self.dir.sub(Path::new(&moving))?)?;
            }
            let to = self.dir.sub(Path::new(&moving))?;
            self.move_all(&self.dir, &to)?;
            self.rename(&moving, self.kept)?;
            self.dir.sync_fs()?;
        }
        if !self.is_there(self.built)? {
            return Ok(());
        }
        let built = self.dir.sub(Path::new(self.built))?;
        self.move_all(&built, &self.dir)?;
        look_alike(&built, &self.dir)?;
        self.clear()
    }

    fn put_back_within(&self) -> io::Result<()> {
        let moving = self.moving();
        if self.is_there(self.kept)? {
            if !self.is_there(self.aside)? {
                self.dir.make_dir(self.aside, 0o700)?;
            }
            let aside = self.dir.sub(Path::new(self.aside))?;
            self.move_all(&self.dir, &aside)?;
            self.rename(self.kept, &moving)?;
            self.dir.sync_fs()?;
        }
        if self.is_there(&moving)? {
            let from = self.dir.sub(Path::new(&moving))?;
            self.move_all(&from, &self.dir)?;
            look_alike(&from, &self.dir)?;
            self.dir.remove_dir(&moving)?;
        }
        self.clear()
    }

    /// Everything but what belongs to the file system or to restores.
    fn move_all(&self, from: &Dir, to: &Dir) -> io::Result<()> {
        let moving = self.moving();
        for (name, _, _) in from.entries()? {
            let ours = [self.built, self.kept, self.aside, moving.as_os_str()].contains(&name.as_os_str());
            if !ours && !is_of_file_system(&name) && !is_of_earlier_restore(&name) {
                from.rename(&name, to, &name, Rename::New)?;
            }
        }
        from.sync()?;
        to.sync()
    }

    /// The log of a database that stays beside one which is replaced alone would be applied to it and break it.
    fn no_log_is_left(&self, replaced: &[PathBuf]) -> Result<(), Failure> {
        if self.swap.kind == SwapKind::MountPoint {
            return Ok(());
        }
        for log in checks::LOGS {
            let mut path = self.swap.path.clone().into_os_string();
            path.push(log);
            let path = PathBuf::from(path);
            let size = path.file_name().map_or(0, |name| self.dir.stat(name).map_or(0, |stat| stat.size));
            if size > 0 && !replaced.contains(&path) && self.builds_database() {
                return Err(checks::log_is_left(&path));
            }
        }
        Ok(())
    }

    fn builds_database(&self) -> bool {
        let mut head = [0; checks::SQLITE.len()];
        self.dir.read(self.built).is_ok_and(|mut file| file.read_exact(&mut head).is_ok()) && head == *checks::SQLITE
    }
}

/// Owner, mode and attributes of one directory for another.
fn look_alike(from: &Dir, to: &Dir) -> io::Result<()> {
    let stat = from.stat_self()?;
    let (like, inode) = (Inode::open(from), Inode::open(to));
    // Without the privilege it was not ours to change before either.
    let _ = inode.chown(Some(stat.uid), Some(stat.gid));
    inode.chmod(stat.mode & 0o7777)?;
    let wanted = like.attributes()?;
    for attribute in inode.attributes()? {
        if wanted.iter().all(|(name, _)| *name != attribute.0) {
            inode.remove_attribute(&attribute.0)?;
        }
    }
    for (name, value) in &wanted {
        inode.set_attribute(name, value)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
