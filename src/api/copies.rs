//! The JSON of `GET /v1/copies` and `GET /v1/copies/NAME`, and of the answers to their verbs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{ApiError, Code};
use super::http::Response;
use super::proto::Word;
use super::render::{Stamp, nearest};
use super::time::rfc3339_ns;
use crate::engine::copies::catalog::{self, Cause, Suspicion, TargetState};
use crate::engine::copies::event::Move;
use crate::engine::copies::order::{Failure, FailureKind, Job, Outcome, Phase};
use crate::engine::copies::view::{CopyView, FailoverView};
use crate::engine::types::Time;

/// `GET /v1/copies`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copies {
    pub at: String,
    pub seq: u64,
    pub copies: Vec<Set>,
}

/// `GET /v1/copies/NAME`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    pub at: String,
    pub seq: u64,
    pub set: Set,
    /// The oldest first.
    pub copies: Vec<Copy>,
}

/// One set as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Set {
    pub name: String,
    /// `unknown`, `ok`, `degraded` or `failing`.
    pub state: Word,
    pub why: Option<String>,
    pub from: Vec<String>,
    /// The directory of the set on its target.
    pub to: String,
    pub target: Target,
    pub count: u64,
    /// The number of the newest copy, whatever it is worth, and its size.
    pub newest: Option<u64>,
    pub files: u64,
    pub bytes: u64,
    /// When the newest good copy was made, or was last found to be the same as its source.
    pub good_as_of: Option<String>,
    pub age_ms: Option<u64>,
    pub max_age_ms: Option<u64>,
    pub next_at: Option<String>,
    pub next_ms: Option<u64>,
    /// Of the newest copy that was read again and was whole.
    pub verified_at: Option<String>,
    pub scrubbed_at: Option<String>,
    pub scrub_permille: u32,
    pub restore_tested_at: Option<String>,
    /// Files found bad and not mended.
    pub quarantined: u64,
    pub running: Option<Running>,
    pub failures: u32,
    pub failure: Option<Failed>,
    pub prune_frozen: Option<String>,
    /// The copy from which services run, or that lies there for it.
    pub failed_over: Option<u64>,
    /// How far it is on the way there or back. `None`: its services run where they belong.
    #[serde(default)]
    pub failover: Option<Failover>,
    /// The configuration has it no more, while its services run from a copy.
    #[serde(default)]
    pub left: bool,
    /// With `on_source_failing: Restore`: who would go on from a copy, and what may keep that from helping.
    #[serde(default)]
    pub prospects: Option<Prospects>,
}

/// Whether going on from a copy could help, should the disk of a source fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prospects {
    pub services: Vec<String>,
    /// Disks (and mounts) that the source and the copies have in common.
    pub shared: Vec<String>,
    /// The symbolic link that would be switched.
    pub link: Option<String>,
}

/// Services run from a copy, or are on the way there or back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failover {
    /// `holding`, `materialising`, `saving`, `switching`, `over`, `stopping`, `gathering`, `lifting`, `putting_back`, `returning`, `starting`, `again` or
    /// `sweeping`.
    pub stage: Word,
    /// The live data are seen where they belong.
    pub in_force: bool,
    pub failing_since_at: String,
    pub cause: String,
    /// The copy, when it was made, and how old it was when it took over.
    pub copy: Option<u64>,
    pub made_at: Option<String>,
    pub age_ms: Option<u64>,
    pub verified: bool,
    pub over_since_at: Option<String>,
    /// Where the live data lie, and where they are seen.
    pub live: Vec<String>,
    pub seen_at: Vec<String>,
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `unknown`, `ready`, `absent`, `unmarked`, `refused`, `full`, `failing` or `no_source`.
    pub state: Word,
    pub why: Option<String>,
    pub uuid: Option<String>,
    pub free_bytes: u64,
    pub size_bytes: u64,
    pub reflinks: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub job: Word,
    pub since_at: String,
    pub since_ms: u64,
    pub phase: Word,
    pub files: u64,
    pub bytes: u64,
    pub files_in_all: Option<u64>,
    pub bytes_in_all: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub kind: Word,
    pub what: String,
    pub remedy: Option<String>,
}

/// One committed copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// Its number.
    pub copy: u64,
    pub directory: String,
    pub made_at: String,
    pub age_ms: u64,
    pub took_ms: u64,
    pub files: u64,
    pub bytes: u64,
    pub written_bytes: u64,
    pub cause: Word,
    pub good: bool,
    /// What is suspect about it, in words.
    pub suspect: Option<String>,
    pub accepted: bool,
    pub pinned: bool,
    pub stale: u64,
    pub unstable: u64,
    pub bad: u64,
    pub verified_at: Option<String>,
    /// It was read from the disk and not from any cache.
    pub verified_cold: bool,
    /// Why it stays; empty: it goes with the next prune.
    pub kept: Vec<Word>,
}

/// The answer to a verb that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub at: String,
    pub seq: u64,
    pub set: String,
    pub outcome: Outcome,
}

