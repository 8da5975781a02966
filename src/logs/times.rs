//! When which byte of a log file was read: marks beside the file, at most one a second, so that the lines stay as the service wrote
//! them and `logs --since` still works after a restart.
//!
//! `{log_dir}/.times/{inode of the file, hexadecimal}`: a header of 16 bytes (magic, base in unix ms), then records of 8 bytes (offset in
//! the file, 10 ms units since the base; u32 little endian each): from this offset on, bytes came at this time or later. Named by inode,
//! the marks need no renaming when their file rotates. They are a help, not a record: when they cannot be written, lines merely
//! seem older than they are, by what passed since the last mark.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"mstimes1";
const HEADER_BYTES: u64 = 16;
const RECORD_BYTES: u64 = 8;
const UNIT_MS: u64 = 10;
/// A mark stands for the bytes of so many milliseconds.
pub(super) const MARK_EVERY_MS: u64 = 1_000;
const READ_BUFFER_BYTES: usize = 1 << 10;

pub(super) fn directory(log_dir: &Path) -> PathBuf {
    log_dir.join(".times")
}

fn path(times_dir: &Path, inode: u64) -> PathBuf {
    times_dir.join(format!("{inode:x}"))
}

/// The marks of the file being written.
#[derive(Debug)]
pub(super) struct Marks {
    file: File,
    len: u64,
    base_ms: u64,
    last_ms: Option<u64>,
}

impl Marks {
    /// Continues the marks of this file, or begins them when there are none, when they are damaged, or when the file is empty.
    pub(super) fn open(times_dir: &Path, inode: u64, file_size: u64, now_ms: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o640);
        let path = path(times_dir, inode);
        let mut file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(times_dir)?;
                options.open(&path)?
            }
            other => other?,
        };
        let len = file.metadata()?.len();
        let base_ms = if file_size > 0 { read_header(&mut file) } else { None };
        let (len, base_ms) = match base_ms {
            Some(base_ms) => (len - (len - HEADER_BYTES) % RECORD_BYTES, base_ms),
            None => {
                file.set_len(0)?;
                file.rewind()?;
                let base_ms = now_ms - now_ms % UNIT_MS;
                file.write_all(&[MAGIC, base_ms.to_le_bytes()].concat())?;
                (HEADER_BYTES, base_ms)
            }
        };
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len))?;
        Ok(Self { file, len, base_ms, last_ms: None })
    }

    /// Bytes from `offset` on are written at `now_ms`. Offsets beyond 4 GiB get no mark.
    pub(super) fn note(&mut self, offset: u64, now_ms: u64) -> io::Result<()> {
        if self.last_ms.is_some_and(|last| now_ms >= last && now_ms - last < MARK_EVERY_MS) {
            return Ok(());
        }
        self.last_ms = Some(now_ms);
        let Ok(offset) = u32::try_from(offset) else { return Ok(()) };
        let units = u32::try_from(now_ms.saturating_sub(self.base_ms) / UNIT_MS).unwrap_or(u32::MAX);
        let mut record = [0; 8];
        record[..4].copy_from_slice(&offset.to_le_bytes());
        record[4..].copy_from_slice(&units.to_le_bytes());
        let written = self.file.write_all(&record);
        if written.is_err() {
            // Half a record would shift every later one.
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            return written;
        }
        self.len += RECORD_BYTES;
        Ok(())
    }
}

fn read_header(file: &mut impl Read) -> Option<u64> {
    let mut header = [0; 16];
    file.read_exact(&mut header).ok()?;
    let base = header.last_chunk::<8>()?;
    header.starts_with(&MAGIC).then(|| u64::from_le_bytes(*base))
}

/// The marks of the file with this inode are not needed any more.
pub(super) fn remove(times_dir: &Path, inode: u64) {
    // Absent when nothing was ever written, and harmless when it stays.
    let _ = fs::remove_file(path(times_dir, inode));
}

