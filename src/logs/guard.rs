//! The rate guard of one stream: whole lines beyond `lines_per_second` are dropped, counted and reported once a second.

/// A bucket of one second's lines: a burst of that many passes at once, then they come back evenly.
#[derive(Debug)]
pub(super) struct Guard {
    lines_per_second: u32,
    /// In thousandths of a line, so that slow refills are exact.
    tokens_milli: u64,
    refilled_ms: u64,
    open: OpenLine,
    dropped: u64,
    report_at_ms: Option<u64>,
}

/// The line whose end has not been seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenLine {
    None,
    Passing,
    Dropping,
}

impl Guard {
    pub(super) fn new(lines_per_second: u32, now_ms: u64) -> Self {
        let tokens_milli = u64::from(lines_per_second) * 1_000;
        Self {
            lines_per_second,
            tokens_milli,
            refilled_ms: now_ms,
            open: OpenLine::None,
            dropped: 0,
            report_at_ms: None,
        }
    }

    pub(super) fn lines_per_second(&self) -> u32 {
        self.lines_per_second
    }

    /// What of `bytes` may pass. `now_ms` is a monotonic clock.
    pub(super) fn filter(&mut self, bytes: Vec<u8>, now_ms: u64) -> Vec<u8> {
        self.refill(now_ms);
        let starts = bytes.split_inclusive(|byte| *byte == b'\n').count() as u64;
        if self.open != OpenLine::Dropping && starts * 1_000 <= self.tokens_milli {
            self.tokens_milli -= (starts - u64::from(self.open == OpenLine::Passing && starts > 0)) * 1_000;
            if let Some(last) = bytes.last() {
                self.open = if *last == b'\n' { OpenLine::None } else { OpenLine::Passing };
            }
            return bytes;
        }
        let mut passing = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.open == OpenLine::None {
                self.open = self.admit(now_ms);
            }
            if self.open == OpenLine::Passing {
                passing.extend_from_slice(line);
            }
            if line.ends_with(b"\n") {
                self.open = OpenLine::None;
            }
        }
        passing
    }

    /// The run ended: its open line ends with it.
    pub(super) fn end_line(&mut self) {
        self.open = OpenLine::None;
    }

    /// When to ask [`Guard::report`] again.
    pub(super) fn report_at_ms(&self) -> Option<u64> {
        self.report_at_ms
    }

    /// How many lines were dropped, once a second. An open line that passes is not interrupted.
    pub(super) fn report(&mut self, now_ms: u64) -> Option<u64> {
        if self.report_at_ms.is_none_or(|at| now_ms < at) {
            return None;
        }
        self.report_at_ms = None;
        Some(std::mem::take(&mut self.dropped)).filter(|lines| *lines > 0)
    }

    fn admit(&mut self, now_ms: u64) -> OpenLine {
        if self.tokens_milli >= 1_000 {
            self.tokens_milli -= 1_000;
            return OpenLine::Passing;
        }
        self.dropped += 1;
        self.report_at_ms.get_or_insert(now_ms + 1_000);
        OpenLine::Dropping
    }

    fn refill(&mut self, now_ms: u64) {
        let rate = u64::from(self.lines_per_second);
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        self.tokens_milli = self.tokens_milli.saturating_add(elapsed_ms.saturating_mul(rate)).min(rate * 1_000);
        self.refilled_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_dropped_and_counted_once_a_second() {
        let mut guard = Guard::new(2, 0);
        assert_eq!(guard.filter(b"a\nb\nc\nd\n".to_vec(), 0), b"a\nb\n");
        assert_eq!(guard.report(999), None);
        assert_eq!(guard.filter(b"e\nf\n".to_vec(), 500), b"e\n");
        assert_eq!(guard.report(1_000), Some(3));
        assert_eq!(guard.report(5_000), None);
        assert_eq!(guard.filter(b"g\nh\n".to_vec(), 5_000), b"g\nh\n");
    }

    #[test]
    fn a_line_passes_or_is_dropped_as_a_whole_however_it_is_cut() {
        let mut guard = Guard::new(1, 0);
        assert_eq!(guard.filter(b"fir".to_vec(), 0), b"fir");
        assert_eq!(guard.filter(b"st\nsec".to_vec(), 1), b"st\n");
        assert_eq!(guard.filter(b"ond".to_vec(), 5_000), b"");
        assert_eq!(guard.filter(b"\nthird\n".to_vec(), 5_001), b"third\n");
        assert_eq!(guard.report(5_001), Some(1));
    }

    #[test]
    fn the_end_of_a_run_ends_a_dropped_line() {
        let mut guard = Guard::new(1, 0);
        assert_eq!(guard.filter(b"a\nb".to_vec(), 0), b"a\n");
        guard.end_line();
        assert_eq!(guard.filter(b"c\n".to_vec(), 2_000), b"c\n");
    }
}
