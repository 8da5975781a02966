//! The output of one replica as the reader sees it: its pipe, its run, what is looked for in it, and who follows it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use super::clients::Clients;
use super::connections::Connections;
use super::guard::Guard;
use super::history::{is_wanted, row};
use super::log_writer::LogItem;
use super::proto::{FromLogs, Settings, Stream};
use super::queue::Queue;
use super::rotate;
use super::tail::{Tail, each_line};

/// One read. A pipe holds 1 MiB.
pub(super) const READ_BYTES: usize = 64 << 10;
/// Tails of all streams together; the longest silent ones are forgotten first.
const TAILS_BYTES_MAX: usize = 4 << 20;

/// One moment on the clocks we need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    /// Monotonic, since the role began.
    pub(super) mono_ms: u64,
    pub(super) unix_ms: u64,
}

/// Where bytes and news of streams go.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) queue: std::sync::Arc<Queue<LogItem>>,
    pub(super) clients: Clients,
    pub(super) agents: Connections,
    /// Lines dropped since the last report, by stream and reason.
    pub(super) losses: BTreeMap<(u32, String), u64>,
    /// Bytes queued for the log disk, as of the last push.
    pub(super) queued_bytes: usize,
    /// The log disk was too slow and lines were dropped for it.
    pub(super) dropped_for_disk: bool,
}

impl Outlet {
    /// Never waits; at the limit the oldest queued lines are dropped and counted.
    pub(super) fn write(&mut self, slot: u32, bytes: Vec<u8>) {
        let pushed = self.queue.push(LogItem::Bytes { slot, bytes });
        self.queued_bytes = pushed.weight;
        for (slot, lines) in pushed.lost {
            self.dropped_for_disk = true;
            *self.losses.entry((slot, "slow disk".to_owned())).or_default() += lines;
        }
    }
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) stream: Rc<Stream>,
    pub(super) slot: u32,
    pub(super) pipe: Option<OwnedFd>,
    settings: Option<Settings>,
    guard: Option<Box<Guard>>,
    /// `None` until the first order about a run since this process watches the stream.
    run: Option<u32>,
    matched: bool,
    /// The run is over. What comes now is of the next one: its process may speak before the order about it is heard.
    ended: bool,
    /// Something came since the end.
    early: bool,
    ready_text: Option<Box<[u8]>>,
    tail: Tail,
    /// 0: nothing yet.
    last_input_unix_ms: u64,
    followed: bool,
}

impl StreamState {
    fn new(stream: Rc<Stream>, slot: u32) -> Self {
        Self {
            stream,
            slot,
            pipe: None,
            settings: None,
            guard: None,
            run: None,
            matched: false,
            ended: false,
            early: false,
            ready_text: None,
            tail: Tail::default(),
            last_input_unix_ms: 0,
            followed: false,
        }
    }

    /// Takes over new settings; the writer hears of them only when they changed.
    pub(super) fn set(&mut self, settings: Settings, now: Moment, out: &Outlet) {
        if self.settings == Some(settings) {
            return;
        }
        self.settings = Some(settings);
        let Settings { max_size_bytes, keep, lines_per_second } = settings;
        self.guard = lines_per_second.map(|rate| Box::new(Guard::new(rate, now.mono_ms)));
        let name = rotate::stream_file_name(&self.stream.service, self.stream.index);
        // The order counts rotated files; a family of files has the one being written as well.
        let keep = keep.saturating_add(1);
        out.queue.push(LogItem::File { slot: self.slot, name, max_size_bytes, keep });
    }

    /// Takes bytes as they came from the pipe.
    pub(super) fn feed(&mut self, bytes: Vec<u8>, now: Moment, out: &mut Outlet) {
        if self.ended && !self.early {
            self.early = true;
            self.tail.forget();
        }
        self.look_for_ready_text(&bytes, out);
        let bytes = match &mut self.guard {
            Some(guard) => guard.filter(bytes, now.mono_ms),
            None => bytes,
        };
        if !bytes.is_empty() {
            self.pass(bytes, now, out);
        }
    }

    /// The run is over: its last line gets an end even when it had none.
    pub(super) fn end_line(&mut self, now: Moment, out: &mut Outlet) {
        if let Some(guard) = &mut self.guard {
            guard.end_line();
        }
        if !self.tail.open_line().is_empty() {
            self.pass(b"\n".to_vec(), now, out);
        }
    }

    /// When to call [`StreamState::report_guard`].
    pub(super) fn guard_report_ms(&self) -> Option<u64> {
        self.guard.as_ref()?.report_at_ms()
    }

    /// Says in the stream, once a second, how many lines its rate guard dropped.
    pub(super) fn report_guard(&mut self, now: Moment, out: &mut Outlet) {
        let Some(guard) = &mut self.guard else { return };
        let Some(lines) = guard.report(now.mono_ms) else { return };
        let rate = guard.lines_per_second();
        let newline = if self.tail.open_line().is_empty() { "" } else { "\n" };
        let text = format!("{newline}mainstay: {lines} lines dropped (rate guard: more than {rate} lines a second)\n");
        self.pass(text.into_bytes(), now, out);
        *out.losses.entry((self.slot, "rate guard".to_owned())).or_default() += lines;
    }

