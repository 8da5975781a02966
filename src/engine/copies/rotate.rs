//! Which copies stay, and why.
//!
//! A function of what lies on the target, the plan and the time, and of nothing else: the agent and the commands without an agent come to the
//! same result, and a run that failed changes nothing.
//!
//! * Copies are taken in the order of their numbers, never of their times. The rules keep the newest good copy of each of so many periods (UTC)
//!   that have one; a period without a copy uses nothing up, so a host that was off for a year keeps its history. The oldest stays while a
//!   rule has room left.
//! * What is not good (suspect, incomplete, of a doubtful clock, known to be bad) takes nobody's place. It stays for two weeks, or until it is
//!   accepted; one that has gone bad stays as long as it would have, for the rest of it is right.
//! * Whatever the rules and a full disk say, these stay: the newest good copy, the newest that was verified from the disk, the last `min_keep`
//!   good ones, what is pinned, in use, or run from.
//! * Nothing is removed at all while it is doubtful what is good ([`Frozen`]), and never more than half of the copies at once.

mod calendar;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Copy};
use super::plan::{CopyPlan, OnFull};
use crate::engine::types::{Time, human};

/// One copy and all that keeps it. Nothing: it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub seq: u64,
    pub reasons: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Among the newest so many.
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// The oldest, while a rule has room left.
    Oldest,
    MinKeep,
    NewestGood,
    /// The newest that was verified from the disk.
    NewestVerified,
    Pinned,
    /// A restore or a verification reads it.
    InUse,
    /// Not good, but perhaps all there is of something: two weeks, or until it is accepted.
    Suspect,
    /// A service runs from it.
    FailedOver,
}

impl Reason {
    /// The word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Oldest => "oldest",
            Self::MinKeep => "min_keep",
            Self::NewestGood => "newest_good",
            Self::NewestVerified => "newest_verified",
            Self::Pinned => "pinned",
            Self::InUse => "in_use",
            Self::Suspect => "suspect",
            Self::FailedOver => "failed_over",
        }
    }

    /// Whether an operator may remove a copy that stays for this reason.
    pub(super) fn may_go_by_hand(self) -> bool {
        self.is_rule() || self == Self::Suspect
    }

    /// One of the rules that `keep` configures; a full disk goes before them where the plan says so.
    fn is_rule(self) -> bool {
        match self {
            Self::Last | Self::Hourly | Self::Daily | Self::Weekly | Self::Monthly | Self::Yearly | Self::Oldest => {
                true
            }
            Self::MinKeep
            | Self::NewestGood
            | Self::NewestVerified
            | Self::Pinned
            | Self::InUse
            | Self::Suspect
            | Self::FailedOver => false,
        }
    }
}

/// Why something is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ground {
    /// No run of the set has succeeded since this agent began.
    NoRun,
    /// A run has: a copy was made, or nothing had changed.
    Run,
    /// A run has come as far as finding that so many bytes are missing.
    Full { missing_bytes: u64 },
    /// Somebody asks for it.
    ByHand,
}

/// The circumstances of a prune.
#[derive(Clone, Copy, Debug)]
pub struct Occasion {
    /// The wall clock.
    pub now: Time,
    /// Whether the kernel says that it is disciplined.
    pub synchronised: bool,
    /// When the program was made: an earlier clock is wrong.
    pub built: Time,
    pub ground: Ground,
}

/// Why nothing is removed, whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frozen {
    NoRun,
    /// The newest copy is suspect and nobody has accepted it.
    Suspect {
        seq: u64,
    },
    /// The clock is before the time at which this program was made.
    ClockBeforeBuild {
        by: Duration,
    },
    /// The clock is before the newest copy.
    ClockBehind {
        by: Duration,
    },
    /// The clock is far beyond the newest copy, and not synchronised.
    ClockAhead {
        by: Duration,
    },
    /// The newest copy was made with a clock that could not be believed.
    ClockDoubtful {
        seq: u64,
    },
}

impl Frozen {
    /// In words, with the remedy where there is one.
    #[must_use]
    pub fn text(&self, set: &str) -> String {
        match self {
            Self::NoRun => "no run has succeeded since this agent began".to_owned(),
            Self::Suspect { seq } => {
                format!("copy {seq}, the newest, is suspect; if it is right: `mainstay copies accept {set} {seq}`")
            }
            Self::ClockBeforeBuild { by } => {
                format!(
                    "the clock is {} before the time at which this program was made; it ends when the clock is right",
                    human(*by)
                )
            }
            Self::ClockBehind { by } => {
                format!("the clock is {} before the newest copy; the next copy ends this", human(*by))
            }
            Self::ClockAhead { by } => {
                format!(
                    "the clock is {} after the newest copy and not synchronised; a copy with a synchronised clock ends this",
                    human(*by)
                )
            }
            Self::ClockDoubtful { seq } => {
                format!("copy {seq}, the newest, was made with a clock that cannot be believed; the next one ends this")
            }
        }
    }
}

