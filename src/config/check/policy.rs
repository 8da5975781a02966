//! Restarts: exit codes, back-off, budget, and whether they fit together.

use std::time::Duration;

use super::super::report::Item;
use super::super::schema::{self, Service};
use super::super::values::{duration_text, share_text};
use super::{Scope, positive};
use crate::engine::plan::{Backoff, Budget, BudgetSpent, Kind, Readiness, RestartPolicy, ServicePlan};

/// Failures that a budget may count; each one's instant is remembered.
const BUDGET_RESTARTS_MAX: u32 = 10_000;
const FACTOR_MAX: f64 = 100.0;

pub(super) fn exit_codes(item: &Item, codes: &[i32], scope: &mut Scope<'_>) -> Vec<i32> {
    if codes.is_empty() {
        let found = scope.report.error(item, "success_exit_codes", "an empty list: no exit would be a success");
        found.hint("remove it for [0], or use `restart: Always`");
    }
    for (index, code) in codes.iter().enumerate() {
        if !(0..=255).contains(code) {
            scope.report.error(
                item,
                &format!("success_exit_codes[{index}]"),
                format!("{code} is no exit code: they are 0 to 255"),
            );
        }
    }
    codes.to_vec()
}

pub(super) fn backoff(item: &Item, given: schema::Backoff, scope: &mut Scope<'_>) -> Backoff {
    let (min, max) = (given.min.0, given.max.0);
    if min > max {
        let message = format!("`min` {} is longer than `max` {}", duration_text(min), duration_text(max));
        scope.report.error(item, "backoff.min", message);
    }
    if !(1.0..=FACTOR_MAX).contains(&given.factor) {
        scope.report.error(item, "backoff.factor", format!("`factor` must be 1.0 to {FACTOR_MAX:.1}"));
    }
    if given.jitter.0 > 1_000 {
        scope.report.error(
            item,
            "backoff.jitter",
            format!("`jitter` {} is more than 100%", share_text(given.jitter.0)),
        );
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 1000..=100000; NaN becomes 0 and was refused above"
    )]
    let factor_permille = (given.factor * 1_000.0).round().clamp(1_000.0, FACTOR_MAX * 1_000.0) as u32;
    Backoff { min, max, factor_permille, jitter_permille: given.jitter.0, reset_after: given.reset_after.0 }
}

pub(super) fn budget(item: &Item, given: Option<schema::Budget>, scope: &mut Scope<'_>) -> Option<Budget> {
    let given = given?;
    if given.restarts == 0 {
        let found = scope.report.error(item, "budget.restarts", "a budget of 0 restarts");
        found.hint("`restart: Never` starts it once; `budget: None` sets no limit");
    } else if given.restarts > BUDGET_RESTARTS_MAX {
        let found =
            scope.report.error(item, "budget.restarts", format!("at most {BUDGET_RESTARTS_MAX} restarts are counted"));
        found.hint("`budget: None` sets no limit");
    }
    let (hold, hold_max) = (given.hold.0, given.hold_max.0);
    if hold > hold_max {
        let message = format!("`hold` {} is longer than `hold_max` {}", duration_text(hold), duration_text(hold_max));
        scope.report.error(item, "budget.hold", message);
    }
    Some(Budget {
        restarts: given.restarts.clamp(1, BUDGET_RESTARTS_MAX),
        within: positive(item, "budget.within", given.within, scope),
        hold: positive(item, "budget.hold", given.hold, scope),
        hold_max,
        then: match given.then {
            schema::Then::Retry => BudgetSpent::Retry,
            schema::Then::Stay => BudgetSpent::Stay,
        },
    })
}

