//! Verification, repair and scrub on sets made by hand.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::scrub::{scrub, scrub_until};
use super::verify::verify;
use crate::copies::testing::{Fixture, HOUR};
use crate::engine::copies::order::{FindingKind, Outcome, Which};
use crate::sys::clock::mono_ns;

fn verified(fixture: &mut Fixture, which: Which) -> (Vec<u64>, u64, u64, u64) {
    let outcome = verify(&mut fixture.set, &fixture.plan, which, &mut fixture.conduct).unwrap();
    let Outcome::Verified { copies, files, bad, mended, .. } = outcome else { panic!("{outcome:?}") };
    (copies, files, bad, mended)
}

fn ready() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.fill();
    fixture.copy();
    fs::write(fixture.source("a"), "second").unwrap();
    fixture.copy();
    fixture
}

#[test]
fn whole_copies_are_verified_and_cold_ten_minutes_later() {
    let mut fixture = ready();
    assert_eq!(verified(&mut fixture, Which::Newest), (vec![2], 6, 0, 0));
    let marks = |fixture: &Fixture, seq| fixture.set.state().marks.get(&seq).and_then(|marks| marks.verified);
    assert!(marks(&fixture, 2).is_some_and(|verified| !verified.cold));
    fixture.conduct.now = fixture.conduct.now.after(HOUR);
    assert_eq!(verified(&mut fixture, Which::All), (vec![2, 1], 12, 0, 0));
    assert!(marks(&fixture, 1).is_some_and(|verified| verified.cold));
    assert_eq!(fixture.conduct.taken(), []);
}

#[test]
fn rot_is_mended_from_the_source_in_every_copy_that_shares_the_inode() {
    let mut fixture = ready();
    let (first, second) = (fixture.copied(1, "d/b"), fixture.copied(2, "d/b"));
    let other_name = fixture.copied(2, "d/deep/b2");
    let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
    let bad = inode(&first);
    assert_eq!((bad, bad), (inode(&second), inode(&other_name)));
    let times = fs::metadata(second.parent().unwrap()).unwrap().modified().unwrap();
    Fixture::rot(&second);
    assert_eq!(verified(&mut fixture, Which::Newest), (vec![2], 6, 0, 1));
    assert_eq!(fixture.conduct.taken()[0].0, FindingKind::Mended);
    let good = inode(&first);
    assert_ne!(good, bad);
    assert_eq!((good, good), (inode(&second), inode(&other_name)));
    assert_eq!(fs::read(&first).unwrap(), vec![7; 100_000]);
    assert_eq!(times, fs::metadata(second.parent().unwrap()).unwrap().modified().unwrap());
    let kept: Vec<_> =
        fs::read_dir(fixture.set.path().join("quarantine")).unwrap().map(|kept| kept.unwrap().path()).collect();
    assert_eq!(kept.len(), 2, "the bad file and its record: {kept:?}");
    assert_eq!(fixture.set.state().quarantined, []);
    assert_eq!(verified(&mut fixture, Which::All), (vec![2, 1], 12, 0, 0));
}

#[test]
fn rot_is_mended_from_another_copy_when_the_source_has_changed() {
    let mut fixture = Fixture::new();
    fs::write(fixture.source("a"), "content").unwrap();
    fixture.copy();
    fs::remove_file(fixture.source("a")).unwrap();
    fs::write(fixture.source("moved"), "content").unwrap();
    fixture.copy();
    fs::write(fixture.source("moved"), "later").unwrap();
    Fixture::rot(&fixture.copied(1, "a"));
    assert_eq!(verified(&mut fixture, Which::One(1)), (vec![1], 1, 0, 1));
    assert_eq!(fs::read(fixture.copied(1, "a")).unwrap(), b"content");
    assert!(fixture.conduct.findings[0].detail.contains("copy 2"), "{:?}", fixture.conduct.findings);
}

