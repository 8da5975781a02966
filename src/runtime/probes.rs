//! Probes on their way: network probes go to the checks role, exec probes are children of the agent in a group of their own. The
//! engine keeps the deadlines; a cancelled probe is forgotten here and its late answer dropped.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::time::Duration;

use super::adopt::PROBE_GROUP;
use super::key::Key;
use super::links::Importance;
use super::request;
use super::shell::Shell;
use super::spawned::Helper;
use crate::checks::proto::{ProbeTarget, ToChecks};
use crate::engine::Engine;
use crate::engine::event::Event;
use crate::engine::plan::{Probe, ServicePlan, expand};
use crate::engine::types::{ReplicaId, RunId, SIGKILL, signal_name};
use crate::sys::child::{self, Ended};
use crate::sys::epoll::Interest;
use crate::sys::group::Group;
use crate::sys::host;
use crate::sys::spawn::{self, Credentials, SpawnRequest};

/// Numbers of exec probes, as many as an epoll key has room for.
const SLOT_MAX: u32 = (1 << 24) - 1;

/// Exec probes that run at once; one more is answered with a failure that says so.
const EXEC_PROBES_MAX: usize = 256;

/// One probe as the engine asked for it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub replica: ReplicaId,
    pub run: RunId,
    pub generation: u64,
    pub probe: Probe,
    pub timeout: Duration,
}

/// A network probe under way.
#[derive(Debug)]
struct Question {
    asker: Asker,
    target: ProbeTarget,
    timeout_ms: u64,
}

/// Whose answer it will be.
#[derive(Clone, Copy, Debug)]
struct Asker {
    replica: ReplicaId,
    run: RunId,
    generation: u64,
}

#[derive(Debug)]
struct ExecProbe {
    asker: Asker,
    helper: Helper,
    group: Option<Group>,
}

#[derive(Debug)]
pub struct Probes {
    /// By the id that the checks role was given.
    asked: BTreeMap<u64, Question>,
    /// Questions for a checks role that is not there: its absence is no failure of a service. Each is given up at its deadline by the
    /// engine, so that there is at most one a replica.
    held: Vec<Question>,
    next_id: u64,
    running: BTreeMap<u32, ExecProbe>,
    next_slot: u32,
}

impl Default for Probes {
    fn default() -> Self {
        // Not from 0: a group of an earlier agent's probe may not be gone yet.
        let next_slot = u32::try_from(host::random_u64() & u64::from(SLOT_MAX)).unwrap_or_default();
        Self { asked: BTreeMap::new(), held: Vec::new(), next_id: 0, running: BTreeMap::new(), next_slot }
    }
}

