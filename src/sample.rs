//! A small service with knobs to fail on purpose: what the demo runs, what the documentation walks through and what the
//! tests use as a service that behaves badly. It supervises nothing and knows nothing of the agent but the environment that
//! every service gets.
//!
//! The main thread owns a list of things due later and waits for the next of them or for a signal; the HTTP server and the
//! flood of lines have threads of their own. Processes that must look like somebody else's (a daemon that ran away, a
//! process that forks for ever) are this program again with a hidden `--stage`.

mod handoff;
mod http;
mod nasty;
mod options;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;
use http::Listener;
use options::{Crash, Listen, Options};

#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("{0} (see `mainstay sample --help`)")]
    Usage(String),
    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("--listen-fd: {0}")]
    ListenFd(String),
    #[error("cannot write to descriptor {number}, which --ready-fd names")]
    ReadyFd {
        number: i32,
        #[source]
        source: io::Error,
    },
    #[error("cannot {step}")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Runs the service until it is told to stop or one of its knobs ends it; then the process exits with the code asked for.
///
/// # Errors
/// Arguments that cannot be understood, and whatever the service cannot do at its start.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), SampleError> {
    let options = match options::parse(arguments)? {
        options::Parsed::Serve(options) => *options,
        options::Parsed::Stage(stage) => return nasty::stage(stage),
        options::Parsed::Help => {
            write_out(options::HELP.as_bytes());
            return Ok(());
        }
    };
    Sample::start(options)?.serve()
}

/// Between two looks whether everything that was accepted is answered.
const FINISH_PAUSE: Duration = Duration::from_millis(5);

/// What is due later. The order decides between things due at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Listen,
    Ready,
    Say { count: u64 },
    Watchdog,
    Exit,
    Crash,
}

struct Sample {
    options: Options,
    state: Arc<http::State>,
    signals: SignalFd,
    due: BinaryHeap<Reverse<(Instant, Task)>>,
    started: Instant,
    stopping: bool,
    /// Kept open on purpose by `--hoard-fds`.
    _hoard: Vec<std::fs::File>,
}

impl Sample {
    fn start(options: Options) -> Result<Self, SampleError> {
        let signals = block_signals().map_err(|source| SampleError::Step { step: "receive signals", source })?;
        if options.close_stdout {
            nasty::close_output().map_err(|source| SampleError::Step { step: "close its output", source })?;
        }
        let started = Instant::now();
        let hoard = nasty::hoard(options.hoard_fds);
        let state = Arc::new(http::State {
            name: options.name.clone(),
            started,
            ready: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            requests: std::sync::atomic::AtomicU64::new(0),
            open: std::sync::atomic::AtomicUsize::new(0),
            answer_after: options.answer_after,
            die_after: options.die_after,
            asked: std::sync::atomic::AtomicU64::new(0),
            leaving: http::Leaving::new()
                .map_err(|source| SampleError::Step { step: "make what ends accepting", source })?,
        });
        let mut sample =
            Self { options, state, signals, due: BinaryHeap::new(), started, stopping: false, _hoard: hoard };
        sample.plan_tasks();
        sample.misbehave()?;
        Ok(sample)
    }

    fn plan_tasks(&mut self) {
        if self.options.listen != Listen::Nowhere || self.options.unix.is_some() {
            self.after(self.options.listen_after, Task::Listen);
        }
        if !self.options.never_ready {
            self.after(self.options.ready_after.max(self.options.listen_after), Task::Ready);
        }
        if self.options.say.is_some() {
            self.after(Duration::ZERO, Task::Say { count: 1 });
        }
        if let Some(after) = self.options.exit_after {
            self.after(after, Task::Exit);
        }
        if let Some(after) = self.options.crash_after {
            self.after(after, Task::Crash);
        }
    }

