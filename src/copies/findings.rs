//! What a job found about files, within limits: a source full of unreadable files is told once, not a million times.

use std::io;

use nix::errno::Errno;

use crate::copies::conduct::Conduct;
use crate::engine::copies::order::{Finding, FindingKind};

/// Of each kind, in one job.
const TOLD_MAX: u64 = 20;

#[derive(Debug, Default)]
pub(in crate::copies) struct Findings {
    counts: Vec<(FindingKind, u64)>,
}

impl Findings {
    pub(in crate::copies) fn add(&mut self, conduct: &mut dyn Conduct, kind: FindingKind, path: &[u8], detail: String) {
        let known = self.counts.iter_mut().find(|(known, _)| *known == kind);
        let count = match known {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.counts.push((kind, 1));
                1
            }
        };
        if count <= TOLD_MAX {
            conduct.finding(Finding { kind, path: shown(path), detail });
        }
    }

    /// A source that cannot be read: because of its disk, or of something else.
    pub(in crate::copies) fn unreadable(&mut self, conduct: &mut dyn Conduct, path: &[u8], error: &io::Error) {
        let of_the_disk =
            [Errno::EIO, Errno::EUCLEAN, Errno::EBADMSG, Errno::ENODATA, Errno::ETIMEDOUT, Errno::EREMOTEIO];
        let is_of_the_disk = error.raw_os_error().is_some_and(|errno| of_the_disk.contains(&Errno::from_raw(errno)));
        let kind = if is_of_the_disk { FindingKind::BadDisk } else { FindingKind::Unreadable };
        self.add(conduct, kind, path, error.to_string());
    }

    /// What was found of this kind counts no more: nobody was told.
    pub(in crate::copies) fn forget(&mut self, kind: FindingKind) {
        self.counts.retain(|(known, _)| *known != kind);
    }

    /// Tells how many more there were.
    pub(in crate::copies) fn sum_up(&self, conduct: &mut dyn Conduct) {
        for (kind, count) in &self.counts {
            if *count > TOLD_MAX {
                let detail = format!("and {} more like these", count - TOLD_MAX);
                conduct.finding(Finding { kind: *kind, path: String::new(), detail });
            }
        }
    }
}

/// As people read it: the path at the source.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
