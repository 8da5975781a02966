//! Copies of a service that works on its files at any moment but when it was made to hold still: what is copied is what was there then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mainstay::copies::conduct::{Alone, Conduct};
use mainstay::copies::making::take::take;
use mainstay::copies::place::init::{Claim, init};
use mainstay::engine::copies::catalog::Cause;
use mainstay::engine::copies::order::{Finding, FindingKind, Outcome, Progress};
use mainstay::engine::copies::plan::Quiesce;
use mainstay::engine::types::Time;

use crate::bench::{Bench, SETTLE, Tree, tree};
use crate::dice::Dice;
use crate::model::change;

const SEEDS: u64 = 5;
const ROUNDS: u64 = 8;
const IMAGE_BYTES: u64 = 512 << 20;

/// A file with XFS on it, mounted: it shares pages.
struct Xfs {
    image: PathBuf,
    at: PathBuf,
}

impl Xfs {
    /// `None`: it cannot be had here; that is told.
    fn new(name: &str) -> Option<Self> {
        let skip = |why: &str| eprintln!("skipped: a source that shares pages: {why}");
        if !nix::unistd::geteuid().is_root() {
            skip("not root");
            return None;
        }
        let root = std::env::temp_dir().join(format!("mainstay-still-{name}-{}", std::process::id()));
        let disk = Self { image: root.join("image"), at: root.join("disk") };
        fs::create_dir_all(&disk.at).expect("a mount point");
        fs::File::create(&disk.image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("an image");
        let run = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|done| done.status.success())
        };
        if !run("mkfs.xfs", &[Path::new("-q"), &disk.image]) {
            skip("no mkfs.xfs");
            return None;
        }
        if !run("mount", &[Path::new("-o"), Path::new("loop"), &disk.image, &disk.at]) {
            skip("no loop devices or no XFS");
            return None;
        }
        Some(disk)
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).output();
        if let Some(root) = self.image.parent() {
            let _ = fs::remove_dir_all(root);
        }
    }
}

/// A service that changes something whenever the job does anything, and the agent that makes it hold still.
struct Service<'a> {
    bench: &'a Bench,
    dice: Dice,
    round: u64,
    still: bool,
    /// At which it held still.
    moment: Option<Tree>,
    asked: Vec<bool>,
    /// Read while it did.
    bytes: u64,
    /// It goes on by itself after so many questions.
    patience: std::cell::Cell<u64>,
    findings: Vec<Finding>,
}

impl<'a> Service<'a> {
    fn new(bench: &'a Bench, seed: u64, round: u64) -> Self {
        let (dice, findings) = (Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round << 7), Vec::new());
        let patience = std::cell::Cell::new(u64::MAX);
        Self { bench, dice, round, still: false, moment: None, asked: Vec::new(), bytes: 0, patience, findings }
    }

    fn work(&mut self) {
        if !self.still && self.dice.below(3) == 0 {
            change(self.bench, &mut self.dice, self.round);
        }
    }
}

impl Conduct for Service<'_> {
    fn progress(&mut self, _: Progress) {
        self.work();
    }

    fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn is_cancelled(&self) -> bool {
        false
    }

    fn quiesce(&mut self, on: bool) -> Result<(), String> {
        self.asked.push(on);
        self.still = on;
        if on {
            self.moment = Some(tree(self.bench.source()));
        } else {
            // At once, and a lot.
            (0..8).for_each(|_| change(self.bench, &mut self.dice, self.round));
        }
        Ok(())
    }

    fn still_quiet(&self) -> bool {
        self.patience.set(self.patience.get().saturating_sub(1));
        self.still && self.patience.get() > 0
    }

    fn pace(&mut self, bytes: u64) {
        self.bytes += if self.still { bytes } else { 0 };
        self.work();
    }

    fn now(&self) -> Time {
        Alone::default().now()
    }
}

fn hold_still(bench: &mut Bench) {
    bench.plan.quiesce = Quiesce::Freeze { service: "app".to_owned(), max: Duration::from_secs(2) };
}

/// Somebody else has it open for writing, until he is ended.
fn holder(path: &Path) -> Child {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(path).expect("a link");
    }
    let file = fs::File::options().append(true).create(true).open(path).expect("a file");
    Command::new("sleep").arg("600").stdout(file).stdin(Stdio::null()).spawn().expect("sleep")
}

/// Every copy is of its moment; gives the longest time that anybody stood still, and what was read then.
fn every_copy_is_of_its_moment(bench: &Bench) -> u64 {
    let mut read = 0;
    for seed in 1..=SEEDS {
        for round in 0..ROUNDS {
            let mut dice = Dice(seed * 77 + round + 1);
            (0..dice.below(9)).for_each(|_| change(bench, &mut dice, round));
            let mut held = holder(&bench.source().join(format!("d{}/f{}", round % 4, seed % 6)));
            std::thread::sleep(SETTLE);
            let mut service = Service::new(bench, seed, round);
            let taken = take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut service);
            let _ = held.kill();
            let _ = held.wait();
            let case = format!("seed {seed}, round {round}");
            match taken.unwrap_or_else(|failure| panic!("{case}: {failure:?}")) {
                Outcome::Taken { seq, .. } => {
                    let moment = service.moment.take().expect("it held still");
                    same(&bench.copied(seq), &moment, &format!("{case}, copy {seq}"));
                    assert_eq!(service.asked, [true, false], "{case}");
                }
                Outcome::Unchanged { .. } => assert_eq!(service.asked, [true; 0], "{case}"),
                other => panic!("{case}: {other:?}"),
            }
            assert!(service.findings.is_empty(), "{case}: {:?}", service.findings);
            read += service.bytes;
        }
    }
    bench.all_verify();
    assert!(bench.set().catalog().expect("a catalog").copies.iter().all(|copy| copy.unstable == 0 && copy.stale == 0));
    assert_eq!(fs::read_dir(bench.plan.to.join("app/work")).expect("work").count(), 0);
    read
}

