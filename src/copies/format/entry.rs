//! One entry of a copy: what the manifest knows of a file, a directory or another inode.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

pub use crate::sys::attributes::Attribute;
pub use crate::sys::dir::Stamp;
use crate::sys::dir::{FileType, Stat};

/// Files of at least this size have hashes of their blocks.
pub const LARGE_BYTES: u64 = 16 << 20;
/// The size of a block of files that are not very large.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Beyond so many the blocks of a file become larger, so that an entry has a limit: 2 MiB of hashes.
pub const BLOCKS_MAX: u64 = 1 << 16;
/// Holes of one file beyond these are kept in the copy, but not written down.
pub const HOLES_MAX: usize = 1 << 14;

/// What a hash is: BLAKE3.
pub type Hash = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Below `data/`: the whole path at the source without the leading slash. Bytes, not text.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permissions: `0o7777` at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Stamp,
    pub source: Origin,
    /// Names of one inode at the source (its number) have the same; see [`Entry::link_key`]. `None`: it has no other name.
    pub group: Option<u64>,
    /// By their names.
    pub attributes: Vec<Attribute>,
    pub marks: Marks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File {
        size: u64,
        hash: Hash,
        /// Where from, and how long; ascending, apart from each other, within the size.
        holes: Vec<(u64, u64)>,
        /// Of each [`block_bytes`], of files of [`LARGE_BYTES`] and more: subtrees of `hash`.
        blocks: Option<Vec<Hash>>,
    },
    Dir,
    Link {
        target: Vec<u8>,
    },
    Fifo,
    /// Written down, not made.
    Socket,
    Char {
        rdev: u64,
    },
    Block {
        rdev: u64,
    },
}

/// The inode at the source, as it was when the entry was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub dev: u64,
    pub ino: u64,
    pub ctime: Stamp,
    pub btime: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each may be with any other")]
pub struct Marks {
    /// It changed while it was read, every time.
    pub unstable: bool,
    /// Something was appended while it was read: it ends where it did at first.
    pub growing: bool,
    /// A database that was copied as it lay.
    pub live_db: bool,
    /// It could not be read: this is the version of an older copy.
    pub stale: bool,
}

impl Entry {
    /// What a stat tells; `None` for a kind of inode that nobody knows. The hash of a file and the target of a link are yet to be filled in.
    #[must_use]
    pub fn of(path: Vec<u8>, stat: &Stat) -> Option<Self> {
        let kind = match stat.kind() {
            FileType::File => Kind::File { size: stat.size, hash: [0; 32], holes: Vec::new(), blocks: None },
            FileType::Dir => Kind::Dir,
            FileType::Link => Kind::Link { target: Vec::new() },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Char => Kind::Char { rdev: stat.rdev },
            FileType::Block => Kind::Block { rdev: stat.rdev },
            FileType::Unknown => return None,
        };
        let has_other_names = stat.nlink > 1 && kind != Kind::Dir;
        Some(Self {
            path,
            kind,
            mode: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            source: Origin { dev: stat.dev, ino: stat.ino, ctime: stat.ctime, btime: stat.btime },
            group: has_other_names.then_some(stat.ino),
            attributes: Vec::new(),
            marks: Marks::default(),
        })
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.path[start..])
    }

    /// The path of the directory that it lies in; empty at the top.
    #[must_use]
    pub fn parent(&self) -> &[u8] {
        let end = self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        &self.path[..end]
    }

    /// What names of one inode have in common, and others not.
    #[must_use]
    pub fn link_key(&self) -> Option<(u64, u64)> {
        self.group.map(|group| (self.source.dev, group))
    }

    /// Whether the same inode is at the source as before, and nobody has touched it since: content and attributes need not be read again. The number of the
    /// device does not count, because it may be another one after a boot.
    #[must_use]
    pub fn is_untouched_since(&self, before: &Self) -> bool {
        self.source.ino == before.source.ino
            && self.source.ctime == before.source.ctime
            && self.source.btime == before.source.btime
            && self.mtime == before.mtime
            && (self.mode, self.uid, self.gid) == (before.mode, before.uid, before.gid)
            && self.kind.is_alike(&before.kind)
            && !before.marks.unstable
            && !before.marks.stale
    }

    /// Whether two entries have equal metadata, as far as an inode of a copy keeps it: only then may their names share one.
    #[must_use]
    pub fn has_metadata_of(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, self.mtime) == (other.mode, other.uid, other.gid, other.mtime)
            && self.attributes == other.attributes
    }
}

impl Kind {
    /// Of the same kind and size, to the same target, with the same number: all that a stat can tell.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { size, .. }, Self::File { size: other, .. }) => size == other,
            (Self::Link { target }, Self::Link { target: other }) => target == other,
            (Self::Char { rdev }, Self::Char { rdev: other }) | (Self::Block { rdev }, Self::Block { rdev: other }) => {
                rdev == other
            }
            (Self::Dir, Self::Dir) | (Self::Fifo, Self::Fifo) | (Self::Socket, Self::Socket) => true,
            (
                Self::File { .. }
                | Self::Dir
                | Self::Link { .. }
                | Self::Fifo
                | Self::Socket
                | Self::Char { .. }
                | Self::Block { .. },
                _,
            ) => false,
        }
    }
}

/// How large the blocks of a file of this size are: a power of two, at least [`BLOCK_BYTES`], at most [`BLOCKS_MAX`] of them.
#[must_use]
pub fn block_bytes(size: u64) -> u64 {
    let mut bytes = BLOCK_BYTES;
    while size.div_ceil(bytes) > BLOCKS_MAX {
        bytes *= 2;
    }
    bytes
}

/// The order of entries: a directory before what is in it, and that before whatever follows the directory; names by their bytes.
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => rank(a).cmp(&rank(b)),
        None => a.len().cmp(&b.len()),
    }
}

/// For people and for [`super::commit::Commit`].
#[must_use]
pub fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_a_walk() {
        let walked = ["a", "a/b", "a/b/c", "a/b c", "a/c", "a b", "a-", "a-/x", "a.b", "ab", "b"];
        for (index, path) in walked.iter().enumerate() {
            for (other, other_path) in walked.iter().enumerate() {
                assert_eq!(order(path.as_bytes(), other_path.as_bytes()), index.cmp(&other), "{path} {other_path}");
            }
        }
        assert_eq!(order(b"a/\x01", b"a\x01"), Ordering::Less, "a name may begin with any byte but 0 and slash");
    }

    #[test]
    fn blocks_have_a_limit() {
        assert_eq!([LARGE_BYTES, 4 << 30, (4 << 30) + 1, 1 << 40].map(block_bytes), [65_536, 65_536, 131_072, 1 << 24]);
    }

    #[test]
    fn name_and_parent_of_a_path() {
        let stat = crate::sys::dir::Dir::open(std::path::Path::new("/")).unwrap().stat_self().unwrap();
        let entry = |path: &[u8]| Entry::of(path.to_vec(), &stat).unwrap();
        assert_eq!((entry(b"a/b/c").name(), entry(b"a/b/c").parent()), (OsStr::new("c"), b"a/b".as_slice()));
        assert_eq!((entry(b"a").name(), entry(b"a").parent()), (OsStr::new("a"), b"".as_slice()));
        assert!(entry(b"a").is_untouched_since(&entry(b"b")));
        let touched = Entry { mode: 0o1, ..entry(b"a") };
        assert!(!touched.is_untouched_since(&entry(b"a")) && !touched.has_metadata_of(&entry(b"a")));
    }
}
