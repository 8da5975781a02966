//! Services in RON.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A sample service: `knobs` are its arguments, separated by blanks; `more` are further fields.
pub(crate) fn sample(name: &str, knobs: &str, more: &str) -> String {
    let mut command = vec!["$BIN", "sample", "--name", name];
    command.extend(knobs.split_whitespace());
    service(name, &command, more)
}

/// A service that is a shell script.
pub(crate) fn shell(name: &str, script: &str, more: &str) -> String {
    service(name, &["/bin/sh", "-c", script], more)
}

fn service(name: &str, command: &[&str], more: &str) -> String {
    let env = if more.contains("env:") { "" } else { "env: {\"E2E_TAG\": \"$TAG\"}, " };
    format!("(name: {name:?}, command: {command:?}, {env}{more}),\n")
}

/// `count` ports in a row that nobody listens on now.
pub(crate) fn free_ports(count: u16) -> u16 {
    // Below those that the kernel gives to outgoing connections, of which there are many: it would take one that is free now.
    const FIRST: u32 = 12_000;
    const BEYOND: u32 = 32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let place = std::process::id().wrapping_mul(1_031) + NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
        let port = u16::try_from(FIRST + place % (BEYOND - FIRST - u32::from(count))).unwrap();
        let all: Result<Vec<_>, _> = (0..count).map(|next| TcpListener::bind(("127.0.0.1", port + next))).collect();
        if all.is_ok() {
            return port;
        }
    }
}
