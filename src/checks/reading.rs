//! Small files of the kernel: kept open and read again from their beginning, into buffers that are used again.
//!
//! All of them are generated from memory. What might wait for a device is no business of this role.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The longest file of one value, as in /sys; the rest is not looked at.
const VALUE_BYTES_MAX: usize = 4096;
/// The longest table that is read whole: /proc/self/mountinfo with some thousand mounts, /proc/net/dev.
pub(super) const TABLE_BYTES_MAX: usize = 1 << 20;
/// What a table's buffer grows by.
const TABLE_STEP_BYTES: usize = 4096;
/// A file that is not there is looked for again with every so many readings.
const ABSENT_READINGS: u8 = 16;

/// A file that is read again and again. It is opened anew when its device was plugged out and in again.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: Option<File>,
    /// Readings until a missing file is looked for again.
    rest: u8,
}

/// What readings are put into; one for all files of a reader.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn new() -> Self {
        Self(vec![0; VALUE_BYTES_MAX])
    }
}

impl Kept {
    pub(super) fn new(path: PathBuf) -> Self {
        let file = File::open(&path).ok();
        Self { path, file, rest: ABSENT_READINGS }
    }

    pub(super) fn is_there(&self) -> bool {
        self.file.is_some()
    }

    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// The file as far as one reading gives it: all of a value, the beginning of a table.
    pub(super) fn value<'a>(&mut self, buffer: &'a mut Buffer) -> Option<&'a str> {
        let length = self.read_at(&mut buffer.0[..VALUE_BYTES_MAX], 0)?;
        Some(text(&buffer.0[..length]))
    }

    pub(super) fn number(&mut self, buffer: &mut Buffer) -> Option<u64> {
        self.value(buffer)?.trim_ascii().parse().ok()
    }

    /// The whole file, up to [`TABLE_BYTES_MAX`].
    pub(super) fn table<'a>(&mut self, buffer: &'a mut Buffer) -> Option<&'a str> {
        let length = self.read_on(&mut buffer.0, |_| false)?;
        Some(text(&buffer.0[..length]))
    }

    /// The file up to where `enough` has what it looks for, for tables whose generation is cheap and whose copy is long.
    pub(super) fn table_until<'a>(
        &mut self,
        buffer: &'a mut Buffer,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Option<&'a str> {
        let length = self.read_on(&mut buffer.0, enough)?;
        Some(text(&buffer.0[..length]))
    }

    fn read_on(&mut self, bytes: &mut Vec<u8>, enough: impl Fn(&[u8]) -> bool) -> Option<usize> {
        let mut length = 0;
        loop {
            if bytes.len() - length < TABLE_STEP_BYTES {
                bytes.resize(length + TABLE_STEP_BYTES, 0);
            }
            let more = self.read_at(&mut bytes[length..], length)?;
            length += more;
            if more == 0 || length >= TABLE_BYTES_MAX || enough(&bytes[..length]) {
                return Some(length);
            }
        }
    }

    fn read_at(&mut self, bytes: &mut [u8], offset: usize) -> Option<usize> {
        let offset = u64::try_from(offset).ok()?;
        if let Some(file) = &self.file {
            if let Ok(length) = file.read_at(bytes, offset) {
                return Some(length);
            }
            // ENODEV: what it told of is gone. Another of the same name may be there.
            self.file = None;
        } else {
            self.rest = self.rest.saturating_sub(1);
            if self.rest > 0 {
                return None;
            }
        }
        self.rest = ABSENT_READINGS;
        let file = File::open(&self.path).ok()?;
        let length = file.read_at(bytes, offset).ok()?;
        self.file = Some(file);
        Some(length)
    }
}

/// What is valid of it: these files are ASCII, apart from names that somebody chose.
fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// A file that is read seldom.
pub(super) fn read_value(path: &Path) -> Option<String> {
    let mut bytes = [0; VALUE_BYTES_MAX];
    let length = File::open(path).ok()?.read_at(&mut bytes, 0).ok()?;
    Some(text(&bytes[..length]).trim_ascii().to_owned())
}

pub(super) fn read_number(path: &Path) -> Option<u64> {
    read_value(path)?.parse().ok()
}

/// The names in a directory in their order, at most so many; none where there is no directory.
pub(super) fn names_in(path: &Path, most: usize) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).take(most).collect();
    names.sort_unstable();
    names
}

/// The last component of what a link points to.
pub(super) fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    pub(in crate::checks) use crate::sys::testing::TempDir;

    /// A root with these files of the kernel.
    pub(in crate::checks) fn root(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new();
        for (path, text) in files {
            put(root.path(), path, text);
        }
        root
    }

    pub(in crate::checks) fn put(root: &Path, path: &str, text: impl AsRef<[u8]>) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(in crate::checks) fn link(root: &Path, path: &str, to: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    /// Bytes that no kernel wrote, the same in every run: printable pieces of what is read, cut and mixed, and noise between.
    pub(in crate::checks) fn garbage(seed: u64, pieces: &[&str]) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % u64::try_from(below.max(1)).unwrap()).unwrap()
        };
        let mut bytes = Vec::new();
        for _ in 0..next(24) {
            let piece = pieces[next(pieces.len())].as_bytes();
            let start = next(piece.len() + 1);
            bytes.extend_from_slice(&piece[start..start + next(piece.len() - start + 1)]);
            for _ in 0..next(4) {
                bytes.push(u8::try_from(next(256)).unwrap());
            }
            bytes.extend_from_slice([" ", "\n", "18446744073709551616", "-1", "0x", ":", "\0"][next(7)].as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{put, root};
    use super::*;

    #[test]
    fn file_that_went_and_came_is_opened_anew() {
        let root = root(&[("value", "1\n")]);
        let mut buffer = Buffer::new();
        let mut kept = Kept::new(root.path().join("value"));
        assert_eq!(kept.number(&mut buffer), Some(1));
        put(root.path(), "value", "23\n");
        assert_eq!(kept.number(&mut buffer), Some(23));
        let mut absent = Kept::new(root.path().join("late"));
        assert_eq!(absent.number(&mut buffer), None);
        put(root.path(), "late", "7\n");
        let readings = (1..=100).find(|_| absent.number(&mut buffer) == Some(7));
        assert_eq!(readings, Some(u32::from(ABSENT_READINGS) - 1));
    }

    #[test]
    fn table_is_read_whole_and_no_further_than_needed() {
        let long = "0123456789abcde\n".repeat(3_000);
        let root = root(&[("table", &long)]);
        let mut buffer = Buffer::new();
        let mut kept = Kept::new(root.path().join("table"));
        assert_eq!(kept.table(&mut buffer).unwrap().len(), long.len());
        let mut small = Buffer::new();
        let part = kept.table_until(&mut small, |bytes| bytes.len() > 5_000).unwrap().len();
        assert!((5_000..20_000).contains(&part), "{part}");
        assert_eq!(kept.value(&mut buffer).unwrap().len(), VALUE_BYTES_MAX);
    }

    #[test]
    fn what_is_no_text_ends_it() {
        let root = root(&[]);
        put(root.path(), "name", b"abc\xff\xfedef");
        assert_eq!(Kept::new(root.path().join("name")).value(&mut Buffer::new()), Some("abc"));
    }
}
