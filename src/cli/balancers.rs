//! `mainstay balancers`: each balancer with its backends, as the agent sees them and as the proxy counts them.

use super::args::{Format, Invocation};
use super::ask;
use super::exit::{CliError, Exit};
use super::output::{self, Look, clean, human_ms, short_us, size};
use super::status::{line, unknown};
use crate::api::balancers::{Backend, Balancer, BalancerCounters, Balancers, Latency};
use crate::api::client::{self, Access};
use crate::api::render::nearest;

const HEAD: [&str; 11] =
    ["NAME", "STATE", "WEIGHT", "ACTIVE", "TOTAL", "FAILED", "IN", "OUT", "CONNECT", "FIRST-BYTE", "WHY"];

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let names = invocation.names()?;
    let body = ask::agent(invocation, Access::Read)?.get("/v1/balancers")?;
    let mut all: Balancers = client::parse(&body)?;
    if let Some(name) = names.first() {
        select(&mut all.balancers, name)?;
    }
    match format {
        Format::Json if names.is_empty() => output::print(&String::from_utf8_lossy(&body))?,
        Format::Json => output::print(&line(&all)?)?,
        Format::Ndjson => {
            let lines: Result<String, CliError> = all.balancers.iter().map(line).collect();
            output::print(&lines?)?;
        }
        Format::Table => output::print(&tell(&all, !names.is_empty(), &Look::stdout()))?,
    }
    Ok(if all.balancers.iter().all(Balancer::is_well) { Exit::Well } else { Exit::NotWell })
}

fn select(balancers: &mut Vec<Balancer>, name: &str) -> Result<(), CliError> {
    if !balancers.iter().any(|balancer| balancer.name == name) {
        let near = nearest(name, balancers.iter().map(|balancer| balancer.name.as_str()));
        let hint =
            near.map_or_else(|| "mainstay balancers lists them".to_owned(), |near| format!("did you mean \"{near}\"?"));
        return Err(unknown(format!("no balancer \"{name}\""), Some(hint)));
    }
    balancers.retain(|balancer| balancer.name == name);
    Ok(())
}

fn tell(all: &Balancers, in_detail: bool, look: &Look) -> String {
    let mut out = String::new();
    if in_detail {
        all.balancers.iter().for_each(|balancer| describe(&mut out, balancer, look));
    }
    let rows: Vec<Vec<String>> = all.balancers.iter().flat_map(rows_of).collect();
    out.push_str(&output::table(&HEAD, &rows, &[1], look));
    if all.proxy == "not connected" || all.proxy == "no answer" {
        out.push_str(&format!(
            "no counters: the proxy is {}\n",
            if all.proxy == "no answer" { "silent" } else { "away" }
        ));
    }
    out
}

/// The balancer's own row, then one for each backend.
fn rows_of(balancer: &Balancer) -> Vec<Vec<String>> {
    let counters = balancer.counters.as_ref();
    let number = |of: fn(&BalancerCounters) -> u64| counters.map_or_else(dash, |counters| of(counters).to_string());
    let refused = |counters: &BalancerCounters| counters.refused.values().sum::<u64>();
    let failed = balancer.listen.iter().find_map(|listener| listener.error.as_ref().map(|error| (listener, error)));
    let state = match failed {
        Some(_) => "failed",
        None if balancer.is_well() => "ok",
        None => "degraded",
    };
    let why = match failed {
        Some((listener, error)) => format!("{}: {error}", listener.address),
        None => {
            let queued = counters.map_or(0, |counters| counters.queued);
            let waiting = if queued > 0 { format!("; {queued} wait") } else { String::new() };
            format!("{}{waiting}", addresses(balancer))
        }
    };
    let own = [
        balancer.name.clone(),
        state.to_owned(),
        dash(),
        number(|counters| counters.active),
        number(|counters| counters.accepted),
        counters.map_or_else(dash, |counters| refused(counters).to_string()),
        sum(balancer, |backend| backend.bytes_in),
        sum(balancer, |backend| backend.bytes_out),
        dash(),
        dash(),
        why,
    ];
    std::iter::once(own.to_vec()).chain(balancer.backends.iter().map(backend_row)).collect()
}

fn backend_row(backend: &Backend) -> Vec<String> {
    let counters = backend.counters.as_ref();
    let failures = |counters: &crate::api::balancers::BackendCounters| {
        counters.failed + counters.connect_failed.values().sum::<u64>()
    };
    let mut why = backend.why.clone().unwrap_or_default();
    if let Some(left) = counters.and_then(|counters| counters.ejected_ms) {
        why = format!("{why}, out for {} more", human_ms(left)).trim_start_matches(", ").to_owned();
    }
    vec![
        format!("  {}", backend.name),
        backend.standing.to_string(),
        backend.weight.to_string(),
        counters.map_or_else(dash, |counters| counters.active.to_string()),
        counters.map_or_else(dash, |counters| counters.connections.to_string()),
        counters.map_or_else(dash, |counters| failures(counters).to_string()),
        counters.map_or_else(dash, |counters| size(counters.bytes_in)),
        counters.map_or_else(dash, |counters| size(counters.bytes_out)),
        counters.map_or_else(dash, |counters| latency(&counters.connect)),
        counters.map_or_else(dash, |counters| latency(&counters.first_byte)),
        why,
    ]
}

