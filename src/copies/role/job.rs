//! One order, carried out in a thread of its own, since it may wait for a disk for ever. It gives way to everybody else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::control::Control;
use crate::copies::conduct::Conduct;
use crate::engine::copies::catalog::{Catalog, TargetState};
use crate::engine::copies::order::{Finding, Job, Order, Outcome, Progress, Report};
use crate::engine::copies::plan::{CopyPlan, Quiesce};
use crate::engine::types::Time;
use crate::sys::wake::Wake;
use crate::sys::{clock, idle};

/// How often it is told how far a job is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
const NICE: i32 = 10;
/// Most of it is for paths.
const STACK_BYTES: usize = 512 << 10;
/// So much may be read at once beyond the bandwidth.
const BURST: Duration = Duration::from_millis(100);
/// A job that waits for its bandwidth asks so often whether it is cancelled.
const PACE_STEP: Duration = Duration::from_millis(200);

/// Who does the work: reads what lies on the target of a set, and carries out a job on it.
#[derive(Clone, Copy, Debug)]
pub struct Hands {
    pub catalog: fn(&CopyPlan) -> Catalog,
    pub carry_out: fn(&CopyPlan, &Job, &mut dyn Conduct) -> Outcome,
}

/// What a job tells the loop.
#[derive(Debug)]
pub(in crate::copies) enum FromJob {
    Report(Report),
    /// The service need not hold still any more.
    Moving {
        order: u64,
    },
    /// The thread is done. `outcome`: of the order, if there was one beside the look at the target.
    Ended {
        number: u64,
        outcome: Option<(u64, Outcome)>,
        catalog: Box<Catalog>,
    },
}

/// Where a job's words go.
#[derive(Clone, Debug)]
pub(in crate::copies) struct Voice {
    pub(in crate::copies) to_loop: Sender<FromJob>,
    pub(in crate::copies) wake: Arc<Wake>,
}

impl Voice {
    fn say(&self, what: FromJob) {
        // The loop ends only with the process.
        let _ = self.to_loop.send(what);
        self.wake.wake();
    }
}

/// Carries out an order, if there is one, and looks at the target after it.
pub(in crate::copies) fn start(
    hands: Hands,
    plan: CopyPlan,
    (number, order): (u64, Option<Order>),
    control: Arc<Control>,
    voice: Voice,
) -> std::io::Result<()> {
    let shuns_source = order.as_ref().is_some_and(|order| order.job.shuns_source());
    let work = move || {
        // Where the kernel refuses, the job is only felt more.
        let _ = idle::this_thread(NICE);
        let outcome = order.map(|order| {
            let mut conduct = Conductor::new(order.id, &plan, control, voice.clone());
            let outcome = (hands.carry_out)(&plan, &order.job, &mut conduct);
            conduct.end();
            (order.id, outcome)
        });
        let seen = if shuns_source { plan.without_sources() } else { plan };
        voice.say(FromJob::Ended { number, outcome, catalog: Box::new((hands.catalog)(&seen)) });
    };
    std::thread::Builder::new().name("copy-job".to_owned()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

struct Conductor {
    order: u64,
    control: Arc<Control>,
    voice: Voice,
    told: Option<(Instant, Progress)>,
    pace: Pace,
    is_quiesced: bool,
    /// Somebody stands still until the job says that it is done.
    is_waited_for: bool,
}

impl Conductor {
    fn new(order: u64, plan: &CopyPlan, control: Arc<Control>, voice: Voice) -> Self {
        let is_waited_for = matches!(plan.quiesce, Quiesce::Freeze { .. } | Quiesce::Stop { .. });
        let pace = Pace::new(plan.bandwidth);
        Self { order, control, voice, told: None, pace, is_quiesced: false, is_waited_for }
    }

    /// Whatever became of the job, the service goes on.
    fn end(&mut self) {
        if self.is_quiesced {
            // Only asking can fail.
            let _ = self.quiesce(false);
        }
    }

    fn report(&self, report: Report) {
        self.voice.say(FromJob::Report(report));
    }
}

impl Conduct for Conductor {
    fn progress(&mut self, progress: Progress) {
        let now = Instant::now();
        let is_news = self.told.is_none_or(|(at, told)| told.phase != progress.phase || now >= at + PROGRESS_EVERY);
        if is_news {
            self.told = Some((now, progress));
            self.report(Report::Progress { order: self.order, progress });
        }
    }

    fn finding(&mut self, finding: Finding) {
        self.report(Report::Finding(finding));
    }

    fn full(&mut self, missing_bytes: u64) {
        self.report(Report::Target(TargetState::Full { missing_bytes }));
    }

    fn is_cancelled(&self) -> bool {
        self.control.is_cancelled()
    }

    fn quiesce(&mut self, on: bool) -> Result<(), String> {
        let before = std::mem::replace(&mut self.is_quiesced, on);
        if !on && !before {
            return Ok(());
        }
        if !on {
            self.control.give_up();
            self.voice.say(FromJob::Moving { order: self.order });
            // Where the kernel refuses, the job is only felt more.
            let _ = idle::this_thread(NICE);
            return Ok(());
        }
        if self.is_waited_for {
            // Where the kernel refuses, it takes longer.
            let _ = idle::no_longer();
        }
        self.control.ask();
        self.report(Report::Quiesce { order: self.order, on: true });
        self.control.wait()
    }

    fn still_quiet(&self) -> bool {
        self.control.is_still()
    }

    fn still_groups(&self) -> Vec<PathBuf> {
        self.control.groups()
    }

    fn pace(&mut self, bytes: u64) {
        let mut wait = self.pace.after(bytes, Instant::now());
        if self.is_waited_for && self.still_quiet() {
            // What has been read too fast is made up for afterwards.
            return;
        }
        while !wait.is_zero() && !self.control.is_cancelled() {
            let step = wait.min(PACE_STEP);
            std::thread::sleep(step);
            wait -= step;
        }
    }

    fn now(&self) -> Time {
        Time(clock::clocks().wall_ns)
    }
}

/// Keeps to a number of bytes a second.
#[derive(Debug)]
pub(in crate::copies) struct Pace {
    bytes_per_second: Option<u64>,
    /// When everything so far would have been moved at that speed.
    level: Option<Instant>,
}

impl Pace {
    pub(in crate::copies) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), level: None }
    }

    /// How long to wait after so many more bytes.
    pub(in crate::copies) fn after(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let takes_ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(takes_ns).unwrap_or(u64::MAX));
        // What was not used is not saved up.
        let level = self.level.map_or(now, |level| level.max(now)) + takes;
        self.level = Some(level);
        level.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_is_kept_and_not_saved_up() {
        let begin = Instant::now();
        let mut pace = Pace::new(Some(1_000_000));
        assert_eq!(pace.after(50_000, begin), Duration::ZERO, "a burst");
        assert_eq!(pace.after(1_050_000, begin), Duration::from_secs(1));
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.after(1_100_000, later), Duration::from_secs(1));
        assert_eq!(Pace::new(None).after(u64::MAX, begin), Duration::ZERO);
    }
}
