//! The loop of the role: the agent, the job under way, the clock of a freeze, and the changes of the sources. It never touches a disk itself.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::control::Control;
use super::job::{self, FromJob, Hands, Voice};
use super::link::{self, Heard, Link};
use super::proto::{FromCopies, ToCopies};
use super::watch::Watch;
use crate::copies::role::CopiesError;
use crate::engine::copies::catalog::Catalog;
use crate::engine::copies::order::{Failure, FailureKind, Job, Order, Outcome, Report};
use crate::engine::copies::plan::CopyPlan;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::packet::PacketListener;
use crate::sys::wake::Wake;

const WAKE: u64 = 2;
/// Events taken from the kernel at once.
const READY_MAX: usize = 8;
/// Words of the job that wait for the loop; a job that has more to say waits.
const SAID_MAX: usize = 64;
/// After a turn in which nobody could be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// An agent thaws what has been frozen for its time; one that has not so long afterwards does nothing any more.
const AGENT_GRACE: Duration = Duration::from_secs(1);

pub(in crate::copies) struct Server {
    epoll: Epoll,
    link: Link,
    hands: Hands,
    agentless_max: Duration,
    said: Receiver<FromJob>,
    voice: Voice,
    plan: Option<CopyPlan>,
    running: Option<Running>,
    /// A job that was to end for another one and does not: it waits for a disk that may never answer. What it comes to is not waited for.
    stuck: Option<Running>,
    /// Of the latest job.
    number: u64,
    /// The next order, given while a job of an earlier agent is under way or somebody looks at the target.
    waiting: Option<Order>,
    /// The target is to be looked at once nothing runs.
    look: bool,
    frozen: Option<Frozen>,
    watch: Watch,
    /// Of the last look.
    catalog: Option<Box<Catalog>>,
}

struct Running {
    number: u64,
    /// `None`: only a look at the target.
    order: Option<Order>,
    control: Arc<Control>,
}

/// What is to be thawed when the agent is lost. While there is one, only it thaws, since it knows what else wants a group frozen; but where it does nothing for
/// [`AGENT_GRACE`] beyond the time, it counts as lost.
struct Frozen {
    groups: Vec<File>,
    until: Instant,
}

enum Next {
    Continue,
    Leave,
}

impl Server {
    pub(in crate::copies) fn new(
        listener: PacketListener,
        hands: Hands,
        agentless_max: Duration,
    ) -> Result<Self, CopiesError> {
        let failed = |step| move |source| CopiesError::Loop { step, source };
        let epoll = Epoll::new().map_err(failed("make an epoll"))?;
        let wake = Arc::new(Wake::new().map_err(failed("make an eventfd"))?);
        epoll.add(wake.as_fd(), WAKE, Interest::READ).map_err(failed("watch the eventfd"))?;
        let (to_loop, said) = crossbeam_channel::bounded(SAID_MAX);
        let watch = Watch::new(Arc::clone(&wake));
        Ok(Self {
            link: Link::new(&epoll, listener)?,
            epoll,
            hands,
            agentless_max,
            said,
            voice: Voice { to_loop, wake },
            plan: None,
            running: None,
            stuck: None,
            number: 0,
            waiting: None,
            look: false,
            frozen: None,
            watch,
            catalog: None,
        })
    }

