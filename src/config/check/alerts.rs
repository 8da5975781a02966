//! Commands that are run for alerts.

use std::path::{Path, PathBuf};

use super::super::parse;
use super::super::report::Item;
use super::super::schema::{Alert, On};
use super::super::suggest;
use super::super::values::duration_text;
use super::{Scope, no_zero_byte, positive, process};
use crate::engine::host::plan::{AlertOn, AlertPlan};
use crate::engine::plan::User;

/// Alerts in one configuration: each event may start that many processes.
pub const ALERTS_MAX: usize = 16;
/// Only one command of an alert runs at a time, and what waits for it is bounded.
const TIMEOUT_MAX: std::time::Duration = std::time::Duration::from_secs(600);
/// Each that was sent within the window is remembered.
const AT_MOST_MAX: u32 = 1_000;
const NOBODY: &str = "nobody";

/// Checks every alert.
pub(super) fn check(items: Vec<Item>, scope: &mut Scope<'_>) -> Vec<AlertPlan> {
    if let Some(first) = items.get(ALERTS_MAX) {
        let message = format!("{} alerts; this version is made for at most {ALERTS_MAX}", items.len());
        scope.report.error(first, "", message);
    }
    let mut plans = Vec::new();
    for mut item in items {
        if let Some(given) = parse::read::<Alert>(&mut item, scope.report) {
            plans.push(alert(&item, &given, scope));
        }
    }
    plans
}

fn alert(item: &Item, given: &Alert, scope: &mut Scope<'_>) -> AlertPlan {
    let user = user(item, given, scope);
    let runs_as = user.clone().unwrap_or_else(|| process::own_user(scope));
    let cwd = given.cwd.as_ref().map(|cwd| directory(item, cwd, scope));
    if given.at_most.count == 0 {
        scope.report.error(item, "at_most", "0 alerts: nobody would be told").hint("remove the alert");
    }
    if given.at_most.count > AT_MOST_MAX {
        scope.report.error(item, "at_most", format!("at most {AT_MOST_MAX} alerts a window"));
    }
    if given.at_most.within.is_zero() {
        scope.report.error(item, "at_most", "the time of a rate must be longer than 0s");
    }
    let timeout = positive(item, "timeout", given.timeout, scope);
    if timeout > TIMEOUT_MAX {
        let message = format!("{} is too long: the next alert waits for this one", duration_text(timeout));
        scope.report.error(item, "timeout", message).hint(format!("at most {:?}", duration_text(TIMEOUT_MAX)));
    }
    AlertPlan {
        exec: exec(item, given, &runs_as, scope),
        user: user.map(Box::new),
        on: on(item, &given.on, scope),
        at_most: given.at_most.count,
        within: given.at_most.within,
        timeout,
        cwd,
    }
}

fn exec(item: &Item, given: &Alert, user: &User, scope: &mut Scope<'_>) -> Vec<String> {
    let mut exec = given.exec.clone();
    let Some(program) = exec.first().cloned() else {
        let missing = scope.report.error(item, "exec", "the key `exec` is missing or empty");
        missing
            .hint("write a list such as [\"/usr/local/bin/page-me\"]; it gets the event as JSON on its standard input");
        return exec;
    };
    if let Some(absolute) = process::program_of(item, "exec", &given.exec, &program, given.cwd.as_deref(), user, scope)
    {
        exec[0] = absolute;
    }
    exec
}

/// `None`: the agent's own user.
fn user(item: &Item, given: &Alert, scope: &mut Scope<'_>) -> Option<User> {
    let look = &scope.context.look;
    let own = scope.context.uid;
    if given.user.is_none() && own != 0 {
        return None;
    }
    let name = given.user.as_deref().unwrap_or(NOBODY);
    let Some(user) = look.user(name) else {
        let hint = suggest::did_you_mean(name, look.user_names());
        let message = format!("there is no user {name:?} in /etc/passwd");
        scope.report.error(item, "user", message).maybe_hint(hint.or_else(|| Some("name one with `user`".to_owned())));
        return None;
    };
    if own != 0 && user.uid != own {
        let message = "only an agent that runs as root can run a command as another user";
        scope.report.error(item, "user", message).hint("remove `user`, or run the agent as root");
        return None;
    }
    (user.uid != own).then_some(user)
}

fn on(item: &Item, given: &[On], scope: &mut Scope<'_>) -> Vec<AlertOn> {
    if given.is_empty() {
        scope.report.error(item, "on", "an empty list: nobody would be told").hint("remove the alert");
    }
    let mut list = Vec::new();
    for (index, on) in given.iter().enumerate() {
        let path = format!("on[{index}]");
        let kind = match on {
            On::Failing => AlertOn::Failing,
            On::Degraded => AlertOn::Degraded,
            On::Recovered => AlertOn::Recovered,
            On::Fenced => AlertOn::Fenced,
            On::CopyFailed => AlertOn::CopyFailed,
        };
        if list.contains(&kind) {
            scope.report.warning(item, &path, format!("`{on:?}` stands here twice"));
        } else {
            list.push(kind);
        }
    }
    list
}

fn directory(item: &Item, cwd: &str, scope: &mut Scope<'_>) -> PathBuf {
    if !no_zero_byte(item, "cwd", cwd, scope) {
        return PathBuf::from("/");
    }
    if !cwd.starts_with('/') {
        scope.report.error(item, "cwd", format!("{cwd:?} is not an absolute path")).hint("it must start with /");
    } else if !scope.context.look.is_directory(Path::new(cwd)) {
        scope.report.error(item, "cwd", format!("there is no directory {cwd}"));
    }
    Path::new(cwd).components().collect()
}
