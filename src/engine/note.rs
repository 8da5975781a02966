//! The words of a note: one sentence for the log line, the journal and `why`, and one word for the journal's `type`.

use std::fmt::Write;
use std::time::Duration;

use super::action::{Effect, Level, Next, Note, NoteKind, Subject};
use super::event::{Caller, Remaining, Verb};
use super::fence::plan::FenceLevel;
use super::types::human;

impl Note {
    /// Object first, cause with it: `service api/2: exited with code 1 after 3s, restart 2 of 10 in 800ms`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let text = self.kind.text();
        match &self.subject {
            Some(subject) => format!("service {}: {text}", subject.label()),
            None => format!("agent: {text}"),
        }
    }

    /// The journal's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.kind.word()
    }
}

impl Subject {
    /// `api`, or `api/2` where the service has several replicas.
    #[must_use]
    pub fn label(&self) -> String {
        match self.replica {
            Some(index) => format!("{}/{index}", self.service),
            None => self.service.clone(),
        }
    }
}

impl Level {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl NoteKind {
    /// The journal's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Ready { .. } => "ready",
            Self::Ended { .. } => "ended",
            Self::StartFailed { .. } => "start_failed",
            Self::NotReadyInTime { .. } => "not_ready_in_time",
            Self::Degraded { .. } => "degraded",
            Self::Recovered { .. } => "recovered",
            Self::NotAlive { .. } => "not_alive",
            Self::WatchdogMissed { .. } => "watchdog_missed",
            Self::WatchdogTriggered => "watchdog_triggered",
            Self::Stopping { .. } => "stopping",
            Self::KillingTree { .. } => "killing_tree",
            Self::Stopped { .. } => "stopped",
            Self::Balance(note) => note.word(),
            Self::Host(note) => note.word(),
            Self::Fence(note) => note.word(),
            Self::Copy(note) => note.what.word(),
            Self::Done { .. } => "done",
            Self::Stuck { .. } => "stuck",
            Self::Unstuck { .. } => "unstuck",
            Self::Waiting { .. } => "waiting",
            Self::BudgetSpent { .. } => "budget_spent",
            Self::HalfOpen { .. } => "half_open",
            Self::BudgetRefilled => "budget_refilled",
            Self::Adopted { .. } => "adopted",
            Self::EndedUnseen { .. } => "ended_unseen",
            Self::Status { .. } => "status",
            Self::LastLines { .. } => "last_lines",
            Self::LinesDropped { .. } => "lines_dropped",
            Self::Commanded { .. } => "commanded",
            Self::Reloaded { .. } => "reloaded",
            Self::ReloadRefused { .. } => "reload_refused",
            Self::Removed => "removed",
            Self::ShuttingDown { .. } => "shutting_down",
            Self::ShutDown { .. } => "shut_down",
            Self::Stalled { .. } => "stalled",
            Self::NotPersisted { .. } => "not_persisted",
            Self::Remark { .. } => "remark",
        }
    }

    /// What follows `service NAME: `.
    /// The sentence without its object.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Started { run, pid } => format!("started, run {}, pid {pid}", run.0),
            Self::Ready { took, .. } => format!("ready after {}", human(*took)),
            Self::Ended { exit, oom, after, next, .. } => {
                let oom = if *oom { " (out of memory)" } else { "" };
                format!("{exit}{oom} after {}, {}", human(*after), next.text())
            }
            Self::StartFailed { why, next, .. } => format!("could not be started: {why}; {}", next.text()),
            Self::NotReadyInTime { after, last_answer, .. } => match last_answer {
                Some(answer) => format!("not ready within {}: {answer}; stopping it", human(*after)),
                None => format!("not ready within {}; stopping it", human(*after)),
            },
            Self::Degraded { failures, fall, answer } => format!("alive probe {failures} of {fall} failed: {answer}"),
            Self::Recovered { successes } => format!("ready again after {successes} good alive probes"),
            Self::NotAlive { failures, answer } => {
                format!("not alive, {failures} probes failed: {answer}; aborting it")
            }
            Self::WatchdogMissed { after } => format!("no WATCHDOG=1 for {}; aborting it", human(*after)),
            Self::WatchdogTriggered => "asked for a watchdog restart (WATCHDOG=trigger); aborting it".to_owned(),
            Self::Stopping { why, .. } => format!("stopping: {why}"),
            Self::KillingTree { remaining, why, .. } => match remaining {
                0 => format!("killing its processes: {why}"),
                1 => format!("killing 1 process left in its tree: {why}"),
                _ => format!("killing {remaining} processes left in its tree: {why}"),
            },
            Self::Stopped { .. } => "stopped".to_owned(),
            Self::Done { .. } => "done".to_owned(),
            Self::Stuck { processes, .. } => format!("stuck: {}; no second copy is started", remaining_text(processes)),
            Self::Unstuck { .. } => "no longer stuck, its last process is gone".to_owned(),
            Self::Waiting { on } => format!("waiting for {}", on.join(", ")),
            Self::BudgetSpent { failures, within, next_try } => {
                let then = match next_try {
                    // True for as long as it is read, as of a time that passes nothing is.
                    Some(wait) => format!("held for {}", human(*wait)),
                    None => "only an operator starts it again".to_owned(),
                };
                format!("restart budget spent, {failures} failures within {}; {then}", human(*within))
            }
            Self::HalfOpen { held } => format!("trying once more after a hold of {}", human(*held)),
            Self::BudgetRefilled => "has been ready long enough, its restart budget is full again".to_owned(),
            Self::Adopted { run, pid, state } => format!("adopted while {state}, run {}, pid {pid}", run.0),
            Self::EndedUnseen { exit, next, .. } => format!("{exit} while no agent lived, {}", next.text()),
            Self::Status { text } => format!("says: {text}"),
            Self::LastLines { lines, .. } => format!("its last lines: {}", lines.join(" | ")),
            Self::Balance(note) => note.text(),
            Self::Host(note) => note.text(),
            Self::Fence(note) => note.text(),
            Self::Copy(note) => note.text(),
            Self::LinesDropped { .. }
            | Self::Commanded { .. }
            | Self::Reloaded { .. }
            | Self::ReloadRefused { .. }
            | Self::Removed
            | Self::ShuttingDown { .. }
            | Self::ShutDown { .. }
            | Self::Stalled { .. }
            | Self::NotPersisted { .. }
            | Self::Remark { .. } => self.agent_text(),
        }
    }

    /// The same for what concerns the agent, its orders and its surroundings.
    fn agent_text(&self) -> String {
        match self {
            Self::LinesDropped { lines, reason } => format!("{lines} lines of output dropped: {reason}"),
            Self::Commanded { verb, caller } => format!("{} asked for by {}", verb.word(), caller.text()),
            Self::Reloaded { changes, caller } => {
                let mut text = format!("configuration reloaded, asked for by {}", caller.text());
                for change in changes.iter().filter(|change| change.effect != Effect::Unchanged) {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "; {} {}: {}", change.effect.word(), change.service, change.why);
                }
                text
            }
            Self::ReloadRefused { why } => format!("reload refused: {why}"),
            Self::Removed => "left the configuration and is gone".to_owned(),
            Self::ShuttingDown { caller, services } => {
                format!("shutting down, asked for by {}; {services} replicas to stop", caller.text())
            }
            Self::ShutDown { remaining: 0 } => "everything is stopped".to_owned(),
            Self::ShutDown { remaining } => format!("leaving although {remaining} replicas could not be stopped"),
            Self::Stalled { by, suspended: true } => format!("the host slept for {}; deadlines kept", human(*by)),
            Self::Stalled { by, suspended: false } => format!("stood still for {}; deadlines extended", human(*by)),
            Self::NotPersisted { why } => format!("the decision is not on disk: {why}; it holds until the next boot"),
            Self::Remark { text } => text.clone(),
            Self::Started { .. }
            | Self::Ready { .. }
            | Self::Ended { .. }
            | Self::StartFailed { .. }
            | Self::NotReadyInTime { .. }
            | Self::Degraded { .. }
            | Self::Recovered { .. }
            | Self::NotAlive { .. }
            | Self::WatchdogMissed { .. }
            | Self::WatchdogTriggered
            | Self::Stopping { .. }
            | Self::KillingTree { .. }
            | Self::Stopped { .. }
            | Self::Balance(_)
            | Self::Host(_)
            | Self::Fence(_)
            | Self::Copy(_)
            | Self::Done { .. }
            | Self::Stuck { .. }
            | Self::Unstuck { .. }
            | Self::Waiting { .. }
            | Self::BudgetSpent { .. }
            | Self::HalfOpen { .. }
            | Self::BudgetRefilled
            | Self::Adopted { .. }
            | Self::EndedUnseen { .. }
            | Self::Status { .. }
            | Self::LastLines { .. } => self.text(),
        }
    }
}