/// When this program was made (wall), as its source says; 0 where that is not known.
pub const BUILT: Time = Time(seconds(env!("MAINSTAY_BUILT_S")).saturating_mul(1_000_000_000));
/// What is not good stays for so long.
pub const SUSPECT_STAYS: Duration = Duration::from_secs(14 * 24 * 3_600);
/// A clock may be this much before the newest copy.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(120);
/// A clock that is not synchronised may be this much after the newest copy, or ten intervals of the plan.
const CLOCK_AHEAD_MIN: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Sources are looked at this often at least, whatever else the plan says.
pub const FULL_SCAN: Duration = Duration::from_secs(24 * 3_600);

/// Of digits alone.
const fn seconds(text: &str) -> u64 {
    let (digits, mut at, mut sum) = (text.as_bytes(), 0, 0);
    while at < digits.len() {
        sum = sum * 10 + (digits[at] - b'0') as u64;
        at += 1;
    }
    sum
}

/// For each copy, in its order, all that keeps it. `now` is the wall clock.
#[must_use]
pub fn judge(catalog: &Catalog, plan: &CopyPlan, now: Time) -> Vec<Kept> {
    let copies = &catalog.copies;
    let mut reasons: Vec<BTreeSet<Reason>> = vec![BTreeSet::new(); copies.len()];
    let capped = capped(catalog, plan);
    let fills = |index: usize| copies[index].is_good() && !capped.contains(&copies[index].seq);
    apply_rules(copies, plan, &fills, |index, reason| {
        reasons[index].insert(reason);
    });
    // Had nothing of it gone bad, it would have stayed.
    let would = |index: usize| is_good_but_for_rot(&copies[index]);
    apply_rules(copies, plan, &would, |index, _| {
        if copies[index].bad > 0 {
            reasons[index].insert(Reason::Suspect);
        }
    });
    for (index, copy) in copies.iter().enumerate() {
        let failed_over = catalog.failed_over.as_ref().is_some_and(|over| over.seq == copy.seq);
        let suspect = !copy.is_good() && now.since(believed_time(copies, index, now)) < SUSPECT_STAYS;
        let own = [
            (copy.pinned, Reason::Pinned),
            (copy.in_use, Reason::InUse),
            (failed_over, Reason::FailedOver),
            (suspect, Reason::Suspect),
        ];
        reasons[index].extend(own.iter().filter(|(holds, _)| *holds).map(|(_, reason)| *reason));
    }
    for (index, reason) in never_removed(copies, plan) {
        reasons[index].insert(reason);
    }
    let kept = copies.iter().zip(reasons);
    kept.map(|(copy, reasons)| Kept { seq: copy.seq, reasons: reasons.into_iter().collect() }).collect()
}

/// The copies to be removed now, oldest first: exactly these are to be ordered.
///
/// # Errors
/// When nothing is removed, although something may have to go.
pub fn prune(catalog: &Catalog, plan: &CopyPlan, occasion: Occasion) -> Result<Vec<u64>, Frozen> {
    if let Some(frozen) = frozen(catalog, plan, occasion) {
        return Err(frozen);
    }
    let judged = judge(catalog, plan, occasion.now);
    let at_most = catalog.copies.len() / 2;
    let mut goes: Vec<u64> = judged.iter().filter(|kept| kept.reasons.is_empty()).map(|kept| kept.seq).collect();
    match occasion.ground {
        Ground::Full { missing_bytes } if goes.is_empty() && plan.space.on_full == OnFull::PruneOldest => {
            goes = oldest_of(catalog, &judged, missing_bytes)
        }
        Ground::Full { .. } | Ground::NoRun | Ground::Run | Ground::ByHand => {}
    }
    goes.truncate(at_most);
    Ok(goes)
}

/// Whether it is doubtful what is good, or what time it is.
#[must_use]
pub fn frozen(catalog: &Catalog, plan: &CopyPlan, occasion: Occasion) -> Option<Frozen> {
    if occasion.ground == Ground::NoRun {
        return Some(Frozen::NoRun);
    }
    let newest = catalog.copies.last()?;
    if occasion.now < occasion.built {
        return Some(Frozen::ClockBeforeBuild { by: occasion.built.since(occasion.now) });
    }
    if newest.suspect.is_some() && !newest.accepted {
        return Some(Frozen::Suspect { seq: newest.seq });
    }
    // A run that found nothing to copy says the time as well as a copy does.
    let unchanged = catalog.unchanged.filter(|unchanged| unchanged.seq == newest.seq);
    let latest = unchanged.map_or(newest.at, |unchanged| unchanged.at);
    if occasion.now.after(CLOCK_BEHIND_MAX) < latest {
        return Some(Frozen::ClockBehind { by: latest.since(occasion.now) });
    }
    let ahead = occasion.now.since(latest);
    let interval = plan.when.every.unwrap_or(FULL_SCAN);
    if !occasion.synchronised && ahead > CLOCK_AHEAD_MIN.max(interval.saturating_mul(10)) {
        return Some(Frozen::ClockAhead { by: ahead });
    }
    let doubtful = newest.clock_suspect && !newest.accepted && (unchanged.is_none() || !occasion.synchronised);
    doubtful.then_some(Frozen::ClockDoubtful { seq: newest.seq })
}

