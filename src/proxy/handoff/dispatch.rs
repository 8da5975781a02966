//! Which replica a connection goes to, and what becomes of those that none takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::backend::Left;
use super::super::counters::{Refusal, add};
use super::super::shared::{Balancer, Finished, Live, Notice};
use super::channel::{self, Client, Held, Offered};
use super::{DELIVERIES_MAX, HandOffs};
use crate::engine::balance::pick::Moment;
use crate::engine::balance::plan::NoneLeft;
use crate::engine::balance::table::Standing;
use crate::engine::types::Time;

/// What a replica has not acknowledged, where the configuration has no `per_backend`.
const HELD_MAX: u32 = 1_024;

impl HandOffs {
    /// To the best candidate that takes it, into the queue, or away.
    pub(super) fn dispatch(&mut self, client: Client, now: Time) {
        let Err(client) = self.place(client, now) else { return };
        let balancer = Arc::clone(&client.counted.balancer);
        let live = balancer.live();
        let may_come = live.table.hopeful || live.table.backends.iter().any(|one| one.standing == Standing::Up);
        let why = match live.table.rules.none_left {
            _ if client.tried.len() >= DELIVERIES_MAX => Some(Refusal::NoBackend),
            NoneLeft::Queue(_) if may_come => None,
            NoneLeft::Queue(_) | NoneLeft::Refuse | NoneLeft::FailOpen => Some(Refusal::NoBackend),
        };
        let queue = self.queues.entry(balancer.name().to_owned()).or_default();
        let is_full = queue.len() >= live.table.rules.limits.queued as usize;
        if let Some(why) = why.or(is_full.then_some(Refusal::QueueFull)) {
            return self.refuse(client, why, now);
        }
        add(&balancer.counters().queued, 1);
        add(&balancer.counters().queued_total, 1);
        let client = Client { waits_since: now, ..client };
        if client.tried.is_empty() { queue.push_back(client) } else { queue.push_front(client) }
    }

    /// Gives the client back if nobody takes it.
    fn place(&mut self, client: Client, now: Time) -> Result<(), Client> {
        if client.tried.len() >= DELIVERIES_MAX {
            return Err(client);
        }
        let balancer = Arc::clone(&client.counted.balancer);
        let live = balancer.live();
        let draw = self.next_draw();
        let moment = Moment {
            active: &|slot| live.backends.get(slot).map_or(0, |state| state.active()),
            ejected: &|slot| live.backends.get(slot).is_some_and(|state| state.is_ejected(now)),
            elapsed: now.since(live.since),
            draw,
        };
        let mut order = std::mem::take(&mut self.order);
        live.picker.order(client.key, &moment, &mut order);
        let mut left = Some(client);
        for slot in &order {
            let Some(client) = left.take() else { break };
            left = self.offer(client, &live, usize::from(*slot), now).err();
        }
        self.order = order;
        left.map_or(Ok(()), Err)
    }

    fn next_draw(&mut self) -> u64 {
        self.draw = self.draw.wrapping_add(1);
        self.draw.wrapping_sub(1)
    }

    fn offer(&mut self, client: Client, live: &Live, slot: usize, now: Time) -> Result<(), Client> {
        let (Some(state), Some(backend)) = (live.backends.get(slot), live.table.backends.get(slot)) else {
            return Err(client);
        };
        let balancer = live.table.balancer.as_str();
        let open = |channel: &&mut super::Channel| {
            channel.run == backend.run && channel.backend == backend.name && channel.balancer == balancer
        };
        let Some(channel) = self.channels.values_mut().find(open) else { return Err(client) };
        if client.tried.contains(&(state.id, backend.run)) {
            return Err(client);
        }
        if !state.begin(Some(live.table.rules.limits.per_backend.unwrap_or(HELD_MAX))) {
            return Err(client);
        }
        match channel.offer(client, state, now) {
            Offered::Taken => Ok(()),
            // The replica's end is seen to be closed by the epoll as well.
            Offered::Full(client) | Offered::Broken(client) => {
                self.end(&client.counted.balancer, state);
                Err(client)
            }
        }
    }

