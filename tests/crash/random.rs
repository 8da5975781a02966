//! SIGKILL again and again, at moments drawn from a seed: of the agent under load, and of each of its roles.
//!
//! `MAINSTAY_CRASH_ROUNDS` (10) is how often the agent is killed, `MAINSTAY_CRASH_SEED` (from the clock) the seed; a failure
//! prints both.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Agent, As, SOON, proc, sample};

const FLOODERS: [&str; 4] = ["f0", "f1", "f2", "f3"];
const LINES_PER_SECOND: u64 = 2_000;
/// What the logs role may have read and not yet written when it is killed (320 KiB): at most one gap of so many lines for each kill.
const ROLE_HOLDS_LINES_MAX: u64 = 2_560;

pub(super) fn rounds() -> u64 {
    std::env::var("MAINSTAY_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// xorshift64*, seeded.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos()));
        let seed = std::env::var("MAINSTAY_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(clock);
        eprintln!("MAINSTAY_CRASH_SEED={seed} MAINSTAY_CRASH_ROUNDS={}", rounds());
        Self(seed | 1)
    }

    /// Less than `limit`.
    pub(super) fn throw(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }

    pub(super) fn sleep_up_to(&mut self, limit: Duration) {
        let limit = u64::try_from(limit.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(self.throw(limit)));
    }
}

fn load() -> String {
    let mut services: String = FLOODERS
        .iter()
        .map(|name| {
            sample(
                name,
                &format!("--flood 100000000 --flood-rate {LINES_PER_SECOND}"),
                "ready: Log(\" 0000000001 \"), logs: (max_size: \"64MiB\", keep: 50)",
            )
        })
        .collect();
    services += &sample("crasher", "--crash-after 150ms", "restart: Always, backoff: (min: \"0ms\"), budget: None");
    services += &sample("notifier", "--notify --watchdog 50ms", "ready: Notify, watchdog: \"10s\"");
    services
}

fn pids(agent: &Agent) -> BTreeMap<&'static str, i32> {
    FLOODERS.into_iter().chain(["notifier"]).map(|name| (name, agent.service_pid(name).expect("it runs"))).collect()
}

/// One main process a service, and the right one.
fn nobody_twice(agent: &Agent, expected: &BTreeMap<&'static str, i32>) {
    for (name, pid) in expected {
        assert_eq!(agent.processes_with(&format!("--name {name} ")), [*pid], "{name}");
        assert_eq!(agent.service_pid(name), Some(*pid), "{name}");
    }
    assert!(agent.processes_with("--name crasher ").len() <= 1);
}

/// The numbers of the flood's lines in the log files, in their order.
fn numbers(agent: &Agent, name: &str) -> Vec<u64> {
    let bytes = agent.log_text(name, 0);
    let text = String::from_utf8_lossy(&bytes);
    let mark = format!("{name} ");
    let number = |line: &str| {
        let at = line.find(&mark)? + mark.len();
        let digits = line.get(at..at + 10)?;
        line.ends_with('x').then(|| digits.parse().ok())?
    };
    text.lines().filter_map(number).collect()
}

/// Stops the flooders, so that everything they wrote is in the files.
fn settle(agent: &mut Agent) {
    for name in FLOODERS {
        agent.cli_ok(&["stop", name]);
    }
    // A stop is over once the pipe has been read; the writer of the files may be a moment behind.
    let mut before = 0;
    agent.wait_until("the log files no longer grow", SOON, |agent| {
        let now = FLOODERS.iter().map(|name| agent.log_text(name, 0).len()).sum::<usize>();
        std::mem::replace(&mut before, now) == now
    });
}

