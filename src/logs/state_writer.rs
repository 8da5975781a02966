//! The writer thread of `state_dir`: journal and decisions. May wait for its disk for ever; nobody waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::decisions::Decisions;
use super::file::Loss;
use super::journal::{self, Journal};
use super::queue::{Batch, Queue, Queued};
use super::reports::{FileEnd, Report, Reports};

/// Bytes waiting for the state disk.
pub(super) const STATE_QUEUE_BYTES_MAX: usize = 1 << 20;
const ITEM_BYTES: usize = size_of::<StateItem>();

#[derive(Debug)]
pub(super) enum StateItem {
    Entry {
        line: String,
    },
    Decide {
        decision: u64,
        key: String,
        content: Option<String>,
    },
    /// Answer with where the journal ends once everything before this is in it.
    End {
        client: u32,
    },
    Quit,
}

impl Queued for StateItem {
    fn weight(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Entry { line } => line.len(),
                Self::Decide { key, content, .. } => key.len() + content.as_ref().map_or(0, String::len),
                Self::End { .. } | Self::Quit => 0,
            }
    }

    fn loss(&self) -> Option<(u32, u64)> {
        match self {
            Self::Entry { .. } => Some((0, 1)),
            Self::Decide { .. } | Self::End { .. } | Self::Quit => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct StateWriter {
    pub(super) state_dir: PathBuf,
    pub(super) queue: Arc<Queue<StateItem>>,
    pub(super) reports: Arc<Reports>,
}

impl StateWriter {
    pub(super) fn run(self) {
        if let Err(error) = std::fs::create_dir_all(&self.state_dir) {
            self.reports.push(Report::Trouble(format!("cannot create {}: {error}", self.state_dir.display())));
        }
        self.reports.push(Report::LastSeq(journal::last_seq(&self.state_dir)));
        let (mut decisions, trouble) = Decisions::load(&self.state_dir);
        if let Some(text) = trouble {
            self.reports.push(Report::Trouble(text));
        }
        let mut journal = Journal::new(&self.state_dir);
        let mut well = true;
        let mut batch = Batch::new();
        loop {
            self.queue.take(&mut batch, journal.flush_at());
            let gap: u64 = batch.gaps.values().sum();
            if gap > 0 {
                journal.note_gap(gap, "slow disk");
            }
            let leave = self.handle(&mut batch, &mut journal, &mut decisions, &mut well);
            if leave || journal.flush_at().is_some_and(|at| at <= Instant::now()) {
                let lost = journal.flush();
                self.judge(lost, &mut well);
            }
            if leave {
                self.reports.push(Report::Left);
                return;
            }
        }
    }

    /// Decisions of one batch share one fsync. `true`: leave.
    fn handle(
        &self,
        batch: &mut Batch<StateItem>,
        journal: &mut Journal,
        decisions: &mut Decisions,
        well: &mut bool,
    ) -> bool {
        let (mut ids, mut changes, mut leave) = (Vec::new(), Vec::new(), false);
        for item in batch.items.drain(..) {
            match item {
                StateItem::Entry { line } => {
                    if let Some(lost) = journal.add(&line, Instant::now()) {
                        self.judge(Some(lost), well);
                    }
                }
                StateItem::Decide { decision, key, content } => {
                    ids.push(decision);
                    changes.push((key, content));
                }
                StateItem::End { client } => {
                    let lost = journal.flush();
                    self.judge(lost, well);
                    let (inode, size) = journal.end();
                    self.reports.push(Report::Ends { client, ends: vec![FileEnd { slot: 0, inode, size }] });
                }
                StateItem::Quit => leave = true,
            }
        }
        if !ids.is_empty() {
            let error = decisions.change(&changes).err();
            let error = error.map(|error| format!("cannot write {}/decisions.json: {error}", self.state_dir.display()));
            for decision in ids {
                self.reports.push(Report::Persisted { decision, error: error.clone() });
            }
        }
        leave
    }

    /// Trouble is told once when it begins and once when it ends.
    fn judge(&self, lost: Option<Loss>, well: &mut bool) {
        let directory = self.state_dir.display();
        match lost {
            Some(loss) if *well => {
                let text = format!(
                    "cannot write the journal below {directory}: {}; its entries are lost and counted until that is mended",
                    loss.error
                );
                self.reports.push(Report::Trouble(text));
                *well = false;
            }
            None if !*well => {
                self.reports.push(Report::Trouble(format!("the journal below {directory} is written again")));
                *well = true;
            }
            Some(_) | None => {}
        }
    }
}
