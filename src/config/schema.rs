//! The shape of the file: every key, with its default. Only types are judged here; what they mean together is `check`'s business.

mod alert;
mod balancer;
mod check;
mod copies;
mod isolation;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::values::{Dur, Env, Limit, Share, Size};

pub(super) use alert::{Alert, On};
pub(super) use balancer::{Balancer, Delivery, NoneLeft, Replay};
pub(super) use check::{Band, Check, Level, Target, kind_name};
pub(super) use copies::{Copy, Failover, Hooks, Keep, MaxAge, OnFull, OnSourceFailing, Quiesce, ReadBack, Space};
pub(super) use isolation::{Fence, IoMax, Limits, Release, Resources, Rung};

/// `agent: (..)`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) run_dir: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) log_dir: Option<String>,
    /// `None`: `mainstay`, without a word when the host has no such group.
    pub(super) admin_group: Option<String>,
    pub(super) proxy_user: Option<String>,
    pub(super) cgroup: Cgroup,
    pub(super) watchdog: Option<HardwareWatchdog>,
    /// `None`: true, and not mentioned.
    pub(super) default_checks: Option<bool>,
    pub(super) starting_max: Option<u32>,
    pub(super) shutdown_timeout: Dur,
    pub(super) textfile: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "cgroup")]
pub(super) enum Cgroup {
    Auto,
    Path(String),
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HardwareWatchdog {
    #[serde(default = "watchdog_device")]
    pub(super) device: String,
    #[serde(default = "watchdog_timeout")]
    pub(super) timeout: Dur,
    #[serde(default)]
    pub(super) require: Vec<String>,
}

/// One item of `services`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Service {
    /// Required; empty when it is missing, and `check` says so together with everything else.
    pub(super) name: String,
    /// Required.
    pub(super) command: Vec<String>,
    pub(super) replicas: u32,
    pub(super) port: Option<u16>,
    pub(super) kind: Kind,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) cwd: Option<String>,
    pub(super) umask: u32,
    pub(super) env: Env,
    pub(super) env_file: Option<String>,
    pub(super) restart: Restart,
    pub(super) success_exit_codes: Vec<i32>,
    pub(super) backoff: Backoff,
    pub(super) budget: Option<Budget>,
    pub(super) requires: Vec<String>,
    pub(super) wants: Vec<String>,
    pub(super) after: Vec<String>,
    pub(super) restart_with: Vec<String>,
    pub(super) ready: Ready,
    pub(super) start_timeout: Dur,
    pub(super) alive: Option<Alive>,
    pub(super) watchdog: Option<Dur>,
    pub(super) stop: Stop,
    /// `None`: no limit.
    pub(super) resources: Option<Resources>,
    pub(super) rlimits: Rlimits,
    pub(super) oom_score_adj: i32,
    pub(super) nice: i32,
    pub(super) no_new_privileges: bool,
    pub(super) capabilities: Option<Vec<String>>,
    /// `None`: not restricted.
    pub(super) can_read: Option<Vec<String>>,
    pub(super) can_write: Option<Vec<String>>,
    pub(super) listen: Vec<String>,
    pub(super) logs: Logs,
    pub(super) data: Vec<String>,
    pub(super) nics: Vec<String>,
    /// `None`: Leave.
    pub(super) on_disk_failing: Option<OnDiskFailing>,
    pub(super) priority: i32,
    pub(super) min_healthy: u32,
    pub(super) fence: Fence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "on_disk_failing")]
pub(super) enum OnDiskFailing {
    Leave,
    Freeze,
    Kill,
    Hold,
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "kind")]
pub(super) enum Kind {
    Daemon,
    Oneshot,
    Every(Dur),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "restart")]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Backoff {
    pub(super) min: Dur,
    pub(super) max: Dur,
    pub(super) factor: f64,
    pub(super) jitter: Share,
    pub(super) reset_after: Dur,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Budget {
    pub(super) restarts: u32,
    pub(super) within: Dur,
    pub(super) hold: Dur,
    pub(super) hold_max: Dur,
    pub(super) then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "then")]
pub(super) enum Then {
    Retry,
    Stay,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "ready")]
pub(super) enum Ready {
    Started,
    Notify,
    Fd(i32),
    Tcp(String),
    Http(String),
    Exec(Vec<String>),
    Log(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "probe")]
