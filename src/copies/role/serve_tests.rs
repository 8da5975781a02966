//! The role as an agent sees it, with hands that touch no disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::job::Hands;
use super::proto::{FromCopies, ToCopies};
use super::serve::Server;
use crate::copies::conduct::Conduct;
use crate::copies::role::CopiesError;
use crate::engine::copies::catalog::{Catalog, Cause, TargetState};
use crate::engine::copies::order::{Failure, FailureKind, Job, Order, Outcome, Report, Which};
use crate::engine::copies::plan::{CopyPlan, OnChange, ReadBack, Space};
use crate::sys::packet::{PacketListener, PacketSocket, Received};

const LIMIT: Duration = Duration::from_secs(20);
const AGENTLESS: Duration = Duration::from_millis(300);

fn plan(from: &Path) -> CopyPlan {
    CopyPlan {
        same_disk: true,
        space: Space::NO_RESERVE,
        read_back: ReadBack::None,
        ..CopyPlan::with_defaults("data", from.to_owned(), "/nowhere".into())
    }
}

fn failed(kind: FailureKind, what: String) -> Outcome {
    Outcome::Failed(Failure { kind, what, remedy: None })
}

/// A job to verify goes on until it is cancelled; one to take asks for stillness and keeps it until it is lost.
fn carry_out(_: &CopyPlan, job: &Job, conduct: &mut dyn Conduct) -> Outcome {
    let nap = Duration::from_millis(2);
    match job {
        Job::Verify { .. } => {
            while !conduct.is_cancelled() {
                std::thread::sleep(nap);
            }
            failed(FailureKind::Cancelled, "cancelled".to_owned())
        }
        Job::Take { .. } => match conduct.quiesce(true) {
            Ok(()) => {
                while conduct.still_quiet() {
                    std::thread::sleep(nap);
                }
                Outcome::Unchanged { seq: 1 }
            }
            Err(why) => failed(FailureKind::Quiesce, why),
        },
        Job::Scrub => Outcome::Scrubbed,
        _ => failed(FailureKind::Other, "not here".to_owned()),
    }
}

fn catalog(_: &CopyPlan) -> Catalog {
    Catalog { target: TargetState::Absent { why: "é".repeat(100_000) }, ..Catalog::default() }
}

struct Role {
    directory: PathBuf,
    thread: JoinHandle<Result<(), CopiesError>>,
}

impl Role {
    fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("mainstay-copy-role-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(unique);
        fs::create_dir_all(directory.join("source")).unwrap();
        let listener = PacketListener::bind(&directory.join("s"), 0o600).unwrap();
        let server = Server::new(listener, Hands { catalog, carry_out }, AGENTLESS).unwrap();
        Self { directory, thread: std::thread::spawn(move || server.run()) }
    }

    fn agent(&self) -> Agent {
        let socket = PacketSocket::connect(&self.directory.join("s")).unwrap();
        let mut agent = Agent { socket, pieces: String::new() };
        agent.say(&ToCopies::Hello { agent_pid: 1 });
        agent
    }

    fn source(&self) -> PathBuf {
        self.directory.join("source")
    }

    fn ends(self) {
        let until = Instant::now() + LIMIT;
        while !self.thread.is_finished() {
            assert!(Instant::now() < until, "it does not leave");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.join().unwrap().unwrap();
        fs::remove_dir_all(self.directory).unwrap();
    }
}

struct Agent {
    socket: PacketSocket,
    pieces: String,
}

impl Agent {
    fn say(&mut self, message: &ToCopies) {
        assert!(self.socket.send(&serde_json::to_vec(message).unwrap(), &[]).unwrap());
    }

    fn order(&mut self, id: u64, job: Job) {
        self.say(&ToCopies::Order { order: Order { id, job } });
    }

    /// `None`: nothing within the time.
    fn next_within(&mut self, limit: Duration) -> Option<FromCopies> {
        let (until, mut packet) = (Instant::now() + limit, Vec::new());
        loop {
            match self.socket.receive(&mut packet).unwrap() {
                Received::Message { .. } => match serde_json::from_slice(&packet).unwrap() {
                    FromCopies::Piece { text, last } => {
                        self.pieces.push_str(&text);
                        if last {
                            return Some(serde_json::from_str(&std::mem::take(&mut self.pieces)).unwrap());
                        }
                    }
                    message => return Some(message),
                },
                Received::WouldBlock if Instant::now() >= until => return None,
                Received::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
                Received::Closed => panic!("the role has gone"),
            }
        }
    }

