//! The balancers' part of `GET /metrics`. Counters are the proxy's and begin anew with it; where it did not answer, only what the agent
//! itself knows is told.

use std::collections::BTreeMap;

use super::balancers::{Backend, BackendCounters, Balancer, BalancerCounters, Latency};
use super::metrics::{family, sample};

/// Upper bounds of the histograms' buckets, as powers of two in microseconds: 16 us, 64 us ... 16.8 s.
const BOUNDS: [usize; 11] = [4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24];

/// Appends every family; nothing at all without a balancer.
pub(super) fn text(out: &mut String, balancers: &[Balancer]) {
    if balancers.is_empty() {
        return;
    }
    of_agent(out, balancers);
    of_balancers(out, balancers);
    of_backends(out, balancers);
    by_word(out, balancers);
    let histograms: [(&str, &str, LatencyOf); 2] = [
        ("mainstay_balancer_connect_seconds", "Time until a connection to a backend was established.", |backend| {
            &backend.connect
        }),
        ("mainstay_balancer_first_byte_seconds", "Time until a backend sent its first byte.", |backend| {
            &backend.first_byte
        }),
    ];
    for (name, help, latency) in histograms {
        family(out, name, "histogram", help);
        for (balancer, backend, counters) in counted(balancers) {
            histogram(out, name, &[("balancer", balancer), ("backend", &backend.name)], latency(counters));
        }
    }
}

type LatencyOf = fn(&BackendCounters) -> &Latency;
type OfBalancer = fn(&BalancerCounters) -> u64;
type OfBackend = fn(&BackendCounters) -> u64;

fn counted(balancers: &[Balancer]) -> impl Iterator<Item = (&str, &Backend, &BackendCounters)> {
    balancers.iter().flat_map(|balancer| {
        let counted = balancer.backends.iter().filter_map(|backend| Some((backend, backend.counters.as_ref()?)));
        counted.map(|(backend, counters)| (balancer.name.as_str(), backend, counters))
    })
}

fn of_agent(out: &mut String, balancers: &[Balancer]) {
    let name = "mainstay_balancer_listening";
    family(out, name, "gauge", "Whether the address is listened on.");
    for balancer in balancers {
        for listener in &balancer.listen {
            let labels = [("balancer", balancer.name.as_str()), ("address", &listener.address)];
            sample(out, name, &labels, u8::from(listener.state != "failed"));
        }
    }
    let name = "mainstay_balancer_backend_up";
    family(out, name, "gauge", "Whether the backend takes new connections.");
    for balancer in balancers {
        for backend in &balancer.backends {
            let labels = [("balancer", balancer.name.as_str()), ("backend", &backend.name)];
            sample(out, name, &labels, u8::from(backend.standing == "up"));
        }
    }
}

fn of_balancers(out: &mut String, balancers: &[Balancer]) {
    let families: [(&str, &str, &str, OfBalancer); 6] = [
        ("mainstay_balancer_accepted_total", "counter", "Connections accepted from clients.", |one| one.accepted),
        ("mainstay_balancer_queued", "gauge", "Clients that wait for a backend.", |one| one.queued),
        ("mainstay_balancer_queued_total", "counter", "Clients that had to wait for a backend.", |one| {
            one.queued_total
        }),
        (
            "mainstay_balancer_redispatched_total",
            "counter",
            "Connections that went to another backend than the first.",
            |one| one.redispatched,
        ),
        (
            "mainstay_balancer_replayed_total",
            "counter",
            "Unanswered requests that were sent to another backend.",
            |one| one.replayed,
        ),
        ("mainstay_balancer_keyless_total", "counter", "Connections without a usable key.", |one| one.keyless),
    ];
    for (name, kind, help, value) in families {
        family(out, name, kind, help);
        for balancer in balancers {
            if let Some(counters) = &balancer.counters {
                sample(out, name, &[("balancer", &balancer.name)], value(counters));
            }
        }
    }
}

fn of_backends(out: &mut String, balancers: &[Balancer]) {
    let families: [(&str, &str, &str, OfBackend); 3] = [
        ("mainstay_balancer_connections_total", "counter", "Connections established to the backend.", |one| {
            one.connections
        }),
        ("mainstay_balancer_active", "gauge", "Open connections of the backend.", |one| one.active),
        (
            "mainstay_balancer_failed_total",
            "counter",
            "Connections that the backend ended before its first byte.",
            |one| one.failed,
        ),
    ];
    for (name, kind, help, value) in families {
        family(out, name, kind, help);
        for (balancer, backend, counters) in counted(balancers) {
            sample(out, name, &[("balancer", balancer), ("backend", &backend.name)], value(counters));
        }
    }
    let name = "mainstay_balancer_bytes_total";
    family(out, name, "counter", "Bytes moved: in from clients, out to them.");
    for (balancer, backend, counters) in counted(balancers) {
        for (direction, bytes) in [("in", counters.bytes_in), ("out", counters.bytes_out)] {
            let labels = [("balancer", balancer), ("backend", &backend.name), ("direction", direction)];
            sample(out, name, &labels, bytes);
        }
    }
}

