//! The one table of commands and options. Parsing, `help`, the completions and the man page are all made from it: what is not here
//! does not exist.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::{
    balancers, check, checks, completions, copies, doctor, events, fences, help, logs, man, metrics, reload, replay,
    run, status, tree, verbs, why,
};

use crate::engine::host::kind::CheckKind;

/// What a command takes beside options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    None,
    AtMostOne,
    One,
    Any,
    Some,
}

/// What a shell offers for an argument or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Nothing,
    Files,
    Services,
    Commands,
    Words(&'static [&'static str]),
}

#[derive(Debug)]
pub struct Opt {
    pub long: &'static str,
    pub short: Option<char>,
    /// The value's name; `None` for a switch.
    pub value: Option<&'static str>,
    pub offer: Offer,
    pub help: &'static str,
}

#[derive(Debug)]
pub struct Command {
    pub name: &'static str,
    /// As shown in help.
    pub usage: &'static str,
    pub arguments: Arguments,
    pub offer: Offer,
    pub options: &'static [&'static Opt],
    /// One line, lower case, no full stop.
    pub summary: &'static str,
    /// Further sentences for `help COMMAND` and the man page.
    pub details: &'static str,
    pub run: Run,
}

/// What a command does with its words.
pub type Run = fn(&Invocation) -> Result<Exit, CliError>;

const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Opt {
    Opt { long, short, value: None, offer: Offer::Nothing, help }
}

const fn valued(long: &'static str, short: Option<char>, value: &'static str, offer: Offer, help: &'static str) -> Opt {
    Opt { long, short, value: Some(value), offer, help }
}

pub const SOCKET: Opt = valued("socket", None, "PATH", Offer::Files, "ask the agent at this socket");
pub const CONFIG: Opt = valued(
    "config",
    None,
    "FILE",
    Offer::Files,
    "the configuration: run uses it, other commands find the agent by its run_dir",
);
pub const HELP: Opt = switch("help", Some('h'), "show help for the command");
pub const VERSION: Opt = switch("version", Some('V'), "show the version");
pub const OUTPUT: Opt = valued(
    "output",
    Some('o'),
    "FORMAT",
    Offer::Words(&["table", "json", "ndjson"]),
    "table (for people), json (as the API answers) or ndjson (one object a line)",
);
pub const FOLLOW: Opt = switch("follow", Some('f'), "go on with what comes, until interrupted");
pub const TAIL: Opt = valued("tail", Some('n'), "N", Offer::Nothing, "only the last N lines");
pub const SINCE: Opt =
    valued("since", None, "TIME", Offer::Nothing, "not older than this: 10m, 1h 30m, or 2026-11-22T08:00:00Z");
pub const NO_PREFIX: Opt = switch("no-prefix", None, "do not name the service on each line");
pub const NO_WAIT: Opt = switch("no-wait", None, "answer when the decision is taken, not when its outcome is known");
pub const TIMEOUT: Opt =
    valued("timeout", None, "TIME", Offer::Nothing, "give up waiting after this (exit code 7); default 10m");
pub const ALL_AT_ONCE: Opt =
    switch("all-at-once", None, "every replica at the same time instead of one after the other");
pub const LEVEL: Opt = valued(
    "level",
    None,
    "LEVEL",
    Offer::Words(&["throttle", "freeze", "kill", "hold"]),
    "throttle, freeze, kill or hold (the default); after kill too nothing starts again",
);
pub const WHY: Opt = valued("why", None, "TEXT", Offer::Nothing, "the reason, kept with the fence and in the journal");
pub const DRY_RUN: Opt = switch("dry-run", None, "show what would be done, and do nothing");
pub const INTO: Opt =
    valued("into", None, "DIR", Offer::Files, "restore below this directory, each file under its whole path");
pub const REPLACE: Opt = switch("replace", None, "restore where it was; what is there is kept beside");
pub const SERVICE: Opt = valued(
    "service",
    None,
    "NAME",
    Offer::Services,
    "restore the data of this service: it is stopped meanwhile, and gets back what it had when it does not become ready",
);
pub const FORCE: Opt =
    switch("force", None, "restore over files that somebody has open; bring back to a disk that still fails");
