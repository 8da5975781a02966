//! Bytes from one socket of a connection to the other.
//!
//! A direction is read only while nothing of it is pending, so the order of bytes cannot be mixed up, whichever way they take: copied
//! through the worker's buffer, what did not fit kept as a tail; or spliced through a pipe, what did not fit kept there. A pipe is
//! never filled while it holds bytes: then "would block" can only mean that the socket is empty, and the end of the source is only
//! ever seen with the pipe empty. A change of mode happens between two reads, with nothing pending.

use std::io;

use super::pipes::{READ_BYTES_TIGHT, Tools};
use super::session::{Direction, Mode, ServerKind, Session, Side, Tail, Way};
use crate::sys::splice::{Pipe, Spliced};
use crate::sys::stream;

/// Reads of one direction before the others have their turn.
const ROUNDS_MAX: u32 = 8;
/// Bytes of one direction before the others have their turn.
const TURN_BYTES_MAX: u64 = 1 << 20;
/// So many reads of at least so much in a row are bulk: worth a pipe.
const BULK_STREAK: u8 = 4;
const BULK_READ: usize = 32 << 10;
/// So many splices of less than so much in a row are not.
const TRICKLE_STREAK: u8 = 8;
const TRICKLE: usize = 8 << 10;
/// Moved into a pipe at once, if it is large enough.
const SPLICE_BYTES: usize = 1 << 20;

/// One of the two sockets has failed.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// There may be more at once.
    More,
    /// The source is empty, or the destination full.
    Enough,
    Ended,
}

/// Whether the source is known to have closed behind what can be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    More,
    End,
}

impl Session {
    /// Moves what can be moved. The end of the source is noted, and not told to the destination.
    pub(super) fn pump(&mut self, way: Way, tools: &mut Tools, expect: Expect) -> Result<(), Broken> {
        if self.server.is_none() || !self.flush(way, tools)? {
            return Ok(());
        }
        let begun = self.way(way).bytes;
        for _ in 0..ROUNDS_MAX {
            if self.way(way).ended || self.way(way).bytes - begun >= TURN_BYTES_MAX {
                return Ok(());
            }
            let moved = match self.way(way).mode {
                Mode::Copy | Mode::CopyForGood => self.copy(way, tools, expect)?,
                Mode::Splice => self.splice(way, tools)?,
            };
            match moved {
                Moved::More => {}
                Moved::Enough => return Ok(()),
                Moved::Ended => self.way(way).ended = true,
            }
        }
        Ok(())
    }

    /// One read into the worker's buffer, written at once.
    pub(super) fn copy(&mut self, way: Way, tools: &mut Tools, expect: Expect) -> Result<Moved, Broken> {
        if tools.is_full() {
            return self.copy_what_fits(way, tools);
        }
        let room = tools.read_bytes();
        let Some(from) = self.socket(way.source()) else { return Ok(Moved::Enough) };
        let count = match stream::receive(from, &mut tools.scratch[..room]) {
            Ok(None) => return Ok(Moved::Enough),
            Ok(Some(0)) => return Ok(Moved::Ended),
            Ok(Some(count)) => count,
            Err(error) => return Err(Broken { side: way.source(), error }),
        };
        self.note_read(way, count);
        if way == Way::Up {
            self.keep(&tools.scratch[..count]);
        }
        let written = self.write(way, &tools.scratch[..count]);
        let rest = *written.as_ref().unwrap_or(&0);
        if rest < count {
            let tail = tools.scratch[rest..count].to_vec();
            tools.tail_bytes += tail.len();
            self.way(way).tail = Some(Box::new(Tail { bytes: tail, written: 0 }));
        }
        written.map_err(|error| Broken { side: way.destination(), error })?;
        self.consider_splicing(way, count);
        let drained = count < room && expect == Expect::More;
        Ok(if rest < count || drained { Moved::Enough } else { Moved::More })
    }

