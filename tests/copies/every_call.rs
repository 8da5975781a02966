//! Every call of a job that may change something: it is killed before each of them in turn, and each of them fails in turn. Between two such calls
//! nothing on the disk changes, so that there is no other state that an end of the process could leave.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mainstay::engine::copies::order::Outcome;

use crate::bench::{Bench, Kept, Tree, tree};
use crate::faults::{BEGINS, ENDS, Task, changed, has_strace, traced_task};

/// Those that a file system is changed by. A `?` is for a kernel that has no such call.
const CHANGING: &str = "?mkdir,mkdirat,?link,linkat,?symlink,symlinkat,?rename,?renameat,renameat2,?unlink,unlinkat,?rmdir,write,pwrite64,writev,\
    ?pwritev,fsync,fdatasync,syncfs,?chmod,fchmod,fchmodat,?fchmodat2,?chown,fchown,fchownat,?lchown,utimensat,setxattr,lsetxattr,fsetxattr,\
    removexattr,lremovexattr,fremovexattr,ftruncate,?truncate,fallocate,copy_file_range,?mknod,mknodat,ioctl,openat,openat2";
/// Told apart by what they are asked for: only those that may make a file.
const OPENING: [&str; 2] = ["openat", "openat2"];

/// One call of the job: its name, and how many of that name came before it in the life of the process, with it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    name: String,
    nth: usize,
}

/// The calls between the two marks, of the thread that made these.
fn calls(trace: &Path) -> Vec<Call> {
    let text = fs::read_to_string(trace).expect("a trace");
    let marked = |mark: &str| text.lines().find(|line| line.contains(mark)).and_then(|line| line.split(' ').next());
    let main = marked(BEGINS).expect("the job has begun");
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut found = Vec::new();
    let mut begun = false;
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let call = rest.trim_start().split_once('(').filter(|(name, _)| thread == main && is_word(name));
        let Some((name, arguments)) = call else { continue };
        begun |= arguments.contains(BEGINS);
        if arguments.contains(ENDS) {
            return found;
        }
        let count = counts.entry(name).or_default();
        *count += 1;
        let is_changing = !OPENING.contains(&name) || arguments.contains("O_CREAT");
        if begun && is_changing && !name.starts_with("readlink") {
            found.push(Call { name: name.to_owned(), nth: *count });
        }
    }
    panic!("the job has not ended");
}

/// No rest of a call that was told in two lines.
fn is_word(name: &str) -> bool {
    name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_')
}

/// A bench with its directories as they were, again and again.
struct Again {
    bench: Bench,
    task: Task,
    kept: Kept,
    trace: PathBuf,
}

impl Again {
    fn new(bench: Bench, task: Task) -> Self {
        // The source is another one only after a restore; that it is the same inodes is what a run goes by.
        let kept = if task == Task::Replace { Kept::all(&bench) } else { Kept::target(&bench) };
        let trace = bench.root.join("trace");
        Self { bench, task, kept, trace }
    }

    /// All calls of a run that nothing disturbs.
    fn calls(&self) -> Vec<Call> {
        let (_, said) =
            traced_task(&self.bench, self.task, &["-e", &format!("trace=readlink,{CHANGING}")], &self.trace);
        assert!(!said.is_empty() && !said.contains("kind:"), "{said}");
        let calls = calls(&self.trace);
        assert!(calls.len() > 10, "only {} calls", calls.len());
        calls
    }

    /// A run with something done to one of its calls. Whether it came to its end, and what it said then.
    fn with(&self, call: &Call, what: &str) -> (bool, String) {
        self.kept.put_back(&self.bench);
        let Call { name, nth } = call;
        let arguments = ["-e", &format!("trace={name}"), "-e", &format!("inject={name}:{what}:when={nth}")];
        let (status, said) = traced_task(&self.bench, self.task, &arguments, &self.trace);
        (status.success(), said)
    }

    fn kill_at_each(&self, check: &dyn Fn(&Bench, &Call, &str)) {
        let calls = self.calls();
        let mut killed = 0;
        for call in &calls {
            let (has_ended, said) = self.with(call, "signal=SIGKILL");
            killed += usize::from(!has_ended);
            check(&self.bench, call, &said);
        }
        // What waits for a clock may be done in another order.
        assert!(killed * 10 >= calls.len() * 9, "only {killed} of {} were killed", calls.len());
        eprintln!("{:?}: killed before each of {} calls", self.task, calls.len());
    }
}

