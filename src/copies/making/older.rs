//! The entries of the copy that a new one is compared with: none, or those of its manifest, which must be the one that its COMMIT names.

use std::fs::File;
use std::io;

use crate::copies::format::entry::{Entry, hex};
use crate::copies::format::manifest::{ManifestError, Reader};
use crate::copies::place::target::CommittedCopy;

#[derive(Debug)]
pub(in crate::copies) struct Older(Option<(Reader<File>, String)>);

impl Older {
    pub(in crate::copies) fn of(copy: Option<&CommittedCopy>) -> io::Result<Self> {
        let opened = copy.map(|copy| Ok::<_, io::Error>((copy.manifest()?, copy.commit.manifest.clone())));
        Ok(Self(opened.transpose()?))
    }
}

impl Iterator for Older {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (reader, expected) = self.0.as_mut()?;
        if let Some(entry) = reader.next() {
            return Some(entry);
        }
        let found = reader.summary().map(|summary| hex(&summary.hash));
        let other = found.filter(|found| found != expected).map(|found| Err(ManifestError::Other { found }));
        self.0 = None;
        other
    }
}
