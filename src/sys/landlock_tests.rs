use std::fs;
use std::path::Path;

use super::*;
use crate::sys::fifo;
use crate::sys::spawn::{ExecStatus, SpawnRequest, spawn};
use crate::sys::testing::{TempDir, exit_of, outcome, read_all, shell};

fn c_string(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// A directory with `open/file` and `closed/file`; `None` where there is no Landlock.
fn scene() -> Option<TempDir> {
    if abi().is_none() {
        eprintln!("skipped: this kernel has no Landlock");
        return None;
    }
    let directory = TempDir::new();
    for name in ["open", "closed"] {
        fs::create_dir(directory.path().join(name)).unwrap();
        fs::write(directory.path().join(name).join("file"), name).unwrap();
    }
    Some(directory)
}

/// What the script says in the directory behind this wall.
#[track_caller]
fn behind(wall: &Wall, directory: &TempDir, script: &str) -> String {
    let (reader, output) = fifo::pipe().unwrap();
    let cwd = Some(c_string(directory.path()));
    let request = SpawnRequest { wall: Some(Box::new(wall.clone())), cwd, ..shell(script, &output) };
    let child = spawn(&request).unwrap();
    child.gate.open().unwrap();
    assert_eq!(outcome(&child), ExecStatus::Executed);
    drop(output);
    let said = read_all(&reader);
    exit_of(&child.pidfd);
    said
}

#[test]
fn rights_follow_what_the_kernel_knows() {
    assert_eq!(Wall::for_abi(Refuse::Writing, 1).refused, 0x1ff2);
    assert_eq!(Wall::for_abi(Refuse::Writing, 2).refused, 0x3ff2);
    assert_eq!(Wall::for_abi(Refuse::Both, 3).refused, 0x7fff);
    assert_eq!(Wall::for_abi(Refuse::Both, 7).refused, 0x7fff);
    assert_eq!(Wall::for_abi(Refuse::Reading, 1), Wall { refused: READ, rules: Vec::new() });
    assert_eq!(Wall::for_abi(Refuse::Reading, 2).rules.len(), 1);
    let mut wall = Wall::for_abi(Refuse::Writing, 3);
    wall.allow_reading(c"/usr".to_owned());
    assert_eq!(wall.rules, [], "reading is not refused");
}

#[test]
fn who_may_write_only_here_can_read_everywhere_and_change_nothing_else() {
    let Some(directory) = scene() else { return };
    let mut wall = Wall::new(Refuse::Writing).unwrap();
    wall.allow_writing(c_string(&directory.path().join("open")));
    wall.allow_writing_if_there(c"/dev/null".to_owned());
    wall.allow_writing_if_there(c"/no/such/device".to_owned());
    let script = "exec 2>/dev/null
        try() { if eval \"$1\"; then echo yes; else echo no; fi; }
        try 'echo x > open/new' ; try 'mkdir open/d' ; try 'mv open/file open/d/moved' ; try 'rm open/d/moved'
        try 'cat closed/file >/dev/null' ; try 'echo x >/dev/null'
        try '(echo x > closed/file)' ; try '(echo x > closed/new)' ; try 'mkdir closed/d' ; try 'rm closed/file'
        try 'mv closed/file closed/other' ; try 'mv open/new closed/new' ; try 'ln -s x closed/link' ; try 'sh -c \"echo x > closed/new\"'";
    let said = behind(&wall, &directory, script);
    let expected = [["yes"; 6].as_slice(), ["no"; 8].as_slice()].concat();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fs::read_to_string(directory.path().join("closed/file")).unwrap(), "closed");
}

#[test]
fn who_may_read_only_here_finds_nothing_else_and_writes_where_it_could() {
    let Some(directory) = scene() else { return };
    let mut wall = Wall::new(Refuse::Reading).unwrap();
    for path in ["/bin", "/usr", "/lib", "/lib64", "/etc"] {
        if Path::new(path).exists() {
            wall.allow_reading(CString::new(path).unwrap());
        }
    }
    wall.allow_reading(c_string(&directory.path().join("open")));
    let script = "exec 2>&1
        try() { if eval \"$1\" >out; then echo yes; else echo no; fi; }
        try 'cat open/file' ; try 'ls open' ; try 'echo x > closed/new' ; try 'mv open/file closed/moved'
        try 'cat closed/file' ; try 'ls closed' ; try 'cat closed/moved' ; try 'mv closed/new open/gained'";
    let said = behind(&wall, &directory, script);
    let answers: Vec<&str> = said.lines().filter(|line| ["yes", "no"].contains(line)).collect();
    assert_eq!(answers, ["yes", "yes", "yes", "yes", "no", "no", "no", "no"], "{said}");
}

#[test]
fn path_that_is_missing_is_named_and_no_line_of_the_program_runs() {
    let Some(directory) = scene() else { return };
    let mut wall = Wall::new(Refuse::Writing).unwrap();
    wall.allow_writing(c_string(directory.path()));
    let missing = directory.path().join("missing");
    wall.allow_writing(c_string(&missing));
    let (_reader, output) = fifo::pipe().unwrap();
    let marker = directory.path().join("marker");
    let script = format!("touch {}", marker.display());
    let child = spawn(&SpawnRequest { wall: Some(Box::new(wall)), ..shell(&script, &output) }).unwrap();
    child.gate.open().unwrap();
    let ExecStatus::FailedAt { step, errno, path } = outcome(&child) else { panic!("no path was named") };
    assert_eq!((step, errno, child.gate.path(path)), ("landlock", Errno::ENOENT, missing.display().to_string()));
    exit_of(&child.pidfd);
    assert!(!marker.exists());
}

#[test]
fn group_that_cannot_be_joined_is_named() {
    let (_reader, output) = fifo::pipe().unwrap();
    let joins = vec![c"/dev/null".to_owned(), c"/no/such/cgroup.procs".to_owned()];
    let child = spawn(&SpawnRequest { joins, ..shell("exit 3", &output) }).unwrap();
    child.gate.open().unwrap();
    let ExecStatus::FailedAt { step, errno, path } = outcome(&child) else { panic!("no path was named") };
    assert_eq!((step, errno, path), ("cgroup.procs", Errno::ENOENT, 1));
    assert_eq!(child.gate.path(path), "/no/such/cgroup.procs");
    exit_of(&child.pidfd);
}

#[test]
fn root_builds_the_wall_without_no_new_privileges_and_before_its_capabilities_go() {
    let Some(directory) = scene() else { return };
    if !crate::sys::testing::root_or_skip("becoming another user") {
        return;
    }
    let mut wall = Wall::new(Refuse::Writing).unwrap();
    wall.allow_writing(c_string(&directory.path().join("open")));
    let (reader, output) = fifo::pipe().unwrap();
    let script = "grep NoNewPrivs /proc/self/status; echo x > open/new && echo written";
    let request = SpawnRequest {
        wall: Some(Box::new(wall.clone())),
        cwd: Some(c_string(directory.path())),
        capabilities: Some(Vec::new()),
        ..shell(script, &output)
    };
    let child = spawn(&request).unwrap();
    child.gate.open().unwrap();
    assert_eq!(outcome(&child), ExecStatus::Executed);
    drop(request);
    drop(output);
    assert_eq!(read_all(&reader), "NoNewPrivs:\t0\nwritten\n");
    exit_of(&child.pidfd);
}