impl Set {
    /// Nothing alarms.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !matches!(self.state.as_ref(), "degraded" | "failing")
    }
}

/// `GET /v1/copies`
#[must_use]
pub fn copies(views: &[CopyView<'_>], stamp: &Stamp) -> Copies {
    Copies { at: stamp.at(), seq: stamp.seq, copies: views.iter().map(|view| set(view, stamp.now.wall)).collect() }
}

/// `GET /v1/copies/NAME`
#[must_use]
pub fn detail(view: &CopyView<'_>, stamp: &Stamp) -> Detail {
    let now = stamp.now.wall;
    let kept = |seq| view.kept.iter().find(|kept| kept.seq == seq);
    let one = |copy: &catalog::Copy| {
        let reasons = kept(copy.seq).map(|kept| kept.reasons.as_slice()).unwrap_or_default();
        self::copy(copy, reasons.iter().map(|reason| reason.word().into()).collect(), now)
    };
    let copies = view.catalog.copies.iter().map(one).collect();
    Detail { at: stamp.at(), seq: stamp.seq, set: set(view, now), copies }
}

fn at(time: Time) -> String {
    rfc3339_ns(time.0)
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn set(view: &CopyView<'_>, now: Time) -> Set {
    let catalog = view.catalog;
    let newest = catalog.copies.last();
    let verified = catalog.copies.iter().rev().find_map(|copy| copy.verified.filter(|_| copy.bad == 0));
    Set {
        name: view.plan.name.clone(),
        state: view.state.word().into(),
        why: view.why.clone(),
        from: view.plan.from.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        to: view.plan.to.join(&view.plan.name).to_string_lossy().into_owned(),
        target: target(view.target, catalog),
        count: catalog.copies.len() as u64,
        newest: newest.map(|copy| copy.seq),
        files: newest.map_or(0, |copy| copy.files),
        bytes: newest.map_or(0, |copy| copy.bytes),
        good_as_of: view.good_as_of.map(at),
        age_ms: view.good_as_of.map(|good| ms(now.since(good))),
        max_age_ms: view.plan.max_age.map(ms),
        next_at: view.next.map(at),
        next_ms: view.next.map(|next| ms(next.since(now))),
        verified_at: verified.map(|verified| at(verified.at)),
        scrubbed_at: catalog.scrubbed.map(at),
        scrub_permille: catalog.scrub_permille,
        restore_tested_at: catalog.restore_tested.map(at),
        quarantined: catalog.quarantined,
        running: view.running.as_ref().map(|(job, since, progress)| Running {
            job: job_word(job).into(),
            since_at: at(*since),
            since_ms: ms(now.since(*since)),
            phase: phase_word(progress.phase).into(),
            files: progress.files,
            bytes: progress.bytes,
            files_in_all: progress.files_in_all,
            bytes_in_all: progress.bytes_in_all,
        }),
        failures: view.failures,
        failure: view.failure.map(failed),
        prune_frozen: view.prune_frozen.clone(),
        failed_over: catalog.failed_over.as_ref().map(|over| over.seq),
        failover: view.failover.as_ref().map(failover),
        left: view.left,
        prospects: view.prospects.as_ref().map(|prospects| Prospects {
            services: prospects.services.clone(),
            shared: prospects.shared.clone(),
            link: view.plan.failover.link.as_ref().map(|link| link.to_string_lossy().into_owned()),
        }),
    }
}

fn failover(view: &FailoverView<'_>) -> Failover {
    let kept = view.kept;
    let is_chosen = kept.seq != 0;
    let paths = |path: fn(&Move) -> &Path| kept.moves.iter().map(|one| path(one).display().to_string()).collect();
    Failover {
        stage: kept.stage.word().into(),
        in_force: view.in_force,
        failing_since_at: at(kept.since),
        cause: kept.why.clone(),
        copy: is_chosen.then_some(kept.seq),
        made_at: is_chosen.then(|| at(kept.as_of)),
        age_ms: kept.over_since.map(|since| ms(since.since(kept.as_of))),
        verified: kept.verified,
        over_since_at: kept.over_since.map(at),
        live: paths(|one| &one.live),
        seen_at: paths(|one| &one.at),
        trouble: view.trouble.map(str::to_owned),
    }
}

fn target(state: &TargetState, catalog: &catalog::Catalog) -> Target {
    let (word, why) = target_words(state);
    Target {
        state: word.into(),
        why,
        uuid: catalog.uuid.clone(),
        free_bytes: catalog.free_bytes,
        size_bytes: catalog.size_bytes,
        reflinks: catalog.reflinks,
    }
}

/// The state of a target in one word, and why.
#[must_use]
pub fn target_words(state: &TargetState) -> (&'static str, Option<String>) {
    match state {
        TargetState::Unknown => ("unknown", None),
        TargetState::Ready => ("ready", None),
        TargetState::Absent { why } => ("absent", Some(why.clone())),
        TargetState::Unmarked { why } => ("unmarked", Some(why.clone())),
        TargetState::Refused { why } => ("refused", Some(why.clone())),
        TargetState::Full { missing_bytes } => ("full", Some(format!("{missing_bytes} bytes are missing"))),
        TargetState::Failing { why } => ("failing", Some(why.clone())),
        TargetState::NoSource { why } => ("no_source", Some(why.clone())),
    }
}

/// One copy; `kept`: why it stays.
#[must_use]
pub fn copy(copy: &catalog::Copy, kept: Vec<Word>, now: Time) -> Copy {
    let clock = copy.clock_suspect.then(|| "the clock could not be believed".to_owned());
    Copy {
        copy: copy.seq,
        directory: copy.directory.clone(),
        made_at: at(copy.at),
        age_ms: ms(now.since(copy.at)),
        took_ms: ms(copy.took),
        files: copy.files,
        bytes: copy.bytes,
        written_bytes: copy.written_bytes,
        cause: cause_word(copy.cause).into(),
        good: copy.is_good(),
        suspect: copy.suspect.as_ref().map(suspicion_text).or(clock),
        accepted: copy.accepted,
        pinned: copy.pinned,
        stale: copy.stale,
        unstable: copy.unstable,
        bad: copy.bad,
        verified_at: copy.verified.map(|verified| at(verified.at)),
        verified_cold: copy.verified.is_some_and(|verified| verified.cold),
        kept,
    }
}

fn suspicion_text(suspicion: &Suspicion) -> String {
    match suspicion {
        Suspicion::Empty { source } => format!("{source} is empty"),
        Suspicion::Shrunk { files_permille, bytes_permille } => format!(
            "{}.{} % of the files and {}.{} % of the bytes are left",
            files_permille / 10,
            files_permille % 10,
            bytes_permille / 10,
            bytes_permille % 10
        ),
        Suspicion::OtherDevice { source } => format!("{source} is on another file system than before"),
    }
}

fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::Every => "every",
        Cause::At => "at",
        Cause::Changed => "changed",
        Cause::ByHand => "by_hand",
        Cause::BeforeDeploy => "before_deploy",
    }
}