fn is_clean(bench: &Bench) {
    for directory in ["work", "trash"] {
        let left = fs::read_dir(bench.plan.to.join("app").join(directory)).expect("a directory").count();
        assert_eq!(left, 0, "in {directory}");
    }
}

#[test]
fn run_that_is_killed_before_any_change_leaves_every_copy_whole_and_the_next_needs_no_help() {
    if !has_strace() {
        return;
    }
    let bench = Bench::in_memory().unwrap_or_else(Bench::new);
    changed(&bench);
    let (first, source) = (bench.copied(1), tree(bench.source()));
    Again::new(bench, Task::Take).kill_at_each(&|bench, call, said| {
        let seqs = bench.seqs();
        assert!(seqs == [1] || seqs == [1, 2], "{call:?}: {seqs:?}");
        assert!(said.is_empty() || seqs == [1, 2], "{call:?}: told of a copy that is not there");
        let outcome = bench.take().unwrap_or_else(|failure| panic!("{call:?}: {failure:?}"));
        let expected = matches!(outcome, Outcome::Taken { seq: 2 | 3, .. } | Outcome::Unchanged { seq: 2 });
        assert!(expected, "{call:?}: {outcome:?}");
        bench.all_verify();
        assert_eq!(bench.copied(1), first, "{call:?}");
        assert_eq!(bench.copied(*bench.seqs().last().expect("a copy")), source, "{call:?}");
        assert_eq!(tree(bench.source()), source, "{call:?}");
        is_clean(bench);
    });
}

/// With three copies.
fn three(bench: &Bench) -> [Tree; 3] {
    changed(bench);
    bench.take().expect("the second copy");
    bench.put("d/new", "newer");
    fs::remove_file(bench.source().join("large")).expect("a removal");
    bench.take().expect("the third copy");
    [1, 2, 3].map(|seq| bench.copied(seq))
}

#[test]
fn prune_that_is_killed_before_any_change_has_taken_one_copy_or_none() {
    if !has_strace() {
        return;
    }
    let bench = Bench::in_memory().unwrap_or_else(Bench::new);
    let trees = three(&bench);
    Again::new(bench, Task::Prune).kill_at_each(&|bench, call, said| {
        let seqs = bench.seqs();
        assert!(seqs == [1, 2, 3] || seqs == [2, 3], "{call:?}: {seqs:?}");
        assert!(said.is_empty() || seqs == [2, 3], "{call:?}: {said}");
        bench.all_verify();
        for seq in seqs {
            assert_eq!(bench.copied(seq), trees[usize::try_from(seq).expect("small") - 1], "{call:?}");
        }
        assert!(matches!(bench.take(), Ok(Outcome::Unchanged { seq: 3 })), "{call:?}");
        is_clean(bench);
    });
}

#[test]
fn repair_that_is_killed_before_any_change_loses_nothing_that_was_good() {
    if !has_strace() {
        return;
    }
    let bench = Bench::in_memory().unwrap_or_else(Bench::new);
    let trees = three(&bench);
    let data = bench.data(2);
    // One that all copies share, one that the source has, one that is nowhere else any more.
    for name in ["d/5", "d/1", "large"] {
        crate::rot::flip(&data.join(name), 3);
    }
    let lost = bench.data(1).join("large");
    Again::new(bench, Task::VerifyAll).kill_at_each(&|bench, call, _| {
        assert_eq!(bench.seqs(), [1, 2, 3], "{call:?}");
        let outcome = Task::VerifyAll.carry_out(bench).unwrap_or_else(|failure| panic!("{call:?}: {failure:?}"));
        // `large` is in two copies, of one inode.
        assert!(matches!(outcome, Outcome::Verified { bad: 2, .. }), "{call:?}: {outcome:?}");
        for (seq, expected) in (1..).zip(&trees) {
            let mut copied = bench.copied(seq);
            let mut expected = expected.clone();
            for tree in [&mut copied, &mut expected] {
                tree.remove(Path::new("large"));
            }
            assert_eq!(copied, expected, "{call:?}: copy {seq}");
        }
        // The bad one is kept, in its place or in quarantine.
        let quarantine = bench.plan.to.join("app/quarantine");
        assert!(lost.exists() || fs::read_dir(quarantine).expect("quarantine").count() > 0, "{call:?}");
        assert!(matches!(bench.take(), Ok(Outcome::Unchanged { .. } | Outcome::Taken { .. })), "{call:?}");
    });
}

