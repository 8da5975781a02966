//! The role itself is killed, and rests.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mainstay::logs::proto::{Settings, ToLogs};

use crate::harness::{Agent, Dirs, PLENTY, eventually, stream, write_lines};

const ROOT: &str = "MAINSTAY_TEST_ROLE_ROOT";
/// A read and the queue's high mark.
const LOSS_BYTES_MAX: u64 = 320 << 10;

/// Not a test: the role in a process of its own, for those that start it.
#[test]
#[ignore = "started by other tests"]
fn role_process() {
    if let Some(root) = std::env::var_os(ROOT) {
        mainstay::logs::run(Dirs::arguments(&PathBuf::from(root), None)).unwrap();
    }
}

pub(crate) fn start_process(root: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "survival::role_process", "--ignored", "--nocapture"]).env(ROOT, root);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_role_loses_at_most_what_it_had_in_hand() {
    let dirs = Dirs::new("killed");
    let api = stream("api", 0);
    let mut pipe = dirs.pipe(&api);
    let count = 1_500_000_u64;
    let writer = std::thread::spawn(move || write_lines(&mut pipe, 0, count));
    let kills = 5;
    for kill in 1..=kills {
        let mut role = start_process(&dirs.root);
        let agent = Agent::connect(&dirs.root);
        agent.watch(&dirs, &api, Settings { max_size_bytes: 4 << 20, keep: 200, lines_per_second: None });
        let base = dirs.log().join("api.0.log");
        eventually("bytes in the file", || base.metadata().is_ok_and(|file| file.len() > 100_000 * kill));
        role.kill().unwrap();
        assert_eq!(role.wait().unwrap().signal(), Some(9));
    }
    let mut role = start_process(&dirs.root);
    let mut agent = Agent::connect(&dirs.root);
    agent.watch(&dirs, &api, Settings { max_size_bytes: 4 << 20, keep: 200, lines_per_second: None });
    writer.join().unwrap();
    agent.end(&api, 1);
    agent.send(&ToLogs::Quit);
    assert!(role.wait().unwrap().success());
    let output = dirs.output(&api);
    let lost = count * 128 - output.len() as u64;
    assert!(lost <= kills * LOSS_BYTES_MAX, "{lost} bytes");
    // What is there is in order; only where a role was killed are lines cut.
    let numbers: Vec<u64> =
        output.lines().filter(|line| line.len() == 127).filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.is_sorted() && numbers.last() == Some(&(count - 1)));
    println!("{kills} kills under a flood of {} MB lost {lost} bytes", count * 128 / 1_000_000);
}

#[test]
fn a_role_killed_after_a_quiet_moment_loses_nothing() {
    let dirs = Dirs::new("quiet");
    let api = stream("api", 0);
    let mut pipe = dirs.pipe(&api);
    for round in 0..5 {
        let mut role = start_process(&dirs.root);
        let agent = Agent::connect(&dirs.root);
        agent.watch(&dirs, &api, PLENTY);
        write_lines(&mut pipe, round * 1_000, 1_000);
        let wanted = (round + 1) * 128_000;
        eventually("all bytes in the file", || {
            dirs.log().join("api.0.log").metadata().is_ok_and(|file| file.len() == wanted)
        });
        role.kill().unwrap();
        role.wait().unwrap();
        // More comes while no role lives.
    }
    let numbers: Vec<u64> = dirs.output(&api).lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..5_000).collect::<Vec<u64>>());
}

#[test]
fn roles_ignore_polite_signals() {
    let dirs = Dirs::new("polite");
    let mut role = start_process(&dirs.root);
    let mut agent = Agent::connect(&dirs.root);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(role.id()).unwrap());
    for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT, nix::sys::signal::SIGHUP] {
        nix::sys::signal::kill(pid, signal).unwrap();
    }
    agent.end(&stream("any", 0), 1);
    agent.send(&ToLogs::Quit);
    assert!(role.wait().unwrap().success());
}

#[test]
fn a_thousand_silent_pipes_cost_no_wake_up_and_little_memory() {
    let dirs = Dirs::new("silent");
    let mut role = start_process(&dirs.root);
    let mut agent = Agent::connect(&dirs.root);
    let before = private_kib(role.id());
    let pipes: Vec<fs::File> = (0..1_000)
        .map(|index| {
            let stream = stream("service", index);
            let pipe = dirs.pipe(&stream);
            agent.watch(&dirs, &stream, PLENTY);
            agent.begin(&stream, 1, None);
            pipe
        })
        .collect();
    agent.end(&stream("fence", 0), 1);
    // Once, a second after its start, it gives back what only the start needed.
    std::thread::sleep(Duration::from_millis(1_500));
    let switches = switches(role.id());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(self::switches(role.id()), switches);
    let after = private_kib(role.id());
    println!("1,000 silent pipes: {before} KiB private before, {after} KiB after");
    assert!(after < before + 1_024, "{before} KiB before, {after} KiB after");
    drop(pipes);
    agent.send(&ToLogs::Quit);
    role.wait().unwrap();
}

fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |path: PathBuf| -> u64 {
        let status = fs::read_to_string(path.join("status")).unwrap();
        status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    };
    tasks.map(|task| of(task.unwrap().path())).sum()
}

fn private_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_Dirty") || line.starts_with("Anonymous"));
    private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).max().unwrap()
}