fn job_word(job: &Job) -> &'static str {
    match job {
        Job::Take { .. } => "run",
        Job::Verify { .. } => "verify",
        Job::Scrub => "scrub",
        Job::Prune { .. } => "prune",
        Job::Pin { pinned: true, .. } => "pin",
        Job::Pin { pinned: false, .. } => "unpin",
        Job::Accept { .. } => "accept",
        Job::Restore(_) => "restore",
        Job::Exchange(_) => "exchange",
        Job::RestoreTest => "test",
        Job::Init { .. } => "init",
        Job::Materialise(_) => "materialise",
        Job::Gather { .. } => "gather",
        Job::Dismiss { .. } => "dismiss",
        Job::Failback { .. } => "failback",
    }
}

/// The word of a phase.
#[must_use]
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Scan => "scan",
        Phase::Copy => "copy",
        Phase::Sync => "sync",
        Phase::ReadBack => "read_back",
        Phase::Commit => "commit",
        Phase::Verify => "verify",
        Phase::Restore => "restore",
        Phase::Prune => "prune",
    }
}

fn failure_word(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Target => "target",
        FailureKind::Full => "full",
        FailureKind::TargetIo => "target_io",
        FailureKind::Source => "source",
        FailureKind::Busy => "busy",
        FailureKind::NoCopy => "no_copy",
        FailureKind::InUse => "in_use",
        FailureKind::Quiesce => "quiesce",
        FailureKind::Cancelled => "cancelled",
        FailureKind::Other => "other",
    }
}

fn failed(failure: &Failure) -> Failed {
    Failed { kind: failure_word(failure.kind).into(), what: failure.what.clone(), remedy: failure.remedy.clone() }
}

/// The answer to a verb: what the job has come to.
#[must_use]
pub fn outcome(outcome: &Outcome, set: &str, stamp: &Stamp) -> Response {
    match outcome {
        Outcome::Failed(failure) => refused(failure).response(),
        outcome => {
            let done = Done { at: stamp.at(), seq: stamp.seq, set: set.to_owned(), outcome: outcome.clone() };
            Response::json(200, &done)
        }
    }
}

/// A failure as an error of the API.
#[must_use]
pub fn refused(failure: &Failure) -> ApiError {
    let code = match failure.kind {
        FailureKind::NoCopy => Code::CopyUnknown,
        FailureKind::Busy | FailureKind::InUse => Code::CopyConflict,
        FailureKind::Target
        | FailureKind::Full
        | FailureKind::TargetIo
        | FailureKind::Source
        | FailureKind::Quiesce
        | FailureKind::Cancelled
        | FailureKind::Other => Code::CopyFailed,
    };
    let mut error = ApiError::new(code, failure.what.as_str());
    error.hint.clone_from(&failure.remedy);
    error
}

/// 404 with the nearest name.
#[must_use]
pub fn unknown_set<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> ApiError {
    let error = ApiError::new(Code::CopyUnknown, format!("no set of copies \"{name}\""));
    match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint("mainstay copies lists them"),
    }
}
