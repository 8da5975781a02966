//! What came of the requests, as a line of JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use nix::errno::Errno;

use crate::Result;
use crate::histogram::Histogram;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Refused,
    Reset,
    /// The end of the stream in place of the answer, or of the rest of it.
    Closed,
    Timeout,
    /// Other bytes than those that were sent.
    Wrong,
    /// Ours, not the balancer's: out of ports or descriptors.
    Local,
    Other,
}

impl Failure {
    pub(crate) fn of(error: Errno) -> Self {
        match error {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ECONNRESET | Errno::EPIPE => Self::Reset,
            Errno::ETIMEDOUT => Self::Timeout,
            Errno::EADDRNOTAVAIL | Errno::EADDRINUSE | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS => Self::Local,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Wrong => "wrong",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tally {
    latencies: Histogram,
    /// Answered at all, the time before the window included.
    answered: u64,
    failures: BTreeMap<Failure, u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { latencies: Histogram::new(), answered: 0, failures: BTreeMap::new() }
    }

    /// `in_window`: after the first moments, which do not count for rate and latency.
    pub(crate) fn answer(&mut self, took: Duration, in_window: bool) {
        self.answered += 1;
        if in_window {
            self.latencies.add(took);
        }
    }

    pub(crate) fn failure(&mut self, kind: Failure) {
        *self.failures.entry(kind).or_default() += 1;
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn print(&self, window: Duration) -> Result<()> {
        let mut failures = String::new();
        for (kind, count) in &self.failures {
            let comma = if failures.is_empty() { "" } else { "," };
            write!(failures, "{comma}\"{}\":{count}", kind.name())?;
        }
        let latencies = &self.latencies;
        let line = format!(
            "{{\"answered\":{},\"in_window\":{},\"window_s\":{:.6},\"failed\":{},\"failures\":{{{failures}}},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1}}}",
            self.answered,
            latencies.total(),
            window.as_secs_f64(),
            self.failed(),
            latencies.quantile_us(500),
            latencies.quantile_us(990),
            latencies.quantile_us(999),
            latencies.max_us(),
        );
        line_out(&line)
    }
}

pub(crate) fn line_out(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
