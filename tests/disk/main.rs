//! Stories of the roles that may block, with the real binary and the real kernel: file systems in loop devices, and a mount that
//! never answers. All of it happens in a mount namespace of the test's own, so that nothing is left behind. Needs root.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "these are tests: a panic is a failure, and a skip is said aloud"
)]

mod fuse;
mod helper;
mod mounts;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use mainstay::checks::CANARY;
use mainstay::engine::host::sample::Sample;
use mainstay::engine::host::watch::Source;
use nix::libc;

use fuse::Unanswered;
use helper::{Helper, Place};
use mounts::{Image, own_mounts};

/// Often enough for a test, and one reading is far shorter.
const OFTEN_MS: u64 = 100;
const ONCE_MS: u64 = 3_600_000;

fn space(mount: &str) -> Source {
    Source::Space { mount: mount.to_owned() }
}

fn canary(mount: &str) -> Source {
    Source::Canary { mount: mount.to_owned() }
}

#[test]
fn file_system_in_a_loop_device_is_measured_and_written() {
    let Some(image) = own_mounts().and_then(|()| Image::mounted("defaults")) else { return };
    let place = Place::new();
    let mut helper = Helper::start(&place, 0);
    let point = image.point();
    helper.watch(&[space(&point), canary(&point)], ONCE_MS);
    let Sample::Space(room) = helper.sample() else { panic!("no space") };
    assert_eq!((room.mount.as_str(), room.error), (point.as_str(), None));
    assert!((20 << 20..32 << 20).contains(&room.size_bytes), "{} bytes", room.size_bytes);
    assert!(room.available_bytes < room.free_bytes, "the reserve of root");
    assert!(room.inodes > room.inodes_available && room.inodes_available > 0);
    let Sample::Canary(wrote) = helper.sample() else { panic!("no canary") };
    assert_eq!((wrote.errno, wrote.absent), (None, None));
    assert!(wrote.took_us > 0);
    let file = fs::metadata(image.path().join(CANARY)).unwrap();
    assert_eq!((file.len(), file.permissions().mode() & 0o777), (8192, 0o600));
}

#[test]
fn watched_file_system_can_be_unmounted_and_what_is_mounted_next_is_watched() {
    let Some(image) = own_mounts().and_then(|()| Image::mounted("defaults")) else { return };
    let place = Place::new();
    let mut helper = Helper::start(&place, 0);
    let point = image.point();
    let errors = Source::FilesystemErrors { mount: point.clone() };
    helper.watch(&[errors, canary(&point), space(&point)], OFTEN_MS);
    helper.until(|sample| matches!(sample, Sample::Canary(stat) if stat.took_us > 0));
    image.unmount();
    helper.until(|sample| matches!(sample, Sample::Canary(stat) if stat.absent.is_some()));
    let gone = format!("nothing is mounted on {point}");
    helper.until(|sample| matches!(sample, Sample::Space(stat) if stat.error.as_ref() == Some(&gone)));
    assert!(!image.path().join(CANARY).exists(), "nothing is written below the mount");
    image.mount("defaults");
    helper.until(|sample| matches!(sample, Sample::Canary(stat) if stat.took_us > 0));
    helper.until(|sample| matches!(sample, Sample::Space(stat) if stat.error.is_none()));
}

#[test]
fn file_system_that_somebody_made_read_only_has_no_canary_and_no_fault() {
    let Some(image) = own_mounts().and_then(|()| Image::mounted("defaults")) else { return };
    let place = Place::new();
    let mut helper = Helper::start(&place, 0);
    helper.watch(&[canary(&image.point())], OFTEN_MS);
    helper.until(|sample| matches!(sample, Sample::Canary(stat) if stat.took_us > 0));
    image.mount("remount,ro");
    let read_only = "mounted read-only";
    helper.until(|sample| {
        let Sample::Canary(stat) = sample else { return false };
        assert_eq!(stat.errno, None);
        stat.absent.as_deref() == Some(read_only)
    });
    image.mount("remount,rw");
    helper.until(|sample| matches!(sample, Sample::Canary(stat) if stat.took_us > 0));
}

#[test]
fn full_file_system_has_no_canary_and_no_fault() {
    let Some(image) = own_mounts().and_then(|()| Image::mounted("defaults")) else { return };
    let mut filler = fs::File::create(image.path().join("filler")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut filler).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let place = Place::new();
    let mut helper = Helper::start(&place, 0);
    helper.watch(&[canary(&image.point()), space(&image.point())], ONCE_MS);
    let Sample::Canary(stat) = helper.sample() else { panic!("no canary") };
    assert_eq!((stat.errno, stat.absent.as_deref()), (None, Some("no room is left to write")));
    let Sample::Space(room) = helper.sample() else { panic!("no space") };
    assert_eq!(room.available_bytes, 0);
}

