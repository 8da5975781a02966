//! What happened, told once: a `Note` becomes the agent's log line, the journal entry, the memory of recent events and the counters.
//!
//! Sequence numbers go on over the agent's death and the host's reboot: a block of them is reserved in `{run_dir}/seq` before it is
//! used, and after a reboot the journal's own last number counts.

use std::path::{Path, PathBuf};

use super::links::{Importance, Link};
use crate::api::metrics::Tally;
use crate::api::proto;
use crate::api::render::level_word;
use crate::api::time::rfc3339_ns;
use crate::engine::action::{Level, Note, NoteKind};
use crate::engine::event::Caller;
use crate::logs::proto::ToLogs;
use crate::sys::clock;
use crate::sys::files::{self, Durability};

/// Numbers reserved at a time: one small write per thousand entries.
const RESERVED: u64 = 1_000;

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    seq: u64,
    reserved_to: u64,
    tally: Tally,
}

impl Journal {
    /// `last_seq`: the highest number found in the journal on disk.
    #[must_use]
    pub fn open(run_dir: &Path, last_seq: u64) -> Self {
        let path = run_dir.join("seq");
        let reserved = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let seq = last_seq.max(reserved);
        Self { path, seq, reserved_to: seq, tally: Tally::default() }
    }

    /// The number of the latest entry.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What the metrics count.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn write(&mut self, logs: &mut Link, note: &Note) {
        self.tally.count(note);
        log::log!(log_level(note.level), "{}", note.sentence());
        if matches!(note.kind, NoteKind::Status { .. }) {
            // What a service says of itself is shown, not kept: it could fill the journal until nothing else is left in it.
            return;
        }
        let seq = self.next_seq();
        let entry = entry(note, seq);
        if let Ok(line) = serde_json::to_string(&entry) {
            logs.send(&ToLogs::Journal { seq: entry.seq, line }, Importance::Entry);
        }
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        if self.seq >= self.reserved_to {
            self.reserved_to = self.seq + RESERVED;
            let text = self.reserved_to.to_string();
            if let Err(error) = files::write_atomically(&self.path, text.as_bytes(), Durability::Memory) {
                log::error!("agent: cannot reserve event numbers in {}: {error}", self.path.display());
            }
        }
        self.seq
    }
}

/// The journal entry of a note.
fn entry(note: &Note, seq: u64) -> proto::Event {
    let caller = match &note.kind {
        NoteKind::Commanded { caller, .. }
        | NoteKind::Reloaded { caller, .. }
        | NoteKind::ShuttingDown { caller, .. } => Some(caller),
        _ => None,
    };
    let caller = match caller {
        Some(Caller::Api { uid, pid, comm }) => Some(proto::EventCaller { uid: *uid, pid: *pid, comm: comm.clone() }),
        Some(Caller::Signal(_) | Caller::Agent) | None => None,
    };
    proto::Event {
        seq,
        at: rfc3339_ns(clock::clocks().wall_ns),
        level: level_word(note.level),
        kind: note.word().into(),
        service: note.subject.as_ref().map(|subject| subject.service.clone()),
        replica: note.subject.as_ref().and_then(|subject| subject.replica),
        text: note.kind.text(),
        caller,
        detail: serde_json::to_value(&note.kind).ok(),
    }
}

fn log_level(level: Level) -> log::Level {
    match level {
        Level::Error => log::Level::Error,
        Level::Warn => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    }
}
