//! Sets for the tests of what reads, mends and restores: made by hand and by the standard library, so that no mistake of the one who takes copies hides one here.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::copies::conduct::Conduct;
use crate::copies::format::commit::Commit;
use crate::copies::format::entry::{Entry, Kind, hex, order};
use crate::copies::format::layout::{COMMIT, DATA, MANIFEST, directory_of};
use crate::copies::format::manifest::Writer;
use crate::copies::place::init::{Claim, init};
use crate::copies::place::target::{Set, Target};
use crate::engine::copies::catalog::Cause;
use crate::engine::copies::order::{Finding, FindingKind, Progress};
use crate::engine::copies::plan::{CopyPlan, ReadBack, Space};
use crate::engine::types::Time;
use crate::sys::attributes::{Inode, list_named};
use crate::sys::clock::clocks;
use crate::sys::dir::{Dir, FileType};
use crate::sys::testing::TempDir;

pub(in crate::copies) const HOUR: Duration = Duration::from_hours(1);

/// A source, its set, and whoever runs jobs on it.
pub(in crate::copies) struct Fixture {
    directory: TempDir,
    pub(in crate::copies) plan: CopyPlan,
    pub(in crate::copies) set: Set,
    pub(in crate::copies) conduct: Watched,
    copies: u64,
    /// Later than every file.
    first: Time,
}

/// Keeps what it is told.
pub(in crate::copies) struct Watched {
    pub(in crate::copies) findings: Vec<Finding>,
    pub(in crate::copies) now: Time,
    /// Cancelled after so many times of being asked.
    pub(in crate::copies) patience: std::cell::Cell<u64>,
    pub(in crate::copies) last: Progress,
}

impl Conduct for Watched {
    fn progress(&mut self, progress: Progress) {
        self.last = progress;
    }

    fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn is_cancelled(&self) -> bool {
        let left = self.patience.get();
        self.patience.set(left.saturating_sub(1));
        left == 0
    }

    fn quiesce(&mut self, _: bool) -> Result<(), String> {
        Ok(())
    }

    fn still_quiet(&self) -> bool {
        true
    }

    fn pace(&mut self, _: u64) {}

    fn now(&self) -> Time {
        self.now
    }
}

impl Watched {
    /// The kinds and paths of what was found, and forgets them.
    pub(in crate::copies) fn taken(&mut self) -> Vec<(FindingKind, String)> {
        self.findings.drain(..).map(|finding| (finding.kind, finding.path)).collect()
    }
}

impl Fixture {
    pub(in crate::copies) fn new() -> Self {
        let directory = TempDir::new();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        let plan = CopyPlan {
            same_disk: true,
            scrub_every: Some(24 * HOUR),
            space: Space::NO_RESERVE,
            read_back: ReadBack::None,
            ..CopyPlan::with_defaults("set", source, directory.path().join("target"))
        };
        let patience = std::cell::Cell::new(u64::MAX);
        let first = Time(clocks().wall_ns).after(24 * HOUR);
        let mut conduct = Watched { findings: Vec::new(), now: first, patience, last: Progress::default() };
        init(&plan, Claim::No, &mut conduct).unwrap();
        let set = Target::open(&plan).unwrap().lock().unwrap();
        Self { directory, plan, set, conduct, copies: 0, first }
    }

    pub(in crate::copies) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Below the source.
    pub(in crate::copies) fn source(&self, name: &str) -> PathBuf {
        self.plan.from[0].join(name)
    }

