//! Part of a family of rotated files, oldest first: what a request for old lines reads. Only history threads use this; they may wait
//! for the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::rotate;

const BLOCK_BYTES: usize = 64 << 10;
/// A line that a search must read whole; longer ones are passed over.
const SEARCHED_LINE_BYTES_MAX: usize = 64 << 10;

/// From `start` up to `end` of one file.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) file: File,
    pub(super) inode: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// When the file was last written, for bytes without a mark.
    pub(super) modified_ms: u64,
}

/// Whether the unfinished line at the end belongs to the past or is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenEnd {
    Shown,
    StillToCome,
}

/// Opens what exists of a family up to `end` (inode and size of the file that was written at that moment, (0, 0): none; `None`: all there is).
/// Files may rotate meanwhile: they only move towards the direction of the search, so one may be met twice, and none is missed.
pub(super) fn open(base: &Path, end: Option<(u64, u64)>) -> io::Result<VecDeque<Piece>> {
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    if end == Some((0, 0)) {
        return Ok(pieces);
    }
    let mut past = end.is_none();
    let mut number = 0;
    loop {
        let opened = File::open(rotate::numbered(base, number));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Between the two renames of a rotation the written file is absent for a moment.
                if number == 0 {
                    number = 1;
                    continue;
                }
                break;
            }
            other => other?,
        };
        number += 1;
        let metadata = file.metadata()?;
        if pieces.iter().any(|piece| piece.inode == metadata.ino()) {
            continue;
        }
        let mut size = metadata.len();
        if let Some((inode, size_then)) = end
            && inode == metadata.ino()
        {
            past = true;
            size = size.min(size_then);
        }
        if past {
            let modified_ms = u64::try_from(metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000).unwrap_or(0);
            pieces.push_front(Piece { file, inode: metadata.ino(), start: 0, end: size, modified_ms });
        }
    }
    Ok(pieces)
}

/// Cuts the region to its last `lines` lines. Returns how many it then has: fewer when there are not so many.
pub(super) fn keep_last(pieces: &mut VecDeque<Piece>, lines: u64, open_end: OpenEnd) -> io::Result<u64> {
    let unfinished = match pieces.iter().rev().find(|piece| piece.end > piece.start) {
        Some(piece) => byte_at(&piece.file, piece.end - 1)? != b'\n',
        None => false,
    };
    let open_line = u64::from(unfinished && open_end == OpenEnd::Shown);
    // The newline that ends the last line is the first one met; the line before it begins after the second.
    let mut newlines = 0;
    let wanted = lines + 1 - open_line.min(lines);
    for at in (0..pieces.len()).rev() {
        let Some(piece) = pieces.get_mut(at) else { break };
        if lines == 0 || find_back(piece, wanted, &mut newlines)? {
            if lines == 0 {
                piece.start = piece.end;
            }
            pieces.drain(..at);
            return Ok(lines);
        }
    }
    Ok((newlines + open_line).min(lines))
}

/// Counts newlines from the end of a piece; at the `wanted`th the piece begins after it.
fn find_back(piece: &mut Piece, wanted: u64, newlines: &mut u64) -> io::Result<bool> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut end = piece.end;
    while end > piece.start {
        let start = end.saturating_sub(BLOCK_BYTES as u64).max(piece.start);
        let bytes = block.get_mut(..usize::try_from(end - start).unwrap_or(0)).unwrap_or_default();
        piece.file.read_exact_at(bytes, start)?;
        for (at, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            *newlines += 1;
            if *newlines == wanted {
                piece.start = start + at as u64 + 1;
                return Ok(true);
            }
        }
        end = start;
    }
    Ok(false)
}

/// Cuts the region to begin at the first line that `is_wanted`; lines for which it says `None` decide nothing and stay at the head
/// of a file. Assumes that from the first
/// wanted line on all are wanted.
pub(super) fn begin_at(
    pieces: &mut VecDeque<Piece>,
    mut is_wanted: impl FnMut(&[u8]) -> Option<bool>,
) -> io::Result<()> {
    // The last file whose first line is not wanted holds the place; all before it are not wanted at all.
    let mut first = 0;
    for (at, piece) in pieces.iter().enumerate() {
        if find_line(piece, |line| is_wanted(line).map(|wanted| !wanted))?.is_some_and(|(_, before)| before) {
            first = at;
        }
    }
    pieces.drain(..first);
    let Some(piece) = pieces.front_mut() else { return Ok(()) };
    let found = find_line(piece, |line| is_wanted(line).filter(|wanted| *wanted))?;
    piece.start = found.map_or(piece.end, |(offset, _)| offset);
    Ok(())
}

