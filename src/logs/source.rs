//! The old lines of one stream, one after the other, each with the time it was read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::proto::Stream;
use super::region::{OpenEnd, Piece};
use super::tail::LINE_BYTES_MAX;
use super::times::MarkReader;

#[derive(Debug)]
pub(super) struct Source {
    pub(super) stream: Stream,
    pieces: VecDeque<Piece>,
    times_dir: PathBuf,
    buffer_bytes: usize,
    open_end: OpenEnd,
    current: Option<Current>,
    line: Vec<u8>,
    line_at_ms: u64,
}

#[derive(Debug)]
struct Current {
    reader: BufReader<io::Take<File>>,
    marks: MarkReader,
    offset: u64,
}

impl Source {
    pub(super) fn new(
        stream: Stream,
        pieces: VecDeque<Piece>,
        times_dir: PathBuf,
        buffer_bytes: usize,
        open_end: OpenEnd,
    ) -> Self {
        let (current, line, line_at_ms) = (None, Vec::new(), 0);
        Self { stream, pieces, times_dir, buffer_bytes, open_end, current, line, line_at_ms }
    }

    /// The next line without its newline, or piece of a long one, and when it was read.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            if self.current.is_none() && !self.open_next()? {
                let shown = self.open_end == OpenEnd::Shown && !self.line.is_empty();
                return Ok(shown.then(|| (self.line_at_ms, std::mem::take(&mut self.line))));
            }
            let Some(current) = &mut self.current else { continue };
            let buffered = current.reader.fill_buf()?;
            if buffered.is_empty() {
                self.current = None;
                continue;
            }
            if self.line.is_empty() {
                self.line_at_ms = current.marks.at(current.offset);
            }
            let room = LINE_BYTES_MAX - self.line.len();
            let newline = buffered.iter().take(room + 1).position(|byte| *byte == b'\n');
            let taken = newline.unwrap_or(buffered.len().min(room));
            self.line.extend_from_slice(buffered.get(..taken).unwrap_or_default());
            let passed = taken + usize::from(newline.is_some());
            current.reader.consume(passed);
            current.offset += passed as u64;
            if newline.is_some() || passed == 0 {
                return Ok(Some((self.line_at_ms, std::mem::take(&mut self.line))));
            }
        }
    }

    fn open_next(&mut self) -> io::Result<bool> {
        let Some(piece) = self.pieces.pop_front() else { return Ok(false) };
        let marks = MarkReader::open(&self.times_dir, piece.inode, piece.modified_ms);
        let mut file = piece.file;
        file.seek(SeekFrom::Start(piece.start))?;
        let reader = BufReader::with_capacity(self.buffer_bytes, file.take(piece.end - piece.start));
        self.current = Some(Current { reader, marks, offset: piece.start });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::region;
    use crate::logs::tail::each_line;
    use crate::logs::testing::Scratch;

    #[test]
    fn history_cuts_lines_where_live_output_cuts_them() {
        let scratch = Scratch::new("cut");
        let base = scratch.path.join("a.0.log");
        let mut text = b"first\n\n".to_vec();
        for bytes in [LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1, 3 * LINE_BYTES_MAX] {
            text.extend(vec![b'x'; bytes]);
            text.push(b'\n');
        }
        text.extend(b"open");
        std::fs::write(&base, &text).unwrap();
        let mut live = Vec::new();
        each_line(b"", &text, |line| live.push(line.to_vec()));
        for buffer in [100, 4_096, 1 << 20] {
            let stream = Stream { service: "a".into(), index: 0 };
            let pieces = region::open(&base, None).unwrap();
            let mut source = Source::new(stream, pieces, scratch.path.clone(), buffer, OpenEnd::StillToCome);
            let mut old = Vec::new();
            while let Some((_, line)) = source.next_line().unwrap() {
                old.push(line);
            }
            assert!(old == live, "{buffer}");
        }
    }
}