    pub(super) fn begin_run(&mut self, run: u32, ready_text: Option<String>, out: &mut Outlet) {
        let ready_text = ready_text.filter(|text| !text.is_empty()).map(|text| text.into_bytes().into_boxed_slice());
        if self.run == Some(run) {
            // Repeated by an agent that may not have heard of the match.
            if self.matched && ready_text.is_some() {
                out.agents.send(FromLogs::Matched { stream: (*self.stream).clone(), run });
            } else if self.ready_text.is_none() {
                self.ready_text = ready_text;
            }
            return;
        }
        // Without an order about an earlier run this process took over in the midst of this one.
        let said_by_this_run = self.run.is_none() || self.early;
        (self.run, self.matched, self.ready_text) = (Some(run), false, ready_text);
        (self.ended, self.early) = (false, false);
        if said_by_this_run {
            let said = std::mem::take(&mut self.tail);
            self.look_for_ready_text(said.bytes(), out);
            self.tail = said;
        } else {
            self.tail.forget();
        }
    }

    /// Whether what is pending in the pipe may still be of `run`.
    pub(super) fn may_be_of(&self, run: u32) -> bool {
        !self.ended && self.run.is_none_or(|current| current == run)
    }

    /// Whether what is pending in the pipe is of an earlier run than `run`.
    pub(super) fn is_before(&self, run: u32) -> bool {
        !self.ended && self.run.is_some_and(|current| current != run)
    }

    /// Its pipe was emptied.
    pub(super) fn end_run(&mut self, run: u32, now: Moment, out: &mut Outlet) {
        self.end_line(now, out);
        (self.run, self.ended, self.early, self.ready_text) = (Some(run), true, false, None);
    }

    /// The last lines of a run that is over; none when the next one has begun to speak.
    pub(super) fn last_words(&self, run: u32) -> Vec<String> {
        if self.run == Some(run) && !self.early { self.tail.last_lines() } else { Vec::new() }
    }

    pub(super) fn note_followers(&mut self, clients: &Clients) {
        self.followed = clients.filters().any(|filter| is_wanted(std::slice::from_ref(filter), &self.stream));
    }

    /// What memory holds of this stream, for when its files cannot be read.
    pub(super) fn remembered_rows(&self) -> Vec<Vec<u8>> {
        let at = self.last_input_unix_ms;
        self.tail.last_lines().iter().map(|line| row(at, &self.stream, line.as_bytes())).collect()
    }

    fn look_for_ready_text(&mut self, bytes: &[u8], out: &mut Outlet) {
        let (Some(text), Some(run)) = (&self.ready_text, self.run) else { return };
        // A text that was cut in two by the reads.
        let open = self.tail.open_line();
        let around = text.len() - 1;
        let seam = [open.get(open.len().saturating_sub(around)..), bytes.get(..around.min(bytes.len()))];
        let seam = seam.map(Option::unwrap_or_default).concat();
        if contains(&seam, text) || contains(bytes, text) {
            (self.matched, self.ready_text) = (true, None);
            out.agents.send(FromLogs::Matched { stream: (*self.stream).clone(), run });
        }
    }

    fn pass(&mut self, bytes: Vec<u8>, now: Moment, out: &mut Outlet) {
        if self.followed {
            each_line(self.tail.open_line(), &bytes, |line| out.clients.line(&self.stream, now.unix_ms, line));
        }
        self.tail.push(&bytes);
        self.last_input_unix_ms = now.unix_ms;
        out.write(self.slot, bytes);
    }
}

/// `text` is not empty.
fn contains(bytes: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(text) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// All streams, by slot (the epoll key, never used twice) and by name.
#[derive(Debug, Default)]
pub(super) struct Streams {
    table: BTreeMap<u32, Box<StreamState>>,
    slots: BTreeMap<Rc<Stream>, u32>,
    last_slot: u32,
}

impl Streams {
    pub(super) fn slot(&self, stream: &Stream) -> Option<u32> {
        self.slots.get(stream).copied()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&StreamState> {
        self.table.get(&slot).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut StreamState> {
        self.table.get_mut(&slot).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &StreamState> {
        self.table.values().map(Box::as_ref)
    }

    /// The slot of this stream, which is new if need be.
    pub(super) fn watch(&mut self, stream: Stream) -> u32 {
        if let Some(slot) = self.slot(&stream) {
            return slot;
        }
        self.last_slot += 1;
        let stream = Rc::new(stream);
        self.slots.insert(Rc::clone(&stream), self.last_slot);
        self.table.insert(self.last_slot, Box::new(StreamState::new(stream, self.last_slot)));
        self.last_slot
    }

    pub(super) fn remove(&mut self, slot: u32) {
        if let Some(state) = self.table.remove(&slot) {
            self.slots.remove(&state.stream);
        }
    }

    /// Somebody began or ceased to follow.
    pub(super) fn note_followers(&mut self, clients: &Clients) {
        for state in self.table.values_mut() {
            state.note_followers(clients);
        }
    }

    /// Frees tails once all together are too much, down to three quarters.
    pub(super) fn limit_tails(&mut self) {
        let mut memory: usize = self.iter().map(|state| state.tail.memory_bytes()).sum();
        if memory <= TAILS_BYTES_MAX {
            return;
        }
        let mut ages: Vec<(u64, u32)> = self.iter().map(|state| (state.last_input_unix_ms, state.slot)).collect();
        ages.sort_unstable();
        for (_, slot) in ages {
            if memory <= TAILS_BYTES_MAX / 4 * 3 {
                return;
            }
            if let Some(state) = self.get_mut(slot) {
                memory -= state.tail.memory_bytes();
                state.tail.forget();
                memory += state.tail.memory_bytes();
            }
        }
    }
}
