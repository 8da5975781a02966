//! Checks of the host that the file names: what they look at, how often, and where their states begin and end.

mod levels;

use std::path::{Path, PathBuf};

use super::super::parse;
use super::super::report::Item;
use super::super::schema::{Check, Target, kind_name};
use super::{Scope, no_zero_byte};
use crate::engine::host::kind::{CheckKind, Scope as Reach};
use crate::engine::host::plan::CheckPlan;

pub(in crate::config) use levels::text as level_text;

/// Checks in one configuration; the defaults do not count.
pub const CHECKS_MAX: usize = 1_000;
/// Reading more often than this would be load without news.
const EVERY_MIN: std::time::Duration = std::time::Duration::from_secs(1);
/// The longest name of a NIC (IFNAMSIZ without the closing zero).
const NIC_BYTES_MAX: usize = 15;
/// A target is shown in tables and metrics.
const TARGET_BYTES_MAX: usize = 4_096;

/// A check that was read.
struct Given {
    item: Item,
    check: Check,
}

/// Checks every check.
pub(super) fn check(items: Vec<Item>, scope: &mut Scope<'_>) -> Vec<CheckPlan> {
    let mut list = Vec::new();
    for mut item in items {
        if let Some(check) = parse::read::<Check>(&mut item, scope.report) {
            list.push(Given { item, check });
        }
    }
    if let Some(first) = list.get(CHECKS_MAX) {
        let message = format!("{} checks; this version is made for at most {CHECKS_MAX}", list.len());
        scope.report.error(&first.item, "", message);
    }
    let mut plans: Vec<CheckPlan> = Vec::new();
    let mut places: Vec<&Item> = Vec::new();
    for Given { item, check } in &list {
        super::well_named(item, &check.name, "check", "root", scope);
        if let Some(at) = plans.iter().position(|plan| plan.name == check.name).filter(|_| !check.name.is_empty()) {
            let place = scope.report.place(places[at], "name");
            let message = format!("there are two checks {:?}", check.name);
            scope.report.error(item, "name", message).hint(format!("the other one is at {place}"));
        }
        let Some(plan) = self::plan(item, check, scope) else { continue };
        if let Some(at) = plans.iter().position(|other| (other.kind, &other.target) == (plan.kind, &plan.target)) {
            let (place, other) = (scope.report.place(places[at], "check"), &plans[at].name);
            let what = kind_name(plan.kind);
            let of = plan.target.as_ref().map(|target| format!(" of {target:?}")).unwrap_or_default();
            let message = format!("`{what}`{of} is checked already, by {other:?}");
            scope.report.error(item, "check", message).hint(format!("the other one is at {place}"));
        }
        plans.push(plan);
        places.push(item);
    }
    plans
}

fn plan(item: &Item, check: &Check, scope: &mut Scope<'_>) -> Option<CheckPlan> {
    let Some(what) = &check.check else {
        let missing = scope.report.error(item, "check", "the key `check` is missing");
        missing.hint("write what is checked, such as check: DiskSpace(path: \"/\")");
        return None;
    };
    let kind = what.kind;
    if let Some(every) = check.every.filter(|every| every.0 < EVERY_MIN) {
        let message = format!("every {}: the shortest is 1s", super::super::values::duration_text(every.0));
        scope.report.error(item, "every", message);
    }
    for (key, count) in [("fall", check.fall), ("rise", check.rise)] {
        if count == Some(0) {
            scope.report.error(item, key, format!("`{key}` must be at least 1"));
        }
    }
    let mut band =
        |key, given: &Option<_>| given.as_ref().and_then(|given| levels::band(item, key, kind, given, scope));
    let (degraded, failing) = (band("degraded", &check.degraded), band("failing", &check.failing));
    levels::both(item, kind, degraded, failing, scope);
    if !check.enabled {
        let keys = [
            ("every", check.every.is_some()),
            ("degraded", check.degraded.is_some()),
            ("failing", check.failing.is_some()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, given)| *given) {
            scope.report.warning(item, key, format!("`{key}` has no effect: the check is not `enabled`"));
        }
    }
    Some(CheckPlan {
        name: check.name.clone(),
        kind,
        target: target(item, kind, &what.target, scope)?,
        enabled: check.enabled,
        every: check.every.map(|every| every.0),
        degraded,
        failing,
        fall: check.fall,
        rise: check.rise,
    })
}

/// The key that names a target of this reach, and an example.
fn key_of(reach: Reach) -> Option<(&'static str, &'static str)> {
    match reach {
        Reach::Mount => Some(("path", "/")),
        Reach::Disk => Some(("device", "sda")),
        Reach::Nic => Some(("nic", "eth0")),
        Reach::Sensor => Some(("sensor", "coretemp/temp1")),
        Reach::Host => None,
    }
}

