//! SIGKILL of the agent, of replicas and of the proxy, at moments drawn from a seed, while clients ask through a balancer. Agents and
//! replicas may die as they like: nobody is left without an answer. A proxy takes with it what it carries, and nothing else.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::random::{Dice, rounds};
use crate::support::{Agent, As, Load, Place, SOON, free_ports, sample};

const CLIENTS: usize = 8;
const REPLICAS: u64 = 3;

/// Who may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victims {
    AgentAndReplicas,
    ProxyToo,
}

fn balanced() -> (Agent, Place) {
    let port = free_ports(4);
    let api = sample(
        "api",
        "--listen 127.0.0.1:{port} --answer-after 5ms",
        &format!(
            "replicas: {REPLICAS}, port: {}, ready: Http(\"http://127.0.0.1:{{port}}/healthz\"), backoff: (min: \"0ms\"), budget: None",
            port + 1
        ),
    );
    let front = format!(
        "(name: \"front\", listen: [\"tcp:127.0.0.1:{port}\"], to: \"api\", ramp: \"0s\", \
         replay: Unanswered(max: \"16KiB\"), none_left: Queue(\"15s\")),"
    );
    let mut agent = Agent::balancing(As::Me, &api, &front);
    agent.wait_up("front", usize::try_from(REPLICAS).unwrap());
    (agent, Place::Port(port))
}

fn kill_replica(agent: &mut Agent, dice: &mut Dice) {
    // Another one may be on its way back: two at once are what a queue is for, but a dead replica has no pid to kill.
    let index = usize::try_from(dice.throw(REPLICAS)).unwrap();
    if let Some(pid) = agent.replica("api", index)["pid"].as_i64() {
        let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
    }
}

fn kill_proxy(agent: &mut Agent) {
    let proxy = agent.service_pid("@proxy").expect("the proxy runs");
    kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
    agent.wait_until("another proxy", SOON, |agent| {
        agent.service_pid("@proxy").is_some_and(|pid| pid != proxy) && agent.state("@proxy") == "ready"
    });
}

fn kill_agent(agent: &mut Agent, dice: &mut Dice) {
    let replicas: Vec<i64> = (0..3).filter_map(|index| agent.replica("api", index)["pid"].as_i64()).collect();
    agent.kill();
    if dice.throw(2) == 0 && replicas.len() == 3 {
        // Nobody tells the proxy: it must find out by itself.
        let victim = replicas[usize::try_from(dice.throw(REPLICAS)).unwrap()];
        let _ = kill(Pid::from_raw(i32::try_from(victim).unwrap()), Signal::SIGKILL);
    }
    dice.sleep_up_to(Duration::from_millis(200));
    agent.start();
}

fn die(victims: Victims) {
    let mut dice = Dice::new();
    let (mut agent, place) = balanced();
    let load = Load::on(&place, CLIENTS);
    load.wait_for(100);
    let mut proxies_killed = 0;
    for _ in 0..2 * rounds() {
        dice.sleep_up_to(Duration::from_millis(300));
        match dice.throw(4) {
            0 => kill_agent(&mut agent, &mut dice),
            1 if victims == Victims::ProxyToo => {
                kill_proxy(&mut agent);
                proxies_killed += 1;
            }
            _ => kill_replica(&mut agent, &mut dice),
        }
        load.wait_for(10);
    }
    agent.wait_up("front", usize::try_from(REPLICAS).unwrap());
    load.wait_for(100);
    let tally = load.end();
    eprintln!("{} answered, slowest {:?}, failed {:?}", tally.answered, tally.slowest, tally.failures);
    assert!(tally.failures.len() <= proxies_killed * CLIENTS, "{proxies_killed} proxies were killed: {tally:#?}");
    assert!(tally.failures.iter().all(|(_, why)| !why.starts_with("connect")), "never refused: {tally:#?}");
    let front = agent.balancer("front");
    assert_eq!((&front["active"], &front["queued"]), (&0.into(), &0.into()), "{front:#}");
    for index in 0..3 {
        let pid = agent.replica("api", index)["pid"].as_i64().unwrap();
        let name = format!("--listen 127.0.0.1:{}", agent.replica("api", index)["port"]);
        assert_eq!(agent.processes_with(&name), [i32::try_from(pid).unwrap()], "one process a replica");
    }
}

#[test]
fn killed_agents_and_replicas_cost_no_request() {
    die(Victims::AgentAndReplicas);
}

#[test]
fn killed_proxy_costs_what_it_carried_and_nothing_else() {
    die(Victims::ProxyToo);
}
