//! From a plan to what the kernel is asked for: the arguments, environment, descriptors and credentials of one child.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::handoff;
use crate::engine::plan::{Launch, Readiness, Role, ServicePlan, User, Words, expand};
use crate::sys::host;
use crate::sys::landlock::{Refuse, Wall};
use crate::sys::limits::Limited;
use crate::sys::rlimit::Resource;
use crate::sys::spawn::{Credentials, SpawnRequest};

/// Where a command is looked up, and what a service finds as its PATH.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first descriptor of LISTEN_FDS (sd_listen_fds(3)).
const LISTEN_FDS_START: i32 = 3;

/// The environment variable that marks the processes of a run where there are no cgroups.
pub(super) const COOKIE: &str = "MAINSTAY_RUN";

/// What a child is given beside its plan.
#[derive(Debug)]
pub(super) struct Gifts<'a> {
    pub output: BorrowedFd<'a>,
    pub listeners: Vec<BorrowedFd<'a>>,
    /// Over which it takes connections that the proxy has accepted; after the listeners.
    pub channels: Vec<BorrowedFd<'a>>,
    /// The write end of the readiness pipe and the number the service expects it under.
    pub ready: Option<(&'a OwnedFd, i32)>,
    pub notify_path: Option<&'a Path>,
    pub group: Option<BorrowedFd<'a>>,
    pub limited: Option<&'a Limited>,
    pub cookie: String,
}

/// What the roles are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoleKnowledge<'a> {
    pub run: &'a Path,
    pub state: &'a Path,
    pub log: &'a Path,
    /// Who the proxy becomes: `UID:GID[:GROUP,..]`.
    pub proxy_user: Option<&'a str>,
}

