//! `mainstay checks`: every check of the host, the worst first.

use super::args::{Format, Invocation};
use super::ask;
use super::checks_once;
use super::exit::{CliError, Exit};
use super::output::{self, Look, age, human_ms};
use super::status::{line, unknown};
use super::table::ONCE;
use crate::api::checks::{Band, Check, Checks, rank};
use crate::api::client::{self, Access};
use crate::api::render::nearest;

const HEAD: [&str; 7] = ["CHECK", "STATE", "VALUE", "THRESHOLD", "SINCE", "NEXT", "WHY"];

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    if invocation.is_set(&ONCE) {
        return checks_once::run(invocation);
    }
    let body = ask::agent(invocation, Access::Read)?.get("/v1/checks")?;
    let all: Checks = client::parse(&body)?;
    show(invocation, all, Some(&body))
}

/// Prints those that are asked for; `body` is the agent's own answer, if there is one.
pub(super) fn show(invocation: &Invocation, mut all: Checks, body: Option<&[u8]>) -> Result<Exit, CliError> {
    let names = invocation.names()?;
    if !names.is_empty() {
        all.checks = select(&all.checks, &names)?;
    }
    match (invocation.format()?, body) {
        (Format::Json, Some(body)) if names.is_empty() => output::print(&String::from_utf8_lossy(body))?,
        (Format::Json, _) => output::print(&line(&all)?)?,
        (Format::Ndjson, _) => {
            let lines: Result<String, CliError> = all.checks.iter().map(line).collect();
            output::print(&lines?)?;
        }
        (Format::Table, _) => output::print(&listing(&all.checks, &Look::stdout()))?,
    }
    Ok(if all.checks.iter().all(Check::is_well) { Exit::Well } else { Exit::NotWell })
}

/// Those that have one of the names, kinds or targets.
fn select(all: &[Check], names: &[&str]) -> Result<Vec<Check>, CliError> {
    for name in names {
        if !all.iter().any(|check| is_called(check, name)) {
            let near = nearest(name, all.iter().flat_map(|check| [check.name.as_str(), check.kind.as_ref()]));
            let hint = near.map(|near| format!("did you mean \"{near}\"?"));
            let hint = hint.or_else(|| Some("mainstay checks lists them".to_owned()));
            return Err(unknown(format!("no check \"{name}\""), hint));
        }
    }
    let chosen = all.iter().filter(|check| names.iter().any(|name| is_called(check, name)));
    Ok(chosen.cloned().collect())
}

fn is_called(check: &Check, name: &str) -> bool {
    let by_target = !check.target.is_empty() && check.target == name;
    check.name == name || check.kind == name || by_target || format!("{} {}", check.kind, check.target) == name
}

fn listing(checks: &[Check], look: &Look) -> String {
    if checks.is_empty() {
        return "no checks: `default_checks` is false and the configuration names none\n".to_owned();
    }
    let mut sorted: Vec<&Check> = checks.iter().collect();
    // Stable: otherwise in the agent's order.
    sorted.sort_by_key(|check| rank(&check.state));
    let rows: Vec<Vec<String>> = sorted.into_iter().map(row).collect();
    output::table(&HEAD, &rows, &[1], look)
}

fn row(check: &Check) -> Vec<String> {
    let flapping = if check.flapping { "flapping; " } else { "" };
    vec![
        check.name.clone(),
        check.state.to_string(),
        check.value.map_or_else(dash, |value| amount(&check.unit, value)),
        threshold(check),
        check.since_ms.map_or_else(dash, age),
        check.next_ms.map_or_else(dash, |ms| if ms == 0 { "due".to_owned() } else { age(ms) }),
        format!("{flapping}{}", check.why.as_deref().unwrap_or_default()),
    ]
}

/// `90%/97%`: where it is degraded, and where failing.
fn threshold(check: &Check) -> String {
    let text = |band: Option<Band>| band.map_or_else(dash, |band| amount(&check.unit, band.enter));
    match (check.degraded, check.failing) {
        (None, None) => dash(),
        (degraded, None) => text(degraded),
        (degraded, failing) => format!("{}/{}", text(degraded), text(failing)),
    }
}

