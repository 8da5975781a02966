//! A configuration that says something else of a set that has moved, or has the set no more.
//!
//! What was decided when it moved holds until it is brought back: where the data lie is known from the record alone. So a reload that would change it is
//! refused; an agent that starts with another file goes by the record and says so, and brings the set back once the file says again what it said then.
//! Before anything has moved there is nothing to hold on to: then the configuration counts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::SetMemory;
use super::failover::{Failover, Moving, Stage};
use super::plan::{CopyPlan, OnSourceFailing};
use crate::engine::Engine;
use crate::engine::action::Level;
use crate::engine::plan::Plan;
use crate::engine::types::ServiceId;

/// A set of which the configuration knows nothing, as it is shown.
pub(super) type Left = (CopyPlan, SetMemory);

impl Engine {
    /// Why this plan cannot be taken over while everything runs; `None`: it can.
    #[must_use]
    pub fn refusal(&self, plan: &Plan) -> Option<String> {
        let refused: Vec<String> = self
            .copies
            .moving
            .iter()
            .filter(|(_, moving)| moving.kept.stage.binds())
            .filter_map(|(set, moving)| {
                let (old, new) = (self.copy_plan(set), named(plan, set));
                let what = moving.kept.departure(new)?;
                // What is so already gets no worse by it.
                if old.map(essence) == new.map(essence) {
                    return None;
                }
                let (now, first) = if moving.departs.is_some() {
                    ("has moved", moving.kept.remedy(set))
                } else if moving.kept.stage == Stage::Over {
                    ("runs from a copy", format!("`mainstay copies failback {set}` first, or leave that as it is"))
                } else {
                    ("is on its way to or from a copy", "wait until it is there, or leave that as it is".to_owned())
                };
                Some(format!("copies {set}: {what}, while it {now}; {first}"))
            })
            .collect();
        (!refused.is_empty()).then(|| refused.join("; "))
    }

    /// What the configuration says otherwise than the record of a set that has moved, and what to do about it.
    pub(super) fn departure(&self, set: &str) -> Option<String> {
        let kept = &self.copies.moving.get(set)?.kept;
        kept.departure(self.copy_plan(set)).map(|what| format!("{what}; {}", kept.remedy(set)))
    }

    /// What follows from a configuration that says otherwise. Whether the set is done with.
    pub(super) fn review_departure(&mut self, set: &str) -> bool {
        let restores = self.copy_plan(set).is_some_and(|plan| plan.on_source_failing == Some(OnSourceFailing::Restore));
        let Some(moving) = self.copies.moving.get(set) else { return true };
        let (stage, departs) = (moving.kept.stage, moving.kept.departure(self.copy_plan(set)));
        if matches!(stage, Stage::Holding | Stage::Materialising) {
            let otherwise = (!restores).then(|| "`on_source_failing` is not `Restore` any more".to_owned());
            let Some(what) = departs.or(otherwise) else { return false };
            self.begin_anew(set, &what);
            return true;
        }
        let is_out_of_reach = self.copy_plan(set).is_none_or(|plan| plan.to != moving.kept.to);
        if stage == Stage::Sweeping && is_out_of_reach {
            let live = moving.kept.live_directory(set);
            let text = format!("what it ran from stays in {}: remove it by hand", live.display());
            self.tell_failover(set, Level::Warn, text);
            self.end_failover(set);
            return true;
        }
        self.tell_departure(set, departs.filter(|_| stage != Stage::Sweeping));
        false
    }

    /// Nothing has moved yet: the configuration counts, whatever it says.
    fn begin_anew(&mut self, set: &str, what: &str) {
        let Some(moving) = self.copies.moving.get(set) else { return };
        let live = moving.kept.live_directory(set);
        let built = match moving.kept.seq {
            0 => String::new(),
            _ => format!("; what may have been built as {} can be removed by hand", live.display()),
        };
        self.cancel_build(set);
        let text = format!("{what}, and nothing has moved yet: what the configuration says now is done{built}");
        self.tell_failover(set, Level::Warn, text);
        self.end_failover(set);
        self.copies.due = true;
        let plan = self.copy_plan(set).filter(|plan| plan.on_source_failing == Some(OnSourceFailing::Restore));
        if let Some(plan) = plan.cloned() {
            self.notice_failing_source(&plan);
        }
    }