    /// Returns when an agent orders it, or when there is neither an agent nor a job for too long.
    pub(in crate::copies) fn run(mut self) -> Result<(), CopiesError> {
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            let now = Instant::now();
            self.thaw_late(now);
            if self.leave_at().is_some_and(|at| at <= now) {
                return Ok(());
            }
            if self.watch.is_due(now) && self.link.has_agent() {
                self.watch.told();
                self.report(Report::Changed);
            }
            let timeout = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            self.epoll.wait(&mut ready, timeout).map_err(|source| CopiesError::Loop { step: "wait", source })?;
            for event in &ready {
                match event.key {
                    link::LISTENER => self.accept(),
                    link::AGENT => match self.hear(event) {
                        Next::Continue => {}
                        Next::Leave => {
                            self.leave();
                            return Ok(());
                        }
                    },
                    _ => self.listen(),
                }
            }
        }
    }

    /// A job goes on to its end without an agent: it may be all but done.
    fn leave_at(&self) -> Option<Instant> {
        self.link.without_agent_until(self.agentless_max).filter(|_| self.running.is_none())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let thaw = self.frozen.as_ref().map(|frozen| frozen.until);
        let changed = self.watch.due_at().filter(|_| self.link.has_agent());
        [self.leave_at(), thaw, changed].into_iter().flatten().min()
    }

    fn accept(&mut self) {
        if !self.link.accept(&self.epoll) {
            std::thread::sleep(ACCEPT_PAUSE);
            return;
        }
        // What was frozen for the agent before is not this one's.
        self.lose_agent();
        let hello = FromCopies::Hello {
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            set: self.plan.as_ref().map(|plan| plan.name.clone()),
            running: self.running.as_ref().and_then(|running| running.order.clone()),
        };
        self.link.tell(&self.epoll, &hello);
        if let Some(catalog) = self.catalog.clone() {
            self.report(Report::Catalog(catalog));
        }
        self.watch.again();
    }

    fn hear(&mut self, event: &Ready) -> Next {
        if !self.link.is_heard(&self.epoll, event) {
            return Next::Continue;
        }
        let mut packet = Vec::new();
        loop {
            match self.link.next_order(&mut packet) {
                Heard::Order(order, descriptors) => match self.obey(order, descriptors) {
                    Next::Continue => {}
                    Next::Leave => return Next::Leave,
                },
                Heard::Unknown => {}
                Heard::Nothing => return Next::Continue,
                Heard::Gone => {
                    self.lose_agent();
                    return Next::Continue;
                }
            }
        }
    }

    fn obey(&mut self, order: ToCopies, descriptors: Vec<OwnedFd>) -> Next {
        match order {
            ToCopies::Hello { .. } => {}
            ToCopies::Plan { plan } => self.take_plan(*plan),
            ToCopies::Order { order } => self.take_order(order),
            ToCopies::Cancel { order } => self.cancel(order),
            ToCopies::Quiesced { order, max_ms } => self.quiesced(order, Duration::from_millis(max_ms), descriptors),
            ToCopies::NotQuiesced { order, why } => self.refuse(order, &why),
            ToCopies::Resumed { order } => {
                self.refuse(order, "the service does not hold still any more");
                self.frozen = None;
            }
            ToCopies::Keep { .. } => self.frozen = None,
            ToCopies::Quit => return Next::Leave,
        }
        Next::Continue
    }

    /// While a job runs, it holds from the next one on.
    fn take_plan(&mut self, plan: CopyPlan) {
        self.watch.follow(&plan);
        self.plan = Some(plan);
        self.look = true;
        self.go_on();
    }

    fn take_order(&mut self, order: Order) {
        if order.job.shuns_source()
            && self.stuck.is_none()
            && let Some(running) = self.running.take()
        {
            running.control.cancel();
            self.stuck = Some(running);
        }
        if let Some(former) = self.waiting.replace(order) {
            self.fail(former.id, FailureKind::Busy, "another order has taken its place");
        }
        self.go_on();
    }

    /// Begins what is to be done next, unless something is under way.
    fn go_on(&mut self) {
        let Some(plan) = self.plan.clone().filter(|_| self.running.is_none()) else { return };
        let order = self.waiting.take();
        if order.is_none() && !self.look {
            return;
        }
        self.look = false;
        if order.as_ref().is_some_and(|order| matches!(order.job, Job::Take { .. })) {
            // What changes from now on is for the next copy.
            self.watch.begin_anew();
        }
        let control = Arc::new(Control::new());
        self.number += 1;
        let number = self.number;
        let started = job::start(self.hands, plan, (number, order.clone()), Arc::clone(&control), self.voice.clone());
        match (started, order) {
            (Ok(()), order) => self.running = Some(Running { number, order, control }),
            (Err(error), Some(order)) => {
                self.fail(order.id, FailureKind::Other, &format!("no thread can be started: {error}"));
            }
            // The next plan or order looks again.
            (Err(_), None) => {}
        }
    }

    fn cancel(&mut self, order: u64) {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.id == order) {
            self.waiting = None;
            return self.fail(order, FailureKind::Cancelled, "the job was cancelled");
        }
        if let Some(control) = self.control_of(order) {
            control.cancel();
        }
    }

    fn quiesced(&mut self, order: u64, max: Duration, descriptors: Vec<OwnedFd>) {
        let until = Instant::now() + max;
        // INVARIANT: known before the job goes on, so that whatever happens to the agent thaws it.
        let groups: Vec<File> = descriptors.into_iter().map(File::from).collect();
        let paths = groups.iter().filter_map(group_of).collect();
        self.frozen = Some(Frozen { groups, until: until + AGENT_GRACE });
        match self.control_of(order) {
            Some(control) => control.is_still_until(until, paths),
            // The agent is told that it is not needed, as it was asked for.
            None => self.report(Report::Quiesce { order, on: false }),
        }
    }

    fn refuse(&self, order: u64, why: &str) {
        if let Some(control) = self.control_of(order) {
            control.refuse(why);
        }
    }

    fn control_of(&self, order: u64) -> Option<&Control> {
        let running = self.running.as_ref()?;
        running.order.as_ref().is_some_and(|running| running.id == order).then_some(&running.control)
    }

    /// What was frozen is not left so because nobody is there to say otherwise.
    fn lose_agent(&mut self) {
        if let Some(running) = &self.running {
            running.control.refuse("the agent has gone meanwhile");
        }
        self.thaw();
    }

    fn thaw_late(&mut self, now: Instant) {
        if let Some(frozen) = self.frozen.take_if(|frozen| frozen.until <= now) {
            frozen.thaw();
        }
    }

    fn thaw(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            frozen.thaw();
        }
    }

    /// Passes on what the job says.
    fn listen(&mut self) {
        self.voice.wake.clear();
        while let Ok(said) = self.said.try_recv() {
            match said {
                FromJob::Report(report) => match report {
                    Report::Quiesce { order, on: true } if !self.link.has_agent() => {
                        self.refuse(order, "there is no agent that could make it hold still");
                    }
                    Report::Progress { .. } | Report::Finding(_) if self.link.is_behind() => {}
                    report => self.report(report),
                },
                FromJob::Moving { order } if self.link.has_agent() => {
                    self.report(Report::Quiesce { order, on: false });
                }
                FromJob::Moving { .. } => self.thaw(),
                FromJob::Ended { number, outcome, catalog } => self.end(number, outcome, catalog),
            }
        }
    }

    fn end(&mut self, number: u64, outcome: Option<(u64, Outcome)>, catalog: Box<Catalog>) {
        if self.stuck.as_ref().is_some_and(|stuck| stuck.number == number) {
            self.stuck = None;
            // Whoever gave the order has left it behind, and what it saw is older than what another has seen since.
            return;
        }
        self.running = None;
        // What the job came to is judged by what lies there now.
        self.report(Report::Catalog(catalog.clone()));
        self.catalog = Some(catalog);
        if let Some((order, outcome)) = outcome {
            self.report(Report::Done { order, outcome });
        }
        self.go_on();
    }

    fn fail(&mut self, order: u64, kind: FailureKind, what: &str) {
        let failure = Failure { kind, what: what.to_owned(), remedy: None };
        self.report(Report::Done { order, outcome: Outcome::Failed(failure) });
    }

    fn report(&mut self, report: Report) {
        self.link.tell(&self.epoll, &FromCopies::Report { report });
    }

    /// A job that waits for a disk is left to the kernel; what it has not committed is swept away by the next one.
    fn leave(self) {
        if let Some(running) = &self.running {
            running.control.cancel();
        }
    }
}

/// The cgroup whose `cgroup.freeze` this is.
fn group_of(freezer: &File) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", freezer.as_raw_fd())).ok()?;
    path.parent().map(Path::to_owned)
}

impl Frozen {
    fn thaw(self) {
        for mut group in self.groups {
            // A group that is gone needs no thaw; what the agent froze it also thaws.
            let _ = group.write_all(b"0");
        }
    }
}
