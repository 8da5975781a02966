//! What the tests of the real binary share: an agent in a directory of its own, and ways to look at it from outside.
//!
//! Every service carries a tag in its environment, so that survivors can be found whatever became of their parents, sessions
//! and groups, and every test cleans up after itself by process number.

#![allow(dead_code, unused_imports, reason = "each test program uses its part")]

mod devices;
mod fuse;
mod http;
mod load;
pub(crate) mod proc;
mod services;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub(crate) use devices::{LoopDisk, apart, run};
pub(crate) use fuse::SilentMount;
pub(crate) use http::head;
pub(crate) use load::{Load, Place, ask_on};
pub(crate) use services::{free_ports, sample, shell};

/// For what should happen soon, on a machine that may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A user without rights; the number of `nobody` on Debian.
pub(crate) const NOBODY: u32 = 65_534;
const BINARY: &str = env!("CARGO_BIN_EXE_mainstay");

pub(crate) struct Agent {
    pub(crate) dir: PathBuf,
    pub(crate) tag: String,
    binary: PathBuf,
    user: Option<u32>,
    process: Option<Child>,
    cgroup: Option<PathBuf>,
}

/// How a command of the binary ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Who runs the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// Whoever runs the tests; in cgroups where the machine lets it.
    Me,
    /// A user without rights (when the tests run as root; otherwise me), without cgroups.
    Unprivileged,
    /// Whoever runs the tests, without cgroups.
    MeWithoutGroups,
}

impl Agent {
    /// An agent that runs `services` (a list in RON; `$BIN`, `$DIR` and `$TAG` are replaced) and answers on its socket.
    pub(crate) fn running(services: &str) -> Self {
        let mut agent = Self::prepared(As::Me);
        agent.configure(services);
        agent.start();
        agent
    }

    /// An agent with balancers.
    pub(crate) fn balancing(who: As, services: &str, balancers: &str) -> Self {
        let mut agent = Self::prepared(who);
        agent.configure_balanced(services, balancers);
        agent.start();
        agent
    }

    /// The same as `who`.
    pub(crate) fn running_as(who: As, services: &str) -> Self {
        let mut agent = Self::prepared(who);
        agent.configure(services);
        agent.start();
        agent
    }

    /// A directory, and nothing started.
    pub(crate) fn prepared(who: As) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("e2e-{}-{:04}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("mainstay-{tag}"));
        // A directory of an earlier test program with the same process number.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let mut agent = Self { dir, tag, binary: PathBuf::from(BINARY), user: None, process: None, cgroup: None };
        match who {
            As::Me => agent.cgroup = proc::cgroup_root().map(|root| root.join(format!("mainstay-{}", agent.tag))),
            As::Unprivileged if nix::unistd::geteuid().is_root() => agent.become_nobody(),
            As::Unprivileged | As::MeWithoutGroups => {}
        }
        agent
    }

