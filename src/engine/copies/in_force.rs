//! What makes a move last: the decision on disk, before anything is switched; the switch; and what an earlier agent left of both.

use std::time::Duration;

use super::event::{CopyAction, Direction, Switch};
use super::failover::{Moving, Reach, Stage};
use super::schedule::retry_after;
use crate::engine::Engine;
use crate::engine::action::{Action, Level};
use crate::engine::event::Decision;
use crate::engine::types::human;

/// Of the keys of decisions: no service has such a name.
const KEY: &str = "@copies/";
/// A decision that is not on disk by then counts as one that cannot be kept.
const SAVE_TIMEOUT: Duration = Duration::from_secs(15);
/// The shell kills a switch after [`Switch::TIMEOUT`]; an answer that is not there so long afterwards is not waited for.
const SWITCH_GRACE: Duration = Duration::from_secs(10);
/// Between two tries to put live data where they belong, at most.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(60);

impl Engine {
    /// What an earlier agent had written down of sets that have moved. The rest of the decisions is given back.
    pub(in crate::engine) fn resume_failovers(&mut self, decisions: Vec<Decision>) -> Vec<Decision> {
        let (moved, rest): (Vec<Decision>, Vec<Decision>) =
            decisions.into_iter().partition(|decision| decision.service.starts_with(KEY));
        for decision in moved {
            let (Some(set), Some(kept)) = (decision.service.strip_prefix(KEY), decision.failover) else { continue };
            let mut kept = *kept;
            if matches!(kept.stage, Stage::Over | Stage::Starting | Stage::Again) {
                // As an earlier version of this program wrote it.
                kept.reach = Reach::Lived;
            }
            kept.stage = kept.stage.after_death();
            self.copies.moving.insert(set.to_owned(), Moving { kept, ..Moving::default() });
        }
        self.copies.due = true;
        rest
    }

    /// A decision is on disk, or is not. Whether it was one of these.
    pub(in crate::engine) fn failover_saved(&mut self, decision: u64, result: &Result<(), String>) -> bool {
        let saved = self.copies.moving.iter().find(|(_, moving)| moving.saving == Some(decision));
        let Some(set) = saved.map(|(set, _)| set.clone()) else { return self.copies.saves.remove(&decision) };
        self.copies.saves.remove(&decision);
        self.failover_is_saved(&set, result);
        true
    }

    pub(super) fn failover_is_saved(&mut self, set: &str, result: &Result<(), String>) {
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        moving.saving = None;
        self.copies.due = true;
        match (moving.kept.stage, result) {
            (Stage::Saving, Ok(())) => {
                self.enter_failover(set, Stage::Switching);
                self.switch(set, Direction::Over);
            }
            (Stage::Saving, Err(why)) => {
                self.put_off(
                    set,
                    &format!("that it moves cannot be written down, so that a reboot would forget it: {why}"),
                );
            }
            (Stage::Returning, result) => self.returned(set, result.clone()),
            (
                Stage::Holding
                | Stage::Materialising
                | Stage::Switching
                | Stage::Over
                | Stage::Stopping
                | Stage::Gathering
                | Stage::Lifting
                | Stage::PuttingBack
                | Stage::Starting
                | Stage::Again
                | Stage::Sweeping,
                _,
            ) => {}
        }
    }

