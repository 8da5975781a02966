//! The watch over the host in `check --explain`.

use super::super::check::level_text;
use super::super::schema::kind_name;
use super::super::values::duration_text;
use super::{Lines, words};
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::{AlertOn, AlertPlan, Band, CheckPlan, OnDiskFailing};
use crate::engine::plan::{Needs, WatchdogPlan};

pub(super) fn watchdog(plan: &WatchdogPlan, out: &mut Lines) {
    let require =
        if plan.require.is_empty() { String::new() } else { format!(", while {} are well", plan.require.join(", ")) };
    out.line("watchdog", format!("{}, {}{require}", plan.device.display(), duration_text(plan.timeout)));
}

pub(super) fn needs(plan: &Needs, out: &mut Lines) {
    let data: Vec<String> = plan.data.iter().map(|path| path.display().to_string()).collect();
    out.list("data", &data);
    out.list("nics", &plan.nics);
    if !data.is_empty() {
        let text = match plan.on_disk_failing {
            OnDiskFailing::Leave => "Leave: it runs on, out of its balancers, and is not blamed",
            OnDiskFailing::Freeze => "Freeze: it is frozen until the disk is well",
            OnDiskFailing::Kill => "Kill: it is killed, and started again when the disk is well",
            OnDiskFailing::Hold => "Hold: it is stopped, and started again when the disk is well",
            OnDiskFailing::Ignore => "Ignore: nothing happens",
        };
        out.line("on_disk_failing", text);
    }
}

pub(super) fn check(plan: &CheckPlan, out: &mut Lines) {
    out.0.push_str(&format!("check {}\n", plan.name));
    let kind = kind_name(plan.kind);
    match &plan.target {
        Some(target) => out.line("check", format!("{kind} of {target}")),
        None if plan.kind.scope() == crate::engine::host::kind::Scope::Host => out.line("check", kind),
        None => out.line("check", format!("{kind}, all of them")),
    }
    if !plan.enabled {
        return out.line("enabled", "false: not checked at all");
    }
    if let Some(every) = plan.every {
        out.line("every", duration_text(every));
    }
    for (key, band) in [("degraded", plan.degraded), ("failing", plan.failing)] {
        if let Some(band) = band {
            out.line(key, band_text(plan.kind, band));
        }
    }
    for (key, count, what) in [("fall", plan.fall, "bad"), ("rise", plan.rise, "good")] {
        if let Some(count) = count {
            out.line(key, format!("{count} {what} samples in a row"));
        }
    }
}

fn band_text(kind: CheckKind, band: Band) -> String {
    format!("from {} on, until {}", level_text(kind, band.enter), level_text(kind, band.leave))
}

pub(super) fn alert(plan: &AlertPlan, out: &mut Lines) {
    out.0.push_str("alert\n");
    out.line("exec", words(&plan.exec));
    match &plan.user {
        Some(user) => out.line("user", format!("{} (uid {}, gid {})", user.name, user.uid, user.gid)),
        None => out.line("user", "the agent's own"),
    }
    let on: Vec<String> = plan.on.iter().map(|on| on_name(*on).to_owned()).collect();
    out.list("on", &on);
    out.line("at_most", format!("{} in {}, then one summary", plan.at_most, duration_text(plan.within)));
    out.line("timeout", duration_text(plan.timeout));
    if let Some(cwd) = &plan.cwd {
        out.line("cwd", cwd.display());
    }
}

fn on_name(on: AlertOn) -> &'static str {
    match on {
        AlertOn::Failing => "Failing",
        AlertOn::Degraded => "Degraded",
        AlertOn::Recovered => "Recovered",
        AlertOn::Fenced => "Fenced",
        AlertOn::CopyFailed => "CopyFailed",
    }
}
