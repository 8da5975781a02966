//! Live data in the place of a source: done by a short-lived child, because a path on a failing disk may never be looked up.

use std::ffi::OsString;
use std::io;

use super::copying;
use super::errand::Order;
use super::errands;
use super::hooks::{self, Purpose};
use super::key::Key;
use super::shell::Shell;
use crate::engine::copies::event::{CopyEvent, Direction, Move, Switch};
use crate::sys::binding;

/// The hidden command of the child; its one argument is the [`Switch`] in JSON.
pub const COMMAND: &str = "switch-data";
/// The part of its group's name.
const GROUP: &str = super::adopt::HOOK_GROUP;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("the order is not understood")]
    Order(#[source] serde_json::Error),
    #[error("cannot mount {live} over {at}{hint}")]
    Bind {
        live: String,
        at: String,
        hint: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot unmount {at}{hint}")]
    Unbind {
        at: String,
        hint: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot switch the link {at}")]
    Link {
        at: String,
        #[source]
        source: io::Error,
    },
}

/// Performs `CopyAction::Switch`; a failure to start is its answer.
pub(super) fn start(shell: &mut Shell, set: &str, switch: &Switch) {
    let id = switch.id;
    if let Err(error) = try_start(shell, set, switch) {
        answer(shell, set.to_owned(), id, Err(error));
    }
}

fn try_start(shell: &mut Shell, set: &str, switch: &Switch) -> Result<(), String> {
    let slot = shell.copying.hooks.slot()?;
    let text = serde_json::to_string(switch).map_err(|error| error.to_string())?;
    let argv = ["/proc/self/exe".to_owned(), COMMAND.to_owned(), text];
    let mut order = Order {
        kind: GROUP,
        slot,
        key: Key::Hook(slot),
        argv: &argv,
        environment: Vec::new(),
        user: None,
        no_new_privileges: false,
        capabilities: None,
        wall: None,
        cwd: "/".to_owned(),
        stdin: None,
        keeps_stderr: true,
    };
    let purpose = Purpose::Switch { set: set.to_owned(), id: switch.id };
    errands::start(shell, hooks::OF, purpose, &mut order, Some(Switch::TIMEOUT))
}

pub(super) fn answer(shell: &mut Shell, set: String, id: u64, result: Result<(), String>) {
    copying::tell(shell, CopyEvent::Switched { set, id, result });
}

/// What the child does: all of it, or nothing.
pub fn carry_out(words: &[OsString]) -> Result<(), SwitchError> {
    let text = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let switch: Switch = serde_json::from_str(&text).map_err(SwitchError::Order)?;
    for (done, one) in switch.moves.iter().enumerate() {
        if let Err(error) = apply(one, switch.direction) {
            let back = match switch.direction {
                Direction::Over => Direction::Back,
                Direction::Back => Direction::Over,
            };
            for before in switch.moves.iter().take(done) {
                // The first failure is what there is to tell.
                let _ = apply(before, back);
            }
            return Err(error);
        }
    }
    Ok(())
}

fn apply(one: &Move, direction: Direction) -> Result<(), SwitchError> {
    let Move { live, at, link_to } = one;
    let shown = at.display().to_string();
    match (link_to, direction) {
        (Some(own), Direction::Over) => {
            // A link to nothing would start the service with nothing.
            live.symlink_metadata()
                .and_then(|_| binding::relink(at, own, live))
                .map_err(|source| SwitchError::Link { at: shown, source })
        }
        (Some(own), Direction::Back) => {
            binding::relink(at, live, own).map_err(|source| SwitchError::Link { at: shown, source })
        }
        (None, Direction::Over) => binding::bind(live, at).map_err(|source| {
            let hint = match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    " (only root may; `failover: (link: ..)` switches a symbolic link instead)"
                }
                _ => "",
            };
            SwitchError::Bind { live: live.display().to_string(), at: shown, hint, source }
        }),
        (None, Direction::Back) => binding::unbind(live, at).map_err(|source| {
            let busy = source.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32);
            let hint = if busy { " (somebody still uses it: `fuser -vm` tells who)" } else { "" };
            SwitchError::Unbind { at: shown, hint, source }
        }),
    }
}
