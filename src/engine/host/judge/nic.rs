//! NICs: carrier, speed, errors and drops, bonds; and the gateway behind them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::sample::{GatewayStat, LinkMode, NicStat};
use super::super::tally::grown;
use super::super::words::{percent, permille, several};
use super::{Bench, Said, TEN_MINUTES, is_gap};
use crate::engine::types::Time;

const TWO_MINUTES: Duration = Duration::from_secs(120);
/// Below so many packets one lost one is no share of anything.
const PACKETS_ERRORS: u64 = 1_000;
const PACKETS_DROPS: u64 = 10_000;
/// A NIC that was just set up negotiates for some seconds.
const NEGOTIATES: Duration = Duration::from_secs(10);
/// So many changes of the carrier within ten minutes are too many.
const CARRIER_CHANGES: u64 = 4;

/// What is remembered of a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::host) struct NicSeen {
    /// Errors, drops, packets of the reading before.
    before: Option<(Time, [u64; 3])>,
    carrier_changes: Option<u32>,
    /// Since when it is set up, and whether it has had a carrier since.
    up_since: Option<Time>,
    carried_since_up: bool,
    carrier: bool,
}

/// What is remembered of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::host) struct GatewaySeen {
    address: Option<String>,
    /// Answers lost in a row.
    lost: u32,
}

impl NicSeen {
    pub(super) fn forget_rates(&mut self) {
        self.before = None;
    }
}

