//! The directory that a walk over paths is in. Paths come in the order of the manifest, so the next one is nearly always there or next to it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::sys::dir::Dir;
use crate::sys::trail::Trail;

#[derive(Debug)]
pub(in crate::copies) struct Cursor {
    root: Arc<Dir>,
    trail: Trail,
    /// Where it is, below the root.
    path: Vec<u8>,
}

impl Cursor {
    pub(in crate::copies) fn new(root: Dir) -> Self {
        let root = Arc::new(root);
        Self { trail: Trail::new(root.clone()), root, path: Vec::new() }
    }

    /// The directory at this path; empty: the root.
    pub(in crate::copies) fn at(&mut self, path: &[u8]) -> io::Result<Arc<Dir>> {
        let moved = self.go(path);
        if moved.is_err() {
            self.trail = Trail::new(self.root.clone());
            self.path.clear();
        }
        moved
    }

    fn go(&mut self, path: &[u8]) -> io::Result<Arc<Dir>> {
        while !is_at_or_below(path, &self.path) {
            self.trail.leave()?;
            self.path.truncate(parent(&self.path).len());
        }
        let rest = path[self.path.len()..].split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        for component in rest {
            self.trail.enter(OsStr::from_bytes(component))?;
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(component);
        }
        Ok(self.trail.here())
    }
}

/// Whether `path` is `above` or lies below it; everything lies below the empty path.
pub(in crate::copies) fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Without its last component.
pub(in crate::copies) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &path[..slash])
}

/// Its last component.
pub(in crate::copies) fn name(path: &[u8]) -> &OsStr {
    let from = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    OsStr::from_bytes(&path[from..])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn cursor_goes_anywhere_and_recovers_from_what_is_not_there() {
        let directory = TempDir::new();
        fs::create_dir_all(directory.path().join("a/b/c")).unwrap();
        fs::create_dir_all(directory.path().join("ab")).unwrap();
        let ino = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(directory.path().join(path)).unwrap());
        let mut cursor = Cursor::new(Dir::open(directory.path()).unwrap());
        for path in ["a/b/c", "a", "ab", "", "a/b", "a/b/c", "ab"] {
            assert_eq!(cursor.at(path.as_bytes()).unwrap().stat_self().unwrap().ino, ino(path), "{path}");
            assert!(cursor.at(b"a/x/y").is_err());
        }
    }

    #[test]
    fn paths_have_parents_and_names() {
        assert_eq!((parent(b"a/b/c"), name(b"a/b/c")), (b"a/b".as_slice(), OsStr::new("c")));
        assert_eq!((parent(b"a"), name(b"a")), (b"".as_slice(), OsStr::new("a")));
        assert!(is_at_or_below(b"a/b", b"a") && is_at_or_below(b"a", b"a") && !is_at_or_below(b"ab", b"a"));
    }
}
