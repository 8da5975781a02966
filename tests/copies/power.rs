//! Power cuts: the file system of the target is shut down without its journal, as if the power had gone, and mounted again.

use mainstay::copies::conduct::Alone;
use mainstay::copies::place::init::{Claim, init};

use crate::bench::{Bench, tree};
use crate::disk::{Disk, EXT4, XFS};
use crate::faults::{changed, has_strace, traced};

#[test]
fn power_cut_at_any_step_loses_no_copy_and_makes_none_that_is_not_whole() {
    cut_at_each_step(&EXT4);
}

#[test]
fn power_cut_at_any_step_does_no_harm_where_files_share_pages_either() {
    cut_at_each_step(&XFS);
}

fn cut_at_each_step(make: &[&str]) {
    if !has_strace() {
        return;
    }
    let mut bench = Bench::new();
    let Some(disk) = Disk::new(&bench.root, bench.root.join("to"), make) else { return };
    bench.plan.to = disk.at.clone();
    init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
    changed(&bench);
    let first = bench.copied(1);
    let trace = bench.root.join("trace");
    let steps = [
        "mkdirat:when=2",
        "linkat:when=2",
        "syncfs:when=1",
        "fsync:when=3",
        "fsync:when=4",
        "fsync:when=5",
        "fsync:when=6",
        "renameat2:when=1",
        "renameat2:when=2",
        "renameat2:when=3",
    ];
    for (round, step) in steps.iter().enumerate() {
        bench.put("d/1", format!("round {round}"));
        let former = bench.seqs();
        let (name, when) = step.split_once(':').expect("a call");
        let (_, said) = traced(&bench, &["-e", &format!("inject={name}:signal=SIGKILL:{when}")], &trace);
        disk.cut_power();
        let now = bench.seqs();
        assert!(now.starts_with(&former), "{step}: {former:?} became {now:?}");
        assert!(!said.starts_with("Taken") || now.len() > former.len(), "{step}: a copy that was told is lost");
        bench.all_verify();
        assert_eq!(bench.copied(1), first, "{step}");
        bench.take().unwrap_or_else(|failure| panic!("{step}: {failure:?}"));
        // What was told is there, even if the power goes at once.
        let told = bench.seqs();
        disk.cut_power();
        assert_eq!(bench.seqs(), told, "{step}");
        assert_eq!(bench.copied(*told.last().expect("a copy")), tree(bench.source()), "{step}");
        bench.all_verify();
    }
    drop(disk);
}
