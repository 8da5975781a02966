//! Answers requests for old lines and old journal entries, in threads of their own that live for one answer: reading a file may
//! wait for its disk. A thread writes to the client itself and then hands the connection back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::journal::{self, Entry};
use super::proto::{Stream, StreamFilter};
use super::region::{self, OpenEnd};
use super::source::Source;
use super::times::MarkReader;
use super::{rfc3339, rotate, times};

/// A client that takes nothing for so long is dropped.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
const OUT_BUFFER_BYTES: usize = 32 << 10;
/// Read buffers of all streams of one answer together.
const IN_BUFFERS_BYTES: usize = 1 << 20;
const IN_BUFFER_BYTES_MAX: usize = 32 << 10;
const IN_BUFFER_BYTES_MIN: usize = 2 << 10;

/// Inode and size of the file that was written when the past ended; (0, 0): none was.
type End = (u64, u64);

/// One answer about the past.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) socket: Arc<UnixStream>,
    pub(super) of: Of,
    pub(super) tail: Option<u64>,
    pub(super) since_unix_ms: Option<u64>,
    pub(super) open_end: OpenEnd,
}

#[derive(Debug)]
pub(super) enum Of {
    /// `known`: streams being written, with inode and size of their files where the past ends.
    Lines {
        log_dir: PathBuf,
        filters: Vec<StreamFilter>,
        known: Vec<(Stream, End)>,
    },
    Entries {
        state_dir: PathBuf,
        since_seq: Option<u64>,
        end: End,
    },
}

/// One NDJSON line of an answer; what [`super::proto::LogLine`] reads.
#[derive(Serialize)]
struct Row<'a> {
    at: &'a str,
    service: &'a str,
    replica: u16,
    line: &'a str,
}

/// A [`super::proto::LogLine`] with its newline.
pub(super) fn row(at_unix_ms: u64, stream: &Stream, line: &[u8]) -> Vec<u8> {
    let (at, line) = (rfc3339::format(at_unix_ms), String::from_utf8_lossy(line));
    let row = Row { at: &at, service: &stream.service, replica: stream.index, line: &line };
    // Strings and a number always have a JSON form.
    let mut bytes = serde_json::to_vec(&row).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Whether any of the filters names this stream.
pub(super) fn is_wanted(filters: &[StreamFilter], stream: &Stream) -> bool {
    filters
        .iter()
        .any(|filter| filter.service == stream.service && filter.index.is_none_or(|index| index == stream.index))
}

impl Past {
    /// Writes the whole answer.
    ///
    /// # Errors
    /// The client went away or reads too slowly. Troubles with files are told to the client.
    pub(super) fn tell(&self) -> io::Result<()> {
        let mut out = Patient { socket: &self.socket, buffer: Vec::with_capacity(OUT_BUFFER_BYTES) };
        let told = match &self.of {
            Of::Lines { log_dir, filters, known } => self.tell_lines(&mut out, log_dir, filters, known),
            Of::Entries { state_dir, since_seq, end } => self.tell_entries(&mut out, state_dir, *since_seq, *end),
        };
        if let Err(error) = told {
            // Only the client's socket makes errors of this kind.
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Err(error);
            }
            let text = serde_json::json!({"type": "trouble", "text": format!("cannot read older output: {error}")});
            out.add(format!("{text}\n").as_bytes())?;
        }
        out.flush()
    }

    fn tell_lines(
        &self,
        out: &mut Patient<'_>,
        log_dir: &Path,
        filters: &[StreamFilter],
        known: &[(Stream, End)],
    ) -> io::Result<()> {
        let mut streams: Vec<(Stream, Option<End>)> =
            known.iter().map(|(stream, end)| (stream.clone(), Some(*end))).collect();
        streams.extend(unknown_streams(log_dir, filters, known)?);
        streams.sort();
        let buffer_bytes = (IN_BUFFERS_BYTES / streams.len().max(1)).clamp(IN_BUFFER_BYTES_MIN, IN_BUFFER_BYTES_MAX);
        let times_dir = times::directory(log_dir);
        let (mut sources, mut lines) = (Vec::new(), 0);
        for (stream, end) in streams {
            let base = log_dir.join(rotate::stream_file_name(&stream.service, stream.index));
            let mut pieces = region::open(&base, end)?;
            if let Some(since) = self.since_unix_ms {
                for piece in &mut pieces {
                    let marks = MarkReader::open(&times_dir, piece.inode, piece.modified_ms);
                    piece.start = marks.start_since(since, piece.end).unwrap_or(piece.end);
                }
                pieces.retain(|piece| piece.start < piece.end);
            }
            if let Some(tail) = self.tail {
                lines += region::keep_last(&mut pieces, tail, self.open_end)?;
            }
            sources.push(Source::new(stream, pieces, times_dir.clone(), buffer_bytes, self.open_end));
        }
        let skip = self.tail.map_or(0, |tail| lines.saturating_sub(tail));
        merge(out, &mut sources, skip)
    }

    fn tell_entries(
        &self,
        out: &mut Patient<'_>,
        state_dir: &Path,
        since_seq: Option<u64>,
        end: End,
    ) -> io::Result<()> {
        let mut pieces = region::open(&journal::path(state_dir), Some(end))?;
        if since_seq.is_some() || self.since_unix_ms.is_some() {
            region::begin_at(&mut pieces, |line| {
                let entry = Entry::read(line)?;
                let later = match since_seq {
                    Some(since) => entry.seq? > since,
                    None => true,
                };
                let younger = match self.since_unix_ms {
                    Some(since) => entry.unix_ms()? >= since,
                    None => true,
                };
                Some(later && younger)
            })?;
        }
        if let Some(tail) = self.tail {
            region::keep_last(&mut pieces, tail, OpenEnd::StillToCome)?;
        }
        let nobody = Stream { service: String::new(), index: 0 };
        let times_dir = PathBuf::new();
        let mut source = Source::new(nobody, pieces, times_dir, IN_BUFFER_BYTES_MAX, OpenEnd::StillToCome);
        while let Some((_, line)) = source.next_line()? {
            if Entry::read(&line).is_some() {
                out.add(&line)?;
                out.add(b"\n")?;
            }
        }
        Ok(())
    }
}

