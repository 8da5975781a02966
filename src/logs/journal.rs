//! The event journal below `state_dir`: JSON lines that the agent makes, each with `seq` and `at`. Buffered for a moment, bounded,
//! continued on a new line after a torn one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::file::{Form, LogFile, Loss};
use super::{rfc3339, rotate};

pub(super) const JOURNAL_FILE_BYTES_MAX: u64 = 8 << 20;
/// The file being written included.
pub(super) const JOURNAL_FILES_MAX: u32 = 4;
/// An entry is in the file at most so much later; those of level `warn` and `error` at once.
const BUFFERED_MAX: Duration = Duration::from_millis(200);
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Where [`last_seq`] looks for the last whole entry of a file.
const LAST_ENTRIES_BYTES: u64 = 256 << 10;

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("events.ndjson")
}

/// What we must know of an entry.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) seq: Option<u64>,
    at: Option<String>,
    level: Option<String>,
}

impl Entry {
    /// `None`: not an entry, for instance a torn line.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn unix_ms(&self) -> Option<u64> {
        self.at.as_deref().and_then(rfc3339::parse)
    }

    fn is_urgent(&self) -> bool {
        matches!(self.level.as_deref(), Some("warn" | "error"))
    }
}

/// The greatest `seq` on disk; 0 when there is no journal. Reads at most the last 256 KiB of each file.
#[must_use]
pub fn last_seq(state_dir: &Path) -> u64 {
    let base = path(state_dir);
    (0..JOURNAL_FILES_MAX).find_map(|number| last_seq_of(&rotate::numbered(&base, number)).ok().flatten()).unwrap_or(0)
}

fn last_seq_of(path: &Path) -> io::Result<Option<u64>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(LAST_ENTRIES_BYTES);
    let mut end = vec![0; usize::try_from(size - start).unwrap_or(0)];
    file.read_exact_at(&mut end, start)?;
    let whole = if start == 0 { 0 } else { end.iter().position(|byte| *byte == b'\n').unwrap_or(end.len()) };
    let seqs = end[whole..].split(|byte| *byte == b'\n').filter_map(|line| Entry::read(line)?.seq);
    Ok(seqs.max())
}

/// The journal as the writer thread holds it.
#[derive(Debug)]
pub(super) struct Journal {
    file: LogFile,
    buffer: Vec<u8>,
    flush_at: Option<Instant>,
}

impl Journal {
    pub(super) fn new(state_dir: &Path) -> Self {
        let file = LogFile::new(path(state_dir), Form::Json, JOURNAL_FILE_BYTES_MAX, JOURNAL_FILES_MAX);
        Self { file, buffer: Vec::new(), flush_at: None }
    }

    /// Takes one entry; says what was lost if it had to write.
    pub(super) fn add(&mut self, line: &str, now: Instant) -> Option<Loss> {
        // A newline within an entry would make two of it; JSON needs none.
        self.buffer.extend(line.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
        self.buffer.push(b'\n');
        let urgent = Entry::read(line.as_bytes()).is_some_and(|entry| entry.is_urgent());
        let wait = if urgent || self.buffer.len() >= BUFFER_BYTES_MAX { Duration::ZERO } else { BUFFERED_MAX };
        self.flush_at = Some(self.flush_at.map_or(now + wait, |at| at.min(now + wait)));
        if self.buffer.len() >= BUFFER_BYTES_MAX { self.flush() } else { None }
    }

    pub(super) fn note_gap(&mut self, entries: u64, reason: &str) {
        self.file.note_gap(entries, reason);
    }

    /// When to call [`Journal::flush`].
    pub(super) fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    pub(super) fn flush(&mut self) -> Option<Loss> {
        self.flush_at = None;
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.is_empty() { None } else { self.file.append(&[&buffer], rfc3339::now_unix_ms()) }
    }

    /// Inode and size of the file being written.
    pub(super) fn end(&self) -> (u64, u64) {
        self.file.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::testing::Scratch;
    use std::fs;

    fn entry(seq: u64, level: &str) -> String {
        format!(r#"{{"seq":{seq},"at":"2026-11-22T08:00:00.000Z","level":"{level}","type":"x"}}"#)
    }

    #[test]
    fn a_torn_last_line_is_skipped_and_continued_on_a_new_line() {
        let scratch = Scratch::new("torn");
        let whole = entry(41, "info");
        fs::write(path(&scratch.path), format!("{whole}\n{{\"seq\":42,\"at\":\"20")).unwrap();
        assert_eq!(last_seq(&scratch.path), 41);
        let mut journal = Journal::new(&scratch.path);
        assert!(journal.add(&entry(42, "warn"), Instant::now()).is_none());
        assert!(journal.flush().is_none());
        assert_eq!(last_seq(&scratch.path), 42);
        let text = fs::read_to_string(path(&scratch.path)).unwrap();
        let entries = text.lines().filter(|line| Entry::read(line.as_bytes()).is_some()).count();
        assert_eq!((text.lines().count(), entries), (3, 2));
    }

    #[test]
    fn the_last_seq_is_found_in_an_older_file_and_in_none() {
        let scratch = Scratch::new("last-seq");
        assert_eq!(last_seq(&scratch.path), 0);
        fs::write(rotate::numbered(&path(&scratch.path), 1), format!("{}\n{}\n", entry(6, "info"), entry(7, "info")))
            .unwrap();
        assert_eq!(last_seq(&scratch.path), 7);
        fs::write(path(&scratch.path), "").unwrap();
        assert_eq!(last_seq(&scratch.path), 7);
        fs::write(path(&scratch.path), "\0\0\0\0").unwrap();
        assert_eq!(last_seq(&scratch.path), 7);
    }

    #[test]
    fn entries_wait_a_moment_unless_they_warn() {
        let scratch = Scratch::new("buffered");
        let mut journal = Journal::new(&scratch.path);
        let now = Instant::now();
        journal.add(&entry(1, "info"), now);
        journal.add(&entry(2, "info"), now + BUFFERED_MAX / 2);
        assert_eq!(journal.flush_at(), Some(now + BUFFERED_MAX));
        journal.add(&entry(3, "error"), now);
        assert_eq!(journal.flush_at(), Some(now));
        assert!(journal.flush().is_none());
        assert_eq!(journal.flush_at(), None);
        assert_eq!(fs::read_to_string(path(&scratch.path)).unwrap().lines().count(), 3);
    }

    #[test]
    fn the_journal_is_bounded() {
        let scratch = Scratch::new("bounded");
        let mut journal = Journal::new(&scratch.path);
        let long = "x".repeat(60_000);
        for seq in 0..700 {
            journal.add(&format!(r#"{{"seq":{seq},"text":"{long}"}}"#), Instant::now());
        }
        journal.flush();
        assert_eq!(last_seq(&scratch.path), 699);
        let sizes: Vec<u64> =
            fs::read_dir(&scratch.path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 4);
        assert!(sizes.iter().sum::<u64>() <= u64::from(JOURNAL_FILES_MAX) * JOURNAL_FILE_BYTES_MAX);
    }
}
