//! `mainstay fences`: what is fenced and was fenced, and the evidence of one fence in plain words.

use super::args::{Format, Invocation, target};
use super::exit::{CliError, Exit};
use super::output::{self, Look, age, clean, human_ms, short_us};
use super::status::{line, unknown};
use super::{ask, table};
use crate::api::client::{self, Access, Client};
use crate::api::fences::{Automatic, Ended, Evidence, Fences, Limits, ReplicaFence, Step};
use crate::api::render::nearest;
use crate::api::time::parse_rfc3339;

const HEAD: [&str; 7] = ["ID", "NAME", "LEVEL", "STATE", "TRIGGER", "SINCE", "WHY"];

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let name = invocation.names()?.first().copied();
    let client = ask::agent(invocation, Access::Read)?;
    if let Some(id) = name.and_then(|name| name.parse::<u64>().ok()) {
        return one(&client, id, format);
    }
    let body = client.get("/v1/fences")?;
    let mut all: Fences = client::parse(&body)?;
    if let Some(name) = name {
        select(&mut all, name)?;
    }
    match format {
        Format::Json if name.is_none() => output::print(&String::from_utf8_lossy(&body))?,
        Format::Json => output::print(&line(&all)?)?,
        Format::Ndjson => {
            let active = all.fences.iter().map(line);
            let lines: Result<String, CliError> = active.chain(all.records.iter().map(line)).collect();
            output::print(&lines?)?;
        }
        Format::Table => {
            let look = Look::stdout();
            output::print(&tell(&all, &look))?;
            if let Some(id) = name.and_then(|_| latest(&all)) {
                let evidence: Evidence = client.get_json(&format!("/v1/fences/records/{id}"))?;
                output::print(&format!("\n{}", describe(&evidence, &look)))?;
            }
        }
    }
    Ok(if all.fences.iter().any(|fence| fence.fence.level.is_some()) { Exit::NotWell } else { Exit::Well })
}

fn one(client: &Client, id: u64, format: Format) -> Result<Exit, CliError> {
    let body = client.get(&format!("/v1/fences/records/{id}"))?;
    match format {
        Format::Json | Format::Ndjson => output::print(&String::from_utf8_lossy(&body))?,
        Format::Table => output::print(&describe(&client::parse(&body)?, &Look::stdout()))?,
    }
    Ok(Exit::Well)
}

/// The one whose evidence is most likely wanted: the newest that stands, else the newest.
fn latest(all: &Fences) -> Option<u64> {
    let active = all.fences.iter().map(|fence| fence.fence.id).max();
    active.or_else(|| all.records.iter().map(|record| record.id).max())
}

/// Those of one service or replica.
fn select(all: &mut Fences, name: &str) -> Result<(), CliError> {
    let (name, replica) = target(name)?;
    let known = || {
        let past = all.records.iter().map(|record| record.service.as_str());
        all.fences.iter().map(|fence| fence.service.as_str()).chain(past)
    };
    if !known().any(|service| service == name) {
        let near = nearest(name, known()).map(|near| format!("did you mean \"{near}\"?"));
        let hint = near.or_else(|| Some("mainstay fences lists all; an ID shows the evidence of one".to_owned()));
        return Err(unknown(format!("no fence of a service \"{name}\" is known"), hint));
    }
    let is_meant = |service: &str, index: u16| service == name && replica.is_none_or(|replica| replica == index);
    all.fences.retain(|fence| is_meant(&fence.service, fence.replica));
    all.records.retain(|record| is_meant(&record.service, record.replica));
    Ok(())
}

fn tell(all: &Fences, look: &Look) -> String {
    let active = all.fences.iter().map(|fence| row_of(&fence.service, fence.replica, &fence.fence, &all.at));
    let past = all.records.iter().map(|record| {
        let when = record.ended.as_ref().map_or(&record.fault_seen, |ended| &ended.at);
        let ended = record.ended.as_ref().map_or_else(String::new, |ended| format!("; ended: {}", ended.why));
        vec![
            record.id.to_string(),
            format!("{}/{}", record.service, record.replica),
            record.level.as_deref().unwrap_or("-").to_owned(),
            record.state.to_string(),
            record.trigger.to_string(),
            between(when, &all.at).map_or_else(|| "-".to_owned(), age),
            format!("{}{ended}", record.why),
        ]
    });
    let rows: Vec<Vec<String>> = active.chain(past).collect();
    let mut out =
        if rows.is_empty() { "nothing is or was fenced\n".to_owned() } else { output::table(&HEAD, &rows, &[3], look) };
    out.push_str(&automatic(&all.automatic));
    out
}

fn automatic(limit: &Automatic) -> String {
    let Automatic { used, max, within_ms } = limit;
    let spent = if used >= max { "; until some are older than that, it only watches and tells" } else { "" };
    format!("by the agent itself: {used} of at most {max} within {}{spent}\n", human_ms(*within_ms))
}

