//! The writer thread of `log_dir`: everybody's output, and the agent's own lines. May wait for its disk for ever; nobody waits for it.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{Form, LogFile, Loss};
use super::queue::{Batch, Queue, Queued};
use super::reports::{FileEnd, Report, Reports};
use super::streams::READ_BYTES;
use super::{rfc3339, times};

/// Bytes waiting for the log disk while it does not answer; beyond that the oldest are dropped.
pub(super) const LOG_QUEUE_BYTES_MAX: usize = 8 << 20;
/// Files held open, each with its marks; the longest unused are closed first. Where descriptors are few, an eighth of them.
const OPEN_FILES_MAX: usize = 256;
const ITEM_BYTES: usize = size_of::<LogItem>();
/// `{log_dir}/mainstay.log`.
pub(super) const AGENT_SLOT: u32 = 0;
const AGENT_FILE: &str = "mainstay.log";
const AGENT_FILE_BYTES_MAX: u64 = 10 << 20;
const AGENT_FILES_MAX: u32 = 5;

#[derive(Debug)]
pub(super) enum LogItem {
    /// The file of a slot, or new limits for it.
    File {
        slot: u32,
        name: String,
        max_size_bytes: u64,
        keep: u32,
    },
    Bytes {
        slot: u32,
        bytes: Vec<u8>,
    },
    Close {
        slot: u32,
    },
    /// Answer with where these files end once everything before this is in them.
    Ends {
        client: u32,
        slots: Vec<u32>,
    },
    Quit,
}

