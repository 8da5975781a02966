//! The `agent` part: directories, group, cgroup. A key for a capability that comes later is accepted, and said to do nothing yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::Context;
use super::super::parse;
use super::super::report::{Item, Report};
use super::super::schema::{Agent, Cgroup};
use super::super::suggest;
use super::super::values::duration_text;
use crate::engine::plan::{AgentPlan, CgroupPlan, User, WatchdogPlan};

const ADMIN_GROUP: &str = "mainstay";
const PROXY_USER: &str = "mainstay-proxy";
/// Downwards from below `nobody`, where no distribution puts users of its own.
const SPARE_IDS: std::ops::RangeInclusive<u32> = 65_000..=65_533;
/// Reset sooner, a host that is merely busy would never come up.
const WATCHDOG_MIN: Duration = Duration::from_secs(10);
const WATCHDOG_USUAL: Duration = Duration::from_secs(30);
/// What the drivers take; 65535 is the most of any.
const WATCHDOG_MAX: Duration = Duration::from_secs(65_535);
/// The longest name of a socket below `run_dir` that is not a service's, with its slash.
const OWN_SOCKET: &str = "/roles/checks.sock.new";

/// `names`: of all services, when they are all known.
pub(super) fn agent(item: Option<Item>, names: Option<&[&str]>, context: &Context, report: &mut Report) -> AgentPlan {
    let nowhere = Item { source: usize::MAX, range: 0..0, prefix: "agent".to_owned(), broken: Vec::new() };
    let (item, agent) = match item {
        Some(mut item) => {
            let agent = parse::read::<Agent>(&mut item, report).unwrap_or_default();
            (item, agent)
        }
        None => (nowhere, Agent::default()),
    };
    let defaults = context.default_dirs();
    let mut directory = |key: &str, given: &Option<String>, default: PathBuf| match given {
        Some(path) => absolute(&item, key, path, report),
        None => default,
    };
    let run_dir = directory("run_dir", &agent.run_dir, defaults.run_dir);
    let state_dir = directory("state_dir", &agent.state_dir, defaults.state_dir);
    let log_dir = directory("log_dir", &agent.log_dir, defaults.log_dir);
    let textfile = agent.textfile.as_ref().map(|path| absolute(&item, "textfile", path, report));
    let longest = run_dir.as_os_str().len() + OWN_SOCKET.len();
    if longest > super::SOCKET_PATH_BYTES_MAX && agent.run_dir.is_some() {
        let message = format!(
            "sockets below this `run_dir` would have paths of {longest} bytes; the kernel allows {}",
            super::SOCKET_PATH_BYTES_MAX
        );
        report.error(&item, "run_dir", message);
    }
    if agent.starting_max == Some(0) {
        report
            .error(&item, "starting_max", "0 starts at once: nothing would ever start")
            .hint("None is twice the number of CPUs");
    }
    if agent.shutdown_timeout.0.is_zero() {
        report.error(&item, "shutdown_timeout", "`shutdown_timeout` must be longer than 0s");
    }
    without_effect(&item, &agent, report);
    AgentPlan {
        run_dir,
        state_dir,
        log_dir,
        admin_gid: admin_gid(&item, &agent, context, report),
        proxy_user: proxy_user(&item, &agent, context, report),
        cgroup: match &agent.cgroup {
            Cgroup::Auto => CgroupPlan::Auto,
            Cgroup::Path(path) => CgroupPlan::Path(absolute(&item, "cgroup", path, report)),
            Cgroup::Off => CgroupPlan::Off,
        },
        watchdog: watchdog(&item, &agent, names, context, report),
        default_checks: agent.default_checks.unwrap_or(true),
        starting_max: agent.starting_max,
        shutdown_timeout: agent.shutdown_timeout.0,
        textfile,
    }
}

fn absolute(item: &Item, key: &str, path: &str, report: &mut Report) -> PathBuf {
    if path.contains('\0') {
        report.error(item, key, "a zero byte cannot stand in a path");
    } else if !path.starts_with('/') {
        report.error(item, key, format!("{path:?} is not an absolute path")).hint("it must start with /");
    }
    // `//run/x/` and `/run/x` are one directory, and the run_dir's text names the agent's cgroup.
    Path::new(path).components().collect()
}

fn without_effect(item: &Item, agent: &Agent, report: &mut Report) {
    if agent.textfile.is_some() {
        report.note(item, "textfile", "`textfile` does nothing yet: the metrics file is not part of this version");
    }
}

