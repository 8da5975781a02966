//! `MANIFEST`: every entry of a copy with its metadata and hashes, in the order of a walk. Written and read as a stream, so that a million files take the memory
//! of one.
//!
//! ```text
//! mainstay manifest 1\n
//! section*    kind (1 byte: E or Z), length (4 bytes, little end first), content, checksum (16 bytes of BLAKE3)
//! ```
//!
//! Sections of entries (`E`) are closed when they have [`SECTION_BYTES`]; the last one (`Z`) holds the totals, and nothing follows it: what was cut off
//! has none. The checksum is taken over the number of the section, its kind, its length and its content, so that a section in another place is noticed
//! too. `codec.rs` has the inside of the sections.

use std::cmp::Ordering;
use std::io::{self, Read, Write};

pub use super::codec::MalformedEntry;
use super::codec::{Decoder, Encoder};
pub use super::entry::order;
use super::entry::{Entry, Hash, Kind, hex};

const MAGIC: &[u8; 20] = b"mainstay manifest 1\n";
/// A section is closed at this size.
pub const SECTION_BYTES: usize = 64 << 10;
/// No section is larger: it has less than [`SECTION_BYTES`] before its last entry, and that has the limits of `entry.rs`.
const SECTION_BYTES_MAX: usize = 8 << 20;
const CHECKSUM_BYTES: usize = 16;
const HEAD_BYTES: usize = 5;
const ENTRIES: u8 = b'E';
const END: u8 = b'Z';

/// What is in a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// BLAKE3 of the whole file.
    pub hash: Hash,
    pub entries: u64,
    pub files: u64,
    /// Of the files' content, holes included.
    pub bytes: u64,
    /// Stands for the content of all files that [`Writer::large_over`] tells apart, wherever they lie; 0: there is none.
    pub large: u64,
}

/// Writes a manifest. Without [`Writer::finish`] it is not one.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    hasher: Box<blake3::Hasher>,
    section: Vec<u8>,
    encoder: Encoder,
    number: u64,
    totals: Summary,
    last: Vec<u8>,
    large_over: Option<u64>,
}

impl<W: Write> Writer<W> {
    /// Nothing is written before the first section is full.
    pub fn new(out: W) -> Self {
        Self {
            out,
            hasher: Box::default(),
            section: Vec::with_capacity(SECTION_BYTES + 1024),
            encoder: Encoder::default(),
            number: 0,
            totals: Summary::default(),
            last: Vec::new(),
            large_over: None,
        }
    }

    /// Files of at least so many bytes are to be known again by [`Summary::large`].
    #[must_use]
    pub fn large_over(self, bytes: Option<u64>) -> Self {
        Self { large_over: bytes, ..self }
    }