#[track_caller]
fn same(copied: &Tree, moment: &Tree, case: &str) {
    let differing: BTreeMap<_, _> = moment
        .iter()
        .filter(|(path, text)| copied.get(*path) != Some(text))
        .map(|(path, text)| (path, (text, copied.get(path))))
        .collect();
    assert!(differing.is_empty(), "{case}: {differing:#?}");
    let surplus: Vec<_> = copied.keys().filter(|path| !moment.contains_key(*path)).collect();
    assert!(surplus.is_empty(), "{case}: {surplus:?}");
}

#[test]
fn copy_is_of_the_moment_at_which_the_service_held_still() {
    let mut bench = Bench::new();
    hold_still(&mut bench);
    every_copy_is_of_its_moment(&bench);
}

#[test]
fn source_that_shares_pages_is_cloned_and_nothing_is_read_while_the_service_holds_still() {
    let Some(disk) = Xfs::new("clone") else { return };
    let mut bench = Bench::at(&disk.at.join("b"));
    hold_still(&mut bench);
    fs::create_dir_all(bench.source()).expect("a directory");
    fs::create_dir_all(&bench.plan.to).expect("a directory");
    init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
    assert_eq!(every_copy_is_of_its_moment(&bench), 0);
    drop(bench);
}

#[test]
fn large_file_that_is_written_to_keeps_its_pages_in_the_copy() {
    let Some(disk) = Xfs::new("large") else { return };
    let mut bench = Bench::at(&disk.at.join("b"));
    hold_still(&mut bench);
    fs::create_dir_all(&bench.plan.to).expect("a directory");
    let large: Vec<u8> =
        (0..24_u32 << 20).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).expect("a byte")).collect();
    bench.put("d/large", &large);
    init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
    let mut held = holder(&bench.source().join("d/large"));
    let written = |bench: &Bench| {
        let mut service = Service::new(bench, 1, 0);
        service.dice = Dice(u64::MAX);
        match take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut service) {
            Ok(Outcome::Taken { written_bytes, .. }) => written_bytes,
            other => panic!("{other:?}"),
        }
    };
    let first = written(&bench);
    assert!(first >= 24 << 20, "{first}");
    std::os::unix::fs::FileExt::write_all_at(
        &fs::File::options().write(true).open(bench.source().join("d/large")).expect("a file"),
        b"changed",
        9 << 20,
    )
    .expect("a write");
    let second = written(&bench);
    let _ = held.kill();
    let _ = held.wait();
    assert!(second < 1 << 20, "{second} bytes for one page");
    bench.all_verify();
}

/// What was read after the service had to go on says so; the rest is of its moment all the same.
#[test]
fn what_is_read_after_the_service_went_on_is_marked() {
    let mut bench = Bench::new();
    hold_still(&mut bench);
    let mut marked = 0;
    for seed in 1..=12 {
        for round in 0..3 {
            (0..6).for_each(|number| bench.put(&format!("g/{number}"), format!("{seed} {round}")));
            std::thread::sleep(SETTLE);
            let mut service = Service::new(&bench, seed, round);
            service.patience.set(seed);
            let taken = take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut service);
            let Ok(Outcome::Taken { seq, .. }) = taken else { panic!("{taken:?}") };
            let set = bench.set();
            let copy = set.copy(seq).expect("a copy");
            let unstable =
                copy.manifest().expect("a manifest").filter(|entry| entry.as_ref().expect("an entry").marks.unstable);
            let unstable = u64::try_from(unstable.count()).expect("a number");
            assert_eq!(unstable, copy.commit.unstable);
            let told = service.findings.iter().filter(|finding| finding.kind == FindingKind::Unstable).count();
            assert!((told > 0) == (unstable > 0), "{told} of {unstable}");
            marked += unstable;
        }
    }
    assert!(marked > 0, "nothing was read late");
    bench.all_verify();
}

#[test]
fn service_stands_still_for_a_short_time_however_large_its_files_are() {
    let Some(disk) = Xfs::new("time") else { return };
    let mut bench = Bench::at(&disk.at.join("b"));
    hold_still(&mut bench);
    fs::create_dir_all(&bench.plan.to).expect("a directory");
    for number in 0..500 {
        bench.put(&format!("d{}/f{number}", number % 9), format!("content {number}"));
    }
    bench.put("large", vec![7; 60 << 20]);
    init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
    let mut held = holder(&bench.source().join("large"));
    let mut longest = Duration::ZERO;
    for round in 0..4_u8 {
        let file = fs::File::options().write(true).open(bench.source().join("large")).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![round; 8 << 20], u64::from(round) << 20)
            .expect("a write");
        let mut timed = Timed { since: None, longest: Duration::ZERO };
        take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut timed).expect("a copy");
        longest = longest.max(timed.longest);
    }
    let _ = held.kill();
    let _ = held.wait();
    eprintln!("held still for {longest:?} at most");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
}

struct Timed {
    since: Option<Instant>,
    longest: Duration,
}

impl Conduct for Timed {
    fn progress(&mut self, _: Progress) {}

    fn finding(&mut self, _: Finding) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn quiesce(&mut self, on: bool) -> Result<(), String> {
        match self.since.take() {
            Some(since) if !on => self.longest = self.longest.max(since.elapsed()),
            Some(_) | None => self.since = on.then(Instant::now),
        }
        Ok(())
    }

    fn still_quiet(&self) -> bool {
        self.since.is_some()
    }

    fn pace(&mut self, _: u64) {}

    fn now(&self) -> Time {
        Alone::default().now()
    }
}
