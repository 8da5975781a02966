//! One rotated file of a writer thread: appends bytes as they come, rotates between lines, makes room on a full disk by giving up
//! its own oldest file, and says in the file itself what was lost.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::rotate;
use super::times::{self, Marks};

/// A line may make a file so much longer than its limit before it is cut by a rotation.
const LINE_OVERSHOOT_BYTES_MAX: u64 = 1 << 20;
/// Slices of one writev.
const SLICES_MAX: usize = 256;

/// What is special about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text with a time index; what was lost is said in a plain line.
    Text,
    /// JSON lines of which a torn one is never continued; what was lost is said in an entry.
    Json,
}

/// Bytes that could not be written.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl Loss {
    /// For the drop counters and the line in the file.
    pub(super) fn reason(&self) -> String {
        if is_full(&self.error) { "disk full".to_owned() } else { format!("cannot write: {}", self.error) }
    }
}

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    form: Form,
    max_size_bytes: u64,
    keep: u32,
    open: Option<Box<Open>>,
    /// Lines lost since the last successful write, and why.
    gap: Option<(u64, String)>,
    mid_line: bool,
    /// Nothing of our own is left to give up for space.
    bare: bool,
    /// Files beyond `keep` may lie about from other settings.
    surplus: bool,
    pub(super) last_used: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    marks: Option<Marks>,
}

impl LogFile {
    /// Opens nothing yet. `keep` counts the file being written: at most `keep * max_size_bytes` are on disk.
    pub(super) fn new(path: PathBuf, form: Form, max_size_bytes: u64, keep: u32) -> Self {
        let (max_size_bytes, keep) = (max_size_bytes.max(1), keep.max(1));
        let (open, gap, mid_line, bare, surplus, last_used) = (None, None, false, false, true, 0);
        Self { path, form, max_size_bytes, keep, open, gap, mid_line, bare, surplus, last_used }
    }