/// Settings that work, but against each other.
pub(super) fn lint(item: &Item, service: &Service, plan: &ServicePlan, scope: &mut Scope<'_>) {
    if item.is_broken("backoff") || item.is_broken("budget") || item.is_broken("restart") {
        return;
    }
    unreachable_budget(item, plan, scope);
    let restarts = plan.restart != RestartPolicy::Never;
    if restarts && service.backoff.reset_after.0.is_zero() && service.backoff.max != service.backoff.min {
        let message = "`reset_after` is 0s: the count of failures is forgotten at once when it is ready, and the delay hardly grows";
        scope.report.warning(item, "backoff.reset_after", message);
    }
    if plan.watchdog.is_some()
        && plan.ready != Readiness::Notify
        && plan.kind == Kind::Daemon
        && !item.is_broken("ready")
    {
        let message =
            "the watchdog counts from ready on, but the service does not say when it is: WATCHDOG=1 may come too late";
        scope.report.warning(item, "watchdog", message).hint("use `ready: Notify`, which the same socket serves");
    }
}

/// A back-off that grows, and a window in which failures are counted, can cancel each other: with delays of a minute only ten
/// failures fit into ten minutes, so a budget of sixty is never spent although the file says so.
fn unreachable_budget(item: &Item, plan: &ServicePlan, scope: &mut Scope<'_>) {
    let Some(budget) = plan.budget.filter(|_| plan.restart != RestartPolicy::Never) else { return };
    let fastest = quickest(&plan.backoff, budget.restarts);
    if fastest <= budget.within {
        return;
    }
    // The count grows with the time it takes, so halving finds the largest that fits.
    let (mut fits, mut too_many) = (0, budget.restarts);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if quickest(&plan.backoff, middle) <= budget.within { fits = middle } else { too_many = middle }
    }
    let message = format!(
        "the budget is never spent: {} restarts in a row take at least {} with this back-off (up to {} each), longer than `within` {}",
        budget.restarts,
        crate::engine::types::human(fastest),
        duration_text(plan.backoff.max),
        duration_text(budget.within),
    );
    let within = Duration::from_secs(fastest.as_secs() + 1);
    let lower = if fits > 0 { format!("lower `restarts` to {fits}, ") } else { String::new() };
    let hint = format!("{lower}raise `within` to {:?} or lower `backoff.max`", duration_text(within));
    scope.report.warning(item, "budget.restarts", message).hint(hint);
}

/// The shortest time that so many restarts in a row can take: either the delays grow all the way, or the service is ready for
/// `reset_after` before each failure, so that they never grow.
fn quickest(backoff: &Backoff, restarts: u32) -> Duration {
    let least_ns = |delay_ns: u128| delay_ns * u128::from(1_000 - backoff.jitter_permille.min(1_000)) / 1_000;
    let mut delay_ns = backoff.min.as_nanos();
    let mut growing_ns = 0;
    for _ in 0..restarts {
        growing_ns += least_ns(delay_ns);
        delay_ns = (delay_ns * u128::from(backoff.factor_permille) / 1_000).min(backoff.max.as_nanos());
    }
    let each_ns = backoff.reset_after.as_nanos() + least_ns(backoff.min.as_nanos());
    let resetting_ns = each_ns * u128::from(restarts);
    Duration::from_nanos(u64::try_from(growing_ns.min(resetting_ns)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eleven_failures_of_the_defaults_take_what_the_design_says() {
        let backoff = Backoff { jitter_permille: 0, ..Backoff::default() };
        // 0.1 + 0.2 + ... + 25.6 + 30 s
        assert_eq!(quickest(&backoff, 10), Duration::from_millis(81_100));
    }

    #[test]
    fn a_service_that_is_soon_ready_again_fails_more_often() {
        let backoff = Backoff { jitter_permille: 0, reset_after: Duration::from_secs(1), ..Backoff::default() };
        assert!(quickest(&backoff, 10) < Duration::from_secs(12));
        let no_delay = Backoff { min: Duration::ZERO, ..Backoff::default() };
        assert_eq!(quickest(&no_delay, 10_000), Duration::ZERO);
    }
}
