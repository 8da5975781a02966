//! Clients that wait for a backend. Nothing is read from them; they are looked at again, in order, when another table comes or a
//! backend has room.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::connect::Nobody;
use super::counters::{Refusal, add};
use super::session::{KeyState, Phase, Session};
use super::shared::Command;
use super::slab::Handle;
use super::worker::Worker;
use crate::engine::balance::plan::NoneLeft;
use crate::engine::types::Time;
use crate::sys::epoll::Ready;
use crate::sys::stream;

/// How long until backends that failed are tried again, where they may come back without a word.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// That time doubles so often: a thousand who wait are not to keep a worker busy.
const DOUBLED_MAX: u8 = 3;

impl Worker {
    /// No candidate: the connection waits if the rules and the table give it hope, or is refused.
    pub(super) fn nobody(&mut self, handle: Handle, key: Option<u64>, why: Nobody) {
        let now = self.tools.now;
        let Self { sessions, balancers, doors, to_wake, .. } = self;
        let Some(session) = sessions.get(handle) else { return };
        let Some(Some(local)) = balancers.get_mut(session.balancer as usize) else { return };
        let rules = &local.live.table.rules;
        let NoneLeft::Queue(patience) = rules.none_left else { return self.refuse(handle, Refusal::NoBackend) };
        let tries_again = session.extra.as_ref().is_some_and(|extra| extra.try_again);
        let hope = match why {
            Nobody::WithRoom => true,
            Nobody::Left => tries_again || local.live.table.hopeful,
            Nobody::Available => local.live.table.hopeful,
        };
        if !hope {
            return self.refuse(handle, Refusal::NoBackend);
        }
        let extra = session.extra();
        extra.key = KeyState::Known(key);
        extra.patience.get_or_insert(now.after(patience));
        extra.give_up = None;
        if session.phase != Phase::Queued {
            let counters = local.balancer.counters();
            // Counted first: two workers cannot both take the last place.
            let before = counters.queued.fetch_add(1, Ordering::SeqCst);
            if before >= u64::from(rules.limits.queued) {
                counters.queued.fetch_sub(1, Ordering::SeqCst);
                return self.refuse(handle, Refusal::QueueFull);
            }
            let is_new = !std::mem::replace(&mut session.extra().was_queued, true);
            add(&counters.queued_total, u64::from(is_new));
            session.phase = Phase::Queued;
            session.since = now;
            // The slot may have become free before whoever left it could see that somebody waits: one more look, once.
            if why == Nobody::WithRoom && doors.closed_until.is_none() && !to_wake.contains(&session.balancer) {
                to_wake.push(session.balancer);
            }
        }
        let lies_in_it = std::mem::replace(&mut session.extra().in_queue, true);
        if !lies_in_it {
            while local.queue.front().is_some_and(|front| sessions.get(*front).is_none()) {
                local.queue.pop_front();
            }
            local.queue.push_back(handle);
        }
        self.set_due(handle);
        self.watch_or_reset(handle);
    }

    /// Looks at those who wait, where something has changed for them.
    pub(super) fn wake_queues(&mut self) {
        while let Some(number) = self.to_wake.pop() {
            self.wake_queue(number);
        }
    }

    fn wake_queue(&mut self, number: u32) {
        let Some(local) = self.local(number) else { return };
        if local.queue.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut local.queue);
        // One that tried in vain meanwhile is where it was put then.
        waiting.make_contiguous().sort_by_key(|handle| self.sessions.get(*handle).map(|session| session.accepted));
        while let Some(handle) = waiting.pop_front() {
            let Some(session) = self.sessions.get(handle) else { continue };
            if let Some(extra) = &mut session.extra {
                extra.in_queue = false;
            }
            if session.phase != Phase::Queued {
                continue;
            }
            let key = self.key_again(handle);
            self.place(handle, key);
            // Where one finds nobody who has tried nobody, the others would not either.
            if self.is_starved() || self.waits_untried(handle) {
                break;
            }
        }
        if let Some(local) = self.local(number) {
            waiting.append(&mut local.queue);
            local.queue = waiting;
        }
    }

    fn waits_untried(&mut self, handle: Handle) -> bool {
        let Some(session) = self.sessions.get(handle) else { return false };
        session.phase == Phase::Queued && session.extra.as_ref().is_none_or(|extra| extra.tried.is_empty())
    }

    /// Looks at all that wait.
    pub(super) fn wake_all_queues(&mut self) {
        let waiting = (0_u32..).zip(&self.balancers);
        let waiting = waiting.filter(|(_, local)| local.as_ref().is_some_and(|local| !local.queue.is_empty()));
        let numbers: Vec<u32> = waiting.map(|(number, _)| number).collect();
        for number in numbers {
            self.wake_queue(number);
        }
    }

    /// A backend has room again: the longest waiting of this worker, or of another that has anybody waiting.
    pub(super) fn wake_somebody(&mut self, number: u32) {
        let Some(Some(local)) = self.balancers.get(number as usize) else { return };
        if local.queue.is_empty() {
            self.shared.tell(&Command::Resume { balancer: Arc::clone(&local.balancer) });
        } else if !self.to_wake.contains(&number) {
            self.to_wake.push(number);
        }
    }

    /// Its time to wait, or to try again, is over.
    pub(super) fn waited(&mut self, handle: Handle) {
        let now = self.tools.now;
        let Some(session) = self.sessions.get(handle) else { return };
        session.since = now;
        let extra = session.extra();
        extra.retries = extra.retries.saturating_add(1);
        if extra.patience.is_none_or(|patience| patience <= now) {
            return self.refuse(handle, Refusal::QueueTimeout);
        }
        extra.tried.retain(|tried| tried.delivered);
        extra.try_again = extra.tried.iter().any(|tried| tried.run > 0);
        let key = self.key_again(handle);
        self.place(handle, key);
    }

    /// A client hung up, or closed its direction while it waits.
    pub(super) fn waiter_told(&mut self, handle: Handle, event: &Ready) {
        let Some(session) = self.sessions.get(handle) else { return };
        // A Unix client may write its request and be gone: what it sent is there to be read.
        if event.hangup && stream::local_address(&session.client).is_some() {
            return self.reset(handle, "client left the queue");
        }
        if !event.ended && !event.hangup {
            return;
        }
        // Closed without a word (and without one read before): there is nothing to answer. Else it may be half of a request.
        let said_something = session.up.is_pending() || stream::has_bytes(&session.client).unwrap_or(false);
        if !said_something {
            return self.reset(handle, "client left the queue");
        }
        let extra = session.extra();
        extra.half_closed = true;
        extra.hung_up = event.hangup;
        self.watch_or_reset(handle);
    }
}

impl Session {
    /// When a waiting client is looked at at the latest.
    pub(super) fn next_try(&self) -> Time {
        let Some(extra) = &self.extra else { return self.since };
        let end = extra.patience.unwrap_or(self.since);
        if extra.try_again {
            end.min(self.since.after(TRY_AGAIN * 2_u32.pow(u32::from(extra.retries.min(DOUBLED_MAX)))))
        } else {
            end
        }
    }
}
