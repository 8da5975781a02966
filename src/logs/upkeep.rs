//! What the reader does at the end of each turn, whatever woke it: reports, deadlines, and whether pipes are read.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::log_writer::AGENT_SLOT;
use super::proto::FromLogs;
use super::reports::Report;
use super::role::{JOURNAL_SLOT, Key, Role};
use super::streams::{Moment, StreamState};
use crate::sys::epoll::Interest;

const LOSSES_EVERY: Duration = Duration::from_secs(1);

impl Role {
    /// What is due whatever woke us.
    pub(super) fn finish_turn(&mut self, now: Moment) {
        for report in self.reports.take() {
            self.take_report(report, now);
        }
        self.judge_flow(now.instant);
        if self.accept_at.is_some_and(|at| at <= now.instant) {
            self.accept_at = None;
            self.out.agents.listen_for(Interest::READ);
        }
        self.report_guards(now);
        self.report_losses(now.instant);
        self.tell_forsaken(now.instant);
        self.out.clients.expire(now.instant);
        self.out.clients.flush_all();
        if self.out.clients.take_left() {
            self.streams.note_followers(&self.out.clients);
        }
        self.answer_hello(now.instant);
        self.out.agents.flush(&self.keeper);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let guards = self.guarded.iter().filter_map(|slot| self.streams.get(*slot)?.guard_report_ms()).min();
        let guards = guards.map(|ms| self.begun + Duration::from_millis(ms));
        let clients = self.out.clients.deadline();
        let ours = [self.flow.deadline(), self.losses_at, self.accept_at, self.hello_until, self.quit_until];
        ours.into_iter().chain([guards, clients]).flatten().min()
    }

    fn take_report(&mut self, report: Report, now: Moment) {
        match report {
            Report::Lost { slot, lines, reason } => *self.out.losses.entry((slot, reason)).or_default() += lines,
            Report::Trouble(text) => self.trouble(text),
            Report::LastSeq(seq) => self.last_seq = Some(self.last_seq.unwrap_or(0).max(seq)),
            Report::Persisted { decision, error } => self.out.agents.send(FromLogs::Persisted { decision, error }),
            Report::Ends { client, ends } => self.tell_past(client, &ends),
            Report::Told { client, alive } => self.out.clients.past_told(client, alive),
            Report::Left => self.writers -= 1,
        }
        self.judge_flow(now.instant);
    }

    /// The journal tells where its numbers go on; when its disk does not answer, the agent must begin without.
    fn answer_hello(&mut self, now: Instant) {
        let Some(until) = self.hello_until else { return };
        if self.last_seq.is_none() && now < until {
            return;
        }
        self.hello_until = None;
        if self.out.agents.waits_for_hello() {
            let pid = i32::try_from(std::process::id()).unwrap_or(0);
            self.out.agents.greet(FromLogs::Hello { pid, last_seq: self.last_seq.unwrap_or(0) });
        }
        if self.last_seq.is_none() {
            let text = format!(
                "the disk of {} does not answer: the journal's last number is unknown",
                self.state_dir.display()
            );
            self.trouble(text);
        }
    }

    fn judge_flow(&mut self, now: Instant) {
        if self.flow.is_open() {
            return;
        }
        let (weight, taken) = self.out.queue.fill();
        if self.flow.judge(weight, taken, now) {
            let mut lame = Vec::new();
            for slot in std::mem::take(&mut self.flow.masked) {
                let Some(pipe) = self.streams.get(slot).and_then(|state| state.pipe.as_ref()) else { continue };
                if let Err(error) = self.epoll.modify(pipe.as_fd(), Key::Pipe(slot).into(), Interest::READ) {
                    lame.push(format!("cannot watch a log pipe again: {error}"));
                }
            }
            for text in lame {
                self.trouble(text);
            }
        }
        let directory = self.log_dir.display();
        if self.out.dropped_for_disk && !self.slow_told {
            self.slow_told = true;
            let text =
                format!("log directory {directory} does not keep up: the oldest waiting lines are dropped and counted");
            self.trouble(text);
        } else if self.slow_told && self.flow.is_open() {
            (self.slow_told, self.out.dropped_for_disk) = (false, false);
            let text = format!("log directory {directory} keeps up again");
            self.trouble(text);
        }
    }

    fn report_guards(&mut self, now: Moment) {
        let due = |slot: &&u32| {
            let at = self.streams.get(**slot).and_then(StreamState::guard_report_ms);
            at.is_none_or(|at| at <= now.mono_ms)
        };
        let slots: Vec<u32> = self.guarded.iter().filter(due).copied().collect();
        for slot in slots {
            if let Some(state) = self.streams.get_mut(slot) {
                state.report_guard(now, &mut self.out);
            }
            self.guarded.remove(&slot);
        }
    }

    fn report_losses(&mut self, now: Instant) {
        if self.out.losses.is_empty() {
            return;
        }
        let at = *self.losses_at.get_or_insert(now + LOSSES_EVERY);
        if now < at {
            return;
        }
        self.losses_at = None;
        for ((slot, reason), lines) in std::mem::take(&mut self.out.losses) {
            match self.streams.get(slot) {
                Some(state) => {
                    let stream = (*state.stream).clone();
                    self.out.agents.send(FromLogs::Dropped { stream, lines, reason });
                }
                None if slot == JOURNAL_SLOT => self.trouble(format!("{lines} journal entries dropped ({reason})")),
                None if slot == AGENT_SLOT => {
                    self.trouble(format!("{lines} lines of the agent's own log dropped ({reason})"))
                }
                None => {}
            }
        }
    }
}
