//! Going on from a copy when the disk of a source fails (`on_source_failing: Restore`): what is known of one such move, and its way there.
//!
//! ```text
//! Holding ─▶ Materialising ─▶ Saving ─▶ Switching ─▶ Over        the way back: see `failback`
//!    ▲   what fails is told, and tried again later │
//!    └──────────────────────────────────────────────┘
//! ```
//!
//! * Nothing is built before every process of every service with data in the set is gone, by the same proof as any stop (`populated 0`).
//! * The newest good copy that was verified is built on the disk of the copies, and then seen in the place of the source: by a bind mount over it, or by
//!   a symbolic link that is switched. The source itself is not written to.
//! * INVARIANT: that the set has moved is on disk before anything is switched, and whoever starts looks at that first; so neither the death of the agent nor
//!   a reboot lets a service start on what lies on the failing disk. Until the switch is seen to be in force, its starts wait (`Blocker::Copies`).
//! * No copies are made of a set that has moved: they would lie beside the live data, on the same disk, and help against nothing that copies are for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::by_hand::Asked;
use super::catalog::Copy;
use super::event::Move;
use super::order::{Live, Outcome};
use super::plan::CopyPlan;
use crate::engine::types::{Time, human};

/// A set that has moved, or is about to: what lasts over a reboot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    pub stage: Stage,
    /// When (wall) its source was found failing, and what was said of it.
    pub since: Time,
    pub why: String,
    pub sources: Vec<PathBuf>,
    /// The targets of the checks that look at what lies below the sources.
    pub primary: Vec<String>,
    /// The copy, when (wall) it was made, and whether it had been verified. 0: none is chosen yet.
    pub seq: u64,
    pub as_of: Time,
    pub verified: bool,
    /// Below `live/` of the set.
    pub directory: String,
    /// The directory of the set's target, where the live data lie.
    pub to: PathBuf,
    pub moves: Vec<Move>,
    /// When (wall) a service could first run on it.
    pub over_since: Option<Time>,
    #[serde(default)]
    pub reach: Reach,
}

/// How far the live data have come into the place of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    #[default]
    Nowhere,
    /// A switch was begun, and may be in force, or in part.
    Tried,
    /// Services have run on them: what they have written is nowhere else.
    Lived,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its services are to be gone.
    #[default]
    Holding,
    Materialising,
    /// That it moves is being written down.
    Saving,
    Switching,
    /// Its services run on the copy.
    Over,
    /// On the way back: its services are to be gone; what they have is copied; the switch is undone; it is put back; that is written down.
    Stopping,
    Gathering,
    Lifting,
    PuttingBack,
    Returning,
    /// They are started on their own disk and are to become ready.
    Starting,
    /// They did not: they are to be gone, and go on from the live data.
    Again,
    /// It is over; what lies in `live/` is to be removed.
    Sweeping,
}

/// What is known of it in this agent's life only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moving {
    pub kept: Failover,
    /// The switch is in force, as was seen.
    pub switched: bool,
    /// The decision that is awaited, and the switch that is under way.
    pub saving: Option<u64>,
    pub switching: Option<u64>,
    /// Until then (mono) what is awaited may take.
    pub until: Option<Time>,
    /// Not before this (mono) anything is done about a disk that has just begun to fail.
    pub patience: Option<Time>,
    /// Not before this (boot) it is tried again; after so many failures.
    pub retry: Option<Time>,
    pub failures: u32,
    pub trouble: Option<String>,
    /// Who waits for the way back; the copy with what was gathered, and what was kept beside.
    pub asked: Option<Asked>,
    pub forced: bool,
    pub gathered: Option<u64>,
    pub back: Option<Outcome>,
    pub told_stuck: bool,
    /// What the configuration says otherwise, as it was last told.
    #[serde(default)]
    pub departs: Option<String>,
}

impl Stage {
    /// No process of its services may be there.
    pub(super) fn stops(self) -> bool {
        match self {
            Self::Holding
            | Self::Materialising
            | Self::Saving
            | Self::Switching
            | Self::Stopping
            | Self::Gathering
            | Self::Lifting
            | Self::PuttingBack
            | Self::Returning
            | Self::Again => true,
            Self::Over | Self::Starting | Self::Sweeping => false,
        }
    }

    /// What its services need is what lies on the disk of the copies.
    pub(super) fn lives_on_target(self) -> bool {
        match self {
            Self::Over | Self::Stopping | Self::Gathering | Self::Lifting => true,
            Self::Holding
            | Self::Materialising
            | Self::Saving
            | Self::Switching
            | Self::PuttingBack
            | Self::Returning
            | Self::Starting
            | Self::Again
            | Self::Sweeping => false,
        }
    }

    /// What it is after the agent's death: a way back that was not finished is begun anew by whoever wants it.
    pub(super) fn after_death(self) -> Self {
        match self {
            Self::Stopping | Self::Gathering | Self::Lifting | Self::PuttingBack | Self::Returning => Self::Over,
            Self::Saving | Self::Switching | Self::Again => Self::Again,
            Self::Holding | Self::Materialising | Self::Over | Self::Starting | Self::Sweeping => self,
        }
    }

    /// The word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Holding => "holding",
            Self::Materialising => "materialising",
            Self::Saving => "saving",
            Self::Switching => "switching",
            Self::Over => "over",
            Self::Stopping => "stopping",
            Self::Gathering => "gathering",
            Self::Lifting => "lifting",
            Self::PuttingBack => "putting_back",
            Self::Returning => "returning",
            Self::Starting => "starting",
            Self::Again => "again",
            Self::Sweeping => "sweeping",
        }
    }
}

impl Failover {
    /// Where its data may be said to lie: a link of the configuration may have been followed before it was switched, or after.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        self.sources.iter().chain(self.moves.iter().map(|one| &one.live)).cloned().collect()
    }

    /// What is to be built of this copy.
    pub(super) fn live(&self, copy: &Copy, traversable: bool) -> Live {
        let age = self.since.since(copy.at);
        Live { seq: copy.seq, directory: self.directory.clone(), since: self.since, age, traversable }
    }

    /// `copy 12 (3h old when it took over)`
    pub(super) fn copy_text(&self, now: Time) -> String {
        let verified = if self.verified { "" } else { ", never verified" };
        let age = human(self.over_since.unwrap_or(now).since(self.as_of));
        format!("copy {} ({age} old when it took over{verified})", self.seq)
    }
}

/// The directory below `live/`: of this copy, for this failure.
pub(super) fn directory_of(seq: u64, since: Time) -> String {
    format!("{seq:06}-{}", since.0 / 1_000_000_000)
}

/// What is to be seen where: of a link, it; else each source.
pub(super) fn moves(plan: &CopyPlan, directory: &str) -> Vec<Move> {
    let data = plan.to.join(&plan.name).join("live").join(directory).join("data");
    let live = |source: &Path| data.join(source.strip_prefix("/").unwrap_or(source));
    match (&plan.failover.link, plan.from.first()) {
        (Some(link), Some(source)) => {
            vec![Move { live: live(source), at: link.clone(), link_to: Some(source.clone()) }]
        }
        (Some(_) | None, _) => {
            plan.from.iter().map(|source| Move { live: live(source), at: source.clone(), link_to: None }).collect()
        }
    }
}
