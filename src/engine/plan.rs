//! The checked configuration the engine works from. Everything here has been parsed and cross-checked by `config::check`: names are
//! unique and known, numbers are in range, users are looked up, commands are absolute paths. The one thing left open are
//! the `{words}` that depend on the replica; [`expand`] replaces them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::balance::plan::BalancerPlan;
use super::copies::plan::CopyPlan;
use super::fence::plan::{Access, FencePlan, Resources};
use super::host::plan::{AlertPlan, CheckPlan, OnDiskFailing};

/// One whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub agent: AgentPlan,
    /// In the order of the file; the agent's own roles are added by the runtime (`runtime::roles`).
    pub services: Vec<ServicePlan>,
    pub balancers: Vec<BalancerPlan>,
    #[serde(default)]
    pub checks: Vec<CheckPlan>,
    #[serde(default)]
    pub alerts: Vec<AlertPlan>,
    #[serde(default)]
    pub copies: Vec<CopyPlan>,
    /// What the helper of a disk is started as (a role's plan without its name and its number); `None`: this agent starts none.
    #[serde(default)]
    pub helper: Option<Box<ServicePlan>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentPlan {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
    /// Group id of `admin_group`, `None` when the host has no such group.
    pub admin_gid: Option<u32>,
    /// Whom the proxy role runs as; `None`: the agent's own user, which is not root.
    #[serde(default)]
    pub proxy_user: Option<User>,
    pub cgroup: CgroupPlan,
    pub watchdog: Option<WatchdogPlan>,
    pub default_checks: bool,
    /// Replicas with a real readiness check that may start at once; `None` is twice the number of CPUs.
    pub starting_max: Option<u32>,
    pub shutdown_timeout: Duration,
    pub textfile: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum CgroupPlan {
    #[default]
    Auto,
    Path(PathBuf),
    Off,
}

/// The hardware watchdog: whose life the host's hangs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchdogPlan {
    pub device: PathBuf,
    pub timeout: Duration,
    pub require: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicePlan {
    pub name: String,
    /// What a start means: the user's command, or a role of this binary.
    pub launch: Launch,
    /// At least 1.
    pub replicas: u16,
    pub port: Option<u16>,
    pub kind: Kind,
    pub restart: RestartPolicy,
    pub success_exit_codes: Vec<i32>,
    pub backoff: Backoff,
    /// `None`: never spent.
    pub budget: Option<Budget>,
    pub requires: Vec<String>,
    pub wants: Vec<String>,
    pub after: Vec<String>,
    pub restart_with: Vec<String>,
    pub ready: Readiness,
    pub start_timeout: Duration,
    /// Boxed, as few have it.
    pub alive: Option<Box<Alive>>,
    /// WATCHDOG=1 at least this often once ready.
    pub watchdog: Option<Duration>,
    pub stop: Stop,
    /// Unused for a role.
    pub process: ProcessPlan,
    pub logs: LogsPlan,
    /// Paths whose file systems it cannot work without. Boxed, as few have them.
    #[serde(default)]
    pub needs: Option<Box<Needs>>,
    /// Boxed, as few have them.
    #[serde(default)]
    pub resources: Option<Box<Resources>>,
    /// `None`: the defaults of [`FencePlan`].
    #[serde(default)]
    pub fence: Option<Box<FencePlan>>,
    /// The least is fenced first when the host's memory fails.
    #[serde(default)]
    pub priority: i32,
    /// As many replicas as must stay well whatever the agent does by itself.
    #[serde(default = "one")]
    pub min_healthy: u16,
}

fn one() -> u16 {
    1
}

/// What of the host a service needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Absolute paths, links resolved where that was possible.
    pub data: Vec<PathBuf>,
    pub nics: Vec<String>,
    pub on_disk_failing: OnDiskFailing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Launch {
    Command,
    Role(Role),
}

/// The processes of this binary beside the agent, supervised like services, under the names `@logs`, `@checks`, `@proxy`, `@sensors`,
/// `@disk.NAME` and `@copy.SET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    Logs,
    Checks,
    /// Only with balancers that need it.
    Proxy,
    /// Readings that may wait for a driver; only where checks need it.
    Sensors,
    /// The helper of this number, for one disk and what is mounted of it.
    Disk(u8),
    /// Of the set of copies whose name has this number ([`Role::of_copies`]).
    Copy(u32),
}

/// Before the name of a set, in the service name of its role.
const COPY_PREFIX: &str = "@copy.";

