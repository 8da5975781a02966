//! What the loop of the role and the job under way know of each other.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Whether the service holds still for this job.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stillness {
    /// Nobody has asked, or it is not needed any more.
    No,
    Asked,
    /// Until then at the latest, with what was frozen for it.
    Still(Instant, Vec<PathBuf>),
    Refused(String),
}

#[derive(Debug)]
pub(in crate::copies) struct Control {
    cancelled: AtomicBool,
    stillness: Mutex<Stillness>,
    changed: Condvar,
}

impl Control {
    pub(in crate::copies) fn new() -> Self {
        Self { cancelled: AtomicBool::new(false), stillness: Mutex::new(Stillness::No), changed: Condvar::new() }
    }

    pub(in crate::copies) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.refuse("the job was cancelled");
    }

    pub(in crate::copies) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Before the question is sent, so that no answer comes too early.
    pub(in crate::copies) fn ask(&self) {
        if !self.is_cancelled() {
            *self.lock() = Stillness::Asked;
        }
    }

    pub(in crate::copies) fn give_up(&self) {
        *self.lock() = Stillness::No;
    }

    /// Waits for the answer: whoever answers has a limit of its own, and the end of the link is one.
    pub(in crate::copies) fn wait(&self) -> Result<(), String> {
        let mut stillness = self.lock();
        loop {
            match &*stillness {
                Stillness::Asked => {}
                Stillness::Still(..) => return Ok(()),
                Stillness::Refused(why) => return Err(why.clone()),
                Stillness::No => return Err("it is not wanted any more".to_owned()),
            }
            stillness = self.changed.wait(stillness).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The service holds still, by these cgroups, unless nobody waits for that any more.
    pub(in crate::copies) fn is_still_until(&self, until: Instant, groups: Vec<PathBuf>) {
        let mut stillness = self.lock();
        if *stillness == Stillness::Asked {
            *stillness = Stillness::Still(until, groups);
            self.changed.notify_all();
        }
    }

    /// It does not, or does not any more.
    pub(in crate::copies) fn refuse(&self, why: &str) {
        let mut stillness = self.lock();
        if matches!(*stillness, Stillness::Asked | Stillness::Still(..)) {
            *stillness = Stillness::Refused(why.to_owned());
            self.changed.notify_all();
        }
    }

    pub(in crate::copies) fn is_still(&self) -> bool {
        matches!(&*self.lock(), Stillness::Still(until, _) if Instant::now() < *until)
    }

    pub(in crate::copies) fn groups(&self) -> Vec<PathBuf> {
        match &*self.lock() {
            Stillness::Still(_, groups) => groups.clone(),
            Stillness::No | Stillness::Asked | Stillness::Refused(_) => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stillness> {
        // Nobody panics while holding it, and a panic ends the process.
        self.stillness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
