//! Copies of real files into real directories.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::take::take;
use crate::copies::conduct::{Alone, Conduct};
use crate::copies::place::init::{Claim, init};
use crate::copies::place::prune::prune;
use crate::copies::place::target::{Set, Target};
use crate::engine::copies::catalog::{Cause, Suspicion, TargetState};
use crate::engine::copies::order::{Failure, FailureKind, Finding, FindingKind, Outcome, Progress};
use crate::engine::copies::plan::{CopyPlan, Quiesce, Space};
use crate::engine::types::Time;
use crate::sys::testing::TempDir;

struct Bench {
    directory: TempDir,
    plan: CopyPlan,
}

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new();
        let source = directory.path().join("src");
        fs::create_dir(&source).unwrap();
        let plan = CopyPlan {
            same_disk: true,
            space: Space::NO_RESERVE,
            ..CopyPlan::with_defaults("app", source, directory.path().join("to"))
        };
        let bench = Self { directory, plan };
        init(&bench.plan, Claim::No, &mut Alone::default()).unwrap();
        bench
    }

    fn source(&self) -> &Path {
        &self.plan.from[0]
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.source().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn set(&self) -> Set {
        Target::open(&self.plan).unwrap().lock().unwrap()
    }

    /// Takes a copy with all ctimes old enough to be believed.
    fn take(&self) -> Outcome {
        self.take_with(&mut Alone::default()).unwrap()
    }

    fn take_with(&self, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
        std::thread::sleep(Duration::from_millis(25));
        take(&mut self.set(), &self.plan, Cause::ByHand, conduct)
    }

    fn seq(&self) -> u64 {
        match self.take() {
            Outcome::Taken { seq, .. } => seq,
            other => panic!("{other:?}"),
        }
    }

    /// The copy's directory of the source.
    fn copy(&self, seq: u64) -> PathBuf {
        let catalog = self.set().catalog().unwrap();
        let copy = catalog.copies.iter().find(|copy| copy.seq == seq).unwrap();
        let data = self.plan.to.join("app/copies").join(&copy.directory).join("data");
        data.join(self.source().strip_prefix("/").unwrap())
    }

    fn same(&self, seq: u64) {
        assert_eq!(tree(&self.copy(seq)), tree(self.source()));
    }
}

/// Everything of a tree that a copy must keep, but for inode numbers.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(root).unwrap().to_owned();
        let mut text =
            format!("{:o} {}:{} {}.{}", stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec());
        if stat.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if stat.is_symlink() {
            text += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if stat.is_file() {
            text += &format!(" {:?}", blake3::hash(&fs::read(&path).unwrap()));
        }
        if !stat.is_dir() && names.insert(stat.ino(), below.clone()).is_some() {
            text += " (linked)";
        }
        found.insert(below, text);
    }
    found
}

