//! Threads that work for a job: with cold caches a disk answers several questions at once sooner than one after the other, also on two processors. They take
//! what is to be done from one queue and answer through another; the number of what is under way has a limit, so neither ever fills.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

/// Most of it is for paths.
const STACK_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(in crate::copies) struct Crew<J, R> {
    /// `None` at the end.
    jobs: Option<Sender<J>>,
    done: Receiver<R>,
    in_flight: usize,
    in_flight_max: usize,
    threads: Vec<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

/// Whether somebody still wants to know; for whoever is at something long.
#[derive(Clone, Debug)]
pub(in crate::copies) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    pub(in crate::copies) fn is_so(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

/// What came of waiting.
#[derive(Debug)]
pub(in crate::copies) enum Waited<R> {
    Done(R),
    /// Nothing is done yet.
    NotYet,
    /// Nothing is under way.
    Idle,
}

impl<J: Send + 'static, R: Send + 'static> Crew<J, R> {
    /// `hire` makes what each of the threads does with a job.
    pub(in crate::copies) fn start<W: FnMut(J) -> R + Send + 'static>(
        name: &str,
        threads: usize,
        in_flight_max: usize,
        hire: impl Fn(Wanted) -> io::Result<W>,
    ) -> io::Result<Self> {
        let (jobs, taken) = bounded::<J>(in_flight_max);
        let (answer, done) = bounded(in_flight_max);
        let is_over = Arc::new(AtomicBool::new(false));
        let mut crew = Self {
            jobs: Some(jobs),
            done,
            in_flight: 0,
            in_flight_max,
            threads: Vec::new(),
            is_over: Arc::clone(&is_over),
        };
        for _ in 0..threads {
            let (taken, answer) = (taken.clone(), answer.clone());
            let mut work = hire(Wanted(Arc::clone(&is_over)))?;
            let thread = move || {
                for job in taken {
                    if answer.send(work(job)).is_err() {
                        return;
                    }
                }
            };
            crew.threads.push(thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(thread)?);
        }
        Ok(crew)
    }

    pub(in crate::copies) fn is_full(&self) -> bool {
        self.in_flight >= self.in_flight_max
    }

    /// Hands one over. While all hands are full, one that is done is waited for and taken back first.
    pub(in crate::copies) fn hand(&mut self, job: J) -> Option<R> {
        let done = if self.is_full() { self.wait() } else { self.ready() };
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_ok()
        {
            self.in_flight += 1;
        }
        done
    }

    /// One that is done; does not wait.
    pub(in crate::copies) fn ready(&mut self) -> Option<R> {
        let done = self.done.try_recv().ok()?;
        self.in_flight -= 1;
        Some(done)
    }

    /// The next; `None`: none is under way.
    pub(in crate::copies) fn wait(&mut self) -> Option<R> {
        if self.in_flight == 0 {
            return None;
        }
        let done = self.done.recv().ok()?;
        self.in_flight -= 1;
        Some(done)
    }

    /// The next, if there is one soon enough.
    pub(in crate::copies) fn wait_for(&mut self, long: Duration) -> Waited<R> {
        if self.in_flight == 0 {
            return Waited::Idle;
        }
        match self.done.recv_timeout(long) {
            Ok(done) => {
                self.in_flight -= 1;
                Waited::Done(done)
            }
            Err(RecvTimeoutError::Timeout) => Waited::NotYet,
            Err(RecvTimeoutError::Disconnected) => Waited::Idle,
        }
    }
}

impl<J, R> Drop for Crew<J, R> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked has said so already. None waits to answer: there is room for all that is under way.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_handed_over_comes_back_once() {
        let mut crew = Crew::start("test", 3, 4, |_| Ok(|job: u32| job * 2)).unwrap();
        let mut done: Vec<u32> = (0..100).filter_map(|job| crew.hand(job)).collect();
        done.extend(std::iter::from_fn(|| crew.wait()));
        done.sort_unstable();
        assert_eq!(done, (0..100).map(|job| job * 2).collect::<Vec<_>>());
        assert!(matches!(crew.wait_for(Duration::ZERO), Waited::Idle));
    }

    #[test]
    fn what_takes_long_sees_that_nobody_wants_it() {
        let hire = |wanted: Wanted| {
            Ok(move |()| {
                while wanted.is_so() {
                    std::thread::yield_now();
                }
            })
        };
        let mut crew = Crew::start("test", 1, 2, hire).unwrap();
        assert!(crew.hand(()).is_none() && crew.hand(()).is_none() && crew.is_full());
        assert!(matches!(crew.wait_for(Duration::ZERO), Waited::NotYet));
        drop(crew);
    }
}
