//! `COMMIT`: the last file of a copy to be written, and the one that makes it one. Two lines of JSON: what the copy is, and the hash of that line.

use serde::{Deserialize, Serialize};

use super::entry::{Hash, hex};
use crate::engine::copies::catalog::{Cause, Suspicion};
use crate::engine::types::Time;

/// Of the directories on the target and of the files in them.
pub const FORMAT: u32 = 1;
/// Longer files are none of ours.
pub const COMMIT_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    pub format: u32,
    pub set: String,
    /// From 1, never reused within a set.
    pub seq: u64,
    /// When the copy was begun (wall), in nanoseconds since 1970.
    pub at: Time,
    /// Nanoseconds from then on.
    pub took: u64,
    pub cause: Cause,
    /// BLAKE3 of the file MANIFEST: what `b3sum` says of it.
    pub manifest: String,
    pub entries: u64,
    pub files: u64,
    /// Of the files' content, holes included.
    pub bytes: u64,
    pub written_bytes: u64,
    pub stale: u64,
    pub unstable: u64,
    pub suspect: Option<Suspicion>,
    pub clock_suspect: bool,
    /// Stands for the versions of all files of at least `large_over` bytes; 0: there are none, or nobody asked for it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub large: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub large_over: u64,
    pub sources: Vec<SourceSeen>,
    /// The [`Commit::hash`] of the copy before, whether or not it is still there.
    pub previous: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSeen {
    /// As configured; what is not UTF-8 in it is replaced, because this is for people and for comparing.
    pub path: String,
    pub dev: u64,
    pub files: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checksum {
    blake3: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("COMMIT is cut off")]
    CutOff,
    #[error("COMMIT is not what was written: its checksum is another")]
    Damaged,
    #[error("COMMIT is not understood")]
    Json(#[source] serde_json::Error),
    #[error("the copy has format {found}, and this version of mainstay knows {FORMAT}: use the one beside the copies")]
    Format { found: u64 },
}

impl Commit {
    /// The content of the file.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        let checksum = Checksum { blake3: hex(blake3::hash(&bytes).as_bytes()) };
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &checksum)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CommitError> {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n"));
        let (Some(Some(line)), Some(Some(checksum)), None) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CommitError::CutOff);
        };
        let checksum: Checksum = serde_json::from_slice(checksum).map_err(|_| CommitError::Damaged)?;
        if checksum.blake3 != hex(blake3::hash(line).as_bytes()) {
            return Err(CommitError::Damaged);
        }
        // Before the rest, which may look different in another format.
        let value: serde_json::Value = serde_json::from_slice(line).map_err(CommitError::Json)?;
        let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if found != u64::from(FORMAT) {
            return Err(CommitError::Format { found });
        }
        serde_json::from_value(value).map_err(CommitError::Json)
    }

    /// Of its first line: what the second says, and what the next copy has as [`Commit::previous`].
    pub fn hash(&self) -> Result<Hash, serde_json::Error> {
        Ok(*blake3::hash(&serde_json::to_vec(self)?).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Commit {
        Commit {
            format: FORMAT,
            set: "app".into(),
            seq: 123,
            at: Time(1_700_000_000_123_456_789),
            took: 5_000,
            cause: Cause::Every,
            manifest: hex(&[7; 32]),
            entries: 3,
            files: 2,
            bytes: 100,
            written_bytes: 50,
            stale: 0,
            unstable: 1,
            suspect: Some(Suspicion::Shrunk { files_permille: 400, bytes_permille: 1000 }),
            clock_suspect: false,
            large: 0,
            large_over: 0,
            sources: vec![SourceSeen { path: "/var/lib/app".into(), dev: 259, files: 2 }],
            previous: Some(hex(&[9; 32])),
        }
    }

    #[test]
    fn commit_is_read_as_it_was_written() {
        let bytes = commit().encode().unwrap();
        assert_eq!(Commit::decode(&bytes).unwrap(), commit());
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(&hex(&commit().hash().unwrap())), "{text}");
    }

    #[test]
    fn any_other_byte_and_any_other_length_is_noticed() {
        let bytes = commit().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Commit::decode(&bytes[..length]).is_err(), "{length} bytes of it");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Commit::decode(&damaged).is_err(), "byte {at}");
        }
        assert!(Commit::decode(&[bytes.as_slice(), b"\n"].concat()).is_err());
    }

    #[test]
    fn other_format_is_named() {
        let error = Commit::decode(&Commit { format: 2, ..commit() }.encode().unwrap()).unwrap_err();
        assert!(matches!(error, CommitError::Format { found: 2 }), "{error}");
    }
}
