//! The way from a directory down to where a walk is. However deep it goes, only the last few directories are open; the others are opened again by
//! their names on the way back, and must be the same as before.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::dir::Dir;
use super::stat::Stat;

/// As many directories of one trail are open at most.
const OPEN_MAX: usize = 64;

#[derive(Debug)]
pub struct Trail {
    root: Arc<Dir>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: OsString,
    dev: u64,
    ino: u64,
    dir: Option<Arc<Dir>>,
}

impl Trail {
    #[must_use]
    pub fn new(root: Arc<Dir>) -> Self {
        Self { root, steps: Vec::new() }
    }

    /// How many steps below the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.steps.len()
    }

    /// Where the walk is.
    #[must_use]
    pub fn here(&self) -> Arc<Dir> {
        // The last step is always open, by `enter` and `leave`.
        self.steps.last().and_then(|step| step.dir.as_ref()).unwrap_or(&self.root).clone()
    }

    /// One step down. On an error the walk stays where it is.
    pub fn enter(&mut self, name: &OsStr) -> io::Result<Arc<Dir>> {
        let dir = Arc::new(self.here().sub(Path::new(name))?);
        let Stat { dev, ino, .. } = dir.stat_self()?;
        if let Some(far) = self.steps.len().checked_sub(OPEN_MAX) {
            self.steps[far].dir = None;
        }
        self.steps.push(Step { name: name.to_os_string(), dev, ino, dir: Some(dir.clone()) });
        Ok(dir)
    }

    /// One step up; gives the name of what was left. On an error (what lay above was moved meanwhile) the walk is further up than asked for, as [`Trail::depth`]
    /// says, at the nearest directory that is still there.
    pub fn leave(&mut self) -> io::Result<Option<OsString>> {
        let left = self.steps.pop();
        self.reopen()?;
        Ok(left.map(|step| step.name))
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.steps.last().is_none_or(|step| step.dir.is_some()) {
            return Ok(());
        }
        let open = self.steps.iter().rposition(|step| step.dir.is_some());
        let first = open.map_or(0, |open| open + 1);
        let mut at = open.and_then(|open| self.steps[open].dir.clone()).unwrap_or_else(|| self.root.clone());
        for index in first..self.steps.len() {
            let step = &mut self.steps[index];
            let again = at.sub(Path::new(&step.name)).and_then(|dir| Ok((dir.stat_self()?, Arc::new(dir))));
            match again {
                Ok((stat, dir)) if (stat.dev, stat.ino) == (step.dev, step.ino) => {
                    step.dir = Some(dir.clone());
                    at = dir;
                }
                moved => {
                    self.steps.truncate(index);
                    self.close_far();
                    return Err(moved.err().unwrap_or_else(|| Errno::ESTALE.into()));
                }
            }
        }
        self.close_far();
        Ok(())
    }

    /// As on the way down: only the last ones stay open.
    fn close_far(&mut self) {
        let far = self.steps.len().saturating_sub(OPEN_MAX);
        for step in &mut self.steps[..far] {
            step.dir = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn way_down_and_back_holds_few_directories_and_finds_them_again() {
        let directory = TempDir::new();
        let root = Arc::new(Dir::open(directory.path()).unwrap());
        let mut trail = Trail::new(root.clone());
        let depth = 3 * OPEN_MAX;
        for level in 0..depth {
            let name = OsString::from(level.to_string());
            trail.here().make_dir(&name, 0o700).unwrap();
            trail.enter(&name).unwrap();
        }
        assert!(trail.steps.iter().filter(|step| step.dir.is_some()).count() <= OPEN_MAX + 1);
        for level in (0..depth).rev() {
            assert_eq!(trail.leave().unwrap(), Some(OsString::from(level.to_string())));
            trail.here().remove_dir(&OsString::from(level.to_string())).unwrap();
        }
        assert_eq!((trail.depth(), trail.leave().unwrap()), (0, None));
    }

    #[test]
    fn directory_that_was_replaced_meanwhile_is_not_gone_on_with() {
        let directory = TempDir::new();
        let mut trail = Trail::new(Arc::new(Dir::open(directory.path()).unwrap()));
        for _ in 0..=OPEN_MAX + 1 {
            trail.here().make_dir(OsStr::new("d"), 0o700).unwrap();
            trail.enter(OsStr::new("d")).unwrap();
        }
        fs::rename(directory.path().join("d"), directory.path().join("moved")).unwrap();
        fs::create_dir_all(directory.path().join("d/d")).unwrap();
        let failed = std::iter::repeat_with(|| trail.leave()).find_map(Result::err).unwrap();
        assert_eq!((failed.raw_os_error(), trail.depth()), (Some(Errno::ESTALE as i32), 0));
        assert!(trail.here().stat(OsStr::new("moved")).is_ok());
    }
}
