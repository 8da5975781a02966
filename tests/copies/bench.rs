//! A source and a target of one test, and what must hold of them whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mainstay::copies::conduct::Alone;
use mainstay::copies::format::entry::Kind;
use mainstay::copies::making::take::take;
use mainstay::copies::place::init::{Claim, init};
use mainstay::copies::place::target::{Set, Target};
use mainstay::engine::copies::catalog::Cause;
use mainstay::engine::copies::order::{Failure, FailureKind, Outcome};
use mainstay::engine::copies::plan::{CopyPlan, Space};

/// Ctimes younger than this are not believed.
pub(crate) const SETTLE: Duration = Duration::from_millis(25);

/// Nobody but these tests works on their sets.
const BUSY_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    pub(crate) root: PathBuf,
    pub(crate) plan: CopyPlan,
}

/// What a tree is, but for inode numbers: names below it, and all of them that a copy must keep.
pub(crate) type Tree = BTreeMap<PathBuf, String>;

impl Bench {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(place: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-copies-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bench = Self::at(&place.join(name));
        fs::create_dir_all(bench.source()).expect("a directory");
        init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
        bench
    }

    /// Where nothing is ever written to a disk: many calls, and many files, are quick there. `None`: there is no such place, or too little room.
    pub(crate) fn in_memory() -> Option<Self> {
        const ROOM_BYTES: u64 = 1 << 30;
        let place = Path::new("/dev/shm");
        let room = nix::sys::statvfs::statvfs(place).ok()?;
        let has_room = room.blocks_available().saturating_mul(room.fragment_size()) > ROOM_BYTES;
        has_room.then(|| Self::new_in(place))
    }

    /// Of one that is there.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), plan: plan(root.join("src"), root.join("to")) }
    }

    pub(crate) fn source(&self) -> &Path {
        &self.plan.from[0]
    }

    pub(crate) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.source().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    /// A program that another test starts has for a moment all that is open here, and with it the lock that was just let go.
    pub(crate) fn set(&self) -> Set {
        let deadline = Instant::now() + BUSY_MAX;
        loop {
            match Target::open(&self.plan).expect("a target").lock() {
                Ok(set) => return set,
                Err(failure) if failure.kind == FailureKind::Busy && Instant::now() < deadline => {
                    std::thread::sleep(SETTLE);
                }
                Err(failure) => panic!("{failure:?}"),
            }
        }
    }

    pub(crate) fn take(&self) -> Result<Outcome, Failure> {
        std::thread::sleep(SETTLE);
        take(&mut self.set(), &self.plan, Cause::ByHand, &mut Alone::default())
    }

    pub(crate) fn seqs(&self) -> Vec<u64> {
        self.set().catalog().expect("a catalog").copies.iter().map(|copy| copy.seq).collect()
    }

    /// What a copy holds of the source.
    pub(crate) fn copied(&self, seq: u64) -> Tree {
        tree(&self.data(seq))
    }

    /// Where a copy has the source.
    pub(crate) fn data(&self, seq: u64) -> PathBuf {
        self.copy(seq).join("data").join(self.source().strip_prefix("/").expect("absolute"))
    }

    pub(crate) fn copy(&self, seq: u64) -> PathBuf {
        let catalog = self.set().catalog().expect("a catalog");
        let copy = catalog.copies.iter().find(|copy| copy.seq == seq).expect("the copy");
        self.plan.to.join("app/copies").join(&copy.directory)
    }

    /// Every directory of `copies/` has a COMMIT, and every file in it the hash that its manifest says.
    #[track_caller]
    pub(crate) fn all_verify(&self) {
        let set = self.set();
        let seqs: Vec<u64> = set.listed().expect("a list").iter().map(|listed| listed.commit.seq).collect();
        let directories = fs::read_dir(self.plan.to.join("app/copies")).expect("copies").count();
        assert_eq!(directories, seqs.len(), "something in copies/ is no copy");
        for seq in seqs {
            let copy = set.copy(seq).expect("a copy");
            let directory = set.listed().expect("a list").into_iter().find(|listed| listed.commit.seq == seq);
            let data = self.plan.to.join("app/copies").join(directory.expect("listed").directory).join("data");
            let mut entries = 0;
            for entry in copy.manifest().expect("a manifest") {
                let entry = entry.expect("an entry");
                entries += 1;
                let path = data.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&entry.path));
                if let Kind::File { size, hash, .. } = entry.kind {
                    let content = fs::read(&path).expect("a file of the manifest");
                    assert_eq!((content.len() as u64, *blake3::hash(&content).as_bytes()), (size, hash), "{path:?}");
                }
            }
            assert_eq!(entries, copy.commit.entries);
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What a failing test leaves is looked at.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// The directories of a bench as they once were.
#[derive(Debug)]
pub(crate) struct Kept {
    places: Vec<(PathBuf, PathBuf)>,
}

impl Kept {
    /// Of the target alone; not of this program, which lies there, too.
    pub(crate) fn target(bench: &Bench) -> Self {
        Self::of(bench, &[(bench.plan.to.join("app"), "kept-target")])
    }

    /// Of the source, too, which will be other inodes then.
    pub(crate) fn all(bench: &Bench) -> Self {
        Self::of(bench, &[(bench.plan.to.join("app"), "kept-target"), (bench.source().to_owned(), "kept-source")])
    }

    fn of(bench: &Bench, places: &[(PathBuf, &str)]) -> Self {
        let places: Vec<(PathBuf, PathBuf)> =
            places.iter().map(|(place, name)| (place.clone(), bench.root.join(name))).collect();
        for (place, aside) in &places {
            copy_all(place, aside);
        }
        Self { places }
    }

    pub(crate) fn put_back(&self, bench: &Bench) {
        for entry in fs::read_dir(&bench.root).expect("the bench").flatten() {
            let is_wanted = ["src", "to", "kept-target", "kept-source"].iter().any(|name| entry.file_name() == *name);
            if !is_wanted && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                fs::remove_dir_all(entry.path()).expect("what a restore has kept");
            }
        }
        for (place, aside) in &self.places {
            fs::remove_dir_all(place).expect("a directory");
            copy_all(aside, place);
        }
    }
}

/// Links and times as they are.
fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

fn plan(source: PathBuf, to: PathBuf) -> CopyPlan {
    CopyPlan {
        same_disk: true,
        max_shrink_permille: 1000,
        space: Space::NO_RESERVE,
        ..CopyPlan::with_defaults("app", source, to)
    }
}

pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).expect("a name");
        let below = path.strip_prefix(root).expect("below").to_owned();
        let mut text =
            format!("{:o} {}:{} {}.{}", stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec());
        if stat.is_dir() {
            let mut within: Vec<PathBuf> =
                fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
            within.sort();
            left.extend(within);
        } else if stat.is_symlink() {
            text += &format!(" -> {}", fs::read_link(&path).expect("a link").display());
        } else if stat.is_file() {
            text += &format!(" {}", blake3::hash(&fs::read(&path).expect("a file")));
        }
        if !stat.is_dir()
            && stat.nlink() > 1
            && let Some(other) = names.insert(stat.ino(), below.clone())
        {
            text += &format!(" is {}", other.display());
        }
        found.insert(below, text);
    }
    found
}
