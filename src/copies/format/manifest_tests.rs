use super::super::entry::{Marks, Origin, Stamp};
use super::*;

/// A generator of numbers, the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn file(path: &[u8], size: u64) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: Kind::File { size, hash: [3; 32], holes: Vec::new(), blocks: None },
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Stamp { s: 1_700_000_000, ns: 999_999_999 },
        source: Origin { dev: 2049, ino: 77, ctime: Stamp { s: 1_700_000_001, ns: 5 }, btime: None },
        group: None,
        attributes: Vec::new(),
        marks: Marks::default(),
    }
}

/// One of everything, in order.
fn all_kinds() -> Vec<Entry> {
    let with = |path: &[u8], kind: Kind| Entry { kind, ..file(path, 0) };
    let large = (16 << 20) + 1;
    let kind = Kind::File {
        size: large,
        hash: [1; 32],
        holes: vec![(0, 4096), (65_536, 1 << 20)],
        blocks: Some((0..=255).chain([9]).map(|n| [n; 32]).collect()),
    };
    vec![
        with(b"d", Kind::Dir),
        with(b"d/block", Kind::Block { rdev: u64::MAX }),
        with(b"d/char", Kind::Char { rdev: 259 }),
        with(b"d/fifo", Kind::Fifo),
        Entry {
            attributes: vec![(b"security.capability".to_vec(), vec![0; 20]), (b"user.\xff".to_vec(), Vec::new())],
            group: Some(77),
            marks: Marks { unstable: true, growing: true, live_db: true, stale: true },
            mode: 0o7777,
            uid: u32::MAX,
            gid: 0,
            mtime: Stamp { s: i64::MIN, ns: 0 },
            source: Origin {
                dev: u64::MAX,
                ino: u64::MAX,
                ctime: Stamp { s: i64::MAX, ns: 1 },
                btime: Some(Stamp { s: -1, ns: 7 }),
            },
            ..with(b"d/large", kind)
        },
        with(b"d/link", Kind::Link { target: b"../\xff\n".to_vec() }),
        with(b"d/new\nline", Kind::Socket),
        Entry { source: Origin { btime: Some(file(b"x", 0).mtime), ..file(b"x", 0).source }, ..file(&[b'x'; 255], 5) },
    ]
}

fn written(entries: &[Entry]) -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for entry in entries {
        writer.push(entry).unwrap();
    }
    let summary = writer.finish().unwrap();
    (bytes, summary)
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
    Reader::new(bytes).collect()
}

/// As of a tree with many small files.
fn many(count: u64) -> Vec<Entry> {
    let mut numbers = Numbers(42);
    let mut entries: Vec<Entry> = (0..count)
        .map(|n| {
            let path = format!("var/lib/app/directory-{:03}/file-{n:06}.dat", n / 100);
            let mut entry = file(path.as_bytes(), numbers.below(16_384));
            entry.mtime = Stamp {
                s: 1_700_000_000 + n.cast_signed() / 100,
                ns: u32::try_from(numbers.below(1_000_000_000)).unwrap(),
            };
            let ctime = Stamp { ns: (entry.mtime.ns + 4_000_000) % 1_000_000_000, ..entry.mtime };
            entry.source = Origin { dev: 2049, ino: 1_000_000 + n, ctime, btime: Some(entry.mtime) };
            entry
        })
        .collect();
    entries.sort_by(|a, b| order(&a.path, &b.path));
    entries
}

#[test]
fn everything_comes_back_as_it_was_written() {
    let entries = all_kinds();
    let (bytes, summary) = written(&entries);
    assert_eq!((summary.entries, summary.files, summary.bytes), (8, 2, (16 << 20) + 6));
    assert_eq!(summary.hash, *blake3::hash(&bytes).as_bytes());
    let mut reader = Reader::new(bytes.as_slice());
    assert!(reader.summary().is_none());
    let found: Vec<Entry> = reader.by_ref().map(Result::unwrap).collect();
    assert_eq!(found, entries);
    assert_eq!(reader.summary(), Some(summary));
    assert_eq!(Reader::new(bytes.as_slice()).finish(&summary.hash).unwrap(), summary);
    assert!(matches!(Reader::new(bytes.as_slice()).finish(&[0; 32]), Err(ManifestError::Other { .. })));
}

#[test]
fn empty_manifest_is_one_and_an_empty_file_is_not() {
    let (bytes, summary) = written(&[]);
    assert_eq!(Reader::new(bytes.as_slice()).finish(&summary.hash).unwrap().entries, 0);
    assert!(matches!(read(b"").unwrap_err(), ManifestError::CutOff { offset: 0, entries: 0 }));
    assert!(matches!(read(b"something else altogether").unwrap_err(), ManifestError::Format));
}

