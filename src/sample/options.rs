//! The knobs, from the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;
use nix::sys::signal::Signal;

use super::SampleError;
use crate::engine::types::signal_number;

pub(super) const HELP: &str = "\
mainstay sample: a small HTTP service that fails when told to

  --name NAME              what it calls itself (sample)
  --listen ADDRESS:PORT    serves HTTP there
  --unix PATH              serves HTTP on this Unix socket as well, which its group may use
  --listen-fd              serves HTTP on the sockets of LISTEN_FDS, those handed off included
  --listen-after D         listens only then
  --answer-after D         takes this long for each answer to /
  --die-after N            kills itself at the Nth request for / without an answer
  --ready-after D          /healthz answers 503 until then, and readiness is told then
  --never-ready            never becomes ready
  --notify                 tells NOTIFY_SOCKET: READY=1, STOPPING=1
  --watchdog D             tells NOTIFY_SOCKET WATCHDOG=1 this often, once ready
  --watchdog-stop-after D  no longer does so from then on
  --ready-fd N             writes a newline to descriptor N when ready
  --say TEXT               prints TEXT; {n} in it becomes 1, 2, 3 ...
  --say-every D            this often (1s)
  --flood LINES            prints that many numbered lines of 128 bytes
  --flood-rate LINES       at most so many of them a second
  --flood-exit             exits with code 0 after them
  --exit-after D           exits with code 0
  --crash-after D          exits with code 1, or as the next two say
  --exit-code N            ... with this code
  --signal NAME            ... killed by this signal
  --last-words TEXT        printed without a newline just before the end
  --ignore-term            TERM and INT do nothing
  --slow-stop D            takes this long to stop
  --close-stdout           gives up its output
  --fork-child             leaves a grandchild in a session of its own that ignores TERM
  --refork                 leaves a process that forks and exits for ever
  --hoard-fds N            opens N files and keeps them
  --stop-self              stops itself with SIGSTOP once ready

HTTP: / (name, pid, uptime, requests)  /healthz  /fail (toggles /healthz)  /crash?code=N  /env?name=NAME  /slow?ms=N
";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Nowhere,
    Address(String),
    Inherited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    Code(i32),
    Signal(Signal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood {
    pub(super) lines: u64,
    /// `None`: as fast as they are taken.
    pub(super) lines_per_second: Option<u64>,
    pub(super) then: AfterFlood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterFlood {
    Idle,
    Exit,
}

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) name: String,
    pub(super) listen: Listen,
    pub(super) unix: Option<PathBuf>,
    pub(super) answer_after: Duration,
    pub(super) die_after: Option<u64>,
    pub(super) listen_after: Duration,
    pub(super) ready_after: Duration,
    pub(super) never_ready: bool,
    pub(super) notify: bool,
    pub(super) watchdog: Option<Duration>,
    pub(super) watchdog_stop_after: Option<Duration>,
    pub(super) ready_fd: Option<i32>,
    pub(super) say: Option<String>,
    pub(super) say_every: Duration,
    pub(super) flood: Option<Flood>,
    pub(super) exit_after: Option<Duration>,
    pub(super) crash_after: Option<Duration>,
    pub(super) crash: Crash,
    pub(super) last_words: Option<String>,
    pub(super) ignore_term: bool,
    pub(super) slow_stop: Duration,
    pub(super) close_stdout: bool,
    pub(super) fork_child: bool,
    pub(super) refork: bool,
    pub(super) hoard_fds: usize,
    pub(super) stop_self: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "sample".to_owned(),
            listen: Listen::Nowhere,
            unix: None,
            answer_after: Duration::ZERO,
            die_after: None,
            listen_after: Duration::ZERO,
            ready_after: Duration::ZERO,
            never_ready: false,
            notify: false,
            watchdog: None,
            watchdog_stop_after: None,
            ready_fd: None,
            say: None,
            say_every: Duration::from_secs(1),
            flood: None,
            exit_after: None,
            crash_after: None,
            crash: Crash::Code(1),
            last_words: None,
            ignore_term: false,
            slow_stop: Duration::ZERO,
            close_stdout: false,
            fork_child: false,
            refork: false,
            hoard_fds: 0,
            stop_self: false,
        }
    }
}

/// What a process started with the hidden `--stage` does; see `nasty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Middle,
    Grandchild,
    /// Forks and exits until this time (milliseconds since 1970).
    Refork {
        until_unix_ms: u64,
    },
}

#[derive(Debug)]
pub(super) enum Parsed {
    Serve(Box<Options>),
    Stage(Stage),
    Help,
}

pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, SampleError> {
    read(arguments).map_err(|error| SampleError::Usage(error.to_string()))
}

fn read(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    let mut flood = Flood { lines: 0, lines_per_second: None, then: AfterFlood::Idle };
    while let Some(argument) = parser.next()? {
        let Long(name) = argument else {
            match argument {
                Short('h') => return Ok(Parsed::Help),
                Short(_) | Value(_) | Long(_) => return Err(argument.unexpected()),
            }
        };
        let name = name.to_owned();
        match name.as_str() {
            "help" => return Ok(Parsed::Help),
            "stage" => return Ok(Parsed::Stage(stage(&parser.value()?.string()?)?)),
            "flood" => flood.lines = parser.value()?.parse()?,
            "flood-rate" => flood.lines_per_second = Some(parser.value()?.parse_with(at_least_one)?),
            "flood-exit" => flood.then = AfterFlood::Exit,
            name => {
                if !flag(&mut options, name) && !valued(&mut options, name, &mut parser)? {
                    return Err(Long(name).unexpected());
                }
            }
        }
    }
    if flood.lines > 0 {
        options.flood = Some(flood);
    }
    Ok(Parsed::Serve(Box::new(options)))
}

