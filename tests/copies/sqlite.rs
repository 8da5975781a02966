//! Databases of SQLite that are written to without an end while copies are made of them, by the real SQLite of python3.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mainstay::copies::conduct::Alone;
use mainstay::copies::making::take::take;
use mainstay::engine::copies::catalog::Cause;
use mainstay::engine::copies::order::{FindingKind, Outcome};

use crate::bench::Bench;

const COPIES: u32 = 10;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/copies/writer.py")
}

fn python_or_skip() -> bool {
    let has = Command::new("python3").args(["-c", "import sqlite3"]).status().is_ok_and(|status| status.success());
    if !has {
        eprintln!("skipped: databases of SQLite: python3 with its module sqlite3 is not here");
    }
    has
}

/// Ended with the test.
struct Writer(Child);

impl Writer {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("python3").args(arguments).stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let writer = Self(child);
        assert_eq!(line, "ready\n");
        writer
    }

    fn of(path: &Path, mode: &str) -> Self {
        Self::start(&[script().to_str().expect("text"), path.to_str().expect("text"), mode])
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The database of a copy, with what lies beside it, as a restore would put it somewhere.
fn restored(bench: &Bench, seq: u64) -> PathBuf {
    let catalog = bench.set().catalog().expect("a catalog");
    let copy = catalog.copies.iter().find(|copy| copy.seq == seq).expect("the copy");
    let data = bench.plan.to.join("app/copies").join(&copy.directory).join("data");
    let from = data.join(bench.source().strip_prefix("/").expect("absolute"));
    let into = bench.root.join("restored");
    let _ = fs::remove_dir_all(&into);
    fs::create_dir(&into).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), into.join(entry.file_name())).expect("a copy");
    }
    into.join("base.db")
}

#[track_caller]
fn is_whole(base: &Path, case: &str) {
    let checked = Command::new("python3").arg(script()).arg("check").arg(base).output().expect("python3");
    assert!(checked.status.success(), "{case}: {}", String::from_utf8_lossy(&checked.stderr));
}

fn live(bench: &Bench, seq: u64) -> Vec<String> {
    let set = bench.set();
    let manifest = set.copy(seq).expect("a copy").manifest().expect("a manifest");
    let marked =
        manifest.map(|entry| entry.expect("an entry")).filter(|entry| entry.marks.live_db || entry.marks.unstable);
    marked.map(|entry| entry.name().to_string_lossy().into_owned()).collect()
}

fn copies_are_whole(mode: &str) {
    if !python_or_skip() {
        return;
    }
    let bench = Bench::new();
    bench.put("a", "before it");
    bench.put("z", "after it");
    let _writer = Writer::of(&bench.source().join("base.db"), mode);
    for round in 0..COPIES {
        let mut alone = Alone::default();
        let taken = take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut alone).expect("a copy");
        let Outcome::Taken { seq, .. } = taken else { panic!("{taken:?}") };
        let case = format!("{mode}, copy {round}");
        assert_eq!(live(&bench, seq), [""; 0], "{case}: {:?}", alone.findings);
        is_whole(&restored(&bench, seq), &case);
        assert!(alone.findings.is_empty(), "{case}: {:?}", alone.findings);
    }
}

#[test]
fn database_with_a_journal_is_copied_between_two_transactions() {
    copies_are_whole("delete");
}

#[test]
fn database_with_a_journal_that_is_kept_is_copied_between_two_transactions() {
    copies_are_whole("persist");
}

#[test]
fn database_with_a_wal_is_copied_with_its_wal() {
    copies_are_whole("wal");
}

#[test]
fn database_that_is_never_let_go_is_marked_and_told_of_once() {
    if !python_or_skip() {
        return;
    }
    let bench = Bench::new();
    let path = bench.source().join("base.db");
    let locked = "import sqlite3, sys, time\n\
                  base = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                  base.execute('CREATE TABLE t (v)')\n\
                  base.execute('BEGIN EXCLUSIVE')\n\
                  print('ready', flush=True)\n\
                  time.sleep(600)";
    let _writer = Writer::start(&["-c", locked, path.to_str().expect("text")]);
    let findings = |bench: &Bench| {
        let mut alone = Alone::default();
        take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut alone).expect("a copy");
        alone.findings.into_iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    assert_eq!(findings(&bench), [FindingKind::LiveDatabase]);
    assert_eq!(live(&bench, 1), ["base.db"]);
    // Touched, so that it is read again.
    fs::File::options()
        .write(true)
        .open(&path)
        .expect("a file")
        .set_modified(std::time::SystemTime::now())
        .expect("a time");
    assert_eq!(findings(&bench), [], "it was told");
    assert_eq!(live(&bench, 2), ["base.db"]);
}

#[test]
fn database_with_a_hot_journal_is_marked() {
    if !python_or_skip() {
        return;
    }
    let bench = Bench::new();
    let path = bench.source().join("base.db");
    drop(Writer::of(&path, "delete"));
    fs::write(bench.source().join("base.db-journal"), [0xd9, 0xd5, 5, 0xf9, 0x20, 0xa1, 0x63, 0xd7]).expect("a file");
    let mut alone = Alone::default();
    take(&mut bench.set(), &bench.plan, Cause::ByHand, &mut alone).expect("a copy");
    assert!(live(&bench, 1).contains(&"base.db".to_owned()));
    assert!(alone.findings.iter().any(|finding| finding.detail.contains("journal")), "{:?}", alone.findings);
}

#[test]
fn what_only_begins_like_a_database_is_copied_as_any_file() {
    let bench = Bench::new();
    let mut content = b"SQLite format 3\0".to_vec();
    content.resize(1024, 9);
    bench.put("like.db", &content);
    bench.put("like.db-wal", "short");
    bench.put("-wal", vec![1; 512]);
    bench.take().expect("a copy");
    assert_eq!(bench.copied(1).len(), 4);
    bench.all_verify();
}
