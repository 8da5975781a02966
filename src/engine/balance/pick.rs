//! Which backend a connection goes to: the candidates in the order in which they are to be tried.
//!
//! The order matters more than the first choice: a connection that fails goes to the next one and never to the same twice.
//!
//! * **Rendezvous** (Thaler, Ravishankar 1998): each backend scores a hash of the key and its own name, the highest wins. If a backend
//!   goes, its keys and no others move. With unequal weights the score is `weight / -log(hash)` (Schindelhauer, Schomaker 2005; Mosko
//!   2014), which gives each its share and keeps that property, and for equal weights gives the same order.
//! * **Bounded load** (Mirrokni, Thorup, Zadimoghaddam 2016): a backend that holds more than its share times `max_load` goes behind those
//!   that do not. With 150 % a single address that makes every connection loads nobody above that, and 86 % of the
//!   connections of a Zipf population still reach the backend of their key. A bound alone would destroy affinity where connections are few (25 %
//!   with 8 on 10 backends), so everybody may hold [`LOAD_FLOOR`].
//! * **Modulo**: the hash modulo the number of configured slots; a slot that is not available is passed over by hashing again, so that
//!   here too only its keys move (with the number of the living it would be 90 %). A change of the number of slots moves nearly all.
//! * Where a key is wanted and there is none, the least loaded is taken.

use std::time::Duration;

pub use super::hash::hash_key;
use super::hash::{GOLDEN, mix, rarity};
use super::plan::{Algorithm, NoneLeft};
use super::table::{Backend, Standing, Table};

/// Connections that a backend may always hold, whatever `max_load` says.
pub const LOAD_FLOOR: u32 = 16;

/// The key under which names are hashed; never changed.
const NAME_SECRET: [u64; 2] = [0x6d61_696e_7374_6179, 0x6261_6c61_6e63_6572];

/// So many candidates are ranked without a list on the heap.
const USUAL_MAX: usize = 16;

/// Attempts of `Modulo` to find another slot. With half the slots out, one key in a million is left to rendezvous.
const REHASHES_MAX: u32 = 20;

/// Weights above are scaled down, all of them alike.
const WEIGHT_MAX: u64 = 65_535;

/// The share of its weight that a backend takes at the begin of its ramp, in thousandths.
const RAMP_LEAST: u32 = 100;
const FULL: u32 = 1_000;

/// Prepared from a table: the hashes of the names, the weights and the standings.
#[derive(Clone, Debug)]
pub struct Picker {
    slots: Vec<Slot>,
    /// For `Modulo`: where each slot's share ends, in units of the greatest common divisor of the weights.
    ends: Vec<u64>,
    algorithm: Algorithm,
    max_load_permille: Option<u32>,
    fail_open: bool,
    ramp: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    weight: u32,
    standing: Standing,
    /// `None` for what is always ready: a fixed address.
    ready_for: Option<Duration>,
}

/// How things stand at a pick.
#[expect(missing_debug_implementations, reason = "closures")]
pub struct Moment<'a> {
    /// Connections of the backend in this slot.
    pub active: &'a dyn Fn(usize) -> u32,
    pub ejected: &'a dyn Fn(usize) -> bool,
    /// Since the table came.
    pub elapsed: Duration,
    /// A counter of the caller, or random: whose turn it is, and how ties are broken.
    pub draw: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    slot: u16,
    turn: u16,
    /// In thousandths.
    weight: u32,
    active: u32,
    /// The least is the first.
    cost: u64,
}

/// Added to the cost of those that hold their share already.
const LATE: u64 = 1 << 63;

