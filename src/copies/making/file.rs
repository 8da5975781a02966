//! The content of one file: copied, patched, hashed. Everything reads a file once, front to back, holes left out, and hashes it on the way.
//!
//! Errors name the offset; whoever calls knows the path. What changes while it is read is told, and the caller tries again.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

pub use super::dress::{NotKept, dress, dress_open};
use crate::copies::format::entry::{HOLES_MAX, Hash, LARGE_BYTES, block_bytes};
use crate::copies::format::hash::FileHasher;
use crate::sys::clock;
use crate::sys::clone;
use crate::sys::dir::{FileType, Stat};
use crate::sys::page_cache::{self, Cached, STRETCH_BYTES};
use crate::sys::scratch::Scratch;
use crate::sys::stat;

/// Of a hole at once: a multiple of the buffer, and some hundredths of a second of hashing.
const HOLE_STEP_BYTES: u64 = 64 << 20;

/// Read and written in one go: fits in the cache of a core, so that the hash finds it there.
const BUFFER_BYTES: usize = 256 << 10;
/// What a patch writes at least.
const PAGE_BYTES: usize = 4096;
/// So much of a large file that is written may wait to be written back, twice.
const UNWRITTEN_BYTES: u64 = 8 << 20;
/// Times of files move in steps of the kernel's clock tick, 10 ms at most. A file that was changed within the current one could change again without
/// its times telling.
const TICK: Duration = Duration::from_millis(20);

/// What every pass needs.
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct Means<'a> {
    /// Of [`buffer`]; the same for many files.
    pub buffer: &'a mut Scratch,
    /// Called with the number of bytes after each read; may wait, and stops the pass with an error.
    pub pace: &'a mut dyn FnMut(u64) -> io::Result<()>,
}