    /// Takes from the source only what the destination has taken: the rest stays in the kernel, where it holds back the sender. An empty
    /// tail makes the direction wait until the destination is writable.
    fn copy_what_fits(&mut self, way: Way, tools: &mut Tools) -> Result<Moved, Broken> {
        let Some(from) = self.socket(way.source()) else { return Ok(Moved::Enough) };
        let count = match stream::peek(from, &mut tools.scratch[..READ_BYTES_TIGHT]) {
            Ok(None) => return Ok(Moved::Enough),
            Ok(Some(0)) => return Ok(Moved::Ended),
            Ok(Some(count)) => count,
            Err(error) => return Err(Broken { side: way.source(), error }),
        };
        let written = self.write(way, &tools.scratch[..count]);
        let written = written.map_err(|error| Broken { side: way.destination(), error })?;
        let mut taken = 0;
        while taken < written {
            let Some(from) = self.socket(way.source()) else { break };
            match stream::receive(from, &mut tools.scratch[taken..written]) {
                Ok(Some(more @ 1..)) => taken += more,
                // They were there a moment ago, and nobody else reads.
                Ok(_) => return Err(Broken { side: way.source(), error: io::ErrorKind::UnexpectedEof.into() }),
                Err(error) => return Err(Broken { side: way.source(), error }),
            }
        }
        if written > 0 {
            self.note_read(way, written);
            if way == Way::Up {
                self.keep(&tools.scratch[..written]);
            }
        }
        if written == count {
            return Ok(Moved::More);
        }
        self.way(way).tail = Some(Box::default());
        Ok(Moved::Enough)
    }

    fn note_read(&mut self, way: Way, count: usize) {
        self.way(way).bytes += count as u64;
        if way == Way::Down {
            self.answered = true;
        }
    }

    /// For another backend, should this one die before it answers.
    fn keep(&mut self, bytes: &[u8]) {
        let Some(extra) = &mut self.extra else { return };
        let Some(kept) = &mut extra.kept else { return };
        if kept.len() + bytes.len() <= extra.kept_max {
            kept.extend_from_slice(bytes);
        } else {
            extra.kept = None;
        }
    }

    fn consider_splicing(&mut self, way: Way, count: usize) {
        let keeps = way == Way::Up && self.extra.as_ref().is_some_and(|extra| extra.kept.is_some());
        let direction = self.way(way);
        direction.streak = if count >= BULK_READ { direction.streak.saturating_add(1) } else { 0 };
        if direction.streak >= BULK_STREAK && direction.mode == Mode::Copy && !keeps {
            direction.mode = Mode::Splice;
            direction.streak = 0;
        }
    }

    /// How much of it the destination took.
    fn write(&mut self, way: Way, bytes: &[u8]) -> io::Result<usize> {
        if self.way(way).discarded {
            return Ok(bytes.len());
        }
        let Some(to) = self.socket(way.destination()) else { return Ok(0) };
        if way == Way::Up && self.server_kind == ServerKind::WrittenTcp {
            // Without it small writes are late, not wrong.
            let _ = stream::no_delay(to);
        }
        let written = stream::send(to, bytes)?.unwrap_or(0);
        if written > 0 {
            self.note_write(way);
        }
        Ok(written)
    }

    fn note_write(&mut self, way: Way) {
        if way == Way::Up {
            self.delivered = true;
            self.server_kind = self.server_kind.written();
        }
    }

    /// Writes what is pending; `true` when nothing is any more.
    pub(super) fn flush(&mut self, way: Way, tools: &mut Tools) -> Result<bool, Broken> {
        let broken = |error| Broken { side: way.destination(), error };
        if let Some(mut tail) = self.way(way).tail.take().filter(|tail| !tail.bytes.is_empty()) {
            let written = self.write(way, &tail.bytes[tail.written..]);
            tail.written += *written.as_ref().unwrap_or(&0);
            if tail.written < tail.bytes.len() {
                self.way(way).tail = Some(tail);
            } else {
                tools.tail_bytes -= tail.bytes.len();
            }
            written.map_err(broken)?;
        }
        if let Some(pipe) = self.way(way).pipe.take() {
            self.drain(way, pipe, tools)?;
        }
        Ok(!self.way(way).is_pending())
    }