fn kill_agents(who: As) {
    let mut dice = Dice::new();
    let mut agent = Agent::running_as(who, &load());
    for name in FLOODERS.into_iter().chain(["notifier"]) {
        agent.wait_for(name, "ready");
    }
    let expected = pids(&agent);
    let mut restarts = 0;
    for round in 0..rounds() {
        dice.sleep_up_to(Duration::from_millis(400));
        agent.kill();
        dice.sleep_up_to(Duration::from_millis(100));
        if dice.throw(3) == 0 {
            // A successor that is killed in the middle of its own start.
            agent.spawn(&[]);
            dice.sleep_up_to(Duration::from_millis(30));
            agent.kill();
        }
        agent.start();
        for name in FLOODERS.into_iter().chain(["notifier"]) {
            agent.wait_for(name, "ready");
            let replica = agent.replica(name, 0);
            assert_eq!(replica["run"], 1, "round {round}: {replica:#}");
            assert_eq!(replica["restarts"], 0, "round {round}: {replica:#}");
        }
        nobody_twice(&agent, &expected);
        let now = agent.replica("crasher", 0)["restarts"].as_u64().unwrap();
        assert!(now >= restarts, "round {round}: restarts went from {restarts} to {now}");
        restarts = now;
    }
    let before = agent.run_of("crasher");
    agent.wait_until("the crasher still comes back", SOON, |agent| agent.run_of("crasher") > before);
    settle(&mut agent);
    for name in FLOODERS {
        let numbers = numbers(&agent, name);
        let gap = numbers.iter().zip(1..).find(|(number, expected)| **number != *expected);
        assert!(gap.is_none(), "{name}: expected {:?}", gap);
        assert!(u64::try_from(numbers.len()).unwrap() > LINES_PER_SECOND / 4, "{name} wrote something");
        assert!(agent.events_of(name, "lines_dropped").is_empty());
    }
}

#[test]
fn killed_agents_lose_no_service_no_line_and_no_count() {
    kill_agents(As::Me);
}

#[test]
fn killed_agents_lose_nothing_without_cgroups_either() {
    kill_agents(As::MeWithoutGroups);
}

fn kill_role(role: &str) {
    let mut agent = Agent::running(&load());
    for name in FLOODERS.into_iter().chain(["notifier"]) {
        agent.wait_for(name, "ready");
    }
    let expected = pids(&agent);
    let mut dice = Dice::new();
    let kills = 3;
    for _ in 0..kills {
        dice.sleep_up_to(Duration::from_millis(300));
        let pid = agent.service_pid(role).expect("the role runs");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        agent.wait_until("another process took the role", SOON, |agent| {
            agent.service_pid(role).is_some_and(|now| now != pid) && agent.state(role) == "ready"
        });
        nobody_twice(&agent, &expected);
    }
    std::thread::sleep(Duration::from_millis(300));
    for name in FLOODERS {
        assert_eq!(agent.replica(name, 0)["restarts"], 0);
    }
    settle(&mut agent);
    for name in FLOODERS {
        let numbers = numbers(&agent, name);
        let gaps: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{name}: in order and none twice: {gaps:?}");
        let may_lose = if role == "@logs" { kills } else { 0 };
        assert!(gaps.len() <= may_lose, "{name}: {gaps:?}");
        for gap in gaps {
            assert!(gap[1] - gap[0] <= ROLE_HOLDS_LINES_MAX, "{name}: what was in the pipe is there: {gap:?}");
        }
    }
}

#[test]
fn killed_logs_role_is_not_noticed_by_the_services() {
    kill_role("@logs");
}

#[test]
fn killed_checks_role_is_not_noticed_by_the_services() {
    kill_role("@checks");
}

#[test]
fn killing_agent_and_roles_together_leaves_the_services() {
    let mut agent = Agent::running(&load());
    for name in FLOODERS.into_iter().chain(["notifier"]) {
        agent.wait_for(name, "ready");
    }
    let expected = pids(&agent);
    let roles = ["@logs", "@checks"].map(|role| agent.service_pid(role).expect("the role runs"));
    agent.kill();
    for pid in roles {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    assert!(expected.values().all(|pid| proc::is_alive(*pid)));
    agent.start();
    for name in FLOODERS.into_iter().chain(["notifier"]) {
        agent.wait_for(name, "ready");
    }
    nobody_twice(&agent, &expected);
}