impl Role {
    /// Those of which there is one at most.
    pub const SINGLE: [Self; 4] = [Self::Logs, Self::Checks, Self::Proxy, Self::Sensors];
    /// Helpers of disks at once; what is beyond is watched without touching it only, and said.
    pub const DISKS_MAX: u8 = 64;

    /// Sets of copies at most.
    pub const COPIES_MAX: usize = 64;

    /// The role of a set. Its number is that of the name (FNV-1a, 32 bits), so that neither an agent's death nor another order of the file gives it to
    /// another set; the check of the configuration refuses two names of one number.
    #[must_use]
    pub fn of_copies(set: &str) -> Self {
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        Self::Copy(set.bytes().fold(0x811c_9dc5, step))
    }

    /// The service name of the role of a set.
    #[must_use]
    pub fn copy_service(set: &str) -> String {
        format!("{COPY_PREFIX}{set}")
    }

    /// The set whose role a service of this name is.
    #[must_use]
    pub fn set_of_service(name: &str) -> Option<&str> {
        name.strip_prefix(COPY_PREFIX)
    }

    /// The service name of a role of which there is one at most; `@` cannot stand in a configured name. The name of a disk's helper is
    /// [`super::host::watch::Helper::service`]; here it is what they have in common.
    #[must_use]
    pub fn service_name(self) -> &'static str {
        match self {
            Self::Logs => "@logs",
            Self::Checks => "@checks",
            Self::Proxy => "@proxy",
            Self::Sensors => "@sensors",
            Self::Disk(_) => "@disk",
            Self::Copy(_) => "@copy",
        }
    }

    /// The role of this name, if the name tells it: that of a disk's helper does not.
    #[must_use]
    pub fn of_service(name: &str) -> Option<Self> {
        match Self::set_of_service(name) {
            Some(set) => Some(Self::of_copies(set)),
            None => Self::SINGLE.into_iter().find(|role| role.service_name() == name),
        }
    }

    /// Whether a service of this name is a role.
    #[must_use]
    pub fn is_service_name(name: &str) -> bool {
        name.starts_with('@')
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Daemon,
    /// Done when it exits with success.
    Oneshot,
    /// A Oneshot that is started again this long after its last start (on the boot clock).
    Every(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// Zero: no delay, however many failures.
    pub min: Duration,
    pub max: Duration,
    /// In thousandths, at least 1000 (the engine has no floating point).
    pub factor_permille: u32,
    /// In thousandths of the delay, 0 to 1000.
    pub jitter_permille: u32,
    /// Continuous ready time after which the count of failures is forgotten.
    pub reset_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// At least 1.
    pub restarts: u32,
    pub within: Duration,
    pub hold: Duration,
    pub hold_max: Duration,
    pub then: BudgetSpent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BudgetSpent {
    /// After `hold`, one half-open start; each failure doubles the hold up to `hold_max`.
    Retry,
    /// Only an operator starts it again.
    Stay,
}

/// Addresses in probes are numeric (or `localhost`), still with `{words}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Readiness {
    /// exec succeeded.
    Started,
    /// READY=1 on the replica's NOTIFY_SOCKET.
    Notify,
    /// A newline on this descriptor (3 or above), as s6 and dinit do.
    Fd(i32),
    /// A probe that succeeds.
    Probe(Probe),
    /// A line of output that contains this text.
    Log(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Probe {
    /// `host:port`
    Tcp(String),
    /// `http://host:port/path`; 200 to 399 is success.
    Http(String),
    /// Exit code 0 is success; run as the service's user in a cgroup of its own.
    Exec(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alive {
    pub probe: Probe,
    pub every: Duration,
    pub timeout: Duration,
    /// Failures in a row until the replica is restarted; at least 1.
    pub fall: u32,
    /// Successes in a row until a degraded replica is ready again; at least 1.
    pub rise: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub signal: i32,
    pub timeout: Duration,
}

/// What the child becomes between clone and exec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// `command[0]` is an absolute path; the strings still hold `{words}`.
    pub command: Vec<String>,
    pub cwd: Option<PathBuf>,
    /// `env` over `env_file`, merged by the check. PATH, HOME, USER, LOGNAME and SHELL are added at the spawn where missing.
    pub env: BTreeMap<String, String>,
    /// `None`: the agent's own user.
    pub user: Option<Box<User>>,
    pub umask: u32,
    /// Resource name as in `rlimits` (`nofile`, `core` ...), soft and hard value; `u64::MAX` is unlimited.
    pub rlimits: BTreeMap<String, (u64, u64)>,
    pub nice: i32,
    pub oom_score_adj: i32,
    pub no_new_privileges: bool,
    /// `Some`: exactly these capability numbers (ambient, so that they outlive exec for a non-root user). `None`: the user's.
    pub capabilities: Option<Vec<u8>>,
    /// In the order of LISTEN_FDS.
    pub listen: Vec<Listen>,
    #[serde(default)]
    pub access: Option<Box<Access>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<u32>,
    pub home: String,
    pub shell: String,
}

/// A socket that the agent opens and hands over; the text still holds `{words}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listen {
    /// `address:port`
    Tcp(String),
    Udp(String),
    /// An absolute path.
    Unix(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsPlan {
    pub max_size_bytes: u64,
    /// Rotated files kept beside the current one.
    pub keep: u32,
    pub lines_per_second: Option<u32>,
}

/// The values of the words in braces, for one replica.
#[derive(Clone, Debug, Default)]
pub struct Words {
    pub name: String,
    pub replica: u16,
    /// The replica's own port: `port + replica`.
    pub port: Option<u16>,
    pub run_dir: String,
    /// `{run_dir}/svc/NAME`
    pub service_dir: String,
}

/// Replaces `{port} {replica} {name} {release} {run_dir} {service_dir}`; every other brace stays as written. `{release}` is
/// empty until releases exist, and `{port}` is empty without a port (the check refuses that before it gets here).
#[must_use]
pub fn expand(text: &str, words: &Words) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let word = rest.find('}').map(|close| &rest[1..close]);
        let value = match word {
            Some("port") => words.port.map(|port| port.to_string()).or(Some(String::new())),
            Some("replica") => Some(words.replica.to_string()),
            Some("name") => Some(words.name.clone()),
            Some("release") => Some(String::new()),
            Some("run_dir") => Some(words.run_dir.clone()),
            Some("service_dir") => Some(words.service_dir.clone()),
            Some(_) | None => None,
        };
        match (word, value) {
            (Some(word), Some(value)) => {
                out.push_str(&value);
                rest = &rest[word.len() + 2..];
            }
            (Some(_) | None, Some(_) | None) => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

impl ServicePlan {
    /// A service with the documented defaults (interface, section 1) and this command; the base of tests and of the roles.
    #[must_use]
    pub fn with_defaults(name: &str, command: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            launch: Launch::Command,
            replicas: 1,
            port: None,
            kind: Kind::Daemon,
            restart: RestartPolicy::OnFailure,
            success_exit_codes: vec![0],
            backoff: Backoff::default(),
            budget: Some(Budget::default()),
            requires: Vec::new(),
            wants: Vec::new(),
            after: Vec::new(),
            restart_with: Vec::new(),
            ready: Readiness::Started,
            start_timeout: Duration::from_secs(60),
            alive: None,
            watchdog: None,
            stop: Stop::default(),
            process: ProcessPlan {
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                umask: 0o022,
                ..ProcessPlan::default()
            },
            logs: LogsPlan::default(),
            needs: None,
            resources: None,
            fence: None,
            priority: 0,
            min_healthy: 1,
        }
    }

    /// The port of replica `index`.
    #[must_use]
    pub fn port_of(&self, index: u16) -> Option<u16> {
        self.port.and_then(|port| port.checked_add(index))
    }

    /// The words of replica `index` below `run_dir`.
    #[must_use]
    pub fn words(&self, index: u16, run_dir: &std::path::Path) -> Words {
        Words {
            name: self.name.clone(),
            replica: index,
            port: self.port_of(index),
            run_dir: run_dir.to_string_lossy().into_owned(),
            service_dir: run_dir.join("svc").join(&self.name).to_string_lossy().into_owned(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
            factor_permille: 2_000,
            jitter_permille: 100,
            reset_after: Duration::from_secs(60),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            restarts: 10,
            within: Duration::from_secs(600),
            hold: Duration::from_secs(60),
            hold_max: Duration::from_secs(3_600),
            then: BudgetSpent::Retry,
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: super::types::SIGTERM, timeout: Duration::from_secs(10) }
    }
}

impl Default for LogsPlan {
    fn default() -> Self {
        Self { max_size_bytes: 10 << 20, keep: 5, lines_per_second: None }
    }
}
