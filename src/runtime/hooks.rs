//! Hooks of copies under way: commands that make whoever writes the data hold still, and let it go on. Children of the agent, since only it starts any.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::adopt::HOOK_GROUP;
use super::copying;
use super::errand::{self, Errand, Order};
use super::key::Key;
use super::shell::Shell;
use crate::engine::Engine;
use crate::engine::copies::event::{CopyEvent, Hook};
use crate::engine::plan::Role;
use crate::engine::types::{Time, human};
use crate::sys::memory_file;

/// One of each set.
const RUNNING_MAX: usize = Role::COPIES_MAX;
/// What is kept of a command's stderr, and what is told of it.
const STDERR_BYTES_MAX: u16 = 4 << 10;
const TOLD_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub struct Hooks {
    running: BTreeMap<u32, Running>,
    next_slot: u32,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { running: BTreeMap::new(), next_slot: errand::first_slot() }
    }
}

#[derive(Debug)]
struct Running {
    set: String,
    order: u64,
    hook: Hook,
    errand: Errand,
    stderr: Option<OwnedFd>,
    timeout: Duration,
    deadline: Time,
}

impl Hooks {
    /// When a command is to be killed at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.running.values().map(|running| running.deadline).min()
    }

    /// Whether a pid is a hook's (the reaper of orphans leaves it alone).
    #[must_use]
    pub fn is_main(&self, pid: i32) -> bool {
        self.running.values().any(|running| running.errand.pid() == pid)
    }
}

/// For which order.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub set: &'a str,
    pub order: u64,
    pub hook: Hook,
    pub timeout: Duration,
}

/// Performs `CopyAction::Hook`; a failure to start is its answer.
pub(super) fn start(shell: &mut Shell, engine: &Engine, asked: &Asked<'_>, command: &[String]) {
    if let Err(error) = try_start(shell, engine, asked, command) {
        answer(shell, asked.set, asked.order, asked.hook, Err(error));
    }
}

fn try_start(shell: &mut Shell, engine: &Engine, asked: &Asked<'_>, command: &[String]) -> Result<(), String> {
    if shell.copying.hooks.running.len() >= RUNNING_MAX {
        return Err(format!("{RUNNING_MAX} hooks are under way already"));
    }
    // Without it only what the command says is lost.
    let stderr = memory_file::taking(STDERR_BYTES_MAX).ok();
    let slot = shell.copying.hooks.next_slot;
    shell.copying.hooks.next_slot = (slot + 1) & errand::SLOT_MAX;
    let mut order = Order {
        kind: HOOK_GROUP,
        slot,
        key: Key::Hook(slot),
        argv: command,
        environment: environment(shell, engine, asked),
        user: None,
        no_new_privileges: false,
        capabilities: None,
        wall: None,
        cwd: "/".to_owned(),
        stdin: None,
        stderr: stderr.as_ref().map(AsFd::as_fd),
    };
    let errand = Errand::start(shell, &mut order)?;
    let (set, timeout) = (asked.set.to_owned(), asked.timeout);
    let deadline = super::now().mono.after(timeout);
    let running = Running { set, order: asked.order, hook: asked.hook, errand, stderr, timeout, deadline };
    shell.copying.hooks.running.insert(slot, running);
    Ok(())
}

fn environment(shell: &Shell, engine: &Engine, asked: &Asked<'_>) -> Vec<String> {
    let own = &shell.own_user;
    let phase = match asked.hook {
        Hook::Pre => "pre",
        Hook::Post => "post",
    };
    let target = engine.plan().copies.iter().find(|plan| plan.name == asked.set).map(|plan| plan.to.join(&plan.name));
    let target = target.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    [
        ("HOME", own.home.as_str()),
        ("USER", &own.name),
        ("LOGNAME", &own.name),
        ("SHELL", &own.shell),
        ("MAINSTAY_SET", asked.set),
        ("MAINSTAY_HOOK", phase),
        ("MAINSTAY_TARGET", &target),
    ]
    .iter()
    .map(|(name, value)| format!("{name}={value}"))
    .collect()
}

/// The pidfd of a command is readable.
pub(super) fn ended(shell: &mut Shell, slot: u32) {
    let Some(running) = shell.copying.hooks.running.get(&slot) else { return };
    let Some(result) = running.errand.result() else { return };
    finish(shell, slot, result);
}

/// Kills commands that have taken too long.
pub(super) fn expire(shell: &mut Shell, now: Time) {
    let running = &shell.copying.hooks.running;
    let late: Vec<(u32, Duration)> = running
        .iter()
        .filter(|(_, running)| running.deadline <= now)
        .map(|(slot, running)| (*slot, running.timeout))
        .collect();
    for (slot, timeout) in late {
        finish(shell, slot, Err(format!("no end within {}, killed", human(timeout))));
    }
}

/// The agent leaves: so do they.
pub(super) fn end_all(shell: &mut Shell) {
    for running in std::mem::take(&mut shell.copying.hooks.running).into_values() {
        running.errand.end(shell);
    }
}

fn finish(shell: &mut Shell, slot: u32, result: Result<(), String>) {
    let Some(running) = shell.copying.hooks.running.remove(&slot) else { return };
    let Running { set, order, hook, errand, stderr, .. } = running;
    errand.end(shell);
    let said = stderr.and_then(|stderr| memory_file::taken(stderr.as_fd(), STDERR_BYTES_MAX).ok()).unwrap_or_default();
    answer(shell, &set, order, hook, result.map_err(|why| errand::with_last_line(why, &said, TOLD_CHARS_MAX)));
}

fn answer(shell: &mut Shell, set: &str, order: u64, hook: Hook, result: Result<(), String>) {
    copying::tell(shell, CopyEvent::Hooked { set: set.to_owned(), order, hook, result });
}
