//! Memory modules, PCI devices and CPUs that slow down: counters that rarely move.

use std::time::Duration;

use super::super::Health;
use super::super::kind::CheckKind;
use super::super::sample::Hardware;
use super::super::tally::grown;
use super::super::words::{several, signed};
use super::{Bench, DAY, Growth, HOUR};

const FIVE_MINUTES: Duration = Duration::from_secs(300);

impl Bench<'_> {
    pub(super) fn hardware(&mut self, hardware: &Hardware) {
        for (controller, (corrected, uncorrected)) in &hardware.ecc {
            self.memory_errors(controller, *corrected, *uncorrected);
        }
        for (device, counts) in &hardware.pcie {
            self.pcie_errors(device, *counts);
        }
        self.throttling(hardware.throttled);
    }

    fn memory_errors(&mut self, controller: &str, corrected: u64, uncorrected: u64) {
        const KIND: CheckKind = CheckKind::Ecc;
        if self.check(KIND, controller).is_none() {
            return;
        }
        let wrong = |count| several(count, "uncorrected memory error", "uncorrected memory errors");
        let more = match self.growth(format!("ecc {controller}"), [corrected, uncorrected]) {
            Growth::First if uncorrected > 0 => {
                let why = format!("{} before the agent began to look", wrong(uncorrected));
                self.latch(KIND, controller, Health::Degraded, Some(DAY), why);
                0
            }
            Growth::By([more, worse]) => {
                if worse > 0 {
                    self.latch(KIND, controller, Health::Failing, Some(DAY), wrong(worse));
                }
                more
            }
            Growth::First | Growth::Reset => 0,
        };
        let (of_a_day, _) = self.tally(KIND, controller, DAY, (more, 0));
        let text = format!("{} within a day", several(of_a_day, "corrected memory error", "corrected memory errors"));
        self.measure(KIND, controller, signed(of_a_day), text);
    }

    fn pcie_errors(&mut self, device: &str, counts: (u64, u64, u64)) {
        const KIND: CheckKind = CheckKind::Pcie;
        if self.check(KIND, device).is_none() {
            return;
        }
        let (correctable, nonfatal, fatal) = counts;
        let more = match self.growth(format!("pcie {device}"), [correctable, nonfatal, fatal]) {
            Growth::By([more, nonfatal, fatal]) => {
                if fatal > 0 {
                    let why = several(fatal, "fatal error of the device", "fatal errors of the device");
                    self.latch(KIND, device, Health::Failing, Some(DAY), why);
                } else if nonfatal > 0 {
                    let why = several(nonfatal, "uncorrected error of the device", "uncorrected errors of the device");
                    self.latch(KIND, device, Health::Degraded, Some(HOUR), why);
                }
                more
            }
            Growth::First | Growth::Reset => 0,
        };
        let (of_an_hour, _) = self.tally(KIND, device, HOUR, (more, 0));
        let text = format!("{} within an hour", several(of_an_hour, "correctable error", "correctable errors"));
        self.measure(KIND, device, signed(of_an_hour), text);
    }

    fn throttling(&mut self, throttled: Option<u64>) {
        let Some(throttled) = throttled else {
            return self.absent(CheckKind::Throttling, "", "the CPU does not count when it slows down");
        };
        let before = self.seen.throttled.replace(throttled);
        let more = before.and_then(|before| grown(before, throttled)).unwrap_or_default();
        let (count, _) = self.tally(CheckKind::Throttling, "", FIVE_MINUTES, (more, 0));
        let text = format!("the CPU slowed down {} within 5m because of heat", several(count, "time", "times"));
        self.measure(CheckKind::Throttling, "", signed(count), text);
    }
}