impl Next {
    /// The sentence without its object.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Restart { in_, attempt, of } => {
                let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
                if *in_ == Duration::ZERO {
                    format!("restart {attempt}{of} at once")
                } else {
                    format!("restart {attempt}{of} in {}", human(*in_))
                }
            }
            Self::Nothing { why } => why.clone(),
            Self::Hold { until_next_try: Some(wait) } => format!("restart budget spent, next try in {}", human(*wait)),
            Self::Hold { until_next_try: None } => "restart budget spent, only an operator starts it again".to_owned(),
            Self::StartAgain => "to be started again".to_owned(),
        }
    }
}

impl Verb {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::RestartRolling => "restart",
            Self::RestartAtOnce => "restart of all at once",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Fence(FenceLevel::Throttle) => "fence (throttle)",
            Self::Fence(FenceLevel::Freeze) => "fence (freeze)",
            Self::Fence(FenceLevel::Kill) => "fence (kill)",
            Self::Fence(FenceLevel::Hold) => "fence (hold)",
            Self::Unfence => "unfence",
        }
    }
}

impl Caller {
    /// The sentence without its object.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Api { uid, pid, comm } => format!("uid {uid} ({comm}, pid {pid})"),
            Self::Signal(name) => name.clone(),
            Self::Agent => "the agent".to_owned(),
        }
    }
}

