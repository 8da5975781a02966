//! `resources`, `min_healthy` and `fence` of a service: what the kernel limits, and what the agent does when that is not enough.

use std::time::Duration;

use super::super::report::Item;
use super::super::schema::{self, Service};
use super::super::values::{duration_text, share_text, size_text};
use super::{Scope, needs, positive};
use crate::engine::fence::plan::{FenceLevel, FencePlan, IoMax, Limits, Mode, ReleaseRule, Resources, Rung};
use crate::engine::plan::{CgroupPlan, ServicePlan, Words};

/// The kernel's shortest quota is a hundredth of its period.
const CPU_PERMILLE_MIN: u32 = 10;
/// A process with less cannot even be loaded.
const MEMORY_BYTES_MIN: u64 = 1 << 20;
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Devices of one service, each a line that is written to the kernel at every spawn.
const IO_MAX: usize = 16;

/// What a path of limits may hold of words: it is that of the device, which all replicas share.
fn shared_words(service: &Service, scope: &Scope<'_>) -> Words {
    needs::shared_words(&service.name, scope)
}

/// `None`: no limit is given.
pub(super) fn resources(item: &Item, service: &Service, scope: &mut Scope<'_>) -> Option<Resources> {
    let given = service.resources.as_ref()?;
    let limits = limits(item, "resources", &given.limits(), service, scope);
    let empty = limits == Limits::default();
    if empty && given.required && !item.is_broken("resources") {
        let message = "`required` has no effect: there is no limit beside it";
        scope.report.warning(item, "resources.required", message).hint("add one, such as memory_max: \"512MiB\"");
    }
    if !empty && *scope.cgroup == CgroupPlan::Off {
        let message = "limits need a group of the kernel, and `agent.cgroup` is Off";
        let found = if given.required {
            scope.report.error(item, "resources", format!("{message}: with `required` it could never start"))
        } else {
            scope.report.warning(item, "resources", format!("{message}: none of them will be in force"))
        };
        found.hint("use `cgroup: Auto`");
    }
    (!empty).then_some(Resources { limits, required: given.required })
}

/// The limits below `place`, which is `resources` or a step of a ladder.
fn limits(item: &Item, place: &str, given: &schema::Limits, service: &Service, scope: &mut Scope<'_>) -> Limits {
    let at = |key: &str| format!("{place}.{key}");
    if let Some(share) = given.cpu_max {
        cpu_max(item, &at("cpu_max"), share.0, scope);
    }
    if let Some(size) = given.memory_max {
        memory_max(item, &at("memory_max"), size.0, scope);
    }
    if given.pids_max == Some(0) {
        let found = scope.report.error(item, &at("pids_max"), "0 processes: it could not even start");
        found.hint("threads count too; leave it out for no limit");
    }
    for (key, weight) in [("cpu_weight", given.cpu_weight), ("io_weight", given.io_weight)] {
        if let Some(weight) = weight.filter(|weight| !WEIGHTS.contains(weight)) {
            let message = format!("{weight} is no weight: they are 1 to 10000");
            scope.report.error(item, &at(key), message).hint("100 is what everybody else has");
        }
    }
    let weight = |weight: Option<u32>| weight.map(|weight| u16::try_from(weight).unwrap_or(100));
    Limits {
        cpu_max_permille: given.cpu_max.map(|share| share.0),
        cpu_weight: weight(given.cpu_weight),
        memory_max_bytes: given.memory_max.map(|size| size.0),
        pids_max: given.pids_max,
        io_weight: weight(given.io_weight),
        io_max: io_max(item, &at("io_max"), &given.io_max, service, scope),
    }
}

fn cpu_max(item: &Item, path: &str, permille: u32, scope: &mut Scope<'_>) {
    if permille < CPU_PERMILLE_MIN {
        let message = format!("{} of one CPU is less than the kernel can give", share_text(permille));
        scope.report.error(item, path, message).hint("at least \"1%\"");
    }
    if let Some(cpus) = scope.context.look.cpus().filter(|cpus| permille > cpus.saturating_mul(1_000)) {
        let all = share_text(cpus.saturating_mul(1_000));
        let message = format!("{} is no limit: this host has {cpus} CPUs, which are {all}", share_text(permille));
        scope.report.warning(item, path, message);
    }
}

fn memory_max(item: &Item, path: &str, bytes: u64, scope: &mut Scope<'_>) {
    if bytes < MEMORY_BYTES_MIN {
        let message = format!("{} of memory: no process could even start", size_text(bytes));
        scope.report.error(item, path, message).hint(format!("at least {:?}", size_text(MEMORY_BYTES_MIN)));
    }
    if let Some(total) = scope.context.look.memory_bytes().filter(|total| bytes > *total) {
        let message = format!("{} is no limit: this host has {} MiB of memory", size_text(bytes), total >> 20);
        scope.report.warning(item, path, message);
    }
}