fn row_of(service: &str, replica: u16, fence: &ReplicaFence, now: &str) -> Vec<String> {
    let next = match &fence.next {
        Some(next) => format!("; {} in {}", next.what, human_ms(next.in_ms)),
        None if fence.level.is_some() => "; until mainstay unfence".to_owned(),
        None => String::new(),
    };
    vec![
        fence.id.to_string(),
        format!("{service}/{replica}"),
        fence.level.as_deref().unwrap_or("-").to_owned(),
        fence.state.to_string(),
        fence.trigger.to_string(),
        between(&fence.since, now).map_or_else(|| "-".to_owned(), age),
        format!("{}{next}", fence.why),
    ]
}

fn describe(record: &Evidence, look: &Look) -> String {
    let state = look.paint(&record.state, &record.state);
    let by = match record.trigger.as_ref() {
        "operator" => "by an operator".to_owned(),
        trigger => format!("by the agent ({trigger})"),
    };
    let (id, service, replica, run) = (record.id, &record.service, record.replica, record.run);
    let mut out = format!("fence {id}: {service}/{replica}, run {run}, {by}, {state}\n");
    let mut field = |name: &str, text: &str| out.push_str(&format!("  {name:10} {}\n", clean(text)));
    field("fault seen", &record.fault_seen);
    for evidence in &record.evidence {
        field("", evidence);
    }
    if let Some(because) = &record.observed_because {
        field("not done", because);
    }
    if let Some(left_at) = record.left_at.as_ref().filter(|_| !record.left.is_empty()) {
        field("left", &format!("{} {}", record.left.join(", "), after_fault(record, left_at)));
    }
    for step in &record.steps {
        for (index, text) in step_lines(record, step).iter().enumerate() {
            field(if index == 0 { &step.level } else { "" }, text);
        }
    }
    for process in &record.remaining {
        let asleep = if process.wchan.is_empty() { String::new() } else { format!(" at {}", process.wchan) };
        let devices =
            if process.devices.is_empty() { String::new() } else { format!(", on {}", process.devices.join(", ")) };
        field(
            "remaining",
            &format!("pid {} ({}) in state {}{asleep}{devices}", process.pid, process.comm, process.state),
        );
    }
    if let Some(Ended { at, why }) = &record.ended {
        field("ended", &format!("{at}: {why}"));
    }
    out
}

fn step_lines(record: &Evidence, step: &Step) -> Vec<String> {
    let processes = |count: u32| if count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
    let mut lines = vec![format!("decided {}", after_fault(record, &step.decided))];
    if let Some(us) = step.written_after_us {
        // Of limits nobody counts.
        let there =
            if step.processes_before > 0 { format!(" ({})", processes(step.processes_before)) } else { String::new() };
        lines.push(format!("written {} later: {}{there}", short_us(us), step.method));
    }
    match step.proven_after_us {
        Some(us) => {
            let left = step.processes_after.map_or_else(String::new, |count| format!(" ({})", processes(count)));
            lines.push(format!("proven {} after the decision: {}{left}", short_us(us), step.proof));
        }
        None if step.proof.is_empty() => lines.push("not proven yet".to_owned()),
        None => lines.push(format!("not proven: {}", step.proof)),
    }
    lines
}

fn after_fault(record: &Evidence, at: &str) -> String {
    between(&record.fault_seen, at)
        .map_or_else(|| at.to_owned(), |ms| format!("{} after the fault, {at}", human_ms(ms)))
}

/// Milliseconds from one instant to the other, 0 when the clock was set back.
fn between(from: &str, to: &str) -> Option<u64> {
    Some(parse_rfc3339(to)?.saturating_sub(parse_rfc3339(from)?))
}

/// The fence of a replica as `status` and `why` tell it, which have its cause besides.
pub(super) fn sentence(name: &str, fence: &ReplicaFence) -> String {
    let state = match &fence.level {
        Some(level) => format!("{level}, {}", fence.state),
        None => "on probation".to_owned(),
    };
    let next = match (&fence.next, &fence.level) {
        (Some(next), _) => format!("; {} in {}", next.what, human_ms(next.in_ms)),
        (None, Some(_)) => format!("; until mainstay unfence {name}"),
        (None, None) => String::new(),
    };
    let text = format!(
        "{state} ({}) since {}{next}; evidence: mainstay {} {}",
        fence.trigger,
        fence.since,
        table::FENCES,
        fence.id
    );
    clean(&text)
}

