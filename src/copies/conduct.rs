//! What a job on a set needs of whoever runs it: the role, which talks to the agent, or a command in a rescue shell.

use std::path::PathBuf;

use crate::engine::copies::order::{Finding, Progress};
use crate::engine::types::Time;

/// Asked between files, and within long ones: none of these may take long but [`Conduct::quiesce`] and [`Conduct::pace`].
pub trait Conduct {
    fn progress(&mut self, progress: Progress);
    fn finding(&mut self, finding: Finding);
    fn is_cancelled(&self) -> bool;
    /// Asks for the service to hold still (`true`) and waits for it, or says that it need not any more. `Err`: why it does not.
    fn quiesce(&mut self, on: bool) -> Result<(), String>;
    /// Whether it still does. Once it does not, what is copied is unstable.
    fn still_quiet(&self) -> bool;
    /// The cgroups that were frozen for it.
    fn still_groups(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// As many bytes have been read or written: waits for as long as the bandwidth of the plan wants.
    fn pace(&mut self, bytes: u64);
    /// There is no room for what was to be written: as many bytes are missing at least.
    fn full(&mut self, _missing_bytes: u64) {}
    /// CLOCK_REALTIME.
    fn now(&self) -> Time;
    /// Whether the kernel calls that clock disciplined.
    fn is_clock_synchronised(&self) -> bool {
        crate::sys::clock::clocks().synchronised
    }
}

/// Runs a job to its end with nobody asked, and keeps what it found.
#[derive(Debug, Default)]
pub struct Alone {
    pub findings: Vec<Finding>,
}

impl Conduct for Alone {
    fn progress(&mut self, _: Progress) {}

    fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn is_cancelled(&self) -> bool {
        false
    }

    fn quiesce(&mut self, _: bool) -> Result<(), String> {
        Ok(())
    }

    fn still_quiet(&self) -> bool {
        true
    }

    fn pace(&mut self, _: u64) {}

    fn now(&self) -> Time {
        Time(crate::sys::clock::clocks().wall_ns)
    }
}