/// The request for one replica of a service, or for a role.
pub(super) fn build<'a>(
    plan: &ServicePlan,
    index: u16,
    knowledge: RoleKnowledge<'_>,
    own: &User,
    gifts: Gifts<'a>,
) -> Result<SpawnRequest<'a>, String> {
    let words = plan.words(index, knowledge.run);
    let argv = match plan.launch {
        Launch::Command => plan.process.command.iter().map(|word| expand(word, &words)).collect(),
        Launch::Role(role) => role_arguments(role, knowledge),
    };
    let path = match plan.launch {
        Launch::Command => argv.first().cloned().ok_or("the command is empty")?,
        Launch::Role(_) => "/proc/self/exe".to_owned(),
    };
    let cwd = match &plan.process.cwd {
        Some(cwd) => Some(c_string(&expand(&cwd.to_string_lossy(), &words))?),
        None => Some(c"/".to_owned()),
    };
    let listen_pid = !(gifts.listeners.is_empty() && gifts.channels.is_empty());
    let envp = environment(plan, &words, own, &gifts)?;
    let mut descriptors: Vec<(BorrowedFd<'a>, i32)> = Vec::new();
    for (number, socket) in (LISTEN_FDS_START..).zip(gifts.listeners.iter().chain(&gifts.channels)) {
        descriptors.push((*socket, number));
    }
    if let Some((pipe, number)) = gifts.ready {
        descriptors.push((pipe.as_fd(), number));
    }
    Ok(SpawnRequest {
        path: c_string(&path)?,
        argv: argv.iter().map(|word| c_string(word)).collect::<Result<_, _>>()?,
        envp,
        listen_pid,
        cwd,
        stdin: None,
        stdout: gifts.output,
        stderr: gifts.output,
        descriptors,
        credentials: plan.process.user.as_ref().map(|user| Credentials {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        umask: plan.process.umask,
        rlimits: rlimits(plan)?,
        nice: plan.process.nice,
        oom_score_adj: plan.process.oom_score_adj,
        no_new_privileges: plan.process.no_new_privileges,
        capabilities: plan.process.capabilities.clone(),
        cgroup: gifts.group,
        joins: joins(gifts.limited)?,
        wall: wall(plan, index, &words, plan.process.command.first())?,
        new_session: true,
    })
}

/// The groups of other hierarchies that the child enters.
fn joins(limited: Option<&Limited>) -> Result<Vec<CString>, String> {
    let groups = limited.map(Limited::groups).unwrap_or_default();
    groups.into_iter().map(|group| c_string(&group.join("cgroup.procs").to_string_lossy())).collect()
}

/// Devices that every program may expect to write to.
const EVERYBODYS: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// What the service may reach. Beside what it names: the devices of everybody, its own directory, its log (which it may open anew as
/// /dev/stderr), and the program that is run. A wall that cannot be built is no start: nobody would notice that it is missing.
pub(super) fn wall(
    plan: &ServicePlan,
    index: u16,
    words: &Words,
    program: Option<&String>,
) -> Result<Option<Box<Wall>>, String> {
    let Some(access) = &plan.process.access else { return Ok(None) };
    let refuse = match (&access.read, &access.write) {
        (Some(_), Some(_)) => Refuse::Both,
        (Some(_), None) => Refuse::Reading,
        (None, Some(_)) => Refuse::Writing,
        (None, None) => return Ok(None),
    };
    let mut wall = Wall::new(refuse).ok_or(
        "can_read and can_write need Landlock, which this kernel does not have: boot one that was built with CONFIG_SECURITY_LANDLOCK and \
         has landlock in lsm=, or remove them",
    )?;
    for path in access.write.iter().flatten() {
        wall.allow_writing(c_string(&expand(path, words))?);
    }
    for path in access.read.iter().flatten() {
        wall.allow_reading(c_string(&expand(path, words))?);
    }
    if let Some(program) = program {
        wall.allow_reading(c_string(&expand(program, words))?);
    }
    for path in EVERYBODYS {
        wall.allow_writing_if_there(c_string(path)?);
    }
    wall.allow_writing(c_string(&words.service_dir)?);
    wall.allow_writing(c_string(&format!("{}/log/{}.{index}", words.run_dir, plan.name))?);
    Ok(Some(Box::new(wall)))
}

/// The hidden command of a role: `role logs --run-dir R --state-dir S --log-dir L`, `role checks --run-dir R`,
/// `role proxy --run-dir R --state-dir S [--user UID:GID[:GROUP,..]]`.
fn role_arguments(role: Role, knowledge: RoleKnowledge<'_>) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let run_dir = ["--run-dir".to_owned(), path(knowledge.run)];
    let state_dir = ["--state-dir".to_owned(), path(knowledge.state)];
    let (name, rest) = match role {
        Role::Logs => ("logs", [state_dir, ["--log-dir".to_owned(), path(knowledge.log)]].concat()),
        Role::Checks => ("checks", Vec::new()),
        Role::Sensors => ("sensors", Vec::new()),
        Role::Disk(slot) => ("disk", vec!["--slot".to_owned(), slot.to_string()]),
        Role::Copy(number) => ("copy", vec!["--number".to_owned(), number.to_string()]),
        Role::Proxy => {
            let user = knowledge.proxy_user.map(|user| ["--user".to_owned(), user.to_owned()]);
            ("proxy", state_dir.into_iter().chain(user.into_iter().flatten()).collect())
        }
    };
    ["mainstay", "role", name].map(str::to_owned).into_iter().chain(run_dir).chain(rest).collect()
}

/// A clean environment: the variables of the plan, those that every login has, and those of the protocols in use.
fn environment(plan: &ServicePlan, words: &Words, own: &User, gifts: &Gifts<'_>) -> Result<Vec<CString>, String> {
    let user = plan.process.user.as_deref().unwrap_or(own);
    let mut environment = Environment::default();
    let everybodys = [
        ("PATH", PATH),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
        (COOKIE, &gifts.cookie),
    ];
    for (name, value) in everybodys {
        environment.set(name, value)?;
    }
    for (name, value) in &plan.process.env {
        environment.set(name, &expand(value, words))?;
    }
    if let Some(path) = gifts.notify_path {
        environment.set("NOTIFY_SOCKET", &path.to_string_lossy())?;
    }
    if let Some(watchdog) = plan.watchdog {
        environment.set("WATCHDOG_USEC", &watchdog.as_micros().to_string())?;
    }
    let names = [("listen", gifts.listeners.len()), (handoff::FD_NAME, gifts.channels.len())];
    let names: Vec<&str> = names.iter().flat_map(|(name, count)| std::iter::repeat_n(*name, *count)).collect();
    if !names.is_empty() {
        // Ten digits are patched by the child itself: only it knows its pid before exec.
        environment.set("LISTEN_PID", "0000000000")?;
        environment.set("LISTEN_FDS", &names.len().to_string())?;
        environment.set("LISTEN_FDNAMES", &names.join(":"))?;
    }
    Ok(environment.0)
}

/// `NAME=VALUE`, each name once, the latest value; in the order in which the names came first. There are few, so they are searched in a row.
#[derive(Debug, Default)]
struct Environment(Vec<CString>);

impl Environment {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        // With room for the zero at the end: written once, where it stays.
        let mut text = Vec::with_capacity(name.len() + value.len() + 2);
        for part in [name, "=", value] {
            text.extend_from_slice(part.as_bytes());
        }
        let entry = CString::new(text).map_err(|_| format!("the value of {name} contains a zero byte"))?;
        let known =
            |entry: &CString| entry.as_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
        match self.0.iter_mut().find(|entry| known(entry)) {
            Some(former) => *former = entry,
            None => self.0.push(entry),
        }
        Ok(())
    }
}

/// The readiness descriptor's number, for services that report through one.
#[must_use]
pub(super) fn ready_descriptor(plan: &ServicePlan) -> Option<i32> {
    match &plan.ready {
        Readiness::Fd(number) => Some(*number),
        Readiness::Started | Readiness::Notify | Readiness::Probe(_) | Readiness::Log(_) => None,
    }
}

/// Whether the replica gets a notify socket.
#[must_use]
pub(super) fn wants_notify(plan: &ServicePlan) -> bool {
    plan.ready == Readiness::Notify || plan.watchdog.is_some()
}

fn rlimits(plan: &ServicePlan) -> Result<Vec<(Resource, u64, u64)>, String> {
    if plan.launch == Launch::Role(Role::Proxy) {
        // Each connection takes two descriptors. Not part of the role's plan, which would then differ from host to host.
        return Ok(host::nofile_hard().map(|hard| (Resource::Nofile, hard, hard)).into_iter().collect());
    }
    plan.process
        .rlimits
        .iter()
        .map(|(name, (soft, hard))| {
            let resource = Resource::by_name(name).ok_or_else(|| format!("no resource limit is called {name:?}"))?;
            Ok((resource, *soft, *hard))
        })
        .collect()
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(std::ffi::OsStr::new(text).as_bytes()).map_err(|_| format!("{text:?} contains a zero byte"))
}
