//! What a disk says of itself. Numbers that every vendor counts in another way are judged by their growth only.

use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::sample::SmartStat;
use super::super::words::several;
use super::{Bench, DAY, Growth};

/// Bits of NVMe's critical warning: spare, reliability, read-only, volatile memory backup.
const CRITICAL: u8 = 0b0001_1101;

impl Bench<'_> {
    pub(super) fn smart(&mut self, smart: &SmartStat) {
        let disk = smart.disk.as_str();
        // What sleeps is left asleep: there is nothing new.
        if smart.asleep {
            return;
        }
        if let Some(error) = &smart.error {
            for kind in [CheckKind::Smart, CheckKind::DiskWear] {
                if self.check(kind, disk).is_some() {
                    self.say(kind, disk, Verdict::unknown(format!("it could not be asked: {error}")));
                }
            }
            return;
        }
        match smart.used {
            Some(used) => {
                let text = format!("{used} % of its life used");
                self.measure(CheckKind::DiskWear, disk, i64::from(used) * 10, text);
            }
            None => self.absent(CheckKind::DiskWear, disk, "it does not say how worn it is"),
        }
        if self.check(CheckKind::Smart, disk).is_some() {
            self.grown(smart);
            let (level, why) = standing(smart);
            self.say(CheckKind::Smart, disk, Verdict::plain(level, None, why));
        }
    }

    /// More than there were: a day of warning, which goes on while they grow.
    fn grown(&mut self, smart: &SmartStat) {
        let disk = smart.disk.as_str();
        let counts =
            [smart.media_errors, smart.reallocated, smart.pending, smart.uncorrectable, smart.interface_errors];
        let whats = [
            (Health::Degraded, "media error", "media errors", ""),
            (Health::Degraded, "reallocated sector", "reallocated sectors", ""),
            (Health::Failing, "pending sector", "pending sectors", ""),
            (Health::Failing, "uncorrectable sector", "uncorrectable sectors", ""),
            (Health::Degraded, "interface error", "interface errors", ": look at its cable"),
        ];
        for (count, (level, one, many, advice)) in counts.into_iter().zip(whats) {
            let Some(count) = count else {
                continue;
            };
            if let Growth::By([more]) = self.growth(format!("smart {disk} #{many}"), [count])
                && more > 0
            {
                let why = format!("{} more, {count} in all{advice}", several(more, one, many));
                self.latch(CheckKind::Smart, disk, level, Some(DAY), why);
            }
        }
    }
}

/// What it says whatever it said before.
fn standing(smart: &SmartStat) -> (Health, String) {
    if smart.passed == Some(false) {
        return (Health::Failing, "the disk predicts its own failure".to_owned());
    }
    let critical = smart.critical_warning.unwrap_or_default();
    if critical & CRITICAL != 0 {
        return (Health::Failing, format!("critical warning {critical:#04x}: {}", critical_words(critical)));
    }
    if let Some((spare, least)) = smart.spare.filter(|(spare, least)| spare < least) {
        return (Health::Failing, format!("{spare} % of its spare blocks are left, below its limit of {least} %"));
    }
    if critical != 0 {
        return (Health::Degraded, format!("critical warning {critical:#04x}: {}", critical_words(critical)));
    }
    let bad = [(smart.pending, "pending"), (smart.uncorrectable, "uncorrectable")];
    let bad = bad.into_iter().find_map(|(count, what)| count.filter(|count| *count > 0).map(|count| (count, what)));
    match bad {
        Some((count, what)) => {
            let one = format!("{what} sector");
            (Health::Degraded, several(count, &one, &format!("{one}s")))
        }
        None => (Health::Ok, "it says that it is well".to_owned()),
    }
}

/// NVM Express, log page 02h, byte 0.
fn critical_words(bits: u8) -> String {
    let words = [
        "spare blocks are below the limit",
        "temperature is beyond its limit",
        "it is not reliable any more",
        "it is read-only",
        "its backup of memory has failed",
        "its persistent memory is read-only",
    ];
    let set = words.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, word)| *word);
    set.collect::<Vec<_>>().join(", ")
}
