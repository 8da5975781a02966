//! Random changes and random removals, and a model that says what each copy must hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mainstay::copies::conduct::Alone;
use mainstay::copies::place::prune::prune;
use mainstay::engine::copies::order::Outcome;

use crate::bench::{Bench, Tree, tree};
use crate::dice::Dice;

const SEEDS: u64 = 6;
const ROUNDS: u64 = 12;

#[test]
fn every_copy_holds_what_the_source_was_whatever_is_changed_and_removed() {
    for seed in 1..=SEEDS {
        let bench = Bench::new();
        let mut dice = Dice::new(seed);
        let mut model: BTreeMap<u64, Tree> = BTreeMap::new();
        for round in 0..ROUNDS {
            for _ in 0..dice.below(12) {
                change(&bench, &mut dice, round);
            }
            let now = tree(bench.source());
            match bench.take().expect("a copy") {
                Outcome::Taken { seq, .. } => assert!(model.insert(seq, now).is_none(), "seed {seed}: {seq} again"),
                Outcome::Unchanged { seq } => assert_eq!(model[&seq], now, "seed {seed}: {seq} is not the same"),
                other => panic!("seed {seed}: {other:?}"),
            }
            if dice.below(3) == 0 && model.len() > 2 {
                let index = dice.below(model.len() - 1);
                let seq = *model.keys().nth(index).expect("so many");
                prune(&mut bench.set(), &[seq], &mut Alone::default()).expect("not the newest");
                model.remove(&seq);
            }
            assert_eq!(bench.seqs(), model.keys().copied().collect::<Vec<u64>>(), "seed {seed}");
        }
        for (seq, expected) in &model {
            assert_eq!(bench.copied(*seq), *expected, "seed {seed}, copy {seq}");
        }
        bench.all_verify();
    }
}

/// Something to the tree, out of everything that people and programs do.
pub(crate) fn change(bench: &Bench, dice: &mut Dice, round: u64) {
    let name = |dice: &mut Dice| format!("d{}/f{}", dice.below(4), dice.below(6));
    let (one, other) = (name(dice), name(dice));
    let at = |name: &str| bench.source().join(name);
    // Any of these may not be possible just now, and then is not done.
    let _ = match dice.below(10) {
        0..=2 => {
            let content = format!("{one} {round} {}", "x".repeat(dice.below(9000)));
            at(&one).parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(at(&one), content))
        }
        3 => fs::remove_file(at(&one)),
        4 => fs::rename(at(&one), at(&other)),
        5 => fs::hard_link(at(&one), at(&other)),
        6 => fs::set_permissions(at(&one), fs::Permissions::from_mode([0o600, 0o644, 0o4755][dice.below(3)])),
        7 => std::os::unix::fs::symlink(&other, at(&one)),
        8 => fs::rename(at(&format!("d{}", dice.below(4))), at(&format!("e{}", dice.below(4)))),
        _ => {
            let append = |path: PathBuf| {
                use std::io::Write;
                fs::File::options().append(true).open(path)?.write_all(b"more")
            };
            append(at(&one))
        }
    };
}
