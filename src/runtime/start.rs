//! From nothing to a running loop: configuration, directories, lock, what an earlier agent left, engine, sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::adopt::{self, Adopted, Looked};
use super::alerts;
use super::balancers::Ejections;
use super::copying::Copying;
use super::error::RunError;
use super::figures::Inquiry;
use super::freezing;
use super::handoff;
use super::hardware_watchdog::{self, HardwareWatchdog};
use super::journal::Journal;
use super::kept;
use super::limiting;
use super::links::{Gone, Importance, Link};
use super::listeners::{self, Listeners};
use super::load::{self, Accepted, Answer, Kept, Refused};
use super::pace::Pace;
use super::peeks::Peeks;
use super::perform;
use super::probes::Probes;
use super::record;
use super::roles;
use super::saved_plan;
use super::serve::About;
use super::shell::{Directories, Shell};
use super::sockets::{self, Sockets};
use super::start_run;
use super::station::{Live, Main};
use super::taker::Takers;
use super::wait;
use super::{Agent, RunOptions};
use crate::api::server::Server;
use crate::config::Context;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::event::{Event, FoundProcess};
use crate::engine::plan::{CgroupPlan, Plan, Role, User};
use crate::engine::types::ReplicaId;
use crate::logs::proto::{FromLogs, ToLogs};
use crate::sys::controllers::Controllers;
use crate::sys::files::{self, Durability, Lock, LockError};
use crate::sys::group::{Choice, Group, Root};
use crate::sys::signal::Signals;
use crate::sys::{clock, epoll, host, process, signal, users};

/// How long a living logs role may take to give descriptors back before the agent goes on without them.
const CLAIM_DEADLINE: Duration = Duration::from_secs(2);

/// How long the lock of a dead agent may still be held by a child of its.
const LOCK_AWAITED: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The agent's own standing with the OOM killer; children get their own value at the spawn.
const OOM_SCORE_ADJ: i32 = -900;

/// Of its own group, where it has one beside those of the services; 100 is theirs. `mainstay.service` says the same to systemd.
const OWN_CPU_WEIGHT: u16 = 500;
const OWN_MEMORY_MIN_BYTES: u64 = 16 << 20;

/// Sets everything up to the point where the loop can begin.
pub(super) fn start(options: &RunOptions) -> Result<Agent, RunError> {
    let Begun { mut plan, kept, config_loaded } = load_configuration(options)?;
    let Kept { decisions, last_seq, remarks } = kept;
    let directories = Directories {
        run: plan.agent.run_dir.clone(),
        state: plan.agent.state_dir.clone(),
        log: plan.agent.log_dir.clone(),
    };
    make_directories(&directories)?;
    let lock = take_lock(&directories.run)?;
    let signals = become_agent()?;
    if plan.agent.starting_max.is_none() {
        plan.agent.starting_max = u32::try_from(2 * host::cpus()).ok();
    }
    let (mut shell, limits) = make_shell(directories, &plan.agent.cgroup, last_seq)?;
    saved_plan::save(&shell.directories.run, &shell.boot_id, &plan);
    let plan = roles::with_roles(plan, host::uid() == 0);
    let early = claim(&mut shell);
    let records =
        record::read_all(&shell.directories.run, &shell.boot_id, &shell.instance).map_err(setup("the records"))?;
    let Looked { adopted, left_alone, dying } = adopt::look(records, &shell.root);
    shell.dying_groups.extend(dying);
    let now = super::now();
    let mut engine = Engine::new(plan, host::random_u64(), now);
    let facts = crate::api::host::Facts::read(Path::new("/"));
    let about = About { started: now, config: options.config.clone(), config_loaded, limits, facts };
    let mut recorder = super::recorder::Recorder::start(&shell.directories.run, &engine);
    let found = adopted.iter().map(|one| one.found.clone()).collect();
    let server = Server::bind(&shell.directories.run, engine.plan().agent.admin_gid).map_err(RunError::Api)?;
    let mut ignored = Vec::new();
    let (host, fences) = (kept::recall(&shell, &mut ignored), kept::recall(&shell, &mut ignored));
    let tables = kept::recall(&shell, &mut ignored);
    let begin = Event::Begin { found, decisions, host, fences, tables };
    let actions = engine.step(now, begin.clone());
    recorder.record(&engine, now, begin, &actions);
    take_over(&mut shell, &engine, adopted);
    freezing::thaw_adopted(&mut shell, &engine, &actions);
    limiting::settle_adopted(&mut shell, &engine);
    for text in remarks.into_iter().chain(left_alone).chain(ignored) {
        shell.events.push_back(Event::Remark { level: Level::Warn, text });
    }
    for (message, descriptors) in early {
        roles::from_logs(&mut shell, &engine, message, descriptors);
    }
    listeners::settle(&mut shell, engine.plan(), now.mono);
    hardware_watchdog::settle(&mut shell, engine.plan(), now.mono);
    let run_dir = &shell.directories.run;
    let service_listeners: BTreeSet<String> =
        engine.plan().services.iter().flat_map(|plan| sockets::listener_keys(plan, run_dir)).collect();
    let wanted = |key: &str| match key.strip_prefix("listen/") {
        // One at an address that is configured no more would go on taking connections.
        Some(_) => service_listeners.contains(key),
        None if listeners::is_key(key) => false,
        None => key.split('/').nth(1).is_some_and(|name| kept_for(&engine, name)),
    };
    shell.sockets.drop_unclaimed(&mut shell.logs, &wanted);
    Agent::assemble(engine, shell, server, recorder, signals, about, actions.into(), lock)
}

