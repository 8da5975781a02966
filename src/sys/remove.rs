//! Takes away whole trees: nothing outside of them, no link followed, no mount entered.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use super::dir::Dir;
use super::listing::Listing;
use super::stat::FileType;
use super::trail::Trail;

impl Dir {
    /// Removes what has this name, with everything in it; gives how many names went. `pace` is called after each. What vanishes meanwhile is no error.
    pub fn remove_tree(&self, name: &OsStr, pace: &mut dyn FnMut()) -> io::Result<u64> {
        let mut removed = 0;
        if !self.remove_or_enter(name, FileType::Unknown, &mut removed, pace)? {
            return Ok(removed);
        }
        let mut trail = Trail::new(Arc::new(self.again()?));
        let mut levels = vec![Level::of(&*trail.enter(name)?)?];
        while let Some(level) = levels.last_mut() {
            let here = trail.here();
            match level.next() {
                Some((name, kind)) if here.remove_or_enter(name, kind, &mut removed, pace)? => {
                    let below = trail.enter(name)?;
                    levels.push(Level::of(&below)?);
                }
                Some(_) => {}
                None => {
                    levels.pop();
                    drop(here);
                    if let Some(name) = trail.leave()? {
                        trail.here().remove_dir(&name).or_else(gone)?;
                        removed += 1;
                        pace();
                    }
                }
            }
        }
        Ok(removed)
    }

    /// True for a directory that has to be emptied first.
    fn remove_or_enter(
        &self,
        name: &OsStr,
        kind: FileType,
        removed: &mut u64,
        pace: &mut dyn FnMut(),
    ) -> io::Result<bool> {
        if kind == FileType::Dir {
            return Ok(true);
        }
        match self.remove_file(name) {
            Ok(()) => {
                *removed += 1;
                pace();
                Ok(false)
            }
            // For a directory, on Linux.
            Err(error) if error.raw_os_error() == Some(Errno::EISDIR as i32) => Ok(true),
            Err(error) => gone(error).map(|()| false),
        }
    }
}

/// A directory that is being emptied.
struct Level {
    listing: Listing,
    next: usize,
}

impl Level {
    fn of(dir: &Dir) -> io::Result<Self> {
        Ok(Self { listing: dir.listing()?, next: 0 })
    }

    fn next(&mut self) -> Option<(&OsStr, FileType)> {
        let listed = self.listing.get(self.next)?;
        self.next += 1;
        Some((listed.name, listed.kind))
    }
}

fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn tree_goes_and_what_its_links_point_at_stays() {
        let directory = TempDir::new();
        let root = directory.path();
        fs::create_dir_all(root.join("tree/a/b")).unwrap();
        fs::create_dir(root.join("kept")).unwrap();
        fs::write(root.join("kept/file"), "x").unwrap();
        fs::write(root.join("tree/a/file"), "x").unwrap();
        symlink("../../kept", root.join("tree/a/link")).unwrap();
        symlink("nowhere", root.join("tree/broken")).unwrap();
        let dir = Dir::open(root).unwrap();
        let mut steps = 0;
        assert_eq!(dir.remove_tree(OsStr::new("tree"), &mut || steps += 1).unwrap(), 6);
        assert_eq!(steps, 6);
        assert!(root.join("kept/file").exists() && !root.join("tree").exists());
        assert_eq!(dir.remove_tree(OsStr::new("tree"), &mut || {}).unwrap(), 0);
        fs::write(root.join("file"), "").unwrap();
        assert_eq!(dir.remove_tree(OsStr::new("file"), &mut || {}).unwrap(), 1);
    }

    #[test]
    fn tree_that_is_deeper_than_there_are_descriptors_goes() {
        let directory = TempDir::new();
        let root = Arc::new(Dir::open(directory.path()).unwrap());
        let mut trail = Trail::new(root.clone());
        for _ in 0..2000 {
            trail.here().make_dir(OsStr::new("deep"), 0o700).unwrap();
            trail.enter(OsStr::new("deep")).unwrap();
        }
        assert_eq!(root.remove_tree(OsStr::new("deep"), &mut || {}).unwrap(), 2000);
    }
}