impl Effect {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Live => "live",
            Self::Unchanged => "unchanged",
        }
    }
}

/// `pid 17 (postgres) in state D at nfs_wait`, for as many as a reader can take in.
pub(super) fn remaining_text(processes: &[Remaining]) -> String {
    const SHOWN_MAX: usize = 4;
    if processes.is_empty() {
        return "killed, but its tree is not empty".to_owned();
    }
    let mut parts: Vec<String> = processes
        .iter()
        .take(SHOWN_MAX)
        .map(|process| {
            let at = if process.wchan.is_empty() { String::new() } else { format!(" at {}", process.wchan) };
            format!("pid {} ({}) in state {}{at}", process.pid, process.comm, process.state)
        })
        .collect();
    if processes.len() > SHOWN_MAX {
        parts.push(format!("{} more", processes.len() - SHOWN_MAX));
    }
    format!("killed, but not gone: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::types::{Exit, RunId};

    fn sentence(replica: Option<u16>, kind: NoteKind) -> String {
        Note { level: Level::Info, subject: Some(Subject { service: "api".into(), replica }), kind }.sentence()
    }

    #[test]
    fn a_sentence_names_the_object_the_cause_and_what_follows() {
        let ended = |exit, next| NoteKind::Ended {
            run: RunId(3),
            exit,
            oom: false,
            after: Duration::from_secs(3),
            requested: false,
            next,
        };
        let again = Next::Restart { in_: Duration::from_millis(800), attempt: 2, of: Some(10) };
        assert_eq!(
            sentence(Some(2), ended(Exit::Code(1), again)),
            "service api/2: exited with code 1 after 3s, restart 2 of 10 in 800ms"
        );
        let held = Next::Hold { until_next_try: None };
        assert_eq!(
            sentence(None, ended(Exit::Signal { signal: 11, core: true }, held)),
            "service api: killed by SIGSEGV (core dumped) after 3s, restart budget spent, only an operator starts it again"
        );
    }

    #[test]
    fn what_remains_is_named_with_its_kernel_function() {
        let processes = vec![Remaining {
            pid: 17,
            comm: "postgres".into(),
            state: 'D',
            wchan: "nfs_wait".into(),
            devices: Vec::new(),
        }];
        assert_eq!(
            sentence(None, NoteKind::Stuck { run: RunId(1), processes }),
            "service api: stuck: killed, but not gone: pid 17 (postgres) in state D at nfs_wait; no second copy is started"
        );
    }
}
