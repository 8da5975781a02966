//! What the agent orders, one message after the other.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::clients::Follow;
use super::history::{Of, Past, is_wanted};
use super::log_writer::{AGENT_SLOT, LogItem};
use super::proto::{FromLogs, Serve, Settings, Stream, ToLogs};
use super::region::OpenEnd;
use super::reports::FileEnd;
use super::rfc3339;
use super::role::{ENDS_MAX, JOURNAL_SLOT, Key, Role};
use super::state_writer::{STATE_QUEUE_BYTES_MAX, StateItem};
use super::streams::Moment;
use crate::sys::epoll::Interest;
use crate::sys::fifo;

impl Role {
    pub(super) fn obey(&mut self, message: ToLogs, mut fds: Vec<OwnedFd>, now: Moment) {
        match message {
            // Answered where connections are told apart.
            ToLogs::Hello { .. } => {}
            ToLogs::Watch { stream, pipe, settings } => self.watch(stream, pipe, settings, now),
            ToLogs::Unwatch { stream } => self.unwatch(&stream, now),
            ToLogs::RunBegins { stream, run, ready_text } => self.begin_run(&stream, run, ready_text, now),
            ToLogs::RunEnded { stream, run } => self.end_run(stream, run, now),
            ToLogs::Journal { seq, line } => {
                self.last_seq = Some(self.last_seq.unwrap_or(0).max(seq));
                self.out.clients.entry(seq, &line);
                for (_, entries) in self.state_queue.push(StateItem::Entry { line }).lost {
                    *self.out.losses.entry((JOURNAL_SLOT, "slow disk".to_owned())).or_default() += entries;
                }
            }
            ToLogs::AgentLine { line } => self.out.write(AGENT_SLOT, format!("{line}\n").into_bytes()),
            ToLogs::Decide { decision, key, content } => self.decide(decision, key, content),
            ToLogs::Serve { request } => self.serve(request, fds.pop(), now),
            ToLogs::Keep { key } => {
                if let Err(text) = self.keeper.keep(key, fds) {
                    self.trouble(text);
                }
            }
            ToLogs::Drop { key } => self.keeper.drop_key(&key),
            ToLogs::Claim => self.out.agents.begin_claim(),
            ToLogs::Quit => self.quit(now),
        }
    }

    /// Decisions are never dropped, so one more than fits is refused.
    fn decide(&mut self, decision: u64, key: String, content: Option<String>) {
        if self.state_queue.fill().0 > STATE_QUEUE_BYTES_MAX {
            let error = Some(format!("the disk of {} does not answer", self.state_dir.display()));
            return self.out.agents.send(FromLogs::Persisted { decision, error });
        }
        self.state_queue.push(StateItem::Decide { decision, key, content });
    }

    fn watch(&mut self, stream: Stream, pipe: PathBuf, settings: Settings, now: Moment) {
        if stream.service.is_empty() || stream.service.starts_with('.') || stream.service.contains('/') {
            return self
                .trouble(format!("cannot watch a service named {:?}: it would not be a file name", stream.service));
        }
        let slot = self.streams.watch(stream);
        let Some(state) = self.streams.get_mut(slot) else { return };
        state.set(settings, now, &self.out);
        state.note_followers(&self.out.clients);
        if let Some(open) = &state.pipe {
            if is_same(open, &pipe) {
                return;
            }
            self.close_pipe(slot, now);
        }
        let opened = fifo::open_reader(&pipe).and_then(|fd| {
            self.epoll.add(fd.as_fd(), Key::Pipe(slot).into(), Interest::READ)?;
            Ok(fd)
        });
        match (opened, self.streams.get_mut(slot)) {
            (Ok(fd), Some(state)) => state.pipe = Some(fd),
            (Ok(_), None) => {}
            (Err(error), _) => self.trouble(format!("cannot read the log pipe {}: {error}", pipe.display())),
        }
    }

    /// Reads what is left first.
    fn close_pipe(&mut self, slot: u32, now: Moment) {
        self.drain(slot, now);
        let Some(state) = self.streams.get_mut(slot) else { return };
        if let Some(pipe) = state.pipe.take() {
            // Out of the epoll before it is closed: the service holds the same pipe open.
            let _ = self.epoll.remove(pipe.as_fd());
        }
    }

    fn unwatch(&mut self, stream: &Stream, now: Moment) {
        let Some(slot) = self.streams.slot(stream) else { return };
        self.close_pipe(slot, now);
        if let Some(state) = self.streams.get_mut(slot) {
            state.end_line(now, &mut self.out);
        }
        self.out.queue.push(LogItem::Close { slot });
        self.streams.remove(slot);
    }