    /// A switch has ended.
    pub(super) fn switched(&mut self, set: &str, id: u64, result: Result<(), String>) {
        let Some(moving) = self.copies.moving.get_mut(set).filter(|moving| moving.switching == Some(id)) else {
            return self.stale();
        };
        (moving.switching, moving.until) = (None, None);
        match (moving.kept.stage, result) {
            (Stage::Switching, Ok(())) => {
                (moving.switched, moving.failures, moving.trouble) = (true, 0, None);
                moving.kept.over_since = Some(self.now.wall);
                moving.kept.reach = Reach::Lived;
                self.enter_failover(set, Stage::Over);
                self.save_failover(set);
                let text = self.failover_text(set).unwrap_or_default();
                self.tell_failover(set, Level::Error, text);
                self.review_ties();
                self.follow_failover(set);
            }
            (Stage::Switching, Err(why)) => {
                self.put_off(set, &why);
            }
            (Stage::Over, Ok(())) => {
                let was = std::mem::replace(&mut moving.switched, true);
                (moving.failures, moving.trouble) = (0, None);
                if !was {
                    let text = self.failover_text(set).unwrap_or_default();
                    self.tell_failover(set, Level::Warn, text);
                    self.review_ties();
                    self.follow_failover(set);
                }
            }
            (Stage::Over, Err(why)) => {
                moving.switched = false;
                self.not_seen_there(set, why);
            }
            (Stage::Lifting, result) => self.lifted(set, result),
            (
                Stage::Holding
                | Stage::Materialising
                | Stage::Saving
                | Stage::Stopping
                | Stage::Gathering
                | Stage::PuttingBack
                | Stage::Returning
                | Stage::Starting
                | Stage::Again
                | Stage::Sweeping,
                _,
            ) => {}
        }
    }

    /// The live data cannot be put where they belong: nothing starts until they are.
    pub(super) fn not_seen_there(&mut self, set: &str, why: String) {
        let boot = self.now.boot;
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        moving.failures = moving.failures.saturating_add(1);
        moving.retry = Some(boot.after(retry_after(moving.failures).min(RETRY_MAX)));
        let trouble = format!("nothing of it is started: {why}");
        if moving.trouble.as_ref() != Some(&trouble) {
            moving.trouble = Some(trouble.clone());
            self.tell_failover(set, Level::Error, trouble);
        }
        self.follow_failover(set);
    }

    pub(super) fn switch(&mut self, set: &str, direction: Direction) {
        self.copies.next_order = self.copies.next_order.max(self.next_generation) + 1;
        let id = self.copies.next_order;
        let until = self.now.mono.after(Switch::TIMEOUT + SWITCH_GRACE);
        let Some(moving) = self.copies.moving.get_mut(set) else { return };
        (moving.switching, moving.until) = (Some(id), Some(until));
        let moves = moving.kept.moves.clone();
        self.copy_action(set, CopyAction::Switch(Switch { id, direction, moves }));
    }

    /// What is awaited has not come.
    pub(super) fn failover_late(&mut self, set: &str) {
        let Some(moving) = self.copies.moving.get(set) else { return };
        if moving.until.is_none_or(|until| until > self.now.mono) {
            return;
        }
        if let Some(id) = moving.switching {
            self.switched(set, id, Err("nobody knows what became of it".to_owned()));
        } else if moving.saving.is_some() && matches!(moving.kept.stage, Stage::Saving | Stage::Returning) {
            self.failover_is_saved(set, &Err(format!("no answer within {}", human(SAVE_TIMEOUT))));
        } else if moving.kept.stage == Stage::Starting {
            self.not_ready_at_home(set);
        }
    }

    /// Has it written down as it stands.
    pub(super) fn save_failover(&mut self, set: &str) {
        let decision = self.next_decision;
        self.next_decision += 1;
        let until = self.now.mono.after(SAVE_TIMEOUT);
        let failover = self.copies.moving.get_mut(set).map(|moving| {
            moving.saving = Some(decision);
            if matches!(moving.kept.stage, Stage::Saving | Stage::Returning) {
                moving.until = Some(until);
            }
            let mut kept = moving.kept.clone();
            if kept.stage == Stage::Returning {
                // Once this is on disk, its own disk has what counts.
                kept.stage = Stage::Starting;
            }
            Box::new(kept)
        });
        self.copies.saves.insert(decision);
        let content = Decision { service: format!("{KEY}{set}"), failover, ..Decision::default() };
        self.out.push(Action::Decide { decision, content });
    }
}
