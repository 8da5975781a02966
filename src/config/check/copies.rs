//! Sets of copies: what is copied, where to, and when; `paths` what lies in what, `still` how a service is made to hold still.

mod failover;
mod paths;
mod still;

use std::time::Duration;

use super::super::parse;
use super::super::report::Item;
use super::super::schema::{self, Copy, MaxAge};
use super::super::values::{Clock, clock_text, duration_text};
use super::{Scope, positive};
use crate::engine::copies::plan::{CopyPlan, Keep, Large, OnChange, OnFull, OnSourceFailing, ReadBack, Space, When};
use crate::engine::plan::{Role, ServicePlan};

/// Copies of one set at most, by all rules together: each is a directory that is listed, looked at and shown.
const COPIES_KEPT_MAX: u32 = 1_000;
/// A cap on smaller files would cost whole copies for next to nothing.
const LARGE_OVER_MIN: u64 = 1 << 20;
/// Shorter periods would only be scanning.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Times of a day.
const TIMES_MAX: usize = 48;
/// Less would take for ever.
const BANDWIDTH_MIN: u64 = 64 << 10;
/// Of `quiet`, when no `max_wait` is given.
const MAX_WAIT_FACTOR: u32 = 10;
/// Periods without a good copy, until that is said.
const MAX_AGE_PERIODS: u32 = 3;
const DAY: Duration = Duration::from_secs(86_400);

/// Checks every set. `names`: of the services, unless some are not known.
pub(super) fn check(
    items: Vec<Item>,
    names: Option<&[&str]>,
    services: &[ServicePlan],
    scope: &mut Scope<'_>,
) -> Vec<CopyPlan> {
    let mut list = Vec::new();
    for mut item in items {
        if let Some(copy) = parse::read::<Copy>(&mut item, scope.report) {
            list.push((item, copy));
        }
    }
    if let Some((first, _)) = list.get(Role::COPIES_MAX) {
        let message = format!("{} sets of copies; this version is made for at most {}", list.len(), Role::COPIES_MAX);
        scope.report.error(first, "", message);
    }
    for (index, (item, copy)) in list.iter().enumerate() {
        super::well_named(item, &copy.name, "set of copies", "api-data", scope);
        if !copy.name.is_empty() {
            name(item, &copy.name, &list[..index], scope);
        }
    }
    list.iter().map(|(item, copy)| plan(item, copy, names, services, scope)).collect()
}

/// The name is that of a directory on the target, and its number that of the role's socket.
fn name(item: &Item, name: &str, earlier: &[(Item, Copy)], scope: &mut Scope<'_>) {
    if let Some((other, _)) = earlier.iter().find(|(_, copy)| copy.name == name) {
        let place = scope.report.place(other, "name");
        let message = format!("there are two sets of copies {name:?}");
        scope.report.error(item, "name", message).hint(format!("the other one is at {place}"));
    } else if let Some((_, copy)) =
        earlier.iter().find(|(_, copy)| Role::of_copies(&copy.name) == Role::of_copies(name))
    {
        let message = format!("{name:?} has the same number as {:?}", copy.name);
        scope.report.error(item, "name", message).hint("choose another name for one of them");
    }
}

fn plan(item: &Item, copy: &Copy, names: Option<&[&str]>, services: &[ServicePlan], scope: &mut Scope<'_>) -> CopyPlan {
    let from = paths::sources(item, copy, scope);
    let to = paths::target(item, copy, &from, scope);
    let when = when(item, copy, scope);
    let on_source_failing = copy.on_source_failing.map(|then| match then {
        schema::OnSourceFailing::Hold => OnSourceFailing::Hold,
        schema::OnSourceFailing::Restore => OnSourceFailing::Restore,
    });
    let failover = failover::plan(item, copy, &from, &to, on_source_failing, services, scope);
    let of_service = |source: &std::path::PathBuf| services.iter().any(|service| paths::is_data_of(service, source));
    if on_source_failing.is_some() && !from.iter().any(of_service) && !item.is_broken("from") && names.is_some() {
        let message = "`on_source_failing` has no effect: no service has any of this in its `data`";
        scope.report.warning(item, "on_source_failing", message).hint("add the source to the `data` of the service");
    }
    for (key, every) in [("scrub_every", copy.scrub_every), ("restore_test", copy.restore_test)] {
        if every.is_some_and(|every| every.0 < EVERY_MIN) {
            scope.report.error(item, key, format!("`{key}` must be at least 1s")).hint("None is never");
        }
    }
    if copy.max_shrink.0 > 1_000 {
        scope.report.error(item, "max_shrink", "nothing shrinks by more than \"100%\"");
    }
    if copy.bandwidth.is_some_and(|bandwidth| bandwidth.0 < BANDWIDTH_MIN) {
        scope.report.error(item, "bandwidth", "at least \"64KiB\" a second").hint("None is no limit");
    }
    CopyPlan {
        name: copy.name.clone(),
        exclude: paths::exclude(item, &copy.exclude, &from, scope),
        from,
        to,
        same_disk: copy.same_disk,
        uuid: uuid(item, copy, scope),
        keep: keep(item, copy.keep, scope),
        quiesce: still::quiesce(item, &copy.quiesce, names, services, scope),
        scrub_every: copy.scrub_every.map(|every| every.0),
        restore_test: copy.restore_test.map(|every| every.0),
        max_age: max_age(item, copy.max_age, &when, scope),
        when,
        max_shrink_permille: copy.max_shrink.0,
        bandwidth: copy.bandwidth.map(|bandwidth| bandwidth.0),
        space: space(item, copy.space, scope),
        read_back: match copy.read_back {
            schema::ReadBack::Written => ReadBack::Written,
            schema::ReadBack::All => ReadBack::All,
            schema::ReadBack::None => ReadBack::None,
        },
        on_source_failing,
        failover,
    }
}