fn io_max(item: &Item, place: &str, given: &[schema::IoMax], service: &Service, scope: &mut Scope<'_>) -> Vec<IoMax> {
    if given.len() > IO_MAX {
        scope.report.error(item, place, format!("a service names at most {IO_MAX} paths"));
    }
    let words = shared_words(service, scope);
    let mut list: Vec<IoMax> = Vec::new();
    for (index, one) in given.iter().enumerate() {
        let at = format!("{place}[{index}]");
        let limits = [
            ("read_bytes", one.read_bytes.map(|size| size.0)),
            ("write_bytes", one.write_bytes.map(|size| size.0)),
            ("read_operations", one.read_operations),
            ("write_operations", one.write_operations),
        ];
        for (key, _) in limits.iter().filter(|(_, limit)| *limit == Some(0)) {
            let found = scope.report.error(item, &format!("{at}.{key}"), "0 a second would stop it for good");
            found.hint("leave it out for no limit");
        }
        if limits.iter().all(|(_, limit)| limit.is_none()) {
            let found = scope.report.error(item, &at, "no limit is given for this path");
            found.hint("add read_bytes, write_bytes, read_operations or write_operations, all a second");
        }
        if one.path.is_empty() {
            let missing = scope.report.error(item, &at, "the key `path` is missing or empty");
            missing.hint("name what lies on the device, such as \"/var/lib/api\"");
            continue;
        }
        let path = format!("{at}.path");
        let Some(absolute) = needs::absolute(item, &path, &one.path, &words, scope) else { continue };
        if !scope.context.look.exists(&absolute) && !absolute.starts_with(scope.run_dir) {
            let message = format!(
                "{} does not exist: the limit is that of the device where it would be made",
                absolute.display()
            );
            scope.report.warning(item, &path, message);
        }
        if list.iter().any(|known| known.path == absolute) {
            scope.report.error(item, &path, format!("{} stands here twice", absolute.display()));
            continue;
        }
        let [read_bytes, write_bytes, read_operations, write_operations] = limits.map(|(_, limit)| limit);
        list.push(IoMax { path: absolute, read_bytes, write_bytes, read_operations, write_operations });
    }
    list
}

/// How many replicas must stay well.
pub(super) fn min_healthy(item: &Item, service: &Service, scope: &mut Scope<'_>) -> u16 {
    let given = service.min_healthy;
    if given > service.replicas.max(1) && !item.is_broken("replicas") {
        let message = format!("{given} replicas cannot stay well: there are {}", service.replicas);
        scope.report.error(item, "min_healthy", message).hint(format!("at most {}", service.replicas));
    }
    u16::try_from(given).unwrap_or(u16::MAX)
}

/// `None`: the defaults.
pub(super) fn fence(item: &Item, service: &Service, plan: &ServicePlan, scope: &mut Scope<'_>) -> Option<FencePlan> {
    let given = &service.fence;
    let default = FencePlan::default();
    let fence = FencePlan {
        ladder: match &given.ladder {
            Some(rungs) => ladder(item, rungs, service, plan, scope),
            None => default.ladder.clone(),
        },
        step: positive(item, "fence.step", given.step, scope),
        probation: positive(item, "fence.probation", given.probation, scope),
        release: release(item, given, scope),
        release_max: given.release_max.0,
        triggers: given.triggers.into(),
    };
    if fence == default {
        return None;
    }
    lint(item, plan, &fence, scope);
    Some(fence)
}

fn release(item: &Item, given: &schema::Fence, scope: &mut Scope<'_>) -> ReleaseRule {
    let schema::Release::After(after) = given.release else { return ReleaseRule::Manual };
    let (after, max) = (after.0, given.release_max.0);
    if after.is_zero() {
        let found = scope.report.error(item, "fence.release", "`release` must be longer than 0s");
        found.hint("Manual waits for an operator");
    }
    if after > max {
        let message = format!("{} is longer than `release_max` {}", duration_text(after), duration_text(max));
        let hint = format!("add release_max: {:?}, up to which it doubles", duration_text(longest(after)));
        scope.report.error(item, "fence.release", message).hint(hint);
    }
    ReleaseRule::After(after)
}

/// Three doublings, as the defaults have.
fn longest(release: Duration) -> Duration {
    release.saturating_mul(8).min(super::super::values::DURATION_MAX)
}

