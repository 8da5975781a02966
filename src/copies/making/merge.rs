//! The sources and the manifest of an older copy, side by side: two streams in the same order, of which no more than one entry each is held.

use std::cmp::Ordering;

use super::cursor::is_at_or_below;
use super::scan::{Found, Trouble};
use crate::copies::format::entry::Entry;
use crate::copies::format::manifest::{ManifestError, order};

/// What stands at the next path.
#[derive(Debug)]
pub(in crate::copies) enum Step {
    Both(Box<Found>, Box<Entry>),
    New(Box<Found>),
    /// The sources do not have it any more.
    Gone(Box<Entry>),
    /// Nobody can tell whether the sources have it, because it or what it lies in cannot be read.
    Unknown(Box<Entry>),
    /// The sources have something there that cannot be read.
    Trouble(Trouble),
}

pub(in crate::copies) struct Merge<S, M> {
    sources: S,
    older: M,
    found: Option<Result<Found, Trouble>>,
    entry: Option<Entry>,
    /// At it and below it nothing is known of the sources.
    unknown: Option<Vec<u8>>,
}

impl<S, M> Merge<S, M>
where
    S: Iterator<Item = Result<Found, Trouble>>,
    M: Iterator<Item = Result<Entry, ManifestError>>,
{
    pub(in crate::copies) fn new(mut sources: S, mut older: M) -> Result<Self, ManifestError> {
        let (found, entry) = (sources.next(), older.next().transpose()?);
        Ok(Self { sources, older, found, entry, unknown: None })
    }

    /// `None` at the end of both.
    pub(in crate::copies) fn step(&mut self) -> Result<Option<Step>, ManifestError> {
        let Some(entry) = self.entry.as_ref() else { return Ok(self.source().map(|found| self.only_here(found))) };
        let ordering = match &self.found {
            None => Ordering::Greater,
            Some(Ok(found)) => order(&found.entry.path, &entry.path),
            // First that something is wrong, then what was there.
            Some(Err(trouble)) => order(&trouble.path, &entry.path).then(Ordering::Less),
        };
        match ordering {
            Ordering::Less => Ok(self.source().map(|found| self.only_here(found))),
            Ordering::Greater => self.only_there(),
            Ordering::Equal => {
                let entry = self.older()?;
                Ok(match (self.source(), entry) {
                    (Some(Ok(found)), Some(entry)) => Some(Step::Both(Box::new(found), Box::new(entry))),
                    (Some(other), _) => Some(self.only_here(other)),
                    (None, _) => None,
                })
            }
        }
    }

    fn only_here(&mut self, found: Result<Found, Trouble>) -> Step {
        match found {
            Ok(found) => Step::New(Box::new(found)),
            Err(trouble) => {
                self.unknown = Some(trouble.path.clone());
                Step::Trouble(trouble)
            }
        }
    }

    fn only_there(&mut self) -> Result<Option<Step>, ManifestError> {
        let Some(entry) = self.older()? else { return Ok(None) };
        let unknown = self.unknown.as_ref().is_some_and(|unknown| is_at_or_below(&entry.path, unknown));
        Ok(Some(if unknown { Step::Unknown(Box::new(entry)) } else { Step::Gone(Box::new(entry)) }))
    }

    fn source(&mut self) -> Option<Result<Found, Trouble>> {
        std::mem::replace(&mut self.found, self.sources.next())
    }

    fn older(&mut self) -> Result<Option<Entry>, ManifestError> {
        let next = self.older.next().transpose()?;
        Ok(std::mem::replace(&mut self.entry, next))
    }
}
