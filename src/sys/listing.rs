//! The names in a directory, packed: a million of them are to fit in a small process.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::libc;

use super::stat::FileType;

/// In one go from the kernel.
const BUFFER_BYTES: usize = 32 << 10;
/// `struct linux_dirent64`: inode, position, length of the record, type, then the name.
const RECORD_LENGTH_AT: usize = 16;
const TYPE_AT: usize = 18;
const NAME_AT: usize = 19;
/// Of a packed name: inode and type before it, and its length.
const HEAD_BYTES: usize = 10;
/// What 32-bit positions can tell apart.
const PACKED_BYTES_MAX: usize = u32::MAX as usize;

/// All names of one directory, by their bytes, without `.` and `..`.
#[derive(Debug, Default)]
pub struct Listing {
    /// Inode (8 bytes), type, length, name.
    packed: Vec<u8>,
    starts: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    pub name: &'a OsStr,
    pub kind: FileType,
    pub ino: u64,
}

impl Listing {
    /// From the descriptor's position to the end.
    pub(super) fn read(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        let mut listing = Self::default();
        loop {
            let filled = getdents(directory, &mut buffer)?;
            if filled == 0 {
                break;
            }
            listing.take(&buffer[..filled])?;
        }
        let Self { packed, starts } = &mut listing;
        starts.sort_unstable_by(|a, b| name_at(packed, *a).cmp(name_at(packed, *b)));
        // A directory that changes while it is read may tell a name twice.
        starts.dedup_by(|a, b| name_at(packed, *a) == name_at(packed, *b));
        Ok(listing)
    }

    /// As many as the kernel gives in one go.
    pub(super) fn glance(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        let filled = getdents(directory, &mut buffer)?;
        let mut listing = Self::default();
        listing.take(&buffer[..filled])?;
        Ok(listing)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// By its place in the order.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Listed<'_>> {
        self.starts.get(index).map(|start| self.listed(*start))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Listed<'_>> {
        self.starts.iter().map(|start| self.listed(*start))
    }

    fn listed(&self, start: u32) -> Listed<'_> {
        let at = start as usize;
        let ino = self.packed[at..at + 8].iter().rev().fold(0, |ino, byte| ino << 8 | u64::from(*byte));
        Listed { name: OsStr::from_bytes(name_at(&self.packed, start)), kind: file_type(self.packed[at + 8]), ino }
    }

    fn take(&mut self, mut records: &[u8]) -> io::Result<()> {
        while let Some((ino, kind, name, rest)) = next_record(records) {
            records = rest;
            if name == b"." || name == b".." {
                continue;
            }
            if self.packed.len() > PACKED_BYTES_MAX - HEAD_BYTES - usize::from(u8::MAX) {
                return Err(Errno::EFBIG.into());
            }
            let start = u32::try_from(self.packed.len()).map_err(|_| Errno::EFBIG)?;
            let length = u8::try_from(name.len()).map_err(|_| Errno::ENAMETOOLONG)?;
            self.packed.extend_from_slice(&ino.to_le_bytes());
            self.packed.extend_from_slice(&[kind, length]);
            self.packed.extend_from_slice(name);
            self.starts.push(start);
        }
        Ok(())
    }
}

fn name_at(packed: &[u8], start: u32) -> &[u8] {
    let at = start as usize + HEAD_BYTES;
    &packed[at..at + usize::from(packed[at - 1])]
}

/// Inode, type and name of the first record, and what follows it.
fn next_record(records: &[u8]) -> Option<(u64, u8, &[u8], &[u8])> {
    let ino = u64::from_ne_bytes(records.get(..8)?.try_into().ok()?);
    let length = u16::from_ne_bytes(records.get(RECORD_LENGTH_AT..TYPE_AT)?.try_into().ok()?);
    let record = records.get(..usize::from(length))?;
    let name = record.get(NAME_AT..)?;
    let name = &name[..name.iter().position(|byte| *byte == 0)?];
    Some((ino, record[TYPE_AT], name, &records[record.len()..]))
}

fn file_type(kind: u8) -> FileType {
    match kind {
        libc::DT_REG => FileType::File,
        libc::DT_DIR => FileType::Dir,
        libc::DT_LNK => FileType::Link,
        libc::DT_FIFO => FileType::Fifo,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::Char,
        libc::DT_BLK => FileType::Block,
        _ => FileType::Unknown,
    }
}

#[expect(unsafe_code, reason = "getdents64 has no wrapper")]
fn getdents(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: a descriptor that is open, and pointer and length of `buffer`.
    let filled = unsafe { libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), start, length) };
    Ok(usize::try_from(Errno::result(filled)?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sys::dir::Dir;
    use crate::sys::testing::TempDir;

    #[test]
    fn thousand_names_of_any_bytes_come_in_order() {
        let directory = TempDir::new();
        let mut names: Vec<Vec<u8>> = (0..1000).map(|n| format!("file-{n}-{}", "x".repeat(n % 200)).into()).collect();
        names.extend([b"\xff\xfe".to_vec(), b"new\nline".to_vec(), vec![b'l'; 255], b" ".to_vec(), b"...".to_vec()]);
        for name in &names {
            fs::write(directory.path().join(OsStr::from_bytes(name)), "").unwrap();
        }
        names.sort();
        let listing = Dir::open(directory.path()).unwrap().listing().unwrap();
        assert_eq!(listing.len(), names.len());
        for (listed, name) in listing.iter().zip(&names) {
            assert_eq!((listed.name.as_bytes(), listed.kind), (name.as_slice(), FileType::File));
        }
        let first = listing.get(0).unwrap();
        assert_eq!(first.ino, fs::metadata(directory.path().join(first.name)).unwrap().ino());
        assert!(listing.get(names.len()).is_none());
    }

    #[test]
    fn empty_directory_has_nothing() {
        let directory = TempDir::new();
        assert!(Dir::open(directory.path()).unwrap().listing().unwrap().is_empty());
    }
}