/// Signals as descriptors, orphans handed to us, descriptors for a thousand services, the OOM killer elsewhere, a CPU whenever it has work.
fn become_agent() -> Result<Signals, RunError> {
    let signals = Signals::agent().map_err(setup("signals"))?;
    signal::become_subreaper().map_err(setup("the reaping of orphans"))?;
    host::raise_nofile();
    if host::uid() == 0
        && let Err(error) = host::protect_from_oom(OOM_SCORE_ADJ)
    {
        log::warn!("agent: cannot protect itself from the OOM killer: {error}");
    }
    if host::uid() == 0
        && let Err(error) = host::run_before_others()
    {
        log::info!("agent: a service that takes all of the CPU can delay it: {error}");
    }
    Ok(signals)
}

/// The empty shell, and what cannot be promised on this host.
pub(super) fn make_shell(
    directories: Directories,
    cgroup: &CgroupPlan,
    last_seq: u64,
) -> Result<(Shell, Vec<String>), RunError> {
    let boot_id = clock::boot_id().map_err(setup("the boot id"))?;
    let instance = instance_id(&directories.run)?;
    let choice = group_choice(cgroup, &directories.run);
    let (root, mut limits) = Root::detect(choice.clone(), &instance);
    let controllers = Controllers::detect(&choice, &root);
    if let Err(error) = controllers.favour_own(OWN_CPU_WEIGHT, OWN_MEMORY_MIN_BYTES) {
        log::info!("agent: its own group is not favoured over those of services: {error}");
    }
    if host::uid() != 0 {
        limits.push("not root: services run as this user, and user, group and capabilities cannot be set".to_owned());
    }
    for limit in &limits {
        log::warn!("agent: {limit}");
    }
    let shell = Shell {
        journal: Journal::open(&directories.run, last_seq),
        directories,
        boot_id,
        instance,
        own_user: own_user(),
        root,
        controllers,
        epoll: epoll::Epoll::new().map_err(setup("epoll"))?,
        stations: BTreeMap::new(),
        slots: Vec::new(),
        mains: BTreeMap::new(),
        dead: Vec::new(),
        logs: Link::default(),
        checks: Link::default(),
        proxy: Link::default(),
        helpers: BTreeMap::new(),
        listeners: Listeners::default(),
        inquiry: Inquiry::default(),
        ejections: Ejections::default(),
        sockets: Sockets::default(),
        probes: Probes::default(),
        alerts: alerts::none(),
        copying: Copying::default(),
        watchdog: HardwareWatchdog::default(),
        events: VecDeque::new(),
        records: super::record::Writer::default(),
        dying_groups: Vec::new(),
        new_gates: Vec::new(),
        resting: Vec::new(),
        lost_links: Vec::new(),
        peeks: Peeks::default(),
        muted: Vec::new(),
        takers: Takers::default(),
        polled_trees: Vec::new(),
        dying_pace: Pace::default(),
        tree_pace: Pace::default(),
    };
    Ok((shell, limits))
}

/// What an agent begins with.
struct Begun {
    plan: Plan,
    kept: Kept,
    /// The plan is that of the configuration as it is now.
    config_loaded: bool,
}

