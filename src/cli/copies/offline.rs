//! Copies without an agent, as in a rescue shell: the same functions under the same locks, in this process. Nobody is asked to hold still.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::check;
use super::super::exit::CliError;
use super::super::output::{message, size};
use super::verbs::{Bar, share};
use crate::api::client::ClientError;
use crate::api::copies::{self, Copies, Detail, Done};
use crate::api::error::ErrorDetail;
use crate::api::render::Stamp;
use crate::copies::conduct::Conduct;
use crate::copies::{HANDS, Hands};
use crate::engine::copies::catalog::{Catalog, TargetState};
use crate::engine::copies::order::{Failure, FailureKind, Finding, Job, Outcome, Progress};
use crate::engine::copies::plan::CopyPlan;
use crate::engine::copies::rotate::{self, BUILT, Ground, Occasion};
use crate::engine::copies::view::{CopyView, SetState};
use crate::engine::types::{Now, Time};
use crate::sys::clock;

/// How often the line on the terminal is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Offline {
    plans: Vec<CopyPlan>,
    hands: Hands,
}

impl Offline {
    pub(super) fn load(file: &Path) -> Result<Self, CliError> {
        Ok(Self { plans: check::copies(file)?, hands: HANDS })
    }

    pub(super) fn table(&self) -> Copies {
        let catalogs: Vec<Catalog> = self.plans.iter().map(self.hands.catalog).collect();
        let views: Vec<CopyView<'_>> =
            self.plans.iter().zip(&catalogs).map(|(plan, catalog)| view(plan, catalog)).collect();
        copies::copies(&views, &stamp())
    }

    pub(super) fn detail(&self, set: &str) -> Result<Detail, CliError> {
        let plan = self.plan(set)?;
        let catalog = (self.hands.catalog)(plan);
        Ok(copies::detail(&view(plan, &catalog), &stamp()))
    }

    pub(super) fn carry_out(&self, set: &str, job: Job) -> Result<Done, CliError> {
        let plan = self.plan(set)?;
        let job = match job {
            Job::Prune { copies } if copies.is_empty() => Job::Prune { copies: self.unkept(plan)? },
            job => job,
        };
        let mut conduct = Shown::default();
        let outcome = (self.hands.carry_out)(plan, &job, &mut conduct);
        conduct.bar.clear();
        match outcome {
            Outcome::Failed(failure) => Err(refused(&failure)),
            outcome => {
                let stamp = stamp();
                Ok(Done { at: stamp.at(), seq: stamp.seq, set: set.to_owned(), outcome })
            }
        }
    }

    fn plan(&self, set: &str) -> Result<&CopyPlan, CliError> {
        let names = || self.plans.iter().map(|plan| plan.name.as_str());
        let unknown = || {
            let error = copies::unknown_set(set, names());
            refusal(error.code.word(), error.message, error.hint)
        };
        self.plans.iter().find(|plan| plan.name == set).ok_or_else(unknown)
    }

    /// By the same rules as with an agent. Only that knows whether a run has succeeded lately; here the operator answers for it.
    fn unkept(&self, plan: &CopyPlan) -> Result<Vec<u64>, CliError> {
        let catalog = (self.hands.catalog)(plan);
        match catalog.target {
            TargetState::Ready => {}
            ref other => {
                let (word, why) = copies::target_words(other);
                let what = format!("the target is {word}: {}", why.unwrap_or_default());
                return Err(refused(&Failure { kind: FailureKind::Target, what, remedy: None }));
            }
        }
        rotate::prune(&catalog, plan, occasion()).map_err(|frozen| {
            let what = format!("nothing is removed: {}", frozen.text(&plan.name));
            refused(&Failure { kind: FailureKind::Other, what, remedy: None })
        })
    }
}

fn occasion() -> Occasion {
    let now = now();
    Occasion { now: now.wall, synchronised: now.wall_synchronised, built: BUILT, ground: Ground::ByHand }
}

fn kept(plan: &CopyPlan, catalog: &Catalog) -> Vec<rotate::Kept> {
    rotate::judge(catalog, plan, now().wall)
}

/// As far as it can be told from the target alone.
fn view<'a>(plan: &'a CopyPlan, catalog: &'a Catalog) -> CopyView<'a> {
    let good_as_of = catalog.good_as_of();
    let too_old = plan.max_age.filter(|max| good_as_of.is_none_or(|at| now().wall.since(at) > *max)).is_some();
    let is_ready = catalog.target == TargetState::Ready;
    let state = match (is_ready, too_old || catalog.quarantined > 0) {
        (false, _) => SetState::Failing,
        (true, true) => SetState::Degraded,
        (true, false) => SetState::Ok,
    };
    CopyView {
        plan,
        state,
        why: (is_ready && too_old).then(|| "the newest good copy is too old".to_owned()),
        target: &catalog.target,
        catalog,
        kept: kept(plan, catalog),
        prune_frozen: rotate::frozen(catalog, plan, occasion()).map(|frozen| frozen.text(&plan.name)),
        good_as_of,
        next: None,
        running: None,
        failure: None,
        failures: 0,
        failover: None,
        left: false,
        prospects: None,
    }
}

fn now() -> Now {
    let clocks = clock::clocks();
    Now {
        mono: Time(clocks.mono_ns),
        boot: Time(clocks.boot_ns),
        wall: Time(clocks.wall_ns),
        wall_synchronised: clocks.synchronised,
    }
}

fn stamp() -> Stamp {
    Stamp { now: now(), seq: 0 }
}

fn refused(failure: &Failure) -> CliError {
    let error = copies::refused(failure);
    refusal(error.code.word(), error.message, error.hint)
}

fn refusal(code: &str, message: String, hint: Option<String>) -> CliError {
    CliError::Client(ClientError::Refused(ErrorDetail { code: code.to_owned(), message, hint }))
}

/// Tells the terminal how far it is, and stderr what was found.
#[derive(Default)]
struct Shown {
    bar: Bar,
    drawn: Option<Instant>,
}

impl Conduct for Shown {
    fn progress(&mut self, progress: Progress) {
        let now = Instant::now();
        if self.drawn.is_some_and(|drawn| now < drawn + DRAW_EVERY) {
            return;
        }
        self.drawn = Some(now);
        if !io::stderr().is_terminal() {
            return;
        }
        let of = share(progress.bytes, progress.bytes_in_all).or_else(|| share(progress.files, progress.files_in_all));
        let (phase, bytes) = (copies::phase_word(progress.phase), size(progress.bytes));
        self.bar.draw(of, &format!("{phase}: {} files, {bytes}", progress.files));
    }

    fn finding(&mut self, finding: Finding) {
        self.bar.clear();
        let kind = serde_json::to_value(finding.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
        let kind = kind.unwrap_or_default().replace('_', " ");
        message(&format!("{kind}: {}: {}", finding.path, finding.detail));
    }

    fn is_cancelled(&self) -> bool {
        false
    }

    /// There is no agent that could make anybody hold still, and perhaps nobody who writes.
    fn quiesce(&mut self, _: bool) -> Result<(), String> {
        Ok(())
    }

    fn still_quiet(&self) -> bool {
        false
    }

    /// Somebody waits for it.
    fn pace(&mut self, _: u64) {}

    fn now(&self) -> Time {
        now().wall
    }
}
