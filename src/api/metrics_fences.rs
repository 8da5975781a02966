//! The part of `GET /metrics` about fences and limits.

use std::collections::BTreeMap;

use super::metrics::{family, sample};
use crate::engine::action::Note;
use crate::engine::fence::note::FenceNote;
use crate::engine::fence::plan::Limits;
use crate::engine::fence::record::{Standing, Trigger};
use crate::engine::fence::view::FencesView;
use crate::engine::view::ServiceView;

/// Fences that are over, since this agent began. A service that left the configuration leaves the table.
#[derive(Debug, Default)]
pub(super) struct Over {
    by_trigger: BTreeMap<String, BTreeMap<Trigger, u64>>,
    observed: BTreeMap<String, u64>,
}

impl Over {
    pub(super) fn count(&mut self, note: &Note, fence: &FenceNote) {
        match fence {
            FenceNote::Closed { record } if record.standing != Standing::Observed => {
                let own = self.by_trigger.entry(record.service.clone()).or_default();
                *own.entry(record.trigger).or_default() += 1;
            }
            FenceNote::Observed { .. } => {
                if let Some(subject) = &note.subject {
                    *self.observed.entry(subject.service.clone()).or_default() += 1;
                }
            }
            FenceNote::Closed { .. }
            | FenceNote::Fenced { .. }
            | FenceNote::Proven { .. }
            | FenceNote::Incomplete { .. }
            | FenceNote::Released { .. }
            | FenceNote::Passed { .. }
            | FenceNote::LimitsRefused { .. } => {}
        }
    }

    pub(super) fn forget(&mut self, service: &str) {
        self.by_trigger.remove(service);
        self.observed.remove(service);
    }
}

/// Appends every family.
pub(super) fn text(out: &mut String, views: &[ServiceView<'_>], fences: &FencesView<'_>, over: &Over) {
    active(out, fences);
    totals(out, fences, over);
    limits(out, views);
}

fn active(out: &mut String, fences: &FencesView<'_>) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (record, fence) in &fences.active {
        let level = fence.level.map_or("probation", |level| level.word());
        *counts.entry((&record.service, level)).or_default() += 1;
    }
    let name = "mainstay_fence_active";
    family(
        out,
        name,
        "gauge",
        "Replicas that are fenced now, by level, and those on probation; absent where there is none.",
    );
    for ((service, level), count) in counts {
        sample(out, name, &[("service", service), ("level", level)], count);
    }
}

/// Those that stand count already: none of them is in `over` before it has ended.
fn totals(out: &mut String, fences: &FencesView<'_>, over: &Over) {
    let mut counts: BTreeMap<(&str, Trigger), u64> = BTreeMap::new();
    for (service, triggers) in &over.by_trigger {
        for (trigger, count) in triggers {
            counts.insert((service, *trigger), *count);
        }
    }
    for (record, _) in &fences.active {
        *counts.entry((&record.service, record.trigger)).or_default() += 1;
    }
    let name = "mainstay_fences_total";
    family(out, name, "counter", "Fences that were set since this agent began, and those it found.");
    for ((service, trigger), count) in counts {
        sample(out, name, &[("service", service), ("trigger", trigger.word())], count);
    }
    let name = "mainstay_fences_observed_total";
    family(out, name, "counter", "Fences that were only told: dry runs, and what would have gone too far.");
    for (service, count) in &over.observed {
        sample(out, name, &[("service", service)], count);
    }
}

/// Sums over the running replicas, as the figures of what they use are, so that one can be divided by the other.
fn limits(out: &mut String, views: &[ServiceView<'_>]) {
    let rows: [(&str, &str, LimitOf); 3] = [
        ("mainstay_service_limit_cpu_ratio", "CPUs that the present processes may use.", |limits| {
            limits.cpu_max_permille.map(u64::from)
        }),
        ("mainstay_service_limit_memory_bytes", "Memory that the present processes may have.", |limits| {
            limits.memory_max_bytes
        }),
        ("mainstay_service_limit_pids", "Processes and threads that there may be.", |limits| {
            limits.pids_max.map(u64::from)
        }),
    ];
    for (name, help, limit) in rows {
        family(out, name, "gauge", help);
        for view in views {
            let running = view.replicas.iter().filter(|one| one.pid.is_some());
            let each: Vec<u64> = running.filter_map(|one| limit(&one.limits.wanted)).collect();
            if each.is_empty() {
                continue;
            }
            let sum: u64 = each.iter().fold(0, |sum, one| sum.saturating_add(*one));
            let labels = [("service", view.plan.name.as_str())];
            if name.ends_with("_ratio") {
                sample(out, name, &labels, format!("{}.{:03}", sum / 1_000, sum % 1_000));
            } else {
                sample(out, name, &labels, sum);
            }
        }
    }
}

/// `None`: not limited.
type LimitOf = fn(&Limits) -> Option<u64>;