/// Absent from the host: root only. Without root, a group that the agent's user is not in cannot be given to a socket.
fn admin_gid(item: &Item, agent: &Agent, context: &Context, report: &mut Report) -> Option<u32> {
    let name = agent.admin_group.as_deref().unwrap_or(ADMIN_GROUP);
    let Some(gid) = context.look.group(name) else {
        if agent.admin_group.is_some() && name != ADMIN_GROUP {
            let message = format!("there is no group {name:?}: only root can give orders");
            report
                .warning(item, "admin_group", message)
                .maybe_hint(suggest::did_you_mean(name, context.look.group_names()));
        }
        return None;
    };
    let member = || context.look.user(&context.uid.to_string()).is_some_and(|user| user.groups.contains(&gid));
    (context.uid == 0 || member()).then_some(gid)
}

/// Whom the proxy runs as. Where the host has no such user: a number that nothing else uses, in no group but its own.
fn proxy_user(item: &Item, agent: &Agent, context: &Context, report: &mut Report) -> Option<User> {
    let name = agent.proxy_user.as_deref().unwrap_or(PROXY_USER);
    if context.uid != 0 {
        if agent.proxy_user.is_some() {
            let message = "only an agent that runs as root can run the proxy as another user";
            report.warning(item, "proxy_user", message).hint("remove `proxy_user`");
        }
        return None;
    }
    match context.look.user(name) {
        Some(user) if user.uid != 0 => return Some(user),
        Some(_) => {
            let message = format!("the proxy speaks with strangers and must not run as {name:?}, which is root");
            report.error(item, "proxy_user", message).hint(format!("adduser --system --group {PROXY_USER}"));
            return None;
        }
        None => {}
    }
    let look = &context.look;
    let is_free = |id: &u32| look.user(&id.to_string()).is_none() && look.group(&id.to_string()).is_none();
    let id = SPARE_IDS.rev().find(is_free);
    if agent.proxy_user.is_some() && name != PROXY_USER {
        let runs = id.map_or(String::new(), |id| format!(": the proxy runs as uid {id}, which nobody else uses"));
        let hint = suggest::did_you_mean(name, look.user_names())
            .unwrap_or_else(|| format!("adduser --system --group {name}"));
        report.warning(item, "proxy_user", format!("there is no user {name:?}{runs}")).hint(hint);
    }
    let Some(id) = id else {
        let message = format!(
            "there is no user {name:?}, and all ids from {} to {} belong to somebody: the proxy would run as root",
            SPARE_IDS.start(),
            SPARE_IDS.end()
        );
        report.error(item, "proxy_user", message).hint(format!("adduser --system --group {PROXY_USER}"));
        return None;
    };
    Some(User {
        name: id.to_string(),
        uid: id,
        gid: id,
        groups: vec![id],
        home: "/".to_owned(),
        shell: "/usr/sbin/nologin".to_owned(),
    })
}

fn watchdog(
    item: &Item,
    agent: &Agent,
    names: Option<&[&str]>,
    context: &Context,
    report: &mut Report,
) -> Option<WatchdogPlan> {
    let watchdog = agent.watchdog.as_ref()?;
    for (index, name) in watchdog.require.iter().enumerate() {
        if let Some(names) = names.filter(|names| !names.contains(&name.as_str())) {
            let hint = suggest::did_you_mean(name, names.iter().copied());
            report
                .error(item, &format!("watchdog.require[{index}]"), format!("there is no service {name:?}"))
                .maybe_hint(hint);
        }
    }
    let timeout = watchdog.timeout.0;
    if timeout < WATCHDOG_MIN {
        let message = format!("after {} a busy host would be reset: at least \"10s\"", duration_text(timeout));
        report.error(item, "watchdog.timeout", message).hint("30s is usual");
    } else if timeout < WATCHDOG_USUAL {
        let message = format!("{} is short: busy hosts were reset by less than 30 s", duration_text(timeout));
        report.warning(item, "watchdog.timeout", message).hint("write \"30s\"");
    } else if timeout > WATCHDOG_MAX {
        let message = format!("{} is more than hardware watchdogs count", duration_text(timeout));
        report.error(item, "watchdog.timeout", message).hint(format!("at most {:?}", duration_text(WATCHDOG_MAX)));
    }
    let device = absolute(item, "watchdog.device", &watchdog.device, report);
    if context.look.is_directory(Path::new("/dev")) && device.is_absolute() && !context.look.exists(&device) {
        let message = format!("there is no {}: this host has no such watchdog now", device.display());
        report.warning(item, "watchdog.device", message).hint("load its driver, such as iTCO_wdt or softdog");
    }
    Some(WatchdogPlan { device, timeout: watchdog.timeout.0, require: watchdog.require.clone() })
}