    fn misbehave(&self) -> Result<(), SampleError> {
        if self.options.fork_child {
            nasty::run_away().map_err(|source| SampleError::Step { step: "start a child that runs away", source })?;
        }
        if self.options.refork {
            nasty::start_reforker()
                .map_err(|source| SampleError::Step { step: "start a child that forks for ever", source })?;
        }
        if let Some(flood) = self.options.flood {
            let name = self.options.name.clone();
            std::thread::spawn(move || nasty::flood(&name, flood));
        }
        Ok(())
    }

    fn after(&mut self, delay: Duration, task: Task) {
        self.due.push(Reverse((Instant::now() + delay, task)));
    }

    fn serve(mut self) -> Result<(), SampleError> {
        loop {
            if let Some(task) = self.next_due() {
                self.perform(task)?;
                continue;
            }
            let timeout = self.due.peek().map_or(PollTimeout::NONE, |Reverse((at, _))| {
                let left = at.saturating_duration_since(Instant::now());
                // Rounded up, so that the loop does not spin through the last millisecond.
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            });
            let waited = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
            match waited {
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => self.signalled(),
                Err(error) => return Err(SampleError::Step { step: "wait", source: error.into() }),
            }
        }
    }

    fn next_due(&mut self) -> Option<Task> {
        let Reverse((at, task)) = *self.due.peek()?;
        if at > Instant::now() {
            return None;
        }
        self.due.pop();
        Some(task)
    }

    fn perform(&mut self, task: Task) -> Result<(), SampleError> {
        match task {
            Task::Listen => self.listen(),
            Task::Ready => self.become_ready(),
            Task::Say { count } => {
                if let Some(text) = &self.options.say {
                    say(&text.replace("{n}", &count.to_string()));
                }
                self.after(self.options.say_every, Task::Say { count: count + 1 });
                Ok(())
            }
            Task::Watchdog => {
                self.pet_watchdog();
                Ok(())
            }
            Task::Exit if self.still_serves() => {
                self.after(FINISH_PAUSE, Task::Exit);
                Ok(())
            }
            Task::Exit => self.end(0),
            Task::Crash => self.crash(),
        }
    }

    /// One that takes its time to stop finishes what it has accepted.
    fn still_serves(&self) -> bool {
        let ends_in_time = self.stopping && !self.options.slow_stop.is_zero();
        ends_in_time && self.state.open.load(Ordering::Relaxed) > 0
    }

    fn listen(&self) -> Result<(), SampleError> {
        let by_path = self.options.unix.as_deref().map(listen_on_path).transpose()?;
        for listener in listeners(&self.options.listen)?.into_iter().chain(by_path) {
            let state = Arc::clone(&self.state);
            std::thread::spawn(move || match listener {
                Source::Listener(listener) => http::serve(&listener, &state),
                Source::Shared(listener) => http::serve_shared(&listener, &state),
                Source::Channel(channel) => {
                    if let Err(error) = handoff::serve(channel, &state) {
                        say(&format!("{}: takes no more connections: {error}", state.name));
                    }
                }
            });
        }
        Ok(())
    }

    fn become_ready(&mut self) -> Result<(), SampleError> {
        self.state.ready.store(true, Ordering::Relaxed);
        if self.options.notify {
            notify("READY=1\nSTATUS=serving");
        }
        if let Some(number) = self.options.ready_fd {
            nasty::tell_descriptor(number).map_err(|source| SampleError::ReadyFd { number, source })?;
        }
        say(&format!("{}: ready after {} ms", self.options.name, self.started.elapsed().as_millis()));
        if let Some(every) = self.options.watchdog {
            self.after(every, Task::Watchdog);
        }
        if self.options.stop_self {
            say(&format!("{}: stops itself with SIGSTOP", self.options.name));
            raise(Signal::SIGSTOP).map_err(|error| SampleError::Step { step: "stop itself", source: error.into() })?;
        }
        Ok(())
    }

    fn pet_watchdog(&mut self) {
        if self.options.watchdog_stop_after.is_some_and(|limit| self.started.elapsed() >= limit) {
            say(&format!("{}: no longer tells the watchdog", self.options.name));
            return;
        }
        notify("WATCHDOG=1");
        if let Some(every) = self.options.watchdog {
            self.after(every, Task::Watchdog);
        }
    }

