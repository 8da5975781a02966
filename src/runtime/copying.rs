//! The roles of sets of copies: what is said to them, and what they report.

use super::links::Importance;
use super::shell::Shell;
use crate::copies::proto::{FromCopies, ToCopies};
use crate::engine::Engine;
use crate::engine::copies::event::{CopyAction, CopyEvent};
use crate::engine::event::Event;
use crate::engine::plan::Role;

/// Everything the role of a set must know.
pub(super) fn greet(shell: &mut Shell, engine: &Engine, role: Role) {
    let Some(plan) = engine.plan().copies.iter().find(|plan| Role::of_copies(&plan.name) == role) else { return };
    shell.link(role).send(&ToCopies::Plan { plan: Box::new(plan.clone()) }, Importance::Current);
    tell(shell, CopyEvent::Linked { set: plan.name.clone() });
}

/// Its connection has ended.
pub(super) fn lost(shell: &mut Shell, role: Role) {
    if let Some(set) = set_of(shell, role) {
        tell(shell, CopyEvent::Unlinked { set });
    }
}

/// What it says.
pub(super) fn heard(shell: &mut Shell, role: Role, message: FromCopies) {
    let Some(set) = set_of(shell, role) else { return };
    match message {
        FromCopies::Hello { .. } => {}
        FromCopies::Report { report } => tell(shell, CopyEvent::Report { set, report }),
    }
}

/// Performs `Action::Copy`.
pub(super) fn perform(shell: &mut Shell, set: &str, action: CopyAction) {
    let message = match action {
        CopyAction::Plan(plan) => ToCopies::Plan { plan },
        CopyAction::Order(order) => ToCopies::Order { order },
        CopyAction::Cancel { order } => ToCopies::Cancel { order },
        CopyAction::NotQuiesced { order, why } => ToCopies::NotQuiesced { order, why },
        CopyAction::Resumed { order } => ToCopies::Resumed { order },
        CopyAction::Quiesced { .. } | CopyAction::Hook { .. } => return,
    };
    shell.link(Role::of_copies(set)).send(&message, Importance::Current);
}

/// The set whose role this is.
fn set_of(shell: &Shell, role: Role) -> Option<String> {
    let mut sets = shell.stations.values().filter_map(|station| station.service.strip_prefix("@copy."));
    sets.find(|set| Role::of_copies(set) == role).map(str::to_owned)
}

fn tell(shell: &mut Shell, event: CopyEvent) {
    shell.events.push_back(Event::Copies(Box::new(event)));
}
