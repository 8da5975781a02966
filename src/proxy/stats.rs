//! Counters in packets: a balancer with many backends comes in several, each with the same counters and other backends.

use super::proto::BalancerStats;

/// So many backends fit into a packet (128 KiB) whatever they have counted: each takes at most 2.5 KiB.
const BACKENDS_PER_PACKET: usize = 32;

impl BalancerStats {
    /// Several that each fit into a packet.
    pub(super) fn split(mut self) -> Vec<Self> {
        let mut backends = std::mem::take(&mut self.backends);
        let mut parts = Vec::new();
        loop {
            let rest = backends.split_off(backends.len().min(BACKENDS_PER_PACKET));
            parts.push(Self { backends, ..self.clone() });
            if rest.is_empty() {
                return parts;
            }
            backends = rest;
        }
    }

    /// Adds the `Stats` message of a question to those that came before.
    pub fn collect(self, into: &mut Vec<Self>) {
        match into.iter_mut().find(|known| known.balancer == self.balancer) {
            Some(known) => known.backends.extend(self.backends),
            None => into.push(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{BackendStats, FromProxy, Histogram};
    use super::*;
    use crate::sys::packet::PACKET_BYTES_MAX;

    #[test]
    fn parts_fit_into_packets_and_are_put_together_again() {
        let histogram = || Histogram { buckets: vec![u64::MAX; 28], sum_us: u64::MAX };
        let kinds = ["refused", "timeout", "backlog", "descriptors", "addresses", "other"];
        let backend = |index: usize| BackendStats {
            name: format!("{}/{index}", "a".repeat(128)),
            active: u64::MAX,
            connections: u64::MAX,
            connect_failed: kinds.map(|kind| (kind.to_owned(), u64::MAX)).to_vec(),
            failed: u64::MAX,
            bytes_in: u64::MAX,
            bytes_out: u64::MAX,
            spliced_bytes: u64::MAX,
            ejected_ms: Some(u64::MAX),
            connect_us: histogram(),
            first_byte_us: histogram(),
        };
        for count in [0, 1, 32, 33, 64, 200] {
            let whole = BalancerStats {
                balancer: "front".to_owned(),
                accepted: 7,
                refused: vec![("no_backend".to_owned(), 3)],
                backends: (0..count).map(backend).collect(),
                ..BalancerStats::default()
            };
            let parts = whole.clone().split();
            assert_eq!(parts.len(), count.div_ceil(32).max(1));
            let mut collected = vec![BalancerStats { balancer: "other".to_owned(), ..BalancerStats::default() }];
            for part in parts {
                assert_eq!((part.accepted, part.refused.len()), (7, 1));
                let packet = FromProxy::Stats { id: u64::MAX, stats: Box::new(part.clone()) };
                assert!(serde_json::to_vec(&packet).unwrap().len() <= PACKET_BYTES_MAX);
                part.collect(&mut collected);
            }
            assert_eq!(collected[1..], [whole]);
        }
    }
}
