//! What others ask of sets that move: who is to be gone, what waits, where data lie, what is said of it.

use std::path::{Path, PathBuf};

use super::event::Direction;
use super::failover::{Failover, Moving, Stage};
use super::note::CopyNews;
use super::plan::{CopyPlan, OnSourceFailing};
use super::view::SetState;
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::service::State;
use crate::engine::types::{ServiceId, Time, human};

impl Engine {
    pub(super) fn moving_of(&self, service: ServiceId) -> impl Iterator<Item = (&String, &Moving)> {
        self.copies.moving.iter().filter(move |(_, moving)| self.is_moved_by(service, &moving.kept))
    }

    /// Whether the set has its data. A link of the configuration that leads nowhere yet is not followed: then the path of the link itself is what is known.
    fn is_moved_by(&self, service: ServiceId, kept: &Failover) -> bool {
        let data = self.plan_of(service).needs.as_deref().map(|needs| needs.data.as_slice()).unwrap_or_default();
        kept.link().is_some_and(|link| data.iter().any(|data| data.starts_with(link)))
            || self.has_data_below(service, &kept.places())
    }

    pub(super) fn has_data_below(&self, service: ServiceId, sources: &[PathBuf]) -> bool {
        let lies = |data: &Path| sources.iter().any(|from| data.starts_with(from) || from.starts_with(data));
        self.plan_of(service).needs.as_deref().is_some_and(|needs| needs.data.iter().any(|data| lies(data)))
    }

    /// Whether no process of this service may be there while its data move.
    pub(in crate::engine) fn failover_stops(&self, service: ServiceId) -> bool {
        !self.copies.moving.is_empty() && self.moving_of(service).any(|(_, moving)| moving.kept.stage.stops())
    }

    /// Why this service is not started for now, in words.
    pub(in crate::engine) fn failover_blocks(&self, service: ServiceId) -> Option<String> {
        if self.copies.moving.is_empty() {
            return None;
        }
        let blocks =
            |moving: &Moving| moving.kept.stage.stops() || (moving.kept.stage == Stage::Over && !moving.switched);
        if let Some((set, _)) = self.moving_of(service).find(|(_, moving)| blocks(moving)) {
            return Some(format!("its data ({})", self.failover_text(set)?));
        }
        self.moving_of(service).find_map(|(set, moving)| {
            let path = self.left_behind(service, set, moving)?;
            let (path, link, remedy) = (path.display(), moving.kept.link()?.display(), moving.kept.remedy(set));
            Some(format!(
                "its data: {path} is on the disk that failed, and only {link} leads to what lives on ({remedy})"
            ))
        })
    }

    /// Where the service finds its data: what has moved lies on the target.
    pub(in crate::engine) fn where_data_lies(&self, service: ServiceId, data: &[PathBuf]) -> Option<Vec<PathBuf>> {
        let moved: Vec<&Failover> = match self.copies.moving.is_empty() {
            true => return None,
            false => self.moving_of(service).map(|(_, moving)| &moving.kept).collect(),
        };
        let moved: Vec<&Failover> = moved.into_iter().filter(|kept| kept.stage.lives_on_target()).collect();
        let lies = |path: &PathBuf| {
            let over = moved.iter().find(|kept| {
                kept.sources.iter().any(|from| path.starts_with(from))
                    || kept.link().is_some_and(|link| path.starts_with(link))
            });
            over.map_or_else(|| path.clone(), |kept| kept.to.clone())
        };
        (!moved.is_empty()).then(|| data.iter().map(lies).collect())
    }

    /// A replica of a service whose data move has changed.
    pub(in crate::engine) fn failover_changed(&mut self, service: ServiceId) {
        if !self.copies.moving.is_empty() && self.moving_of(service).next().is_some() {
            self.copies.due = true;
        }
    }

    /// Checks have changed, or mounts: what follows from it for sets is looked at.
    pub(in crate::engine) fn failover_checks_changed(&mut self) {
        let restores = |plan: &CopyPlan| plan.on_source_failing == Some(OnSourceFailing::Restore);
        if !self.copies.moving.is_empty() || self.plan.copies.iter().any(restores) {
            self.copies.due = true;
        }
    }

    /// Something was mounted, which may cover what was switched.
    pub(in crate::engine) fn failover_mounts_changed(&mut self) {
        let over = |(_, moving): &(&String, &Moving)| {
            moving.kept.stage == Stage::Over && moving.switched && moving.switching.is_none()
        };
        for set in self.copies.moving.iter().filter(over).map(|(set, _)| set.clone()).collect::<Vec<_>>() {
            self.switch(&set, Direction::Over);
        }
    }