#[test]
fn boot_partition_is_measured_and_not_written() {
    let Some(image) = own_mounts().and_then(|()| Image::of("mkfs.vfat", &[], "defaults")) else { return };
    let place = Place::new();
    let mut helper = Helper::start(&place, 0);
    helper.watch(&[canary(&image.point()), space(&image.point())], ONCE_MS);
    let Sample::Canary(stat) = helper.sample() else { panic!("no canary") };
    assert!(stat.absent.is_some_and(|absent| absent.contains("FAT")));
    let Sample::Space(room) = helper.sample() else { panic!("no space") };
    assert_eq!((room.error, room.inodes), (None, 0));
    assert_eq!(fs::read_dir(image.path()).unwrap().count(), 0);
}

#[test]
fn error_of_a_file_system_is_told_at_once_and_the_canary_sees_that_it_gave_up() {
    let Some(image) = own_mounts().and_then(|()| Image::mounted("errors=remount-ro")) else { return };
    let place = Place::new();
    let mut helper = Helper::start(&place, 0);
    let point = image.point();
    let errors = Source::FilesystemErrors { mount: point.clone() };
    // The reading that follows the first order proves that it was obeyed.
    helper.watch(&[errors, canary(&point)], OFTEN_MS);
    if let Some(why) = helper.missing_or_canary() {
        eprintln!("skipped: no file system errors here: {why}");
        return;
    }
    let begun = Instant::now();
    image.cause_error();
    helper.until(|sample| {
        let Sample::FilesystemError { mount, errno, count, .. } = sample else { return false };
        assert_eq!((mount.as_str(), *errno, *count), (point.as_str(), libc::EUCLEAN, 1));
        true
    });
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(500), "told after {took:?}");
    helper.until(|sample| {
        let Sample::Canary(stat) = sample else { return false };
        assert_eq!(stat.absent, None, "nobody made it read-only on purpose");
        stat.errno == Some(libc::EROFS)
    });
}

#[test]
fn helper_of_a_mount_that_never_answers_hangs_alone() {
    let Some(mount) = own_mounts().and_then(|()| Unanswered::mounted()) else { return };
    let place = Place::new();
    let mut well = Helper::start(&place, 1);
    well.watch(&[space("/")], OFTEN_MS);
    let mut stuck = Helper::start(&place, 0);
    stuck.watch(&[space(&mount.point())], OFTEN_MS);
    mount.take_a_request();
    for _ in 0..5 {
        assert!(matches!(well.sample(), Sample::Space(stat) if stat.error.is_none()));
    }
    stuck.kill();
    stuck.await_state('D');
    assert!(matches!(well.sample(), Sample::Space(stat) if stat.error.is_none()));

    let refused = Helper::refused(&place, 0);
    assert!(refused.contains("cannot listen on"), "{refused}");
    let mut successor = Helper::start(&place, 2);
    successor.watch(&[space("/")], OFTEN_MS);
    assert!(matches!(successor.sample(), Sample::Space(stat) if stat.error.is_none()));
    assert_eq!(stuck.state(), Some('D'), "still there");

    mount.abort();
    stuck.await_end();
    let mut again = Helper::start(&place, 0);
    again.watch(&[space("/")], OFTEN_MS);
    assert!(matches!(again.sample(), Sample::Space(stat) if stat.error.is_none()));
}

#[test]
fn helper_without_rights_says_what_it_cannot_do_and_does_the_rest() {
    let Some(image) = own_mounts().and_then(|()| Image::mounted("defaults")) else { return };
    let place = Place::new();
    let mut helper = Helper::start_as_nobody(&place, 0);
    let point = image.point();
    let errors = Source::FilesystemErrors { mount: point.clone() };
    helper.watch(&[errors, canary(&point), space(&point)], ONCE_MS);
    assert!(helper.missing().contains("run the agent as root"));
    let Sample::Canary(stat) = helper.sample() else { panic!("no canary") };
    let absent = stat.absent.unwrap();
    assert!(absent.starts_with("no permission to write") && absent.contains("disable the checks"), "{absent}");
    let Sample::Space(room) = helper.sample() else { panic!("no space") };
    assert_eq!(room.error, None);
}

#[test]
fn helper_holds_no_directory_and_leaves_when_told() {
    let place = Place::new();
    let mut helper = Helper::start(&place, 3);
    assert_eq!(helper.working_directory(), std::path::Path::new("/"));
    helper.quit();
    helper.await_end();
}