/// A value with its unit, as the configuration has it.
pub(super) fn amount(unit: &str, value: f64) -> String {
    match unit {
        "percent" => format!("{value}%"),
        "ms" => human_ms(milliseconds(value)),
        "celsius" => format!("{value}C"),
        "mbit_s" => format!("{value}Mbit"),
        _ => value.to_string(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole milliseconds, and `as` saturates")]
fn milliseconds(value: f64) -> u64 {
    value as u64
}

fn dash() -> String {
    "-".to_owned()
}

/// `mainstay why CHECK`: the check that is meant; a name of its own goes before its kind and target.
pub(super) fn find<'a>(all: &'a [Check], name: &str) -> Option<&'a Check> {
    all.iter().find(|check| check.name == name).or_else(|| {
        let mut called = all.iter().filter(|check| is_called(check, name));
        called.next().filter(|_| called.next().is_none())
    })
}

/// What is to be said of one; `events` are those about it, oldest first.
pub(super) fn story(check: &Check, events: &[String], look: &Look) -> String {
    let state = look.paint(&check.state, &check.state);
    let flapping = if check.flapping { ", flapping" } else { "" };
    let why = check.why.as_ref().map_or_else(String::new, |why| format!(": {}", output::clean(why)));
    let mut out = format!("check {} is {state}{flapping}{why}\n", check.name);
    for event in events {
        out.push_str(&format!("  {}\n", output::clean(event)));
    }
    let target = if check.target.is_empty() { "of the host".to_owned() } else { format!("of {}", check.target) };
    out.push_str(&format!("  {:10}{} {target}\n", "checks", check.kind));
    if let Some(value) = check.value {
        out.push_str(&format!("  {:10}{}\n", "value", amount(&check.unit, value)));
    }
    for (word, band) in [("degraded", check.degraded), ("failing", check.failing)] {
        if let Some(band) = band {
            let (enter, leave) = (amount(&check.unit, band.enter), amount(&check.unit, band.leave));
            out.push_str(&format!("  {word:10}from {enter} on, until {leave}\n"));
        }
    }
    if let (Some(at), Some(ms)) = (&check.since_at, check.since_ms) {
        out.push_str(&format!("  {:10}{at} (for {})\n", "since", human_ms(ms)));
    }
    if let Some(next) = check.next_ms {
        out.push_str(&format!("  {:10}in {}, every {}\n", "next", human_ms(next), human_ms(check.every_ms)));
    }
    if !check.services.is_empty() {
        out.push_str(&format!("  {:10}{}\n", "concerns", check.services.join(", ")));
    }
    out
}

/// The lines of the summary: what is wrong with the host, at most `room` lines; nothing when all is well.
pub(super) fn summary(checks: &[Check], room: usize) -> Vec<String> {
    let mut wrong: Vec<&Check> = checks.iter().filter(|check| !check.is_well()).collect();
    wrong.sort_by_key(|check| rank(&check.state));
    let mut lines: Vec<String> = wrong
        .iter()
        .map(|check| {
            let why = check.why.as_ref().map_or_else(String::new, |why| format!(": {}", output::clean(why)));
            format!("{} {}{why}", check.name, check.state)
        })
        .collect();
    if lines.len() > room {
        let more = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(format!("... and {more} more (mainstay checks)"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::checks::checks;
    use crate::api::testing::{check_views, stamp};

    fn all() -> Vec<Check> {
        checks(&check_views(), &stamp()).checks
    }

    #[test]
    fn the_worst_check_comes_first() {
        expect_test::expect![[r#"
            CHECK                       STATE     VALUE  THRESHOLD  SINCE  NEXT  WHY
            disk_hung sda               failing   12s    -          5s     2s    flapping; 2 requests stand still for 12s
            root                        degraded  91.1%  90%/97%    5s     2s    91.1 % used, 1.3 GiB left
            smart sda                   unknown   -      -          5s     2s    no answer within 10s
            nic_link eth0               ok        -      -          5s     2s
            temperature coretemp/temp1  ok        42.5C  -          5s     2s
            pressure_memory             absent    -      -          5s     -     no /proc/pressure: boot with psi=1
        "#]].assert_eq(&listing(&all(), &Look::plain()));
        assert!(listing(&[], &Look::plain()).starts_with("no checks"));
    }

    #[test]
    fn checks_are_chosen_by_name_kind_or_target() {
        let chosen = |names: &[&str]| -> Vec<String> {
            select(&all(), names).unwrap().into_iter().map(|check| check.name).collect()
        };
        assert_eq!(chosen(&["root"]), ["root"]);
        assert_eq!(chosen(&["sda"]), ["disk_hung sda", "smart sda"]);
        assert_eq!(chosen(&["nic_link", "disk_space /"]), ["root", "nic_link eth0"]);
        let error = select(&all(), &["rot"]).unwrap_err();
        assert_eq!((error.exit(), error.hint()), (Exit::UnknownName, Some("did you mean \"root\"?")));
    }

    #[test]
    fn one_check_is_told_in_full() {
        let all = all();
        let events = ["2026-11-22T07:59:55Z  degraded (was ok): 91.1 % used".to_owned()];
        expect_test::expect![[r#"
            check root is degraded: 91.1 % used, 1.3 GiB left
              2026-11-22T07:59:55Z  degraded (was ok): 91.1 % used
              checks    disk_space of /
              value     91.1%
              degraded  from 90% on, until 85%
              failing   from 97% on, until 95%
              since     2026-11-22T07:59:55Z (for 5s)
              next      in 2.5s, every 30s
              concerns  api
        "#]]
        .assert_eq(&story(find(&all, "disk_space /").unwrap(), &events, &Look::plain()));
        assert_eq!(find(&all, "sda").map(|check| &check.name), None, "two are of this disk");
    }

    #[test]
    fn summary_tells_what_is_wrong_in_few_lines() {
        let all = all();
        expect_test::expect![[r#"
            disk_hung sda failing: 2 requests stand still for 12s
            root degraded: 91.1 % used, 1.3 GiB left"#]]
        .assert_eq(&summary(&all, 3).join("\n"));
        assert_eq!(summary(&all, 1), ["... and 2 more (mainstay checks)"]);
        assert_eq!(summary(&all[2..], 3), Vec::<String>::new());
    }

    #[test]
    fn values_have_their_units() {
        let texts = [("percent", 87.1), ("ms", 1_500.0), ("celsius", 42.5), ("mbit_s", 1_000.0), ("count", 3.0)];
        assert_eq!(texts.map(|(unit, value)| amount(unit, value)), ["87.1%", "1.5s", "42.5C", "1000Mbit", "3"]);
    }
}
