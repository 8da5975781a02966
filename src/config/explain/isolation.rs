//! Limits and fences in `check --explain`.

use super::super::check::rung_name;
use super::super::values::{duration_text, share_text, size_text};
use super::Lines;
use crate::engine::fence::plan::{FenceLevel, FencePlan, IoMax, Limits, Mode, ReleaseRule, Rung, Triggers};
use crate::engine::plan::ServicePlan;

pub(super) fn isolation(service: &ServicePlan, out: &mut Lines) {
    if let Some(resources) = &service.resources {
        let required = if resources.required { ", all of it required" } else { "" };
        out.line("resources", format!("{}{required}", limits(&resources.limits)));
    }
    if let Some(access) = &service.process.access {
        for (key, paths) in [("can_read", &access.read), ("can_write", &access.write)] {
            match paths.as_deref() {
                Some([]) => out.line(key, "nothing"),
                Some(paths) => out.line(key, paths.join(", ")),
                None => {}
            }
        }
    }
    if service.priority != 0 {
        out.line("priority", service.priority);
    }
    let never = if service.min_healthy >= service.replicas { ": what is well is not fenced by itself" } else { "" };
    out.line("min_healthy", format!("{} of {}{never}", service.min_healthy, service.replicas));
    let default = FencePlan::default();
    fence(service.fence.as_deref().unwrap_or(&default), out);
}

fn fence(fence: &FencePlan, out: &mut Lines) {
    let rungs: Vec<String> = fence.ladder.iter().map(rung).collect();
    out.line("fence", format!("{}, {} each", rungs.join(", "), duration_text(fence.step)));
    let probation = duration_text(fence.probation);
    let release = match fence.release {
        ReleaseRule::After(after) => format!(
            "after {}, doubling up to {}, then {probation} on probation",
            duration_text(after),
            duration_text(fence.release_max)
        ),
        ReleaseRule::Manual => "by hand only".to_owned(),
    };
    out.line("release", release);
    out.line("triggers", triggers(&fence.triggers));
}

fn rung(rung: &Rung) -> String {
    match rung {
        Rung::Throttle(given) => format!("{} ({})", rung_name(FenceLevel::Throttle), limits(given)),
        Rung::Freeze | Rung::Kill | Rung::Hold => rung_name(rung.level()).to_owned(),
    }
}

fn triggers(triggers: &Triggers) -> String {
    let Triggers { liveness, restarts, cpu, pids, pressure, host_memory } = *triggers;
    let all = [
        ("liveness", liveness),
        ("restarts", restarts),
        ("cpu", cpu),
        ("pids", pids),
        ("pressure", pressure),
        ("host_memory", host_memory),
    ];
    let words = all.map(|(name, mode)| match mode {
        Mode::On => name.to_owned(),
        Mode::DryRun => format!("{name} (dry run)"),
        Mode::Off => format!("no {name}"),
    });
    words.join(", ")
}

fn limits(limits: &Limits) -> String {
    let Limits { cpu_max_permille, cpu_weight, memory_max_bytes, pids_max, io_weight, io_max } = limits;
    let mut parts: Vec<String> = Vec::new();
    parts.extend(cpu_max_permille.map(|permille| format!("cpu_max {}", share_text(permille))));
    parts.extend(cpu_weight.map(|weight| format!("cpu_weight {weight}")));
    parts.extend(memory_max_bytes.map(|bytes| format!("memory_max {}", size_text(bytes))));
    parts.extend(pids_max.map(|pids| format!("pids_max {pids}")));
    parts.extend(io_weight.map(|weight| format!("io_weight {weight}")));
    parts.extend(io_max.iter().map(self::io_max));
    parts.join(", ")
}

fn io_max(limit: &IoMax) -> String {
    let IoMax { path, read_bytes, write_bytes, read_operations, write_operations } = limit;
    let mut parts: Vec<String> = Vec::new();
    parts.extend(read_bytes.map(|bytes| format!("reads {}/s", size_text(bytes))));
    parts.extend(write_bytes.map(|bytes| format!("writes {}/s", size_text(bytes))));
    parts.extend(read_operations.map(|count| format!("{count} reads/s")));
    parts.extend(write_operations.map(|count| format!("{count} writes/s")));
    format!("io_max of {}: {}", path.display(), parts.join(" "))
}