fn ladder(
    item: &Item,
    rungs: &[schema::Rung],
    service: &Service,
    plan: &ServicePlan,
    scope: &mut Scope<'_>,
) -> Vec<Rung> {
    if rungs.is_empty() {
        let found = scope.report.error(item, "fence.ladder", "an empty ladder: nothing could be done");
        found.hint("leave it out for the default; `triggers` say what the agent may do by itself");
    }
    let mut ladder: Vec<Rung> = Vec::new();
    for (index, rung) in rungs.iter().enumerate() {
        let place = format!("fence.ladder[{index}]");
        let rung = match rung {
            schema::Rung::Throttle(given) => throttle(item, &place, given, service, plan, scope),
            schema::Rung::Freeze => Rung::Freeze,
            schema::Rung::Kill => Rung::Kill,
            schema::Rung::Hold => Rung::Hold,
        };
        let (level, before) = (rung.level(), ladder.last().map(Rung::level));
        if ladder.iter().any(|known| known.level() == level) {
            scope.report.error(item, &place, format!("{} stands here twice", rung_name(level)));
        } else if let Some(harder) = before.filter(|before| *before > level) {
            let message = format!("{} is milder than {} before it", rung_name(level), rung_name(harder));
            scope.report.error(item, &place, message).hint("the mildest first: Throttle, Freeze, Kill, Hold");
        } else {
            ladder.push(rung);
        }
    }
    let off = *scope.cgroup == CgroupPlan::Off;
    for (index, rung) in rungs.iter().enumerate().filter(|_| off) {
        let word = match rung {
            schema::Rung::Throttle(_) => rung_name(FenceLevel::Throttle),
            schema::Rung::Freeze => rung_name(FenceLevel::Freeze),
            schema::Rung::Kill | schema::Rung::Hold => continue,
        };
        let message = format!("{word} needs a group of the kernel, and `agent.cgroup` is Off");
        scope.report.warning(item, &format!("fence.ladder[{index}]"), message).hint("use `cgroup: Auto`");
    }
    ladder
}

fn throttle(
    item: &Item,
    place: &str,
    given: &schema::Limits,
    service: &Service,
    plan: &ServicePlan,
    scope: &mut Scope<'_>,
) -> Rung {
    if *given == schema::Limits::default() {
        let found = scope.report.error(item, place, "a Throttle without a limit");
        found.hint("write one, such as Throttle(cpu_max: \"10%\")");
    }
    let limits = limits(item, place, given, service, scope);
    if let Some(own) = plan.resources.as_deref().map(|resources| &resources.limits) {
        let looser = [
            ("cpu_max", is_looser(limits.cpu_max_permille, own.cpu_max_permille)),
            ("memory_max", is_looser(limits.memory_max_bytes, own.memory_max_bytes)),
            ("pids_max", is_looser(limits.pids_max, own.pids_max)),
        ];
        for (key, _) in looser.iter().filter(|(_, looser)| *looser) {
            let message = "not tighter than the service's own in `resources`: it changes nothing";
            scope.report.warning(item, &format!("{place}.{key}"), message);
        }
    }
    Rung::Throttle(limits)
}

fn is_looser<T: Ord>(step: Option<T>, own: Option<T>) -> bool {
    matches!((step, own), (Some(step), Some(own)) if step >= own)
}

/// The word of the file.
pub(in crate::config) fn rung_name(level: FenceLevel) -> &'static str {
    match level {
        FenceLevel::Throttle => "Throttle",
        FenceLevel::Freeze => "Freeze",
        FenceLevel::Kill => "Kill",
        FenceLevel::Hold => "Hold",
    }
}

/// Settings that work, but do not what they look like.
fn lint(item: &Item, plan: &ServicePlan, fence: &FencePlan, scope: &mut Scope<'_>) {
    let limits = plan.resources.as_deref().map(|resources| &resources.limits);
    let has_cpu = limits.is_some_and(|limits| limits.cpu_max_permille.is_some());
    if fence.triggers.cpu != Mode::Off && !has_cpu && !item.is_broken("resources") && !item.is_broken("fence") {
        let message = "`cpu` has no effect: it looks at a service that is at its `cpu_max`, and there is none";
        let found = scope.report.warning(item, "fence.triggers.cpu", message);
        found.hint("add resources: (cpu_max: \"150%\")");
    }
    let ends_mild = fence.ladder.last().is_some_and(|rung| rung.level() < FenceLevel::Kill);
    let by_memory = [fence.triggers.pressure, fence.triggers.host_memory].iter().any(|mode| *mode != Mode::Off);
    if ends_mild && by_memory && !item.is_broken("fence") {
        let message = "the ladder ends before Kill: a service that eats the host's memory is left alone, since no throttling and no freezing gives memory back";
        let found = scope.report.warning(item, "fence.ladder", message);
        found.hint("add Kill, or say so: triggers: (pressure: Off, host_memory: Off)");
    }
    let sound = !["min_healthy", "replicas", "fence"].iter().any(|key| item.is_broken(key)) && !fence.ladder.is_empty();
    if sound && plan.min_healthy == plan.replicas && acts_on_the_well(fence) {
        let message = format!(
            "while it is well the agent does not fence it by itself: `min_healthy` is {} of {} replicas",
            plan.min_healthy, plan.replicas
        );
        let found = scope.report.note(item, "fence", message);
        found.hint(format!("min_healthy: {} lets it", plan.replicas.saturating_sub(1)));
    }
}

/// Whether a cause that a well service can have may lead to anything.
fn acts_on_the_well(fence: &FencePlan) -> bool {
    let triggers = &fence.triggers;
    [triggers.cpu, triggers.pids, triggers.pressure, triggers.host_memory].contains(&Mode::On)
}
