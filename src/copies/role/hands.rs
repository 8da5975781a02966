//! Jobs by their names: what the role and the commands without an agent do with an order.

use super::job::Hands;
use crate::copies::checking::scrub::scrub;
use crate::copies::checking::verify::verify;
use crate::copies::conduct::Conduct;
use crate::copies::failure::failure;
use crate::copies::making::take::take;
use crate::copies::place::init::{Claim, init};
use crate::copies::place::prune::prune;
use crate::copies::place::target::{Refused, Set, Target};
use crate::copies::restoring::live::{dismiss_live, gather_live, materialise_live};
use crate::copies::restoring::restore::restore;
use crate::copies::restoring::restore_test::restore_test;
use crate::copies::restoring::swap;
use crate::engine::copies::catalog::{Catalog, TargetState};
use crate::engine::copies::order::{Failure, FailureKind, Job, Outcome};
use crate::engine::copies::plan::CopyPlan;

/// The real ones.
pub const HANDS: Hands = Hands { catalog, carry_out };

/// What lies there, and whether copies can be made. Copies that lie where none can be made are shown as well.
fn catalog(plan: &CopyPlan) -> Catalog {
    let read = |target: Target| match target.catalog() {
        Ok(catalog) => catalog,
        Err(error) => Catalog { target: TargetState::Failing { why: error.to_string() }, ..Catalog::default() },
    };
    match (Target::open(plan), Target::open_to_read(plan)) {
        (Ok(target), _) => read(target),
        (Err(Refused(state)), Ok(target)) => Catalog { target: state, ..read(target) },
        (Err(Refused(state)), Err(_)) => Catalog { target: state, ..Catalog::default() },
    }
}

fn carry_out(plan: &CopyPlan, job: &Job, conduct: &mut dyn Conduct) -> Outcome {
    attempt(plan, job, conduct).unwrap_or_else(Outcome::Failed)
}

fn attempt(plan: &CopyPlan, job: &Job, conduct: &mut dyn Conduct) -> Result<Outcome, Failure> {
    let lock = || Target::open(plan).map_err(Failure::from).and_then(Target::lock);
    match job {
        Job::Init { claim } => {
            let claim = if *claim { Claim::Taken } else { Claim::No };
            Ok(Outcome::Initialised { uuid: init(plan, claim, conduct)? })
        }
        Job::Take { cause } => take(&mut lock()?, plan, *cause, conduct),
        Job::Verify { which } => verify(&mut lock()?, plan, *which, conduct),
        Job::Scrub => scrub(&mut lock()?, plan, conduct),
        Job::Prune { copies } => prune(&mut lock()?, copies, conduct),
        Job::RestoreTest => restore_test(&mut lock()?, plan, conduct),
        Job::Restore(wanted) => {
            // Also from a disk that no copy may be made on any more.
            let mut set = Target::open_to_read(plan)?.lock()?;
            restore(&mut set, plan, wanted, conduct)
        }
        // Without the target: what was built lies where it is to be.
        Job::Exchange(wanted) => swap::exchange(plan, wanted, conduct),
        Job::Pin { seq, pinned } => mark(lock()?, *seq, |set| {
            set.update(|state| state.marks_of(*seq).pinned = *pinned)?;
            Ok(Outcome::Pinned)
        }),
        // None of these opens a source, whose disk may never answer.
        Job::Materialise(live) => {
            let target = Target::open_to_read(&plan.without_sources())?;
            materialise_live(&target.lock_live()?, live, conduct)
        }
        Job::Dismiss { directory } => {
            dismiss_live(&Target::open_to_read(&plan.without_sources())?.lock_live()?, directory)
        }
        Job::Gather { directory } => {
            let mut set = Target::open_to_read(&plan.without_sources())?.lock()?;
            gather_live(&mut set, plan, directory, conduct)
        }
        Job::Failback { .. } => {
            let what = "only the agent can bring a set back".to_owned();
            Err(failure(FailureKind::Other, what, Some("`mainstay copies failback NAME`, without --config")))
        }
        Job::Accept { seq } => mark(lock()?, *seq, |set| {
            set.update(|state| state.marks_of(*seq).accepted = true)?;
            Ok(Outcome::Accepted)
        }),
    }
}

/// Of a copy that is there.
fn mark(mut set: Set, seq: u64, change: impl FnOnce(&mut Set) -> Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    set.copy(seq)?;
    change(&mut set)
}