impl Bench<'_> {
    pub(super) fn nic(&mut self, nic: &NicStat) {
        let of_nic =
            [CheckKind::NicLink, CheckKind::NicErrors, CheckKind::NicDrops, CheckKind::Bond, CheckKind::NicSpeed];
        if !of_nic.into_iter().any(|kind| self.check(kind, &nic.name).is_some()) {
            return;
        }
        self.link(nic);
        self.rates(nic);
        self.bond(nic);
    }

    fn link(&mut self, nic: &NicStat) {
        const KIND: CheckKind = CheckKind::NicLink;
        let name = &nic.name;
        let now = self.now;
        let seen = self.seen.nics.entry(name.clone()).or_default();
        let turned = std::mem::replace(&mut seen.carrier, nic.carrier) != nic.carrier;
        let changes = seen.carrier_changes.replace(nic.carrier_changes);
        let changes = changes.and_then(|before| nic.carrier_changes.checked_sub(before)).unwrap_or_default();
        if turned && nic.carrier {
            self.said.push(Said::Carrier);
        }
        if !nic.admin_up {
            (seen.up_since, seen.carried_since_up) = (None, false);
            return self.absent(KIND, name, "it is set down");
        }
        let up_since = *seen.up_since.get_or_insert(now);
        seen.carried_since_up |= nic.carrier;
        let carried_since_up = seen.carried_since_up;
        if nic.carrier && self.seen.known.carried.insert(name.clone()) {
            self.seen.known.changed = true;
        }
        let Some(check) = self.check(KIND, name) else {
            return;
        };
        let asked = check.asked;
        let (changes, _) = self.tally(KIND, name, TEN_MINUTES, (u64::from(changes), 0));
        let verdict = if nic.carrier {
            if changes >= CARRIER_CHANGES {
                let why = format!("the carrier changed {changes} times within 10m");
                Verdict::plain(Health::Degraded, None, why)
            } else {
                Verdict::plain(Health::Ok, None, "it has a carrier".to_owned())
            }
        } else if !carried_since_up && now.since(up_since) < NEGOTIATES && !self.once {
            return;
        } else if asked || self.seen.known.carried.contains(name) {
            Verdict::plain(
                Health::Failing,
                None,
                format!("no carrier, {}", several(changes, "change", "changes") + " within 10m"),
            )
        } else {
            Verdict::absent("no cable since it is watched")
        };
        self.say(KIND, name, verdict);
    }

    fn rates(&mut self, nic: &NicStat) {
        let now = self.now;
        let counts = [nic.errors, nic.drops, nic.received_packets.saturating_add(nic.sent_packets)];
        let Some(seen) = self.seen.nics.get_mut(&nic.name) else {
            return;
        };
        let Some((at, before)) = seen.before.replace((now, counts)) else {
            return;
        };
        let every = self.rule(CheckKind::NicErrors, &nic.name).map_or(TWO_MINUTES, |rule| rule.every);
        let more = [0, 1, 2].map(|index: usize| grown(before[index], counts[index]));
        let [Some(errors), Some(drops), Some(packets)] = more else {
            return;
        };
        if is_gap(now.since(at), every) {
            return;
        }
        let share = [
            (CheckKind::NicErrors, errors, TWO_MINUTES, PACKETS_ERRORS, "errors", "2m"),
            (CheckKind::NicDrops, drops, TEN_MINUTES, PACKETS_DROPS, "drops", "10m"),
        ];
        for (kind, count, span, least, what, within) in share {
            if self.check(kind, &nic.name).is_none() {
                continue;
            }
            let (bad, of) = self.tally(kind, &nic.name, span, (count, packets));
            if of < least || !self.is_covered(kind, &nic.name, span / 2) {
                let text = format!("only {of} packets within {within}");
                self.say(kind, &nic.name, Verdict::plain(Health::Ok, Some(0), text));
                continue;
            }
            let value = permille(bad, of);
            let text = format!("{} of {of} packets within {within}: {bad} {what}", percent(value));
            self.measure(kind, &nic.name, value, text);
        }
    }

    fn bond(&mut self, nic: &NicStat) {
        let Some((slaves, up)) = nic.bond else {
            return self.absent(CheckKind::Bond, &nic.name, "it has no slaves");
        };
        if self.check(CheckKind::Bond, &nic.name).is_none() {
            return;
        }
        let level = match (slaves, up) {
            (0, _) => return self.absent(CheckKind::Bond, &nic.name, "it has no slaves"),
            (_, 0) => Health::Failing,
            (slaves, up) if up < slaves => Health::Degraded,
            (..) => Health::Ok,
        };
        let text = format!("{up} of {slaves} slaves are up");
        self.say(CheckKind::Bond, &nic.name, Verdict::plain(level, Some(i64::from(up)), text));
    }

    pub(super) fn link_mode(&mut self, mode: &LinkMode) {
        const KIND: CheckKind = CheckKind::NicSpeed;
        let name = &mode.nic;
        let Some(rule) = self.rule(KIND, name).cloned() else {
            return;
        };
        let Some(speed) = mode.speed.filter(|speed| *speed > 0) else {
            // Without a carrier there is no speed, which the link's check tells.
            if self.seen.nics.get(name).is_none_or(|nic| nic.carrier) {
                self.absent(KIND, name, "it does not say its speed");
            }
            return;
        };
        let best = self.seen.known.speeds.entry(name.clone()).or_default();
        if speed > *best {
            *best = speed;
            self.seen.known.changed = true;
        }
        let best = self.seen.known.speeds.get(name).copied().unwrap_or(speed);
        let half = mode.full_duplex == Some(false);
        let value = i64::from(speed);
        if half || (speed < best && !rule.own_degraded) {
            let duplex = if half { ", half duplex" } else { "" };
            let why = format!("{speed} Mbit/s{duplex}, it had {best} Mbit/s");
            return self.say(KIND, name, Verdict::plain(Health::Degraded, Some(value), why));
        }
        self.measure(KIND, name, value, format!("{speed} Mbit/s"));
    }

    pub(super) fn gateway(&mut self, gateway: &GatewayStat) {
        const KIND: CheckKind = CheckKind::Gateway;
        let seen = &mut self.seen.gateway;
        if seen.address != gateway.address {
            seen.address.clone_from(&gateway.address);
            seen.lost = 0;
        }
        let Some(address) = &gateway.address else {
            return self.absent(KIND, "", "there is no default route");
        };
        seen.lost = if gateway.answered { 0 } else { seen.lost.saturating_add(1) };
        let lost = seen.lost;
        let by = gateway.nic.as_deref().map(|nic| format!(" by {nic}")).unwrap_or_default();
        let text = match lost {
            0 => format!("{address}{by} answers"),
            lost => format!("{address}{by} did not answer {}", several(u64::from(lost), "time", "times")),
        };
        self.measure(KIND, "", i64::from(lost), text);
    }
}