#[test]
fn what_cannot_be_mended_makes_its_copies_bad_until_it_can() {
    let mut fixture = ready();
    let lost = fs::read(fixture.copied(1, "a")).unwrap();
    Fixture::rot(&fixture.copied(1, "a"));
    Fixture::rot(&fixture.copied(2, "d/b"));
    fs::write(fixture.source("d/b"), "other").unwrap();
    assert_eq!(verified(&mut fixture, Which::Newest), (vec![2], 6, 4, 0));
    let bad = |fixture: &Fixture| {
        let catalog = fixture.set.catalog().unwrap();
        (catalog.copies.iter().map(|copy| (copy.bad, copy.verified.is_some())).collect::<Vec<_>>(), catalog.quarantined)
    };
    assert_eq!(bad(&fixture), (vec![(2, false), (2, false)], 4), "two names of one inode in each of two copies");
    assert_eq!(verified(&mut fixture, Which::All), (vec![2, 1], 12, 5, 0));
    assert_eq!(bad(&fixture), (vec![(3, false), (2, false)], 5));
    let found = fixture.conduct.taken();
    assert!(found.iter().all(|(kind, _)| *kind == FindingKind::Rot), "{found:?}");
    fs::write(fixture.source("d/b"), vec![7; 100_000]).unwrap();
    fs::write(fixture.source("a"), lost).unwrap();
    let (_, _, left, mended) = verified(&mut fixture, Which::All);
    assert_eq!(left, 0);
    assert!(mended >= 2);
    assert_eq!(bad(&fixture), (vec![(0, true), (0, true)], 0));
}

#[test]
fn what_is_missing_comes_back_and_what_is_too_much_is_told_and_stays() {
    let mut fixture = ready();
    fs::remove_dir_all(fixture.copied(2, "d")).unwrap();
    fs::remove_file(fixture.copied(2, "fifo")).unwrap();
    fs::write(fixture.copied(2, "more"), "nobody's").unwrap();
    fs::set_permissions(fixture.copied(2, "sparse"), fs::Permissions::from_mode(0o777)).unwrap();
    let (_, _, left, _) = verified(&mut fixture, Which::Newest);
    assert_eq!(left, 0, "{:?}", fixture.conduct.findings);
    let found = fixture.conduct.taken();
    let stray = (FindingKind::Stray, fixture.source("more").display().to_string());
    assert!(found.contains(&stray), "{found:?}");
    fs::remove_file(fixture.copied(2, "more")).unwrap();
    verified(&mut fixture, Which::Newest);
    fixture.conduct.taken();
    verified(&mut fixture, Which::Newest);
    assert_eq!(fixture.conduct.taken(), []);
    // Hard links that were missing have come back as files of their own, which takes room and loses nothing.
    fs::remove_file(fixture.copied(2, "d/deep/b2")).unwrap();
    fs::hard_link(fixture.copied(2, "d/b"), fixture.copied(2, "d/deep/b2")).unwrap();
    let older = fixture.data(1).parent().unwrap().to_owned();
    fs::remove_dir_all(older).unwrap();
    let deep = fs::File::open(fixture.copied(2, "d/deep")).unwrap();
    deep.set_modified(fs::metadata(fixture.source("d/deep")).unwrap().modified().unwrap()).unwrap();
    Fixture::assert_alike(&fixture.plan.from[0], &fixture.copied(2, ""));
}

#[test]
fn damaged_manifest_is_a_finding_and_the_copy_is_not_good() {
    let mut fixture = ready();
    let manifest = fixture.data(2).parent().unwrap().join("MANIFEST");
    Fixture::rot(&manifest);
    let (_, _, left, _) = verified(&mut fixture, Which::Newest);
    assert_eq!(left, 1);
    assert_eq!(fixture.conduct.taken(), [(FindingKind::Rot, "MANIFEST".to_owned())]);
    assert!(!fixture.set.catalog().unwrap().copies[1].is_good());
}