fn by_word(out: &mut String, balancers: &[Balancer]) {
    let name = "mainstay_balancer_refused_total";
    family(out, name, "counter", "Clients that were reset.");
    for balancer in balancers {
        let refused: Option<&BTreeMap<String, u64>> = balancer.counters.as_ref().map(|counters| &counters.refused);
        for (reason, count) in refused.into_iter().flatten() {
            sample(out, name, &[("balancer", &balancer.name), ("reason", reason)], count);
        }
    }
    let name = "mainstay_balancer_connect_failures_total";
    family(out, name, "counter", "Connections to the backend that were not established.");
    for (balancer, backend, counters) in counted(balancers) {
        for (kind, count) in &counters.connect_failed {
            sample(out, name, &[("balancer", balancer), ("backend", &backend.name), ("kind", kind)], count);
        }
    }
}

fn histogram(out: &mut String, name: &str, labels: &[(&str, &str)], latency: &Latency) {
    let bucket = format!("{name}_bucket");
    for bound in BOUNDS {
        let below: u64 = latency.buckets.iter().take(bound + 1).sum();
        let le = seconds(1 << bound);
        let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", le.as_str())]).collect();
        sample(out, &bucket, &labels, below);
    }
    let labels_all: Vec<(&str, &str)> = labels.iter().copied().chain([("le", "+Inf")]).collect();
    sample(out, &bucket, &labels_all, latency.count);
    sample(out, &format!("{name}_sum"), labels, seconds(latency.sum_us));
    sample(out, &format!("{name}_count"), labels, latency.count);
}

/// Microseconds as seconds, without needless zeros.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::balancers;
    use super::*;

    #[test]
    fn seconds_are_exact() {
        assert_eq!((seconds(16), seconds(1 << 24), seconds(0)), ("0.000016".into(), "16.777216".into(), "0".into()));
    }

    #[test]
    fn nothing_is_said_without_a_balancer() {
        let mut out = String::new();
        text(&mut out, &[]);
        assert_eq!(out, "");
    }

    #[test]
    fn every_family_is_told_once_with_all_its_samples() {
        let mut out = String::new();
        text(&mut out, &balancers());
        let expected = [
            "mainstay_balancer_backend_up{balancer=\"front\",backend=\"api/1\"} 0",
            "mainstay_balancer_connections_total{balancer=\"front\",backend=\"api/0\"} 120",
            "mainstay_balancer_active{balancer=\"front\",backend=\"api/0\"} 3",
            "mainstay_balancer_queued{balancer=\"front\"} 1",
            "mainstay_balancer_refused_total{balancer=\"front\",reason=\"queue_full\"} 2",
            "mainstay_balancer_redispatched_total{balancer=\"front\"} 4",
            "mainstay_balancer_replayed_total{balancer=\"front\"} 5",
            "mainstay_balancer_bytes_total{balancer=\"front\",backend=\"api/0\",direction=\"out\"} 3000000",
            "mainstay_balancer_connect_failures_total{balancer=\"front\",backend=\"api/1\",kind=\"refused\"} 7",
            "mainstay_balancer_connect_seconds_bucket{balancer=\"front\",backend=\"api/0\",le=\"0.000064\"} 100",
            "mainstay_balancer_connect_seconds_bucket{balancer=\"front\",backend=\"api/0\",le=\"+Inf\"} 120",
            "mainstay_balancer_connect_seconds_sum{balancer=\"front\",backend=\"api/0\"} 0.006",
            "mainstay_balancer_connect_seconds_count{balancer=\"front\",backend=\"api/0\"} 120",
        ];
        for line in expected {
            assert!(out.lines().any(|found| found == line), "{line}\n{out}");
        }
        let mut families: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let all = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), all);
        // Each sample stands below its own family.
        let mut family = "";
        for line in out.lines() {
            match line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) {
                Some(name) => family = name,
                None => assert!(line.starts_with('#') || line.starts_with(family), "{line} below {family}"),
            }
        }
    }
}
