//! The proxy's counters: asked over its link when somebody wants them, at most one question under way. Who asks meanwhile shares the
//! answer. A proxy that does not answer in time costs them its counters and nothing else.

use std::time::Duration;

use super::links::{Importance, Link};
use crate::api::server::ConnectionId;
use crate::engine::types::Time;
use crate::proxy::proto::{BalancerStats, ToProxy};

/// How long they are waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Above the number of reasons and kinds that the proxy counts by.
const KINDS_MAX: usize = 16;
/// Above the number of its histograms' buckets.
const BUCKETS_MAX: usize = 64;

/// What the counters are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WantedFor {
    Balancers,
    Metrics,
}

/// What is known of the proxy's counters.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Figures {
    /// No balancer of this configuration goes through it.
    NotNeeded,
    NotConnected,
    NoAnswer,
    Known(Vec<BalancerStats>),
}

#[derive(Debug)]
struct Question {
    id: u64,
    until: Time,
    stats: Vec<BalancerStats>,
    complete: bool,
}

/// The question under way and who waits for its answer: no more than the server has connections.
#[derive(Debug, Default)]
pub struct Inquiry {
    asked: u64,
    question: Option<Question>,
    waiting: Vec<(ConnectionId, WantedFor)>,
}

impl Inquiry {
    /// Asks for the counters, unless they are asked for already. There must be a connection.
    pub(super) fn ask(&mut self, proxy: &mut Link, connection: ConnectionId, wanted: WantedFor, now: Time) {
        self.waiting.push((connection, wanted));
        if self.question.is_some() {
            return;
        }
        self.asked += 1;
        proxy.send(&ToProxy::Stats { id: self.asked }, Importance::Current);
        let until = now.after(ANSWER_TIMEOUT);
        self.question = Some(Question { id: self.asked, until, stats: Vec::new(), complete: false });
    }

    /// When the answer must be there.
    #[must_use]
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.question.as_ref().map(|question| question.until)
    }

    /// The counters of one balancer have come. What is not `known` is dropped, and what is longer than any counters of ours: the proxy
    /// speaks with strangers.
    pub(super) fn add(&mut self, id: u64, mut stats: BalancerStats, known: impl Fn(&str, &str) -> bool) {
        let Some(question) = self.question.as_mut().filter(|question| question.id == id) else { return };
        let before = question.stats.iter().find(|before| before.balancer == stats.balancer);
        let has = |name: &str| before.is_some_and(|before| before.backends.iter().any(|one| one.name == name));
        stats.backends.retain(|backend| known(&stats.balancer, &backend.name) && !has(&backend.name));
        stats.refused.truncate(KINDS_MAX);
        for backend in &mut stats.backends {
            backend.connect_failed.truncate(KINDS_MAX);
            backend.connect_us.buckets.truncate(BUCKETS_MAX);
            backend.first_byte_us.buckets.truncate(BUCKETS_MAX);
        }
        stats.collect(&mut question.stats);
    }

    /// All have come.
    pub(super) fn complete(&mut self, id: u64) {
        if let Some(question) = self.question.as_mut().filter(|question| question.id == id) {
            question.complete = true;
        }
    }

    /// Who is to be answered now, and with what.
    pub(super) fn take(&mut self, connected: bool, now: Time) -> Option<(Vec<(ConnectionId, WantedFor)>, Figures)> {
        let question = self.question.take_if(|question| question.complete || !connected || question.until <= now)?;
        let figures = match (question.complete, connected) {
            (true, _) => Figures::Known(question.stats),
            (false, true) => Figures::NoAnswer,
            (false, false) => Figures::NotConnected,
        };
        Some((std::mem::take(&mut self.waiting), figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::proto::BackendStats;

    const NOW: Time = Time(5_000_000_000);

    fn asked() -> Inquiry {
        let mut inquiry = Inquiry::default();
        inquiry.ask(&mut Link::default(), ConnectionId(7), WantedFor::Balancers, NOW);
        inquiry.ask(&mut Link::default(), ConnectionId(8), WantedFor::Metrics, NOW);
        inquiry
    }

    fn stats(name: &str) -> BalancerStats {
        BalancerStats { balancer: name.to_owned(), ..BalancerStats::default() }
    }

    #[test]
    fn one_answer_is_for_everybody_who_waits() {
        let mut inquiry = asked();
        inquiry.add(1, stats("front"), |_, _| true);
        assert_eq!(inquiry.take(true, NOW), None);
        inquiry.add(9, stats("of another question"), |_, _| true);
        inquiry.complete(1);
        let (waiting, figures) = inquiry.take(true, NOW).unwrap();
        assert_eq!(waiting, [(ConnectionId(7), WantedFor::Balancers), (ConnectionId(8), WantedFor::Metrics)]);
        assert_eq!(figures, Figures::Known(vec![stats("front")]));
        assert_eq!((inquiry.take(true, NOW), inquiry.next_deadline()), (None, None));
    }

    #[test]
    fn late_proxy_and_lost_one_cost_only_their_counters() {
        let mut inquiry = asked();
        inquiry.add(1, stats("front"), |_, _| true);
        let late = inquiry.next_deadline().unwrap();
        assert_eq!(late, NOW.after(ANSWER_TIMEOUT));
        assert_eq!(inquiry.take(true, late).unwrap().1, Figures::NoAnswer);
        inquiry.ask(&mut Link::default(), ConnectionId(9), WantedFor::Metrics, late);
        inquiry.add(1, stats("too late"), |_, _| true);
        assert_eq!(inquiry.take(false, late).unwrap().1, Figures::NotConnected);
    }

    #[test]
    fn names_that_nobody_told_the_proxy_are_dropped_and_none_counts_twice() {
        let mut inquiry = asked();
        let backend = |name: &str| BackendStats { name: name.to_owned(), ..BackendStats::default() };
        for _ in 0..2 {
            let made_up = ["api/0", "made/up"].map(backend).to_vec();
            let given = BalancerStats { backends: made_up, ..stats("front") };
            inquiry.add(1, given, |balancer, backend| (balancer, backend) == ("front", "api/0"));
        }
        inquiry.complete(1);
        let (_, figures) = inquiry.take(true, NOW).unwrap();
        assert_eq!(figures, Figures::Known(vec![BalancerStats { backends: vec![backend("api/0")], ..stats("front") }]));
    }
}