/// The first line for which `judge` has an answer, as its offset and that answer.
fn find_line(piece: &Piece, mut judge: impl FnMut(&[u8]) -> Option<bool>) -> io::Result<Option<(u64, bool)>> {
    let mut block = vec![0; BLOCK_BYTES];
    let (mut line, mut line_start, mut at) = (Vec::new(), piece.start, piece.start);
    while at < piece.end {
        let wanted = usize::try_from(piece.end - at).unwrap_or(usize::MAX).min(block.len());
        let bytes = block.get_mut(..wanted).unwrap_or_default();
        piece.file.read_exact_at(bytes, at)?;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            at += part.len() as u64;
            if line.len() < SEARCHED_LINE_BYTES_MAX {
                line.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                if let Some(answer) = judge(&line) {
                    return Ok(Some((line_start, answer)));
                }
                line.clear();
                line_start = at;
            }
        }
    }
    Ok(None)
}

fn byte_at(file: &File, offset: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    Ok(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::testing::Scratch;
    use std::fs;

    fn family(scratch: &Scratch, texts: &[&str]) -> std::path::PathBuf {
        let base = scratch.path.join("a.0.log");
        for (age, text) in texts.iter().rev().enumerate() {
            fs::write(rotate::numbered(&base, u32::try_from(age).unwrap()), text).unwrap();
        }
        base
    }

    fn text(pieces: &VecDeque<Piece>) -> String {
        let mut text = String::new();
        for piece in pieces {
            let mut bytes = vec![0; usize::try_from(piece.end - piece.start).unwrap()];
            piece.file.read_exact_at(&mut bytes, piece.start).unwrap();
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        text
    }

    #[test]
    fn the_last_lines_are_found_over_several_files() {
        let scratch = Scratch::new("last");
        let base = family(&scratch, &["1\n2\n", "3\n", "4\n5\n6"]);
        for (lines, end, expected) in [
            (0, OpenEnd::Shown, ""),
            (1, OpenEnd::Shown, "6"),
            (2, OpenEnd::Shown, "5\n6"),
            (1, OpenEnd::StillToCome, "5\n6"),
            (3, OpenEnd::Shown, "4\n5\n6"),
            (4, OpenEnd::Shown, "3\n4\n5\n6"),
            (5, OpenEnd::Shown, "2\n3\n4\n5\n6"),
            (6, OpenEnd::Shown, "1\n2\n3\n4\n5\n6"),
        ] {
            let mut pieces = open(&base, None).unwrap();
            assert_eq!(keep_last(&mut pieces, lines, end).unwrap(), lines);
            assert_eq!(text(&pieces), expected, "{lines} {end:?}");
        }
        let mut pieces = open(&base, None).unwrap();
        assert_eq!(keep_last(&mut pieces, 100, OpenEnd::Shown).unwrap(), 6);
        assert_eq!(keep_last(&mut pieces, 100, OpenEnd::StillToCome).unwrap(), 5);
    }

    #[test]
    fn the_past_ends_where_it_ended_even_after_a_rotation() {
        let scratch = Scratch::new("past");
        let base = family(&scratch, &["1\n2\n", "3\n4\n"]);
        let inode = base.metadata().unwrap().ino();
        rotate::shift(&base, 5).unwrap();
        fs::write(&base, "5\n").unwrap();
        assert_eq!(text(&open(&base, Some((inode, 2))).unwrap()), "1\n2\n3\n");
        assert_eq!(text(&open(&base, None).unwrap()), "1\n2\n3\n4\n5\n");
        assert_eq!(text(&open(&base, Some((0, 0))).unwrap()), "");
    }

    #[test]
    fn a_region_begins_at_the_first_wanted_line() {
        let scratch = Scratch::new("begin");
        let base = family(&scratch, &["1\nx\n3\n", "y\n5\n7\n", "9\n"]);
        for (least, expected) in
            [(0, "1\nx\n3\ny\n5\n7\n9\n"), (4, "y\n5\n7\n9\n"), (3, "3\ny\n5\n7\n9\n"), (8, "9\n"), (10, "")]
        {
            let mut pieces = open(&base, None).unwrap();
            begin_at(&mut pieces, |line| {
                let number: u32 = std::str::from_utf8(line).unwrap().trim().parse().ok()?;
                Some(number >= least)
            })
            .unwrap();
            assert_eq!(text(&pieces), expected, "{least}");
        }
    }
}
