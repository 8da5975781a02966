//! Names and order of rotated files: `base` is written, `base.1` is the youngest finished one, `base.{keep - 1}` the oldest.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// File `number` of a family; 0 is the one being written.
pub(super) fn numbered(base: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return base.to_path_buf();
    }
    let mut name = base.as_os_str().to_os_string();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Moves every file one further so that `base` is free; of `keep` files (the written one included) the oldest goes.
/// Returns what the removed file was.
pub(super) fn shift(base: &Path, keep: u32) -> io::Result<Option<fs::Metadata>> {
    let last = keep.max(1) - 1;
    if last == 0 {
        let gone = fs::symlink_metadata(base).ok();
        fs::remove_file(base)?;
        return Ok(gone);
    }
    let mut free = 1;
    while free < last && numbered(base, free).symlink_metadata().is_ok() {
        free += 1;
    }
    let gone = numbered(base, free).symlink_metadata().ok();
    for number in (0..free).rev() {
        fs::rename(numbered(base, number), numbered(base, number + 1))?;
    }
    Ok(gone)
}

/// The finished files of a family, youngest first.
pub(super) fn finished(base: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let (Some(directory), Some(name)) = (base.parent(), base.file_name()) else { return Ok(Vec::new()) };
    let mut prefix = OsString::from(name);
    prefix.push(".");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(number_of);
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// `1`, `2` ... as this module writes them: no sign, no leading zero.
fn number_of(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok())?
}

/// What `{log_dir}/{service}.{index}.log` is called.
pub(super) fn stream_file_name(service: &str, index: u16) -> String {
    format!("{service}.{index}.log")
}

/// The inverse of [`stream_file_name`].
pub(super) fn stream_of_file_name(name: &str) -> Option<(&str, u16)> {
    let (service, index) = name.strip_suffix(".log")?.rsplit_once('.')?;
    let index: u16 = index.parse().ok()?;
    (stream_file_name(service, index) == name).then_some((service, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::testing::Scratch;

    #[test]
    fn shifting_keeps_so_many_files_and_drops_the_oldest() {
        let scratch = Scratch::new("shift");
        let base = scratch.path.join("api.0.log");
        for turn in 0..5 {
            fs::write(&base, format!("{turn}")).unwrap();
            shift(&base, 3).unwrap();
        }
        let names: Vec<(u32, String)> = finished(&base)
            .unwrap()
            .into_iter()
            .map(|(number, path)| (number, fs::read_to_string(path).unwrap()))
            .collect();
        assert_eq!(names, vec![(1, "4".into()), (2, "3".into())]);
        fs::write(&base, "5").unwrap();
        shift(&base, 1).unwrap();
        assert!(!base.exists());
    }

    #[test]
    fn a_hole_is_filled_before_anything_is_lost() {
        let scratch = Scratch::new("hole");
        let base = scratch.path.join("a.0.log");
        for (number, text) in [(0, "new"), (1, "young"), (3, "old")] {
            fs::write(numbered(&base, number), text).unwrap();
        }
        assert!(shift(&base, 5).unwrap().is_none());
        let numbers: Vec<u32> = finished(&base).unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, vec![1, 2, 3]);
    }

    #[test]
    fn only_our_own_names_are_ours() {
        let scratch = Scratch::new("names");
        let base = scratch.path.join("api.0.log");
        for name in ["api.0.log.2", "api.0.log.02", "api.0.log.gz", "api.0.log.-1", "api.0.logs.1", "xapi.0.log.1"] {
            fs::write(scratch.path.join(name), "").unwrap();
        }
        assert_eq!(finished(&base).unwrap().len(), 1);
        assert_eq!(stream_of_file_name("api.0.log"), Some(("api", 0)));
        assert_eq!(stream_of_file_name("api.0.1.log"), Some(("api.0", 1)));
        for name in ["mainstay.log", "api.0.log.1", "api.00.log", "api.x.log"] {
            assert_eq!(stream_of_file_name(name), None, "{name}");
        }
    }
}