/// `None`: there are none.
pub(super) fn limits_text(limits: &Limits) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(limits.cpu_max_percent.map(|percent| format!("{percent}% of a CPU")));
    parts.extend(limits.cpu_weight.map(|weight| format!("CPU weight {weight}")));
    parts.extend(limits.memory_max_bytes.map(|bytes| format!("{}B of memory", output::size(bytes))));
    parts.extend(limits.pids_max.map(|pids| format!("{pids} processes")));
    parts.extend(limits.io_weight.map(|weight| format!("I/O weight {weight}")));
    for limit in &limits.io_max {
        let mut rates: Vec<String> = Vec::new();
        rates.extend(limit.read_bytes.map(|bytes| format!("reads {}B/s", output::size(bytes))));
        rates.extend(limit.write_bytes.map(|bytes| format!("writes {}B/s", output::size(bytes))));
        rates.extend(limit.read_operations.map(|count| format!("{count} reads/s")));
        rates.extend(limit.write_operations.map(|count| format!("{count} writes/s")));
        parts.push(format!("{}: {}", limit.path, rates.join(" ")));
    }
    (!parts.is_empty()).then(|| clean(&parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fences;
    use crate::api::testing::{fence_records, fences_view, stamp};

    fn all() -> Fences {
        fences::fences(&fences_view(&fence_records()), &stamp())
    }

    #[test]
    fn those_that_stand_come_first() {
        expect_test::expect![[r#"
            ID  NAME   LEVEL   STATE       TRIGGER   SINCE  WHY
            7   api/1  hold    incomplete  pressure  20s    it stalls for memory; until mainstay unfence
            6   web/0  -       probation   restarts  20s    its restart budget was spent; probation ends in 1m
            5   job/0  -       observed    cpu       30s    throttled in 98 % of the periods for 1m; not done: cpu is a dry run
            4   api/1  freeze  released    operator  50m    root (pid 99, mainstay): it eats the cake; ended: by an operator
            by the agent itself: 1 of at most 3 within 10m
        "#]].assert_eq(&tell(&all(), &Look::plain()));
        let mut none = all();
        (none.fences, none.records) = (Vec::new(), Vec::new());
        none.automatic.used = 3;
        expect_test::expect![[r#"
            nothing is or was fenced
            by the agent itself: 3 of at most 3 within 10m; until some are older than that, it only watches and tells
        "#]]
        .assert_eq(&tell(&none, &Look::plain()));
    }

    #[test]
    fn evidence_is_told_in_plain_words() {
        let records = fence_records();
        let told: String =
            records.iter().map(|record| describe(&fences::evidence(record, &stamp()), &Look::plain())).collect();
        expect_test::expect![[r#"
            fence 7: api/1, run 3, by the agent (pressure), incomplete
              fault seen 2026-11-22T07:59:30Z
                         memory full avg10 62.1 %, 51.0 %
                         812 pages scanned in 10s
              left       front 9.9s after the fault, 2026-11-22T07:59:39.999Z
              kill       decided 10s after the fault, 2026-11-22T07:59:40Z
                         written 180us later: cgroup.kill (12 processes)
                         proven 4.3ms after the decision: populated 0 (0 processes)
              hold       decided 25s after the fault, 2026-11-22T07:59:55Z
                         written 90us later: no start (12 processes)
                         not proven: 1 process is left
              remaining  pid 812 (api) in state D at folio_wait_bit_common, on dm-0
            fence 6: web/0, run 3, by the agent (restarts), probation
              fault seen 2026-11-22T07:59:30Z
                         10 restarts within 10m
              hold       decided 0ms after the fault, 2026-11-22T07:50:00Z
                         written 0us later: no start (12 processes)
                         proven 0us after the decision: no start (0 processes)
            fence 5: job/0, run 3, by the agent (cpu), observed
              fault seen 2026-11-22T07:59:30Z
                         throttled in 98 % of the periods for 1m
              not done   cpu is a dry run
            fence 4: api/1, run 3, by an operator, released
              fault seen 2026-11-22T07:59:30Z
                         root (pid 99, mainstay): it eats the cake
              freeze     decided 0ms after the fault, 2026-11-22T07:00:00Z
                         written 50us later: cgroup.freeze (12 processes)
                         proven 7.0ms after the decision: frozen 1 (0 processes)
              ended      2026-11-22T07:10:00Z: by an operator
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn one_service_or_the_nearest_name() {
        let mut chosen = all();
        select(&mut chosen, "web").unwrap();
        assert_eq!((chosen.fences.len(), chosen.records.len(), latest(&chosen)), (1, 0, Some(6)));
        let mut chosen = all();
        select(&mut chosen, "api/1").unwrap();
        assert_eq!((chosen.fences.len(), chosen.records.len(), latest(&chosen)), (1, 1, Some(7)));
        select(&mut chosen, "api/0").unwrap();
        assert_eq!((chosen.fences.len(), chosen.records.len(), latest(&chosen)), (0, 0, None));
        let error = select(&mut all(), "wep").unwrap_err();
        assert_eq!((error.exit(), error.hint()), (Exit::UnknownName, Some("did you mean \"web\"?")));
    }

    #[test]
    fn a_fence_is_one_sentence() {
        let all = all();
        let told: Vec<String> = all.fences.iter().map(|fence| sentence(&fence.service, &fence.fence)).collect();
        expect_test::expect![[r#"
            hold, incomplete (pressure) since 2026-11-22T07:59:40Z; until mainstay unfence api; evidence: mainstay fences 7
            on probation (restarts) since 2026-11-22T07:59:40Z; probation ends in 1m; evidence: mainstay fences 6"#]]
        .assert_eq(&told.join("\n"));
    }
}