    fn become_nobody(&mut self) {
        self.user = Some(NOBODY);
        // The build directory may be closed to others.
        self.binary = self.dir.join("mainstay");
        fs::copy(BINARY, &self.binary).unwrap();
        chown(&self.dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("mainstay.ron")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir().join("mainstay.sock")
    }

    /// Writes the configuration; a running agent learns of it by a reload.
    pub(crate) fn configure(&self, services: &str) {
        self.configure_balanced(services, "");
    }

    /// The same with `balancers`, a list in RON.
    pub(crate) fn configure_balanced(&self, services: &str, balancers: &str) {
        let balancers = if balancers.is_empty() { String::new() } else { format!("balancers: [\n{balancers}\n],\n") };
        self.configure_with(services, &balancers);
    }

    /// The same with other `lists` beside the services. Without checks by default: nothing of the host is read but what `checks` names.
    pub(crate) fn configure_with(&self, services: &str, lists: &str) {
        let cgroup = match &self.cgroup {
            Some(path) => format!("Path({:?})", path.to_str().unwrap()),
            None => "Off".to_owned(),
        };
        self.write_config(&format!(
            "(agent: (run_dir: \"$DIR/run\", state_dir: \"$DIR/state\", log_dir: \"$DIR/log\", cgroup: {cgroup}, \
             shutdown_timeout: \"20s\", default_checks: false),\nservices: [\n{services}\n],\n{lists})\n"
        ));
    }

    /// Writes this text as the configuration.
    pub(crate) fn write_config(&self, text: &str) {
        fs::write(self.config(), self.expand(text)).unwrap();
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub(crate) fn expand(&self, text: &str) -> String {
        text.replace("$BIN", self.binary.to_str().unwrap())
            .replace("$DIR", self.dir.to_str().unwrap())
            .replace("$TAG", &self.tag)
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.spawn(&[]);
        self.wait_until("the agent answers", SOON, |agent| {
            let ended = agent.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none(), "the agent ended at its start: {ended:?}\n{}", tail(&agent.dir));
            agent.try_get("/v1").is_some_and(|answer| answer.status == 200)
        });
    }

    /// Starts the agent with these variables on top of a known environment, and does not wait.
    pub(crate) fn spawn(&mut self, variables: &[(&str, &str)]) {
        assert!(self.process.is_none(), "one agent at a time");
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut command = self.command();
        command.arg("run").arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.env("E2E_AGENT", &self.tag).envs(variables.iter().copied());
        // Not the group of the terminal: an interrupt of the test program is not one of the agent.
        command.process_group(0);
        self.process = Some(command.spawn().unwrap());
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        command.env_remove("XDG_RUNTIME_DIR").env_remove("MAINSTAY_SOCKET").env("NO_COLOR", "1").current_dir("/");
        command
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.process.as_ref().expect("the agent runs").id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGKILL, and nothing else: services and roles go on.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("the agent runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// How the agent ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut().expect("the agent runs").try_wait().unwrap()?;
        self.process = None;
        Some(status)
    }

    /// Waits for the end of an agent that was told to end.
    pub(crate) fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent did not end within {patience:?}\n{}", tail(&self.dir));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A command of the binary, for this agent, to its end.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Ended {
        let output = self.cli_command(arguments).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        command
    }

    /// A command that must end well; its output.
    pub(crate) fn cli_ok(&self, arguments: &[&str]) -> String {
        let ended = self.cli(arguments);
        assert_eq!(ended.code, 0, "mainstay {arguments:?}: {ended:?}\n{}", tail(&self.dir));
        ended.stdout
    }

    /// One service as `status -o json` tells it.
    pub(crate) fn status(&self, name: &str) -> Value {
        let ended = self.cli(&["status", "-o", "json"]);
        let all: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        find(&all, name).unwrap_or_else(|| panic!("no service {name} in {all}"))
    }

    /// One service as the API tells it; null when there is none (roles included).
    pub(crate) fn service(&self, name: &str) -> Value {
        let all = self.try_get("/v1/services?roles=1").filter(|answer| answer.status == 200);
        all.and_then(|answer| find(&answer.json(), name)).unwrap_or(Value::Null)
    }

    pub(crate) fn replica(&self, name: &str, index: usize) -> Value {
        self.service(name)["replicas"][index].clone()
    }

    /// A balancer as the API tells it; null when there is none.
    pub(crate) fn balancer(&self, name: &str) -> Value {
        let all = self.try_get("/v1/balancers").filter(|answer| answer.status == 200);
        let all = all.map_or(Value::Null, |answer| answer.json());
        let found = all["balancers"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
        found.cloned().unwrap_or(Value::Null)
    }

    /// One backend of a balancer.
    pub(crate) fn backend(&self, balancer: &str, backend: &str) -> Value {
        let balancer = self.balancer(balancer);
        let found = balancer["backends"].as_array().and_then(|all| all.iter().find(|one| one["name"] == backend));
        found.cloned().unwrap_or(Value::Null)
    }

    /// Waits until so many backends of a balancer are up, and the proxy answers.
    pub(crate) fn wait_up(&mut self, balancer: &str, count: usize) {
        self.wait_until(&format!("{count} backends of {balancer} are up"), SOON, |agent| {
            let balancer = agent.balancer(balancer);
            let up = balancer["backends"]
                .as_array()
                .map_or(0, |all| all.iter().filter(|one| one["standing"] == "up").count());
            up == count && (balancer["delivery"] == "shared" || balancer["accepted"].is_u64())
        });
        // That was the engine's word at the answer, and the proxy's counters of a moment before: a question asked only now follows the table.
        self.balancer(balancer);
    }

    pub(crate) fn state(&self, name: &str) -> String {
        self.service(name)["state"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn service_pid(&self, name: &str) -> Option<i32> {
        self.replica(name, 0)["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
    }

    pub(crate) fn run_of(&self, name: &str) -> u64 {
        self.replica(name, 0)["run"].as_u64().unwrap_or(0)
    }

    pub(crate) fn wait_for(&self, name: &str, state: &str) {
        self.wait_state(name, state, SOON);
    }

    pub(crate) fn wait_state(&self, name: &str, state: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let service = self.service(name);
            if service["state"] == state {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "service {name} is not {state} within {patience:?}: {service:#}\n{}",
                tail(&self.dir)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Polls until `condition` holds; `what` is for the message when it does not.
    pub(crate) fn wait_until(&mut self, what: &str, patience: Duration, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + patience;
        while !condition(self) {
            assert!(Instant::now() < deadline, "not within {patience:?}: {what}\n{}", tail(&self.dir));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The journal, oldest first.
    pub(crate) fn events(&self) -> Vec<Value> {
        let answer = self.get("/v1/events");
        answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The journal's entries of one service and one type.
    pub(crate) fn events_of(&self, service: &str, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["service"] == service && event["type"] == kind).collect()
    }

    /// Everything that this agent's services left running, as (pid, command line).
    pub(crate) fn survivors(&self) -> Vec<(i32, String)> {
        let variable = format!("E2E_TAG={}", self.tag);
        proc::all()
            .filter(|pid| proc::environment(*pid).contains(&variable))
            .map(|pid| (pid, proc::command_line(pid)))
            .collect()
    }

    /// Those of them whose command line contains `text`.
    pub(crate) fn processes_with(&self, text: &str) -> Vec<i32> {
        self.survivors().into_iter().filter(|(_, line)| line.contains(text)).map(|(pid, _)| pid).collect()
    }

    /// What the log files of one replica hold, oldest first.
    pub(crate) fn log_text(&self, service: &str, index: u16) -> Vec<u8> {
        let prefix = format!("{service}.{index}.log");
        let mut files: Vec<_> = fs::read_dir(self.path("log"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.retain(|path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
        // By the number of its rotation, the current file (without one) last.
        files.sort_by_key(|path| std::cmp::Reverse(rotation(path, &prefix)));
        files.iter().flat_map(|path| fs::read(path).unwrap_or_default()).collect()
    }
}

fn rotation(path: &Path, prefix: &str) -> u64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name[prefix.len()..].trim_start_matches('.').parse().unwrap_or(0)
}

fn find(all: &Value, name: &str) -> Option<Value> {
    all["services"].as_array()?.iter().find(|service| service["name"] == name).cloned()
}

/// The end of what the agent said, for the message of a failed test.
fn tail(dir: &Path) -> String {
    let text = fs::read(dir.join("agent.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(40)..].join("\n  ");
    format!("the agent's last lines:\n  {last}")
}

impl Agent {
    /// Kills, by number, every process that carries the tag, and every role, which is known by the run directory on its command
    /// line. One that forks faster than it is found is hunted until it was not seen for a while.
    fn end_strays(&self) {
        let variable = format!("E2E_TAG={}", self.tag);
        let dir = self.dir.to_string_lossy().into_owned();
        let mut not_seen = 0;
        for _ in 0..300 {
            let mut seen = false;
            for pid in proc::all() {
                if proc::environment(pid).contains(&variable) || proc::command_line(pid).contains(&dir) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    seen = true;
                }
            }
            not_seen = if seen { 0 } else { not_seen + 1 };
            if not_seen == 3 {
                return;
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            end(&mut process);
        }
        if let Some(group) = &self.cgroup {
            proc::remove_group(group);
        }
        self.end_strays();
        if std::env::var_os("E2E_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn end(process: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(process.id()).unwrap_or(i32::MAX));
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = process.kill();
    let _ = process.wait();
}
