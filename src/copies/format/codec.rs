//! The inside of a section of a manifest: one entry after the other, numbers in as many bytes as they need (LEB128), paths and other fields against those of the
//! entry before. Each section begins anew, so that one can be read without the others.
//!
//! ```text
//! entry   flags (2 bytes), bytes of the path like before, bytes that follow, these,
//!         mode, [uid, gid], mtime, [dev], ino, [ctime], [btime], [group], [attributes], then by kind:
//! file    size, hash (32 bytes), [holes: count, each from and length], [blocks: 32 bytes each]
//! link    length and bytes of the target
//! node    number of the device
//! ```
//! What is in brackets is there when its flag says so. Signed differences are zigzag.

use std::cmp::Ordering;

use super::entry::{Attribute, Entry, HOLES_MAX, Hash, Kind, LARGE_BYTES, Marks, Origin, Stamp, block_bytes, order};
use crate::sys::attributes::ATTRIBUTES_BYTES_MAX;

/// Paths that are longer cannot be given to the kernel in many pieces either.
const PATH_BYTES_MAX: usize = 1 << 18;
/// `PATH_MAX` of the kernel.
const TARGET_BYTES_MAX: usize = 4096;
const NS_PER_S: u32 = 1_000_000_000;

/// The lowest three bits are the kind.
const KIND: u16 = 0b111;
const OTHER_OWNER: u16 = 1 << 3;
const OTHER_DEVICE: u16 = 1 << 4;
const OTHER_CTIME: u16 = 1 << 5;
const BTIME: u16 = 1 << 6;
const OTHER_BTIME: u16 = 1 << 7;
const GROUP: u16 = 1 << 8;
const ATTRIBUTES: u16 = 1 << 9;
const HOLES: u16 = 1 << 10;
const BLOCKS: u16 = 1 << 11;
const UNSTABLE: u16 = 1 << 12;
const GROWING: u16 = 1 << 13;
const LIVE_DB: u16 = 1 << 14;
const STALE: u16 = 1 << 15;

/// What an entry cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEntry {
    #[error("it ends within an entry")]
    End,
    #[error("a number is too large")]
    Number,
    #[error("the path is not one below the top, or too long")]
    Path,
    #[error("no such kind of entry")]
    Kind,
    #[error("a time has more nanoseconds than a second")]
    Time,
    #[error("too many or too large attributes")]
    Attributes,
    #[error("the holes are not within the file, or too many")]
    Holes,
    #[error("the number of blocks is not that of the size")]
    Blocks,
    #[error("the target of a link is too long")]
    Target,
}

/// What the next entry is told against.
#[derive(Debug, Default)]
struct Before {
    path: Vec<u8>,
    uid: u32,
    gid: u32,
    mtime_s: i64,
    dev: u64,
    ino: u64,
}

impl Before {
    fn become_like(&mut self, entry: &Entry) {
        self.path.clone_from(&entry.path);
        (self.uid, self.gid, self.mtime_s) = (entry.uid, entry.gid, entry.mtime.s);
        (self.dev, self.ino) = (entry.source.dev, entry.source.ino);
    }
}

#[derive(Debug, Default)]
pub(in crate::copies) struct Encoder(Before);