    /// A source with one of everything that can be made here.
    pub(in crate::copies) fn fill(&self) {
        let at = |name: &str| self.source(name);
        fs::create_dir_all(at("d/deep")).unwrap();
        fs::write(at("a"), "first").unwrap();
        fs::write(at("d/b"), vec![7; 100_000]).unwrap();
        fs::hard_link(at("d/b"), at("d/deep/b2")).unwrap();
        fs::write(at("d/deep/empty"), "").unwrap();
        fs::write(self.odd(), "odd").unwrap();
        symlink("../a", at("d/link")).unwrap();
        let sparse = File::create(at("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 700_000).unwrap();
        let dir = Dir::open(&self.plan.from[0]).unwrap();
        dir.make_node(OsStr::new("fifo"), 0o010_600, 0).unwrap();
        Inode::named(&dir, OsStr::new("a")).unwrap().set_attribute(b"user.mine", b"value").unwrap_or(());
        dir.make_dir(OsStr::new("empty"), 0o1750).unwrap();
    }

    /// A name that is no text.
    pub(in crate::copies) fn odd(&self) -> PathBuf {
        self.plan.from[0].join("d").join(OsStr::from_bytes(b"new\nline\xff"))
    }

    /// A copy of the source as it is now; what is as in the copy before is linked. Later by an hour.
    pub(in crate::copies) fn copy(&mut self) -> u64 {
        self.copies += 1;
        let seq = self.copies;
        let at = self.first.after(HOUR * u32::try_from(seq).unwrap());
        self.conduct.now = at;
        let before = seq.checked_sub(1).filter(|seq| *seq > 0).map(|seq| self.data(seq));
        let directory = self.set.path().join("copies").join(directory_of(seq, at));
        fs::create_dir_all(directory.join(DATA)).unwrap();
        let mut entries = Vec::new();
        let mut way = PathBuf::new();
        for part in self.plan.from[0].components().skip(1) {
            way.push(part);
            entries.push(entry(&way));
        }
        walk(&way, &mut entries);
        entries.sort_by(|a, b| order(&a.path, &b.path));
        for entry in &entries {
            lay(entry, &directory.join(DATA), before.as_deref());
        }
        for entry in entries.iter().rev().filter(|entry| entry.kind == Kind::Dir) {
            dress(&directory.join(DATA), entry);
        }
        let mut manifest = Writer::new(File::create(directory.join(MANIFEST)).unwrap());
        entries.iter().for_each(|entry| manifest.push(entry).unwrap());
        let summary = manifest.finish().unwrap();
        let previous = self.set.listed().unwrap().last().map(|listed| hex(&listed.commit.hash().unwrap()));
        let commit = Commit {
            format: 1,
            set: "set".to_owned(),
            seq,
            at,
            took: 1,
            cause: Cause::ByHand,
            manifest: hex(&summary.hash),
            entries: summary.entries,
            files: summary.files,
            bytes: summary.bytes,
            written_bytes: 0,
            stale: 0,
            unstable: 0,
            suspect: None,
            clock_suspect: false,
            large: 0,
            large_over: 0,
            sources: Vec::new(),
            previous,
        };
        fs::write(directory.join(COMMIT), commit.encode().unwrap()).unwrap();
        seq
    }

    /// The manifest of the newest copy says that this file has this content.
    pub(in crate::copies) fn claim(&mut self, seq: u64, name: &str, content: &[u8]) {
        let mut commit = self.set.copy(seq).unwrap().commit;
        let path = self.source(name);
        let entries = self.set.copy(seq).unwrap().manifest().unwrap().map(Result::unwrap);
        let mut bytes = Vec::new();
        let mut manifest = Writer::new(&mut bytes);
        for mut entry in entries {
            if let Kind::File { hash, .. } = &mut entry.kind
                && Path::new("/").join(OsStr::from_bytes(&entry.path)) == path
            {
                *hash = *blake3::hash(content).as_bytes();
            }
            manifest.push(&entry).unwrap();
        }
        let summary = manifest.finish().unwrap();
        commit.manifest = hex(&summary.hash);
        let directory = self.data(seq).parent().unwrap().to_owned();
        fs::write(directory.join(MANIFEST), bytes).unwrap();
        fs::write(directory.join(COMMIT), commit.encode().unwrap()).unwrap();
    }

    /// `data/` of a copy.
    pub(in crate::copies) fn data(&self, seq: u64) -> PathBuf {
        let listed = self.set.listed().unwrap();
        let listed = listed.iter().find(|listed| listed.commit.seq == seq).unwrap();
        self.set.path().join("copies").join(&listed.directory).join(DATA)
    }

    /// Where a file of the source lies in a copy.
    pub(in crate::copies) fn copied(&self, seq: u64, name: &str) -> PathBuf {
        self.data(seq).join(self.source(name).strip_prefix("/").unwrap())
    }

    /// Changes content and nothing else, as a bad disk does.
    pub(in crate::copies) fn rot(path: &Path) {
        let times = fs::metadata(path).unwrap();
        let mut content = fs::read(path).unwrap();
        content[0] ^= 1;
        let file = File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &content[..1], 0).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
        file.sync_all().unwrap();
    }

    /// Everything of two trees that a copy keeps, by another program where it is there, and by the standard library.
    pub(in crate::copies) fn assert_alike(one: &Path, other: &Path) {
        assert_eq!(lines_of(one), lines_of(other), "{} and {}", one.display(), other.display());
        compare_by_tar(one, other);
    }
}

/// One line for each file: all but the times of reading and of the inode.
fn lines_of(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut names = std::collections::BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(root).unwrap().to_owned();
        let first = names.entry(found.ino()).or_insert_with(|| below.clone()).clone();
        let content =
            if found.is_file() { hex(blake3::hash(&fs::read(&path).unwrap()).as_bytes()) } else { String::new() };
        let target = fs::read_link(&path).unwrap_or_default();
        let directory = Dir::open(path.parent().unwrap()).unwrap();
        let attributes = list_named(&directory, path.file_name().unwrap()).unwrap();
        let nlink = if found.is_dir() { 0 } else { found.nlink() };
        let blocks = found.len() >= 1 << 20 && found.blocks() * 512 < found.len();
        lines.push(format!(
            "{below:?} {:o} {}:{} {}.{} {} {nlink} {first:?} {content} {target:?} {attributes:?} holes {blocks}",
            found.mode(),
            found.uid(),
            found.gid(),
            found.mtime(),
            found.mtime_nsec(),
            if found.is_dir() { 0 } else { found.len() },
        ));
        if found.is_dir() {
            let mut children: Vec<_> = fs::read_dir(&path).unwrap().map(|child| child.unwrap().path()).collect();
            children.sort();
            children.reverse();
            todo.extend(children);
        }
    }
    lines
}