    /// Once, and once more when it is as it was.
    fn tell_departure(&mut self, set: &str, departs: Option<String>) {
        let is_left = self.copy_plan(set).is_none();
        let since = self.now.wall;
        let Some(moving) = self.copies.moving.get_mut(set).filter(|moving| moving.departs != departs) else { return };
        moving.departs.clone_from(&departs);
        let kept = &moving.kept;
        let remedy = kept.remedy(set);
        self.copies.left.remove(set);
        if is_left {
            let first = kept.sources.first().cloned().unwrap_or_default();
            let plan = CopyPlan { from: kept.sources.clone(), ..CopyPlan::with_defaults(set, first, kept.to.clone()) };
            self.copies.left.insert(set.to_owned(), (plan, SetMemory { since, ..SetMemory::default() }));
        }
        match departs {
            Some(what) => {
                let text = format!("{what}, while it has moved: that stays in force as it was; {remedy}");
                self.tell_failover(set, Level::Error, text);
            }
            None => {
                let text =
                    format!("the configuration is again as it was; `mainstay copies failback {set}` brings it back");
                self.tell_failover(set, Level::Info, text);
            }
        }
        self.follow_failover(set);
    }

    /// What this service has for its data that is on the disk that failed, and that no switch leads away from: nothing but the link leads to the live data, and the
    /// configuration knows of that link no more.
    pub(super) fn left_behind(&self, service: ServiceId, set: &str, moving: &Moving) -> Option<PathBuf> {
        let kept = &moving.kept;
        if kept.stage != Stage::Over || kept.link().is_none() {
            return None;
        }
        if self.copy_plan(set).and_then(|plan| plan.failover.link.as_deref()) == kept.link() {
            return None;
        }
        let data = &self.plan_of(service).needs.as_deref()?.data;
        data.iter().find(|data| kept.sources.iter().any(|from| data.starts_with(from))).cloned()
    }

    /// The names of all sets, also of those that the configuration has no more.
    pub(in crate::engine) fn copy_names(&self) -> impl Iterator<Item = &String> {
        self.plan.copies.iter().map(|plan| &plan.name).chain(self.copies.left.keys())
    }
}

fn named<'a>(plan: &'a Plan, set: &str) -> Option<&'a CopyPlan> {
    plan.copies.iter().find(|plan| plan.name == set)
}

/// What must not change.
fn essence(plan: &CopyPlan) -> (&[PathBuf], &Path, Option<&Path>) {
    (&plan.from, &plan.to, plan.failover.link.as_deref())
}

impl Stage {
    /// What the configuration says of where its data lie must not change meanwhile.
    fn binds(self) -> bool {
        match self {
            Self::Saving
            | Self::Switching
            | Self::Over
            | Self::Stopping
            | Self::Gathering
            | Self::Lifting
            | Self::PuttingBack
            | Self::Returning
            | Self::Starting
            | Self::Again => true,
            Self::Holding | Self::Materialising | Self::Sweeping => false,
        }
    }
}

impl Failover {
    /// The link that was switched.
    pub(super) fn link(&self) -> Option<&Path> {
        self.moves.first().filter(|one| one.link_to.is_some()).map(|one| one.at.as_path())
    }

    /// What is built for it, and what its services run from.
    fn live_directory(&self, set: &str) -> PathBuf {
        self.to.join(set).join("live").join(&self.directory)
    }

    /// What is said now that was not said when it moved.
    fn departure(&self, plan: Option<&CopyPlan>) -> Option<String> {
        let Some(plan) = plan else { return Some("it has left the configuration".to_owned()) };
        let (was, is): (BTreeSet<_>, BTreeSet<_>) = (self.sources.iter().collect(), plan.from.iter().collect());
        let differs = |key: &str, is: String, was: String| Some(format!("its `{key}` is {is}, and was {was}"));
        if was != is {
            return differs("from", shown(&plan.from), shown(&self.sources));
        }
        if self.to != plan.to {
            return differs("to", plan.to.display().to_string(), self.to.display().to_string());
        }
        let link = plan.failover.link.as_deref();
        if !self.moves.is_empty() && self.link() != link {
            let shown = |link: Option<&Path>| link.map_or("None".to_owned(), |link| link.display().to_string());
            return differs("failover.link", shown(link), shown(self.link()));
        }
        None
    }

    /// How it can be brought back.
    pub(super) fn remedy(&self, set: &str) -> String {
        let link = self.link().map(|link| format!(", failover: (link: {link:?})")).unwrap_or_default();
        format!(
            "write it as it was (name: {set:?}, from: {:?}, to: {:?}{link}), `mainstay reload`, then `mainstay copies failback {set}`",
            self.sources, self.to
        )
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