#[test]
fn restore_that_is_killed_before_any_change_leaves_the_old_or_the_new_and_both_somewhere() {
    if !has_strace() {
        return;
    }
    let bench = Bench::in_memory().unwrap_or_else(Bench::new);
    let restored = {
        let [_, _, third] = three(&bench);
        third
    };
    bench.put("d/1", "spoilt");
    fs::remove_file(bench.source().join("moved")).expect("a removal");
    let spoilt = tree(bench.source());
    Again::new(bench, Task::Replace).kill_at_each(&|bench, call, said| {
        let kept = |bench: &Bench| {
            let beside = fs::read_dir(&bench.root).expect("the bench").flatten().map(|entry| entry.path());
            let kept =
                |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".before-"));
            beside.filter(kept).map(|path| tree(&path)).collect::<Vec<Tree>>()
        };
        let now = tree(bench.source());
        assert!(now == spoilt || now == restored, "{call:?}: neither the old nor the new: {now:?}");
        assert!(said.is_empty() || now == restored, "{call:?}: told of what was not done");
        assert!(now == spoilt || kept(bench).contains(&spoilt), "{call:?}: what was there is gone");
        Task::Replace.carry_out(bench).unwrap_or_else(|failure| panic!("{call:?}: {failure:?}"));
        assert_eq!(tree(bench.source()), restored, "{call:?}");
        assert!(kept(bench).contains(&spoilt), "{call:?}: what was there is gone after the second restore");
        bench.all_verify();
    });
}

/// For how many calls of each name an error is tried: those of one name have the same code around them, or one of a few.
const ERRORS_MAX: usize = 6;
/// Those that are made of the source as well, or for which there is another way.
const OF_BOTH: [&str; 3] = ["openat", "openat2", "ioctl"];

#[test]
fn error_at_any_change_ends_the_run_as_what_it_is_and_spoils_nothing() {
    if !has_strace() {
        return;
    }
    let bench = Bench::in_memory().unwrap_or_else(Bench::new);
    changed(&bench);
    let (first, source) = (bench.copied(1), tree(bench.source()));
    let again = Again::new(bench, Task::Take);
    let mut by_name: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for call in again.calls() {
        by_name.entry(call.name.clone()).or_default().push(call);
    }
    let (mut tried, mut wrong) = (0, Vec::new());
    for calls in by_name.values() {
        // The first, the last, and some between.
        let step = calls.len().div_ceil(ERRORS_MAX).max(1);
        for call in calls.iter().step_by(step).chain(calls.last()) {
            for (error, kind) in [("EIO", "TargetIo"), ("ENOSPC", "Full"), ("EROFS", "TargetIo")] {
                let (_, said) = again.with(call, &format!("error={error}"));
                tried += 1;
                if let Err(what) = is_right_after(&again.bench, call, (&said, kind), (&first, &source)) {
                    wrong.push(format!("{call:?} {error}: {what}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{tried} errors at {} kinds of calls", by_name.len());
}

fn is_right_after(
    bench: &Bench,
    call: &Call,
    (said, kind): (&str, &str),
    (first, source): (&Tree, &Tree),
) -> Result<(), String> {
    let holds = |is_so: bool, what: &str| if is_so { Ok(()) } else { Err(format!("{what}: {said}")) };
    bench.all_verify();
    holds(bench.copied(1) == *first, "the copy before is another")?;
    if said.starts_with("Taken") {
        // It could do without, or has done it again.
        holds(bench.seqs() == [1, 2], "told as made, and is not there")?;
        holds(bench.copied(2) == *source, "told as made, and is another")?;
    } else {
        holds(said.starts_with("Failure"), "no word of it")?;
        holds(said.contains(kind) || OF_BOTH.contains(&call.name.as_str()), "called by another name")?;
    }
    let next = bench.take().map_err(|failure| format!("the next run: {failure:?}"))?;
    let has_it = matches!(next, Outcome::Taken { .. } | Outcome::Unchanged { seq: 2 });
    holds(has_it, &format!("the next run: {next:?}"))?;
    holds(bench.copied(*bench.seqs().last().expect("a copy")) == *source, "the next copy is another")?;
    is_clean(bench);
    Ok(())
}
