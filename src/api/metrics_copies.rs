//! The part of `GET /metrics` about copies.

use super::copies::target_words;
use super::metrics::{family, sample};
use crate::engine::copies::view::{CopyView, SetState};

type Row = (&'static str, &'static str, fn(&CopyView<'_>) -> Option<u64>);

const STATES: [SetState; 4] = [SetState::Unknown, SetState::Ok, SetState::Degraded, SetState::Failing];

const ROWS: [Row; 11] = [
    (
        "mainstay_copy_last_success_timestamp_seconds",
        "When the newest good copy was made, or was last found to be the same as its source.",
        |view| view.good_as_of.map(|at| at.0 / 1_000_000_000),
    ),
    ("mainstay_copy_next_timestamp_seconds", "When the next run is due.", |view| {
        view.next.map(|at| at.0 / 1_000_000_000)
    }),
    ("mainstay_copy_max_age_seconds", "How old the newest good copy may be.", |view| {
        view.plan.max_age.map(|age| age.as_secs())
    }),
    ("mainstay_copy_copies", "Committed copies on the target.", |view| Some(view.catalog.copies.len() as u64)),
    ("mainstay_copy_files", "Files of the newest copy.", |view| view.catalog.copies.last().map(|copy| copy.files)),
    ("mainstay_copy_bytes", "Content of the newest copy.", |view| view.catalog.copies.last().map(|copy| copy.bytes)),
    ("mainstay_copy_written_bytes", "What was written for the newest copy.", |view| {
        view.catalog.copies.last().map(|copy| copy.written_bytes)
    }),
    ("mainstay_copy_quarantined_files", "Files found bad and not mended.", |view| Some(view.catalog.quarantined)),
    ("mainstay_copy_failures", "Runs that failed since the last that did not.", |view| Some(u64::from(view.failures))),
    ("mainstay_copy_target_free_bytes", "Free space of the target.", |view| {
        (view.catalog.size_bytes > 0).then_some(view.catalog.free_bytes)
    }),
    ("mainstay_copy_verified_timestamp_seconds", "When a copy was last read again and was whole.", |view| {
        let verified = view.catalog.copies.iter().filter_map(|copy| copy.verified).map(|verified| verified.at.0);
        verified.max().map(|at| at / 1_000_000_000)
    }),
];

/// Appends every family that has something to tell.
pub(super) fn text(out: &mut String, views: &[CopyView<'_>]) {
    if views.is_empty() {
        return;
    }
    for (name, help, value) in ROWS {
        let known: Vec<(&str, u64)> =
            views.iter().filter_map(|view| Some((view.plan.name.as_str(), value(view)?))).collect();
        if !known.is_empty() {
            family(out, name, "gauge", help);
            known.iter().for_each(|(set, value)| sample(out, name, &[("set", set)], value));
        }
    }
    let name = "mainstay_copy_state";
    family(out, name, "gauge", "1 for the state that the set is in, 0 for the others.");
    for view in views {
        for state in STATES {
            let labels = [("set", view.plan.name.as_str()), ("state", state.word())];
            sample(out, name, &labels, u8::from(view.state == state));
        }
    }
    let name = "mainstay_copy_target_ready";
    family(out, name, "gauge", "1 when copies can be made on the target.");
    for view in views {
        let ready = target_words(view.target).0 == "ready";
        sample(out, name, &[("set", view.plan.name.as_str())], u8::from(ready));
    }
}