pub fn buffer() -> io::Result<Scratch> {
    const { assert!(BUFFER_BYTES > 0) };
    Scratch::new(NonZeroUsize::MIN.saturating_add(BUFFER_BYTES - 1))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// What the copy has: what the source had at first, or less if it became shorter.
    pub size: u64,
    pub hash: Hash,
    pub holes: Vec<(u64, u64)>,
    /// Where the size is large and did not change.
    pub blocks: Option<Vec<Hash>>,
    pub written: u64,
    pub changed: Change,
    /// The source, after it was read.
    pub source: Stat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Still,
    /// Something was appended; what was copied is as it was at first, which was checked.
    Growing,
    /// The copy may be of no moment at all.
    Changed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub size: u64,
    pub hash: Hash,
    pub blocks: Option<Vec<Hash>>,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot look at it")]
    Stat(#[source] io::Error),
    #[error("it is no file any more")]
    NotAFile,
    #[error("cannot read at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the copy at byte {offset}")]
    Write {
        offset: u64,
        #[source]
        source: io::Error,
    },
    /// By `pace`.
    #[error("stopped")]
    Stopped(#[source] io::Error),
}

/// Copies into a file that is empty. What is written is not made to last, but for a large file most of it is written back.
pub fn copy(source: &File, into: &File, means: &mut Means<'_>) -> Result<Copied, FileError> {
    let before = settled(source)?;
    let mut pass = Pass::new(source, &before);
    let mut sink = Sink::new(into, before.size >= LARGE_BYTES);
    if before.size >= LARGE_BYTES && clone::next_hole(source, 0).ok().flatten() == Some(before.size) {
        // Finds out early that there is no room; where this is not known, writing does.
        match clone::reserve(into, before.size) {
            Err(source) if source.kind() == io::ErrorKind::StorageFull => {
                return Err(FileError::Write { offset: 0, source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    while let Some(piece) = pass.next(means)? {
        if let Piece::Data { offset, length } = piece {
            sink.write(offset, &means.buffer[..length])?;
        }
    }
    if sink.end != pass.offset || pass.offset != before.size {
        into.set_len(pass.offset).map_err(|source| FileError::Write { offset: sink.end, source })?;
    }
    let written = sink.written;
    pass.finish(&before, written, means)
}

/// Copies over a clone of the version before, so that only pages that differ take room. `None`: the target shares no pages, [`copy`] is to be used.
///
/// The clone has whatever was wrong with the version before, so the whole new file must be read again and compared with the hash. The blocks are those of the version
/// before, and `into` is empty.
pub fn patch(
    source: &File,
    previous: &File,
    previous_blocks: &[Hash],
    into: &File,
    means: &mut Means<'_>,
) -> Result<Option<Copied>, FileError> {
    let before = settled(source)?;
    let old_size = previous.metadata().map_err(FileError::Stat)?.len();
    match clone::clone_file(previous, into) {
        Err(error) if clone::is_unsupported(&error) => return Ok(None),
        cloned => cloned.map_err(|source| FileError::Write { offset: 0, source })?,
    }
    let mut pass = Pass::new(source, &before);
    let mut patcher = Patcher {
        into,
        blocks: if block_bytes(old_size) == block_bytes(before.size) { previous_blocks } else { &[] },
        block_bytes: block_bytes(before.size),
        old: vec![0; BUFFER_BYTES],
        unchanged: Vec::new(),
        written: 0,
    };
    let write = |offset| move |source| FileError::Write { offset, source };
    if before.size < old_size {
        into.set_len(before.size).map_err(write(before.size))?;
    }
    while let Some(piece) = pass.next_with(means, |index, hash| patcher.compare(index, hash))? {
        match piece {
            Piece::Data { offset, length } => patcher.write(offset, &means.buffer[..length])?,
            Piece::Hole { offset, length } => {
                let within = length.min(old_size.saturating_sub(offset));
                if within > 0 {
                    clone::punch_hole(into, offset, within).map_err(write(offset))?;
                }
            }
        }
        patcher.unchanged.clear();
    }
    into.set_len(pass.offset).map_err(write(pass.offset))?;
    let written = patcher.written;
    pass.finish(&before, written, means).map(Some)
}

/// Reads all of it, through the cache: whoever wants to know what is on the disk drops it before (`page_cache::drop_cache`).
pub fn hash(file: &File, means: &mut Means<'_>) -> Result<Hashed, FileError> {
    let stat = stat::of(file.as_fd()).map_err(FileError::Stat)?;
    let mut pass = Pass::new(file, &stat);
    while pass.next(means)?.is_some() {}
    let size = pass.offset;
    let (hash, blocks) = pass.hasher.finish();
    Ok(Hashed { size, hash, blocks: blocks.filter(|_| size == stat.size) })
}

/// The stat that a copy is compared with. Waits until the clock of the file system has moved on since the last change.
fn settled(source: &File) -> Result<Stat, FileError> {
    let look = || stat::of(source.as_fd()).map_err(FileError::Stat);
    let stat = look()?;
    if stat.kind() != FileType::File {
        return Err(FileError::NotAFile);
    }
    let now = Duration::from_nanos(clock::clocks().wall_ns);
    let changed = Duration::new(u64::try_from(stat.ctime.s).unwrap_or(0), stat.ctime.ns);
    match now.checked_sub(changed).and_then(|age| TICK.checked_sub(age)) {
        Some(wait) => {
            std::thread::sleep(wait);
            look()
        }
        None => Ok(stat),
    }
}

/// One reading of a file from its beginning to the size that it had at first.
struct Pass<'a> {
    source: &'a File,
    size: u64,
    offset: u64,
    hasher: FileHasher,
    holes: Vec<(u64, u64)>,
    /// Until where `offset` is known to be in data.
    data_end: u64,
    /// Of a large file; what services had in the cache stays there.
    cached: Option<Cached>,
}

enum Piece {
    /// In the buffer.
    Data {
        offset: u64,
        length: usize,
    },
    Hole {
        offset: u64,
        length: u64,
    },
}

impl<'a> Pass<'a> {
    fn new(source: &'a File, stat: &Stat) -> Self {
        let size = stat.size;
        // Without knowing, nothing is dropped.
        let cached = if size >= LARGE_BYTES { Cached::of(source, size).ok() } else { None };
        // Room that XFS sets aside hides the holes of a file that was written lately, so a large one is always asked.
        let may_have_holes = size >= LARGE_BYTES || stat.blocks.saturating_mul(512) < size;
        let data_end = if may_have_holes { 0 } else { size };
        Self { source, size, offset: 0, hasher: FileHasher::new(size), holes: Vec::new(), data_end, cached }
    }

    fn next(&mut self, means: &mut Means<'_>) -> Result<Option<Piece>, FileError> {
        self.next_with(means, |_, _| {})
    }

    /// `None` at the end, or where the file ends now. `each` gets the hash of every block of a large file that is full.
    fn next_with(&mut self, means: &mut Means<'_>, each: impl FnMut(usize, &Hash)) -> Result<Option<Piece>, FileError> {
        let offset = self.offset;
        if offset >= self.size {
            return Ok(None);
        }
        if let Some(length) = self.hole()? {
            // In pieces, between which the job may be stopped: a hole costs whoever makes it nothing, and may be of any size.
            let length = length.min(HOLE_STEP_BYTES);
            (means.pace)(0).map_err(FileError::Stopped)?;
            self.hasher.update_zeros(length);
            let known = self.holes.len();
            match self.holes.last_mut() {
                Some((from, before)) if *from + *before == offset => *before += length,
                Some(_) | None if known < HOLES_MAX => self.holes.push((offset, length)),
                Some(_) | None => {}
            }
            self.offset += length;
            return Ok(Some(Piece::Hole { offset, length }));
        }
        // Up to a multiple of the buffer, so that blocks and stretches of the cache end with it.
        let room = BUFFER_BYTES as u64 - offset % BUFFER_BYTES as u64;
        let wanted = usize::try_from(room.min(self.data_end - offset)).unwrap_or(BUFFER_BYTES);
        let length = self.read(&mut means.buffer[..wanted])?;
        self.hasher.update_each(&means.buffer[..length], each);
        self.offset += length as u64;
        if length < wanted {
            // It ends here now.
            self.size = self.offset;
        }
        (means.pace)(length as u64).map_err(FileError::Stopped)?;
        self.leave_cache_as_it_was();
        Ok((length > 0).then_some(Piece::Data { offset, length }))
    }

    /// The length of the hole at the offset; else `data_end` lies behind the offset.
    fn hole(&mut self) -> Result<Option<u64>, FileError> {
        let offset = self.offset;
        if offset < self.data_end {
            return Ok(None);
        }
        let fail = |source| FileError::Read { offset, source };
        let data = match clone::next_data(self.source, offset) {
            // A file system that knows of no holes.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Some(offset),
            data => data.map_err(fail)?,
        };
        let data = data.unwrap_or(self.size).min(self.size);
        if data > offset {
            return Ok(Some(data - offset));
        }
        let hole = clone::next_hole(self.source, offset).ok().flatten().unwrap_or(self.size);
        self.data_end = if hole > offset { hole.min(self.size) } else { self.size };
        Ok(None)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, FileError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let offset = self.offset + filled as u64;
            match self.source.read_at(&mut buffer[filled..], offset) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FileError::Read { offset, source }),
            }
        }
        Ok(filled)
    }

    fn leave_cache_as_it_was(&self) {
        let Some(cached) = &self.cached else { return };
        let is_whole = self.offset.is_multiple_of(STRETCH_BYTES);
        if !is_whole && self.offset < self.size {
            return;
        }
        let stretch = self.offset.saturating_sub(1) / STRETCH_BYTES * STRETCH_BYTES;
        if !cached.had(stretch) {
            // Advice: where it is not taken, nothing is lost.
            let _ = page_cache::drop_cache(self.source, stretch, STRETCH_BYTES);
        }
    }

    fn finish(self, before: &Stat, written: u64, means: &mut Means<'_>) -> Result<Copied, FileError> {
        let after = stat::of(self.source.as_fd()).map_err(FileError::Stat)?;
        let (source, size) = (self.source, self.offset);
        let (hash, blocks) = self.hasher.finish();
        let is_still = (after.size, after.mtime, after.ctime) == (before.size, before.mtime, before.ctime);
        let changed = if size != before.size {
            Change::Changed
        } else if is_still {
            Change::Still
        } else if after.size > size && hash_of_beginning(source, &after, size, means)? == Some(hash) {
            Change::Growing
        } else {
            Change::Changed
        };
        let blocks = blocks.filter(|_| size == before.size);
        Ok(Copied { size, hash, holes: self.holes, blocks, written, changed, source: after })
    }
}

/// What was appended to has still the beginning that was copied; `None` where it is shorter now.
fn hash_of_beginning(source: &File, stat: &Stat, size: u64, means: &mut Means<'_>) -> Result<Option<Hash>, FileError> {
    let mut pass = Pass::new(source, &Stat { size, ..*stat });
    while pass.next(means)?.is_some() {}
    Ok((pass.offset == size).then(|| pass.hasher.finish().0))
}

/// Writes what was read where it was read.
struct Sink<'a> {
    into: &'a File,
    is_large: bool,
    end: u64,
    written: u64,
    /// Until here it is being written back; what lies [`UNWRITTEN_BYTES`] before it is.
    written_back: u64,
}

impl<'a> Sink<'a> {
    fn new(into: &'a File, is_large: bool) -> Self {
        Self { into, is_large, end: 0, written: 0, written_back: 0 }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.into.write_all_at(bytes, offset).map_err(|source| FileError::Write { offset, source })?;
        self.written += bytes.len() as u64;
        self.end = offset + bytes.len() as u64;
        while self.is_large && self.end - self.written_back >= UNWRITTEN_BYTES {
            self.write_back()?;
        }
        Ok(())
    }

    /// A large file is not to fill the memory with what is to be written: that would wait for one long flush at the end, and push others out.
    fn write_back(&mut self) -> Result<(), FileError> {
        let from = self.written_back;
        let fail = |source| FileError::Write { offset: from, source };
        page_cache::write_back(self.into, from, UNWRITTEN_BYTES).map_err(fail)?;
        if let Some(done) = from.checked_sub(UNWRITTEN_BYTES) {
            page_cache::write_back_and_drop(self.into, done, UNWRITTEN_BYTES).map_err(fail)?;
        }
        self.written_back += UNWRITTEN_BYTES;
        Ok(())
    }
}

/// Writes the pages that are not already there.
struct Patcher<'a> {
    into: &'a File,
    /// Of the version before; empty where they cannot be compared.
    blocks: &'a [Hash],
    block_bytes: u64,
    old: Vec<u8>,
    /// Blocks that were filled by the last piece and are like before.
    unchanged: Vec<u64>,
    written: u64,
}

impl Patcher<'_> {
    fn compare(&mut self, index: usize, hash: &Hash) {
        if self.blocks.get(index) == Some(hash) {
            self.unchanged.push(index as u64);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            // A block that is larger than the buffer is looked at in its pieces.
            let block = at / self.block_bytes;
            let stop = end.min((block + 1) * self.block_bytes);
            let is_whole = at == block * self.block_bytes && stop == (block + 1) * self.block_bytes;
            if !(is_whole && self.unchanged.contains(&block)) {
                let piece = |offset: u64, from: u64| usize::try_from(offset - from).unwrap_or(BUFFER_BYTES);
                self.write_pages(at, &bytes[piece(at, offset)..piece(stop, offset)])?;
            }
            at = stop;
        }
        Ok(())
    }

    fn write_pages(&mut self, offset: u64, new: &[u8]) -> Result<(), FileError> {
        let mut there = 0;
        while there < new.len() {
            let at = offset + there as u64;
            match self.into.read_at(&mut self.old[there..new.len()], at) {
                Ok(0) => break,
                Ok(count) => there += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Of the version before; what cannot be read is written anew.
                Err(_) => break,
            }
        }
        let mut pages = new.chunks(PAGE_BYTES).enumerate().map(|(index, page)| {
            let from = index * PAGE_BYTES;
            let to = from + page.len();
            (from, to, to <= there && self.old[from..to] == *page)
        });
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (from, to, _) in pages.by_ref().filter(|(_, _, is_equal)| !is_equal) {
            match runs.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                Some(_) | None => runs.push((from, to)),
            }
        }
        for (from, to) in runs {
            let at = offset + from as u64;
            self.into.write_all_at(&new[from..to], at).map_err(|source| FileError::Write { offset: at, source })?;
            self.written += (to - from) as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
