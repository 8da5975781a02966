//! Sets of copies in `check --explain`.

use super::super::values::{clock_text, duration_text, share_text, size_text};
use super::{Lines, words};
use crate::engine::copies::plan::{CopyPlan, OnFull, OnSourceFailing, Quiesce, ReadBack, When};

pub(super) fn copies(plan: &CopyPlan, out: &mut Lines) {
    out.0.push_str(&format!("copies {}\n", plan.name));
    let from: Vec<String> = plan.from.iter().map(|path| path.display().to_string()).collect();
    out.list("from", &from);
    out.list("exclude", &plan.exclude);
    out.line("to", plan.to.join(&plan.name).display());
    if plan.same_disk {
        out.line("same_disk", "true: also on the disk of the source");
    }
    out.line("uuid", plan.uuid.as_deref().unwrap_or("of any marker"));
    out.line("when", when(&plan.when));
    let keep = plan.keep;
    let rules = [
        (keep.last, "last"),
        (keep.hourly, "hourly"),
        (keep.daily, "daily"),
        (keep.weekly, "weekly"),
        (keep.monthly, "monthly"),
        (keep.yearly, "yearly"),
    ];
    let rules: Vec<String> =
        rules.iter().filter(|(count, _)| *count > 0).map(|(count, rule)| format!("{count} {rule}")).collect();
    out.line("keep", format!("{}; at least {} good ones", rules.join(", "), keep.min_keep));
    out.line("quiesce", quiesce(&plan.quiesce));
    let or_never = |every: Option<std::time::Duration>| every.map_or("never".to_owned(), duration_text);
    out.line("scrub_every", or_never(plan.scrub_every));
    out.line("restore_test", or_never(plan.restore_test));
    out.line("max_age", plan.max_age.map_or("no alarm".to_owned(), duration_text));
    out.line("max_shrink", format!("{}: a copy that lost more is suspect", share_text(plan.max_shrink_permille)));
    if let Some(bandwidth) = plan.bandwidth {
        out.line("bandwidth", format!("{} a second", size_text(bandwidth)));
    }
    space(plan, out);
    let read_back = match plan.read_back {
        ReadBack::Written => "Written: what is new is read again before it counts",
        ReadBack::All => "All: the whole copy is read again before it counts",
        ReadBack::None => "None",
    };
    out.line("read_back", read_back);
    let failing = match plan.on_source_failing {
        None => "as the services' on_disk_failing",
        Some(OnSourceFailing::Hold) => "Hold: the services are stopped until the disk is well",
        Some(OnSourceFailing::Restore) => "Restore: they go on from the newest verified copy",
    };
    out.line("on_source_failing", failing);
    if plan.on_source_failing == Some(OnSourceFailing::Restore) {
        let how = match &plan.failover.link {
            Some(link) => format!("the link {} is switched", link.display()),
            None => "it is mounted over the source".to_owned(),
        };
        out.line("failover", format!("after {}: {how}", duration_text(plan.failover.after)));
    }
}

fn when(when: &When) -> String {
    let every = when.every.map(|every| format!("every {}", duration_text(every)));
    let times: Vec<String> = when.at.iter().map(|time| clock_text(*time)).collect();
    let at = (!times.is_empty()).then(|| format!("at {} UTC", times.join(", ")));
    let on_change = when
        .on_change
        .map(|on| format!("{} after a change, {} at the latest", duration_text(on.quiet), duration_text(on.max_wait)));
    let parts: Vec<String> = [every, at, on_change].into_iter().flatten().collect();
    if parts.is_empty() { "by hand only".to_owned() } else { parts.join("; ") }
}

fn quiesce(quiesce: &Quiesce) -> String {
    match quiesce {
        Quiesce::None => "None: files that change while they are read are read again".to_owned(),
        Quiesce::Freeze { service, max } => format!("Freeze: {service} is frozen, for {} at most", duration_text(*max)),
        Quiesce::Stop { service } => format!("Stop: {service} is stopped and started again"),
        Quiesce::Exec { pre, post, timeout } => {
            format!("Exec: before {}, after {}, {} each", named(pre), named(post), duration_text(*timeout))
        }
    }
}

fn named(command: &[String]) -> String {
    if command.is_empty() { "nothing".to_owned() } else { words(command) }
}

fn space(plan: &CopyPlan, out: &mut Lines) {
    let space = plan.space;
    let on_full = match space.on_full {
        OnFull::Stop => "then no copy is made",
        OnFull::PruneOldest => "then the oldest copies go",
    };
    let (share, least) = (share_text(space.reserve_permille), size_text(space.reserve_bytes));
    out.line("space", format!("{share} and at least {least} stay free; {on_full}"));
    if let Some(large) = space.large {
        let over = size_text(large.over);
        out.line("space.large", format!("files from {over} on: {} versions where nothing can be shared", large.keep));
    }
}