    fn begin_run(&mut self, stream: &Stream, run: u32, ready_text: Option<String>, now: Moment) {
        let Some(slot) = self.streams.slot(stream) else {
            let text = format!("run {run} of {}/{} begins, but its pipe is not watched", stream.service, stream.index);
            return self.trouble(text);
        };
        let before = self.streams.get(slot).is_some_and(|state| state.is_before(run));
        if before {
            self.drain(slot, now);
        }
        let Some(state) = self.streams.get_mut(slot) else { return };
        if before {
            state.end_line(now, &mut self.out);
        }
        state.begin_run(run, ready_text, &mut self.out);
        self.streams.limit_tails();
    }

    /// Always answered, so that nobody waits for a stream that is gone.
    fn end_run(&mut self, stream: Stream, run: u32, now: Moment) {
        let mut tail = Vec::new();
        if let Some(slot) = self.streams.slot(&stream) {
            let current = self.streams.get(slot).is_some_and(|state| state.may_be_of(run));
            if current {
                self.drain(slot, now);
            }
            if let Some(state) = self.streams.get_mut(slot) {
                if current {
                    state.end_run(run, now, &mut self.out);
                }
                tail = state.last_words(run);
            }
        }
        self.out.agents.send(FromLogs::Drained { stream, run, tail });
    }

    /// The past ends, and following begins, at this place among all orders and reads.
    fn serve(&mut self, request: Serve, fd: Option<OwnedFd>, now: Moment) {
        let Some(fd) = fd else {
            return self.trouble("a request for logs or events came without its connection".to_owned());
        };
        let follow = match &request {
            Serve::Logs { streams, follow: true, .. } => Follow::Lines(streams.clone()),
            Serve::Events { since_seq, follow: true, .. } => Follow::Entries { since_seq: since_seq.unwrap_or(0) },
            Serve::Logs { follow: false, .. } | Serve::Events { follow: false, .. } => Follow::Nothing,
        };
        // An error is the client's: it is gone, or has been told that there are too many.
        let Ok((client, socket)) = self.out.clients.add(fd, follow, now.instant) else { return };
        self.streams.note_followers(&self.out.clients);
        if self.ends_wanted >= ENDS_MAX {
            // A disk hangs and nothing was answered for long: no use in asking.
            self.out.clients.forsake(client, now.instant);
            self.asked.insert(client, (socket, request));
            return;
        }
        self.ends_wanted += 1;
        match &request {
            Serve::Logs { streams, .. } => {
                let wanted = self.streams.iter().filter(|state| is_wanted(streams, &state.stream));
                let slots = wanted.map(|state| state.slot).collect();
                self.out.queue.push(LogItem::Ends { client, slots });
            }
            Serve::Events { .. } => {
                self.state_queue.push(StateItem::End { client });
            }
        }
        self.asked.insert(client, (socket, request));
    }

    /// A writer thread said where the past ends.
    pub(super) fn tell_past(&mut self, client: u32, ends: &[FileEnd]) {
        self.ends_wanted -= 1;
        let Some((socket, request)) = self.asked.remove(&client) else { return };
        let (of, tail, since_unix_ms, follow) = match request {
            Serve::Logs { streams, tail, since_unix_ms, follow } => {
                let known = ends.iter().filter_map(|end| {
                    let state = self.streams.get(end.slot)?;
                    Some(((*state.stream).clone(), (end.inode, end.size)))
                });
                let known = known.collect();
                (Of::Lines { log_dir: self.log_dir.clone(), filters: streams, known }, tail, since_unix_ms, follow)
            }
            Serve::Events { since_seq, since_unix_ms, tail, follow } => {
                let end = ends.first().map_or((0, 0), |end| (end.inode, end.size));
                (Of::Entries { state_dir: self.state_dir.clone(), since_seq, end }, tail, since_unix_ms, follow)
            }
        };
        let open_end = if follow { OpenEnd::StillToCome } else { OpenEnd::Shown };
        self.out.clients.tell_past(client, Past { socket, of, tail, since_unix_ms, open_end });
    }

    /// The disk does not answer: what memory holds is better than nothing.
    pub(super) fn tell_forsaken(&mut self, now: std::time::Instant) {
        for client in self.out.clients.forsaken(now) {
            let Some((_, request)) = self.asked.remove(&client) else { continue };
            let (directory, filters) = match request {
                Serve::Logs { streams, .. } => (&self.log_dir, streams),
                Serve::Events { .. } => (&self.state_dir, Vec::new()),
            };
            let text = format!("the disk of {} does not answer: only what is in memory is shown", directory.display());
            let trouble =
                serde_json::json!({"type": "trouble", "at": rfc3339::format(rfc3339::now_unix_ms()), "text": text});
            let mut rows = vec![format!("{trouble}\n").into_bytes()];
            for state in self.streams.iter().filter(|state| is_wanted(&filters, &state.stream)) {
                rows.extend(state.remembered_rows());
            }
            self.out.clients.tell_instead(client, &rows, now);
        }
    }
}

/// Whether the pipe we read is still the one of that name; `run_dir` may have been made anew.
fn is_same(open: &OwnedFd, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (nix::sys::stat::fstat(open), nix::sys::stat::stat(path)) else { return false };
    (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)
}