/// As the marker has it: `copies init` prints it.
fn uuid(item: &Item, copy: &Copy, scope: &mut Scope<'_>) -> Option<String> {
    let uuid = copy.uuid.as_ref()?;
    let is_uuid = uuid.len() == 36 && uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !is_uuid {
        let message = format!("{uuid:?} is not the UUID of a marker");
        scope.report.error(item, "uuid", message).hint("write what `mainstay copies init` printed, or remove it");
    }
    Some(uuid.to_lowercase())
}

fn when(item: &Item, copy: &Copy, scope: &mut Scope<'_>) -> When {
    if let Some(every) = copy.every.filter(|every| every.0 < EVERY_MIN) {
        scope.report.error(item, "every", format!("every {}: the shortest is 1s", duration_text(every.0)));
    }
    let mut at: Vec<Duration> = Vec::new();
    for (index, Clock(time)) in copy.at.iter().flat_map(|times| &times.0).enumerate() {
        if at.contains(time) {
            scope.report.warning(item, &format!("at[{index}]"), format!("{} stands here twice", clock_text(*time)));
        } else {
            at.push(*time);
        }
    }
    at.sort_unstable();
    if at.len() > TIMES_MAX {
        scope.report.error(item, "at", format!("at most {TIMES_MAX} times a day")).hint("use `every`");
    }
    let on_change = copy.on_change.map(|on_change| {
        let quiet = positive(item, "on_change", on_change.quiet, scope);
        let max_wait = on_change.max_wait.map_or(quiet * MAX_WAIT_FACTOR, |wait| wait.0);
        if max_wait < quiet {
            let message = format!("`max_wait` {} is shorter than `quiet`", duration_text(max_wait));
            scope.report.error(item, "on_change.max_wait", message);
        }
        OnChange { quiet, max_wait }
    });
    let nothing = copy.every.is_none() && at.is_empty() && on_change.is_none();
    if nothing && !copy.name.is_empty() && !["every", "at", "on_change"].iter().any(|key| item.is_broken(key)) {
        let message = "no `every`, `at` or `on_change`: copies are made by hand only";
        let found = scope.report.note(item, "", message);
        found.hint(format!("`mainstay copies run {}` makes one", copy.name));
    }
    When { every: copy.every.map(|every| every.0), at, on_change }
}

/// The longest time between two copies by the clock; changes alone promise none.
fn period(when: &When) -> Option<Duration> {
    let gaps = when.at.iter().zip(when.at.iter().skip(1)).map(|(early, late)| *late - *early);
    let over_midnight = when.at.first().zip(when.at.last()).map(|(first, last)| DAY + *first - *last);
    let by_times = gaps.chain(over_midnight).max();
    match (when.every, by_times) {
        (Some(every), Some(times)) => Some(every.min(times)),
        (every, times) => every.or(times),
    }
}

fn max_age(item: &Item, given: MaxAge, when: &When, scope: &mut Scope<'_>) -> Option<Duration> {
    let period = period(when);
    match given {
        MaxAge::ThreePeriods => period.map(|period| period * MAX_AGE_PERIODS),
        MaxAge::Given(age) => {
            let age = positive(item, "max_age", age?, scope);
            if let Some(period) = period.filter(|period| age < *period) {
                let message = format!("copies are made every {}: each will be too old", duration_text(period));
                scope.report.warning(item, "max_age", message).hint("make it longer than that");
            }
            Some(age)
        }
    }
}

fn keep(item: &Item, keep: schema::Keep, scope: &mut Scope<'_>) -> Keep {
    let schema::Keep { last, hourly, daily, weekly, monthly, yearly, min_keep } = keep;
    if min_keep == 0 {
        let message = "`min_keep` must be at least 1: the newest good copy is never removed";
        scope.report.error(item, "keep.min_keep", message);
    }
    let rules = [last, hourly, daily, weekly, monthly, yearly];
    let sum = rules.iter().fold(0_u32, |sum, rule| sum.saturating_add(*rule)).max(min_keep);
    if sum > COPIES_KEPT_MAX {
        let message = format!("{sum} copies would be kept; at most {COPIES_KEPT_MAX} are possible");
        scope.report.error(item, "keep", message).hint("keep fewer of each kind");
    }
    if rules.iter().all(|rule| *rule == 0) {
        let message = format!("no rule keeps anything: only the newest {min_keep} stay");
        scope.report.warning(item, "keep", message);
    }
    Keep { last, hourly, daily, weekly, monthly, yearly, min_keep: min_keep.max(1) }
}

fn space(item: &Item, space: schema::Space, scope: &mut Scope<'_>) -> Space {
    let schema::Space { reserve, reserve_min, on_full, large } = space;
    if reserve.0 > 900 {
        scope.report.error(item, "space.reserve", "more than \"90%\" of the target would be left free");
    }
    if let Some(large) = large
        && (large.over.0 < LARGE_OVER_MIN || large.keep == 0)
    {
        let message = "`large` is for files of at least \"1MiB\", of which at least 1 version is kept";
        scope.report.error(item, "space.large", message).hint("such as (over: \"256MiB\", keep: 3)");
    }
    Space {
        reserve_permille: reserve.0,
        reserve_bytes: reserve_min.0,
        on_full: match on_full {
            schema::OnFull::Stop => OnFull::Stop,
            schema::OnFull::PruneOldest => OnFull::PruneOldest,
        },
        large: large.map(|large| Large { over: large.over.0, keep: large.keep }),
    }
}
