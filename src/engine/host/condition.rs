//! The state of one check, from what each reading says.
//!
//! A reading says two things: what it would enter (`enter`) and what it would not yet leave (`hold`, never better than `enter`). Between the
//! two thresholds nothing changes. Worse is entered after `fall` readings in a row, better after `rise` of them and not before the bad
//! state has lasted its least time. A latch is worse at once and holds until it expires or is released.
//!
//! A check that goes back and forth is pinned to the worst it was, until it has been quiet.
//!
//! Without readings nothing is known: what was good is unknown. What was bad stays bad, as silence is no recovery.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Health;
use super::rules::Rule;
use crate::engine::types::{Now, Time, human};

/// So many changes within this time are flapping; quiet for as long, it has settled.
pub(super) const FLAP_CHANGES: usize = 4;
pub(super) const FLAP_WITHIN: Duration = Duration::from_secs(600);

/// What one reading says of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Verdict {
    pub value: Option<i64>,
    pub enter: Health,
    pub hold: Health,
    /// One sentence with numbers.
    pub why: String,
}

impl Verdict {
    /// The same in both directions.
    pub(super) fn plain(level: Health, value: Option<i64>, why: String) -> Self {
        Self { value, enter: level, hold: level, why }
    }

    pub(super) fn absent(why: &str) -> Self {
        Self::plain(Health::Absent, None, why.to_owned())
    }

    pub(super) fn unknown(why: String) -> Self {
        Self::plain(Health::Unknown, None, why)
    }
}

/// Bad, whatever the next readings say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Latch {
    pub level: Health,
    /// `None`: until it is released (remounted, counted anew).
    pub until: Option<Time>,
    pub why: String,
}

/// The state of a check and all that decides about the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is shown.
    pub(super) state: Health,
    pub(super) since: Time,
    pub(super) since_wall: Time,
    pub(super) why: String,
    /// What it would be if it were not pinned.
    settled: Health,
    /// When a reading last agreed with a bad `settled`, or it began.
    bad_since: Time,
    pub(super) latch: Option<Latch>,
    /// When `settled` changed between ok, degraded and failing, and to what it was worse; of the latest ten minutes.
    changes: Vec<(Time, Health)>,
    /// The state it is pinned to.
    pub(super) pin: Option<Health>,
    /// Its absence has been told.
    pub(super) told_absent: bool,
    /// It has been ok, degraded or failing before.
    pub(super) known: bool,
    // Confirmation begins anew with the agent.
    #[serde(skip_serializing_if = "Run::is_none", default)]
    run: Run,
}

/// Readings in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    bad: u32,
    failing: u32,
    good: u32,
    /// The worst of the good ones.
    best: Health,
}

impl Run {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Turn {
    /// From and to, as shown.
    pub changed: Option<(Health, Health)>,
    /// It is pinned since now, after so many changes.
    pub flapping: Option<u32>,
    /// It is pinned no more.
    pub calmed: bool,
    /// It is absent, which has not been told.
    pub absent: bool,
    /// A latch or a history is to be kept, although nothing is shown.
    pub kept: bool,
    /// It was neither ok nor degraded nor failing before.
    pub first: bool,
}

impl Condition {
    pub(super) fn is_bad(&self) -> bool {
        self.state >= Health::Degraded
    }

    /// Whether the latest reading was as bad as what is shown: it is neither pinned nor about to be better.
    pub(super) fn is_as_shown(&self) -> bool {
        self.settled == self.state && self.run.good == 0
    }

    /// Whether this reading would be believed at once.
    pub(super) fn turns_at_once(&self, rule: &Rule, verdict: &Verdict) -> bool {
        let fall = if verdict.enter == Health::Failing { rule.fall_failing } else { rule.fall };
        verdict.enter > self.settled && verdict.enter >= Health::Degraded && fall == 1
    }

    /// A reading has come.
    pub(super) fn judge(&mut self, rule: &Rule, verdict: Verdict, now: Now) -> Turn {
        let verdict = self.latched(verdict, now.mono);
        match verdict.enter {
            Health::Absent => self.become_absent(verdict.why, now),
            Health::Unknown => self.overdue(&verdict.why, now),
            Health::Ok | Health::Degraded | Health::Failing => self.weigh(rule, verdict, now),
        }
    }

    /// Something bad that no later reading can take back.
    pub(super) fn latch(&mut self, latch: Latch, now: Now) -> Turn {
        let longer = |old: &Latch| match (old.until, latch.until) {
            (Some(old), Some(new)) => new > old,
            (Some(_), None) => true,
            (None, Some(_) | None) => false,
        };
        let active = self.latch.as_ref().filter(|old| old.until.is_none_or(|until| until > now.mono));
        let takes = active.is_none_or(|old| latch.level > old.level || (latch.level == old.level && longer(old)));
        let (level, why) = (latch.level, latch.why.clone());
        if takes {
            self.latch = Some(latch);
        }
        let mut turn = if level > self.settled { self.turn(level, why, now) } else { Turn::default() };
        if level == self.settled {
            self.bad_since = now.mono;
        }
        turn.kept |= takes;
        turn
    }

    /// Its cause is gone (a file system was checked, mounted again).
    pub(super) fn release(&mut self) -> Turn {
        Turn { kept: self.latch.take().is_some(), ..Turn::default() }
    }

    /// What it was bad of is not there any more; what is there now is believed as soon as enough readings agree.
    pub(super) fn release_at_once(&mut self) -> Turn {
        self.bad_since = Time::default();
        self.run = Run::default();
        Turn { kept: true, ..self.release() }
    }

