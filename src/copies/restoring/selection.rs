//! Which entries of a copy are wanted.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::copies::checking::joined::is_at_or_below;
use crate::copies::format::layout::below_root;

/// Some paths with all that is below them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::copies) struct Selection {
    /// As in a manifest; none at or below another one. The empty path: everything.
    wanted: Vec<Vec<u8>>,
}

impl Selection {
    /// Of no paths: everything.
    pub(in crate::copies) fn of(paths: &[PathBuf]) -> Self {
        let mut paths: Vec<Vec<u8>> = paths.iter().map(|path| as_in_manifest(path)).collect();
        if paths.is_empty() {
            paths.push(Vec::new());
        }
        paths.sort();
        paths.dedup();
        let all = paths.clone();
        paths.retain(|path| !all.iter().any(|other| other != path && is_at_or_below(other, path)));
        Self { wanted: paths }
    }

    pub(in crate::copies) fn of_one(path: &[u8]) -> Self {
        Self { wanted: vec![path.to_vec()] }
    }

    pub(in crate::copies) fn wanted(&self) -> &[Vec<u8>] {
        &self.wanted
    }

    pub(in crate::copies) fn takes(&self, path: &[u8]) -> bool {
        self.wanted.iter().any(|wanted| is_at_or_below(wanted, path))
    }

    /// Whether it is a directory on the way to something wanted.
    pub(in crate::copies) fn leads(&self, path: &[u8]) -> bool {
        self.wanted.iter().any(|wanted| wanted != path && is_at_or_below(path, wanted))
    }
}

/// The whole path without its leading slash.
pub(in crate::copies) fn as_in_manifest(path: &Path) -> Vec<u8> {
    below_root(path).as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_within_others_are_covered_and_ways_lead_to_them() {
        let paths = ["/a/b", "/a/b/c", "/a/bc/", "/a/b", "/d"].map(PathBuf::from);
        let selection = Selection::of(&paths);
        assert_eq!(selection.wanted(), [b"a/b".to_vec(), b"a/bc".to_vec(), b"d".to_vec()]);
        assert!(
            selection.takes(b"a/b/x") && selection.takes(b"d") && !selection.takes(b"a") && !selection.takes(b"a/bx")
        );
        assert!(selection.leads(b"a") && !selection.leads(b"d") && !selection.leads(b"x"));
        assert!(Selection::of(&[]).takes(b"anything"));
    }
}