pub const CLAIM: Opt = switch("claim", None, "take over a target that another machine has marked");
pub const ROLES: Opt = switch("roles", None, "show the agent's own processes as well");
pub const ONCE: Opt = switch("once", None, "read everything now, without an agent");
pub const EXPLAIN: Opt = switch("explain", None, "print the resolved plan");

/// Options of every command.
pub const GLOBAL: [&Opt; 4] = [&SOCKET, &CONFIG, &HELP, &VERSION];

/// Kinds of checks, for the shells.
const KINDS: [&str; CheckKind::ALL.len()] = {
    let mut words = [""; CheckKind::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = CheckKind::ALL[at].word();
        at += 1;
    }
    words
};

/// The command that shows the evidence, for sentences that name it.
pub const FENCES: &str = "fences";

/// In the order of the help.
pub const COMMANDS: [Command; 26] = [
    Command {
        name: "run",
        usage: "run [--config FILE]",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[],
        summary: "be the agent, in the foreground",
        details: "TERM and INT stop every service in order and end the agent; a second one kills at once. QUIT ends the agent alone: \
                  the services go on and the next agent adopts them. HUP reloads the configuration.",
        run: run::run,
    },
    Command {
        name: "check",
        usage: "check [FILE]",
        arguments: Arguments::AtMostOne,
        offer: Offer::Files,
        options: &[&EXPLAIN, &OUTPUT],
        summary: "validate a configuration, without an agent",
        details: "Every error is shown at once, with its place. Exit code 78 when there is one.",
        run: check::run,
    },
    Command {
        name: "status",
        usage: "status [NAME..]",
        arguments: Arguments::Any,
        offer: Offer::Services,
        options: &[&OUTPUT, &ROLES],
        summary: "show services, or one of them in detail",
        details: "Exit code 0 only if all that is wanted is well, else 3.",
        run: status::run,
    },
    verb(
        verbs::start,
        "start",
        "start NAME[/replica]..",
        &[&NO_WAIT, &TIMEOUT, &OUTPUT],
        "start services and wait until they are ready",
    ),
    verb(
        verbs::stop,
        "stop",
        "stop NAME[/replica]..",
        &[&NO_WAIT, &TIMEOUT, &OUTPUT],
        "stop services, and keep them stopped",
    ),
    verb(
        verbs::restart,
        "restart",
        "restart NAME[/replica]..",
        &[&NO_WAIT, &TIMEOUT, &ALL_AT_ONCE, &OUTPUT],
        "restart services, one replica after the other",
    ),
    verb(
        verbs::drain,
        "drain",
        "drain NAME[/replica]..",
        &[&NO_WAIT, &TIMEOUT, &OUTPUT],
        "take replicas out of their balancers; they run on",
    ),
    verb(
        verbs::undrain,
        "undrain",
        "undrain NAME[/replica]..",
        &[&NO_WAIT, &TIMEOUT, &OUTPUT],
        "give drained replicas connections again",
    ),
    Command {
        details: "The agent does the least that the level needs, waits for its proof (nothing runs, everything stands still, the limit bites) and \
                  never lifts it by itself. A fenced replica leaves its balancers first. Exit code 1 when it cannot be proven: a process \
                  that the kernel does not let die, for example; mainstay fences ID names it. The decision is kept over a reboot.",
        ..verb(
            verbs::fence,
            "fence",
            "fence NAME[/replica].. [--level LEVEL] [--why TEXT]",
            &[&LEVEL, &WHY, &NO_WAIT, &TIMEOUT, &OUTPUT],
            "throttle, freeze, kill or hold services, and prove it",
        )
    },
    Command {
        details: "Also of fences that the agent has set, and of a spent restart budget. What is wanted up starts at once, without probation.",
        ..verb(
            verbs::unfence,
            "unfence",
            "unfence NAME[/replica]..",
            &[&WHY, &NO_WAIT, &TIMEOUT, &OUTPUT],
            "lift the fence of services, whoever set it",
        )
    },
    Command {
        name: FENCES,
        usage: "fences [NAME[/replica]|ID]",
        arguments: Arguments::AtMostOne,
        offer: Offer::Services,
        options: &[&OUTPUT],
        summary: "show what is and was fenced, or the evidence of one",
        details: "An ID shows what was seen, decided, written and proven, with the times between; a NAME does so of its latest fence. Exit code 3 \
                  while something of what is shown is fenced.",
        run: fences::run,
    },
    Command {
        name: "balancers",
        usage: "balancers [NAME]",
        arguments: Arguments::AtMostOne,
        offer: Offer::Nothing,
        options: &[&OUTPUT],
        summary: "show balancers with their backends and counters",
        details: "Below each balancer its backends: connections open and in all, failures, bytes from and to clients, and the times within \
                  which half and 99 of 100 connects and first bytes came. Exit code 3 when an address is not listened on or no backend is up.",
        run: balancers::run,
    },
    Command {
        name: "checks",
        usage: "checks [--once] [NAME..]",
        arguments: Arguments::Any,
        offer: Offer::Words(&KINDS),
        options: &[&ONCE, &OUTPUT],
        summary: "show the checks of disks, NICs and hardware, worst first",
        details: "A NAME is that of a check, a kind such as smart, or a target such as sda. Thresholds are those of degraded and failing. \
                  Exit code 3 when one of those shown is degraded or failing. With --once everything is read here and now, twice within a \
                  second, without an agent and without writing: what needs a longer look or a canary is unknown. It says so of a disk that \
                  does not answer within five seconds.",
        run: checks::run,
    },
    Command {
        name: "copies",
        usage: "copies [VERB NAME [COPY] [PATH..]]",
        arguments: Arguments::Any,
        offer: Offer::Words(&[
            "list", "run", "verify", "scrub", "restore", "test", "pin", "unpin", "prune", "accept", "init", "failback",
        ]),
        options: &[&SERVICE, &INTO, &REPLACE, &FORCE, &CLAIM, &DRY_RUN, &NO_WAIT, &TIMEOUT, &OUTPUT],
        summary: "copies of data: show, make, verify, restore",
        details: "Without a verb: every set. list NAME: its copies, and why each stays. run NAME: copy now. verify NAME [COPY|newest|all]: read again \
                  and compare. scrub NAME: go on reading what was read longest ago. restore NAME [COPY] [PATH..] with --into DIR or --replace, and \
                  --dry-run. restore --service NAME [COPY]: the data of a service, which is stopped meanwhile. test NAME: restore some files into scratch space and compare. pin, unpin and accept NAME COPY. prune NAME [--dry-run]: \
                  remove what no rule keeps. init NAME: mark the target, once. failback NAME [--dry-run]: bring services that run from a copy back to their own disk. With --config FILE also where no agent runs, as in a rescue shell. \
                  Exit code 3 when a set is not well.",
        run: copies::run,
    },
    Command {
        name: "logs",
        usage: "logs [-f] [-n N] [--since TIME] NAME[/replica]..",
        arguments: Arguments::Some,
        offer: Offer::Services,
        options: &[&FOLLOW, &TAIL, &SINCE, &NO_PREFIX, &OUTPUT],
        summary: "show the output of services",
        details: "Without -n or --since the last 100 lines; with -f the last 10. Several services or replicas are merged in the order \
                  of time, each line with its origin in front.",
        run: logs::run,
    },
    Command {
        name: "events",
        usage: "events [-f] [-n N] [--since TIME]",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[&FOLLOW, &TAIL, &SINCE, &OUTPUT],
        summary: "show what happened and what was done about it",
        details: "Without -n or --since the last 50 entries; with -f the last 10.",
        run: events::run,
    },
    Command {
        name: "why",
        usage: "why NAME",
        arguments: Arguments::One,
        offer: Offer::Services,
        options: &[&OUTPUT],
        summary: "explain the state of a service or check and what happens next",
        details: "The chain of causes from the first symptom on, with times, and the same for the services it waits for. Of a check also its \
                  value, thresholds and the services that it concerns.",
        run: why::run,
    },
    Command {
        name: "tree",
        usage: "tree",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[&OUTPUT, &ROLES],
        summary: "show dependencies with states, what blocks marked",
        details: "",
        run: tree::run,
    },
    Command {
        name: "reload",
        usage: "reload [--dry-run]",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[&DRY_RUN, &TIMEOUT, &OUTPUT],
        summary: "apply the changed configuration",
        details: "Prints what starts, stops, restarts or is applied without a restart, with the reasons.",
        run: reload::run,
    },
    Command {
        name: "doctor",
        usage: "doctor",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[&OUTPUT],
        summary: "show what this host lacks, and how to mend it",
        details: "Exit code 3 when something fails.",
        run: doctor::run,
    },
    Command {
        name: "metrics",
        usage: "metrics",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[],
        summary: "print the metrics in Prometheus' text format",
        details: "",
        run: metrics::run,
    },
    Command {
        name: "replay",
        usage: "replay FILE",
        arguments: Arguments::One,
        offer: Offer::Files,
        options: &[],
        summary: "feed a flight recording to the engine and compare",
        details: "Exit code 1 when the engine acts otherwise than it did when the recording was made.",
        run: replay::run,
    },
    Command {
        name: "help",
        usage: "help [COMMAND]",
        arguments: Arguments::AtMostOne,
        offer: Offer::Commands,
        options: &[],
        summary: "show the commands, or one of them in detail",
        details: "",
        run: help::run,
    },
    Command {
        name: "version",
        usage: "version",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[],
        summary: "print the version",
        details: "",
        run: help::version,
    },
    Command {
        name: "completions",
        usage: "completions SHELL",
        arguments: Arguments::One,
        offer: Offer::Words(&["bash", "zsh", "fish"]),
        options: &[],
        summary: "print the completions for bash, zsh or fish",
        details: "For bash: mainstay completions bash > /usr/share/bash-completion/completions/mainstay",
        run: completions::run,
    },
    Command {
        name: "man",
        usage: "man",
        arguments: Arguments::None,
        offer: Offer::Nothing,
        options: &[],
        summary: "print the manual page",
        details: "To read it: mainstay man | man -l -",
        run: man::run,
    },
];