/// What the table has no room for.
fn describe(out: &mut String, balancer: &Balancer, look: &Look) {
    let to = balancer.to.as_ref().map_or_else(|| "fixed backends".to_owned(), |to| format!("service {to}"));
    out.push_str(&format!("{}: {} to {to}, by {}\n", balancer.name, balancer.delivery, balancer.algorithm));
    for listener in &balancer.listen {
        let error = listener.error.as_ref().map_or_else(String::new, |error| format!(": {}", clean(error)));
        let word = if listener.state == "failed" { "failed" } else { "ok" };
        let state = look.paint(word, &listener.state);
        out.push_str(&format!("  listens on {} ({state}{error})\n", listener.address));
    }
    if let Some(counters) = &balancer.counters {
        let refused: Vec<String> = counters.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        for (name, value) in [
            ("queued", format!("{} now, {} in all", counters.queued, counters.queued_total)),
            ("refused", if refused.is_empty() { "none".to_owned() } else { refused.join(", ") }),
            ("rescued", format!("{} redispatched, {} replayed", counters.redispatched, counters.replayed)),
            ("keyless", counters.keyless.to_string()),
            ("idle", format!("{} closed", counters.idle_closed)),
            ("paused", human_ms(counters.accept_paused_ms)),
        ] {
            out.push_str(&format!("  {name:9} {value}\n"));
        }
    }
    for backend in &balancer.backends {
        let Some(counters) = &backend.counters else { continue };
        let failed: Vec<String> =
            counters.connect_failed.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        if !failed.is_empty() {
            out.push_str(&format!("  {}: connects failed: {}\n", backend.name, failed.join(", ")));
        }
    }
    out.push('\n');
}

fn addresses(balancer: &Balancer) -> String {
    let addresses: Vec<&str> = balancer.listen.iter().map(|listener| listener.address.as_str()).collect();
    addresses.join(", ")
}

fn sum(balancer: &Balancer, of: fn(&crate::api::balancers::BackendCounters) -> u64) -> String {
    let counted: Vec<u64> = balancer.backends.iter().filter_map(|backend| backend.counters.as_ref()).map(of).collect();
    if counted.is_empty() { dash() } else { size(counted.iter().sum()) }
}

/// `64us/1.0ms`: half and 99 of 100 are not above.
fn latency(latency: &Latency) -> String {
    match (latency.p50_us, latency.p99_us) {
        (Some(half), Some(most)) => format!("{}/{}", short_us(half), short_us(most)),
        _ => dash(),
    }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::balancers;

    fn answer(proxy: &'static str) -> Balancers {
        Balancers { at: String::new(), seq: 1, proxy: proxy.into(), balancers: balancers() }
    }

    #[test]
    fn each_balancer_is_a_row_above_its_backends() {
        expect_test::expect![[r#"
            NAME     STATE   WEIGHT  ACTIVE  TOTAL  FAILED  IN    OUT   CONNECT     FIRST-BYTE  WHY
            front    failed  -       3       124    2       1000  2.8M  -           -           tcp:0.0.0.0:8081: Address already in use
              api/0  up      1       3       120    0       1000  2.8M  64us/128us  64us/128us
              api/1  out     1       0       0      8       0     0     -           -           exited with code 1; restart 3 of 10 in 800ms
        "#]].assert_eq(&tell(&answer("ok"), false, &Look::plain()));
    }

    #[test]
    fn one_balancer_is_told_in_full() {
        expect_test::expect![[r#"
            front: proxy to service api, by rendezvous
              listens on tcp:0.0.0.0:8080 (open)
              listens on tcp:0.0.0.0:8081 (failed: Address already in use)
              queued    1 now, 9 in all
              refused   queue_full 2
              rescued   4 redispatched, 5 replayed
              keyless   0
              idle      0 closed
              paused    0ms
              api/1: connects failed: refused 7

            NAME     STATE   WEIGHT  ACTIVE  TOTAL  FAILED  IN    OUT   CONNECT     FIRST-BYTE  WHY
            front    failed  -       3       124    2       1000  2.8M  -           -           tcp:0.0.0.0:8081: Address already in use
              api/0  up      1       3       120    0       1000  2.8M  64us/128us  64us/128us
              api/1  out     1       0       0      8       0     0     -           -           exited with code 1; restart 3 of 10 in 800ms
        "#]].assert_eq(&tell(&answer("ok"), true, &Look::plain()));
    }

    #[test]
    fn counters_that_are_not_there_are_dashes() {
        let mut all = answer("no answer");
        for balancer in &mut all.balancers {
            balancer.counters = None;
            balancer.backends.iter_mut().for_each(|backend| backend.counters = None);
        }
        let json = serde_json::to_string(&all).unwrap();
        assert!(!json.contains("active"), "{json}");
        assert_eq!(serde_json::from_str::<Balancers>(&json).unwrap(), all);
        let told = tell(&all, false, &Look::plain());
        assert!(told.contains("api/0  up      1       -       -"), "{told}");
        assert!(told.ends_with("no counters: the proxy is silent\n"), "{told}");
    }

    #[test]
    fn wrong_name_is_answered_with_the_nearest() {
        let mut all = balancers();
        let error = select(&mut all, "frond").unwrap_err();
        assert_eq!((error.exit(), error.hint()), (Exit::UnknownName, Some("did you mean \"front\"?")));
        select(&mut all, "front").unwrap();
        assert_eq!(all.len(), 1);
    }
}