impl Picker {
    /// Slots beyond 65,535 are passed over.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let backends = &table.backends[..table.backends.len().min(usize::from(u16::MAX))];
        let heaviest = backends.iter().map(|backend| backend.weight.into()).max().unwrap_or(1_u64);
        let slots: Vec<Slot> = backends.iter().map(|backend| Slot::new(backend, heaviest)).collect();
        let divisor = slots.iter().fold(0, |divisor, slot| greatest_common_divisor(divisor, slot.weight)).max(1);
        let mut end = 0;
        let ends = slots.iter().map(|slot| {
            end += u64::from(slot.weight / divisor);
            end
        });
        Self {
            ends: ends.collect(),
            slots,
            algorithm: table.rules.algorithm,
            max_load_permille: table.rules.max_load_permille,
            fail_open: table.rules.none_left == NoneLeft::FailOpen,
            ramp: table.rules.ramp,
        }
    }

    /// Slots to be tried, best first; none that may not be tried. `out` is cleared first. Up to 16 backends it allocates nothing, if
    /// `out` has room.
    ///
    /// Those that are `Up` and not ejected. If there is none, those that are ejected, since an attempt that may fail is better than none;
    /// then, if the rule is `FailOpen`, the degraded ones.
    pub fn order(&self, key: Option<u64>, moment: &Moment<'_>, out: &mut Vec<u16>) {
        out.clear();
        self.append(key, moment, out, |slot, standing| standing == Standing::Up && !(moment.ejected)(slot));
        if !out.is_empty() {
            return;
        }
        self.append(key, moment, out, |_, standing| standing == Standing::Up);
        if self.fail_open {
            self.append(key, moment, out, |_, standing| standing == Standing::Degraded);
        }
    }

    fn append(
        &self,
        key: Option<u64>,
        moment: &Moment<'_>,
        out: &mut Vec<u16>,
        fits: impl Fn(usize, Standing) -> bool,
    ) {
        let mut few = [Candidate::default(); USUAL_MAX];
        let mut many = Vec::new();
        let candidates = if self.slots.len() <= USUAL_MAX {
            &mut few[..]
        } else {
            many.resize(self.slots.len(), Candidate::default());
            &mut many[..]
        };
        let mut count = 0;
        for (slot, (index, entry)) in (0_u16..).zip(self.slots.iter().enumerate()) {
            if fits(index, entry.standing) {
                candidates[count] =
                    Candidate { slot, weight: self.share(entry, moment.elapsed), ..Candidate::default() };
                count += 1;
            }
        }
        let candidates = &mut candidates[..count];
        self.undo_ramp_of_all(candidates);
        self.rank(key, moment, candidates);
        candidates.sort_unstable_by_key(|candidate| (candidate.cost, candidate.turn));
        out.extend(candidates.iter().map(|candidate| candidate.slot));
    }

    fn rank(&self, key: Option<u64>, moment: &Moment<'_>, candidates: &mut [Candidate]) {
        match (self.algorithm, key) {
            (Algorithm::Rendezvous, Some(key)) => {
                self.score(key, candidates);
                self.bound(moment, candidates);
            }
            (Algorithm::Modulo, Some(key)) => {
                self.score(key, candidates);
                if let Some(chosen) = self.modulo(key, candidates) {
                    candidates[chosen].cost = 0;
                }
                self.bound(moment, candidates);
            }
            (Algorithm::LeastConnections, _) | (Algorithm::Rendezvous | Algorithm::Modulo, None) => {
                give_turns(moment.draw, candidates);
                count_active(moment, candidates);
                for candidate in candidates {
                    candidate.cost = load(candidate);
                }
            }
            (Algorithm::RoundRobin, _) => give_turns(moment.draw, candidates),
            (Algorithm::TwoChoices, _) => two_choices(moment, candidates),
        }
    }

    /// The weight in thousandths, less during the ramp.
    fn share(&self, slot: &Slot, elapsed: Duration) -> u32 {
        let ready_for = match slot.ready_for {
            Some(ready_for) if !self.ramp.is_zero() => ready_for.saturating_add(elapsed),
            Some(_) | None => return slot.weight * FULL,
        };
        if ready_for >= self.ramp {
            return slot.weight * FULL;
        }
        let permille = ready_for.as_nanos() * u128::from(FULL) / self.ramp.as_nanos();
        slot.weight * u32::try_from(permille).unwrap_or(FULL).max(RAMP_LEAST)
    }

    fn is_ramping(&self, candidate: &Candidate) -> bool {
        candidate.weight != self.slots[usize::from(candidate.slot)].weight * FULL
    }

    /// Where nobody takes a full share there is nobody to spare the others.
    fn undo_ramp_of_all(&self, candidates: &mut [Candidate]) {
        if candidates.iter().all(|candidate| self.is_ramping(candidate)) {
            for candidate in candidates {
                candidate.weight = self.slots[usize::from(candidate.slot)].weight * FULL;
            }
        }
    }

    /// By rendezvous.
    fn score(&self, key: u64, candidates: &mut [Candidate]) {
        let equal = are_equal(candidates);
        for (turn, candidate) in (0..).zip(candidates) {
            let hash = mix(key ^ self.slots[usize::from(candidate.slot)].hash);
            candidate.turn = turn;
            candidate.cost = match equal {
                true => (u64::MAX - hash) / 2,
                // Weights in thousandths are below 2^26, the rarity is at most 2^38.
                false => (rarity(hash) << 25) / u64::from(candidate.weight),
            };
        }
    }

    /// The candidate in the slot of this key, or in the first that hashing again finds. A ramping one takes only its part of its keys.
    fn modulo(&self, key: u64, candidates: &[Candidate]) -> Option<usize> {
        let total = *self.ends.last()?;
        let mut hash = key;
        for _ in 0..REHASHES_MAX {
            let point = hash % total;
            let slot = self.ends.partition_point(|end| *end <= point);
            let found = candidates.binary_search_by_key(&slot, |candidate| candidate.slot.into());
            hash = mix(hash.wrapping_add(GOLDEN));
            if let Ok(found) = found {
                let (share, full) = (candidates[found].weight, self.slots[slot].weight);
                if hash % u64::from(full * FULL) < u64::from(share) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Marks those that hold `max_load` times their share of all connections, this one included.
    fn bound(&self, moment: &Moment<'_>, candidates: &mut [Candidate]) {
        let Some(permille) = self.max_load_permille else { return };
        count_active(moment, candidates);
        if candidates.iter().all(|candidate| candidate.active < LOAD_FLOOR) {
            return;
        }
        let total = 1 + candidates.iter().map(|candidate| u64::from(candidate.active)).sum::<u64>();
        let weights = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum::<u64>();
        for candidate in candidates {
            let most = u128::from(permille) * u128::from(total) * u128::from(candidate.weight);
            if candidate.active >= LOAD_FLOOR && u128::from(candidate.active) * 1_000 * u128::from(weights) >= most {
                candidate.cost |= LATE;
            }
        }
    }
}

impl Slot {
    fn new(backend: &Backend, heaviest: u64) -> Self {
        let weight = u64::from(backend.weight) * WEIGHT_MAX / heaviest.max(WEIGHT_MAX);
        Self {
            hash: hash_key(NAME_SECRET, backend.name.as_bytes()),
            weight: u32::try_from(weight).unwrap_or(u32::MAX).max(1),
            standing: backend.standing,
            ready_for: (backend.run != 0).then_some(backend.ready_for),
        }
    }
}

fn count_active(moment: &Moment<'_>, candidates: &mut [Candidate]) {
    for candidate in candidates {
        candidate.active = (moment.active)(usize::from(candidate.slot));
    }
}

/// Connections for each unit of weight.
fn load(candidate: &Candidate) -> u64 {
    (u64::from(candidate.active) << 26) / u64::from(candidate.weight)
}

fn are_equal(candidates: &[Candidate]) -> bool {
    candidates.windows(2).all(|pair| pair[0].weight == pair[1].weight)
}

/// Round robin: the first is the one whose turn it is, the others follow by slot. With unequal weights the turns of a consecutive `draw` are
/// multiples of the golden ratio on the circle of weights: nobody has many turns in a row, and each has its share.
fn give_turns(draw: u64, candidates: &mut [Candidate]) {
    let count = candidates.len();
    if count == 0 {
        return;
    }
    let first = if are_equal(candidates) {
        usize::try_from(draw % count as u64).unwrap_or_default()
    } else {
        at_point(draw.wrapping_mul(GOLDEN), candidates, None)
    };
    for (turn, index) in (0..).zip((0..count).map(|step| (first + step) % count)) {
        candidates[index].turn = turn;
    }
}

/// The candidate in whose part of the weights `point` (of 2^64) lies, with one of them left out.
fn at_point(point: u64, candidates: &[Candidate], without: Option<usize>) -> usize {
    let weight = |index: usize| if Some(index) == without { 0 } else { u64::from(candidates[index].weight) };
    let total: u64 = (0..candidates.len()).map(weight).sum();
    let point = u64::try_from((u128::from(point) * u128::from(total)) >> 64).unwrap_or_default();
    let mut end = 0;
    let mut inside = |index: &usize| {
        end += weight(*index);
        point < end
    };
    (0..candidates.len()).find(|index| inside(index)).unwrap_or_default()
}

/// The less loaded of two that are drawn (Mitzenmacher 2001), the other, and the rest in turn.
fn two_choices(moment: &Moment<'_>, candidates: &mut [Candidate]) {
    give_turns(moment.draw, candidates);
    count_active(moment, candidates);
    if candidates.len() < 2 {
        return;
    }
    let drawn = mix(moment.draw);
    let one = at_point(drawn, candidates, None);
    let other = at_point(mix(drawn ^ GOLDEN), candidates, Some(one));
    let more_loaded = if load(&candidates[other]) < load(&candidates[one]) { one } else { other };
    for (index, candidate) in candidates.iter_mut().enumerate() {
        candidate.cost = match index {
            _ if index == more_loaded => 1,
            _ if index == one || index == other => 0,
            _ => 2,
        };
    }
}

fn greatest_common_divisor(mut one: u32, mut other: u32) -> u32 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests;