    /// What is being done about a set, in words.
    pub(in crate::engine) fn failover_text(&self, set: &str) -> Option<String> {
        let moving = self.copies.moving.get(set)?;
        let kept = &moving.kept;
        let copy = kept.copy_text(self.now.wall);
        let text = match kept.stage {
            Stage::Holding if moving.failures == 0 => {
                format!("its disk fails: {}; once it is at rest it goes on from a copy", kept.why)
            }
            Stage::Holding => format!("held: its disk fails: {}", kept.why),
            Stage::Materialising => format!("{copy} is being built on {}", kept.to.display()),
            Stage::Saving | Stage::Switching => format!("{copy} takes its place"),
            Stage::Over if !moving.switched => format!("{copy} has taken its place, and is not (yet) seen there"),
            Stage::Over => {
                let since = human(self.now.wall.since(kept.over_since.unwrap_or(kept.since)));
                let back =
                    self.departure(set).unwrap_or_else(|| format!("`mainstay copies failback {set}` brings it back"));
                format!("runs from {copy} on {} for {since}; {back}", kept.to.display())
            }
            Stage::Stopping | Stage::Gathering | Stage::Lifting | Stage::PuttingBack | Stage::Returning => {
                "it is brought back to its own disk".to_owned()
            }
            Stage::Starting => "it is back on its own disk and is to become ready".to_owned(),
            Stage::Again => format!("it goes on from {copy} again"),
            Stage::Sweeping => "it is on its own disk; what it ran from is removed".to_owned(),
        };
        Some(match &moving.trouble {
            Some(trouble) => format!("{text}; {trouble}"),
            None => text,
        })
    }

    /// Of one that is ready: that it runs from a copy, and how old that was.
    pub(in crate::engine) fn runs_from_copy(&self, service: ServiceId) -> Option<String> {
        if self.copies.moving.is_empty() {
            return None;
        }
        let over = self.moving_of(service).find(|(_, moving)| moving.kept.stage == Stage::Over)?;
        self.failover_text(over.0)
    }

    /// The services of a set, with data below its sources.
    pub(super) fn services_moved_by(&self, set: &str) -> Vec<ServiceId> {
        let Some(moving) = self.copies.moving.get(set) else { return Vec::new() };
        let services = self.services.keys().copied();
        services.filter(|service| self.is_moved_by(*service, &moving.kept)).collect()
    }

    /// Whether no process of any service of the set is there; of one that will not go it is told once.
    pub(super) fn are_all_gone(&mut self, set: &str) -> bool {
        let mut all = true;
        for service in self.services_moved_by(set) {
            for id in self.replicas_of(service) {
                let replica = self.at(id);
                all &= replica.run.is_none();
                if !matches!(replica.state, State::Stuck { .. }) {
                    continue;
                }
                let text = format!("{} is stuck: nothing is moved before it is gone", self.label(id));
                let Some(moving) = self.copies.moving.get_mut(set) else { return false };
                if !std::mem::replace(&mut moving.told_stuck, true) {
                    self.tell_failover(set, Level::Error, text);
                }
            }
        }
        all
    }

    /// The replicas of its services are brought to where they should be.
    pub(super) fn follow_failover(&mut self, set: &str) {
        let services = self.services_moved_by(set);
        self.follow_services(&services);
    }

    pub(super) fn follow_services(&mut self, services: &[ServiceId]) {
        for service in services {
            for id in self.replicas_of(*service) {
                self.refresh(id);
                self.dirty.insert(id);
            }
            self.touched.insert(*service);
        }
    }

    /// A line in the journal, and a link in the chain of each of its services.
    pub(super) fn tell_failover(&mut self, set: &str, level: Level, text: String) {
        for service in self.services_moved_by(set) {
            for id in self.replicas_of(service) {
                self.add_cause(id, format!("copies {set}: {text}"));
            }
        }
        let services = self.services_moved_by(set).into_iter().map(|service| self.name(service).to_owned()).collect();
        self.copy_note(set, level, CopyNews::Failover { text, services });
    }

    /// Whether its role is needed for the way there or back, and for nothing else.
    pub(super) fn is_moving(&self, set: &str) -> bool {
        self.copies.moving.get(set).is_some_and(|moving| moving.kept.stage != Stage::Over)
    }

    /// What holds a service up, and that one runs from a copy, is told at once; what is under way is not yet.
    pub(super) fn failover_state(&self, set: &str, stage: Stage) -> SetState {
        let trouble = self.copies.moving.get(set).is_some_and(|moving| moving.trouble.is_some());
        match stage {
            Stage::Over => SetState::Failing,
            Stage::Holding
            | Stage::Materialising
            | Stage::Saving
            | Stage::Switching
            | Stage::Stopping
            | Stage::Gathering
            | Stage::Lifting
            | Stage::PuttingBack
            | Stage::Returning
            | Stage::Starting
            | Stage::Again
            | Stage::Sweeping => {
                if trouble {
                    SetState::Failing
                } else {
                    SetState::Degraded
                }
            }
        }
    }

    /// The stage of a set that has moved, or is on its way.
    pub(super) fn failover_stage(&self, set: &str) -> Option<Stage> {
        self.copies.moving.get(set).map(|moving| moving.kept.stage)
    }

    /// The earliest deadlines of sets that move: on the monotonic clock, and on the boot clock.
    pub(super) fn failover_deadlines(&self) -> (Option<Time>, Option<Time>) {
        let all = || self.copies.moving.values();
        let holds = |moving: &&Moving| moving.kept.stage == Stage::Holding;
        let patience = all().filter(holds).filter_map(|moving| moving.patience).filter(|at| *at > self.now.mono);
        let until = all().filter_map(|moving| moving.until).filter(|at| *at > self.now.mono);
        let waits = |moving: &&Moving| {
            matches!(moving.kept.stage, Stage::Holding | Stage::Over | Stage::Again | Stage::Lifting)
        };
        let retry = all().filter(waits).filter_map(|moving| moving.retry).filter(|at| *at > self.now.boot);
        (patience.chain(until).min(), retry.min())
    }
}