    /// In one word each, progress left out.
    fn next(&mut self) -> String {
        match self.next_within(LIMIT).expect("nothing is said") {
            FromCopies::Hello { running, .. } => format!("hello {:?}", running.map(|order| order.id)),
            FromCopies::Piece { .. } => unreachable!("put together above"),
            FromCopies::Report { report } => match report {
                Report::Catalog(catalog) => match catalog.target {
                    TargetState::Absent { why } => format!("catalog {}", why.chars().count()),
                    other => format!("catalog {other:?}"),
                },
                Report::Quiesce { order, on } => format!("quiesce {order} {on}"),
                Report::Done { order, outcome: Outcome::Failed(failure) } => {
                    format!("{order} failed: {}", failure.what)
                }
                Report::Done { order, outcome } => format!("{order} done: {outcome:?}"),
                other => format!("{other:?}"),
            },
        }
    }

    fn with_plan(&mut self, plan: CopyPlan) {
        assert_eq!(self.next(), "hello None");
        self.say(&ToCopies::Plan { plan: Box::new(plan) });
        assert_eq!(self.next(), "catalog 100000", "it is longer than a packet");
    }
}

#[test]
fn orders_are_carried_out_one_after_another() {
    let role = Role::start();
    let mut agent = role.agent();
    agent.with_plan(plan(&role.source()));
    agent.order(1, Job::Verify { which: Which::All });
    agent.order(2, Job::Scrub);
    agent.say(&ToCopies::Cancel { order: 1 });
    assert_eq!(agent.next(), "catalog 100000", "what lies there comes before what became of the job");
    assert_eq!(agent.next(), "1 failed: cancelled");
    assert_eq!(agent.next(), "catalog 100000");
    assert_eq!(agent.next(), "2 done: Scrubbed");
    agent.say(&ToCopies::Quit);
    role.ends();
}

#[test]
fn what_was_frozen_is_thawed_at_its_time() {
    let role = Role::start();
    let group = role.directory.join("cgroup.freeze");
    let mut agent = role.agent();
    agent.with_plan(plan(&role.source()));
    agent.order(1, Job::Take { cause: Cause::ByHand });
    assert_eq!(agent.next(), "quiesce 1 true");
    fs::write(&group, "").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&group).unwrap();
    let answer = serde_json::to_vec(&ToCopies::Quiesced { order: 1, max_ms: 50 }).unwrap();
    assert!(agent.socket.send(&answer, &[std::os::fd::AsFd::as_fd(&file)]).unwrap());
    assert_eq!(agent.next(), "quiesce 1 false");
    assert_eq!(fs::read_to_string(&group).unwrap(), "", "that is for the agent, which knows what else wants it frozen");
    assert_eq!(agent.next(), "catalog 100000");
    assert_eq!(agent.next(), "1 done: Unchanged { seq: 1 }");
    is_thawed(&group, "the agent does nothing");
    agent.say(&ToCopies::Quit);
    role.ends();
}