fn compare_by_tar(one: &Path, other: &Path) {
    let archive = std::process::Command::new("tar").args(["--xattrs", "-cf", "-", "-C"]).arg(one).arg(".").output();
    let Ok(archive) = archive else {
        eprintln!("skipped: there is no tar to compare with");
        return;
    };
    assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
    let mut compare = std::process::Command::new("tar")
        .args(["--xattrs", "--compare", "-f", "-", "-C"])
        .arg(other)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = compare.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &archive.stdout).unwrap());
    let said = compare.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && text.is_empty(), "{text}");
}

fn entry(path: &Path) -> Entry {
    let whole = Path::new("/").join(path);
    let (dir, name) = (Dir::open(whole.parent().unwrap()).unwrap(), whole.file_name().unwrap());
    let mut entry = Entry::of(path.as_os_str().as_bytes().to_vec(), &dir.stat(name).unwrap()).unwrap();
    entry.attributes = list_named(&dir, name).unwrap();
    match &mut entry.kind {
        Kind::File { hash, .. } => *hash = *blake3::hash(&fs::read(&whole).unwrap()).as_bytes(),
        Kind::Link { target } => *target = dir.read_link(name).unwrap().as_bytes().to_vec(),
        Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => {}
    }
    entry
}

fn walk(directory: &Path, entries: &mut Vec<Entry>) {
    for (name, kind, _) in Dir::open(&Path::new("/").join(directory)).unwrap().entries().unwrap() {
        let path = directory.join(name);
        entries.push(entry(&path));
        if kind == FileType::Dir {
            walk(&path, entries);
        }
    }
}

/// Links it from the copy before where that has it just so, else from an earlier name of the same inode, else makes it.
fn lay(entry: &Entry, data: &Path, before: Option<&Path>) {
    let path = Path::new(OsStr::from_bytes(&entry.path));
    let whole = Path::new("/").join(path);
    let into = data.join(path);
    let older = before.map(|before| before.join(path));
    let is_same = |older: &PathBuf| {
        let Ok(found) = fs::symlink_metadata(older) else { return false };
        let same_time = (found.mtime(), found.mtime_nsec()) == (entry.mtime.s, i64::from(entry.mtime.ns));
        same_time
            && found.mode() & 0o7777 == entry.mode
            && (!found.is_file() || fs::read(older).unwrap() == fs::read(&whole).unwrap())
    };
    if entry.kind == Kind::Dir {
        return fs::create_dir_all(into).unwrap();
    }
    if let Some(older) = older.filter(is_same) {
        return fs::hard_link(older, into).unwrap();
    }
    let first = entry.group.and_then(|group| find(data, group, entry.mtime.s));
    if let Some(first) = first {
        return fs::hard_link(first, into).unwrap();
    }
    match &entry.kind {
        Kind::File { .. } => sparsely(&whole, &into),
        Kind::Link { target } => symlink(OsStr::from_bytes(target), &into).unwrap(),
        Kind::Fifo => {
            let dir = Dir::open(into.parent().unwrap()).unwrap();
            dir.make_node(into.file_name().unwrap(), 0o010_600, 0).unwrap();
        }
        Kind::Dir | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => return,
    }
    dress(data, entry);
    if let Some(group) = entry.group {
        fs::write(marker(data, group, entry.mtime.s), into.as_os_str().as_bytes()).unwrap();
    }
}

/// Where the first name of an inode is kept while a copy is made.
fn marker(data: &Path, group: u64, seconds: i64) -> PathBuf {
    data.parent().unwrap().join(format!("group-{group}-{seconds}"))
}

fn find(data: &Path, group: u64, seconds: i64) -> Option<PathBuf> {
    let path = fs::read(marker(data, group, seconds)).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(&path)))
}

fn sparsely(from: &Path, into: &Path) {
    let content = fs::read(from).unwrap();
    let file = File::create(into).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (index, page) in content.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, page, index as u64 * 4096).unwrap();
        }
    }
}

fn dress(data: &Path, entry: &Entry) {
    let path = data.join(OsStr::from_bytes(&entry.path));
    let dir = Dir::open(path.parent().unwrap()).unwrap();
    let inode = Inode::named(&dir, path.file_name().unwrap()).unwrap();
    inode.chown(Some(entry.uid), Some(entry.gid)).unwrap_or(());
    if !matches!(entry.kind, Kind::Link { .. }) {
        inode.chmod(entry.mode).unwrap();
    }
    entry.attributes.iter().for_each(|(name, value)| inode.set_attribute(name, value).unwrap());
    inode.set_mtime(entry.mtime).unwrap();
}
