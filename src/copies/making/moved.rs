//! Files of the older copy that are not where they were: what is new may be one of them, under another name.
//!
//! A file is taken for one of them when its content, read and hashed, and all its metadata are the same; that its inode is the same would be
//! quicker to see, but inodes are written over, and times are set back. Each is given away once: were it linked twice, a restore would make
//! one file of two.

use crate::copies::format::entry::{Entry, Kind};
use crate::sys::stat::Stamp;

/// Beyond these, what was moved is written anew: 100,000 files and 8 MiB of paths make 13 MiB.
const FILES_MAX: usize = 100_000;
const PATHS_BYTES_MAX: usize = 8 << 20;

/// So many bytes of a BLAKE3 hash do to tell contents apart.
const HASH_BYTES: usize = 16;

/// What a moved file keeps.
type Key = (u64, i64, u32);

#[derive(Debug)]
struct Place {
    key: Key,
    hash: [u8; HASH_BYTES],
    path_at: u32,
    path_length: u16,
    taken: bool,
}

#[derive(Debug, Default)]
pub(in crate::copies) struct Moved {
    paths: Vec<u8>,
    /// By their keys, once all have been offered.
    places: Vec<Place>,
    /// Files that there was no room for.
    pub(in crate::copies) left_out: u64,
}

impl Moved {
    /// A file of the older copy that is not there any more, or is another one now.
    pub(in crate::copies) fn offer(&mut self, before: &Entry) {
        // Names of one inode could become two files that are one.
        let Kind::File { size, hash, .. } = &before.kind else { return };
        if *size == 0 || before.group.is_some() || before.marks.unstable {
            return;
        }
        let fits = self.places.len() < FILES_MAX && self.paths.len() + before.path.len() <= PATHS_BYTES_MAX;
        let at = (u32::try_from(self.paths.len()), u16::try_from(before.path.len()));
        let (true, (Ok(path_at), Ok(path_length))) = (fits, at) else {
            self.left_out += 1;
            return;
        };
        self.paths.extend_from_slice(&before.path);
        let key = key(*size, before.mtime);
        self.places.push(Place { key, hash: short(hash), path_at, path_length, taken: false });
    }

    /// All have been offered: from now on they are looked for.
    pub(in crate::copies) fn seal(&mut self) {
        self.places.sort_by_key(|place| place.key);
    }

    /// Whether it is worth while to hash this one before it is copied.
    pub(in crate::copies) fn may_have(&self, size: u64, mtime: Stamp) -> bool {
        self.of(key(size, mtime)).any(|index| !self.places[index].taken)
    }

    /// Those with this content: what [`Moved::take`] knows them by, and their paths in the older copy.
    pub(in crate::copies) fn with(&self, size: u64, mtime: Stamp, hash: &[u8; 32]) -> Vec<(usize, Vec<u8>)> {
        let fits = self.of(key(size, mtime)).filter(|index| {
            let place = &self.places[*index];
            !place.taken && place.hash == short(hash)
        });
        fits.map(|index| (index, self.path(&self.places[index]).to_vec())).collect()
    }

    /// It has been linked.
    pub(in crate::copies) fn take(&mut self, index: usize) {
        self.places[index].taken = true;
    }

    /// It is linked under its own path after all, because what is there now cannot be read. False when it has been given away already.
    pub(in crate::copies) fn withdraw(&mut self, path: &[u8]) -> bool {
        let found = self.places.iter().position(|place| self.path(place) == path);
        found.is_none_or(|index| !std::mem::replace(&mut self.places[index].taken, true))
    }

    fn of(&self, key: Key) -> impl Iterator<Item = usize> {
        let first = self.places.partition_point(|place| place.key < key);
        let many = self.places[first..].iter().take_while(move |place| place.key == key).count();
        first..first + many
    }

    fn path(&self, place: &Place) -> &[u8] {
        &self.paths[place.path_at as usize..][..usize::from(place.path_length)]
    }
}

fn key(size: u64, mtime: Stamp) -> Key {
    (size, mtime.s, mtime.ns)
}

fn short(hash: &[u8; 32]) -> [u8; HASH_BYTES] {
    let mut short = [0; HASH_BYTES];
    short.copy_from_slice(&hash[..HASH_BYTES]);
    short
}