    pub(super) fn set_limits(&mut self, max_size_bytes: u64, keep: u32) {
        self.surplus |= keep < self.keep;
        (self.max_size_bytes, self.keep) = (max_size_bytes.max(1), keep.max(1));
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Lines lost before they came here; said in the file with the next write.
    pub(super) fn note_gap(&mut self, lines: u64, reason: &str) {
        let before = self.gap.take().map_or(0, |(lines, _)| lines);
        self.gap = Some((before + lines, reason.to_owned()));
    }

    /// Inode and size of the file being written: where the past ends. (0, 0) when there is none.
    pub(super) fn end(&self) -> (u64, u64) {
        self.path.metadata().map_or((0, 0), |metadata| (metadata.ino(), metadata.len()))
    }

    /// Writes all of `chunks`; what could not be written is counted in the answer and in the next successful write.
    pub(super) fn append(&mut self, chunks: &[&[u8]], now_ms: u64) -> Option<Loss> {
        let mut rest = Rest { chunks, offset: 0 };
        let error = self.write(&mut rest, now_ms).err()?;
        let lines = rest.lines();
        let loss = Loss { lines, error };
        self.note_gap(lines, &loss.reason());
        Some(loss)
    }

    fn write(&mut self, rest: &mut Rest<'_>, now_ms: u64) -> io::Result<()> {
        while !rest.is_empty() {
            self.reopen_if_gone(now_ms)?;
            self.say_gap(now_ms)?;
            let room = self.max_size_bytes.saturating_sub(self.size());
            let bytes = if rest.len() <= room { rest.len() } else { self.fitting(rest, room) };
            if bytes > 0 {
                self.write_some(rest, bytes, now_ms)?;
            }
            if !rest.is_empty() {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// How much of `rest`, which is too much, goes into this file: up to its last newline that fits; when none fits, nothing, except
    /// that a line which has begun here, or is longer than a file, is finished here.
    fn fitting(&self, rest: &Rest<'_>, room: u64) -> u64 {
        if let Some(newline) = rest.last_newline_before(room) {
            return newline + 1;
        }
        if self.size() >= self.max_size_bytes.saturating_add(LINE_OVERSHOOT_BYTES_MAX) {
            return 0;
        }
        if self.size() == 0 || self.mid_line {
            return rest.first_newline().map_or(rest.len(), |newline| newline + 1);
        }
        0
    }

    fn size(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.size)
    }

    fn reopen_if_gone(&mut self, now_ms: u64) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            let metadata = open.file.metadata()?;
            open.size = metadata.len();
            if metadata.nlink() > 0 {
                return Ok(());
            }
            self.open = None;
        }
        self.open_file(now_ms)
    }

    fn open_file(&mut self, now_ms: u64) -> io::Result<()> {
        if self.surplus {
            self.remove_surplus();
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", self.path.display())));
        }
        let (inode, size) = (metadata.ino(), metadata.len());
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        self.mid_line = last != [b'\n'];
        if self.form == Form::Json && self.mid_line {
            (&file).write_all(b"\n")?;
            self.mid_line = false;
        }
        let marks = match (self.form, self.path.parent()) {
            (Form::Text, Some(log_dir)) => Marks::open(&times::directory(log_dir), inode, size, now_ms).ok(),
            (Form::Text | Form::Json, _) => None,
        };
        self.open = Some(Box::new(Open { file, size, marks }));
        Ok(())
    }

    fn say_gap(&mut self, now_ms: u64) -> io::Result<()> {
        let Some((lines, reason)) = &self.gap else { return Ok(()) };
        let newline = if self.mid_line { "\n" } else { "" };
        let text = match self.form {
            Form::Text => format!("{newline}mainstay: {lines} lines dropped ({reason})\n"),
            Form::Json => format!(
                "{newline}{}\n",
                serde_json::json!({"at": super::rfc3339::format(now_ms), "type": "journal_gap", "level": "warn",
                    "lines": lines, "text": format!("journal: {lines} entries lost ({reason})")})
            ),
        };
        // Whole or not at all: half a sentence would be repeated.
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.file.write_all(text.as_bytes()) {
            open.file.set_len(open.size)?;
            if !(is_full(&error) && self.make_room()) {
                return Err(error);
            }
            return self.say_gap(now_ms);
        }
        open.size += text.len() as u64;
        self.mid_line = false;
        self.gap = None;
        Ok(())
    }

    fn write_some(&mut self, rest: &mut Rest<'_>, bytes: u64, now_ms: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotConnected.into()) };
            if let Some(marks) = &mut open.marks {
                // Without a mark the lines merely seem older than they are.
                let _ = marks.note(open.size, now_ms);
            }
            let written = match (&open.file).write_vectored(&rest.window(left)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_full(&error) && self.make_room() => continue,
                Err(error) => return Err(error),
            };
            open.size += written;
            left -= written;
            if let Some(last) = rest.advance(written) {
                self.mid_line = last != b'\n';
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let gone = rotate::shift(&self.path, self.keep)?;
        self.open = None;
        self.bare = false;
        self.forget_marks(gone.map(|metadata| metadata.ino()));
        let mid_line = self.mid_line;
        self.open_file(super::rfc3339::now_unix_ms())?;
        self.mid_line = mid_line && self.form == Form::Text;
        Ok(())
    }

    /// Gives up the oldest finished file; `false`: there is none.
    fn make_room(&mut self) -> bool {
        if self.bare {
            return false;
        }
        let oldest = rotate::finished(&self.path).ok().and_then(|mut files| files.pop());
        let removed = oldest.is_some_and(|(_, path)| self.remove(&path));
        self.bare = !removed;
        removed
    }

    fn remove_surplus(&mut self) {
        self.surplus = false;
        for (number, path) in rotate::finished(&self.path).unwrap_or_default() {
            if number >= self.keep {
                self.remove(&path);
            }
        }
    }

    fn remove(&self, path: &Path) -> bool {
        let inode = path.symlink_metadata().ok().map(|metadata| metadata.ino());
        let removed = std::fs::remove_file(path).is_ok();
        self.forget_marks(inode);
        removed
    }

    fn forget_marks(&self, inode: Option<u64>) {
        if let (Form::Text, Some(inode), Some(log_dir)) = (self.form, inode, self.path.parent()) {
            times::remove(&times::directory(log_dir), inode);
        }
    }
}

/// Whether more space would help.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// What is not written yet of some chunks.
struct Rest<'a> {
    chunks: &'a [&'a [u8]],
    /// In the first of them.
    offset: usize,
}

impl<'a> Rest<'a> {
    fn parts(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        let offset = self.offset;
        self.chunks.iter().enumerate().map(move |(at, chunk)| if at == 0 { &chunk[offset..] } else { *chunk })
    }

    fn len(&self) -> u64 {
        self.parts().map(|part| part.len() as u64).sum()
    }

    fn is_empty(&self) -> bool {
        self.parts().all(<[u8]>::is_empty)
    }

    /// Lines in what is left; at least one unless nothing is.
    fn lines(&self) -> u64 {
        let newlines: usize = self.parts().map(super::count_lines).sum();
        (newlines as u64).max(u64::from(!self.is_empty()))
    }

