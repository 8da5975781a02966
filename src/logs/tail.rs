//! The last bytes of a stream in memory: the unfinished line, the last words of a run, and where lines end.
//!
//! Files get bytes as they come. Only what must be shown by the line (followers, tails) is split, at newlines and, within an endless
//! line, every [`LINE_BYTES_MAX`] bytes counted from its start, so that history and live output cut at the same places.

/// A longer line is shown in pieces; in files it stays whole.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;
/// What one stream keeps; at least one piece of a line.
pub(super) const TAIL_BYTES_MAX: usize = LINE_BYTES_MAX;
/// `Drained` carries so many lines...
pub(super) const DRAINED_LINES_MAX: usize = 10;
/// ...of so many bytes each.
pub(super) const DRAINED_LINE_BYTES_MAX: usize = 1 << 10;

/// Starts empty and without memory.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    /// So many bytes at the end belong to a line that is not finished.
    open: usize,
}

impl Tail {
    /// The unfinished line, or the piece of it that was not shown yet.
    pub(super) fn open_line(&self) -> &[u8] {
        self.bytes.get(self.bytes.len() - self.open..).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.open = match chunk.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => open_after(0, chunk.len() - newline - 1),
            None => open_after(self.open, chunk.len()),
        };
        let kept = chunk.get(chunk.len().saturating_sub(TAIL_BYTES_MAX)..).unwrap_or_default();
        let surplus = (self.bytes.len() + kept.len()).saturating_sub(TAIL_BYTES_MAX);
        self.bytes.drain(..surplus);
        let needed = self.bytes.len() + kept.len();
        if needed > self.bytes.capacity() {
            // Doubling would leave up to twice the limit behind.
            let capacity = (self.bytes.capacity() * 2).clamp(needed, TAIL_BYTES_MAX);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(kept);
    }

    /// Forgets what was said, except for the unfinished line.
    pub(super) fn forget(&mut self) {
        self.bytes = self.open_line().to_vec();
    }

    /// The last lines, the unfinished one included; invalid UTF-8 is replaced.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let mut lines: Vec<String> = text
            .rsplit(|byte| *byte == b'\n')
            .take(DRAINED_LINES_MAX)
            .map(|line| {
                let shown = line.get(..DRAINED_LINE_BYTES_MAX).unwrap_or(line);
                String::from_utf8_lossy(shown).into_owned()
            })
            .collect();
        lines.reverse();
        lines
    }
}

/// Calls `line` for each line, or piece of one, that `chunk` completes after the unfinished `open` line.
pub(super) fn each_line(open: &[u8], chunk: &[u8], mut line: impl FnMut(&[u8])) {
    let mut rest = chunk;
    let mut before = open;
    loop {
        let newline = rest.iter().position(|byte| *byte == b'\n');
        let text = newline.map_or(rest, |at| &rest[..at]);
        let whole;
        let text = if before.is_empty() {
            text
        } else {
            whole = [before, text].concat();
            &whole
        };
        pieces(text, newline.is_some(), &mut line);
        let Some(at) = newline else { return };
        rest = &rest[at + 1..];
        before = &[];
    }
}

/// The last piece is complete only when its line is.
fn pieces(text: &[u8], finished: bool, line: &mut impl FnMut(&[u8])) {
    let last = text.len() - open_after(0, text.len());
    for piece in text[..last].chunks(LINE_BYTES_MAX) {
        line(piece);
    }
    if finished {
        line(&text[last..]);
    }
}

/// How much of a line is not shown yet when `more` bytes without a newline follow `open` ones: 1 to LINE_BYTES_MAX, or 0 for none.
fn open_after(open: usize, more: usize) -> usize {
    match open + more {
        0 => 0,
        all => (all - 1) % LINE_BYTES_MAX + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Tail) {
        let (mut tail, mut seen) = (Tail::default(), Vec::new());
        for chunk in chunks {
            each_line(tail.open_line(), chunk, |line| seen.push(line.to_vec()));
            tail.push(chunk);
        }
        (seen, tail)
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut_into_chunks() {
        let mut text = b"one\n\ntwo\n".to_vec();
        text.extend(vec![b'x'; LINE_BYTES_MAX]);
        text.extend(b"\n");
        text.extend(vec![b'y'; 2 * LINE_BYTES_MAX + 5]);
        text.extend(b"\nopen");
        let (whole, tail) = lines(&[&text]);
        assert_eq!(
            whole.iter().map(Vec::len).collect::<Vec<_>>(),
            vec![3, 0, 3, LINE_BYTES_MAX, LINE_BYTES_MAX, LINE_BYTES_MAX, 5]
        );
        assert_eq!(tail.open_line(), b"open");
        for size in [1_000, 1_024, 4_096, 5_003] {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            let (cut, tail) = lines(&chunks);
            assert_eq!(cut, whole, "{size}");
            assert_eq!(tail.open_line(), b"open");
        }
    }

    #[test]
    fn a_tail_stays_within_its_limit_and_shows_the_last_lines() {
        let mut tail = Tail::default();
        assert_eq!(tail.memory_bytes(), 0);
        assert!(tail.last_lines().is_empty());
        for number in 0..10_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        assert!(tail.memory_bytes() <= TAIL_BYTES_MAX);
        let last = tail.last_lines();
        assert_eq!(last.len(), DRAINED_LINES_MAX);
        assert_eq!(last[9], "line 9999");
        tail.push(&vec![b'z'; 100_000]);
        assert!(tail.memory_bytes() <= TAIL_BYTES_MAX);
        assert_eq!(tail.last_lines().last().unwrap().len(), DRAINED_LINE_BYTES_MAX);
    }

    #[test]
    fn forgetting_keeps_the_unfinished_line() {
        let mut tail = Tail::default();
        tail.push(b"said\npassword: ");
        tail.forget();
        assert_eq!(tail.open_line(), b"password: ");
        assert_eq!(tail.last_lines(), vec!["password: "]);
        tail.push(b"\n");
        tail.forget();
        assert_eq!(tail.memory_bytes(), 0);
    }
}
