//! Hooks of copies under way: commands that make whoever writes the data hold still, and let it go on. Children of the agent, since only it starts any.

use std::time::Duration;

use super::adopt::HOOK_GROUP;
use super::copying;
use super::errand::Order;
use super::errands::{self, Errands};
use super::key::Key;
use super::shell::Shell;
use super::switching;
use crate::engine::Engine;
use crate::engine::copies::event::{CopyEvent, Hook};
use crate::engine::plan::Role;
use crate::engine::types::Time;

/// A command and a switch of each set.
const RUNNING_MAX: usize = 2 * Role::COPIES_MAX;

pub(super) type Hooks = Errands<Purpose>;

pub(super) fn none() -> Hooks {
    Errands::new("hooks", RUNNING_MAX)
}

/// What a child is for.
#[derive(Debug)]
pub enum Purpose {
    Hook {
        set: String,
        order: u64,
        hook: Hook,
    },
    /// See [`switching`].
    Switch {
        set: String,
        id: u64,
    },
}

pub(super) const OF: errands::Of<Purpose> = |shell| &mut shell.copying.hooks;

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
    let slot = shell.copying.hooks.slot()?;
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
        keeps_stderr: true,
    };
    let purpose = Purpose::Hook { set: asked.set.to_owned(), order: asked.order, hook: asked.hook };
    errands::start(shell, OF, purpose, &mut order, Some(asked.timeout))
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
    if let Some((purpose, result)) = errands::ended(shell, OF, slot) {
        has_ended(shell, purpose, result);
    }
}

/// Kills commands that have taken too long.
pub(super) fn expire(shell: &mut Shell, now: Time) {
    for (purpose, result) in errands::expire(shell, OF, now) {
        has_ended(shell, purpose, result);
    }
}

fn has_ended(shell: &mut Shell, purpose: Purpose, result: Result<(), String>) {
    match purpose {
        Purpose::Hook { set, order, hook } => answer(shell, &set, order, hook, result),
        Purpose::Switch { set, id } => switching::answer(shell, set, id, result),
    }
}

/// The agent leaves: so do they.
pub(super) fn end_all(shell: &mut Shell) {
    errands::end_all(shell, OF);
}

fn answer(shell: &mut Shell, set: &str, order: u64, hook: Hook, result: Result<(), String>) {
    copying::tell(shell, CopyEvent::Hooked { set: set.to_owned(), order, hook, result });
}