#[test]
fn cut_off_anywhere_is_noticed_at_the_end() {
    let (bytes, _) = written(&all_kinds());
    for length in 0..bytes.len() {
        assert!(matches!(read(&bytes[..length]), Err(ManifestError::CutOff { .. })), "{length} bytes of it");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(matches!(read(&longer), Err(ManifestError::Trailing { .. })));
}

#[test]
fn flipped_bit_anywhere_is_noticed_and_what_was_read_before_is_right() {
    let entries = many(3000);
    let (bytes, _) = written(&entries);
    assert!(bytes.len() > 2 * SECTION_BYTES, "more than one section");
    let mut numbers = Numbers(7);
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        let at = usize::try_from(numbers.below(bytes.len() as u64)).unwrap();
        damaged[at] ^= 1 << numbers.below(8);
        let mut right = entries.iter();
        let error = Reader::new(damaged.as_slice()).find_map(|entry| match entry {
            Ok(entry) => {
                assert_eq!(Some(&entry), right.next());
                None
            }
            Err(error) => Some(error),
        });
        assert!(error.is_some(), "byte {at}");
    }
}

#[test]
fn sections_in_another_order_are_noticed() {
    let (bytes, _) = written(&many(4000));
    let length =
        |at: usize| HEAD_BYTES + CHECKSUM_BYTES + u32::from_le_bytes(*bytes[at + 1..].first_chunk().unwrap()) as usize;
    let (first, second) = (MAGIC.len(), MAGIC.len() + length(MAGIC.len()));
    let third = second + length(second);
    let swapped = [&bytes[..first], &bytes[second..third], &bytes[first..second], &bytes[third..]].concat();
    assert!(matches!(read(&swapped), Err(ManifestError::Damaged { .. })));
    let without = [&bytes[..first], &bytes[second..]].concat();
    assert!(matches!(read(&without), Err(ManifestError::Damaged { entries: 0, .. })));
}

/// Behind a right checksum, so that the inside of sections is reached.
#[test]
fn no_section_makes_the_reader_fail_otherwise_than_with_an_error() {
    let (bytes, _) = written(&all_kinds());
    let end = bytes.len() - (HEAD_BYTES + 24 + CHECKSUM_BYTES);
    let content = &bytes[MAGIC.len() + HEAD_BYTES..end - CHECKSUM_BYTES];
    let mut numbers = Numbers(99);
    let (mut read_on, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut content = content.to_vec();
        for _ in 0..=numbers.below(4) {
            let at = usize::try_from(numbers.below(content.len() as u64)).unwrap();
            match numbers.below(4) {
                0 => content[at] = numbers.next().to_le_bytes()[0],
                1 => content[at] = 0xff,
                2 => content.truncate(at + 1),
                _ => content.extend_from_within(at..),
            }
        }
        let head = head(ENTRIES, u32::try_from(content.len()).unwrap());
        let mut forged = [MAGIC.as_slice(), &head, &content, &checksum(0, head, &content)].concat();
        forged.extend_from_slice(&bytes[end..]);
        match read(&forged) {
            Ok(_) => read_on += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10_000 && read_on > 10, "{refused} refused, {read_on} read");
}

#[test]
fn huge_length_takes_no_memory() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&head(ENTRIES, u32::MAX));
    assert!(matches!(read(&bytes), Err(ManifestError::Damaged { .. })));
}

#[test]
fn what_is_no_entry_is_refused_when_it_is_written() {
    let refused = |entries: &[Entry]| {
        let mut writer = Writer::new(Vec::new());
        entries.iter().map(|entry| writer.push(entry)).find_map(Result::err).unwrap().to_string()
    };
    assert_eq!(refused(&[file(b"b", 0), file(b"a", 0)]), "a comes out of order in a manifest");
    assert_eq!(refused(&[file(b"a", 0), file(b"a", 0)]), "a comes out of order in a manifest");
    for path in ["", "/a", "a/", "a//b", "a/../b", ".", "a\0"] {
        assert!(refused(&[file(path.as_bytes(), 0)]).contains("not one below the top"), "{path}");
    }
    let mut holed = file(b"a", 100);
    holed.kind = Kind::File { size: 100, hash: [0; 32], holes: vec![(90, 20)], blocks: None };
    assert!(refused(&[holed]).contains("holes"));
    let mut blocks = file(b"a", 100);
    blocks.kind = Kind::File { size: 100, hash: [0; 32], holes: Vec::new(), blocks: Some(vec![[0; 32]]) };
    assert!(refused(&[blocks]).contains("blocks"));
}

#[test]
fn entry_of_a_small_file_takes_less_than_seventy_bytes() {
    let (bytes, _) = written(&many(20_000));
    let each = bytes.len() / 20_000;
    assert!((55..70).contains(&each), "{each} bytes an entry");
}
