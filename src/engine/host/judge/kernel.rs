//! What the kernel says: in its log, and in its counters of itself.

use super::super::Health;
use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::sample::{KernelAbout, KernelLine, System};
use super::super::words::{quoted, several, signed};
use super::{Bench, DAY, Growth, HOUR};

/// Taints that speak of a fault: bad page, died, machine check, lockup. Others are modules and choices.
const FAULTS: [(u32, &str); 4] =
    [(4, "a machine check"), (5, "a bad page"), (7, "a kernel that died"), (14, "a lockup")];

impl Bench<'_> {
    pub(super) fn kernel_line(&mut self, line: &KernelLine) {
        let text = quoted(&line.text);
        let target = line.target.as_deref().unwrap_or_default();
        match line.about {
            KernelAbout::IoError => self.disk_error(target, format!("kernel: {text}")),
            KernelAbout::FilesystemError => self.filesystem_line(target, &text),
            KernelAbout::MachineCheckCorrected => self.machine_checks((1, 0), Some(text)),
            KernelAbout::MachineCheck => self.machine_checks((0, 1), Some(text)),
            // Where the kernel counts them itself, the line is the same one again.
            KernelAbout::Oops if self.seen.system.oopses.is_some() => {}
            KernelAbout::HungTask if self.seen.system.hung_tasks.is_some() => {}
            KernelAbout::Oops => self.oops(1, &format!("kernel: {text}")),
            KernelAbout::HungTask => self.hung_task(&format!("kernel: {text}")),
            KernelAbout::OutOfMemory => self.out_of_memory_line(text),
            KernelAbout::Lost => self.happened(format!("lines of the kernel were lost: {text}")),
        }
    }

    fn oops(&mut self, count: u64, why: &str) {
        self.tally(CheckKind::Kernel, "", DAY, (0, count));
        self.latch(CheckKind::Kernel, "", Health::Failing, Some(DAY), why.to_owned());
    }

    fn hung_task(&mut self, why: &str) {
        self.tally(CheckKind::Kernel, "", DAY, (1, 0));
        self.latch(CheckKind::Kernel, "", Health::Degraded, Some(HOUR), why.to_owned());
    }

    pub(super) fn kernel_state(&mut self, system: &System) {
        if self.check(CheckKind::Kernel, "").is_none() {
            return;
        }
        self.seen.system.oopses = system.oopses;
        self.seen.system.hung_tasks = system.hung_tasks;
        if let Some(oopses) = system.oopses {
            match self.growth("oopses".to_owned(), [oopses]) {
                Growth::First if oopses > 0 => {
                    let why = format!("{} before the agent began to look", several(oopses, "oops", "oopses"));
                    self.latch(CheckKind::Kernel, "", Health::Degraded, Some(DAY), why);
                }
                Growth::By([more]) if more > 0 => self.oops(more, "the kernel counted an oops"),
                Growth::First | Growth::Reset | Growth::By(_) => {}
            }
        }
        if let Some(hung) = system.hung_tasks
            && let Growth::By([more]) = self.growth("hung_tasks".to_owned(), [hung])
            && more > 0
        {
            self.hung_task(&format!("the kernel found {}", several(more, "hung task", "hung tasks")));
        }
        if let Some(tainted) = system.tainted {
            self.taint(tainted);
        }
        let (hung, oopses) = self.tally(CheckKind::Kernel, "", DAY, (0, 0));
        let text = format!("{hung} hung tasks and {oopses} oopses within a day");
        self.say(CheckKind::Kernel, "", Verdict::plain(Health::Ok, Some(signed(hung + oopses)), text));
    }

    /// New bits only: what is there at first sight may be old.
    fn taint(&mut self, tainted: u64) {
        let known = &mut self.seen.known;
        let before = known.counters.insert("tainted".to_owned(), vec![tainted]);
        known.changed |= before.as_deref() != Some(&[tainted]);
        let Some(before) = before.and_then(|before| before.first().copied()) else {
            return;
        };
        for (bit, what) in FAULTS {
            if tainted & !before & (1 << bit) != 0 {
                let why = format!("the kernel is tainted by {what} (bit {bit} of /proc/sys/kernel/tainted)");
                self.latch(CheckKind::Kernel, "", Health::Degraded, Some(DAY), why);
            }
        }
    }

    /// Corrected and uncorrected ones that came now; without any, what the last hour says.
    pub(super) fn machine_checks(&mut self, counts: (u64, u64), text: Option<String>) {
        const KIND: CheckKind = CheckKind::MachineCheck;
        if self.check(KIND, "").is_none() {
            return;
        }
        let (corrected, _) = self.tally(KIND, "", HOUR, counts);
        if counts.1 > 0 {
            let line = text.unwrap_or_default();
            self.latch(KIND, "", Health::Failing, Some(DAY), format!("an uncorrected hardware error: {line}"));
        } else {
            let text = format!(
                "{} within an hour",
                several(corrected, "corrected hardware error", "corrected hardware errors")
            );
            self.measure(KIND, "", signed(corrected), text);
        }
    }
}