    fn window(&self, bytes: u64) -> Vec<IoSlice<'a>> {
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut slices = Vec::new();
        for part in self.parts().take(SLICES_MAX) {
            let taken = &part[..part.len().min(left)];
            left -= taken.len();
            slices.push(IoSlice::new(taken));
            if left == 0 {
                break;
            }
        }
        slices
    }

    /// Returns the last of the bytes passed.
    fn advance(&mut self, bytes: u64) -> Option<u8> {
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut last = None;
        while left > 0 {
            let (first, others) = self.chunks.split_first()?;
            let step = left.min(first.len() - self.offset);
            if step > 0 {
                last = first.get(self.offset + step - 1).copied();
            }
            self.offset += step;
            left -= step;
            if self.offset == first.len() {
                (self.chunks, self.offset) = (others, 0);
            }
        }
        last
    }

    fn last_newline_before(&self, limit: u64) -> Option<u64> {
        let (mut before, mut found) = (0, None);
        for part in self.parts() {
            let within = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX).min(part.len());
            if let Some(at) = part[..within].iter().rposition(|byte| *byte == b'\n') {
                found = Some(before + at as u64);
            }
            before += part.len() as u64;
            if before >= limit {
                break;
            }
        }
        found
    }

    fn first_newline(&self) -> Option<u64> {
        let mut before = 0;
        for part in self.parts() {
            if let Some(at) = part.iter().position(|byte| *byte == b'\n') {
                return Some(before + at as u64);
            }
            before += part.len() as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::testing::Scratch;
    use std::fs;

    fn all(base: &Path) -> Vec<String> {
        let mut files: Vec<String> =
            rotate::finished(base).unwrap().iter().rev().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
        files.push(fs::read_to_string(base).unwrap());
        files
    }

    #[test]
    fn files_rotate_between_lines_however_the_bytes_arrive() {
        for cut in 1..40 {
            let scratch = Scratch::new("rotate");
            let base = scratch.path.join("a.0.log");
            let mut file = LogFile::new(base.clone(), Form::Text, 25, 1_000);
            let text: String = (0..50).map(|line| format!("line {line}\n")).collect();
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            for group in chunks.chunks(3) {
                assert!(file.append(group, 0).is_none());
            }
            let files = all(&base);
            assert_eq!(files.concat(), text);
            assert!(files.iter().all(|file| file.ends_with('\n')), "{files:?}");
            assert!(files.len() > 15 && files.iter().all(|file| file.len() < 25 + 8 + 40), "{files:?}");
        }
    }

    #[test]
    fn a_line_longer_than_a_file_stays_whole_and_an_endless_one_is_cut() {
        let scratch = Scratch::new("long");
        let base = scratch.path.join("a.0.log");
        let mut file = LogFile::new(base.clone(), Form::Text, 10, 100);
        file.append(&[b"0123456789abcdef\nnext\n"], 0);
        assert_eq!(all(&base), vec!["0123456789abcdef\n", "next\n"]);
        let endless = vec![b'x'; 1 << 16];
        for _ in 0..64 {
            assert!(file.append(&[&endless], 0).is_none());
        }
        let files = all(&base);
        assert_eq!(files.concat().len(), 22 + (64 << 16));
        assert!(files.iter().all(|file| file.len() as u64 <= 10 + LINE_OVERSHOOT_BYTES_MAX + (1 << 16)));
    }

    #[test]
    fn a_file_removed_underneath_is_written_anew() {
        let scratch = Scratch::new("removed");
        let base = scratch.path.join("a.0.log");
        let mut file = LogFile::new(base.clone(), Form::Text, 1_000, 3);
        file.append(&[b"before\n"], 0);
        fs::remove_file(&base).unwrap();
        file.append(&[b"after\n"], 0);
        assert_eq!(fs::read_to_string(&base).unwrap(), "after\n");
    }

    #[test]
    fn losses_are_said_on_a_line_of_their_own() {
        let scratch = Scratch::new("gap");
        let base = scratch.path.join("a.0.log");
        let mut file = LogFile::new(base.clone(), Form::Text, 1_000, 3);
        file.append(&[b"half"], 0);
        file.note_gap(3, "slow disk");
        file.note_gap(4, "disk full");
        file.append(&[b"next\n"], 0);
        assert_eq!(fs::read_to_string(&base).unwrap(), "half\nmainstay: 7 lines dropped (disk full)\nnext\n");
        assert!(!file.has_gap());
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let scratch = Scratch::new("denied");
        fs::create_dir(scratch.path.join("a.0.log")).unwrap();
        let mut file = LogFile::new(scratch.path.join("a.0.log"), Form::Text, 1_000, 3);
        let loss = file.append(&[b"one\ntwo\n", b"three"], 0).unwrap();
        assert_eq!(loss.lines, 2);
        fs::remove_dir(scratch.path.join("a.0.log")).unwrap();
        assert!(file.append(&[b"four\n"], 0).is_none());
        let text = fs::read_to_string(scratch.path.join("a.0.log")).unwrap();
        assert!(text.starts_with("mainstay: 2 lines dropped (cannot write: "), "{text}");
        assert!(text.ends_with("\nfour\n"), "{text}");
    }

    #[test]
    fn fewer_files_are_kept_after_the_limit_fell() {
        let scratch = Scratch::new("fewer");
        let base = scratch.path.join("a.0.log");
        let mut file = LogFile::new(base.clone(), Form::Text, 4, 10);
        for _ in 0..8 {
            file.append(&[b"abc\n"], 0);
        }
        assert_eq!(all(&base).len(), 8);
        file.set_limits(4, 2);
        file.append(&[b"abc\n"], 0);
        assert_eq!(all(&base).len(), 2);
        assert_eq!(fs::read_dir(scratch.path.join(".times")).unwrap().count(), 2);
    }
}
