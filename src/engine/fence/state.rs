//! What is remembered of the fence of one replica, and of its probation.

use serde::{Deserialize, Serialize};

use super::plan::FenceLevel;
use super::record::Trigger;
use crate::engine::types::Time;

/// A fence that stands. It is written before the kernel is told anything, and goes on with the next agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Of its record.
    pub id: u64,
    pub trigger: Trigger,
    pub level: FenceLevel,
    pub proof: Proof,
    /// In a few words.
    pub why: String,
    pub since_wall: Time,
    /// When (mono) the present step was decided.
    pub decided: Time,
    /// When (mono) its proof must be there.
    pub prove_by: Time,
    /// When (mono) the next step is due, should the cause last; of a fence by hand it never is.
    pub step_by: Time,
    /// How often the proof of this step was looked for.
    pub looks: u32,
    /// The first question to its group that was asked after this step was decided: what answers an earlier one proves nothing.
    #[serde(default)]
    pub asked_from: u64,
    /// Since when (mono) the cause is not seen any more.
    pub quiet_since: Option<Time>,
    /// The first reading under a throttle.
    pub first: Option<First>,
    /// The limits of a throttle have been written and read back.
    pub written: bool,
    /// A throttle was among its steps: its limits stay in force with the later ones.
    pub throttled: bool,
    /// When (boot clock) a hold ends by itself.
    pub until: Option<Time>,
    /// The task was done when it was held, and is so again afterwards.
    pub done: bool,
}

impl Fence {
    #[must_use]
    pub fn is_by_hand(&self) -> bool {
        self.trigger == Trigger::Operator
    }
}

/// Whether a step has had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    Awaited,
    /// Nothing runs that could show it (of a throttle by hand): looked for when something does.
    Idle,
    Given,
    /// Not within its time; looked for all the same.
    Missing,
}

/// A reading that later ones are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Mono.
    pub at: Time,
    pub cpu_usec: Option<u64>,
    pub cpu_throttled: Option<u64>,
}

/// After a fence that the agent set: half its limits, a quarter of its weight, until it has been ready long enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probation {
    /// Of the record.
    pub id: u64,
    pub trigger: Trigger,
    pub why: String,
    pub since_wall: Time,
    /// Good alive probes in a row since it is ready, as far as they matter.
    pub good: u8,
}

impl Probation {
    /// Good alive probes in a row that let it back into its balancers.
    pub const GOOD_PROBES: u8 = 3;
}