/// Beyond what the rules say: the oldest that nothing but a rule keeps, until what was written for them makes up for what is missing.
fn oldest_of(catalog: &Catalog, judged: &[Kept], missing_bytes: u64) -> Vec<u64> {
    let mut freed: u64 = 0;
    let mut goes = Vec::new();
    for (copy, kept) in catalog.copies.iter().zip(judged) {
        if freed >= missing_bytes && !goes.is_empty() {
            break;
        }
        if kept.reasons.iter().all(|reason| reason.is_rule()) {
            freed = freed.saturating_add(copy.written_bytes);
            goes.push(copy.seq);
        }
    }
    goes
}

/// What stays in any case.
fn never_removed(copies: &[Copy], plan: &CopyPlan) -> Vec<(usize, Reason)> {
    let newest = |which: &dyn Fn(&Copy) -> bool| copies.iter().rposition(which);
    let cold = |copy: &Copy| copy.bad == 0 && copy.verified.is_some_and(|verified| verified.cold);
    let verified = newest(&|copy| copy.is_good() && cold(copy)).or_else(|| newest(&cold));
    let good = newest(&Copy::is_good);
    let mut all: Vec<(usize, Reason)> = Vec::new();
    all.extend(verified.map(|index| (index, Reason::NewestVerified)));
    all.extend(good.map(|index| (index, Reason::NewestGood)));
    let min_keep = usize::try_from(plan.keep.min_keep.max(1)).unwrap_or(usize::MAX);
    let newest_first = |good: bool| (0..copies.len()).rev().filter(move |index| copies[*index].is_good() == good);
    // Where good ones are missing, others are better than none.
    all.extend(newest_first(true).chain(newest_first(false)).take(min_keep).map(|index| (index, Reason::MinKeep)));
    all
}

type Rule = (u32, Reason, fn(Time) -> u64);

fn apply_rules(copies: &[Copy], plan: &CopyPlan, fills: &dyn Fn(usize) -> bool, mut keep: impl FnMut(usize, Reason)) {
    let newest_first: Vec<usize> = (0..copies.len()).rev().filter(|index| fills(*index)).collect();
    let last = usize::try_from(plan.keep.last).unwrap_or(usize::MAX);
    newest_first.iter().take(last).for_each(|index| keep(*index, Reason::Last));
    let rules: [Rule; 5] = [
        (plan.keep.hourly, Reason::Hourly, calendar::hour),
        (plan.keep.daily, Reason::Daily, calendar::day),
        (plan.keep.weekly, Reason::Weekly, calendar::iso_week),
        (plan.keep.monthly, Reason::Monthly, calendar::month),
        (plan.keep.yearly, Reason::Yearly, calendar::year),
    ];
    for (count, reason, period) in rules {
        let mut seen = BTreeSet::new();
        for index in &newest_first {
            let room = u64::try_from(seen.len()).is_ok_and(|used| used < u64::from(count));
            if room && seen.insert(period(copies[*index].at)) {
                keep(*index, reason);
            }
        }
        let room = u64::try_from(seen.len()).is_ok_and(|used| used < u64::from(count));
        if let Some(oldest) = newest_first.last().filter(|_| room) {
            keep(*oldest, Reason::Oldest);
        }
    }
}

/// Copies that fill no place because of `large`: those with other versions of the large files than the newest so many. Where the target shares
/// pages there is no cap.
fn capped(catalog: &Catalog, plan: &CopyPlan) -> BTreeSet<u64> {
    let Some(large) = plan.space.large.filter(|_| !catalog.reflinks) else { return BTreeSet::new() };
    let room = usize::try_from(large.keep.max(1)).unwrap_or(usize::MAX);
    let mut versions = BTreeSet::new();
    let fits = |copy: &&Copy| {
        // What was told apart by another size cannot be compared: it counts as if there was no cap.
        let known = copy.large == 0 || copy.large_over != large.over || versions.contains(&copy.large);
        known || (versions.len() < room && versions.insert(copy.large))
    };
    let newest_first = catalog.copies.iter().rev().filter(|copy| copy.is_good());
    let fitting: BTreeSet<u64> = newest_first.filter(fits).map(|copy| copy.seq).collect();
    catalog.copies.iter().map(|copy| copy.seq).filter(|seq| !fitting.contains(seq)).collect()
}

fn is_good_but_for_rot(copy: &Copy) -> bool {
    copy.is_good() || (copy.bad > 0 && Copy { bad: 0, ..copy.clone() }.is_good())
}

/// When a copy was made: where its clock was doubtful, at the time of the next that is not; before that it is as good as new.
fn believed_time(copies: &[Copy], index: usize, now: Time) -> Time {
    copies[index..].iter().find(|copy| !copy.clock_suspect).map_or(now, |copy| copy.at)
}