pub(super) enum Probe {
    Tcp(String),
    Http(String),
    Exec(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alive {
    pub(super) probe: Probe,
    #[serde(default = "alive_every")]
    pub(super) every: Dur,
    #[serde(default = "alive_timeout")]
    pub(super) timeout: Dur,
    #[serde(default = "alive_fall")]
    pub(super) fall: u32,
    #[serde(default = "alive_rise")]
    pub(super) rise: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Stop {
    pub(super) signal: String,
    pub(super) timeout: Dur,
}

/// Names as in getrlimit(2), without RLIMIT_.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rlimits {
    #[serde(rename = "as")]
    pub(super) address_space: Option<Limit>,
    pub(super) core: Option<Limit>,
    pub(super) cpu: Option<Limit>,
    pub(super) data: Option<Limit>,
    pub(super) fsize: Option<Limit>,
    pub(super) locks: Option<Limit>,
    pub(super) memlock: Option<Limit>,
    pub(super) msgqueue: Option<Limit>,
    pub(super) nice: Option<Limit>,
    pub(super) nofile: Option<Limit>,
    pub(super) nproc: Option<Limit>,
    pub(super) rss: Option<Limit>,
    pub(super) rtprio: Option<Limit>,
    pub(super) rttime: Option<Limit>,
    pub(super) sigpending: Option<Limit>,
    pub(super) stack: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Logs {
    pub(super) max_size: Size,
    pub(super) keep: u32,
    pub(super) lines_per_second: Option<u32>,
}

impl Rlimits {
    /// The limits that are given, by their names.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, Limit)> {
        [
            ("as", self.address_space),
            ("core", self.core),
            ("cpu", self.cpu),
            ("data", self.data),
            ("fsize", self.fsize),
            ("locks", self.locks),
            ("memlock", self.memlock),
            ("msgqueue", self.msgqueue),
            ("nice", self.nice),
            ("nofile", self.nofile),
            ("nproc", self.nproc),
            ("rss", self.rss),
            ("rtprio", self.rtprio),
            ("rttime", self.rttime),
            ("sigpending", self.sigpending),
            ("stack", self.stack),
        ]
        .into_iter()
        .filter_map(|(name, limit)| limit.map(|limit| (name, limit)))
    }
}

/// Every key of the schema by where it stands: `("", ["agent", ..])`, `("agent", ["run_dir", ..])`. Asked of the deserializer itself, so that it
/// cannot be out of date.
#[must_use]
pub fn keys() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("", super::parse::top_keys()),
        ("agent", keys_of::<Agent>()),
        ("agent.watchdog", keys_of::<HardwareWatchdog>()),
        ("services", keys_of::<Service>()),
        ("services.backoff", keys_of::<Backoff>()),
        ("services.budget", keys_of::<Budget>()),
        ("services.alive", keys_of::<Alive>()),
        ("services.stop", keys_of::<Stop>()),
        ("services.rlimits", keys_of::<Rlimits>()),
        ("services.logs", keys_of::<Logs>()),
        ("services.resources", keys_of::<Resources>()),
        ("services.resources.io_max", keys_of::<IoMax>()),
        ("services.fence", keys_of::<Fence>()),
        ("services.fence.ladder", keys_of::<Limits>()),
        ("services.fence.triggers", keys_of::<isolation::Triggers>()),
        ("balancers", keys_of::<Balancer>()),
        ("balancers.replay", keys_of::<balancer::Unanswered>()),
        ("balancers.eject", keys_of::<balancer::Eject>()),
        ("checks", keys_of::<Check>()),
        ("checks.check", keys_of::<Target>()),
        ("checks.failing", keys_of::<Band>()),
        ("copies", keys_of::<Copy>()),
        ("copies.on_change", keys_of::<copies::Quiet>()),
        ("copies.keep", keys_of::<Keep>()),
        ("copies.quiesce", keys_of::<Hooks>()),
        ("copies.space", keys_of::<Space>()),
        ("copies.space.large", keys_of::<copies::Large>()),
        ("alerts", keys_of::<Alert>()),
    ]
}

fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    match ron::from_str::<T>("(no_such_key: 0)") {
        Err(ron::error::SpannedError { code: ron::Error::NoSuchStructField { expected, .. }, .. }) => expected,
        Err(_) | Ok(_) => &[],
    }
}

fn seconds(seconds: u64) -> Dur {
    Dur(std::time::Duration::from_secs(seconds))
}

fn watchdog_device() -> String {
    "/dev/watchdog".to_owned()
}

fn watchdog_timeout() -> Dur {
    seconds(30)
}

fn alive_every() -> Dur {
    seconds(10)
}

fn alive_timeout() -> Dur {
    seconds(2)
}

fn alive_fall() -> u32 {
    3
}

fn alive_rise() -> u32 {
    2
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            run_dir: None,
            state_dir: None,
            log_dir: None,
            admin_group: None,
            proxy_user: None,
            cgroup: Cgroup::Auto,
            watchdog: None,
            default_checks: None,
            starting_max: None,
            shutdown_timeout: seconds(90),
            textfile: None,
        }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: Vec::new(),
            replicas: 1,
            port: None,
            kind: Kind::Daemon,
            user: None,
            group: None,
            cwd: None,
            umask: 0o022,
            env: Env::default(),
            env_file: None,
            restart: Restart::OnFailure,
            success_exit_codes: vec![0],
            backoff: Backoff::default(),
            budget: Some(Budget::default()),
            requires: Vec::new(),
            wants: Vec::new(),
            after: Vec::new(),
            restart_with: Vec::new(),
            ready: Ready::Started,
            start_timeout: seconds(60),
            alive: None,
            watchdog: None,
            stop: Stop::default(),
            resources: None,
            rlimits: Rlimits::default(),
            oom_score_adj: 0,
            nice: 0,
            no_new_privileges: false,
            capabilities: None,
            can_read: None,
            can_write: None,
            listen: Vec::new(),
            logs: Logs::default(),
            data: Vec::new(),
            nics: Vec::new(),
            on_disk_failing: None,
            priority: 0,
            min_healthy: 1,
            fence: Fence::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        let min = Dur(std::time::Duration::from_millis(100));
        Self { min, max: seconds(30), factor: 2.0, jitter: Share(100), reset_after: seconds(60) }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { restarts: 10, within: seconds(600), hold: seconds(60), hold_max: seconds(3_600), then: Then::Retry }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: "TERM".to_owned(), timeout: seconds(10) }
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { max_size: Size(10 << 20), keep: 5, lines_per_second: None }
    }
}