    /// No reading came by its deadline. Silence is no recovery.
    pub(super) fn overdue(&mut self, why: &str, now: Now) -> Turn {
        self.run = Run::default();
        if self.settled >= Health::Degraded || self.state == Health::Unknown {
            if self.state == Health::Unknown {
                why.clone_into(&mut self.why);
            }
            return Turn::default();
        }
        self.turn(Health::Unknown, why.to_owned(), now)
    }

    /// This host cannot tell.
    pub(super) fn become_absent(&mut self, why: String, now: Now) -> Turn {
        self.run = Run::default();
        self.latch = None;
        if self.state == Health::Absent {
            self.why = why;
            return Turn::default();
        }
        let kept = self.pin.take().is_some();
        self.changes.clear();
        let mut turn = self.turn(Health::Absent, why, now);
        turn.absent = !std::mem::replace(&mut self.told_absent, true);
        turn.kept |= kept;
        turn
    }

    /// Confirmation does not bridge a gap.
    pub(super) fn interrupt(&mut self) {
        self.run = Run::default();
    }

    fn latched(&mut self, mut verdict: Verdict, now: Time) -> Verdict {
        let Some(latch) = &self.latch else {
            return verdict;
        };
        if latch.until.is_some_and(|until| until <= now) {
            self.latch = None;
            return verdict;
        }
        if verdict.enter != Health::Absent {
            if latch.level >= verdict.enter {
                latch.why.clone_into(&mut verdict.why);
            }
            verdict.enter = verdict.enter.max(latch.level);
            verdict.hold = verdict.hold.max(latch.level);
        }
        verdict
    }

    fn weigh(&mut self, rule: &Rule, verdict: Verdict, now: Now) -> Turn {
        let hold = verdict.hold.max(verdict.enter);
        let was_bad = self.settled >= Health::Degraded;
        self.run.bad = if verdict.enter >= Health::Degraded { self.run.bad.saturating_add(1) } else { 0 };
        self.run.failing = if verdict.enter == Health::Failing { self.run.failing.saturating_add(1) } else { 0 };
        let latched = self.latch.as_ref().map_or(Health::Absent, |latch| latch.level);
        let worse = if self.run.failing >= rule.fall_failing {
            Health::Failing
        } else if self.run.bad >= rule.fall {
            Health::Degraded
        } else {
            Health::Absent
        };
        let worse = worse.max(latched);
        if worse > self.settled && worse >= Health::Degraded {
            self.run.good = 0;
            let why = verdict.why;
            return self.turn(worse, why, now);
        }
        if !was_bad {
            // Between the thresholds, or not yet confirmed: neither is a reason to call it ok for the first time.
            if self.settled != Health::Ok && verdict.enter == Health::Ok {
                return self.turn(Health::Ok, verdict.why, now);
            }
            if self.state == Health::Unknown {
                self.why = format!("{}: not for long enough to tell", verdict.why);
            }
            return self.calm(now);
        }
        if hold >= self.settled {
            self.run.good = 0;
            self.why = verdict.why;
            return self.calm(now);
        }
        self.run.best = if self.run.good == 0 { hold } else { self.run.best.max(hold) };
        self.run.good = self.run.good.saturating_add(1);
        let lasted = now.mono.since(self.bad_since) >= rule.hold;
        if self.run.good >= rule.rise && lasted {
            let better = self.run.best;
            self.run.good = 0;
            return self.turn(better, verdict.why, now);
        }
        self.calm(now)
    }

    /// Another state, whose change counts; what is shown follows unless it is pinned.
    fn turn(&mut self, to: Health, why: String, now: Now) -> Turn {
        let mut turn = Turn { kept: true, first: !self.known, ..Turn::default() };
        let from = std::mem::replace(&mut self.settled, to);
        self.bad_since = now.mono;
        self.known |= to >= Health::Ok;
        if from >= Health::Ok && to >= Health::Ok {
            self.changes.push((now.mono, from.max(to)));
        }
        self.forget_changes(now.mono);
        if self.pin.is_none() && self.changes.len() >= FLAP_CHANGES {
            turn.flapping = u32::try_from(self.changes.len()).ok();
            self.pin = self.changes.iter().map(|(_, worst)| *worst).max();
        }
        // Worse than what it is pinned to, it is pinned to that.
        self.pin = self.pin.map(|pin| pin.max(to));
        self.show(why, now, &mut turn);
        turn
    }

    fn forget_changes(&mut self, now: Time) {
        self.changes.retain(|(at, _)| now.since(*at) < FLAP_WITHIN);
        // Changes are delayed by `hold`, so there are few; latches are not.
        let above = self.changes.len().saturating_sub(4 * FLAP_CHANGES);
        self.changes.drain(..above);
    }

    /// Nothing changed: perhaps it has been quiet for long enough.
    fn calm(&mut self, now: Now) -> Turn {
        let mut turn = Turn::default();
        if self.pin.is_some() {
            self.forget_changes(now.mono);
            if self.changes.is_empty() {
                self.pin = None;
                turn.calmed = true;
                turn.kept = true;
                let why = format!("quiet for {}", human(FLAP_WITHIN));
                let why = if self.settled >= Health::Degraded { self.why.clone() } else { why };
                self.show(why, now, &mut turn);
            }
        }
        turn
    }

    fn show(&mut self, why: String, now: Now, turn: &mut Turn) {
        let to = self.pin.map_or(self.settled, |pin| pin.max(self.settled));
        // Pinned and better by itself, it keeps the reason for which it was bad.
        if to == self.settled || self.state != to {
            self.why = why;
        }
        if self.state != to {
            turn.changed = Some((self.state, to));
            self.state = to;
            self.since = now.mono;
            self.since_wall = now.wall;
        }
    }
}

#[cfg(test)]
mod tests;