fn is_thawed(group: &Path, why: &str) {
    let until = Instant::now() + LIMIT;
    while fs::read_to_string(group).unwrap() != "0" {
        assert!(Instant::now() < until, "it stays frozen, although {why}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_somebody_else_wants_frozen_is_left_frozen_when_the_agent_dies() {
    for (order, last) in [(1, ToCopies::Keep { order: 1 }), (2, ToCopies::Resumed { order: 2 })] {
        let role = Role::start();
        let group = role.directory.join("cgroup.freeze");
        let mut agent = role.agent();
        agent.with_plan(plan(&role.source()));
        agent.order(order, Job::Take { cause: Cause::ByHand });
        assert_eq!(agent.next(), format!("quiesce {order} true"));
        fs::write(&group, "").unwrap();
        let file = fs::OpenOptions::new().write(true).open(&group).unwrap();
        let answer = serde_json::to_vec(&ToCopies::Quiesced { order, max_ms: 300 }).unwrap();
        assert!(agent.socket.send(&answer, &[std::os::fd::AsFd::as_fd(&file)]).unwrap());
        agent.say(&last);
        assert_eq!(agent.next(), format!("quiesce {order} false"));
        assert_eq!(agent.next(), "catalog 100000");
        // A job that hears of it only when it is over has not begun to copy.
        let over = format!("{order} failed: the service does not hold still any more");
        let done = agent.next();
        assert!(done == format!("{order} done: Unchanged {{ seq: 1 }}") || done == over, "{done}");
        drop(agent);
        let mut agent = role.agent();
        assert_eq!(agent.next(), "hello None");
        assert_eq!(agent.next(), "catalog 100000");
        assert_eq!(fs::read_to_string(&group).unwrap(), "", "{last:?}");
        drop(agent);
        role.ends();
    }
}

#[test]
fn an_agent_that_dies_leaves_nothing_frozen_and_the_job_ends() {
    let role = Role::start();
    let group = role.directory.join("cgroup.freeze");
    let mut agent = role.agent();
    agent.with_plan(plan(&role.source()));
    agent.order(7, Job::Take { cause: Cause::ByHand });
    assert_eq!(agent.next(), "quiesce 7 true");
    fs::write(&group, "").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&group).unwrap();
    let answer = serde_json::to_vec(&ToCopies::Quiesced { order: 7, max_ms: 600_000 }).unwrap();
    assert!(agent.socket.send(&answer, &[std::os::fd::AsFd::as_fd(&file)]).unwrap());
    drop(agent);
    is_thawed(&group, "the agent is dead");
    role.ends();
}

#[test]
fn a_service_that_will_not_hold_still_fails_the_job() {
    let role = Role::start();
    let mut agent = role.agent();
    agent.with_plan(plan(&role.source()));
    agent.order(1, Job::Take { cause: Cause::ByHand });
    assert_eq!(agent.next(), "quiesce 1 true");
    agent.say(&ToCopies::NotQuiesced { order: 1, why: "exit code 3".to_owned() });
    assert_eq!(agent.next(), "quiesce 1 false");
    assert_eq!(agent.next(), "catalog 100000");
    assert_eq!(agent.next(), "1 failed: exit code 3");
    drop(agent);
    role.ends();
}

#[test]
fn a_new_agent_is_told_what_runs() {
    let role = Role::start();
    let mut agent = role.agent();
    agent.with_plan(plan(&role.source()));
    agent.order(5, Job::Verify { which: Which::Newest });
    drop(agent);
    std::thread::sleep(AGENTLESS * 2);
    let mut agent = role.agent();
    assert_eq!(agent.next(), "hello Some(5)", "it stays for its job");
    assert_eq!(agent.next(), "catalog 100000");
    agent.say(&ToCopies::Cancel { order: 5 });
    assert_eq!(agent.next(), "catalog 100000");
    assert_eq!(agent.next(), "5 failed: cancelled");
    agent.say(&ToCopies::Quit);
    role.ends();
}

#[test]
fn changes_are_told_once_until_the_next_copy() {
    let role = Role::start();
    let mut agent = role.agent();
    let (quiet, max_wait) = (Duration::from_millis(100), Duration::from_secs(5));
    let mut plan = plan(&role.source());
    plan.when.on_change = Some(OnChange { quiet, max_wait });
    agent.with_plan(plan);
    assert_eq!(agent.next(), "Changed", "what happened before is not known");
    fs::write(role.source().join("a"), "1").unwrap();
    assert_eq!(agent.next_within(quiet * 5), None, "it was told");
    agent.order(1, Job::Take { cause: Cause::Changed });
    assert_eq!(agent.next(), "quiesce 1 true");
    agent.say(&ToCopies::NotQuiesced { order: 1, why: "no".to_owned() });
    assert_eq!(agent.next(), "quiesce 1 false");
    assert_eq!(agent.next(), "catalog 100000");
    assert_eq!(agent.next(), "1 failed: no");
    fs::read(role.source().join("a")).unwrap();
    assert_eq!(agent.next_within(quiet * 5), None, "nothing has changed since");
    fs::create_dir(role.source().join("new")).unwrap();
    assert_eq!(agent.next(), "Changed");
    agent.say(&ToCopies::Quit);
    role.ends();
}