/// Removes marks whose file is gone, for instance deleted while nobody watched.
pub(super) fn remove_orphans(log_dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirEntryExt;
    let times_dir = directory(log_dir);
    let mut alive = std::collections::BTreeSet::new();
    for entry in fs::read_dir(log_dir)? {
        alive.insert(entry?.ino());
    }
    for entry in fs::read_dir(&times_dir)? {
        let entry = entry?;
        let inode = entry.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
        if inode.is_some_and(|inode| !alive.contains(&inode)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads the marks of one file in the order of its bytes.
#[derive(Debug)]
pub(super) struct MarkReader {
    records: Option<BufReader<File>>,
    base_ms: u64,
    current_ms: u64,
    next: Option<(u64, u64)>,
}

impl MarkReader {
    /// Without marks every byte has the time `otherwise_ms`.
    pub(super) fn open(times_dir: &Path, inode: u64, otherwise_ms: u64) -> Self {
        let mut reader = Self { records: None, base_ms: 0, current_ms: otherwise_ms, next: None };
        if let Ok(file) = File::open(path(times_dir, inode)) {
            let mut records = BufReader::with_capacity(READ_BUFFER_BYTES, file);
            if let Some(base_ms) = read_header(&mut records) {
                (reader.records, reader.base_ms) = (Some(records), base_ms);
                reader.next = reader.read_next();
                // What lies before the first mark was there when the marks began.
                if let Some((_, first_ms)) = reader.next {
                    reader.current_ms = first_ms;
                }
            }
        }
        reader
    }

    /// When the byte at `offset` was read; offsets must not fall from call to call.
    pub(super) fn at(&mut self, offset: u64) -> u64 {
        while let Some((mark, ms)) = self.next {
            if mark > offset {
                break;
            }
            self.current_ms = ms;
            self.next = self.read_next();
        }
        self.current_ms
    }

    /// Where the bytes begin that may have come at or after `since_ms`; up to [`MARK_EVERY_MS`] too early rather than too late.
    /// `None`: all are older.
    pub(super) fn start_since(mut self, since_ms: u64, file_size: u64) -> Option<u64> {
        if self.next.is_none() {
            return (self.current_ms >= since_ms).then_some(0);
        }
        let mut first = true;
        while let Some((offset, ms)) = self.next {
            if ms + MARK_EVERY_MS > since_ms {
                return Some(if first { 0 } else { offset }).filter(|start| *start < file_size);
            }
            first = false;
            self.next = self.read_next();
        }
        None
    }

    fn read_next(&mut self) -> Option<(u64, u64)> {
        let mut record = [0; 8];
        self.records.as_mut()?.read_exact(&mut record).ok()?;
        let (offset, units) = (record.first_chunk::<4>()?, record.last_chunk::<4>()?);
        let ms = self.base_ms + u64::from(u32::from_le_bytes(*units)) * UNIT_MS;
        Some((u64::from(u32::from_le_bytes(*offset)), ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::testing::Scratch;

    const NOW: u64 = 1_795_334_400_000;

    #[test]
    fn marks_tell_when_a_byte_came_and_where_a_time_begins() {
        let scratch = Scratch::new("marks");
        let mut marks = Marks::open(&scratch.path, 7, 0, NOW).unwrap();
        for second in 0..10 {
            marks.note(second * 100, NOW + second * 1_000).unwrap();
            marks.note(second * 100 + 50, NOW + second * 1_000 + 500).unwrap();
        }
        let mut reader = MarkReader::open(&scratch.path, 7, 0);
        assert_eq!(reader.at(0), NOW);
        assert_eq!(reader.at(99), NOW);
        assert_eq!(reader.at(350), NOW + 3_000);
        assert_eq!(reader.at(10_000), NOW + 9_000);
        let start = |since| MarkReader::open(&scratch.path, 7, 0).start_since(since, 1_000);
        assert_eq!(start(0), Some(0));
        assert_eq!(start(NOW + 5_500), Some(500));
        assert_eq!(start(NOW + 60_000), None);
    }

    #[test]
    fn torn_marks_are_continued_and_damaged_or_stale_ones_begin_anew() {
        let scratch = Scratch::new("torn-marks");
        Marks::open(&scratch.path, 7, 0, NOW).unwrap().note(0, NOW).unwrap();
        let file = OpenOptions::new().append(true).open(path(&scratch.path, 7)).unwrap();
        (&file).write_all(&[1, 2, 3]).unwrap();
        Marks::open(&scratch.path, 7, 80, NOW + 5_000).unwrap().note(80, NOW + 5_000).unwrap();
        let mut reader = MarkReader::open(&scratch.path, 7, 0);
        assert_eq!((reader.at(79), reader.at(80)), (NOW, NOW + 5_000));

        fs::write(path(&scratch.path, 7), "rubbish rubbish rubbish").unwrap();
        Marks::open(&scratch.path, 7, 80, NOW + 9_000).unwrap().note(80, NOW + 9_000).unwrap();
        assert_eq!(MarkReader::open(&scratch.path, 7, 0).at(80), NOW + 9_000);

        Marks::open(&scratch.path, 7, 0, NOW + 20_000).unwrap();
        assert_eq!(MarkReader::open(&scratch.path, 7, 42).at(80), 42);
    }

    #[test]
    fn marks_of_files_that_are_gone_are_removed() {
        use std::os::unix::fs::MetadataExt;
        let scratch = Scratch::new("orphans");
        let log = scratch.path.join("api.0.log");
        fs::write(&log, "x").unwrap();
        let inode = log.metadata().unwrap().ino();
        let times = directory(&scratch.path);
        Marks::open(&times, inode, 1, NOW).unwrap();
        Marks::open(&times, u64::MAX, 1, NOW).unwrap();
        remove_orphans(&scratch.path).unwrap();
        assert!(path(&times, inode).exists());
        assert!(!path(&times, u64::MAX).exists());
    }
}
