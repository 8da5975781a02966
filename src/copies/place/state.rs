//! What is known of a set beyond its copies: pins, verifications, how far the scrub is. One small file, replaced as a whole: a line of JSON, and
//! the BLAKE3 of that line.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::engine::copies::catalog::{Unchanged, Verified};
use crate::engine::types::Time;
use crate::sys::dir::{Dir, Rename};

const FILE: &str = "state.json";
const FRESH: &str = "state.json.new";
/// What could not be read.
const ASIDE: &str = "state.json.unreadable";
/// More than this is none of ours.
const BYTES_MAX: u64 = 4 << 20;
/// Records of quarantined files that are kept, the latest.
pub const QUARANTINED_MAX: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The highest number that a copy has ever had.
    pub last_seq: u64,
    /// Whether files can share pages on this target, as was seen at the last lock.
    pub reflinks: bool,
    pub unchanged: Option<Unchanged>,
    pub marks: BTreeMap<u64, CopyMarks>,
    pub scrub: Scrub,
    pub restore_tested: Option<Time>,
    pub quarantined: Vec<Quarantined>,
}

/// Of one copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyMarks {
    pub pinned: bool,
    pub accepted: bool,
    pub verified: Option<Verified>,
    /// Files known to be bad and not mended.
    pub bad: u64,
}

/// How far the scrub is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrub {
    /// When everything had been read.
    pub finished: Option<Time>,
    pub began: Option<Time>,
    /// The highest number of this round: later copies are read in the next.
    pub top: u64,
    /// The copy that is read, and the path of its manifest that was read last (bytes).
    pub seq: Option<u64>,
    pub after: Vec<u8>,
    pub permille: u32,
    pub bytes: u64,
}

/// A file that was found bad and not mended; it lies in `quarantine/` under `name`, where there was anything to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub at: Time,
    pub seq: u64,
    /// As people read it.
    pub path: String,
    pub name: Option<String>,
}

/// What was found at a start.
#[derive(Debug)]
pub enum Loaded {
    Whole(Box<State>),
    /// None yet.
    Missing,
    /// It could not be understood and lies aside.
    Unreadable(String),
}

impl State {
    pub fn load(directory: &Dir) -> io::Result<Loaded> {
        let file = match directory.read(OsStr::new(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut text)?;
        let unreadable = |why: &str| Ok(Loaded::Unreadable(why.to_owned()));
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let (Some(line), Some(checksum), None) = (lines.next(), lines.next(), lines.next()) else {
            return unreadable("it is cut off");
        };
        // One bit of a pin or of a number would be another pin and another number.
        if checksum != checksum_of(line) {
            return unreadable("it is not what was written: its checksum is another");
        }
        match serde_json::from_slice(line) {
            Ok(state) => Ok(Loaded::Whole(Box::new(state))),
            Err(error) => unreadable(&error.to_string()),
        }
    }

    /// Replaces the file: the old or the new one is there, whatever happens.
    pub fn save(&self, directory: &Dir) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let checksum = checksum_of(&text);
        text.extend(checksum);
        let mut file = directory.overwrite(OsStr::new(FRESH))?;
        file.write_all(&text)?;
        file.sync_all()?;
        directory.rename(OsStr::new(FRESH), directory, OsStr::new(FILE), Rename::Replace)?;
        directory.sync()
    }

    /// Puts what could not be understood out of the way.
    pub fn set_aside(directory: &Dir) -> io::Result<()> {
        directory.rename(OsStr::new(FILE), directory, OsStr::new(ASIDE), Rename::Replace)
    }

    /// The marks of a copy, to be changed.
    pub fn marks_of(&mut self, seq: u64) -> &mut CopyMarks {
        self.marks.entry(seq).or_default()
    }

    /// Forgets the marks of copies that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        self.marks.retain(|seq, _| is_there(*seq));
    }

    /// Keeps a record of a bad file; of too many, the oldest goes.
    pub fn quarantine(&mut self, record: Quarantined) {
        self.quarantined.push(record);
        let surplus = self.quarantined.len().saturating_sub(QUARANTINED_MAX);
        self.quarantined.drain(..surplus);
    }
}

/// The second line of the file.
fn checksum_of(line: &[u8]) -> Vec<u8> {
    format!("{}\n", blake3::hash(line).to_hex()).into_bytes()
}