    /// The next one in the [`order`].
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.totals.entries > 0 && order(&self.last, &entry.path) != Ordering::Less {
            let why = format!("{} comes out of order in a manifest", entry.path.escape_ascii());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.encoder.encode(entry, &mut self.section).map_err(|malformed| {
            let why = format!("{}: {malformed}", entry.path.escape_ascii());
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        self.last.clone_from(&entry.path);
        self.totals.count(entry, self.large_over);
        if self.section.len() >= SECTION_BYTES { self.close(ENTRIES) } else { Ok(()) }
    }

    /// Writes the end. The caller makes the file last.
    pub fn finish(mut self) -> io::Result<Summary> {
        if !self.section.is_empty() {
            self.close(ENTRIES)?;
        }
        let totals = self.totals;
        self.section.extend([totals.entries, totals.files, totals.bytes].into_iter().flat_map(u64::to_le_bytes));
        self.close(END)?;
        self.out.flush()?;
        Ok(Summary { hash: *self.hasher.finalize().as_bytes(), ..totals })
    }

    fn close(&mut self, kind: u8) -> io::Result<()> {
        if self.number == 0 {
            self.write(MAGIC)?;
        }
        let length = u32::try_from(self.section.len()).ok().filter(|length| *length as usize <= SECTION_BYTES_MAX);
        let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
        let head = head(kind, length);
        let checksum = checksum(self.number, head, &self.section);
        let section = std::mem::take(&mut self.section);
        self.write(&head)?;
        self.write(&section)?;
        self.write(&checksum)?;
        self.section = section;
        self.section.clear();
        self.section.shrink_to(2 * SECTION_BYTES);
        self.encoder = Encoder::default();
        self.number += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
}

impl Summary {
    fn count(&mut self, entry: &Entry, large_over: Option<u64>) {
        self.entries += 1;
        if let Kind::File { size, .. } = entry.kind {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(size);
        }
        if let (Kind::File { size, hash, .. }, Some(over)) = (&entry.kind, large_over)
            && *size >= over
        {
            let [a, b, c, d, e, f, g, h, ..] = *hash;
            // A sum, so that the order and the names of the files do not matter; never 0, which says that there are none.
            self.large = self.large.wrapping_add(u64::from_le_bytes([a, b, c, d, e, f, g, h])).max(1);
        }
    }
}

fn head(kind: u8, length: u32) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = length.to_le_bytes();
    [kind, a, b, c, d]
}

fn checksum(number: u64, head: [u8; HEAD_BYTES], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(&head).update(content);
    let mut checksum = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

/// Why a manifest cannot be read on. Nothing that was read before is in doubt.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read the manifest at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("this is no manifest of a format that this version of mainstay knows: use the one beside the copies")]
    Format,
    #[error("the manifest is cut off at byte {offset}, after {entries} entries")]
    CutOff { offset: u64, entries: u64 },
    #[error("the manifest is damaged between byte {offset} and {}, after {entries} entries", offset + length)]
    Damaged { offset: u64, length: u64, entries: u64 },
    #[error("the section of the manifest at byte {offset} has its checksum, but is not understood")]
    Malformed {
        offset: u64,
        #[source]
        source: MalformedEntry,
    },
    #[error("the manifest is out of order at {path}")]
    Order { path: String },
    #[error("the totals at the end of the manifest are not those of its entries")]
    Totals,
    #[error("something follows the end of the manifest at byte {offset}")]
    Trailing { offset: u64 },
    #[error("the manifest is whole, but another one than COMMIT names: its hash is {found}")]
    Other { found: String },
}

/// Reads a manifest. After an error there is nothing more.
#[derive(Debug)]
pub struct Reader<R: Read> {
    input: R,
    hasher: Box<blake3::Hasher>,
    offset: u64,
    number: u64,
    section_start: u64,
    section: Vec<u8>,
    at: usize,
    decoder: Decoder,
    totals: Summary,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Before,
    Within,
    /// The end was read and was right.
    Finished,
    Failed,
}

impl<R: Read> Reader<R> {
    /// Reads in large pieces, so `input` needs no buffer of its own.
    pub fn new(input: R) -> Self {
        Self {
            input,
            hasher: Box::default(),
            offset: 0,
            number: 0,
            section_start: 0,
            section: Vec::new(),
            at: 0,
            decoder: Decoder::default(),
            totals: Summary::default(),
            state: State::Before,
        }
    }

    /// What was read, once it was read to its end; `None` before, and after an error.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let hash = *self.hasher.finalize().as_bytes();
        (self.state == State::Finished).then_some(Summary { hash, ..self.totals })
    }

    /// Reads what is left, and checks that it is the manifest with this hash.
    pub fn finish(mut self, expected: &Hash) -> Result<Summary, ManifestError> {
        for entry in self.by_ref() {
            entry?;
        }
        let summary =
            self.summary().ok_or(ManifestError::CutOff { offset: self.offset, entries: self.totals.entries })?;
        if summary.hash != *expected {
            return Err(ManifestError::Other { found: hex(&summary.hash) });
        }
        Ok(summary)
    }

    fn advance(&mut self) -> Result<Option<Entry>, ManifestError> {
        if self.state == State::Before {
            self.begin()?;
        }
        while self.at == self.section.len() {
            if self.next_section()? == END {
                self.check_end()?;
                self.state = State::Finished;
                return Ok(None);
            }
        }
        let entry = self.decoder.decode(&self.section, &mut self.at);
        let entry = entry.map_err(|source| ManifestError::Malformed { offset: self.section_start, source })?;
        if self.decoder.is_out_of_order() {
            return Err(ManifestError::Order { path: entry.path.escape_ascii().to_string() });
        }
        self.totals.count(&entry, None);
        Ok(Some(entry))
    }

    fn begin(&mut self) -> Result<(), ManifestError> {
        let mut magic = [0; MAGIC.len()];
        self.fill(&mut magic)?;
        if magic != *MAGIC {
            return Err(ManifestError::Format);
        }
        self.state = State::Within;
        Ok(())
    }

    fn next_section(&mut self) -> Result<u8, ManifestError> {
        self.section_start = self.offset;
        let mut head_bytes = [0; HEAD_BYTES];
        self.fill(&mut head_bytes)?;
        let [kind, length @ ..] = head_bytes;
        let length = u32::from_le_bytes(length) as usize;
        // Before memory is taken for it.
        if length == 0 || length > SECTION_BYTES_MAX || !matches!(kind, ENTRIES | END) {
            return Err(self.damaged(HEAD_BYTES));
        }
        self.section.clear();
        self.section.shrink_to(2 * SECTION_BYTES);
        self.section.resize(length, 0);
        self.at = 0;
        let mut section = std::mem::take(&mut self.section);
        let mut found = [0; CHECKSUM_BYTES];
        self.fill(&mut section)?;
        self.fill(&mut found)?;
        self.section = section;
        if checksum(self.number, head_bytes, &self.section) != found {
            return Err(self.damaged(HEAD_BYTES + length + CHECKSUM_BYTES));
        }
        self.number += 1;
        self.decoder.begin_section();
        Ok(kind)
    }

    fn check_end(&mut self) -> Result<(), ManifestError> {
        let totals = self.totals;
        let expected = [totals.entries, totals.files, totals.bytes].into_iter().flat_map(u64::to_le_bytes);
        if !expected.eq(self.section.iter().copied()) {
            return Err(ManifestError::Totals);
        }
        let offset = self.offset;
        match self.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ManifestError::Trailing { offset }),
            Err(source) => Err(ManifestError::Read { offset, source }),
        }
    }

    fn damaged(&self, length: usize) -> ManifestError {
        ManifestError::Damaged { offset: self.section_start, length: length as u64, entries: self.totals.entries }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ManifestError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => return Err(ManifestError::CutOff { offset: self.offset, entries: self.totals.entries }),
                Ok(count) => filled += count,
                Err(source) => return Err(ManifestError::Read { offset: self.offset, source }),
            }
        }
        self.hasher.update(buffer);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    self.offset += *read.as_ref().unwrap_or(&0) as u64;
                    return read;
                }
            }
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Finished | State::Failed) {
            return None;
        }
        let advanced = self.advance();
        if advanced.is_err() {
            self.state = State::Failed;
        }
        advanced.transpose()
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
