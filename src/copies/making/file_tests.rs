use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::copies::format::hash::block_hash;
use crate::sys::dir::Dir;
use crate::sys::testing::{TempDir, root_or_skip};

const MIB: usize = 1 << 20;

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1]).collect()
}

fn with_means<T>(pace: &mut dyn FnMut(u64) -> io::Result<()>, run: impl FnOnce(&mut Means<'_>) -> T) -> T {
    run(&mut Means { buffer: &mut buffer().unwrap(), pace })
}

fn fresh(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

/// Copies `source` to `into` beside it.
fn copied(directory: &Path, pace: &mut dyn FnMut(u64) -> io::Result<()>) -> Result<Copied, FileError> {
    let source = File::open(directory.join("source")).unwrap();
    let into = fresh(&directory.join("into"));
    with_means(pace, |means| copy(&source, &into, means))
}

#[test]
fn content_and_hash_are_those_of_the_source_at_any_size() {
    for length in [0, 1, 4095, BUFFER_BYTES, BUFFER_BYTES + 1, 17 * MIB + 3] {
        let directory = TempDir::new();
        let bytes = content(length);
        fs::write(directory.path().join("source"), &bytes).unwrap();
        let mut read = 0;
        let copied = copied(directory.path(), &mut |count| {
            read += count;
            Ok(())
        });
        let copied = copied.unwrap();
        assert_eq!(fs::read(directory.path().join("into")).unwrap(), bytes);
        assert_eq!((copied.size, copied.written, read), (length as u64, length as u64, length as u64));
        assert_eq!((copied.hash, copied.changed), (*blake3::hash(&bytes).as_bytes(), Change::Still));
        assert_eq!(copied.blocks.is_some(), length > 16 * MIB);
        if let Some(blocks) = &copied.blocks {
            assert_eq!(blocks[3], block_hash(3, 65_536, &bytes[3 * 65_536..4 * 65_536]));
        }
        let into = File::open(directory.path().join("into")).unwrap();
        let hashed = with_means(&mut |_| Ok(()), |means| hash(&into, means)).unwrap();
        assert_eq!(hashed, Hashed { size: copied.size, hash: copied.hash, blocks: copied.blocks });
    }
}

#[test]
fn holes_stay_holes() {
    let directory = TempDir::new();
    let source = fresh(&directory.path().join("source"));
    source.write_all_at(&[1; 4096], MIB as u64).unwrap();
    source.write_all_at(&[2; 4096], 20 * MIB as u64).unwrap();
    source.set_len(40 * MIB as u64 + 5).unwrap();
    if clone::next_data(&source, 0).unwrap() != Some(MIB as u64) {
        eprintln!("skipped: {} knows of no holes", directory.path().display());
        return;
    }
    let copied = copied(directory.path(), &mut |_| Ok(())).unwrap();
    let bytes = fs::read(directory.path().join("source")).unwrap();
    assert!(bytes == fs::read(directory.path().join("into")).unwrap());
    assert_eq!(copied.hash, *blake3::hash(&bytes).as_bytes());
    assert_eq!((copied.holes.len(), copied.holes[0], copied.written), (3, (0, MIB as u64), 8192));
    let into = fs::metadata(directory.path().join("into")).unwrap();
    assert!(into.blocks() <= 64, "{} blocks", into.blocks());
}

#[test]
fn what_changes_while_it_is_read_is_told() {
    type Act<'a> = &'a dyn Fn(&Path);
    let append = |path: &Path| {
        let file = File::options().append(true).open(path).unwrap();
        io::Write::write_all(&mut &file, b"more").unwrap();
    };
    let overwrite = |path: &Path| File::options().write(true).open(path).unwrap().write_all_at(b"other", 0).unwrap();
    let cut = |path: &Path| File::options().write(true).open(path).unwrap().set_len(300_000).unwrap();
    let both = |path: &Path| {
        overwrite(path);
        append(path);
    };
    let cases: [(Act<'_>, Change, usize); 4] = [
        (&append, Change::Growing, MIB),
        (&overwrite, Change::Changed, MIB),
        (&both, Change::Changed, MIB),
        (&cut, Change::Changed, 300_000),
    ];
    for (change, expected, size) in cases {
        let directory = TempDir::new();
        let path = directory.path().join("source");
        fs::write(&path, content(MIB)).unwrap();
        let mut changes = Some(change);
        let copied = copied(directory.path(), &mut |_| {
            if let Some(change) = changes.take() {
                change(&path);
            }
            Ok(())
        });
        let copied = copied.unwrap();
        assert_eq!((copied.changed, copied.size), (expected, size as u64));
        assert_eq!(fs::metadata(directory.path().join("into")).unwrap().len(), size as u64);
    }
}

#[test]
fn pass_is_stopped_by_pace_and_other_things_than_files_are_refused() {
    let directory = TempDir::new();
    fs::write(directory.path().join("source"), content(MIB)).unwrap();
    let stopped = copied(directory.path(), &mut |_| Err(io::Error::other("enough")));
    assert!(matches!(stopped, Err(FileError::Stopped(_))));
    let dir = Dir::open(directory.path()).unwrap();
    dir.make_node(OsStr::new("pipe"), 0o010_600, 0).unwrap();
    let (pipe, into) = (dir.read(OsStr::new("pipe")).unwrap(), dir.create(OsStr::new("x"), 0o600).unwrap());
    assert!(matches!(with_means(&mut |_| Ok(()), |means| copy(&pipe, &into, means)), Err(FileError::NotAFile)));
}

#[test]
fn full_disk_is_told_with_the_place() {
    let directory = TempDir::new();
    fs::write(directory.path().join("source"), content(100)).unwrap();
    let source = File::open(directory.path().join("source")).unwrap();
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let error = with_means(&mut |_| Ok(()), |means| copy(&source, &full, means)).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the copy at byte 0");
}

#[test]
fn target_that_shares_no_pages_asks_for_a_whole_copy() {
    let directory = TempDir::new();
    fs::write(directory.path().join("old"), content(100)).unwrap();
    let old = File::open(directory.path().join("old")).unwrap();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    assert!(with_means(&mut |_| Ok(()), |means| patch(&old, &old, &[], &null, means)).unwrap().is_none());
}

/// A file system that shares pages, on a loop device; gone at the end.
struct Xfs(TempDir);

impl Xfs {
    fn mounted() -> Option<Self> {
        if !root_or_skip("mounting an image") {
            return None;
        }
        let directory = TempDir::new();
        let (image, mount) = (directory.path().join("image"), directory.path().join("mnt"));
        File::create_new(&image).unwrap().set_len(400 * MIB as u64).unwrap();
        fs::create_dir(&mount).unwrap();
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !done(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image)) {
            eprintln!("skipped: no mkfs.xfs");
            return None;
        }
        if !done(Command::new("mount").args(["-o", "loop"]).args([&image, &mount])) {
            eprintln!("skipped: an image of XFS cannot be mounted here");
            return None;
        }
        Some(Self(directory))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mnt")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn patch_writes_the_pages_that_differ_and_nothing_else() {
    let Some(xfs) = Xfs::mounted() else { return };
    let root = xfs.path();
    let mut bytes = content(24 * MIB + 100);
    fs::write(root.join("source"), &bytes).unwrap();
    let first = copied(&root, &mut |_| Ok(())).unwrap();
    // A page here and there, the last one, a new end, and a hole where there was data.
    for at in [5, 4096 * 100 + 7, 10 * MIB] {
        bytes[at] ^= 1;
    }
    bytes.extend_from_slice(&[7; 5000]);
    bytes[4 * MIB..5 * MIB].fill(0);
    let source = File::options().read(true).write(true).open(root.join("source")).unwrap();
    source.write_all_at(&bytes, 0).unwrap();
    clone::punch_hole(&source, 4 * MIB as u64, MIB as u64).unwrap();
    let (old, into) = (File::open(root.join("into")).unwrap(), fresh(&root.join("new")));
    let blocks = first.blocks.unwrap();
    let patched = with_means(&mut |_| Ok(()), |means| patch(&source, &old, &blocks, &into, means)).unwrap().unwrap();
    assert!(bytes == fs::read(root.join("new")).unwrap(), "the new content");
    assert_eq!(patched.hash, *blake3::hash(&bytes).as_bytes());
    assert!((4 * 4096..=6 * 4096).contains(&patched.written), "{} bytes written", patched.written);
    assert_eq!(patched.holes, [(4 * MIB as u64, MIB as u64)]);
    assert!(content(24 * MIB + 100) == fs::read(root.join("into")).unwrap(), "the version before is as it was");

    bytes.truncate(17 * MIB + 1);
    source.set_len(bytes.len() as u64).unwrap();
    let shorter = fresh(&root.join("shorter"));
    let blocks = patched.blocks.unwrap();
    let cut = with_means(&mut |_| Ok(()), |means| patch(&source, &into, &blocks, &shorter, means)).unwrap().unwrap();
    assert!(bytes == fs::read(root.join("shorter")).unwrap());
    assert_eq!((cut.size, cut.written, cut.hash), (bytes.len() as u64, 0, *blake3::hash(&bytes).as_bytes()));
}
