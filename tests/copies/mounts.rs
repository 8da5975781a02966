//! What is not mounted: nothing is written below it, and an empty source costs no copy.

use std::fs;

use mainstay::copies::conduct::Alone;
use mainstay::copies::place::init::{Claim, init};
use mainstay::copies::place::target::{Refused, Target};
use mainstay::engine::copies::catalog::{Suspicion, TargetState};
use mainstay::engine::copies::order::{FailureKind, Outcome};

use crate::bench::{Bench, tree};
use crate::disk::{Disk, EXT4};
use crate::faults::{Task, changed};

/// With its target, or its source, on a disk of its own.
fn on_disk(bench: &mut Bench, what: &str) -> Option<Disk> {
    let disk = Disk::new(&bench.root, bench.root.join(what), &EXT4)?;
    let place = disk.at.join("below");
    fs::create_dir(&place).expect("a directory");
    if what == "disk-of-target" {
        bench.plan.to = place
    } else {
        bench.plan.from = vec![place]
    }
    init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
    Some(disk)
}

#[test]
fn nothing_is_written_below_a_target_that_is_not_mounted() {
    let mut bench = Bench::new();
    let Some(disk) = on_disk(&mut bench, "disk-of-target") else { return };
    changed(&bench);
    let first = bench.copied(1);
    assert!(disk.umount(), "unmounted");
    // It does not matter whether the directories are there.
    for made in ["", "below", "below/app/copies", "below/app/work"] {
        fs::create_dir_all(disk.at.join(made)).expect("a directory");
        let before = tree(&disk.at);
        let refused = Target::open(&bench.plan).expect_err("no target");
        let is_seen = matches!(refused, Refused(TargetState::Absent { .. } | TargetState::Unmarked { .. }));
        assert!(is_seen, "{made}: {refused:?}");
        assert_eq!(tree(&disk.at), before, "{made}");
    }
    fs::remove_dir_all(disk.at.join("below")).expect("what was made");
    assert!(disk.mount(), "mounted again");
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 2, .. })));
    assert_eq!(bench.copied(1), first);
    bench.all_verify();
}

#[test]
fn target_that_is_replaced_by_another_disk_while_a_set_is_open_gets_nothing() {
    let mut bench = Bench::new();
    let Some(disk) = on_disk(&mut bench, "disk-of-target") else { return };
    changed(&bench);
    let mut set = bench.set();
    // Somebody mounts something else over it, in the middle of a run.
    let Some(other) = Disk::new(&bench.root, disk.at.clone(), &EXT4) else { return };
    let failed = mainstay::copies::making::take::take(
        &mut set,
        &bench.plan,
        mainstay::engine::copies::catalog::Cause::ByHand,
        &mut Alone::default(),
    );
    assert_eq!(failed.expect_err("another disk").kind, FailureKind::Target);
    drop(set);
    let found: Vec<_> =
        fs::read_dir(&other.at).expect("a directory").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(found, ["lost+found"]);
    assert!(other.umount(), "unmounted");
    assert_eq!(bench.seqs(), [1]);
    bench.all_verify();
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 2, .. })));
}

#[test]
fn source_that_is_not_mounted_is_suspect_and_comes_back_without_a_new_copy() {
    let mut bench = Bench::new();
    let Some(disk) = on_disk(&mut bench, "disk-of-source") else { return };
    changed(&bench);
    bench.take().expect("the second copy");
    let second = bench.copied(2);
    assert!(disk.umount(), "unmounted");
    // Its directory is not there: no copy at all.
    let failure = bench.take().expect_err("no source");
    assert_eq!(failure.kind, FailureKind::Source);
    // It is there, and empty.
    fs::create_dir(bench.source()).expect("a directory");
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 3, .. })));
    let copies = bench.set().catalog().expect("a catalog").copies;
    assert!(matches!(copies[2].suspect, Some(Suspicion::Empty { .. })), "{:?}", copies[2].suspect);
    assert!(!copies[2].is_good() && copies[1].is_good());
    Task::Prune.carry_out(&bench).expect("the first");
    fs::remove_dir(bench.source()).expect("the directory");
    assert!(disk.mount(), "mounted again");
    // It may be another device now.
    let taken = bench.take().expect("the source is back");
    assert!(matches!(taken, Outcome::Unchanged { seq: 2 } | Outcome::Taken { seq: 4, .. }), "{taken:?}");
    assert_eq!(bench.copied(2), second);
    assert_eq!(bench.copied(*bench.seqs().iter().rfind(|seq| **seq != 3).expect("a copy")), second);
}
