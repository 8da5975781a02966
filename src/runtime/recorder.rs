//! The flight recorder: every event with its times and a digest of the actions it led to, after a snapshot of the engine. A field
//! incident can be fed to the engine again (`mainstay replay FILE`) and must take the same decisions.
//!
//! A step is kept as it is until the turn has done what it decided: to put it into text takes as long as a tenth of a spawn.
//!
//! Two files below `run_dir`, `flight.ndjson` and the one before it, `flight.1.ndjson`, each at most [`SEGMENT_BYTES_MAX`] beyond its snapshot.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::action::Action;
use crate::engine::event::Event;
use crate::engine::types::Now;

/// When a segment has grown by this much, the next one begins.
const SEGMENT_BYTES_MAX: usize = 2 << 20;

/// Written at once at the latest when this much waits.
const BUFFERED_BYTES_MAX: usize = 16 << 10;

/// Steps that wait for being put into text, and the actions that one of them may have: those of a start of a thousand services are not kept
/// twice.
const UNWRITTEN_MAX: usize = 8;
const ACTIONS_KEPT_MAX: usize = 16;

#[derive(Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one line at a time, on the stack")]
enum Line<'a> {
    Snapshot(Cow<'a, Engine>),
    Step(Step<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Step<'a> {
    now: Now,
    event: Cow<'a, Event>,
    /// FNV-1a of the actions' JSON.
    actions: u64,
}

#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: Option<File>,
    unwritten: Vec<Unwritten>,
    buffer: Vec<u8>,
    segment_bytes: usize,
}

#[derive(Debug)]
struct Unwritten {
    now: Now,
    event: Event,
    actions: Vec<Action>,
}

impl Recorder {
    /// Begins a segment with a snapshot; the one before is kept under its second name.
    #[must_use]
    pub fn start(run_dir: &Path, engine: &Engine) -> Self {
        let path = run_dir.join("flight.ndjson");
        let mut recorder = Self { path, file: None, unwritten: Vec::new(), buffer: Vec::new(), segment_bytes: 0 };
        recorder.rotate(engine);
        recorder
    }

    fn rotate(&mut self, engine: &Engine) {
        self.write();
        // Absent at the first start.
        let _ = std::fs::rename(&self.path, self.path.with_extension("1.ndjson"));
        self.segment_bytes = 0;
        self.file = match Self::begin(&self.path, engine) {
            Ok(file) => Some(file),
            Err(error) => {
                log::warn!("agent: no flight recording: cannot write {}: {error}", self.path.display());
                None
            }
        };
    }

    /// A new file with its snapshot, streamed: the snapshot of a thousand services is a megabyte.
    fn begin(path: &Path, engine: &Engine) -> io::Result<File> {
        let mut out =
            BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?);
        serde_json::to_writer(&mut out, &Line::Snapshot(Cow::Borrowed(engine)))?;
        out.write_all(b"\n")?;
        out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// Records one step; `engine` is the state after it.
    pub fn record(&mut self, engine: &Engine, now: Now, event: Event, actions: &[Action]) {
        if self.file.is_none() {
            return;
        }
        if actions.len() <= ACTIONS_KEPT_MAX && self.unwritten.len() < UNWRITTEN_MAX {
            return self.unwritten.push(Unwritten { now, event, actions: actions.to_vec() });
        }
        self.put_into_text();
        self.append(now, event, actions);
        self.rotate_if_full(engine);
    }

    fn put_into_text(&mut self) {
        for Unwritten { now, event, actions } in std::mem::take(&mut self.unwritten) {
            self.append(now, event, &actions);
        }
    }

    fn rotate_if_full(&mut self, engine: &Engine) {
        if self.segment_bytes > SEGMENT_BYTES_MAX {
            self.rotate(engine);
        }
    }

    fn append(&mut self, now: Now, event: Event, actions: &[Action]) {
        let line = Line::Step(Step { now, event: Cow::Owned(event), actions: digest(actions) });
        let before = self.buffer.len();
        if serde_json::to_writer(&mut self.buffer, &line).is_err() {
            self.buffer.truncate(before);
            return;
        }
        self.buffer.push(b'\n');
        self.segment_bytes += self.buffer.len() - before;
        if self.buffer.len() > BUFFERED_BYTES_MAX {
            self.write();
        }
    }

    /// Writes what was recorded; called before the loop sleeps. `engine` is the state after the latest step.
    pub fn flush(&mut self, engine: &Engine) {
        self.put_into_text();
        self.write();
        self.rotate_if_full(engine);
    }

    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&self.buffer)
        {
            log::warn!("agent: flight recording ends: {error}");
            self.file = None;
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFERED_BYTES_MAX);
    }
}

fn digest(actions: &[Action]) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for action in actions {
        // Writing into a hash cannot fail.
        let _ = serde_json::to_writer(&mut hash, action);
    }
    hash.0
}

struct Fnv(u64);

impl Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a replay found.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    pub steps: u64,
    /// The sentences of the notes, in order.
    pub sentences: Vec<String>,
    /// The line of the first step whose actions differ from the recorded ones.
    pub differs_at_line: Option<u64>,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: not a line of a flight recording")]
    Line { path: PathBuf, line: u64, source: serde_json::Error },
    #[error("{path}:{line}: a step before any snapshot")]
    NoSnapshot { path: PathBuf, line: u64 },
}

/// Feeds a recording to a fresh engine. A torn last line (the agent was killed while writing) is the end.
pub fn replay(path: &Path) -> Result<Replayed, ReplayError> {
    let read = |source| ReplayError::Read { path: path.to_path_buf(), source };
    let mut lines = BufReader::new(File::open(path).map_err(read)?);
    let mut engine: Option<Engine> = None;
    let mut replayed = Replayed { steps: 0, sentences: Vec::new(), differs_at_line: None };
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if lines.read_until(b'\n', &mut text).map_err(read)? == 0 || !text.ends_with(b"\n") {
            break;
        }
        let parsed = serde_json::from_slice(&text).map_err(|source| ReplayError::Line {
            path: path.to_path_buf(),
            line,
            source,
        })?;
        match parsed {
            Line::Snapshot(snapshot) => engine = Some(snapshot.into_owned()),
            Line::Step(step) => {
                let Some(engine) = engine.as_mut() else {
                    return Err(ReplayError::NoSnapshot { path: path.to_path_buf(), line });
                };
                let actions = engine.step(step.now, step.event.into_owned());
                replayed.steps += 1;
                if digest(&actions) != step.actions && replayed.differs_at_line.is_none() {
                    replayed.differs_at_line = Some(line);
                }
                replayed.sentences.extend(actions.iter().filter_map(|action| match action {
                    Action::Note(note) => Some(note.sentence()),
                    _ => None,
                }));
            }
        }
    }
    Ok(replayed)
}