/// Replicas that are wanted and have files, but are not written now.
fn unknown_streams(
    log_dir: &Path,
    filters: &[StreamFilter],
    known: &[(Stream, End)],
) -> io::Result<Vec<(Stream, Option<End>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(log_dir)? {
        let name = entry?.file_name();
        let Some((service, index)) = name.to_str().and_then(rotate::stream_of_file_name) else { continue };
        let stream = Stream { service: service.to_owned(), index };
        if is_wanted(filters, &stream) && !known.iter().any(|(known, _)| *known == stream) {
            found.push((stream, None));
        }
    }
    Ok(found)
}

/// All lines in the order of their times, except for the first `skip`; lines of one stream stay in their order.
fn merge(out: &mut Patient<'_>, sources: &mut [Source], mut skip: u64) -> io::Result<()> {
    let mut next = BinaryHeap::new();
    for (at, source) in sources.iter_mut().enumerate() {
        if let Some((ms, line)) = source.next_line()? {
            next.push(Reverse((ms, at, line)));
        }
    }
    while let Some(Reverse((ms, at, line))) = next.pop() {
        let Some(source) = sources.get_mut(at) else { break };
        if skip == 0 {
            out.add(&row(ms, &source.stream, &line))?;
        }
        skip = skip.saturating_sub(1);
        if let Some((following_ms, line)) = source.next_line()? {
            // A wall clock that was set back must not reorder a stream.
            next.push(Reverse((following_ms.max(ms), at, line)));
        }
    }
    Ok(())
}

/// Writes to a non-blocking socket and waits for its reader, within limits.
struct Patient<'a> {
    socket: &'a UnixStream,
    buffer: Vec<u8>,
}

impl Patient<'_> {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > OUT_BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let mut socket = self.socket;
            match socket.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, error)),
            }
        }
        self.buffer.clear();
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(CLIENT_PATIENCE).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client does not read")),
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
