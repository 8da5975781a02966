//! How whoever writes the data holds still while it is copied.

use std::time::Duration;

use super::super::super::report::Item;
use super::super::super::schema::{self, Hooks};
use super::super::super::suggest;
use super::super::super::values::{Dur, duration_text};
use super::super::{Scope, positive, process};
use crate::engine::copies::plan::Quiesce;
use crate::engine::plan::{CgroupPlan, Kind, ServicePlan};

/// A service that is frozen longer is seen as dead by whoever asks it.
const FREEZE_MAX: Duration = Duration::from_secs(60);
const FREEZE: Duration = Duration::from_secs(2);
/// While a hook runs, no other copy of the set is made.
const HOOK_MAX: Duration = Duration::from_secs(3_600);

pub(super) fn quiesce(
    item: &Item,
    given: &schema::Quiesce,
    names: Option<&[&str]>,
    services: &[ServicePlan],
    scope: &mut Scope<'_>,
) -> Quiesce {
    match given {
        schema::Quiesce::None => Quiesce::None,
        schema::Quiesce::Freeze { service, max } => {
            known(item, service, names, scope);
            Quiesce::Freeze { service: service.clone(), max: freeze(item, *max, scope) }
        }
        schema::Quiesce::Stop(service) => {
            known(item, service, names, scope);
            let is_daemon = |plan: &ServicePlan| plan.name != *service || plan.kind == Kind::Daemon;
            if !services.iter().all(is_daemon) {
                let message = format!("{service:?} is no Daemon: it is waited for, not stopped and started");
                scope.report.warning(item, "quiesce", message);
            }
            Quiesce::Stop { service: service.clone() }
        }
        schema::Quiesce::Exec(hooks) => exec(item, hooks, scope),
    }
}

fn known(item: &Item, service: &str, names: Option<&[&str]>, scope: &mut Scope<'_>) {
    let Some(names) = names.filter(|names| !names.contains(&service)) else { return };
    let hint = suggest::did_you_mean(service, names.iter().copied());
    scope.report.error(item, "quiesce", format!("there is no service {service:?}")).maybe_hint(hint);
}

fn freeze(item: &Item, max: Option<Dur>, scope: &mut Scope<'_>) -> Duration {
    if *scope.cgroup == CgroupPlan::Off {
        let message = "nothing can be frozen without cgroups: copies are taken as if it was not there, and say so";
        scope.report.warning(item, "quiesce", message).hint("set `agent.cgroup` to Auto, or use Stop or Exec");
    }
    let max = max.map_or(FREEZE, |max| positive(item, "quiesce", max, scope));
    if max > FREEZE_MAX {
        let message = format!("frozen for {}: whoever asks it gets no answer meanwhile", duration_text(max));
        scope.report.error(item, "quiesce", message).hint(format!("at most {:?}", duration_text(FREEZE_MAX)));
    }
    max
}

fn exec(item: &Item, hooks: &Hooks, scope: &mut Scope<'_>) -> Quiesce {
    if hooks.pre.is_empty() && hooks.post.is_empty() {
        let message = "neither `pre` nor `post`: nothing would be run";
        scope.report.error(item, "quiesce", message).hint("remove `quiesce`, or write Exec(pre: [..], post: [..])");
    }
    let timeout = positive(item, "quiesce.timeout", hooks.timeout, scope);
    if timeout > HOOK_MAX {
        let message = format!("{} is too long: no copy is made meanwhile", duration_text(timeout));
        scope.report.error(item, "quiesce.timeout", message).hint(format!("at most {:?}", duration_text(HOOK_MAX)));
    }
    let pre = command(item, "quiesce.pre", &hooks.pre, scope);
    Quiesce::Exec { pre, post: command(item, "quiesce.post", &hooks.post, scope), timeout }
}

fn command(item: &Item, path: &str, command: &[String], scope: &mut Scope<'_>) -> Vec<String> {
    let mut resolved = command.to_vec();
    let Some(program) = command.first() else { return resolved };
    let user = process::own_user(scope);
    if let Some(absolute) = process::program_of(item, path, command, program, None, &user, scope) {
        resolved[0] = absolute;
    }
    resolved
}