/// Starts a probe; a failure to start is its answer.
pub(super) fn start(shell: &mut Shell, engine: &Engine, wanted: Wanted) {
    let Some(plan) = engine.service_plan(wanted.replica.service) else { return };
    let words = plan.words(wanted.replica.index, &shell.directories.run);
    let asker = Asker { replica: wanted.replica, run: wanted.run, generation: wanted.generation };
    let target = match &wanted.probe {
        Probe::Tcp(address) => ProbeTarget::Tcp(expand(address, &words)),
        Probe::Http(url) => ProbeTarget::Http(expand(url, &words)),
        Probe::Exec(command) => {
            let argv: Vec<String> = command.iter().map(|word| expand(word, &words)).collect();
            if let Err(error) = start_exec(shell, plan, asker, &argv) {
                answer(shell, asker, Err(error));
            }
            return;
        }
    };
    let timeout_ms = u64::try_from(wanted.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    ask(shell, Question { asker, target, timeout_ms });
}

fn ask(shell: &mut Shell, question: Question) {
    if !shell.checks.is_connected() {
        return shell.probes.held.push(question);
    }
    let id = shell.probes.next_id;
    shell.probes.next_id += 1;
    let message = ToChecks::Probe { id, target: question.target.clone(), timeout_ms: question.timeout_ms };
    shell.probes.asked.insert(id, question);
    shell.checks.send(&message, Importance::Current);
}

/// The checks role has come: it is asked what had to wait.
pub(super) fn ask_held(shell: &mut Shell) {
    for question in std::mem::take(&mut shell.probes.held) {
        ask(shell, question);
    }
}

/// The engine has given up on a probe.
pub(super) fn cancel(shell: &mut Shell, replica: ReplicaId, generation: u64) {
    let is_it = |asker: &Asker| asker.replica == replica && asker.generation == generation;
    shell.probes.held.retain(|question| !is_it(&question.asker));
    let id = shell.probes.asked.iter().find(|(_, question)| is_it(&question.asker)).map(|(id, _)| *id);
    if let Some(id) = id {
        shell.probes.asked.remove(&id);
        shell.checks.send(&ToChecks::Cancel { id }, Importance::Current);
        return;
    }
    let slot = shell.probes.running.iter().find(|(_, probe)| is_it(&probe.asker)).map(|(slot, _)| *slot);
    if let Some(slot) = slot {
        end_exec(shell, slot);
    }
}

/// An answer of the checks role.
pub(super) fn answered(shell: &mut Shell, id: u64, error: Option<String>) {
    let Some(question) = shell.probes.asked.remove(&id) else { return };
    answer(shell, question.asker, error.map_or(Ok(()), Err));
}

/// The checks role went away: its successor is asked anew.
pub(super) fn role_lost(shell: &mut Shell) {
    let open = std::mem::take(&mut shell.probes.asked);
    shell.probes.held.extend(open.into_values());
}

/// The pidfd of an exec probe is readable.
pub(super) fn exec_ended(shell: &mut Shell, slot: u32) {
    let Some(probe) = shell.probes.running.get(&slot) else { return };
    let result = match child::wait(probe.helper.pidfd.as_fd()) {
        Ok(None) => return,
        Ok(Some(Ended::Code(0))) => Ok(()),
        Ok(Some(Ended::Code(code))) => Err(format!("exit code {code}")),
        Ok(Some(Ended::Signal { signal, .. })) => Err(format!("killed by {}", signal_name(signal))),
        Ok(Some(Ended::Unknown)) | Err(_) => Err("ended, exit status unknown".to_owned()),
    };
    let asker = probe.asker;
    end_exec(shell, slot);
    answer(shell, asker, result);
}

/// Whether a pid is an exec probe's (the reaper of orphans leaves it alone).
#[must_use]
pub(super) fn is_main(probes: &Probes, pid: i32) -> bool {
    probes.running.values().any(|probe| probe.helper.pid == pid)
}

fn answer(shell: &mut Shell, asker: Asker, result: Result<(), String>) {
    let Asker { replica, run, generation } = asker;
    shell.events.push_back(Event::ProbeDone { replica, run, generation, result });
}

fn start_exec(shell: &mut Shell, plan: &ServicePlan, asker: Asker, argv: &[String]) -> Result<(), String> {
    if shell.probes.running.len() >= EXEC_PROBES_MAX {
        return Err(format!("{EXEC_PROBES_MAX} exec probes are running already"));
    }
    let slot = shell.probes.next_slot;
    shell.probes.next_slot = (slot + 1) & SLOT_MAX;
    let cookie = format!("{}.{PROBE_GROUP}.{slot}.{:016x}", shell.instance, host::random_u64());
    let mut group = match shell.root.is_weak() {
        true => None,
        false => Some(
            shell
                .root
                .create(&format!("{PROBE_GROUP}.{slot}"))
                .map_err(|error| format!("cannot make a group: {error}"))?,
        ),
    };
    match spawn_exec(plan, argv, &cookie, group.as_ref()) {
        Ok(helper) => {
            if let Some(group) = &mut group {
                group.close_directory();
            }
            let group = group.or_else(|| Some(Group::weak(cookie, helper.pid)));
            shell.listen_to(helper.pidfd.as_fd(), Key::ExecProbe(slot), Interest::READ);
            shell.probes.running.insert(slot, ExecProbe { asker, helper, group });
            Ok(())
        }
        Err(error) => {
            shell.bury(group);
            Err(error)
        }
    }
}

/// As the user of the service, and with no more rights than the service has.
fn spawn_exec(plan: &ServicePlan, argv: &[String], cookie: &str, group: Option<&Group>) -> Result<Helper, String> {
    let null = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .map_err(|error| format!("cannot open /dev/null: {error}"))?;
    let c_strings = |words: &[String]| {
        words
            .iter()
            .map(|word| CString::new(word.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    };
    let argv = c_strings(argv)?;
    let request = SpawnRequest {
        path: argv.first().cloned().ok_or("the command is empty")?,
        argv,
        envp: c_strings(&[format!("PATH={}", request::PATH), format!("{}={cookie}", request::COOKIE)])?,
        credentials: plan.process.user.as_ref().map(|user| Credentials {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        no_new_privileges: plan.process.no_new_privileges,
        capabilities: plan.process.capabilities.clone(),
        cwd: Some(c"/".to_owned()),
        cgroup: group.and_then(Group::directory),
        ..SpawnRequest::plain(null.as_fd())
    };
    let made = spawn::spawn(&request).map_err(|error| error.to_string())?;
    made.gate.open().map_err(|error| format!("the probe's process ended at once: {error}"))?;
    Ok(Helper { pid: made.pid, pidfd: made.pidfd })
}

/// Kills what is left of a probe (its tree too) and forgets it.
fn end_exec(shell: &mut Shell, slot: u32) {
    let Some(mut probe) = shell.probes.running.remove(&slot) else { return };
    // ESRCH: it has ended.
    let _ = child::signal(probe.helper.pidfd.as_fd(), SIGKILL);
    shell.forget(probe.helper.pidfd.as_fd());
    let group = probe.group.take();
    if let Some(group) = &group
        && group.populated().unwrap_or(false)
        && let Err(error) = group.kill()
    {
        log::warn!("agent: cannot kill the group of an exec probe: {error}");
    }
    shell.bury(group);
    // Not dead yet: the SIGCHLD of its end reaps it.
    let _ = child::wait(probe.helper.pidfd.as_fd());
}