impl Encoder {
    /// Nothing is added when the entry is not one.
    pub(in crate::copies) fn encode(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), MalformedEntry> {
        check(entry)?;
        let before = &self.0;
        let flags = flags(entry, before);
        out.extend(flags.to_le_bytes());
        let like = before.path.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
        put(out, like as u64);
        put_bytes(out, &entry.path[like..]);
        put(out, u64::from(entry.mode));
        if flags & OTHER_OWNER != 0 {
            put(out, u64::from(entry.uid));
            put(out, u64::from(entry.gid));
        }
        put_stamp(out, entry.mtime, before.mtime_s);
        if flags & OTHER_DEVICE != 0 {
            put(out, entry.source.dev);
        }
        put_signed(out, entry.source.ino.wrapping_sub(before.ino).cast_signed());
        if flags & OTHER_CTIME != 0 {
            put_stamp(out, entry.source.ctime, entry.mtime.s);
        }
        if let Some(btime) = entry.source.btime.filter(|_| flags & OTHER_BTIME != 0) {
            put_stamp(out, btime, entry.mtime.s);
        }
        if let Some(group) = entry.group {
            put_signed(out, group.wrapping_sub(entry.source.ino).cast_signed());
        }
        if !entry.attributes.is_empty() {
            put(out, entry.attributes.len() as u64);
            for (name, value) in &entry.attributes {
                put_bytes(out, name);
                put_bytes(out, value);
            }
        }
        put_kind(out, &entry.kind);
        self.0.become_like(entry);
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(in crate::copies) struct Decoder {
    before: Before,
    last: Option<Vec<u8>>,
    is_out_of_order: bool,
}

impl Decoder {
    pub(in crate::copies) fn begin_section(&mut self) {
        self.before = Before::default();
    }

    /// Whether the last one did not come after the one before it.
    pub(in crate::copies) fn is_out_of_order(&self) -> bool {
        self.is_out_of_order
    }

    /// The entry that begins at `at`, which is moved behind it.
    pub(in crate::copies) fn decode(&mut self, section: &[u8], at: &mut usize) -> Result<Entry, MalformedEntry> {
        let mut input = Input(section.get(*at..).ok_or(MalformedEntry::End)?);
        let entry = self.entry(&mut input)?;
        check(&entry)?;
        *at = section.len() - input.0.len();
        let last = self.last.get_or_insert_default();
        self.is_out_of_order = !last.is_empty() && order(last, &entry.path) != Ordering::Less;
        last.clone_from(&entry.path);
        self.before.become_like(&entry);
        Ok(entry)
    }

    fn entry(&self, input: &mut Input<'_>) -> Result<Entry, MalformedEntry> {
        let before = &self.before;
        let flags = u16::from_le_bytes(input.array()?);
        let like = input.count(before.path.len(), MalformedEntry::Path)?;
        let rest = input.bytes(PATH_BYTES_MAX, MalformedEntry::Path)?;
        let path = [&before.path[..like], rest].concat();
        let mode = input.small()?;
        let has = |flag: u16| flags & flag != 0;
        let (uid, gid) = if has(OTHER_OWNER) { (input.small()?, input.small()?) } else { (before.uid, before.gid) };
        let mtime = input.stamp(before.mtime_s)?;
        let dev = if has(OTHER_DEVICE) { input.number()? } else { before.dev };
        let ino = before.ino.wrapping_add(input.signed()?.cast_unsigned());
        let ctime = if has(OTHER_CTIME) { input.stamp(mtime.s)? } else { mtime };
        let btime = match (has(BTIME), has(OTHER_BTIME)) {
            (true, true) => Some(input.stamp(mtime.s)?),
            (true, false) => Some(mtime),
            (false, _) => None,
        };
        let group = has(GROUP).then(|| input.signed()).transpose()?;
        let group = group.map(|more| ino.wrapping_add(more.cast_unsigned()));
        let attributes = if has(ATTRIBUTES) { input.attributes()? } else { Vec::new() };
        let kind = input.kind(flags)?;
        let marks = Marks { unstable: has(UNSTABLE), growing: has(GROWING), live_db: has(LIVE_DB), stale: has(STALE) };
        let source = Origin { dev, ino, ctime, btime };
        Ok(Entry { path, kind, mode, uid, gid, mtime, source, group, attributes, marks })
    }
}

/// What both sides insist on.
fn check(entry: &Entry) -> Result<(), MalformedEntry> {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    if entry.path.len() > PATH_BYTES_MAX || !entry.path.split(|byte| *byte == b'/').all(is_name) {
        return Err(MalformedEntry::Path);
    }
    if entry.mode > 0o7777 {
        return Err(MalformedEntry::Number);
    }
    let times = [Some(entry.mtime), Some(entry.source.ctime), entry.source.btime];
    if times.into_iter().flatten().any(|time| time.ns >= NS_PER_S) {
        return Err(MalformedEntry::Time);
    }
    let attributes: usize = entry.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if attributes > ATTRIBUTES_BYTES_MAX {
        return Err(MalformedEntry::Attributes);
    }
    match &entry.kind {
        Kind::File { size, holes, blocks, .. } => {
            let mut end = 0;
            let fits = |(from, length): &(u64, u64)| {
                let begins_after = *from >= end;
                end = from.saturating_add(*length);
                begins_after && *length > 0 && end <= *size
            };
            if holes.len() > HOLES_MAX || !holes.iter().all(fits) {
                return Err(MalformedEntry::Holes);
            }
            let count = blocks.as_ref().map(|blocks| blocks.len() as u64);
            if count.is_some_and(|count| *size < LARGE_BYTES || count != size.div_ceil(block_bytes(*size))) {
                return Err(MalformedEntry::Blocks);
            }
        }
        Kind::Link { target } if target.len() > TARGET_BYTES_MAX => return Err(MalformedEntry::Target),
        Kind::Link { .. } | Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => {}
    }
    Ok(())
}

fn flags(entry: &Entry, before: &Before) -> u16 {
    let flag = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
    let (kind, has_holes, has_blocks) = match &entry.kind {
        Kind::File { holes, blocks, .. } => (0, !holes.is_empty(), blocks.is_some()),
        Kind::Dir => (1, false, false),
        Kind::Link { .. } => (2, false, false),
        Kind::Fifo => (3, false, false),
        Kind::Socket => (4, false, false),
        Kind::Char { .. } => (5, false, false),
        Kind::Block { .. } => (6, false, false),
    };
    kind | flag((entry.uid, entry.gid) != (before.uid, before.gid), OTHER_OWNER)
        | flag(entry.source.dev != before.dev, OTHER_DEVICE)
        | flag(entry.source.ctime != entry.mtime, OTHER_CTIME)
        | flag(entry.source.btime.is_some(), BTIME)
        | flag(entry.source.btime.is_some_and(|btime| btime != entry.mtime), OTHER_BTIME)
        | flag(entry.group.is_some(), GROUP)
        | flag(!entry.attributes.is_empty(), ATTRIBUTES)
        | flag(has_holes, HOLES)
        | flag(has_blocks, BLOCKS)
        | flag(entry.marks.unstable, UNSTABLE)
        | flag(entry.marks.growing, GROWING)
        | flag(entry.marks.live_db, LIVE_DB)
        | flag(entry.marks.stale, STALE)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63).cast_unsigned());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_stamp(out: &mut Vec<u8>, stamp: Stamp, near_s: i64) {
    put_signed(out, stamp.s.wrapping_sub(near_s));
    put(out, u64::from(stamp.ns));
}

fn put_kind(out: &mut Vec<u8>, kind: &Kind) {
    match kind {
        Kind::File { size, hash, holes, blocks } => {
            put(out, *size);
            out.extend_from_slice(hash);
            if !holes.is_empty() {
                put(out, holes.len() as u64);
                for (from, length) in holes {
                    put(out, *from);
                    put(out, *length);
                }
            }
            out.extend(blocks.iter().flatten().flatten());
        }
        Kind::Link { target } => put_bytes(out, target),
        Kind::Char { rdev } | Kind::Block { rdev } => put(out, *rdev),
        Kind::Dir | Kind::Fifo | Kind::Socket => {}
    }
}

/// What is left of a section.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], MalformedEntry> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MalformedEntry::End)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedEntry> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MalformedEntry::End)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, MalformedEntry> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(MalformedEntry::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(MalformedEntry::Number)
    }

    fn signed(&mut self) -> Result<i64, MalformedEntry> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn small(&mut self) -> Result<u32, MalformedEntry> {
        u32::try_from(self.number()?).map_err(|_| MalformedEntry::Number)
    }

    fn count(&mut self, max: usize, too_many: MalformedEntry) -> Result<usize, MalformedEntry> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= max).ok_or(too_many)
    }

    fn bytes(&mut self, max: usize, too_many: MalformedEntry) -> Result<&'a [u8], MalformedEntry> {
        let length = self.count(max, too_many)?;
        self.take(length)
    }

    fn stamp(&mut self, near_s: i64) -> Result<Stamp, MalformedEntry> {
        Ok(Stamp { s: near_s.wrapping_add(self.signed()?), ns: self.small()? })
    }

    fn attributes(&mut self) -> Result<Vec<Attribute>, MalformedEntry> {
        // Each takes two bytes at least, so what is left limits their number.
        let count = self.count(self.0.len() / 2, MalformedEntry::Attributes)?;
        let mut attributes = Vec::new();
        for _ in 0..count {
            let name = self.bytes(ATTRIBUTES_BYTES_MAX, MalformedEntry::Attributes)?;
            let value = self.bytes(ATTRIBUTES_BYTES_MAX, MalformedEntry::Attributes)?;
            attributes.push((name.to_vec(), value.to_vec()));
        }
        Ok(attributes)
    }

    fn kind(&mut self, flags: u16) -> Result<Kind, MalformedEntry> {
        Ok(match flags & KIND {
            0 => {
                let size = self.number()?;
                let hash: Hash = self.array()?;
                let holes = if flags & HOLES == 0 { Vec::new() } else { self.holes()? };
                let blocks = if flags & BLOCKS == 0 { None } else { Some(self.blocks(size)?) };
                Kind::File { size, hash, holes, blocks }
            }
            1 => Kind::Dir,
            2 => Kind::Link { target: self.bytes(TARGET_BYTES_MAX, MalformedEntry::Target)?.to_vec() },
            3 => Kind::Fifo,
            4 => Kind::Socket,
            5 => Kind::Char { rdev: self.number()? },
            6 => Kind::Block { rdev: self.number()? },
            _ => return Err(MalformedEntry::Kind),
        })
    }

    fn holes(&mut self) -> Result<Vec<(u64, u64)>, MalformedEntry> {
        let count = self.count(HOLES_MAX, MalformedEntry::Holes)?;
        (0..count).map(|_| Ok((self.number()?, self.number()?))).collect()
    }

    fn blocks(&mut self, size: u64) -> Result<Vec<Hash>, MalformedEntry> {
        let count = usize::try_from(size.div_ceil(block_bytes(size))).map_err(|_| MalformedEntry::Blocks)?;
        let length = count.checked_mul(size_of::<Hash>()).ok_or(MalformedEntry::Blocks)?;
        let (blocks, _) = self.take(length)?.as_chunks();
        Ok(blocks.to_vec())
    }
}
