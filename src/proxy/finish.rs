//! How a connection goes on after its bytes were moved, and how it ends: by the end of both directions, by a reset, or with another
//! backend because this one died before it answered.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::counters::{Refusal, add};
use super::relay::{Broken, Expect};
use super::session::{Direction, Mode, Phase, Session, Side, Tried, Way};
use super::shared::{Finished, Notice, lock};
use super::slab::Handle;
use super::worker::Worker;
use crate::sys::stream;
use crate::sys::wake::Wake;

/// A connection that lasted so long may wait for its next backend as if it were new.
const FRESH_PATIENCE: Duration = Duration::from_secs(1);

/// A request that one backend after the other died of may be what kills them. Two, since a second one may die of a rolling restart.
const REPLAYS_MAX: u8 = 2;

/// How the sockets are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// What was sent is delivered, and then the end.
    End,
    /// A reset, so that neither side takes what it has for the whole.
    Reset,
}

impl Worker {
    /// After bytes were moved: credit for an answer, the ends of directions, what to wait for.
    pub(super) fn settle(&mut self, handle: Handle) {
        let Some(session) = self.sessions.get(handle) else { return };
        if session.phase != Phase::Open {
            return;
        }
        if session.answered && !session.judged {
            self.credit(handle);
        }
        let Some(session) = self.sessions.get(handle) else { return };
        if session.down.ended && !session.answered && !session.judged && !session.up.ended && session.up.bytes > 0 {
            // Counted, and no sign of a broken replica: a client can make any server end a connection like that.
            session.judged = true;
            if let Some(state) = &session.backend {
                state.broke_off();
            }
            let Some(session) = self.sessions.get(handle) else { return };
            if session.may_replay() {
                return self.replace_backend(handle);
            }
        }
        if self.was_never_served(handle) {
            return self.replace_backend(handle);
        }
        let Some(session) = self.sessions.get(handle) else { return };
        if session.up.is_over() && session.down.is_over() {
            return self.close(handle, Manner::End, "closed");
        }
        if let Err(broken) = session.pass_on_ends() {
            return self.broken(handle, &broken);
        }
        let half_closed = session.is_half_closed();
        let newly_half = half_closed && !session.half_closed_timed;
        session.half_closed_timed = half_closed;
        if newly_half {
            self.set_due(handle);
        }
        self.watch_or_reset(handle);
    }