const fn verb(
    run: Run,
    name: &'static str,
    usage: &'static str,
    options: &'static [&'static Opt],
    summary: &'static str,
) -> Command {
    Command {
        name,
        usage,
        arguments: Arguments::Some,
        offer: Offer::Services,
        options,
        summary,
        details: "The decision is kept over a reboot.",
        run,
    }
}

/// Exit codes and their meaning.
pub const EXIT_CODES: [(u8, &str); 9] = [
    (0, "well"),
    (1, "failed"),
    (2, "wrong usage"),
    (3, "not running or not well"),
    (4, "no such name"),
    (5, "agent not reachable"),
    (6, "not allowed"),
    (7, "timed out"),
    (78, "configuration invalid"),
];

/// Environment variables and their meaning.
pub const ENVIRONMENT: [(&str, &str); 3] = [
    ("MAINSTAY_SOCKET", "the agent's socket, or the directory it is in"),
    ("XDG_RUNTIME_DIR", "below it the run_dir of an agent without root is looked for"),
    ("NO_COLOR", "when set and not empty: no colour"),
];

#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Every option once.
pub fn options() -> impl Iterator<Item = &'static Opt> {
    let own = COMMANDS.iter().flat_map(|command| command.options.iter().copied());
    let mut seen: Vec<&str> = Vec::new();
    GLOBAL.into_iter().chain(own).filter(move |option| {
        let new = !seen.contains(&option.long);
        seen.push(option.long);
        new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_means_the_same_everywhere() {
        for command in &COMMANDS {
            for option in command.options {
                let same = options().find(|other| other.long == option.long).unwrap();
                assert!(std::ptr::eq(same, *option) || (same.short, same.value) == (option.short, option.value));
                let shorts = options().filter(|other| other.short.is_some() && other.short == option.short).count();
                assert!(option.short.is_none() || shorts == 1, "-{:?} is taken twice", option.short);
            }
        }
    }

    #[test]
    fn texts_keep_their_form() {
        for command in &COMMANDS {
            assert!(command.usage.starts_with(command.name), "{}", command.name);
            assert!(command.summary.chars().next().unwrap().is_lowercase() && !command.summary.ends_with('.'));
            assert!(command.name.len() + 16 + command.summary.len() <= 80, "{} does not fit a line", command.name);
        }
    }
}
