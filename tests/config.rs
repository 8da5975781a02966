//! The configuration from the outside: every rule with the text it answers with, the shipped files, and texts that nobody would write.

#![expect(clippy::unwrap_used, reason = "a test that cannot prepare its files has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use expect_test::{Expect, expect};
use mainstay::config::{self, Context, DEMO, Diagnostic, Loaded, Look, explain, keys, load, load_dirs, load_text};
use mainstay::engine::plan::{Probe, Readiness, expand};

#[path = "config/balancers.rs"]
mod balancers;
#[path = "config/checks.rs"]
mod checks;
#[path = "config/copies.rs"]
mod copies;
#[path = "config/isolation.rs"]
mod isolation;

/// A host of our own below a temporary directory, removed at the end.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("mainstay-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(unique);
        fs::create_dir_all(&root).unwrap();
        let host = Self { root: fs::canonicalize(root).unwrap() };
        host.file(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/bash\nmainstay-proxy:x:901:901::/nonexistent:/usr/sbin/nologin\n# comment\nbroken:x:1\napi:x:900:900::/srv/api:/usr/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\npostgres:x:106:113::/var/lib/postgresql:/bin/bash\n\
             mosquitto:x:107:114::/var/lib/mosquitto:/usr/sbin/nologin\nredis:x:108:115::/var/lib/redis:/usr/sbin/nologin\n\
             prometheus:x:109:116::/var/lib/prometheus:/usr/sbin/nologin\n",
        );
        host.file("/etc/group", 0o644, "root:x:0:\napi:x:900:\nssl-cert:x:112:postgres,api\npostgres:x:113:\nnogroup:x:65534:\nredis:x:115:\nmainstay:x:999:\n");
        host.file("/etc/environment", 0o644, "LANG=C.UTF-8\n");
        for program in ["usr/bin/true", "usr/bin/sh", "usr/bin/sleep", "usr/bin/install", "bin/sh"] {
            host.file(program, 0o755, "");
        }
        for directory in ["var/lib/postgresql", "lib"] {
            fs::create_dir_all(host.root.join(directory)).unwrap();
        }
        host
    }

    fn file(&self, path: &str, mode: u32, text: &str) -> PathBuf {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// The uid of whoever runs the tests.
    fn own_uid(&self) -> u32 {
        fs::metadata(&self.root).unwrap().uid()
    }

    fn context(&self, uid: u32) -> Context {
        Context {
            uid,
            look: Look::at(&self.root),
            own_binary: Some(PathBuf::from("/opt/mainstay/mainstay")),
            xdg_runtime_dir: None,
            xdg_state_home: None,
            home: Some(PathBuf::from("/home/somebody")),
        }
    }

    fn load_text(&self, text: &str) -> Result<Loaded, Vec<Diagnostic>> {
        load_text("test.ron", text, &self.context(0))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Left behind in the temporary directory at worst.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// One line a finding: severity, place, path, message, hint.
fn short(result: &Result<Loaded, Vec<Diagnostic>>, root: &Path) -> String {
    let findings = match result {
        Ok(loaded) => &loaded.warnings,
        Err(findings) => findings,
    };
    let mut out = String::new();
    for found in findings {
        let Diagnostic { severity, file, line, column, path, message, hint, .. } = found;
        out.push_str(&format!("{severity} {file}:{line}:{column} {path}: {message}"));
        if let Some(hint) = hint {
            out.push_str(&format!(" ({hint})"));
        }
        out.push('\n');
    }
    if result.is_ok() {
        out.push_str("accepted\n");
    }
    out.replace(root.to_str().unwrap(), "ROOT")
}

/// The findings about one or more services, each on a line of its own from line 1 on.
fn services(text: &str, expected: &Expect) {
    let host = Host::new();
    let result = host.load_text(&format!("(services: [{text}])"));
    expected.assert_eq(&short(&result, &host.root));
}

/// The findings about one service with these keys, beside a name and a command.
fn keys_of_service(text: &str, expected: &Expect) {
    services(&format!("(name: \"a\", command: [\"true\"],\n{text})"), expected);
}

#[test]
fn findings_are_shown_with_their_line_and_a_caret() {
    let host = Host::new();
    let text = "(\n    services: [\n        (name: \"db\", command: [\"true\"], restart: OnFailre),\n        (name: \"api\", command: [\"true\"], requires: [\"dbb\"]),\n    ],\n)";
    let findings = host.load_text(text).unwrap_err();
    let shown: Vec<String> = findings.iter().map(ToString::to_string).collect();
    expect![[r#"
        error: unknown word `OnFailre`; expected Always, OnFailure or Never
          --> test.ron:3:50
          |
        3 |         (name: "db", command: ["true"], restart: OnFailre),
          |                                                  ^^^^^^^^
          = at services[0].restart
          = help: did you mean OnFailure?

        error: there is no service "dbb"
          --> test.ron:4:53
          |
        4 |         (name: "api", command: ["true"], requires: ["dbb"]),
          |                                                     ^^^^^
          = at services[1].requires[0]
          = help: did you mean "db"?"#]]
    .assert_eq(&shown.join("\n\n"));
    let json = serde_json::to_string(&findings).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Diagnostic>>(&json).unwrap(), findings);
}

#[test]
fn a_text_that_is_no_ron_says_where() {
    let host = Host::new();
    let mut out = String::new();
    for text in [
        "",
        "(",
        "(services: [(name: \"a\" command: [\"true\"])])",
        "(services: [(name: \"a)])",
        "(services: 5)",
        "services: []",
        "(services: [])\n)",
        "(services: [(name: \"\\q\")])",
        "/* open",
        "(agent: [])",
    ] {
        out.push_str(&format!("{text:?}\n    {}", short(&host.load_text(text), &host.root)));
    }
    expect![[r#"
        ""
            error test.ron:1:1 : expected round brackets, such as (key: value)
        "("
            error test.ron:1:2 : the text ends too early: a bracket or a quote is not closed
        "(services: [(name: \"a\" command: [\"true\"])])"
            error test.ron:1:24 services[0].command: expected a comma before this
        "(services: [(name: \"a)])"
            error test.ron:1:21 services[0].name: the text ends inside of quotes: one is not closed
        "(services: 5)"
            error test.ron:1:12 services: expected a list in square brackets
        "services: []"
            error test.ron:1:9 : expected round brackets, such as (key: value)
        "(services: [])\n)"
            error test.ron:2:1 : non-whitespace trailing characters
        "(services: [(name: \"\\q\")])"
            error test.ron:1:23 services[0].name: unknown escape character
        "/* open"
            error test.ron:1:8 : unclosed block comment
        "(agent: [])"
            error test.ron:1:9 agent: expected round brackets, such as (key: value)
    "#]]
    .assert_eq(&out);
}

#[test]
fn keys_of_the_file() {
    let host = Host::new();
    let result = host.load_text(
        "(\nbalancers: [],\nservics: [],\nchecks: [(name: \"x\", check: Memory)], copies: [(name: 3)], alerts: [],\nagent: (),\nagent: ())",
    );
    expect![[r#"
        error test.ron:3:1 servics: unknown key `servics` (did you mean "services"?)
        error test.ron:4:55 copies[0].name: expected a text in quotes (write "3")
        error test.ron:4:55 copies[0].from: the key `from` is missing or empty (write what is copied, such as from: ["/var/lib/api"])
        error test.ron:4:55 copies[0].to: the key `to` is missing or empty (write a directory on the second disk, such as to: "/mnt/second/copies")
        error test.ron:6:1 agent: the key `agent` is given twice
    "#]]
    .assert_eq(&short(&result, &host.root));
}

#[test]
fn every_mistake_of_a_service_is_found_at_once() {
    services(
        "\n(nme: \"a\", comand: [\"true\"], replicas: -1, port: 70000, start_timeout: 10, logs: (max_size: \"10M\"), backoff: (jitter: \"5\"), kind: Onshot, kind: Daemon, user: nobody, command: \"true\", rlimits: (nofil: 3), stop: (signal: TERM), alive: (every: \"1s\"), no_new_privileges: yes)",
        &expect![[r#"
            error test.ron:2:2 services[0].nme: unknown key `nme` (did you mean "name"?)
            error test.ron:2:12 services[0].comand: unknown key `comand` (did you mean "command"?)
            error test.ron:2:40 services[0].replicas: the number is out of range
            error test.ron:2:50 services[0].port: the number is out of range
            error test.ron:2:72 services[0].start_timeout: 10 lacks a unit; write "10s"
            error test.ron:2:93 services[0].logs.max_size: "10M" is not a size: there is no unit "M"; did you mean "10MiB"?
            error test.ron:2:119 services[0].backoff.jitter: "5" is not a share; write a percentage such as "50%"
            error test.ron:2:131 services[0].kind: unknown word `Onshot`; expected Daemon, Oneshot or Every (did you mean Oneshot?)
            error test.ron:2:159 services[0].user: expected a text in quotes (write "nobody")
            error test.ron:2:176 services[0].command: expected a list in square brackets (write ["true"])
            error test.ron:2:194 services[0].rlimits.nofil: unknown key `nofil` (did you mean "nofile"?)
            error test.ron:2:220 services[0].stop.signal: expected a text in quotes (write "TERM")
            error test.ron:2:234 services[0].alive: the key `probe` is missing
            error test.ron:2:268 services[0].no_new_privileges: expected true or false
        "#]],
    );
}

#[test]
fn names() {
    services(
        "\n(command: [\"true\"]),\n(name: \"\", command: [\"true\"]),\n(name: \"Web Shop\", command: [\"true\"]),\n(name: \"-x\", command: [\"true\"]),\n(name: \"a12345678901234567890123456789012345678901234567890\", command: [\"true\"]),\n(name: \"ok.1_x-y\", command: [\"true\"]),\n(name: \"ok.1_x-y\", command: [\"true\"])",
        &expect![[r#"
            error test.ron:2:1 services[0].name: the key `name` is missing or empty (each service needs a name such as "web")
            error test.ron:3:8 services[1].name: the key `name` is missing or empty (each service needs a name such as "web")
            error test.ron:4:8 services[2].name: "Web Shop" cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . - (write "web-shop")
            error test.ron:5:8 services[3].name: "-x" cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . -
            error test.ron:6:8 services[4].name: "a12345678901234567890123456789012345678901234567890" cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . -
            error test.ron:8:8 services[6].name: there are two services "ok.1_x-y" (the other one is at test.ron:7:8)
        "#]],
    );
}

#[test]
fn sockets_whose_path_would_be_too_long_are_refused() {
    let host = Host::new();
    let deep = format!("/run/{}", "x".repeat(80));
    let result = host.load_text(&format!(
        "(agent: (run_dir: \"{deep}\"),\nservices: [(name: \"some-service\", command: [\"true\"])])"
    ));
    expect![[r#"
        error test.ron:2:19 services[0].name: the sockets of "some-service" would have paths of 115 bytes below DEEP; the kernel allows 107 (choose a shorter `run_dir` or a shorter name)
    "#]].assert_eq(&short(&result, &host.root).replace(&deep, "DEEP"));
}

#[test]
fn dependencies() {
    services(
        "\n(name: \"db\", command: [\"true\"]),\n(name: \"cache\", command: [\"true\"], requires: [\"db\", \"db\"], wants: [\"cahce\", \"nonsense\"], after: [\"d\"], restart_with: [\"bd\"])",
        &expect![[r#"
            warning test.ron:3:53 services[1].requires[1]: "db" stands here twice
            error test.ron:3:68 services[1].wants[0]: there is no service "cahce" (did you mean "cache"?)
            error test.ron:3:77 services[1].wants[1]: there is no service "nonsense"
            error test.ron:3:98 services[1].after[0]: there is no service "d" (did you mean "db"?)
            error test.ron:3:119 services[1].restart_with[0]: there is no service "bd" (did you mean "db"?)
        "#]],
    );
}

#[test]
fn circles_are_printed() {
    services(
        "\n(name: \"a\", command: [\"true\"], requires: [\"b\"]),\n(name: \"b\", command: [\"true\"], wants: [\"c\"]),\n(name: \"c\", command: [\"true\"], restart_with: [\"a\"]),\n(name: \"d\", command: [\"true\"], after: [\"d\"]),\n(name: \"e\", command: [\"true\"], after: [\"f\", \"a\"]),\n(name: \"f\", command: [\"true\"], requires: [\"e\"])",
        &expect![[r#"
            error test.ron:4:47 services[2].restart_with[0]: services wait for each other: a -> b -> c -> a (remove one of these dependencies)
            error test.ron:5:40 services[3].after[0]: services wait for each other: d -> d (remove one of these dependencies)
            error test.ron:7:43 services[5].requires[0]: services wait for each other: e -> f -> e (remove one of these dependencies)
        "#]],
    );
}

#[test]
fn a_chain_of_thousands_is_no_circle_and_no_deep_recursion() {
    let host = Host::new();
    let mut text = String::from("(services: [(name: \"s0\", command: [\"true\"]),");
    for index in 1..5_000 {
        text.push_str(&format!("(name: \"s{index}\", command: [\"true\"], requires: [\"s{}\"]),\n", index - 1));
    }
    text.push_str("])");
    assert_eq!(host.load_text(&text).unwrap().plan.services.len(), 5_000);
}

#[test]
fn ports() {
    services(
        "\n(name: \"a\", command: [\"true\", \"{port}\"], port: 9000, replicas: 3),\n(name: \"b\", command: [\"true\"], port: 9002),\n(name: \"c\", command: [\"true\"], port: 9001),\n(name: \"d\", command: [\"true\", \"{port}\"], port: 65535, replicas: 2),\n(name: \"e\", command: [\"true\"], port: 0),\n(name: \"f\", command: [\"true\"], port: 9010, replicas: 2)",
        &expect![[r#"
            error test.ron:3:38 services[1].port: port 9002 is taken twice: by a (9000 to 9002) and by b (the other one is at test.ron:2:48)
            error test.ron:4:38 services[2].port: port 9001 is taken twice: by a (9000 to 9002) and by c (the other one is at test.ron:2:48)
            error test.ron:5:48 services[3].port: 2 replicas from port 65535 on would need ports above 65535
            error test.ron:6:38 services[4].port: port 0 is none
            warning test.ron:7:38 services[5].port: 2 replicas have ports, but nothing tells them: `{port}` stands nowhere (pass it in `command` or `env`, such as "--port", "{port}")
        "#]],
    );
}

#[test]
fn words_in_braces() {
    keys_of_service(
        "env: {\"A\": \"{port}\", \"B\": \"{prot} {\\\"json\\\": {}} {nam} {other} ${HOME}\"}, ready: Tcp(\"127.0.0.1:{port}\"), cwd: \"/x/{release}\"",
        &expect![[r#"
            error test.ron:2:7 services[0].env["A"]: `{port}` stands here, but the service has no `port` (add the key `port`, such as port: 9001)
            warning test.ron:2:22 services[0].env["B"]: `{prot}` is none of our words and stays as written (did you mean `{port}`?)
            warning test.ron:2:22 services[0].env["B"]: `{nam}` is none of our words and stays as written (did you mean `{name}`?)
            error test.ron:2:82 services[0].ready: `{port}` stands here, but the service has no `port` (add the key `port`, such as port: 9001)
            warning test.ron:2:112 services[0].cwd: `{release}` is empty: releases are not built yet
            warning test.ron:2:112 services[0].cwd: there is no directory /x/: the service cannot start until there is
        "#]],
    );
}

#[test]
fn replicas_and_kinds() {
    services(
        "\n(name: \"a\", command: [\"true\"], replicas: 0),\n(name: \"b\", command: [\"true\"], replicas: 10001),\n(name: \"c\", command: [\"true\"], kind: Oneshot, ready: Notify, alive: (probe: Tcp(\"127.0.0.1:1\")), watchdog: \"1s\"),\n(name: \"d\", command: [\"true\"], kind: Every(\"1ms\")),\n(name: \"e\", command: [\"true\"], kind: Every)",
        &expect![[r#"
            error test.ron:2:42 services[0].replicas: 0 replicas: nothing would run (remove the service, or stop it with `mainstay stop`)
            error test.ron:3:42 services[1].replicas: 10001 replicas; at most 10000 are possible
            warning test.ron:4:54 services[2].ready: `ready` has no meaning here: a Oneshot is done when it exits with success (remove it, or use `kind: Daemon`)
            warning test.ron:4:69 services[2].alive: `alive` has no meaning here: a Oneshot is done when it exits with success (remove it, or use `kind: Daemon`)
            warning test.ron:4:108 services[2].watchdog: `watchdog` has no meaning here: a Oneshot is done when it exits with success (remove it, or use `kind: Daemon`)
            error test.ron:5:38 services[3].kind: a period must be at least 100ms
            error test.ron:6:38 services[4].kind: `Every` needs a value in round brackets
        "#]],
    );
}

#[test]
fn users_and_groups() {
    services(
        "\n(name: \"a\", command: [\"true\"], user: \"nobdy\", group: \"x\"),\n(name: \"b\", command: [\"true\"], user: \"api\", group: \"ssl-crt\"),\n(name: \"c\", command: [\"true\"], user: \"someone-else\"),\n(name: \"d\", command: [\"true\"], user: \"broken\")",
        &expect![[r#"
            error test.ron:2:38 services[0].user: there is no user "nobdy" in /etc/passwd (did you mean "nobody"?)
            error test.ron:3:52 services[1].group: there is no group "ssl-crt" in /etc/group (did you mean "ssl-cert"?)
            error test.ron:4:38 services[2].user: there is no user "someone-else" in /etc/passwd (adduser --system --group someone-else)
            error test.ron:5:38 services[3].user: there is no user "broken" in /etc/passwd (adduser --system --group broken)
        "#]],
    );
    let host = Host::new();
    let plan = host.load_text("(services: [(name: \"a\", command: [\"true\"], user: \"api\"), (name: \"b\", command: [\"true\"], user: \"900\", group: \"nogroup\"), (name: \"c\", command: [\"true\"], group: \"api\"), (name: \"d\", command: [\"true\"])])").unwrap().plan;
    let users: Vec<String> = plan.services.iter().map(|service| format!("{:?}", service.process.user)).collect();
    expect![[r#"
        Some(User { name: "api", uid: 900, gid: 900, groups: [112, 900], home: "/srv/api", shell: "/usr/sbin/nologin" })
        Some(User { name: "api", uid: 900, gid: 65534, groups: [112, 900, 65534], home: "/srv/api", shell: "/usr/sbin/nologin" })
        Some(User { name: "root", uid: 0, gid: 900, groups: [0, 900], home: "/root", shell: "/bin/bash" })
        None"#]].assert_eq(&users.join("\n"));
}

#[test]
fn without_root_a_service_runs_as_the_agents_own_user() {
    let host = Host::new();
    let text = "(services: [\n(name: \"a\", command: [\"true\"], user: \"api\", group: \"ssl-cert\"),\n(name: \"b\", command: [\"true\"], user: \"api\"),\n(name: \"c\", command: [\"true\"], user: \"nobody\"),\n(name: \"d\", command: [\"true\"], nice: -5, capabilities: [\"NET_BIND_SERVICE\"], oom_score_adj: -1)])";
    let result = load_text("test.ron", text, &host.context(900));
    expect![[r#"
        error test.ron:2:52 services[0].group: the agent runs as api and cannot start a service as another group (remove `group`, or run the agent as root)
        error test.ron:4:38 services[2].user: the agent runs as api and cannot start a service as another user (remove `user`, or run the agent as root)
        warning test.ron:5:38 services[3].nice: a negative `nice` needs root: the start may fail
        error test.ron:5:56 services[3].capabilities: only an agent that runs as root can give capabilities
        warning test.ron:5:93 services[3].oom_score_adj: a negative `oom_score_adj` needs root: the start may fail
    "#]].assert_eq(&short(&result, &host.root));
    let plan = load_text(
        "test.ron",
        "(services: [(name: \"b\", command: [\"true\"], user: \"api\", group: \"api\")])",
        &host.context(900),
    )
    .unwrap()
    .plan;
    assert_eq!(plan.services[0].process.user, None);
}

#[test]
fn commands() {
    let host = Host::new();
    host.file("/usr/bin/plain", 0o644, "");
    host.file("/opt/script", 0o755, "#!/usr/bin/python7 -u\n");
    host.file("/opt/good", 0o755, "#! /bin/sh\n");
    host.file("/opt/ours", 0o750, "");
    host.file("/secret/tool", 0o755, "");
    fs::set_permissions(host.root.join("secret"), fs::Permissions::from_mode(0o700)).unwrap();
    let text = "(services: [\n(name: \"a\"),\n(name: \"b\", command: []),\n(name: \"c\", command: [\"\"]),\n(name: \"d\", command: [\"sleep 5\"]),\n(name: \"e\", command: [\"nosuch\"]),\n(name: \"f\", command: [\"/usr/bin\"]),\n(name: \"g\", command: [\"plain\"]),\n(name: \"h\", command: [\"./run\"], cwd: \"/usr/bin\"),\n(name: \"i\", command: [\"/opt/script\"]),\n(name: \"j\", command: [\"/nosuch/file\"]),\n(name: \"k\", command: [\"/opt/ours\"], user: \"nobody\"),\n(name: \"l\", command: [\"/secret/tool\"], user: \"nobody\"),\n(name: \"m\", command: [\"true\", \"a\\u{0}b\"]),\n(name: \"n\", command: [\"true\"], ready: Exec([]), alive: (probe: Exec([\"nosuch\"])))])";
    expect![[r#"
        error test.ron:2:8 services[0].command: the key `command` is missing or empty (write a list such as ["/usr/bin/api", "--port", "{port}"])
        error test.ron:3:22 services[1].command: the key `command` is missing or empty (write a list such as ["/usr/bin/api", "--port", "{port}"])
        error test.ron:4:23 services[2].command[0]: an empty command
        error test.ron:5:23 services[3].command[0]: there is no command "sleep 5" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin (write each word by itself: ["sleep", "5"])
        error test.ron:6:23 services[4].command[0]: there is no command "nosuch" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin (write its absolute path)
        error test.ron:7:23 services[5].command[0]: /usr/bin is a directory
        error test.ron:8:23 services[6].command[0]: /usr/bin/plain is not executable for root (chmod +x /usr/bin/plain)
        error test.ron:9:23 services[7].command[0]: "./run" is not an absolute path (write "/usr/bin/run")
        error test.ron:10:23 services[8].command[0]: /opt/script is a script for /usr/bin/python7, which does not exist
        error test.ron:11:23 services[9].command[0]: /nosuch/file does not exist
        error test.ron:12:23 services[10].command[0]: /opt/ours is not executable for nobody (chmod +x /opt/ours)
        error test.ron:13:23 services[11].command[0]: nobody cannot reach /secret/tool: no permission to enter /secret
        error test.ron:14:31 services[12].command[1]: a zero byte cannot stand here
        error test.ron:15:39 services[13].ready: an empty command (write a list such as ["/usr/bin/api", "--port", "{port}"])
        error test.ron:15:70 services[13].alive.probe[0]: there is no command "nosuch" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin (write its absolute path)
    "#]].assert_eq(&short(&host.load_text(text), &host.root));

    let good = "(services: [(name: \"a\", command: [\"true\", \"x\"]), (name: \"b\", command: [\"/opt/good\"]), (name: \"good\", command: [\"/opt/{name}\"]), (name: \"c\", command: [\"mainstay\", \"sample\"], ready: Exec([\"sh\", \"-c\", \"true\"]))])";
    let plan = host.load_text(good).unwrap().plan;
    let commands: Vec<String> = plan.services.iter().map(|service| service.process.command.join(" ")).collect();
    assert_eq!(commands, ["/usr/bin/true x", "/opt/good", "/opt/{name}", "/opt/mainstay/mainstay sample"]);
    assert_eq!(
        plan.services[3].ready,
        Readiness::Probe(Probe::Exec(vec!["/usr/bin/sh".into(), "-c".into(), "true".into()]))
    );
}

#[test]
fn the_environment() {
    keys_of_service(
        "cwd: \"/nosuch\", umask: 0o1777, env: {\"A\": \"1\",\n\"A\": \"2\", \"B-C\": \"3\", \"NOTIFY_SOCKET\": \"4\", \"D\": \"\\u{0}\"}, env_file: \"/nosuch\"",
        &expect![[r#"
            warning test.ron:2:6 services[0].cwd: there is no directory /nosuch: the service cannot start until there is
            error test.ron:2:24 services[0].umask: 0o1777 is no umask: 0o000 to 0o777 (write it in octal, such as 0o027)
            error test.ron:3:1 services[0].env["A"]: the variable "A" is given twice (it is first given at test.ron:2:38)
            error test.ron:3:11 services[0].env["B-C"]: "B-C" cannot be the name of a variable (it consists of A-Z a-z 0-9 and _ and starts with no digit)
            warning test.ron:3:23 services[0].env["NOTIFY_SOCKET"]: NOTIFY_SOCKET is set by the agent where it is needed; this value may be replaced
            error test.ron:3:45 services[0].env["D"]: a zero byte cannot stand here
            error test.ron:3:70 services[0].env_file: cannot read /nosuch: No such file or directory (os error 2)
        "#]],
    );
    keys_of_service(
        "cwd: \"srv\", env_file: \"etc/x\", env: {\"PORT\": 8080}",
        &expect![[r#"
        error test.ron:2:6 services[0].cwd: "srv" is not an absolute path (it must start with /)
        error test.ron:2:23 services[0].env_file: "etc/x" is not an absolute path (it must start with /)
        error test.ron:2:46 services[0].env["PORT"]: expected a text in quotes (write "8080")
    "#]],
    );
}

#[test]
fn a_file_of_variables_is_read_below_env() {
    let host = Host::new();
    host.file("/etc/default/api", 0o644, "# comment\nA=file\nexport B='b c'\n");
    host.file("/etc/default/bad", 0o644, "A=1\nnonsense\nSECRET=\"hunter2\n");
    host.file("/etc/default/open", 0o666, "A=1\n");
    let context = host.context(host.own_uid());
    let plan = load_text(
        "test.ron",
        "(services: [(name: \"a\", command: [\"true\"], env_file: \"/etc/default/api\", env: {\"A\": \"env\"})])",
        &context,
    )
    .unwrap()
    .plan;
    let env: Vec<String> = plan.services[0].process.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(env, ["A=env", "B=b c"]);
    assert!(!explain(&plan).contains("b c"), "values are not shown");

    let bad = load_text(
        "test.ron",
        "(services: [(name: \"a\", command: [\"true\"], env_file: \"/etc/default/bad\")])",
        &context,
    );
    expect![[r#"
        error /etc/default/bad:2:1 : there is no = in this line (a line is KEY=VALUE, KEY="VALUE", KEY='VALUE', or a # comment)
        error /etc/default/bad:3:1 : the quote " is not closed (a line is KEY=VALUE, KEY="VALUE", KEY='VALUE', or a # comment)
    "#]].assert_eq(&short(&bad, &host.root));
    if host.own_uid() != 0 {
        eprintln!("skipped: that a file which others can write is refused needs root");
        return;
    }
    let open = load_text(
        "test.ron",
        "(services: [(name: \"a\", command: [\"true\"], env_file: \"/etc/default/open\")])",
        &context,
    );
    expect![[r#"
        error test.ron:1:54 services[0].env_file: /etc/default/open is refused: everybody can change it, and the agent runs as root (chown root:root /etc/default/open && chmod go-w /etc/default/open)
    "#]].assert_eq(&short(&open, &host.root));
}

#[test]
fn restart_policies() {
    services(
        "\n(name: \"a\", command: [\"true\"], success_exit_codes: [], backoff: (min: \"2m\", factor: 0.5, jitter: \"150%\"), budget: (restarts: 0, within: \"0s\", hold: \"2h\")),\n(name: \"b\", command: [\"true\"], success_exit_codes: [256], backoff: (factor: NaN), budget: (restarts: 100000, hold: \"0s\")),\n(name: \"c\", command: [\"true\"], start_timeout: \"0s\", backoff: (reset_after: \"0s\"))",
        &expect![[r#"
            error test.ron:2:52 services[0].success_exit_codes: an empty list: no exit would be a success (remove it for [0], or use `restart: Always`)
            error test.ron:2:71 services[0].backoff.min: `min` 2m is longer than `max` 30s
            error test.ron:2:85 services[0].backoff.factor: `factor` must be 1.0 to 100.0
            error test.ron:2:98 services[0].backoff.jitter: `jitter` 150% is more than 100%
            error test.ron:2:126 services[0].budget.restarts: a budget of 0 restarts (`restart: Never` starts it once; `budget: None` sets no limit)
            error test.ron:2:137 services[0].budget.within: `within` must be longer than 0s
            error test.ron:2:149 services[0].budget.hold: `hold` 2h is longer than `hold_max` 1h
            error test.ron:3:53 services[1].success_exit_codes[0]: 256 is no exit code: they are 0 to 255
            error test.ron:3:77 services[1].backoff.factor: `factor` must be 1.0 to 100.0
            error test.ron:3:102 services[1].budget.restarts: at most 10000 restarts are counted (`budget: None` sets no limit)
            error test.ron:3:116 services[1].budget.hold: `hold` must be longer than 0s
            error test.ron:4:47 services[2].start_timeout: `start_timeout` must be longer than 0s
            warning test.ron:4:76 services[2].backoff.reset_after: `reset_after` is 0s: the count of failures is forgotten at once when it is ready, and the delay hardly grows
        "#]],
    );
}

#[test]
fn a_budget_that_the_back_off_can_never_reach_is_pointed_out() {
    services(
        "\n(name: \"a\", command: [\"true\"], budget: (restarts: 60), backoff: (max: \"60s\")),\n(name: \"b\", command: [\"true\"], budget: (restarts: 1, within: \"5s\"), backoff: (min: \"10s\")),\n(name: \"c\", command: [\"true\"], budget: (restarts: 1000, within: \"1s\"), backoff: (min: \"0ms\")),\n(name: \"d\", command: [\"true\"], restart: Never, budget: (restarts: 60), backoff: (max: \"60s\"))",
        &expect![[r#"
            warning test.ron:2:51 services[0].budget.restarts: the budget is never spent: 60 restarts in a row take at least 46m 32s with this back-off (up to 1m each), longer than `within` 10m (lower `restarts` to 19, raise `within` to "46m 33s" or lower `backoff.max`)
            warning test.ron:3:51 services[1].budget.restarts: the budget is never spent: 1 restarts in a row take at least 9s with this back-off (up to 30s each), longer than `within` 5s (raise `within` to "10s" or lower `backoff.max`)
            accepted
        "#]],
    );
}

#[test]
fn readiness_and_liveness() {
    services(
        "\n(name: \"a\", command: [\"true\"], ready: Fd(2)),\n(name: \"b\", command: [\"true\"], ready: Fd(3), listen: [\"tcp:127.0.0.1:1\"]),\n(name: \"c\", command: [\"true\"], ready: Fd(4000)),\n(name: \"d\", command: [\"true\"], ready: Log(\"\")),\n(name: \"e\", command: [\"true\"], ready: Http(\"https://127.0.0.1/\")),\n(name: \"f\", command: [\"true\"], ready: Http(\"http://example.org/x\")),\n(name: \"g\", command: [\"true\"], ready: Tcp(\"8080\")),\n(name: \"h\", command: [\"true\"], ready: Tcp(\"::1:80\")),\n(name: \"i\", command: [\"true\"], ready: Tcp(\"127.0.0.1:0\")),\n(name: \"j\", command: [\"true\"], ready: Http(\"http://127.0.0.1/a b\")),\n(name: \"k\", command: [\"true\"], alive: (probe: Tcp(\"localhost:80\"), every: \"1s\", timeout: \"0s\", fall: 0, rise: 0)),\n(name: \"l\", command: [\"true\"], alive: (probe: Tcp(\"localhost:80\"), every: \"1s\")),\n(name: \"m\", command: [\"true\"], watchdog: \"30s\"),\n(name: \"n\", command: [\"true\"], watchdog: \"0s\", ready: Notify),\n(name: \"o\", command: [\"true\"], ready: Udp(\"x\")),\n(name: \"p\", command: [\"true\"], alive: (every: \"1s\"))",
        &expect![[r#"
            error test.ron:2:39 services[0].ready: descriptor 2 is stdin, stdout or stderr (use Fd(3) or a higher one)
            error test.ron:3:39 services[1].ready: descriptor 3 is one of the sockets of `listen` (3 to 3) (use Fd(4) or a higher one)
            error test.ron:4:39 services[2].ready: descriptor 4000 is too high: at most 255
            error test.ron:5:39 services[3].ready: an empty text: every line would contain it
            error test.ron:6:39 services[4].ready: "https://127.0.0.1/" does not start with http:// (TLS is not spoken: use Exec with a program such as curl)
            error test.ron:7:39 services[5].ready: "example.org:80" is not a numeric address (or localhost) with a port (names are not looked up, so that a probe never waits for a name service: write 127.0.0.1:8080)
            error test.ron:8:39 services[6].ready: "8080" is not a numeric address (or localhost) with a port (write "127.0.0.1:8080")
            error test.ron:9:39 services[7].ready: "::1:80" is not a numeric address (or localhost) with a port (write IPv6 as [::1]:8080)
            error test.ron:10:39 services[8].ready: nothing can be reached at port 0 ("127.0.0.1:0")
            error test.ron:11:39 services[9].ready: the path may hold no space, fragment, control or non-ASCII character (write it %-encoded)
            error test.ron:12:90 services[10].alive.timeout: `timeout` must be longer than 0s
            error test.ron:12:102 services[10].alive.fall: `fall` must be at least 1
            error test.ron:12:111 services[10].alive.rise: `rise` must be at least 1
            warning test.ron:13:39 services[11].alive.timeout: a probe may take 2s, longer than the 1s between two (the next probe waits for the answer)
            warning test.ron:14:42 services[12].watchdog: the watchdog counts from ready on, but the service does not say when it is: WATCHDOG=1 may come too late (use `ready: Notify`, which the same socket serves)
            error test.ron:15:42 services[13].watchdog: `watchdog` must be longer than 0s
            error test.ron:16:39 services[14].ready: unknown word `Udp`; expected Started, Notify, Fd, Tcp, Http, Exec or Log
            error test.ron:17:39 services[15].alive: the key `probe` is missing
        "#]],
    );
    let host = Host::new();
    let plan = host.load_text("(services: [(name: \"a\", command: [\"true\"], ready: Http(\"http://[::1]?x=1\"), port: 8000), (name: \"b\", command: [\"true\"], port: 8001, ready: Http(\"http://localhost:{port}/{name}\"))])").unwrap().plan;
    assert_eq!(plan.services[0].ready, Readiness::Probe(Probe::Http("http://[::1]:80/?x=1".into())));
    assert_eq!(plan.services[1].ready, Readiness::Probe(Probe::Http("http://localhost:{port}/{name}".into())));
}

#[test]
fn stopping_limits_and_logs() {
    services(
        "\n(name: \"a\", command: [\"true\"], stop: (signal: \"term\")),\n(name: \"b\", command: [\"true\"], stop: (signal: \"NOPE\", timeout: \"1\")),\n(name: \"c\", command: [\"true\"], stop: (signal: \"SIGSTOP\", timeout: \"0s\")),\n(name: \"d\", command: [\"true\"], logs: (max_size: \"1KiB\", keep: 100000, lines_per_second: 0)),\n(name: \"e\", command: [\"true\"], rlimits: (nofile: (10, 5), core: \"lots\", nproc: (1,), stack: -1, memlock: \"unlimited\")),\n(name: \"f\", command: [\"true\"], nice: 20, oom_score_adj: 5000, capabilities: [\"CAP_SYS_TIME\", \"SYS_TIM\", \"x\"])",
        &expect![[r#"
            error test.ron:2:47 services[0].stop.signal: there is no signal "term" (did you mean "TERM"?)
            error test.ron:3:64 services[1].stop.timeout: "1" lacks a unit; write "1s" or "1ms"
            warning test.ron:4:47 services[2].stop.signal: SIGSTOP does not end a process (after `stop.timeout` it will be killed)
            error test.ron:5:49 services[3].logs.max_size: a log file must be allowed to grow to 4096 bytes at least
            error test.ron:5:63 services[3].logs.keep: at most 1000 rotated files are kept
            error test.ron:5:89 services[3].logs.lines_per_second: 0 lines a second would drop everything (None is no limit)
            error test.ron:6:65 services[4].rlimits.core: "lots" is not a limit; write a number, "unlimited" or (soft, hard)
            error test.ron:7:38 services[5].nice: 20 is no nice value: -20 (first) to 19 (last)
            error test.ron:7:57 services[5].oom_score_adj: 5000 is out of range: -1000 (never) to 1000 (first)
            error test.ron:7:94 services[5].capabilities[1]: there is no capability "SYS_TIM" (did you mean "SYS_TIME"?)
            error test.ron:7:105 services[5].capabilities[2]: there is no capability "x"
        "#]],
    );
}

#[test]
fn sockets_handed_over() {
    services(
        "\n(name: \"a\", command: [\"true\"], listen: [\"tcp:0.0.0.0:80\", \"8080\", \"tcp:localhost:80\", \"udp:*:53\", \"unix:x.sock\"]),\n(name: \"b\", command: [\"true\"], listen: [\"tcp:127.0.0.1:81\", \"tcp:0.0.0.0:81\", \"udp:0.0.0.0:81\", \"tcp:[::]:81\"]),\n(name: \"c\", command: [\"true\"], listen: [\"tcp:10.0.0.1:81\", \"unix:/run/x\"]),\n(name: \"d\", command: [\"true\"], replicas: 2, listen: [\"unix:/run/y\"]),\n(name: \"e\", command: [\"true\"], replicas: 2, port: 9000, listen: [\"tcp:127.0.0.1:{port}\", \"unix:{service_dir}/{replica}\"]),\n(name: \"f\", command: [\"true\"], listen: [\"tcp:127.0.0.1:9001\"]),\n(name: \"g\", command: [\"true\"], listen: [\"tcp:127.0.0.1:{port}\", \"unix:/run/x\"])",
        &expect![[r#"
            error test.ron:2:59 services[0].listen[1]: "8080" is no socket: it starts with none of tcp: udp: unix: (write "tcp:127.0.0.1:8080", "udp:[::1]:53" or "unix:{service_dir}/name.sock")
            error test.ron:2:67 services[0].listen[2]: "localhost:80" is not a numeric address with a port (write 127.0.0.1 or [::1] in place of localhost)
            error test.ron:2:87 services[0].listen[3]: "*:53" is not a numeric address with a port (write "tcp:127.0.0.1:8080", "udp:[::1]:53" or "unix:{service_dir}/name.sock")
            error test.ron:2:99 services[0].listen[4]: "x.sock" is not an absolute path (write "tcp:127.0.0.1:8080", "udp:[::1]:53" or "unix:{service_dir}/name.sock")
            error test.ron:3:61 services[1].listen[1]: the socket tcp:0.0.0.0:81 is opened twice, also by b (the other one is at test.ron:3:40)
            error test.ron:5:54 services[3].listen[0]: every replica would open the same socket unix:/run/y (put {port}, {replica} or {service_dir} into it)
            error test.ron:7:41 services[5].listen[0]: the socket tcp:127.0.0.1:9001 is opened twice, also by e (the other one is at test.ron:6:65)
            error test.ron:8:41 services[6].listen[0]: `{port}` stands here, but the service has no `port` (add the key `port`, such as port: 9001)
            error test.ron:8:65 services[6].listen[1]: the socket unix:/run/x is opened twice, also by c (the other one is at test.ron:4:40)
        "#]],
    );
}

#[test]
fn the_agent() {
    let host = Host::new();
    let text = "(agent: (run_dir: \"run\", state_dir: \"/var/\\u{0}\", admin_group: \"mainstey\", cgroup: Path(\"x\"), starting_max: 0, shutdown_timeout: \"0s\",\nwatchdog: (timeout: \"500ms\", require: [\"db\", \"bd\"]), default_checks: false, textfile: \"x.prom\", proxy_user: \"p\", log_level: \"info\"),\nservices: [(name: \"db\", command: [\"true\"])])";
    expect![[r#"
        error test.ron:1:19 agent.run_dir: "run" is not an absolute path (it must start with /)
        error test.ron:1:37 agent.state_dir: a zero byte cannot stand in a path
        warning test.ron:1:64 agent.admin_group: there is no group "mainstey": only root can give orders (did you mean "mainstay"?)
        error test.ron:1:84 agent.cgroup: "x" is not an absolute path (it must start with /)
        error test.ron:1:109 agent.starting_max: 0 starts at once: nothing would ever start (None is twice the number of CPUs)
        error test.ron:1:130 agent.shutdown_timeout: `shutdown_timeout` must be longer than 0s
        error test.ron:2:21 agent.watchdog.timeout: after 500ms a busy host would be reset: at least "10s" (30s is usual)
        error test.ron:2:46 agent.watchdog.require[1]: there is no service "bd" (did you mean "db"?)
        error test.ron:2:87 agent.textfile: "x.prom" is not an absolute path (it must start with /)
        note test.ron:2:87 agent.textfile: `textfile` does nothing yet: the metrics file is not part of this version
        warning test.ron:2:109 agent.proxy_user: there is no user "p": the proxy runs as uid 65533, which nobody else uses (adduser --system --group p)
        error test.ron:2:114 agent.log_level: unknown key `log_level` (the keys here are run_dir, state_dir, log_dir, admin_group, proxy_user, cgroup, watchdog, default_checks, starting_max, shutdown_timeout, textfile)
    "#]].assert_eq(&short(&host.load_text(text), &host.root));
    expect![[r#"
        warning test.ron:1:1 services: there are no services: the agent would only watch the host
        accepted
    "#]]
    .assert_eq(&short(&host.load_text("()"), &host.root));
    let plan = host.load_text("(agent: (run_dir: \"//run//x/\", cgroup: Off), services: [])").unwrap().plan;
    assert_eq!((plan.agent.run_dir.as_path(), plan.agent.admin_gid), (Path::new("/run/x"), Some(999)));
}

#[test]
fn directories_without_root_are_the_users_own() {
    let host = Host::new();
    let mut context = host.context(1234);
    let dirs = context.default_dirs();
    let shown = |dirs: &config::Dirs| {
        format!("{} {} {}", dirs.run_dir.display(), dirs.state_dir.display(), dirs.log_dir.display())
    };
    assert_eq!(
        shown(&dirs),
        "/tmp/mainstay-1234 /home/somebody/.local/state/mainstay /home/somebody/.local/state/mainstay/log"
    );
    context.xdg_runtime_dir = Some(PathBuf::from("/run/user/1234"));
    assert_eq!(
        context.default_dirs().run_dir,
        Path::new("/tmp/mainstay-1234"),
        "a directory that is not there is not used"
    );
    fs::create_dir_all(host.root.join("run/user/1234")).unwrap();
    context.xdg_state_home = Some(PathBuf::from("/state"));
    assert_eq!(shown(&context.default_dirs()), "/run/user/1234/mainstay /state/mainstay /state/mainstay/log");
    (context.xdg_state_home, context.home) = (None, None);
    assert_eq!(context.default_dirs().state_dir, Path::new("/run/user/1234/mainstay/state"));
}

#[test]
fn files_include_others_in_the_order_of_their_names() {
    let host = Host::new();
    let main = host.file("/main.ron", 0o644, "(include: [\"conf.d/*.ron\", \"extra.ron\"], agent: (run_dir: \"/run/x\"), services: [(name: \"main\", command: [\"true\"], requires: [\"b\"])])");
    host.file("/conf.d/20.ron", 0o644, "(services: [(name: \"c\", command: [\"true\"])])");
    host.file("/conf.d/10.ron", 0o644, "(services: [(name: \"b\", command: [\"true\"])])");
    host.file("/conf.d/README", 0o644, "no RON");
    host.file("/conf.d/.hidden.ron", 0o644, "no RON");
    host.file(
        "/extra.ron",
        0o644,
        "(include: [\"conf.d/1?.ron\", \"none.d/*.ron\"], services: [(name: \"d\", command: [\"true\"])])",
    );
    let context = host.context(host.own_uid());
    let loaded = load(&main, &context).unwrap();
    let names: Vec<&str> = loaded.plan.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["main", "b", "c", "d"], "a file counts once, however often it is included");
    let files: Vec<&Path> = loaded.files.iter().map(|file| file.strip_prefix(&host.root).unwrap()).collect();
    assert_eq!(files, ["main.ron", "conf.d/10.ron", "conf.d/20.ron", "extra.ron"].map(Path::new));
    assert_eq!(load_dirs(&main, &context).unwrap().run_dir, Path::new("/run/x"));
}

#[test]
fn findings_name_the_file_they_are_in() {
    let host = Host::new();
    let main = host.file("/main.ron", 0o644, "(include: [\"a.ron\", \"b.ron\", \"nosuch.ron\"],\nservices: [(name: \"x\", command: [\"true\"], requires: [\"lost\"])])");
    host.file("/a.ron", 0o644, "(\nagent: (),\nservices: [(name: \"x\", command: [\"nosuch\"])])");
    host.file("/b.ron", 0o644, "(services: [\n(name: ])");
    let result = load(&main, &host.context(host.own_uid()));
    expect![[r#"
        error ROOT/main.ron:1:30 include[2]: there is no file "nosuch.ron" beside ROOT/main.ron
        error ROOT/a.ron:2:8 agent: `agent` belongs into the main file, not into an included one
        error ROOT/a.ron:3:19 services[0].name: there are two services "x" (the other one is at ROOT/main.ron:2:19)
        error ROOT/a.ron:3:34 services[0].command[0]: there is no command "nosuch" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin (write its absolute path)
        error ROOT/b.ron:2:8 services[0].name: unexpected char ']'
    "#]].assert_eq(&short(&result, &host.root));
    let missing = load(&host.root.join("none.ron"), &host.context(host.own_uid()));
    expect![[r#"
        error ROOT/none.ron:0:0 : cannot read ROOT/none.ron: No such file or directory (os error 2)
    "#]]
    .assert_eq(&short(&missing, &host.root));
    let directory = load(&host.root, &host.context(host.own_uid()));
    expect![[r#"
        error ROOT:0:0 : ROOT is not a regular file
    "#]]
    .assert_eq(&short(&directory, &host.root));
}

#[test]
fn files_that_include_each_other_are_refused() {
    let host = Host::new();
    let main = host.file("/main.ron", 0o644, "(include: [\"a.ron\"])");
    host.file("/a.ron", 0o644, "(include: [\"./main.ron\"])");
    let result = load(&main, &host.context(host.own_uid()));
    expect![[r#"
        error ROOT/a.ron:1:12 include[0]: files include each other: ROOT/main.ron -> ROOT/a.ron -> ROOT/main.ron
    "#]]
    .assert_eq(&short(&result, &host.root));
    let built_in = host.load_text("(include: [\"a.ron\"])");
    expect![[r#"
        error test.ron:1:12 include[0]: a built-in configuration cannot include files
    "#]]
    .assert_eq(&short(&built_in, &host.root));
}

#[test]
fn as_root_a_file_that_others_can_change_is_refused() {
    let host = Host::new();
    if host.own_uid() != 0 {
        eprintln!("skipped: owners can be set by root only");
        return;
    }
    let text = "(services: [(name: \"a\", command: [\"true\"])])";
    let group = host.file("/group.ron", 0o664, text);
    let world = host.file("/world.ron", 0o646, text);
    let owned = host.file("/owned.ron", 0o644, text);
    std::os::unix::fs::chown(&owned, Some(900), Some(900)).unwrap();
    let main = host.file("/main.ron", 0o644, "(include: [\"world.ron\"])");
    let mut out = String::new();
    for file in [&group, &world, &owned, &main] {
        out.push_str(&short(&load(file, &host.context(0)), &host.root));
        assert!(load(file, &host.context(900)).is_ok(), "without root it is nobody else's business");
    }
    expect![[r#"
        error ROOT/group.ron:0:0 : ROOT/group.ron is refused: the group with gid 0 can change it, and the agent runs as root (chown root:root ROOT/group.ron && chmod go-w ROOT/group.ron)
        error ROOT/world.ron:0:0 : ROOT/world.ron is refused: everybody can change it, and the agent runs as root (chown root:root ROOT/world.ron && chmod go-w ROOT/world.ron)
        error ROOT/owned.ron:0:0 : ROOT/owned.ron is refused: the user with uid 900 can change it, and the agent runs as root (chown root:root ROOT/owned.ron && chmod go-w ROOT/owned.ron)
        error ROOT/main.ron:1:12 include[0]: ROOT/world.ron is refused: everybody can change it, and the agent runs as root (chown root:root ROOT/world.ron && chmod go-w ROOT/world.ron)
    "#]].assert_eq(&out);
}

#[test]
fn files_of_the_wrong_sort_are_refused() {
    let host = Host::new();
    let binary = host.file("/binary.ron", 0o644, "");
    fs::write(&binary, b"(\n\xff)").unwrap();
    let large = host.file("/large.ron", 0o644, &" ".repeat(usize::try_from(config::FILE_BYTES_MAX).unwrap() + 1));
    let fifo = host.root.join("fifo.ron");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut out = String::new();
    for file in [&binary, &large, &fifo] {
        out.push_str(&short(&load(file, &host.context(host.own_uid())), &host.root));
    }
    expect![[r#"
        error ROOT/binary.ron:0:0 : ROOT/binary.ron is refused: line 2 is not UTF-8
        error ROOT/large.ron:0:0 : ROOT/large.ron is refused: it is larger than 4194304 bytes
        error ROOT/fifo.ron:0:0 : ROOT/fifo.ron is not a regular file
    "#]]
    .assert_eq(&out);
}

#[test]
fn values_of_variables_are_not_shown() {
    let host = Host::new();
    let text = "(services: [(name: \"a\", command: [\"tru\"], env: {\"KEY\": \"hunter2\", \"OTHER\": \"hunter3\", \"KEY\": \"hunter4\"}, nice: 99)])";
    let shown: Vec<String> = host.load_text(text).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(!shown.concat().contains("hunter"));
    expect![[r#"
        error: there is no command "tru" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
          --> test.ron:1:35
          |
        1 | (services: [(name: "a", command: ["tru"], env: {"KEY": *********, "OTHER": *********, "KEY": *********}, nice: 99)])
          |                                   ^^^^^
          = at services[0].command[0]
          = help: write its absolute path"#]].assert_eq(&shown[0]);
}

#[test]
fn all_replicas_together_have_a_limit() {
    services(
        "\n(name: \"a\", command: [\"true\"], replicas: 6000),\n(name: \"b\", command: [\"true\"], replicas: 6000)",
        &expect![[r#"
            error test.ron:3:42 services[1].replicas: with this service there are more than 10000 replicas in all
        "#]],
    );
}

#[test]
fn no_more_findings_are_shown_than_a_person_reads() {
    let host = Host::new();
    let result = host.load_text(&format!("(services: [{}])", "(name: \"X\", command: [\"true\"]),".repeat(1_000)));
    let findings = result.unwrap_err();
    assert_eq!(findings.len(), config::DIAGNOSTICS_MAX + 1);
    assert_eq!(findings.last().unwrap().message, "1899 more findings are not shown");
}

fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)).unwrap()
}

#[test]
fn the_demos_pass_as_any_user_without_a_word() {
    let host = Host::new();
    for uid in [0, 900, 4321] {
        let fencing = load_text("fencing.ron", &shipped("fencing.ron"), &host.context(uid));
        assert_eq!(short(&fencing, &host.root), "accepted\n");
        let loaded = load_text("demo", DEMO, &host.context(uid)).unwrap_or_else(|found| panic!("{}", found[0]));
        assert_eq!(loaded.warnings, []);
        let own: Vec<&str> = loaded.plan.services.iter().map(|service| service.process.command[0].as_str()).collect();
        assert!(own.iter().all(|command| ["/opt/mainstay/mainstay", "/usr/bin/sh"].contains(command)), "{own:?}");
    }
    let api = &load_text("demo", DEMO, &host.context(0)).unwrap().plan.services[2];
    assert_eq!(
        expand(&api.process.command[3..6].join(" "), &api.words(1, Path::new("/run/x"))),
        "api/1 --listen 127.0.0.1:18082"
    );
}

#[test]
fn the_full_file_holds_every_key_with_its_default() {
    let host = Host::new();
    let text = shipped("full.ron");
    for (place, keys) in keys() {
        assert!(!keys.is_empty(), "{place}");
        for key in keys {
            let written = text
                .match_indices(&format!("{key}:"))
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            assert!(written, "configs/full.ron lacks `{key}` of {place:?}");
        }
    }
    if host.own_uid() != 0 {
        eprintln!("skipped: the example's file of variables must belong to root");
        return;
    }
    let loaded = host.load_text(&text).unwrap_or_else(|found| panic!("{}", found[0]));
    expect![[r#"
        accepted
    "#]]
    .assert_eq(&short(&Ok(loaded.clone()), &host.root));
    let least = host.load_text("(services: [(name: \"defaults\", command: [\"sleep\", \"infinity\"])])").unwrap();
    assert_eq!(loaded.plan.services[0], least.plan.services[0], "a value in configs/full.ron is not the default");
    assert_eq!(loaded.plan.agent, least.plan.agent, "a value in configs/full.ron is not the default");
    checks::the_full_files_alert_has_the_defaults(&host, &loaded.plan.alerts[0]);
    copies::the_full_files_set_has_the_defaults(&host, &loaded.plan.copies[0]);
    let rules = mainstay::engine::balance::plan::Rules::default();
    assert_eq!(loaded.plan.balancers[0].rules, rules, "a value in configs/full.ron is not the default");
    let mut coded = mainstay::engine::plan::ServicePlan::with_defaults("defaults", &["/usr/bin/sleep", "infinity"]);
    coded.process.umask = 0o022;
    assert_eq!(least.plan.services[0], coded, "the schema and the engine disagree about a default");
}

#[test]
fn the_examples_for_debian_pass_on_debian() {
    let host = Host::new();
    for program in [
        "/usr/lib/postgresql/15/bin/postgres",
        "/usr/sbin/nginx",
        "/usr/sbin/mosquitto",
        "/usr/bin/mosquitto_sub",
        "/usr/bin/redis-server",
        "/usr/bin/redis-cli",
        "/usr/bin/prometheus-node-exporter",
        "/usr/bin/curl",
        "/usr/bin/logger",
    ] {
        host.file(program, 0o755, "");
    }
    for name in ["nginx-postgresql.ron", "edge-gateway.ron", "alerts.ron", "copies.ron"] {
        let loaded = load_text(name, &shipped(name), &host.context(0)).unwrap_or_else(|found| panic!("{}", found[0]));
        assert_eq!(short(&Ok(loaded), &host.root), "accepted\n", "{name}");
    }
}

#[test]
fn an_explanation_shows_what_will_be_run() {
    let host = Host::new();
    let text = "(services: [(name: \"api\", command: [\"sh\", \"-c\", \"sleep 1\"], replicas: 2, port: 9000, user: \"api\", env: {\"PORT\": \"{port}\", \"KEY\": \"secret\"}, ready: Tcp(\"127.0.0.1:{port}\"), capabilities: [\"NET_RAW\"], rlimits: (core: 0)), (name: \"once\", kind: Oneshot, restart: Never, command: [\"true\"])])";
    expect![[r#"
        agent
          run_dir            /run/mainstay
          state_dir          /var/lib/mainstay
          log_dir            /var/log/mainstay
          admin_group        gid 999
          cgroup             Auto
          starting_max       2 x CPUs
          shutdown_timeout   1m 30s
          default_checks     true: of all this host has

        service api
          kind               Daemon
          command            /usr/bin/sh -c "sleep 1"
          replicas           2
          ports              9000 to 9001
          ready              Tcp: when 127.0.0.1:{port} accepts, within 1m
          restart            OnFailure; success is exit code 0
          backoff            100ms to 30s, x 2.000, jitter 10%, forgotten after 1m ready
          budget             10 restarts within 10m; when spent: one try after 1m, doubling up to 1h
          stop               SIGTERM, after 10s SIGKILL
          user               api (uid 900, gid 900, groups 112 900)
          umask              0o022
          env                KEY=*** PORT=***
          rlimits.core       soft 0, hard 0
          capabilities       NET_RAW
          min_healthy        1 of 2
          fence              Throttle (cpu_max 10%), Freeze, Kill, Hold, 10s each
          release            after 10m, doubling up to 2h, then 5m on probation
          triggers           liveness, restarts, no cpu, pids, pressure, host_memory
          logs               files of 10MiB, 5 kept, no limit of lines

        service once
          kind               Oneshot: done when it exits with success
          command            /usr/bin/true
          replicas           1
          start_timeout      1m
          restart            Never; success is exit code 0
          stop               SIGTERM, after 10s SIGKILL
          user               the agent's own
          umask              0o022
          min_healthy        1 of 1: what is well is not fenced by itself
          fence              Throttle (cpu_max 10%), Freeze, Kill, Hold, 10s each
          release            after 10m, doubling up to 2h, then 5m on probation
          triggers           liveness, restarts, no cpu, pids, pressure, host_memory
          logs               files of 10MiB, 5 kept, no limit of lines
    "#]]
    .assert_eq(&explain(&host.load_text(text).unwrap().plan));
}

/// A small generator of our own (xorshift64*), so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap()
    }
}

/// Removes, doubles, swaps or puts in pieces, bytes and whole values.
fn mutate(text: &str, random: &mut Random) -> String {
    const PIECES: [&str; 32] = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "'",
        "\\",
        "/*",
        "*/",
        "//",
        "#",
        "r#\"",
        "Some(",
        "None",
        "-1",
        "1e999",
        "NaN",
        "0x",
        "\u{0}",
        "ä",
        "\u{85}",
        "\"0s\"",
        "\"99999999999w\"",
        "99999999999999999999",
        "true",
        "b\"x\"",
        "..",
        "name: \"a\"",
    ];
    let mut text: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(4) {
        let at = random.below(text.len());
        let end = (at + random.below(40)).min(text.len());
        match random.below(6) {
            0 => text.truncate(at),
            1 => drop(text.drain(at..end)),
            2 => {
                let copy: Vec<char> = text[at..end].to_vec();
                let to = random.below(text.len());
                text.splice(to..to, copy);
            }
            3 if at < text.len() => {
                text[at] = char::from_u32(u32::try_from(random.below(0x300)).unwrap()).unwrap_or(' ')
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.chars());
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn no_text_panics_and_every_refusal_has_a_place() {
    let rounds: u64 =
        std::env::var("MAINSTAY_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3_000);
    let host = Host::new();
    let context = host.context(900);
    let corpus = [DEMO.to_owned(), shipped("full.ron"), shipped("nginx-postgresql.ron"), shipped("edge-gateway.ron")];
    let mut refused = 0_u64;
    for seed in 1..=rounds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let text = mutate(&corpus[random.below(corpus.len())], &mut random);
        match load_text("fuzz.ron", &text, &context) {
            Ok(loaded) => {
                for service in &loaded.plan.services {
                    assert!(service.replicas >= 1 && !service.process.command.is_empty(), "seed {seed}");
                    assert!(!service.name.is_empty() && service.start_timeout.as_nanos() > 0, "seed {seed}");
                }
                let _ = explain(&loaded.plan);
            }
            Err(findings) => {
                refused += 1;
                let lines = u32::try_from(text.lines().count()).unwrap() + 1;
                assert!(findings.iter().any(|found| found.severity == config::Severity::Error), "seed {seed}");
                for found in &findings {
                    let placed = found.line >= 1 && found.line <= lines && found.column >= 1;
                    assert!(placed || found.message.ends_with("not shown"), "seed {seed}: {found}");
                    assert!(!found.message.is_empty() && !found.to_string().contains('\u{0}'), "seed {seed}");
                }
            }
        }
    }
    assert!(refused > rounds / 2, "the mutations hardly did anything: {refused} of {rounds} refused");
}

#[test]
fn every_prefix_of_the_full_file_is_answered() {
    let host = Host::new();
    let context = host.context(900);
    let text = shipped("full.ron");
    let step = 37;
    for end in (0..text.len()).step_by(step).filter(|end| text.is_char_boundary(*end)) {
        if let Err(findings) = load_text("cut.ron", &text[..end], &context) {
            assert!(findings.iter().all(|found| found.line >= 1), "cut at {end}");
        }
    }
    for deep in ["(", "[", "{", "Some(", "(services: [", "(services: [(name: ", "/*", "\"", "r#\""] {
        assert!(load_text("deep.ron", &deep.repeat(20_000), &context).is_err(), "{deep}");
    }
}
