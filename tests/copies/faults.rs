//! A job that is killed at a system call, or whose system calls fail: by strace, from without.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};

use mainstay::engine::copies::order::{FailureKind, Outcome};

use crate::bench::{Bench, tree};

/// Where the helper finds its directories.
const ROOT: &str = "MAINSTAY_TEST_COPIES";
/// Where it says what came of it.
const SAID: &str = "said";
/// So many of the calls are tried: all would take minutes.
const KILLS_MAX: usize = 48;

/// Makes one copy, in a process of its own.
#[test]
#[ignore = "started by other tests"]
fn helper() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let bench = Bench::at(Path::new(&root));
    // The first call of the job that is looked for in the trace.
    let _ = fs::read_link("/mainstay-begins-here");
    let said = match bench.take() {
        Ok(outcome) => format!("{outcome:?}"),
        Err(failure) => format!("{failure:?}"),
    };
    let _ = fs::write(bench.root.join(SAID), said);
    std::process::exit(0);
}

pub(crate) fn has_strace() -> bool {
    let found = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: calls are made to fail by strace, which is not here or may not trace");
    }
    found
}

/// The helper under strace; what it said, if it came so far.
pub(crate) fn traced(bench: &Bench, arguments: &[&str], trace: &Path) -> (ExitStatus, String) {
    let own = std::env::current_exe().expect("this program");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .args(arguments)
        .arg(own)
        .args(["--ignored", "--exact", "faults::helper", "--test-threads=1", "--nocapture"])
        .env(ROOT, &bench.root)
        .output()
        .expect("strace")
        .status;
    let said = fs::read_to_string(bench.root.join(SAID)).unwrap_or_default();
    let _ = fs::remove_file(bench.root.join(SAID));
    (status, said)
}

/// With one copy, and changes of every kind since.
pub(crate) fn changed(bench: &Bench) {
    for number in 0..6 {
        bench.put(&format!("d/{number}"), format!("first {number}"));
    }
    bench.put("large", vec![3; 200_000]);
    bench.take().expect("the first copy");
    bench.put("d/1", "second");
    bench.put("d/new", "new");
    fs::rename(bench.source().join("d/2"), bench.source().join("moved")).expect("a rename");
    fs::remove_file(bench.source().join("d/3")).expect("a removal");
    std::os::unix::fs::symlink("moved", bench.source().join("link")).expect("a link");
}

/// The calls of the job itself, of one name each, and how many there are before the job begins.
fn calls(trace: &Path) -> Vec<(String, usize)> {
    let text = fs::read_to_string(trace).expect("a trace");
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut found = Vec::new();
    let mut began = false;
    for line in text.lines() {
        let Some(name) = line.split_whitespace().nth(1).and_then(|rest| rest.split_once('(')).map(|(name, _)| name)
        else {
            continue;
        };
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        began |= line.contains("/mainstay-begins-here");
        if began {
            found.push((name.to_owned(), *count));
        }
    }
    found
}