fn ino(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn tree_is_copied_with_all_that_it_has_and_nothing_is_written_twice() {
    let bench = Bench::new();
    bench.put("a/b/one", "1");
    bench.put("a/two", vec![7; 300_000]);
    bench.put("empty", "");
    symlink("a/two", bench.source().join("link")).unwrap();
    symlink("/nowhere\n", bench.source().join("dangling")).unwrap();
    let odd = OsStr::from_bytes(b"\xff\xfe \n odd");
    fs::write(bench.source().join(odd), "odd").unwrap();
    fs::write(bench.source().join("l".repeat(255)), "long").unwrap();
    fs::set_permissions(bench.source().join("a/two"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(bench.source().join("a/b"), fs::Permissions::from_mode(0o1500)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(bench.source().join("a/b/one")).unwrap().set_modified(old).unwrap();
    nix::unistd::mkfifo(&bench.source().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.source().join("socket")).unwrap();
    fs::remove_file(bench.source().join("socket")).unwrap();
    let Outcome::Taken { seq: 1, files: 5, written_bytes, linked: 0 } = bench.take() else { panic!() };
    assert!((300_000..310_000).contains(&written_bytes), "{written_bytes}");
    bench.same(1);
    assert_eq!(bench.take(), Outcome::Unchanged { seq: 1 });
    assert_eq!(fs::read_dir(bench.plan.to.join("app/work")).unwrap().count(), 0);
    let catalog = bench.set().catalog().unwrap();
    assert_eq!((catalog.copies.len(), catalog.unchanged.unwrap().seq), (1, 1));
    let copy = &catalog.copies[0];
    assert!(copy.is_good() && !copy.clock_suspect);
    let latest = fs::canonicalize(bench.plan.to.join("app/latest")).unwrap();
    assert!(latest.ends_with(&copy.directory));
}

#[test]
fn unchanged_files_are_linked_and_changed_ones_leave_history_alone() {
    let bench = Bench::new();
    for number in 0..50 {
        bench.put(&format!("d{}/{number}", number % 5), format!("content {number}"));
    }
    assert_eq!(bench.seq(), 1);
    let before = tree(&bench.copy(1));
    bench.put("d0/0", "other");
    fs::remove_file(bench.source().join("d1/1")).unwrap();
    bench.put("new/file", "new");
    let Outcome::Taken { seq: 2, linked, .. } = bench.take() else { panic!() };
    assert_eq!(linked, 48);
    bench.same(2);
    assert_eq!(tree(&bench.copy(1)), before);
    assert_eq!(ino(&bench.copy(1).join("d2/2")), ino(&bench.copy(2).join("d2/2")));
    assert_ne!(ino(&bench.copy(1).join("d0/0")), ino(&bench.copy(2).join("d0/0")));
}

#[test]
fn change_behind_the_same_size_and_mtime_is_seen() {
    let bench = Bench::new();
    bench.put("f", "aaaa");
    let mtime = fs::metadata(bench.source().join("f")).unwrap().modified().unwrap();
    assert_eq!(bench.seq(), 1);
    bench.put("f", "bbbb");
    fs::File::options().write(true).open(bench.source().join("f")).unwrap().set_modified(mtime).unwrap();
    assert_eq!(bench.seq(), 2);
    assert_eq!(fs::read(bench.copy(2).join("f")).unwrap(), b"bbbb");
    assert_eq!(fs::read(bench.copy(1).join("f")).unwrap(), b"aaaa");
}

#[test]
fn metadata_alone_makes_a_new_inode_and_the_old_copy_keeps_the_old_one() {
    let bench = Bench::new();
    bench.put("f", "text");
    bench.seq();
    fs::set_permissions(bench.source().join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(bench.seq(), 2);
    bench.same(2);
    assert_eq!(fs::metadata(bench.copy(1).join("f")).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn moved_files_are_linked_and_never_made_one() {
    let bench = Bench::new();
    bench.put("old/a", vec![1; 100_000]);
    bench.put("log", "line\n");
    bench.seq();
    fs::rename(bench.source().join("old"), bench.source().join("another")).unwrap();
    fs::rename(bench.source().join("log"), bench.source().join("log.1")).unwrap();
    bench.put("log", "");
    let Outcome::Taken { seq: 2, written_bytes, linked, .. } = bench.take() else { panic!() };
    assert_eq!((written_bytes, linked), (0, 2));
    bench.same(2);
    assert_eq!(ino(&bench.copy(1).join("old/a")), ino(&bench.copy(2).join("another/a")));
    // Two equal files in the place of one that is gone are two files.
    let moved = bench.source().join("another/a");
    let mtime = fs::metadata(&moved).unwrap().modified().unwrap();
    for name in ["x", "y"] {
        fs::write(bench.source().join(name), vec![1; 100_000]).unwrap();
        fs::File::options().write(true).open(bench.source().join(name)).unwrap().set_modified(mtime).unwrap();
    }
    fs::remove_file(moved).unwrap();
    assert_eq!(bench.seq(), 3);
    bench.same(3);
    assert_ne!(ino(&bench.copy(3).join("x")), ino(&bench.copy(3).join("y")));
}

#[test]
fn hard_links_stay_hard_links_over_copies() {
    let bench = Bench::new();
    bench.put("a/one", "shared");
    fs::hard_link(bench.source().join("a/one"), bench.source().join("two")).unwrap();
    bench.put("other", "x");
    bench.seq();
    bench.same(1);
    bench.put("other", "y");
    bench.seq();
    bench.same(2);
    fs::hard_link(bench.source().join("two"), bench.source().join("three")).unwrap();
    bench.seq();
    bench.same(3);
    fs::remove_file(bench.source().join("a/one")).unwrap();
    fs::remove_file(bench.source().join("three")).unwrap();
    bench.seq();
    bench.same(4);
}

#[test]
fn empty_and_shrunken_sources_make_suspect_copies_that_are_no_measure() {
    let bench = Bench::new();
    for number in 0..10 {
        bench.put(&format!("{number}"), "x");
    }
    bench.seq();
    let away = bench.directory.path().join("away");
    fs::rename(bench.source(), &away).unwrap();
    let failure = bench.take_with(&mut Alone::default()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Source);
    fs::create_dir(bench.source()).unwrap();
    assert_eq!(bench.seq(), 2);
    let suspect = |seq: usize| bench.set().catalog().unwrap().copies[seq - 1].suspect.clone();
    assert!(matches!(suspect(2), Some(Suspicion::Empty { .. })), "{:?}", suspect(2));
    // The same once more is nothing new.
    assert_eq!(bench.take(), Outcome::Unchanged { seq: 2 });
    for number in 0..4 {
        bench.put(&format!("{number}"), "x");
    }
    assert_eq!(bench.seq(), 3);
    assert_eq!(suspect(3), Some(Suspicion::Shrunk { files_permille: 400, bytes_permille: 400 }));
    fs::remove_dir_all(bench.source()).unwrap();
    fs::rename(&away, bench.source()).unwrap();
    assert_eq!(bench.take(), Outcome::Unchanged { seq: 1 });
}

#[test]
fn guards_refuse_and_make_nothing() {
    let bench = Bench::new();
    let state = |plan: &CopyPlan| Target::open(plan).unwrap_err().0;
    let other = CopyPlan { uuid: Some("another".to_owned()), ..bench.plan.clone() };
    assert!(matches!(state(&other), TargetState::Refused { .. }));
    let elsewhere = CopyPlan { to: bench.directory.path().join("not/there"), ..bench.plan.clone() };
    assert!(matches!(state(&elsewhere), TargetState::Unmarked { .. }));
    assert!(!bench.directory.path().join("not").exists());
    let strict = CopyPlan { same_disk: false, ..bench.plan.clone() };
    assert!(matches!(state(&strict), TargetState::Absent { .. } | TargetState::Refused { .. }), "{:?}", state(&strict));
    assert!(init(&strict, Claim::Taken, &mut Alone::default()).is_err());
    let within = CopyPlan { from: vec![bench.directory.path().to_owned()], ..bench.plan.clone() };
    assert!(matches!(state(&within), TargetState::Refused { .. }));
    fs::remove_file(bench.plan.to.join(".mainstay-target")).unwrap();
    assert!(matches!(state(&bench.plan), TargetState::Unmarked { .. }));
}

#[test]
fn marker_of_another_machine_is_taken_over_only_when_asked() {
    let bench = Bench::new();
    let path = bench.plan.to.join(".mainstay-target");
    let text = fs::read_to_string(&path).unwrap();
    let mut marker: serde_json::Value = serde_json::from_str(&text).unwrap();
    let uuid = marker["uuid"].as_str().unwrap().to_owned();
    assert_eq!(init(&bench.plan, Claim::No, &mut Alone::default()).unwrap(), uuid);
    marker["machine"] = "of somebody else".into();
    fs::write(&path, marker.to_string()).unwrap();
    let failure = init(&bench.plan, Claim::No, &mut Alone::default()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Target);
    assert_eq!(init(&bench.plan, Claim::Taken, &mut Alone::default()).unwrap(), uuid);
}

#[test]
fn second_job_is_told_that_the_set_is_busy_and_may_still_look() {
    let bench = Bench::new();
    bench.put("f", "x");
    bench.seq();
    let _set = bench.set();
    let failure = Target::open(&bench.plan).unwrap().lock().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Busy);
    assert_eq!(Target::open(&bench.plan).unwrap().catalog().unwrap().copies.len(), 1);
}

#[test]
fn what_a_crash_has_left_is_removed_and_what_is_no_copy_goes_to_quarantine() {
    let bench = Bench::new();
    bench.put("f", "x");
    bench.seq();
    let set = bench.plan.to.join("app");
    for left in ["work/000002-20260101T000000Z.tmp/data/x", "trash/000001-20250101T000000Z/data"] {
        fs::create_dir_all(set.join(left)).unwrap();
    }
    fs::create_dir_all(set.join("copies/000009-20260101T000000Z/data")).unwrap();
    fs::write(set.join("copies/note.txt"), "mine").unwrap();
    bench.put("f", "y");
    let mut conduct = Alone::default();
    // The number of what lies in quarantine is not given again.
    assert!(matches!(bench.take_with(&mut conduct).unwrap(), Outcome::Taken { seq: 10, .. }));
    let strays: Vec<&Finding> = conduct.findings.iter().filter(|found| found.kind == FindingKind::Stray).collect();
    assert_eq!(strays.len(), 2, "{strays:?}");
    assert!(set.join("quarantine/note.txt").exists());
    assert_eq!(fs::read_dir(set.join("trash")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(set.join("work")).unwrap().count(), 0);
}

#[test]
fn prune_removes_exactly_these_and_never_the_newest_good_or_a_pinned_one() {
    let bench = Bench::new();
    for number in 1..=4 {
        bench.put("f", format!("{number}"));
        assert_eq!(bench.seq(), number);
    }
    let mut conduct = Alone::default();
    let mut set = bench.set();
    set.update(|state| state.marks_of(2).pinned = true).unwrap();
    for refused in [vec![1, 4], vec![2]] {
        assert_eq!(prune(&mut set, &refused, &mut conduct).unwrap_err().kind, FailureKind::InUse);
    }
    assert_eq!(set.catalog().unwrap().copies.len(), 4);
    let kept = tree(&bench.plan.to.join("app/copies").join(&set.catalog().unwrap().copies[2].directory));
    assert_eq!(prune(&mut set, &[1, 77], &mut conduct).unwrap(), Outcome::Pruned { copies: vec![1] });
    let left: Vec<u64> = set.catalog().unwrap().copies.iter().map(|copy| copy.seq).collect();
    assert_eq!(left, [2, 3, 4]);
    assert_eq!(tree(&bench.plan.to.join("app/copies").join(&set.catalog().unwrap().copies[1].directory)), kept);
}

#[test]
fn unreadable_state_is_set_aside_and_every_copy_is_pinned() {
    let bench = Bench::new();
    bench.put("f", "x");
    bench.seq();
    fs::write(bench.plan.to.join("app/state/state.json"), "{").unwrap();
    let mut set = bench.set();
    assert!(set.catalog().unwrap().copies[0].pinned);
    assert_eq!(set.strays().len(), 1);
    drop(set);
    assert!(bench.set().catalog().unwrap().copies[0].pinned);
}

#[test]
fn forged_latest_does_no_harm() {
    let bench = Bench::new();
    bench.put("f", "x");
    fs::create_dir_all(bench.plan.to.join("app/latest/x")).unwrap();
    let mut conduct = Alone::default();
    bench.take_with(&mut conduct).unwrap();
    assert!(conduct.findings.iter().any(|found| found.kind == FindingKind::Stray && found.path == "latest"));
    bench.same(1);
}

#[test]
fn no_room_is_known_beforehand() {
    let mut bench = Bench::new();
    bench.put("f", "x");
    bench.plan.space.reserve_bytes = u64::MAX / 2;
    let failure = bench.take_with(&mut Alone::default()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Full);
    assert!(failure.what.contains("bytes are missing"), "{}", failure.what);
    assert!(bench.set().catalog().unwrap().copies.is_empty());
}

/// Says when the clock is, and can be made to cancel or to stop holding still.
#[derive(Default)]
struct Strange {
    now: Option<Time>,
    cancels_in: Phases,
    quiesced: Vec<bool>,
}

#[derive(Default, PartialEq)]
enum Phases {
    #[default]
    Never,
    Copying,
}

impl Conduct for Strange {
    fn progress(&mut self, _: Progress) {}

    fn finding(&mut self, _: Finding) {}

    fn is_cancelled(&self) -> bool {
        self.cancels_in == Phases::Copying && self.quiesced.last() == Some(&true)
    }

    fn quiesce(&mut self, on: bool) -> Result<(), String> {
        self.quiesced.push(on);
        Ok(())
    }

    fn still_quiet(&self) -> bool {
        true
    }

    fn pace(&mut self, _: u64) {}

    fn now(&self) -> Time {
        self.now.unwrap_or_else(|| Alone::default().now())
    }

    fn is_clock_synchronised(&self) -> bool {
        false
    }
}

#[test]
fn service_holds_still_only_when_there_is_something_to_copy_and_is_let_go_in_any_case() {
    let mut bench = Bench::new();
    bench.plan.quiesce = Quiesce::Freeze { service: "app".to_owned(), max: Duration::from_secs(2) };
    bench.put("f", "x");
    let mut conduct = Strange::default();
    bench.take_with(&mut conduct).unwrap();
    bench.take_with(&mut conduct).unwrap();
    assert_eq!(conduct.quiesced, [true, false]);
    bench.put("f", "y");
    let mut conduct = Strange { cancels_in: Phases::Copying, ..Strange::default() };
    assert_eq!(bench.take_with(&mut conduct).unwrap_err().kind, FailureKind::Cancelled);
    assert_eq!(conduct.quiesced, [true, false]);
    assert_eq!(fs::read_dir(bench.plan.to.join("app/work")).unwrap().count(), 0);
}

#[test]
fn odd_clocks_make_copies_that_say_so() {
    let bench = Bench::new();
    let now = Alone::default().now().0;
    let day = 86_400_000_000_000;
    let suspect = |at: u64, content: &str| {
        bench.put("f", content);
        let mut conduct = Strange { now: Some(Time(at)), ..Strange::default() };
        bench.take_with(&mut conduct).unwrap();
        bench.set().catalog().unwrap().copies.last().unwrap().clock_suspect
    };
    assert!(!suspect(now, "1"));
    assert!(!suspect(now + day, "2"));
    assert!(suspect(now, "3"));
    assert!(suspect(now + 90 * day, "4"));
    assert!(suspect(day, "5"));
    let seqs: Vec<u64> = bench.set().catalog().unwrap().copies.iter().map(|copy| copy.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[test]
fn directory_above_a_source_changes_nothing() {
    let bench = Bench::new();
    bench.put("f", "x");
    bench.seq();
    fs::write(bench.directory.path().join("beside"), "").unwrap();
    assert_eq!(bench.take(), Outcome::Unchanged { seq: 1 });
}