/// The configuration, or the plan that an earlier agent of this boot worked by: its services must not be left alone because a file was
/// broken while nobody read it.
fn load_configuration(options: &RunOptions) -> Result<Begun, RunError> {
    let (error, run_dir, mut kept) = match load::load_at_start(options.config.as_deref()) {
        Ok(Answer::Accepted(accepted)) => {
            let Accepted { plan, warnings, kept } = *accepted;
            for warning in &warnings {
                log::warn!("{}", warning.to_string().trim_end());
            }
            return Ok(Begun { plan, kept, config_loaded: true });
        }
        Ok(Answer::Refused(Refused { diagnostics, run_dir, kept })) => (RunError::Config(diagnostics), run_dir, kept),
        Err(error) => {
            let run_dir = Context::host(host::uid()).default_dirs().run_dir;
            (RunError::Load(error), run_dir, Kept::default())
        }
    };
    let boot_id = clock::boot_id().map_err(setup("the boot id"))?;
    let Some(plan) = saved_plan::of_earlier_agent(&run_dir, &boot_id) else { return Err(error) };
    let why = match &error {
        RunError::Config(diagnostics) => diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        other => other.to_string(),
    };
    log::error!("agent: going on with the plan of the earlier agent, because the configuration cannot be used: {why}");
    let remark = "the configuration cannot be used; the plan of the earlier agent is in force until a reload";
    kept.remarks.push(remark.to_owned());
    Ok(Begun { plan, kept, config_loaded: false })
}

fn setup(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Setup { what, source }
}

/// The directories below `run_dir` with the owners and modes of the interface; the other two are the logs role's to fill.
fn make_directories(directories: &Directories) -> Result<(), RunError> {
    let run = &directories.run;
    let wanted = [
        (run.clone(), 0o711),
        (record::directory(run), 0o700),
        (run.join("log"), 0o711),
        (run.join("svc"), 0o711),
        (run.join("roles"), 0o700),
    ];
    for (path, mode) in wanted {
        files::secure_directory(&path, mode, None).map_err(|source| RunError::Directory { path, source })?;
    }
    Ok(())
}

/// A child that an earlier agent had just made holds the lock until it has closed what it inherited: a busy machine takes its time for
/// that. Only an agent that lives is a reason to give up at once.
fn take_lock(run_dir: &Path) -> Result<Lock, RunError> {
    let path = run_dir.join("lock");
    let began = clock::clocks().mono_ns;
    loop {
        let (path, pid) = match Lock::take(&path) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { path, pid }) => (path, pid),
            Err(LockError::File { path, source }) => return Err(RunError::Lock { path, source }),
        };
        let lives = process::process(pid).is_ok_and(|holder| holder.state != 'Z');
        let waited = Duration::from_nanos(clock::clocks().mono_ns.saturating_sub(began));
        if lives || waited >= LOCK_AWAITED {
            return Err(RunError::Locked { path, pid });
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// The id that marks our groups: made once for a `run_dir`, kept while it exists.
fn instance_id(run_dir: &Path) -> Result<String, RunError> {
    let path = run_dir.join("instance");
    if let Ok(text) = fs::read_to_string(&path)
        && text.len() == 16
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(text);
    }
    let id = format!("{:016x}", host::random_u64());
    files::write_atomically(&path, id.as_bytes(), Durability::Memory).map_err(setup("the instance id"))?;
    Ok(id)
}

/// `mainstay` for the default directory, else `mainstay-` and 8 hex digits of the path's hash (FNV-1a).
#[must_use]
pub fn group_choice(plan: &CgroupPlan, run_dir: &Path) -> Choice {
    match plan {
        CgroupPlan::Off => Choice::Off,
        CgroupPlan::Path(path) => Choice::Path(path.clone()),
        CgroupPlan::Auto if run_dir == Path::new("/run/mainstay") => Choice::Auto { name: "mainstay".to_owned() },
        CgroupPlan::Auto => {
            let hash = run_dir
                .to_string_lossy()
                .bytes()
                .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            Choice::Auto { name: format!("mainstay-{hash:08x}") }
        }
    }
}

