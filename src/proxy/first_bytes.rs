//! What a client says first, where a PROXY header or the key is in it. It is read into what is pending for the backend, so that the
//! backend gets all of it but the PROXY header.

use super::accept::goes_by_key;
use super::counters::{Refusal, add};
use super::key::hash_value;
use super::peek::{PROXY_BYTES_MAX, Peek, http_header, proxy_header, proxy_v2, tls_sni};
use super::session::{KeyState, Tail};
use super::slab::Handle;
use super::worker::Worker;
use crate::engine::balance::plan::Key;
use crate::sys::stream;

/// Whether more bytes may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    MayCome,
    /// The client has closed its direction, the limit is reached, or the time is over.
    None,
}

impl Worker {
    /// The client has said something, or closed.
    pub(super) fn read_first(&mut self, handle: Handle) {
        let Some(session) = self.sessions.get(handle) else { return };
        let Some(Some(local)) = self.balancers.get(session.balancer as usize) else { return };
        let limit = local.live.table.rules.limits.peek_bytes as usize;
        let limit = if session.extra().must_peek_proxy { limit + PROXY_BYTES_MAX } else { limit };
        let have = session.up.tail.as_ref().map_or(0, |tail| tail.bytes.len());
        let room = limit.saturating_sub(have).clamp(1, self.tools.scratch.len());
        match stream::receive(&session.client, &mut self.tools.scratch[..room]) {
            Ok(None) => return,
            Ok(Some(0)) => session.up.ended = true,
            Ok(Some(count)) => {
                session.up.bytes += count as u64;
                self.tools.tail_bytes += count;
                let tail = session.up.tail.get_or_insert_with(|| Box::new(Tail { bytes: Vec::new(), written: 0 }));
                tail.bytes.extend_from_slice(&self.tools.scratch[..count]);
            }
            Err(_) => return self.reset(handle, "client reset"),
        }
        let have = session.up.tail.as_ref().map_or(0, |tail| tail.bytes.len());
        let rest = if session.up.ended || have >= limit { Rest::None } else { Rest::MayCome };
        self.look_into_first(handle, rest);
    }

    pub(super) fn first_bytes_late(&mut self, handle: Handle) {
        let Some(session) = self.sessions.get(handle) else { return };
        if session.up.bytes == 0 {
            return self.refuse(handle, Refusal::FirstBytes);
        }
        self.look_into_first(handle, Rest::None);
    }

    fn look_into_first(&mut self, handle: Handle, rest: Rest) {
        let Some(session) = self.sessions.get(handle) else { return };
        let number = session.balancer;
        if session.extra().must_peek_proxy {
            let bytes = session.up.tail.as_ref().map_or(&[][..], |tail| &tail.bytes);
            match proxy_header(bytes) {
                Ok(Peek::More) if rest == Rest::MayCome => return,
                Ok(Peek::Found(header)) => {
                    if let Some(tail) = &mut session.up.tail {
                        tail.bytes.drain(..header.len);
                        self.tools.tail_bytes -= header.len;
                    }
                    if session.up.tail.as_ref().is_some_and(|tail| tail.bytes.is_empty()) {
                        session.up.tail = None;
                    }
                    let extra = session.extra();
                    extra.must_peek_proxy = false;
                    extra.source = header.source.or(extra.source);
                    // Without one the proxy itself is the client, with its health checks.
                    if header.source.is_some() && !self.count_source(handle) {
                        return self.refuse(handle, Refusal::PerSource);
                    }
                }
                Ok(Peek::More | Peek::Absent) | Err(_) => return self.refuse(handle, Refusal::ProxyHeader),
            }
        }
        match self.peeked_key(handle, number, rest) {
            Peek::More => {}
            Peek::Found(key) => self.go(handle, Some(key)),
            Peek::Absent => {
                let source = self.sessions.get(handle).and_then(|session| session.extra().source);
                let key = self.key(number, source, handle);
                self.go(handle, key);
            }
        }
    }

    /// `Absent`: the key is none of those that are peeked, or was not found (which is counted).
    fn peeked_key(&mut self, handle: Handle, number: u32, rest: Rest) -> Peek<u64> {
        let Some(Some(local)) = self.balancers.get(number as usize) else { return Peek::Absent };
        let rules = &local.live.table.rules;
        let Some(session) = self.sessions.get(handle) else { return Peek::Absent };
        let bytes = session.up.tail.as_ref().map_or(&[][..], |tail| &tail.bytes);
        let peeked = match &rules.key {
            Key::TlsSni if goes_by_key(rules) => tls_sni(bytes),
            Key::HttpHeader(name) if goes_by_key(rules) => http_header(bytes, name),
            Key::TlsSni | Key::HttpHeader(_) | Key::Auto | Key::SourceIp | Key::SourceIpPort | Key::PeerCred => {
                return Peek::Absent;
            }
        };
        match peeked {
            Peek::Found(name) => Peek::Found(hash_value(self.shared.secret, &name)),
            Peek::More if rest == Rest::MayCome => Peek::More,
            Peek::More | Peek::Absent => {
                add(&local.balancer.counters().keyless, 1);
                Peek::Absent
            }
        }
    }

    /// Looks for a backend, now that everything about the client is known.
    pub(super) fn go(&mut self, handle: Handle, key: Option<u64>) {
        let Some(session) = self.sessions.get(handle) else { return };
        let Some(Some(local)) = self.balancers.get(session.balancer as usize) else { return };
        let send_proxy = local.live.table.rules.send_proxy;
        let extra = session.extra();
        extra.key = KeyState::Known(key);
        let source = extra.source;
        let kept_max = extra.kept_max;
        if send_proxy {
            let mut first = Vec::new();
            proxy_v2(source, stream::local_address(&session.client), &mut first);
            if let Some(tail) = session.up.tail.take() {
                self.tools.tail_bytes -= tail.bytes.len();
                first.extend_from_slice(&tail.bytes);
            }
            session.up.append(&first, &mut self.tools);
        }
        if let Some(tail) = &session.up.tail
            && let Some(extra) = &mut session.extra
        {
            extra.kept = (kept_max >= tail.bytes.len()).then(|| tail.bytes.clone());
        }
        self.place(handle, key);
    }
}