#[test]
fn scrub_goes_on_where_it_was_and_reads_each_inode_once_a_round() {
    let mut fixture = ready();
    fixture.conduct.now = fixture.conduct.now.after(HOUR);
    // Nothing but the first entry of each slice is looked at.
    let mut slices = 0;
    while fixture.set.state().scrub.finished.is_none() {
        let outcome = scrub_until(&mut fixture.set, &fixture.plan, &mut fixture.conduct, 0).unwrap();
        assert_eq!(outcome, Outcome::Scrubbed);
        slices += 1;
        assert!(slices < 100, "{:?}", fixture.set.state().scrub);
    }
    assert!(slices > 20, "{slices}");
    assert_eq!((fixture.set.state().scrub.permille, fixture.conduct.taken()), (1000, Vec::new()));
    let finished = fixture.set.state().scrub.finished;
    Fixture::rot(&fixture.copied(1, "d/b"));
    scrub(&mut fixture.set, &fixture.plan, &mut fixture.conduct).unwrap();
    assert_eq!((fixture.set.state().scrub.finished, fixture.conduct.taken()), (finished, Vec::new()), "not due yet");
    fixture.conduct.now = fixture.conduct.now.after(12 * HOUR);
    scrub(&mut fixture.set, &fixture.plan, &mut fixture.conduct).unwrap();
    assert_ne!(fixture.set.state().scrub.finished, finished);
    assert_eq!(fixture.conduct.taken().len(), 1, "one inode, although it has four names in two copies");
    assert_eq!(fs::read(fixture.copied(1, "d/b")).unwrap(), vec![7; 100_000]);
}

#[test]
fn rot_of_the_source_is_told_apart_and_the_copy_stays() {
    let mut fixture = ready();
    // A bad disk changes content without any time, which cannot be done by hand: the manifest is made to know the times of the file as it is now.
    let good = fs::read(fixture.source("d/b")).unwrap();
    Fixture::rot(&fixture.source("d/b"));
    fixture.copy();
    fs::write(fixture.copied(3, "d/b"), &good).unwrap();
    fixture.claim(3, "d/b", &good);
    fixture.conduct.now = fixture.conduct.now.after(24 * HOUR);
    let until_ns = mono_ns() + 60_000_000_000;
    scrub_until(&mut fixture.set, &fixture.plan, &mut fixture.conduct, until_ns).unwrap();
    let path = fixture.source("d/b").display().to_string();
    let found = fixture.conduct.taken();
    assert!(found.contains(&(FindingKind::SourceRot, path)), "{found:?}");
    assert_eq!(fs::read(fixture.copied(3, "d/b")).unwrap(), good);
}

#[test]
fn cancelled_verification_leaves_everything_as_it_was() {
    let mut fixture = ready();
    fixture.conduct.patience.set(3);
    let failure = verify(&mut fixture.set, &fixture.plan, Which::All, &mut fixture.conduct).unwrap_err();
    assert_eq!(failure.kind, crate::engine::copies::order::FailureKind::Cancelled);
    fixture.conduct.patience.set(u64::MAX);
    assert_eq!(verified(&mut fixture, Which::All), (vec![2, 1], 12, 0, 0));
}

#[test]
fn what_an_earlier_repair_left_is_not_written_over() {
    let mut fixture = ready();
    let (innocent, rotten) = (fixture.copied(2, "a"), fixture.copied(2, "d/b"));
    let left = fixture.set.path().join("work/mend");
    // It died after its new inode had come into a copy, and before the name in `work` was gone.
    fs::hard_link(&innocent, &left).unwrap();
    Fixture::rot(&rotten);
    let (_, _, bad, mended) = verified(&mut fixture, Which::Newest);
    assert_eq!((bad, mended), (0, 1));
    assert_eq!(fs::read(&innocent).unwrap(), b"second");
    assert!(!left.exists());
}
