//! Restores of sets made by hand.

use std::fs;
use std::path::PathBuf;

use super::restore::restore;
use super::restore_test::restore_test;
use crate::copies::testing::Fixture;
use crate::engine::copies::order::{Failure, FailureKind, FindingKind, Outcome, Place, Restore};

fn run(fixture: &mut Fixture, wanted: &Restore) -> Result<Outcome, Failure> {
    restore(&mut fixture.set, &fixture.plan, wanted, &mut fixture.conduct)
}

fn order(place: Place) -> Restore {
    Restore { seq: None, paths: Vec::new(), place, dry_run: false, force: false }
}

fn ready() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.fill();
    fixture.copy();
    fixture
}

/// Names in a directory, but those that a test needs.
fn names(directory: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["source", "target"].contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

#[test]
fn everything_is_restored_elsewhere_as_it_was() {
    let mut fixture = ready();
    let into = fixture.path("into");
    let outcome = run(&mut fixture, &order(Place::Into(into.clone()))).unwrap();
    assert!(matches!(outcome, Outcome::Restored { seq: 1, files: 6, ref kept, .. } if kept.is_empty()), "{outcome:?}");
    let below = into.join(fixture.plan.from[0].strip_prefix("/").unwrap());
    Fixture::assert_alike(&fixture.plan.from[0], &below);
    assert!(!into.join(".mainstay-restore").exists());
    assert_eq!(fixture.conduct.taken(), []);
}

#[test]
fn nothing_is_overwritten_elsewhere() {
    let mut fixture = ready();
    let into = fixture.path("into");
    let taken = into.join(fixture.source("a").strip_prefix("/").unwrap());
    fs::create_dir_all(taken.parent().unwrap()).unwrap();
    fs::write(&taken, "mine").unwrap();
    let failure = run(&mut fixture, &order(Place::Into(into.clone()))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InUse);
    assert!(failure.what.contains(taken.to_str().unwrap()), "{failure:?}");
    let part = Restore { paths: vec![fixture.source("d/deep")], ..order(Place::Into(into.clone())) };
    run(&mut fixture, &part).unwrap();
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
    assert_eq!(fs::read(taken.parent().unwrap().join("d/deep/b2")).unwrap(), vec![7; 100_000]);
    assert!(!taken.parent().unwrap().join("d/b").exists());
}

#[test]
fn source_is_replaced_in_one_step_and_what_was_there_is_kept() {
    let mut fixture = ready();
    let reference = fixture.path("reference");
    let copied =
        std::process::Command::new("cp").arg("-a").arg(&fixture.plan.from[0]).arg(&reference).status().unwrap();
    assert!(copied.success());
    fs::write(fixture.source("a"), "broken").unwrap();
    fs::remove_dir_all(fixture.source("d")).unwrap();
    let dry = Restore { dry_run: true, ..order(Place::Replace) };
    let outcome = run(&mut fixture, &dry).unwrap();
    let Outcome::WouldRestore { lines, .. } = outcome else { panic!("{outcome:?}") };
    let said = |begin: char, name: &str| {
        let path = fixture.source(name).display().to_string();
        lines.iter().any(|line| line.starts_with(begin) && line.contains(&path))
    };
    assert!(said('~', "a") && said('+', "d/b") && !said('~', "sparse") && !said('+', "sparse"), "{lines:?}");
    let outcome = run(&mut fixture, &order(Place::Replace)).unwrap();
    let Outcome::Restored { kept, .. } = outcome else { panic!("{outcome:?}") };
    Fixture::assert_alike(&reference, &fixture.plan.from[0]);
    assert_eq!(fs::read(kept[0].join("a")).unwrap(), b"broken");
    assert!(!kept[0].join("d").exists());
    assert_eq!(names(&fixture.path("")), [kept[0].file_name().unwrap().to_str().unwrap(), "reference"]);
    fs::remove_dir_all(&fixture.plan.from[0]).unwrap();
    let outcome = run(&mut fixture, &order(Place::Replace)).unwrap();
    assert!(matches!(outcome, Outcome::Restored { ref kept, .. } if kept.is_empty()), "nothing was there: {outcome:?}");
    Fixture::assert_alike(&reference, &fixture.plan.from[0]);
}

#[test]
fn one_file_is_replaced_and_the_others_stay() {
    let mut fixture = ready();
    fs::write(fixture.source("a"), "broken").unwrap();
    fs::write(fixture.source("d/b"), "newer").unwrap();
    let wanted = Restore { paths: vec![fixture.source("a")], ..order(Place::Replace) };
    run(&mut fixture, &wanted).unwrap();
    assert_eq!(fs::read(fixture.source("a")).unwrap(), b"first");
    assert_eq!(fs::read(fixture.source("d/b")).unwrap(), b"newer");
    for (path, kind) in [(fixture.source("none"), FailureKind::NoCopy), (PathBuf::from("/etc"), FailureKind::NoCopy)] {
        let wanted = Restore { paths: vec![path], ..order(Place::Replace) };
        assert_eq!(run(&mut fixture, &wanted).unwrap_err().kind, kind);
    }
}

#[test]
fn bad_file_is_mended_on_the_way_or_nothing_is_restored() {
    let mut fixture = ready();
    let path = fixture.copied(1, "a");
    Fixture::rot(&path);
    let into = fixture.path("one");
    run(&mut fixture, &order(Place::Into(into))).unwrap();
    assert_eq!(fixture.conduct.taken()[0].0, FindingKind::Mended);
    Fixture::rot(&path);
    fs::write(fixture.source("a"), "other").unwrap();
    let failure = run(&mut fixture, &order(Place::Replace)).unwrap_err();
    assert!(failure.what.contains(fixture.source("a").to_str().unwrap()), "{failure:?}");
    assert_eq!(fs::read(fixture.source("a")).unwrap(), b"other");
    assert_eq!(names(&fixture.path("")), ["one"]);
}

#[test]
fn files_in_use_are_not_replaced_unless_it_is_insisted_on() {
    let mut fixture = ready();
    let open = fs::File::options().append(true).open(fixture.source("a")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("60").stdout(open).spawn().unwrap();
    let refused = run(&mut fixture, &order(Place::Replace));
    let forced = run(&mut fixture, &Restore { force: true, ..order(Place::Replace) });
    child.kill().unwrap();
    child.wait().unwrap();
    let failure = refused.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InUse);
    assert!(failure.what.contains("sleep"), "{failure:?}");
    forced.unwrap();
}

#[test]
fn database_is_not_restored_beside_the_log_of_another_state() {
    let mut fixture = Fixture::new();
    fs::write(fixture.source("app.db"), b"SQLite format 3\0 and pages").unwrap();
    fixture.copy();
    fs::write(fixture.source("app.db-wal"), "frames").unwrap();
    let one = Restore { paths: vec![fixture.source("app.db")], force: true, ..order(Place::Replace) };
    let failure = run(&mut fixture, &one).unwrap_err();
    assert!(failure.what.contains("app.db-wal"), "{failure:?}");
    run(&mut fixture, &order(Place::Replace)).unwrap();
    assert!(!fixture.source("app.db-wal").exists());
}

#[test]
fn cancelled_restore_leaves_nothing() {
    let mut fixture = ready();
    for (patience, place) in [(5, Place::Replace), (5, Place::Into(fixture.path("into")))] {
        fixture.conduct.patience.set(patience);
        let failure = run(&mut fixture, &order(place)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Cancelled);
    }
    fixture.conduct.patience.set(u64::MAX);
    assert_eq!((names(&fixture.path("")), names(&fixture.path("into"))), (vec!["into".to_owned()], Vec::new()));
}

#[test]
fn verified_copy_goes_before_a_newer_one_and_a_bad_one_is_not_chosen() {
    let mut fixture = ready();
    crate::copies::checking::verify::verify(
        &mut fixture.set,
        &fixture.plan,
        crate::engine::copies::order::Which::Newest,
        &mut fixture.conduct,
    )
    .unwrap();
    fixture.copy();
    let dry = Restore { dry_run: true, ..order(Place::Replace) };
    let chosen = |fixture: &mut Fixture| match run(fixture, &dry).unwrap() {
        Outcome::WouldRestore { seq, .. } => seq,
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen(&mut fixture), 1);
    fixture.set.update(|state| state.marks_of(1).bad = 1).unwrap();
    assert_eq!(chosen(&mut fixture), 2);
}

#[test]
fn restore_test_compares_and_leaves_nothing() {
    let mut fixture = ready();
    let outcome = restore_test(&mut fixture.set, &fixture.plan, &mut fixture.conduct).unwrap();
    assert_eq!(outcome, Outcome::Tested { seq: 1, files: 6 });
    assert!(fixture.set.state().restore_tested.is_some());
    assert_eq!(names(&fixture.path("")), Vec::<String>::new());
    Fixture::rot(&fixture.copied(1, "a"));
    fs::remove_file(fixture.source("a")).unwrap();
    assert!(restore_test(&mut fixture.set, &fixture.plan, &mut fixture.conduct).is_err());
    assert_eq!(names(&fixture.path("")), Vec::<String>::new());
}

/// Needs root, to mount a file system in memory.
#[test]
fn mount_point_is_replaced_from_within() {
    let mut fixture = ready();
    let point = fixture.plan.from[0].clone();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&point).output().unwrap();
    if !mounted.status.success() {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    fs::write(point.join("a"), "broken").unwrap();
    fs::write(point.join("other"), "other").unwrap();
    let outcome = run(&mut fixture, &order(Place::Replace));
    let listed = names(&point);
    let first = fs::read(point.join("a")).unwrap();
    let kept = outcome.map(|outcome| match outcome {
        Outcome::Restored { kept, .. } => {
            (fs::read(kept[0].join("a")).unwrap(), fs::read(kept[0].join("other")).unwrap())
        }
        other => panic!("{other:?}"),
    });
    assert!(std::process::Command::new("umount").arg(&point).status().unwrap().success());
    assert_eq!(kept.unwrap(), (b"broken".to_vec(), b"other".to_vec()));
    assert_eq!(first, b"first");
    assert_eq!(listed.len(), 6, "{listed:?}");
}

#[test]
fn link_that_the_service_has_planted_leads_nowhere() {
    let mut fixture = ready();
    let (elsewhere, deep) = (fixture.path("elsewhere"), fixture.source("d/deep"));
    fs::rename(&deep, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &deep).unwrap();
    let before = fs::read_dir(&elsewhere).unwrap().count();
    let wanted = Restore { paths: vec![deep.join("b2")], ..order(Place::Replace) };
    let failure = run(&mut fixture, &wanted).unwrap_err();
    assert!(failure.what.contains("b2"), "{failure:?}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), before);
}
