//! What others may see of fences.

use std::time::Duration;

use super::plan::{FenceLevel, Limits};
use super::record::{Record, Standing, Trigger};
use crate::engine::types::Time;

/// The fence of one replica, or its probation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaFence<'a> {
    /// The record's.
    pub id: u64,
    /// `None` while on probation.
    pub level: Option<FenceLevel>,
    pub standing: Standing,
    pub trigger: Trigger,
    /// In a few words.
    pub why: &'a str,
    pub since_wall: Time,
    /// What happens next by itself, and when (mono); `None`: only an operator ends it.
    pub next: Option<(&'static str, Time)>,
}

/// The limits of one replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitsView<'a> {
    /// As they should be now: those of the service, tightened by a fence or a probation.
    pub wanted: Limits,
    /// What is not in force of it, each with its reason.
    pub refused: &'a [String],
}

/// All fences of the host.
#[derive(Clone, Debug, Default)]
pub struct FencesView<'a> {
    /// Those that stand and those on probation, by service and replica.
    pub active: Vec<(&'a Record, ReplicaFence<'a>)>,
    /// The latest that have ended or were only observed, the newest first.
    pub past: Vec<&'a Record>,
    /// Fences that the agent set within the window, and how many it may.
    pub automatic_used: u32,
    pub automatic_max: u32,
    pub automatic_within: Duration,
}
