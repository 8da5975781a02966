//! Which inodes have been read already.

use std::collections::BTreeMap;

/// Inode numbers, 64 to an entry: file systems give them out in runs, so that a million take less than half a MiB.
#[derive(Debug, Default)]
pub(in crate::copies) struct Inodes {
    runs: BTreeMap<u64, u64>,
}

/// Of 64 numbers each: about 12 MiB. What does not fit is not remembered, and so read again.
const RUNS_MAX: usize = 1 << 18;

impl Inodes {
    pub(in crate::copies) fn contains(&self, ino: u64) -> bool {
        self.runs.get(&(ino >> 6)).is_some_and(|run| run & bit(ino) != 0)
    }

    pub(in crate::copies) fn insert(&mut self, ino: u64) {
        if let Some(run) = self.runs.get_mut(&(ino >> 6)) {
            *run |= bit(ino);
        } else if self.runs.len() < RUNS_MAX {
            self.runs.insert(ino >> 6, bit(ino));
        }
    }
}

fn bit(ino: u64) -> u64 {
    1 << (ino & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_remembered_one_by_one_and_within_a_limit() {
        let mut inodes = Inodes::default();
        for ino in [0, 63, 64, u64::MAX] {
            assert!(!inodes.contains(ino));
            inodes.insert(ino);
            assert!(inodes.contains(ino));
        }
        assert!(!inodes.contains(1) && !inodes.contains(65));
        for run in 0..=u64::try_from(RUNS_MAX).unwrap() {
            inodes.insert(run << 6);
        }
        assert_eq!(inodes.runs.len(), RUNS_MAX);
    }
}
