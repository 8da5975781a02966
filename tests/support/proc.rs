//! What the kernel says of processes and groups.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every process of the machine.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Empty for a zombie and for what is not ours to read.
pub(crate) fn environment(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    words(&bytes)
}

pub(crate) fn command_line(pid: i32) -> String {
    words(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).join(" ")
}

fn words(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

/// Stops a process by SIGSTOP and waits until it has stopped: the signal is only on its way when kill(2) returns, and a call that
/// is under way may still succeed before.
pub(crate) fn halt(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let stopped = |task: fs::DirEntry| stat_at(&task.path()).is_some_and(|fields| fields[0] == "T");
    while !fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(stopped) {
        assert!(std::time::Instant::now() < deadline, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The fields of /proc/PID/stat from the third (the state) on; field N of the manual page is at N - 3.
pub(crate) fn stat(pid: i32) -> Option<Vec<String>> {
    stat_at(Path::new(&format!("/proc/{pid}")))
}

fn stat_at(place: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(place.join("stat")).ok()?;
    let rest = &text[text.rfind(')')? + 2..];
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// One line of /proc/PID/status, without its name.
pub(crate) fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in /proc/{pid}/status")).trim().to_owned()
}

/// Open descriptors and what they are.
pub(crate) fn descriptors(pid: i32) -> Vec<(i32, PathBuf)> {
    let mut found: Vec<(i32, PathBuf)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?)))
        .collect();
    found.sort();
    found
}

/// The path in the unified hierarchy.
pub(crate) fn group_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// Where groups can be made: the mount of cgroup2, when this user may write there.
pub(crate) fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let root = PathBuf::from(line.split(' ').nth(4)?);
    let probe = root.join(format!("mainstay-e2e-probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::create_dir(&probe).ok()?;
    fs::remove_dir(&probe).ok()?;
    Some(root)
}

/// Kills what is in a group and removes it with all below, and those of its name in v1 hierarchies.
pub(crate) fn remove_group(group: &Path) {
    remove_one(group);
    for hierarchy in ["cpu", "memory", "pids", "blkio"] {
        remove_one(&Path::new("/sys/fs/cgroup").join(hierarchy).join(group.file_name().unwrap_or_default()));
    }
}

fn remove_one(group: &Path) {
    if !group.is_dir() {
        return;
    }
    if let Ok(mut kill) = fs::File::options().write(true).open(group.join("cgroup.kill")) {
        let _ = kill.write_all(b"1");
    }
    for _ in 0..100 {
        remove_below(group);
        if !group.is_dir() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// The body of `GET path` from a local port; `None` when nobody answers.
pub(crate) fn http_get(port: u16, path: &str) -> Option<String> {
    http_try(port, path).ok()
}

/// The same, with the error.
pub(crate) fn http_try(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