    fn splice(&mut self, way: Way, tools: &mut Tools) -> Result<Moved, Broken> {
        let Some(pipe) = tools.take_pipe() else { return self.copy(way, tools, Expect::More) };
        let filled = match self.socket(way.source()) {
            Some(from) => pipe.fill(from, SPLICE_BYTES),
            None => Ok(Spliced::WouldBlock),
        };
        let count = match filled {
            Ok(Spliced::Bytes(count @ 1..)) => count,
            other => {
                tools.give_back_empty(pipe);
                return self.not_spliced(way, other);
            }
        };
        self.note_read(way, count);
        let direction = self.way(way);
        direction.spliced += count as u64;
        direction.in_pipe = u32::try_from(count).unwrap_or(u32::MAX);
        direction.streak = if count < TRICKLE { direction.streak + 1 } else { 0 };
        if direction.streak >= TRICKLE_STREAK {
            direction.mode = Mode::Copy;
            direction.streak = 0;
        }
        self.drain(way, pipe, tools)?;
        Ok(if self.way(way).is_pending() { Moved::Enough } else { Moved::More })
    }

    /// Nothing came into the pipe.
    fn not_spliced(&mut self, way: Way, filled: io::Result<Spliced>) -> Result<Moved, Broken> {
        let direction = self.way(way);
        match filled {
            // The source is empty; or what it holds cannot be spliced (urgent data): a copy finds out, and costs one call.
            Ok(Spliced::WouldBlock) if direction.spliced_nothing => {
                direction.mode = Mode::Copy;
                direction.streak = 0;
                Ok(Moved::More)
            }
            Ok(Spliced::WouldBlock) => {
                direction.spliced_nothing = true;
                Ok(Moved::Enough)
            }
            Ok(Spliced::Unsupported) => {
                direction.mode = Mode::CopyForGood;
                Ok(Moved::More)
            }
            // The end; or an end behind urgent data, which splice stops at as if it were one: a copy tells.
            Ok(Spliced::Bytes(_)) => {
                direction.mode = Mode::Copy;
                direction.streak = 0;
                Ok(Moved::More)
            }
            Err(error) => Err(Broken { side: way.source(), error }),
        }
    }

    /// Moves on what the pipe holds; it goes back to the others once it is empty, and stays with the connection else.
    fn drain(&mut self, way: Way, pipe: Pipe, tools: &mut Tools) -> Result<(), Broken> {
        self.way(way).spliced_nothing = false;
        let mut left = self.way(way).in_pipe as usize;
        let outcome = loop {
            let Some(to) = self.socket(way.destination()) else { break Ok(()) };
            match pipe.drain(to, left) {
                Ok(Spliced::Bytes(count @ 1..)) => left -= count.min(left),
                Ok(Spliced::Bytes(_) | Spliced::WouldBlock) => break Ok(()),
                Ok(Spliced::Unsupported) => break Err(io::ErrorKind::Unsupported.into()),
                Err(error) => break Err(error),
            }
            self.note_write(way);
            if left == 0 {
                break Ok(());
            }
        };
        let direction = self.way(way);
        direction.in_pipe = u32::try_from(left).unwrap_or(u32::MAX);
        if left == 0 {
            tools.give_back_empty(pipe);
        } else {
            direction.pipe = Some(pipe);
        }
        outcome.map_err(|error| Broken { side: way.destination(), error })
    }

    /// Gives back what the directions hold; nothing of it will be written any more.
    pub(super) fn forget_pending(&mut self, tools: &mut Tools) {
        for direction in [&mut self.up, &mut self.down] {
            direction.forget_pending(tools);
        }
    }
}

impl Direction {
    pub(super) fn forget_pending(&mut self, tools: &mut Tools) {
        if let Some(tail) = self.tail.take() {
            tools.tail_bytes -= tail.bytes.len();
        }
        if let Some(pipe) = self.pipe.take() {
            tools.close_pipe(pipe);
        }
    }

    /// Puts bytes at the end of what is pending.
    pub(super) fn append(&mut self, bytes: &[u8], tools: &mut Tools) {
        if bytes.is_empty() {
            return;
        }
        tools.tail_bytes += bytes.len();
        match &mut self.tail {
            Some(tail) => tail.bytes.extend_from_slice(bytes),
            None => self.tail = Some(Box::new(Tail { bytes: bytes.to_vec(), written: 0 })),
        }
    }
}

impl ServerKind {
    fn written(self) -> Self {
        match self {
            Self::Unix => Self::Unix,
            Self::FreshTcp => Self::WrittenTcp,
            // The option was set before the second write.
            Self::WrittenTcp | Self::NoDelayTcp => Self::NoDelayTcp,
        }
    }
}