    /// Clients that wait, the first first, until nobody takes one that anybody could take.
    pub(in super::super) fn retry(&mut self, balancer: &str, now: Time) {
        let Some(mut waiting) = self.queues.remove(balancer) else { return };
        let mut left = VecDeque::new();
        while let Some(client) = waiting.pop_front() {
            let balancer = Arc::clone(&client.counted.balancer);
            match self.place(client, now) {
                Ok(()) => stop_waiting(&balancer),
                Err(client) => {
                    let is_free = client.tried.is_empty();
                    left.push_back(client);
                    if is_free {
                        break;
                    }
                }
            }
        }
        left.append(&mut waiting);
        if !left.is_empty() {
            self.queues.insert(balancer.to_owned(), left);
        }
    }

    /// Those that have waited long enough.
    pub(super) fn expire(&mut self, now: Time) {
        let mut late = Vec::new();
        for queue in self.queues.values_mut() {
            // Mostly nobody, and a look costs less than a new queue.
            while let Some(index) = queue.iter().position(|client| waits_until(client) <= now) {
                late.extend(queue.remove(index));
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        for client in late {
            stop_waiting(&client.counted.balancer);
            self.refuse(client, Refusal::QueueTimeout, now);
        }
    }

    /// The replica has it.
    pub(super) fn hand_over(&mut self, held: Held, now: Time) {
        held.state.connected();
        held.state.connect_us.record_ns(now.0.saturating_sub(held.since.0));
        if held.state.praise() {
            self.shared.notify(Notice::Restored {
                balancer: held.client.counted.balancer.name().to_owned(),
                backend: held.state.name().to_owned(),
                run: held.state.run(),
            });
        }
        self.leave(&held);
        self.log(&held.client, Some(held.state.name()), "handed_over", now);
    }

    /// Its replica died with it.
    pub(super) fn orphan(&mut self, held: Held, run: u32) {
        held.state.broke_off();
        self.leave(&held);
        let mut client = held.client;
        add(&client.counted.balancer.counters().redispatched, 1);
        client.tried.push((held.state.id, run));
        self.orphans.push_back(client);
    }

    /// One failure for all that died with a replica.
    pub(super) fn blame(&mut self, held: &Held, now: Time) {
        let live = held.client.counted.balancer.live();
        let others = live.others_left(&held.state, now);
        if let Some(for_) = held.state.blame(live.eject_rules(), now, others, self.next_draw()) {
            self.shared.notify(Notice::Ejected {
                balancer: live.table.balancer.clone(),
                backend: held.state.name().to_owned(),
                run: held.state.run(),
                why: "it ends before it takes the connections that it is given".to_owned(),
                for_,
            });
        }
    }

    /// One connection less for its backend.
    pub(super) fn leave(&self, held: &Held) {
        self.end(&held.client.counted.balancer, &held.state);
    }

    fn end(&self, balancer: &Balancer, state: &super::BackendState) {
        match state.end() {
            Left::Some => {}
            Left::Drained => self.shared.notify(Notice::Drained {
                balancer: balancer.name().to_owned(),
                backend: state.name().to_owned(),
                run: state.run(),
            }),
        }
    }

    fn refuse(&mut self, client: Client, why: Refusal, now: Time) {
        client.counted.balancer.counters().refused(why);
        self.log(&client, None, why.name(), now);
        channel::abort(client);
    }

    pub(super) fn log(&self, client: &Client, backend: Option<&str>, how: &'static str, now: Time) {
        let balancer = &client.counted.balancer;
        if !balancer.live().table.rules.access_log {
            return;
        }
        self.shared.finished(Finished {
            balancer: balancer.name().to_owned(),
            source: client.source,
            backend: backend.map(str::to_owned),
            connect: backend.map(|_| now.since(client.came)),
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            lasted: now.since(client.came),
            attempts: u16::try_from(client.tried.len()).unwrap_or(u16::MAX) + u16::from(backend.is_some()),
            how,
        });
    }
}

/// A client has left the queue.
pub(super) fn stop_waiting(balancer: &Balancer) {
    balancer.counters().queued.fetch_sub(1, Ordering::Relaxed);
}

/// By the rules as they are now.
pub(super) fn waits_until(client: &Client) -> Time {
    let patience = match client.counted.balancer.live().table.rules.none_left {
        NoneLeft::Queue(patience) => patience,
        NoneLeft::Refuse | NoneLeft::FailOpen => Duration::ZERO,
    };
    client.waits_since.after(patience)
}
