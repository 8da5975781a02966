//! A job that is killed at a system call, or whose system calls fail: by strace, from without.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use mainstay::copies::checking::verify::verify;
use mainstay::copies::conduct::Alone;
use mainstay::copies::place::prune::prune;
use mainstay::copies::restoring::restore::restore;
use mainstay::engine::copies::order::{Failure, FailureKind, Outcome, Place, Restore, Which};

use crate::bench::{Bench, tree};

/// Where the helper finds its directories.
const ROOT: &str = "MAINSTAY_TEST_COPIES";
/// What it does: a word of [`JOBS`].
const JOB: &str = "MAINSTAY_TEST_COPIES_JOB";
/// Where it says what came of it.
const SAID: &str = "said";
/// What the kernel said of it at its end.
const STATUS: &str = "status";
/// The first call of the job, and the one after its last: they are looked for in the trace.
pub(crate) const BEGINS: &str = "/mainstay-begins-here";
pub(crate) const ENDS: &str = "/mainstay-ends-here";

/// Calls are counted by thread: so many go before those of the job, that no other thread comes to have as many.
const CALLS_BEFORE: usize = 64;

/// What a helper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Take,
    /// Copy 1.
    Prune,
    VerifyAll,
    Replace,
}

const TASKS: [(Task, &str); 4] =
    [(Task::Take, "take"), (Task::Prune, "prune"), (Task::VerifyAll, "verify"), (Task::Replace, "replace")];

impl Task {
    pub(crate) fn carry_out(self, bench: &Bench) -> Result<Outcome, Failure> {
        let mut alone = Alone::default();
        match self {
            Self::Take => bench.take(),
            Self::Prune => prune(&mut bench.set(), &[1], &mut alone),
            Self::VerifyAll => verify(&mut bench.set(), &bench.plan, Which::All, &mut alone),
            Self::Replace => {
                let wanted =
                    Restore { seq: None, paths: Vec::new(), place: Place::Replace, dry_run: false, force: false };
                restore(&mut bench.set(), &bench.plan, &wanted, &mut alone)
            }
        }
    }
}

/// Does one thing, in a process of its own.
#[test]
#[ignore = "started by other tests"]
fn helper() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let word = std::env::var(JOB).expect("a job");
    let (task, _) = TASKS.into_iter().find(|(_, known)| *known == word).expect("a job that is known");
    let bench = Bench::at(Path::new(&root));
    for _ in 0..CALLS_BEFORE {
        if let Ok(mut nothing) = fs::File::options().write(true).open("/dev/null") {
            let _ = nothing.write_all(b"nothing").map(|()| nothing.is_terminal());
        }
    }
    let _ = fs::read_link(BEGINS);
    let done = task.carry_out(&bench);
    let _ = fs::read_link(ENDS);
    let said = match done {
        Ok(outcome) => format!("{outcome:?}"),
        Err(failure) => format!("{failure:?}"),
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let _ = fs::write(bench.root.join(STATUS), status);
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

/// A helper that takes a copy under strace; what it said, if it came so far.
pub(crate) fn traced(bench: &Bench, arguments: &[&str], trace: &Path) -> (ExitStatus, String) {
    traced_task(bench, Task::Take, arguments, trace)
}

pub(crate) fn traced_task(bench: &Bench, task: Task, arguments: &[&str], trace: &Path) -> (ExitStatus, String) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(trace).args(arguments).arg(own());
    let status = as_helper(&mut strace, bench, task).output().expect("strace").status;
    (status, said(bench))
}

fn own() -> PathBuf {
    std::env::current_exe().expect("this program")
}

/// Ends a command that begins with this program, or with who starts it.
fn as_helper<'a>(command: &'a mut Command, bench: &Bench, task: Task) -> &'a mut Command {
    let (_, word) = TASKS.into_iter().find(|(known, _)| *known == task).expect("a word for it");
    command.args(["--ignored", "--exact", "faults::helper", "--test-threads=1", "--nocapture"]);
    command.env(ROOT, &bench.root).env(JOB, word)
}

/// What the last helper said.
fn said(bench: &Bench) -> String {
    let said = fs::read_to_string(bench.root.join(SAID)).unwrap_or_default();
    let _ = fs::remove_file(bench.root.join(SAID));
    said
}

/// A helper that nobody disturbs: what it said, and its largest resident size in KiB.
pub(crate) fn helped(bench: &Bench, task: Task) -> (String, u64) {
    let status = as_helper(&mut Command::new(own()), bench, task).output().expect("this program").status;
    assert!(status.success());
    let status = fs::read_to_string(bench.root.join(STATUS)).expect("its status");
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|peak| peak.trim().strip_suffix(" kB"));
    let peak = peak.and_then(|peak| peak.trim().parse().ok()).expect("its peak");
    (said(bench), peak)
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
