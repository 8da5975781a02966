//! What a signal to the agent means.

use super::serve::ReloadAsked;
use super::{Agent, End};
use crate::engine::action::Level;
use crate::engine::event::{Caller, Event};
use crate::engine::types::signal_name;

/// Signals of signal(7).
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

impl Agent {
    /// One of them: a second one makes the descriptor ready again.
    pub(super) fn read_signal(&mut self) {
        let signal = match self.signals.next() {
            Ok(Some(signal)) => signal,
            Ok(None) => return,
            Err(error) => return log::error!("agent: cannot read its signals: {error}"),
        };
        let caller = || Caller::Signal(signal_name(signal));
        match signal {
            SIGTERM | SIGINT => {
                self.systemd.stopping();
                self.shell.events.push_back(Event::Shutdown { caller: caller() });
            }
            SIGQUIT => self.end = Some(End::Left),
            SIGHUP => self.start_reload(ReloadAsked { connection: None, caller: caller(), dry_run: false }),
            SIGUSR2 => self.shell.events.push_back(Event::Remark {
                level: Level::Warn,
                text: "USR2: an upgrade in place is not built yet; nothing is done".to_owned(),
            }),
            SIGCHLD => self.orphans_wait = true,
            _ => {}
        }
    }
}
