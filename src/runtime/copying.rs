//! The roles of sets of copies: what is said to them, what they report, and the hooks that are run for them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;

use super::hooks::{self, Hooks};
use super::links::Importance;
use super::shell::Shell;
use super::switching;
use crate::copies::role::proto::{FromCopies, MESSAGE_BYTES_MAX, ToCopies};
use crate::engine::Engine;
use crate::engine::copies::event::{CopyAction, CopyEvent};
use crate::engine::event::Event;
use crate::engine::plan::Role;
use crate::engine::types::{ReplicaId, RunId};

/// What the shell keeps of copies.
#[derive(Debug)]
pub struct Copying {
    pub hooks: Hooks,
    /// Of a message that comes in pieces.
    pieces: BTreeMap<Role, String>,
}

impl Default for Copying {
    fn default() -> Self {
        Self { hooks: hooks::none(), pieces: BTreeMap::new() }
    }
}

/// Everything the role of a set must know.
pub(super) fn greet(shell: &mut Shell, engine: &Engine, role: Role) {
    let Some(plan) = engine.plan().copies.iter().find(|plan| Role::of_copies(&plan.name) == role) else { return };
    shell.link(role).send(&ToCopies::Plan { plan: Box::new(plan.clone()) }, Importance::Current);
    tell(shell, CopyEvent::Linked { set: plan.name.clone() });
}

/// Its connection has ended.
pub(super) fn lost(shell: &mut Shell, role: Role) {
    shell.copying.pieces.remove(&role);
    if let Some(set) = set_of(shell, role) {
        tell(shell, CopyEvent::Unlinked { set });
    }
}

/// What it says.
pub(super) fn heard(shell: &mut Shell, role: Role, message: FromCopies) {
    let Some(set) = set_of(shell, role) else { return };
    match message {
        FromCopies::Hello { running: Some(order), .. } => tell(shell, CopyEvent::Running { set, order }),
        FromCopies::Hello { running: None, .. } => {}
        FromCopies::Report { report } => tell(shell, CopyEvent::Report { set, report }),
        FromCopies::Piece { text, last } => {
            if let Some(report) = whole(shell, role, &text, last) {
                tell(shell, CopyEvent::Report { set, report });
            }
        }
    }
}

/// The message, when its last piece has come.
fn whole(shell: &mut Shell, role: Role, text: &str, last: bool) -> Option<crate::engine::copies::order::Report> {
    let pieces = &mut shell.copying.pieces;
    let so_far = pieces.entry(role).or_default();
    if so_far.len() + text.len() > MESSAGE_BYTES_MAX {
        log::error!("agent: a message of the role of copies is longer than {MESSAGE_BYTES_MAX} bytes, and is dropped");
        // What follows of it is no JSON.
        so_far.clear();
    }
    so_far.push_str(text);
    if !last {
        return None;
    }
    match serde_json::from_str(&pieces.remove(&role)?) {
        Ok(FromCopies::Report { report }) => Some(report),
        Ok(FromCopies::Hello { .. } | FromCopies::Piece { .. }) | Err(_) => None,
    }
}

/// Performs `Action::Copy`.
pub(super) fn perform(shell: &mut Shell, engine: &Engine, set: &str, action: CopyAction) {
    let role = Role::of_copies(set);
    let message = match action {
        CopyAction::Plan(plan) => ToCopies::Plan { plan },
        CopyAction::Order(order) => ToCopies::Order { order },
        CopyAction::Cancel { order } => ToCopies::Cancel { order },
        CopyAction::NotQuiesced { order, why } => ToCopies::NotQuiesced { order, why },
        CopyAction::Resumed { order } => ToCopies::Resumed { order },
        CopyAction::Keep { order } => ToCopies::Keep { order },
        CopyAction::Quiesced { order, frozen, max } => {
            let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
            let groups = frozen.iter().filter_map(|(replica, run)| freezer_of(shell, *replica, *run)).collect();
            let message = ToCopies::Quiesced { order, max_ms };
            return shell.link(role).send_with(&message, groups, Importance::Current);
        }
        CopyAction::Switch(switch) => return switching::start(shell, set, &switch),
        CopyAction::Hook { order, hook, command, timeout } => {
            return hooks::start(shell, engine, &hooks::Asked { set, order, hook, timeout }, &command);
        }
    };
    shell.link(role).send(&message, Importance::Current);
}

/// The `cgroup.freeze` of a run, with which its role thaws what this agent may not live to thaw. `None`: it has no group, or has ended.
fn freezer_of(shell: &mut Shell, replica: ReplicaId, run: RunId) -> Option<OwnedFd> {
    let live = shell.stations.get_mut(&replica)?.live_run(run)?;
    let path = live.group.as_ref()?.path()?.join("cgroup.freeze");
    match OpenOptions::new().write(true).open(&path) {
        Ok(file) => Some(file.into()),
        Err(error) => {
            log::warn!("agent: cannot open {}: {error}; only the agent can thaw it", path.display());
            None
        }
    }
}

/// The set whose role this is.
fn set_of(shell: &Shell, role: Role) -> Option<String> {
    let mut sets = shell.stations.values().filter_map(|station| Role::set_of_service(&station.service));
    sets.find(|set| Role::of_copies(set) == role).map(str::to_owned)
}

pub(super) fn tell(shell: &mut Shell, event: CopyEvent) {
    shell.events.push_back(Event::Copies(Box::new(event)));
}
