//! The programs of docs/handoff, as replicas of a real role.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay::engine::balance::plan::{Address, Delivery};
use mainstay::proxy::proto::ToProxy;

use crate::role::{Replica, Role, patient, table};

/// Who greets a client, and whether it echoes.
fn greeting(address: SocketAddr) -> u32 {
    let mut stream = patient(address);
    stream.write_all(b"and back\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
    let [hello, echo] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(echo, "and back");
    hello.strip_prefix("hello from ").unwrap().parse().unwrap()
}

/// Two replicas of the program take turns; when one is killed, the other serves everybody.
fn try_out(program: &[&str]) {
    let role = Role::start();
    let addresses = (0..2).map(|index| Address::Unix(format!("/not/used/{index}").into())).collect();
    role.order(&ToProxy::Table { table: Box::new(table(Delivery::HandOff, addresses)) }, &[]);
    let mut replicas: Vec<Replica> = (0..2).map(|index| Replica::start(&role, index, program)).collect();
    let address = role.listen();
    role.order(&ToProxy::Complete, &[]);
    let mut greeted: Vec<u32> = (0..4).map(|_| greeting(address)).collect();
    greeted.sort_unstable();
    let mut pids: Vec<u32> = replicas.iter().flat_map(|replica| [replica.pid(), replica.pid()]).collect();
    pids.sort_unstable();
    assert_eq!(greeted, pids, "each has had two");
    replicas[0].kill();
    for _ in 0..4 {
        assert_eq!(greeting(address), replicas[1].pid());
    }
}

fn snippet(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/handoff").join(name)
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let ran = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

#[test]
fn python_replica_takes_connections() {
    if !succeeds("python3", &["-c", "import socket; socket.recv_fds"]) {
        return eprintln!("skipped: there is no python3 of version 3.9 or later");
    }
    try_out(&["python3", snippet("replica.py").to_str().unwrap()]);
}

#[test]
fn c_replica_takes_connections() {
    if !succeeds("cc", &["--version"]) {
        return eprintln!("skipped: there is no C compiler");
    }
    let binary = std::env::temp_dir().join(format!("mainstay-replica-c-{}", std::process::id()));
    let source = snippet("replica.c");
    let built = Command::new("cc").args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&binary).arg(source).status();
    assert!(built.unwrap().success());
    try_out(&[binary.to_str().unwrap()]);
    std::fs::remove_file(&binary).unwrap();
}

#[test]
fn rust_replica_takes_connections() {
    // Beside the binary, where cargo puts it when it builds all targets.
    let example = Path::new(env!("CARGO_BIN_EXE_mainstay")).with_file_name("examples").join("replica");
    if !example.exists() {
        return eprintln!("skipped: the example is built only by a whole `cargo test` or `cargo build --examples`");
    }
    try_out(&[example.to_str().unwrap()]);
}