    /// TERM and INT end it in its own time (`--slow-stop`), HUP is a word in the log.
    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            let name = signal.map_or("a signal", Signal::as_str);
            let ends = matches!(signal, Some(Signal::SIGTERM | Signal::SIGINT));
            if !ends || self.options.ignore_term {
                say(&format!("{}: {name} ignored", self.options.name));
            } else if !self.stopping {
                self.stopping = true;
                say(&format!("{}: {name}, stopping", self.options.name));
                if self.options.notify {
                    notify("STOPPING=1");
                }
                self.state.leaving.begin();
                self.after(self.options.slow_stop, Task::Exit);
            }
        }
    }

    fn crash(&self) -> ! {
        match self.options.crash {
            Crash::Code(code) => self.end(code),
            Crash::Signal(signal) => {
                self.last_words();
                // The standard library's handler for SIGSEGV and SIGBUS takes the first one and restores the default.
                for _ in 0..2 {
                    let _ = raise(signal);
                }
                self.end(255)
            }
        }
    }

    fn end(&self, code: i32) -> ! {
        self.last_words();
        std::process::exit(code)
    }

    fn last_words(&self) {
        if let Some(words) = &self.options.last_words {
            write_out(words.as_bytes());
        }
    }
}

fn block_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Where connections come from.
#[derive(Debug)]
enum Source {
    Listener(Listener),
    /// Others accept from it as well.
    Shared(Listener),
    /// A socket over which they come accepted.
    Channel(OwnedFd),
}

/// Replaces a socket that an earlier run has left; its group may connect, as a balancer's proxy does.
fn listen_on_path(path: &Path) -> Result<Source, SampleError> {
    let failed = |source| SampleError::Listen { address: path.display().to_string(), source };
    let socket = sys::listen::unix(path, 0o660, None).map_err(failed)?;
    Ok(Source::Listener(Listener::Unix(socket.into())))
}

fn listeners(listen: &Listen) -> Result<Vec<Source>, SampleError> {
    match listen {
        Listen::Nowhere => Ok(Vec::new()),
        Listen::Address(address) => {
            let listener = TcpListener::bind(address)
                .map_err(|source| SampleError::Listen { address: address.clone(), source })?;
            Ok(vec![Source::Listener(Listener::Tcp(listener))])
        }
        Listen::Inherited => {
            let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
            let count = number("LISTEN_FDS").filter(|count| *count > 0);
            let count = count.ok_or_else(|| SampleError::ListenFd("LISTEN_FDS is not set".to_owned()))?;
            if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
                return Err(SampleError::ListenFd("LISTEN_PID is not this process".to_owned()));
            }
            let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
            let names = names.split(':').chain(std::iter::repeat(""));
            (3..3 + count)
                .zip(names)
                .map(|(descriptor, name)| match sys::inherited::take(descriptor) {
                    Ok(Some(socket)) if name == handoff::FD_NAME => Ok(Source::Channel(socket)),
                    Ok(Some(socket)) => Listener::inherited(socket)
                        .map(Source::Shared)
                        .map_err(|error| SampleError::ListenFd(format!("descriptor {descriptor}: {error}"))),
                    Ok(None) => Err(SampleError::ListenFd(format!("descriptor {descriptor} is not open"))),
                    Err(error) => Err(SampleError::ListenFd(format!("descriptor {descriptor}: {error}"))),
                })
                .collect()
        }
    }
}

/// Like most services, this one goes on when nobody hears it.
fn notify(text: &str) {
    match sys::notify::notify_parent(text) {
        Ok(true) => {}
        Ok(false) => say(&format!("nobody to tell {text:?}: there is no NOTIFY_SOCKET")),
        Err(error) => say(&format!("cannot tell NOTIFY_SOCKET {text:?}: {error}")),
    }
}

/// One line to stdout.
fn say(line: &str) {
    write_out(format!("{line}\n").as_bytes());
}

fn write_out(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // Output that nobody reads is no reason to fail: this is what `--close-stdout` is about.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}