fn own_user() -> User {
    let uid = host::uid();
    match users::user(&uid.to_string()) {
        Ok(Some(entry)) => User {
            name: entry.name,
            uid,
            gid: entry.gid,
            groups: vec![entry.gid],
            home: entry.home,
            shell: entry.shell,
        },
        Ok(None) | Err(_) => User {
            name: uid.to_string(),
            uid,
            gid: uid,
            groups: vec![uid],
            home: "/".to_owned(),
            shell: "/bin/sh".to_owned(),
        },
    }
}

type Early = Vec<(FromLogs, Vec<std::os::fd::OwnedFd>)>;

/// Asks a logs role that outlived an earlier agent for the descriptors it kept. What else it says meanwhile is returned.
fn claim(shell: &mut Shell) -> Early {
    let mut early = Vec::new();
    let path: PathBuf = roles::socket_path(shell, Role::Logs);
    let hello = roles::hello_logs(shell);
    if shell.logs.connect(&path, &hello).is_err() {
        return early;
    }
    shell.logs.send(&ToLogs::Claim, Importance::Current);
    shell.logs.flush();
    let began = clock::clocks().mono_ns;
    let mut buffer = Vec::new();
    loop {
        let waited = Duration::from_nanos(clock::clocks().mono_ns.saturating_sub(began));
        let Some(left) = CLAIM_DEADLINE.checked_sub(waited) else {
            log::warn!("agent: the logs role did not give back what it keeps within {CLAIM_DEADLINE:?}");
            return early;
        };
        match shell.logs.receive::<FromLogs>(&mut buffer) {
            Ok(Some((FromLogs::KeptAll, _))) => return early,
            Ok(Some((FromLogs::Kept { key }, descriptors))) => shell.sockets.claim(key, descriptors),
            Ok(Some(other)) => early.push(other),
            Ok(None) => {
                let Some(descriptor) = shell.logs.descriptor() else { return early };
                let mut ready = [PollFd::new(descriptor, PollFlags::POLLIN)];
                // EINTR or an error: the next receive tells.
                let _ = poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            }
            Err(Gone::Closed | Gone::Garbled) => {
                shell.logs.disconnect();
                return early;
            }
        }
    }
}

/// What was found becomes stations, watched again.
fn take_over(shell: &mut Shell, engine: &Engine, adopted: Vec<Adopted>) {
    let run_dir = shell.directories.run.clone();
    for Adopted { found, cookie, frozen, process, mut group } in adopted {
        let Some(service) = engine.service_id(&found.service) else { continue };
        let replica = ReplicaId { service, index: found.index };
        let station = shell.station(replica, &found.service, found.stop);
        let slot = station.slot;
        let run = found.memory.run;
        station.cookie = cookie;
        match found.process {
            FoundProcess::Gone { .. } => {
                shell.bury(group);
                continue;
            }
            FoundProcess::Alive { .. } | FoundProcess::Leftovers { .. } => {}
        }
        station.prepared = true;
        station.hold_pipe(&run_dir);
        let oom_kills = group.as_ref().map_or(0, Group::oom_kills);
        // Only a spawn needs it.
        if let Some(group) = &mut group {
            group.close_directory();
        }
        let main = process.map(|(process, pidfd)| Main { process, pidfd });
        let lives = main.is_some();
        if let Some(main) = &main {
            shell.mains.insert(main.process.pid, replica);
            wait::watch_main(shell, main.pidfd.as_fd(), slot, run);
        }
        let live = Live {
            run,
            main,
            group,
            group_since: None,
            gate: None,
            ready_pipe: None,
            channels: Vec::new(),
            oom_kills,
            tree_awaited: false,
            tree_registered: false,
            killing: false,
            frozen,
            refused_main: false,
        };
        if let Some(station) = shell.stations.get_mut(&replica) {
            station.live = Some(live);
        }
        if !lives {
            perform::await_tree(shell, replica);
        }
        if let Some(plan) = engine.service_plan(service) {
            start_run::resume_sockets(shell, plan, replica);
            handoff::resume(shell, engine.plan(), &plan.name, replica);
            if let Err(error) = shell.sockets.open(plan, replica.index, &run_dir, &mut shell.logs) {
                log::error!("service {}: {error}", plan.name);
            }
        }
    }
}

/// Whether `api` or `api.0` of a kept descriptor's key still is a service of ours.
fn kept_for(engine: &Engine, name: &str) -> bool {
    let without_index = name.rsplit_once('.').map_or(name, |(service, _)| service);
    engine.service_id(name).is_some() || engine.service_id(without_index).is_some()
}