/// `None`: it is refused. `Some(None)`: all targets of the kind.
fn target(item: &Item, kind: CheckKind, target: &Target, scope: &mut Scope<'_>) -> Option<Option<String>> {
    let key = key_of(kind.scope());
    let given = [("path", &target.path), ("device", &target.device), ("nic", &target.nic), ("sensor", &target.sensor)];
    let foreign = given.iter().find(|(name, value)| value.is_some() && key.is_none_or(|(key, _)| key != *name));
    if let Some((other, _)) = foreign {
        let name = kind_name(kind);
        let hint = match key {
            Some((key, example)) => format!("write {name}({key}: {example:?}), or {name} for all of them"),
            None => format!("write {name} alone: it is of the whole host"),
        };
        scope.report.error(item, &format!("check.{other}"), format!("`{name}` has no `{other}`")).hint(hint);
        return None;
    }
    let (key, text) = match key.and_then(|(key, _)| given.into_iter().find(|(name, _)| *name == key)) {
        Some((key, Some(text))) => (key, text),
        Some((_, None)) | None => return Some(None),
    };
    let path = format!("check.{key}");
    if !no_zero_byte(item, &path, text, scope) {
        return None;
    }
    if text.is_empty() || text.len() > TARGET_BYTES_MAX {
        let message = format!("a `{key}` has 1 to {TARGET_BYTES_MAX} bytes");
        scope.report.error(item, &path, message).hint("without brackets the check is of all of them");
        return None;
    }
    match kind.scope() {
        Reach::Mount => mount(item, &path, text, scope).map(Some),
        Reach::Disk => device(item, &path, text, scope).map(Some),
        Reach::Nic => nic(item, &path, text, scope).then(|| Some(text.clone())),
        Reach::Sensor | Reach::Host => Some(Some(text.clone())),
    }
}

fn mount(item: &Item, path: &str, text: &str, scope: &mut Scope<'_>) -> Option<String> {
    if !text.starts_with('/') {
        scope.report.error(item, path, format!("{text:?} is not an absolute path")).hint("it must start with /");
        return None;
    }
    let cleaned: PathBuf = Path::new(text).components().collect();
    // Not known where /proc cannot be read.
    let mounts = scope.context.look.mount_points();
    let above = mounts.iter().filter(|mount| cleaned.starts_with(mount)).max_by_key(|mount| mount.as_os_str().len());
    if let Some(above) = above.filter(|above| **above != cleaned) {
        let message = format!("nothing is mounted at {}: it is checked once there is", cleaned.display());
        scope
            .report
            .warning(item, path, message)
            .hint(format!("what lies there is on {:?}", above.display().to_string()));
    }
    Some(cleaned.to_string_lossy().into_owned())
}

/// `sda`, `/dev/sda`, or a link to it such as those below /dev/disk and /dev/mapper.
fn device(item: &Item, path: &str, text: &str, scope: &mut Scope<'_>) -> Option<String> {
    let look = &scope.context.look;
    let name = match text.strip_prefix("/dev/") {
        Some(name) => look.link_target(Path::new(text)).unwrap_or_else(|| name.to_owned()),
        None => text.to_owned(),
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        let message = format!("{text:?} is not a disk");
        let found = scope.report.error(item, path, message);
        found.hint("write its name as in /sys/block, such as \"sda\", or a path below /dev that exists");
        return None;
    }
    let disks = look.names_in(Path::new("/sys/block"));
    if !disks.is_empty() && !disks.contains(&name) {
        let whole = disks.iter().find(|disk| look.is_directory(&Path::new("/sys/block").join(disk).join(&name)));
        if let Some(whole) = whole {
            let message = format!("{name:?} is a partition, and a disk is checked as a whole");
            scope.report.error(item, path, message).hint(format!("write {whole:?}"));
            return None;
        }
        let hint = super::super::suggest::did_you_mean(&name, disks.iter().map(String::as_str));
        let message = format!("there is no disk {name:?} now: it is checked once there is");
        scope.report.warning(item, path, message).maybe_hint(hint);
    }
    Some(name)
}

/// Also for the `nics` of a service.
pub(super) fn nic(item: &Item, path: &str, text: &str, scope: &mut Scope<'_>) -> bool {
    if text.is_empty() || text.len() > NIC_BYTES_MAX || text.contains(['/', ' ', ':']) || text.starts_with('.') {
        let message = format!("{text:?} is no name of a NIC: they have at most {NIC_BYTES_MAX} bytes");
        scope.report.error(item, path, message).hint("write a name as in `ip link`, such as \"eth0\"");
        return false;
    }
    let nics = scope.context.look.names_in(Path::new("/sys/class/net"));
    if !nics.is_empty() && !nics.iter().any(|nic| nic == text) {
        let hint = super::super::suggest::did_you_mean(text, nics.iter().map(String::as_str));
        scope.report.warning(item, path, format!("there is no NIC {text:?} now")).maybe_hint(hint);
    }
    true
}