#[test]
fn job_that_is_killed_at_any_call_leaves_every_copy_whole_and_the_next_run_needs_no_help() {
    if !has_strace() {
        return;
    }
    let bench = Bench::new();
    changed(&bench);
    let trace = bench.root.join("trace");
    let before = bench.copied(1);
    let source = tree(bench.source());
    // The whole way once, to know the calls; then the target goes back to where it was.
    let aside = bench.root.join("aside");
    copy_all(&bench.plan.to, &aside);
    let (_, said) = traced(&bench, &[], &trace);
    assert!(said.starts_with("Taken"), "{said}");
    let calls = calls(&trace);
    assert!(calls.len() > 100, "only {} calls", calls.len());
    let step = calls.len().div_ceil(KILLS_MAX).max(1);
    let mut killed = 0;
    for (name, nth) in calls.iter().skip(1).step_by(step).chain(calls.iter().filter(|(name, _)| is_decisive(name))) {
        fs::remove_dir_all(&bench.plan.to).expect("the target");
        copy_all(&aside, &bench.plan.to);
        let inject = format!("inject={name}:signal=SIGKILL:when={nth}");
        let (status, said) = traced(&bench, &["-e", &inject], &trace);
        killed += usize::from(!status.success());
        let seqs = bench.seqs();
        assert!(seqs == [1] || seqs == [1, 2], "{name} {nth}: {seqs:?}");
        assert!(said.is_empty() || seqs == [1, 2], "{name} {nth}: told of a copy that is not there");
        let outcome = bench.take().unwrap_or_else(|failure| panic!("{name} {nth}: {failure:?}"));
        let expected = matches!(outcome, Outcome::Taken { seq: 2 | 3, .. } | Outcome::Unchanged { seq: 2 });
        assert!(expected, "{name} {nth}: {outcome:?}");
        bench.all_verify();
        assert_eq!(bench.copied(1), before, "{name} {nth}");
        assert_eq!(bench.copied(*bench.seqs().last().expect("a copy")), source, "{name} {nth}");
        assert_eq!(tree(bench.source()), source, "{name} {nth}");
        assert_eq!(fs::read_dir(bench.plan.to.join("app/work")).expect("work").count(), 0);
    }
    assert!(killed > KILLS_MAX / 2, "only {killed} were killed");
}

/// What the order of the steps hangs on.
fn is_decisive(name: &str) -> bool {
    matches!(name, "syncfs" | "fsync" | "renameat2" | "renameat" | "rename")
}

/// Links and times as they are.
fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

#[test]
fn error_of_the_target_leaves_no_copy_and_no_doubt_about_the_older_ones() {
    if !has_strace() {
        return;
    }
    let bench = Bench::new();
    changed(&bench);
    let trace = bench.root.join("trace");
    let before = bench.copied(1);
    let cases = [
        ("syncfs:error=EIO", "TargetIo"),
        ("linkat:error=EIO", "TargetIo"),
        ("linkat:error=ENOSPC", "Full"),
        ("symlinkat:error=EDQUOT", "Full"),
        ("mkdirat:error=EROFS:when=2+", "TargetIo"),
        ("renameat2:error=EIO", "TargetIo"),
    ];
    for (inject, kind) in cases {
        let (_, said) = traced(&bench, &["-e", &format!("inject={inject}")], &trace);
        assert!(said.contains(kind), "{inject}: {said}");
        assert_eq!(bench.seqs(), [1], "{inject}");
        bench.all_verify();
        assert_eq!(bench.copied(1), before, "{inject}");
        assert_eq!(fs::read_dir(bench.plan.to.join("app/work")).expect("work").count(), 0, "{inject}");
    }
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 2, .. })));
}

#[test]
fn what_cannot_be_read_stays_as_it_was_and_the_copy_says_so() {
    if !has_strace() {
        return;
    }
    let bench = Bench::new();
    changed(&bench);
    let trace = bench.root.join("trace");
    let unreadable = bench.source().join("d/1");
    let path = unreadable.to_str().expect("a path");
    let (_, said) = traced(&bench, &["-P", path, "-e", "inject=read,pread64,readv,preadv:error=EIO"], &trace);
    assert!(said.starts_with("Taken"), "{said}");
    let copy = bench.set().catalog().expect("a catalog").copies.pop().expect("a copy");
    assert_eq!((copy.seq, copy.stale, copy.is_good()), (2, 1, false));
    let copied = bench.copied(2);
    assert!(copied[Path::new("d/1")].contains(&blake3::hash(b"first 1").to_string()));
    assert!(copied[Path::new("d/new")].contains(&blake3::hash(b"new").to_string()));
    bench.all_verify();
    // Readable again: it is not forgotten.
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 3, .. })));
    assert_eq!(bench.copied(3), tree(bench.source()));
    assert!(matches!(bench.take(), Ok(Outcome::Unchanged { seq: 3 })));
}

#[test]
fn source_that_is_gone_is_told_apart() {
    let bench = Bench::new();
    changed(&bench);
    fs::rename(bench.source(), bench.root.join("away")).expect("a rename");
    assert_eq!(bench.take().expect_err("no source").kind, FailureKind::Source);
    assert_eq!(bench.seqs(), [1]);
}