fn flag(options: &mut Options, name: &str) -> bool {
    match name {
        "listen-fd" => options.listen = Listen::Inherited,
        "never-ready" => options.never_ready = true,
        "notify" => options.notify = true,
        "ignore-term" => options.ignore_term = true,
        "close-stdout" => options.close_stdout = true,
        "fork-child" => options.fork_child = true,
        "refork" => options.refork = true,
        "stop-self" => options.stop_self = true,
        _ => return false,
    }
    true
}

fn valued(options: &mut Options, name: &str, parser: &mut lexopt::Parser) -> Result<bool, lexopt::Error> {
    let value = |parser: &mut lexopt::Parser| parser.value();
    match name {
        "name" => options.name = value(parser)?.string()?,
        "listen" => options.listen = Listen::Address(value(parser)?.string()?),
        "unix" => options.unix = Some(value(parser)?.into()),
        "answer-after" => options.answer_after = value(parser)?.parse_with(duration)?,
        "die-after" => options.die_after = Some(value(parser)?.parse_with(at_least_one)?),
        "listen-after" => options.listen_after = value(parser)?.parse_with(duration)?,
        "ready-after" => options.ready_after = value(parser)?.parse_with(duration)?,
        "watchdog" => options.watchdog = Some(value(parser)?.parse_with(interval)?),
        "watchdog-stop-after" => options.watchdog_stop_after = Some(value(parser)?.parse_with(duration)?),
        "ready-fd" => options.ready_fd = Some(value(parser)?.parse()?),
        "say" => options.say = Some(value(parser)?.string()?),
        "say-every" => options.say_every = value(parser)?.parse_with(interval)?,
        "exit-after" => options.exit_after = Some(value(parser)?.parse_with(duration)?),
        "crash-after" => options.crash_after = Some(value(parser)?.parse_with(duration)?),
        "exit-code" => options.crash = Crash::Code(value(parser)?.parse()?),
        "signal" => options.crash = Crash::Signal(value(parser)?.parse_with(signal)?),
        "last-words" => options.last_words = Some(value(parser)?.string()?),
        "slow-stop" => options.slow_stop = value(parser)?.parse_with(duration)?,
        "hoard-fds" => options.hoard_fds = value(parser)?.parse()?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn at_least_one(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number above 0".to_owned())
}

fn signal(text: &str) -> Result<Signal, String> {
    signal_number(text)
        .and_then(|number| Signal::try_from(number).ok())
        .ok_or_else(|| "expected a signal such as TERM or SEGV".to_owned())
}

/// `250ms`, `3s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let number: u32 = digits.parse().map_err(|_| DURATION_EXPECTED.to_owned())?;
    match unit {
        "us" => Ok(Duration::from_micros(number.into())),
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(60) * number),
        "h" => Ok(Duration::from_secs(3_600) * number),
        _ => Err(DURATION_EXPECTED.to_owned()),
    }
}

/// What is done again and again must leave time for signals.
fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|every| if every.is_zero() { Err(DURATION_EXPECTED.to_owned()) } else { Ok(every) })
}

const DURATION_EXPECTED: &str = "expected a duration such as 250ms, 3s, 2m or 1h";

fn stage(text: &str) -> Result<Stage, lexopt::Error> {
    match text.split_once(':') {
        None if text == "middle" => Ok(Stage::Middle),
        None if text == "grandchild" => Ok(Stage::Grandchild),
        Some(("refork", until)) => {
            let until_unix_ms = until.parse().map_err(|_| "the stage refork needs a time")?;
            Ok(Stage::Refork { until_unix_ms })
        }
        None | Some(_) => Err("there is no such stage".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Parsed::Serve(options)) => Ok(*options),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_knob_of_the_help_is_understood_and_every_knob_is_in_the_help() {
        let help: Vec<_> = HELP.lines().filter_map(|line| line.strip_prefix("  --")).collect();
        assert_eq!(help.len(), 30);
        for line in help {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap();
            let sample = match words.next().unwrap() {
                "D" => " 3s",
                "N" | "LINES" => " 3",
                "NAME" if name == "signal" => " SEGV",
                "NAME" | "TEXT" | "PATH" | "ADDRESS:PORT" => " x",
                _ => "",
            };
            assert!(options(&format!("--{name}{sample}")).is_ok(), "--{name}{sample}");
        }
    }

    #[test]
    fn knobs_end_up_where_they_belong() {
        let read =
            options("--listen 127.0.0.1:80 --crash-after 250ms --signal SIGABRT --flood 9 --flood-exit --say-every 2m")
                .unwrap();
        assert_eq!(read.listen, Listen::Address("127.0.0.1:80".to_owned()));
        assert_eq!(read.crash_after, Some(Duration::from_millis(250)));
        assert_eq!(read.crash, Crash::Signal(Signal::SIGABRT));
        assert_eq!(read.flood, Some(Flood { lines: 9, lines_per_second: None, then: AfterFlood::Exit }));
        assert_eq!(read.say_every, Duration::from_secs(120));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("--crash-after soon", "expected a duration such as 250ms, 3s, 2m or 1h"),
            ("--crash-after 5", "expected a duration"),
            ("--say-every 0s", "expected a duration"),
            ("--signal NOPE", "expected a signal such as TERM or SEGV"),
            ("--sing", "invalid option '--sing'"),
            ("extra", "unexpected argument"),
            ("--flood-rate 0", "above 0"),
            ("--stage nowhere", "there is no such stage"),
        ] {
            let error = options(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