impl Queued for LogItem {
    fn weight(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Bytes { bytes, .. } => bytes.capacity(),
                Self::File { name, .. } => name.len(),
                Self::Ends { slots, .. } => slots.len() * size_of::<u32>(),
                Self::Close { .. } | Self::Quit => 0,
            }
    }

    fn loss(&self) -> Option<(u32, u64)> {
        match self {
            Self::Bytes { slot, bytes } => Some((*slot, (super::count_lines(bytes) as u64).max(1))),
            Self::File { .. } | Self::Close { .. } | Self::Ends { .. } | Self::Quit => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct LogWriter {
    log_dir: PathBuf,
    queue: Arc<Queue<LogItem>>,
    reports: Arc<Reports>,
    files: BTreeMap<u32, LogFile>,
    open: usize,
    open_max: usize,
    clock: u64,
    /// What is wrong with the disk, as told.
    trouble: Option<String>,
}

impl LogWriter {
    pub(super) fn new(
        log_dir: PathBuf,
        queue: Arc<Queue<LogItem>>,
        reports: Arc<Reports>,
        descriptors_max: u64,
    ) -> Self {
        let open_max = usize::try_from(descriptors_max / 8).unwrap_or(usize::MAX).clamp(8, OPEN_FILES_MAX);
        let agent = LogFile::new(log_dir.join(AGENT_FILE), Form::Text, AGENT_FILE_BYTES_MAX, AGENT_FILES_MAX);
        let files = BTreeMap::from([(AGENT_SLOT, agent)]);
        Self { log_dir, queue, reports, files, open: 0, open_max, clock: 0, trouble: None }
    }

    pub(super) fn run(mut self) {
        let mut private = std::fs::DirBuilder::new();
        let prepared = private.recursive(true).mode(0o750).create(times::directory(&self.log_dir));
        if let Err(error) = prepared.and_then(|()| times::remove_orphans(&self.log_dir)) {
            self.reports
                .push(Report::Trouble(format!("cannot use the log directory {}: {error}", self.log_dir.display())));
        }
        let mut batch = Batch::new();
        loop {
            self.queue.take(&mut batch, None);
            for (slot, lines) in &batch.gaps {
                if let Some(file) = self.files.get_mut(slot) {
                    file.note_gap(*lines, "slow disk");
                }
            }
            if self.handle(&mut batch.items) {
                self.reports.push(Report::Left);
                return;
            }
        }
    }

    /// Bytes of one stream that follow each other, up to an order, are written together. `true`: leave.
    fn handle(&mut self, items: &mut Vec<LogItem>) -> bool {
        let mut leave = false;
        for run in items.chunk_by_mut(|a, b| slot_of(a).is_some() && slot_of(b).is_some()) {
            run.sort_by_key(slot_of);
            for same in run.chunk_by(|a, b| slot_of(a).is_some() && slot_of(a) == slot_of(b)) {
                let chunks: Vec<&[u8]> = same.iter().filter_map(bytes_of).collect();
                match same.first() {
                    Some(LogItem::Bytes { slot, .. }) => self.write(*slot, &chunks),
                    Some(LogItem::File { slot, name, max_size_bytes, keep }) => {
                        self.set_file(*slot, name, *max_size_bytes, *keep);
                    }
                    Some(LogItem::Close { slot }) => self.forget(*slot),
                    Some(LogItem::Ends { client, slots }) => self.tell_ends(*client, slots),
                    Some(LogItem::Quit) => leave = true,
                    None => {}
                }
            }
        }
        for item in items.drain(..) {
            if let LogItem::Bytes { bytes, .. } = item
                && bytes.capacity() >= READ_BYTES
            {
                self.queue.give_back(bytes);
            }
        }
        leave
    }

    fn set_file(&mut self, slot: u32, name: &str, max_size_bytes: u64, keep: u32) {
        let path = self.log_dir.join(name);
        let file = self.files.entry(slot).or_insert_with(|| LogFile::new(path, Form::Text, max_size_bytes, keep));
        file.set_limits(max_size_bytes, keep);
    }

    fn write(&mut self, slot: u32, chunks: &[&[u8]]) {
        let Some(file) = self.files.get_mut(&slot) else { return };
        let was_open = file.is_open();
        let had_gap = file.has_gap();
        self.clock += 1;
        file.last_used = self.clock;
        let loss = file.append(chunks, rfc3339::now_unix_ms());
        self.open = self.open + usize::from(file.is_open()) - usize::from(was_open);
        match loss {
            Some(loss) => self.suffer(slot, &loss),
            None if had_gap => self.recover(),
            None => {}
        }
        if self.open > self.open_max {
            self.close_longest_unused();
        }
    }

    fn suffer(&mut self, slot: u32, loss: &Loss) {
        let reason = loss.reason();
        if self.trouble.as_ref() != Some(&reason) {
            let directory = self.log_dir.display();
            let text = format!(
                "log directory {directory}: {}; lines are dropped and counted until that is mended",
                loss.error
            );
            self.reports.push(Report::Trouble(text));
            self.trouble = Some(reason.clone());
        }
        self.reports.push(Report::Lost { slot, lines: loss.lines, reason });
    }

    fn recover(&mut self) {
        if self.trouble.take().is_some() {
            self.reports
                .push(Report::Trouble(format!("log directory {} can be written again", self.log_dir.display())));
        }
    }

    fn tell_ends(&self, client: u32, slots: &[u32]) {
        let end = |slot: &u32| {
            let (inode, size) = self.files.get(slot)?.end();
            Some(FileEnd { slot: *slot, inode, size })
        };
        self.reports.push(Report::Ends { client, ends: slots.iter().filter_map(end).collect() });
    }

    fn forget(&mut self, slot: u32) {
        if self.files.remove(&slot).is_some_and(|file| file.is_open()) {
            self.open -= 1;
        }
    }

    /// A quarter at once, so that the search is rare.
    fn close_longest_unused(&mut self) {
        let mut open: Vec<(u64, u32)> =
            self.files.iter().filter(|(_, file)| file.is_open()).map(|(slot, file)| (file.last_used, *slot)).collect();
        open.sort_unstable();
        for (_, slot) in open.iter().take(self.open_max / 4) {
            if let Some(file) = self.files.get_mut(slot) {
                file.close();
                self.open -= 1;
            }
        }
    }
}

fn slot_of(item: &LogItem) -> Option<u32> {
    match item {
        LogItem::Bytes { slot, .. } => Some(*slot),
        LogItem::File { .. } | LogItem::Close { .. } | LogItem::Ends { .. } | LogItem::Quit => None,
    }
}

fn bytes_of(item: &LogItem) -> Option<&[u8]> {
    match item {
        LogItem::Bytes { bytes, .. } => Some(bytes),
        LogItem::File { .. } | LogItem::Close { .. } | LogItem::Ends { .. } | LogItem::Quit => None,
    }
}