    /// A replica that ends a connection at its very beginning, before anything was said either way, has mostly been killed: where
    /// unanswered requests are replayed another one takes it. Once, since a program may also mean it.
    fn was_never_served(&mut self, handle: Handle) -> bool {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return false };
        let silent = session.down.ended && !session.answered && !session.up.ended && session.up.bytes == 0;
        silent
            && now.since(session.connected) < FRESH_PATIENCE
            && session.run > 0
            && session
                .extra
                .as_ref()
                .is_some_and(|extra| extra.kept.is_some() && extra.tried.is_empty() && extra.replays == 0)
    }

    /// The first byte of an answer.
    fn credit(&mut self, handle: Handle) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        session.judged = true;
        let Some(state) = &session.backend else { return };
        let first_byte = now.since(session.connected);
        state.first_byte_us.record_ns(u64::try_from(first_byte.as_nanos()).unwrap_or(u64::MAX));
        let run = session.run;
        let restored = state.praise_run(run);
        let number = session.balancer;
        let Some(Some(local)) = self.balancers.get(number as usize) else { return };
        if restored {
            self.shared.notify(Notice::Restored {
                balancer: local.balancer.name().to_owned(),
                backend: state.name().to_owned(),
                run,
            });
        }
        let remembered =
            |extra: &super::session::Extra| local.live.table.rules.access_log || extra.counted_source.is_some();
        if let Some(extra) = &mut session.extra {
            extra.kept = None;
            extra.first_byte = Some(first_byte);
        }
        session.extra.take_if(|extra| !remembered(extra));
    }

    /// It reset the connection before it answered. Held against one backend alone: what resets a second one may be the client.
    fn debit(&mut self, handle: Handle, why: &str) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        session.judged = true;
        let number = session.balancer;
        let Some(state) = session.backend.clone() else { return };
        state.broke_off();
        let run = session.run;
        let replayed = session.extra.as_ref().is_some_and(|extra| extra.replays > 0);
        let source = session.identity();
        let Some(local) = self.local(number) else { return };
        let others = local.live.backends.iter().filter(|other| !Arc::ptr_eq(other, &state));
        let elsewhere = |source| others.clone().any(|other| other.was_reset_by_lately(source, now));
        if replayed || source.is_some_and(elsewhere) {
            return;
        }
        if let Some(source) = source {
            state.was_reset_by(source, now);
        }
        self.blame(number, &state, run, || why.to_owned());
    }

    /// One of its sockets has failed.
    pub(super) fn broken(&mut self, handle: Handle, broken: &Broken) {
        let Some(session) = self.sessions.get(handle) else { return };
        match broken.side {
            Side::Client => self.reset(handle, "client reset"),
            Side::Server => {
                // What it said before it broke may still be there, and an end behind that is none.
                let read = session.pump(Way::Down, &mut self.tools, Expect::End);
                if session.answered {
                    // A server may answer early, not want the rest and close. Only after an end that was received is a write a broken pipe.
                    if broken.error.kind() == ErrorKind::BrokenPipe && read.is_ok() && !session.up.shut {
                        session.abandon_up(&mut self.tools);
                        return self.settle(handle);
                    }
                    return self.reset(handle, "backend reset");
                }
                let unserved = session.up.bytes > 0 || !session.up.ended;
                if !session.judged && unserved {
                    self.debit(handle, &format!("reset before it answered: {}", broken.error));
                }
                let Some(session) = self.sessions.get(handle) else { return };
                if unserved && (session.may_replay() || !session.delivered) {
                    self.replace_backend(handle);
                } else {
                    self.reset(handle, "backend reset");
                }
            }
        }
    }

    /// Gives what the client has sent so far to another backend.
    fn replace_backend(&mut self, handle: Handle) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        let Some(state) = session.backend.take() else { return };
        let number = session.balancer;
        session.count_bytes_with(&state);
        let (delivered, ended) = (session.delivered, session.down.ended);
        let lasted = now.since(session.connected);
        let run = session.run;
        let extra = session.extra();
        if lasted >= FRESH_PATIENCE && !delivered {
            extra.patience = None;
        }
        extra.replays += u8::from(delivered || ended);
        extra.tried.push(Tried { id: state.id, run, delivered });
        extra.try_again |= run > 0;
        let kept = extra.kept.clone();
        session.start_over(kept.as_deref(), &mut self.tools);
        self.leave_backend(number, &state);
        if delivered && let Some(Some(local)) = self.balancers.get(number as usize) {
            add(&local.balancer.counters().replayed, 1);
        }
        let key = self.key_again(handle);
        self.place(handle, key);
        // Where it went on at once the epoll is right already; where it waits for the connect, the client must not be heard.
        if self.sessions.get(handle).is_some_and(|session| session.phase == Phase::Connecting) {
            self.watch_or_reset(handle);
        }
    }

    /// Nothing has happened here for as long as the rules allow. A slow reader may still be taking what the kernel has for it, which is no
    /// silence; and one that has been told the end gets all of what is before it.
    pub(super) fn too_quiet(&mut self, handle: Handle) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        if session.kernel_moves() {
            session.since = now;
            return self.set_due(handle);
        }
        let told_all = session.down.is_over() && session.down.shut;
        let half = session.up.ended || session.down.ended || session.up.is_pending() || session.down.is_pending();
        let Some(Some(local)) = self.balancers.get(session.balancer as usize) else { return };
        add(&local.balancer.counters().idle_closed, 1);
        let manner = if half && !told_all { Manner::Reset } else { Manner::End };
        self.close(handle, manner, "idle");
    }

    /// Without ever having had a backend.
    pub(super) fn refuse(&mut self, handle: Handle, why: Refusal) {
        let Some(session) = self.sessions.get(handle) else { return };
        if let Some(Some(local)) = self.balancers.get(session.balancer as usize) {
            local.balancer.counters().refused(why);
        }
        self.reset(handle, why.name());
    }

    pub(super) fn reset(&mut self, handle: Handle, how: &'static str) {
        self.close(handle, Manner::Reset, how);
    }

    fn close(&mut self, handle: Handle, manner: Manner, how: &'static str) {
        let Some(mut session) = self.sessions.remove(handle) else { return };
        self.wheel.clear(handle.index);
        session.forget_pending(&mut self.tools);
        let number = session.balancer;
        if let Some(state) = session.backend.take() {
            session.count_bytes_with(&state);
            self.account(&mut session, Some(state.name()), how);
            self.leave_backend(number, &state);
        } else {
            self.account(&mut session, None, how);
        }
        if let Some(Some(local)) = self.balancers.get(number as usize) {
            let counters = local.balancer.counters();
            counters.active.fetch_sub(1, Ordering::SeqCst);
            if session.phase == Phase::Queued {
                counters.queued.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.shared.sessions.fetch_sub(1, Ordering::SeqCst);
        self.mailbox().load.fetch_sub(1, Ordering::Relaxed);
        match manner {
            Manner::End => drop(session),
            Manner::Reset => {
                stream::reset(session.client);
                if let Some(server) = session.server {
                    stream::reset(server);
                }
            }
        }
        if self.reserve.is_none() {
            self.reserve = Wake::new().ok();
        }
        self.room_again();
    }

    fn account(&mut self, session: &mut Session, backend: Option<&str>, how: &'static str) {
        let Some(extra) = &mut session.extra else { return };
        let Some(Some(local)) = self.balancers.get(session.balancer as usize) else { return };
        if let Some(counted) = extra.counted_source.take() {
            let mut sources = lock(&local.balancer.counters().sources);
            if let Some(count) = sources.get_mut(&counted) {
                *count -= 1;
                if *count == 0 {
                    sources.remove(&counted);
                }
            }
        }
        if local.live.table.rules.access_log {
            let lasted: Duration = self.tools.now.since(session.accepted);
            let source: Option<SocketAddr> = extra.source;
            self.shared.finished(Finished {
                balancer: local.balancer.name().to_owned(),
                source,
                backend: backend.map(str::to_owned),
                connect: (session.phase == Phase::Open).then(|| session.connected.since(session.accepted)),
                first_byte: extra.first_byte,
                bytes_in: session.up.bytes,
                bytes_out: session.down.bytes,
                lasted,
                attempts: extra.attempts,
                how,
            });
        }
    }

    /// Long connections show in the counters while they last.
    pub(super) fn note_progress(&mut self, handle: Handle) {
        let Some(session) = self.sessions.get(handle) else { return };
        if let Some(state) = session.backend.take() {
            session.count_bytes_with(&state);
            session.backend = Some(state);
        }
    }
}

impl Session {
    /// The server does not take any more. What the client still sends is read and dropped: closing with it unread would be a reset, and the
    /// answer could be lost by that.
    fn abandon_up(&mut self, tools: &mut super::pipes::Tools) {
        self.up.forget_pending(tools);
        self.up.mode = Mode::CopyForGood;
        self.up.discarded = true;
        self.up.shut = true;
    }

    fn may_replay(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.kept.is_some() && extra.replays < REPLAYS_MAX)
    }

    /// Whether a peer has taken anything from the kernel since this was asked last; the first time, whether there is something to take.
    fn kernel_moves(&mut self) -> bool {
        let unsent = |side| self.socket(side).and_then(|socket| stream::unsent(socket).ok()).unwrap_or_default();
        let unsent = [unsent(Side::Client), unsent(Side::Server)];
        let before = self.extra().unsent.replace(unsent);
        unsent != [0, 0] && before != Some(unsent)
    }

    /// Tells each side that the other has ended, once everything before that is written.
    fn pass_on_ends(&mut self) -> Result<(), Broken> {
        for way in [Way::Up, Way::Down] {
            let direction = self.way(way);
            if !direction.is_over() || direction.shut {
                continue;
            }
            direction.shut = true;
            let side = way.destination();
            if let Some(socket) = self.socket(side) {
                stream::shut_write(socket).map_err(|error| Broken { side, error })?;
            }
        }
        Ok(())
    }

    fn count_bytes_with(&mut self, state: &super::backend::BackendState) {
        for (direction, counter) in [(&mut self.up, &state.bytes_in), (&mut self.down, &state.bytes_out)] {
            let fresh = direction.bytes - direction.counted;
            if fresh > 0 {
                direction.counted = direction.bytes;
                add(counter, fresh);
            }
            let spliced = std::mem::take(&mut direction.spliced);
            if spliced > 0 {
                add(&state.spliced_bytes, spliced);
            }
        }
    }

    /// Back to where it had no server, with `kept` (or what was never delivered) to be sent.
    fn start_over(&mut self, kept: Option<&[u8]>, tools: &mut super::pipes::Tools) {
        self.server = None;
        self.server_interest = None;
        self.down.forget_pending(tools);
        self.down = Direction::default();
        if let Some(kept) = kept {
            self.up.forget_pending(tools);
            self.up.append(kept, tools);
        }
        self.up.shut = false;
        self.half_closed_timed = false;
        self.delivered = false;
        self.judged = false;
        self.phase = Phase::Connecting;
    }
}
