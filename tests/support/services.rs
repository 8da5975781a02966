//! Services in RON.

use std::net::TcpListener;

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
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let others: Result<Vec<_>, _> =
            (1..count).map(|next| TcpListener::bind(("127.0.0.1", port.saturating_add(next)))).collect();
        if others.is_ok() && port.checked_add(count).is_some() {
            return port;
        }
    }
}
