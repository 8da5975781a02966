//! Disks that are full, and disks that do not answer. Both need root for their mounts, which live in a mount namespace of the test's thread.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mainstay::logs::proto::{FromLogs, Settings};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::harness::{Dirs, PLENTY, Role, all_of, eventually, past, write_lines};

/// Mounts in this thread are seen by nobody else and end with it.
fn own_mounts() -> bool {
    let none: Option<&str> = None;
    let private = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none));
    if let Err(error) = private {
        eprintln!("SKIPPED: no mount namespace of our own ({error}); needs root");
    }
    private.is_ok()
}

fn mount_small(directory: &Path, size: &str) {
    mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str())).unwrap();
}

fn fill(directory: &Path) {
    let mut block = 1 << 20;
    let mut file = fs::File::create(directory.join("filler")).unwrap();
    while block > 0 {
        if std::io::Write::write_all(&mut file, &vec![0; block]).is_err() {
            block /= 2;
        }
    }
}

fn dropped(message: &FromLogs) -> Option<u64> {
    match message {
        FromLogs::Dropped { lines, reason, .. } if reason == "disk full" => Some(*lines),
        _ => None,
    }
}

#[test]
fn a_full_disk_drops_and_counts_and_recovers_by_itself() {
    if !own_mounts() {
        return;
    }
    let dirs = Dirs::new("full");
    mount_small(&dirs.log(), "4m");
    let mut role = Role::start_in(dirs);
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    write_lines(&mut pipe, 0, 1_000);
    role.agent.end(&api, 1);
    role.agent.lines(past(vec![all_of("api")], Some(1)));
    fill(&role.dirs.log());
    // The service is not held up.
    write_lines(&mut pipe, 1_000, 20_000);
    let mut lost = role.agent.find(dropped);
    role.agent
        .find(|message| matches!(message, FromLogs::Trouble { text } if text.contains("No space left")).then_some(()));
    role.agent.end(&api, 1);
    role.agent.lines(past(vec![all_of("api")], Some(1)));
    fs::remove_file(role.dirs.log().join("filler")).unwrap();
    write_lines(&mut pipe, 21_000, 1);
    role.agent.find(|message| matches!(message, FromLogs::Trouble { text } if text.contains("again")).then_some(()));
    role.agent.end(&api, 1);
    let lines = role.agent.lines(past(vec![all_of("api")], None));
    assert_eq!(lines.last().unwrap().line.parse::<u64>().unwrap(), 21_000);
    let kept = lines.iter().filter(|line| line.line.len() == 127).count() as u64;
    while kept + lost < 21_001 {
        lost += role.agent.find(dropped);
    }
    // Where the disk was full a line may be cut: it is counted as lost, and its beginning is there.
    assert_eq!(kept + lost, 21_001);
    assert!(lines.iter().any(|line| line.line == format!("mainstay: {lost} lines dropped (disk full)")), "{lost}");
}

#[test]
fn a_full_disk_costs_the_oldest_own_files_first() {
    if !own_mounts() {
        return;
    }
    let dirs = Dirs::new("oldest");
    mount_small(&dirs.log(), "4m");
    let mut role = Role::start_in(dirs);
    let (api, mut pipe) =
        role.stream("api", 0, Settings { max_size_bytes: 256 << 10, keep: 1_000, lines_per_second: None });
    write_lines(&mut pipe, 0, 100_000);
    role.agent.end(&api, 1);
    let output = role.quit().output(&api);
    let numbers: Vec<u64> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 20_000, "{}", numbers.len());
    assert_eq!(numbers, (100_000 - numbers.len() as u64..100_000).collect::<Vec<u64>>());
}

fn command(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_disk_that_does_not_answer_holds_up_no_service() {
    if !own_mounts() {
        return;
    }
    let dirs = Dirs::new("hung");
    let (image, log) = (dirs.root.join("image"), dirs.log());
    let (image, mountpoint) = (image.to_str().unwrap(), log.to_str().unwrap());
    fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
    if !command("mkfs.ext4", &["-q", image]) || !command("mount", &["-o", "loop", image, mountpoint]) {
        eprintln!("SKIPPED: no ext4 on a loop device here");
        return;
    }
    let mut role = Role::start_in(dirs);
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    write_lines(&mut pipe, 0, 1);
    role.agent.end(&api, 1);
    role.agent.lines(past(vec![all_of("api")], None));
    role.agent.begin(&api, 2, None);
    assert!(command("fsfreeze", &["-f", mountpoint]));
    let before = Instant::now();
    // Far more than pipe and queue hold.
    let count = 200_000;
    write_lines(&mut pipe, 1, count);
    let blocked = before.elapsed();
    let tail = role.agent.end(&api, 2);
    let remembered: Vec<serde_json::Value> = {
        use std::io::BufRead;
        let reader = role.agent.serve(past(vec![all_of("api")], None));
        reader.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    };
    assert!(command("fsfreeze", &["-u", mountpoint]));
    assert_eq!(tail.last().unwrap().parse::<u64>().unwrap(), count);
    // It was blocked for as long as the writing took, however busy this machine is: not until the disk answered again, which was later.
    assert!(blocked < Duration::from_secs(60), "{blocked:?}");
    assert_eq!(remembered[0]["type"], "trouble");
    assert_eq!(remembered.last().unwrap()["line"].as_str().unwrap().parse::<u64>().unwrap(), count);
    let slow = |message: &FromLogs| match message {
        FromLogs::Dropped { lines, reason, .. } if reason == "slow disk" => Some(*lines),
        _ => None,
    };
    role.agent
        .find(|message| matches!(message, FromLogs::Trouble { text } if text.contains("keeps up again")).then_some(()));
    let output = || role.dirs.output(&api);
    eventually("the last line", || output().ends_with(&format!("{count:0127}\n")));
    let whole = output().lines().filter(|line| line.len() == 127).count() as u64;
    let mut lost = role.agent.find(slow);
    assert!(output().contains("lines dropped (slow disk)\n"));
    // Lines cut in two by a dropped chunk count on either side.
    while lost + whole + 500 < count {
        lost += role.agent.find(slow);
    }
    assert!(lost + whole <= count + 501, "{lost} {whole}");
    role.quit();
}
