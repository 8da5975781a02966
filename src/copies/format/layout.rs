//! Names on the target.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::engine::types::Time;

pub const MARKER: &str = ".mainstay-target";
pub const RESERVE: &str = ".mainstay-reserve";
/// Given up when the disk is full, so that state can still be written.
pub const RESERVE_BYTES: u64 = 16 << 20;
/// Holds the program, for a rescue shell.
pub const PROGRAM_DIRECTORY: &str = ".mainstay";
pub const COPIES: &str = "copies";
pub const WORK: &str = "work";
pub const TRASH: &str = "trash";
pub const QUARANTINE: &str = "quarantine";
pub const STATE: &str = "state";
pub const LATEST: &str = "latest";
/// What services run from, in directories of their own.
pub const LIVE: &str = "live";
/// Within one of them, written last: what it is.
pub const LIVE_MARKER: &str = "LIVE";
/// Within a copy.
pub const DATA: &str = "data";
pub const MANIFEST: &str = "MANIFEST";
pub const COMMIT: &str = "COMMIT";

/// The directories of a set.
pub const DIRECTORIES: [&str; 5] = [COPIES, WORK, TRASH, QUARANTINE, STATE];

/// `000123-20261122T063000Z`.
#[must_use]
pub fn directory_of(seq: u64, at: Time) -> String {
    let seconds = at.0 / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{seq:06}-{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The number of a copy's directory; `None` for every other name.
#[must_use]
pub fn seq_of(name: &OsStr) -> Option<u64> {
    let (seq, at) = name.to_str()?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (date, time) = at.strip_suffix('Z')?.split_once('T')?;
    let whole = seq.len() >= 6 && digits(seq) && date.len() >= 8 && digits(date) && time.len() == 6 && digits(time);
    seq.parse().ok().filter(|seq| whole && *seq > 0)
}

/// The components below `/` of an absolute path.
#[must_use]
pub fn below_root(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_tell_number_and_time_and_nothing_else_is_one() {
        let name = directory_of(123, Time(1_795_329_000_000_000_000));
        assert_eq!(name, "000123-20261122T063000Z");
        assert_eq!(seq_of(OsStr::new(&name)), Some(123));
        assert_eq!(seq_of(OsStr::new(&directory_of(1_234_567, Time(0)))), Some(1_234_567));
        for name in [
            "latest",
            "000123",
            "000123-x",
            "123-20261122T063000Z",
            "000000-20261122T063000Z",
            "+00123-20261122T063000Z",
        ] {
            assert_eq!(seq_of(OsStr::new(name)), None, "{name}");
        }
        assert_eq!(directory_of(1, Time(951_782_400_000_000_000)), "000001-20000229T000000Z");
    }

    #[test]
    fn absolute_paths_lose_their_slash() {
        assert_eq!(below_root(Path::new("/var/lib//app/")), Path::new("var/lib/app"));
        assert_eq!(below_root(Path::new("/")), Path::new(""));
    }
}
