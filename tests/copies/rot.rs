//! One bit of what lies on the target is another: of data, of a manifest, of a COMMIT, of the state. It is found, it is told, it never becomes a copy,
//! and it costs nothing that was whole.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mainstay::engine::copies::order::{FailureKind, Outcome};

use crate::bench::{Bench, Kept, Tree, tree};
use crate::dice::Dice;
use crate::faults::{Task, changed};

/// Another bit, as a disk would do it: the times of the file stay.
pub(crate) fn flip(path: &Path, bit: u64) {
    let before = fs::metadata(path).expect("a file");
    assert!(before.len() > 0, "{path:?} is empty");
    let file = File::options().read(true).write(true).open(path).expect("a file");
    let (at, mut byte) = (bit / 8 % before.len(), [0]);
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], at).expect("a byte");
    file.set_modified(before.modified().expect("a time")).expect("a time");
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && entry.metadata().expect("a file").len() > 0 {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Three copies, the first of them pinned.
fn three() -> (Bench, [Tree; 3]) {
    let bench = Bench::new();
    changed(&bench);
    bench.take().expect("the second copy");
    bench.put("d/new", "newer");
    bench.take().expect("the third copy");
    bench.set().update(|state| state.marks_of(1).pinned = true).expect("pinned");
    let trees = [1, 2, 3].map(|seq| bench.copied(seq));
    (bench, trees)
}

#[test]
fn flipped_bit_anywhere_in_a_set_is_found_and_never_becomes_a_copy() {
    let (bench, trees) = three();
    let kept = Kept::all(&bench);
    let set = bench.plan.to.join("app");
    // By kinds, or nearly all of them would be data.
    for (kind, seeds) in [("data/", 16), ("MANIFEST", 16), ("COMMIT", 10), ("state/", 16)] {
        for seed in 1..=seeds {
            kept.put_back(&bench);
            let mut dice = Dice::new(seed);
            let mut files = files_below(&set);
            files.retain(|path| path.to_string_lossy().contains(kind));
            let path = &files[dice.below(files.len())];
            flip(path, u64::try_from(dice.below(1 << 30)).expect("small"));
            let below = path.strip_prefix(&set).expect("below");
            let what = format!("seed {seed}: {}", below.display());
            // What nobody else has any more is lost, and told as that.
            let mut lost = None;
            match kind {
                "data/" | "MANIFEST" => {
                    let verified =
                        Task::VerifyAll.carry_out(&bench).unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
                    let Outcome::Verified { bad, mended, .. } = verified else { panic!("{what}: {verified:?}") };
                    assert!(bad + mended > 0, "{what}: all is well");
                    lost = (bad > 0 && kind == "data/").then(|| path.file_name().expect("a name").to_owned());
                }
                "COMMIT" => assert_eq!(bench.seqs().len(), 2, "{what}: it still counts"),
                _ => {
                    let refused = Task::Prune.carry_out(&bench).expect_err("a pinned copy");
                    assert_eq!(refused.kind, FailureKind::InUse, "{what}: {refused:?}");
                    assert_eq!(bench.seqs(), [1, 2, 3], "{what}");
                }
            }
            assert!(lost.is_none() || below.to_string_lossy().contains("000001"), "{what}: the source has it");
            // Nothing of it keeps the next copy from being made, or is in it.
            bench.put("d/newest", &what);
            let taken = bench.take().unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
            assert!(matches!(taken, Outcome::Taken { seq: 4, .. }), "{what}: {taken:?}");
            assert_eq!(bench.copied(4), tree(bench.source()), "{what}");
            for (seq, expected) in (1..).zip(&trees).filter(|(seq, _)| bench.seqs().contains(seq)) {
                let (mut copied, mut expected) = (bench.copied(seq), expected.clone());
                for tree in [&mut copied, &mut expected] {
                    tree.retain(|path, _| lost.is_none() || path.file_name() != lost.as_deref());
                }
                assert_eq!(copied, expected, "{what}: copy {seq}");
            }
        }
    }
}
