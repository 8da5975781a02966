//! Keeps the heap out of children.
//!
//! A fork copies the page tables of all memory that was written to, and write-protects it in the parent too, which then pays a fault for
//! each page that it writes to next: at the very time when the child waits for it. Children of [`super::spawn`] need nothing of the heap.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use nix::libc;

/// From now on children are born without what is now the heap of this process; what it grows by later is for another call. Only for a process
/// whose children all come from [`super::spawn`].
pub fn keep_from_children() -> io::Result<()> {
    // One allocation: reading the list shall not change it.
    let mut maps = String::with_capacity(MAPS_BYTES);
    File::open("/proc/self/maps")?.read_to_string(&mut maps)?;
    let on_stack = 0_u8;
    let needed = [(&raw const on_stack).addr(), errno_address()];
    for range in heaps(&maps, &needed) {
        keep(range)?;
    }
    Ok(())
}

/// Mostly enough.
const MAPS_BYTES: usize = 4 << 10;

/// Memory of a thread that is neither its stack nor the heap.
#[expect(unsafe_code, reason = "the C library's errno")]
fn errno_address() -> usize {
    // SAFETY: no arguments; every thread has one.
    unsafe { libc::__errno_location() }.addr()
}

/// Anonymous private memory that can be written, and the guards around it; but not what holds one of these addresses, and not what a program or a library begins
/// with as zeros: that lies right behind its file.
fn heaps(maps: &str, needed: &[usize]) -> Vec<Range<usize>> {
    let mut heaps = Vec::new();
    let mut file_end = 0;
    for line in maps.lines() {
        let Some((range, access, path)) = mapping(line) else { continue };
        if path.starts_with('/') {
            file_end = range.end;
            continue;
        }
        let begins_behind_file = range.start == file_end;
        let anonymous = (access == "rw-p" || access == "---p") && (path.is_empty() || path == "[heap]");
        if anonymous && !begins_behind_file && !needed.iter().any(|address| range.contains(address)) {
            heaps.push(range);
        }
    }
    heaps
}

/// Range, access and path of a line of /proc/PID/maps.
fn mapping(line: &str) -> Option<(Range<usize>, &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let access = words.next()?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(begin)?..number(end)?, access, words.nth(3).unwrap_or_default()))
}

#[expect(unsafe_code, reason = "madvise")]
fn keep(range: Range<usize>) -> io::Result<()> {
    let begin = std::ptr::with_exposed_provenance_mut::<libc::c_void>(range.start);
    // SAFETY: changes nothing in this process. A child of the one fork there is reads only its stack and the program's own data.
    match unsafe { libc::madvise(begin, range.len(), libc::MADV_DONTFORK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
555000-555400 rw-p 00000000 00:00 0                          [heap]
7f000000-7f100000 r-xp 00013000 fe:00 10010690                   /usr/bin/x
7f100000-7f110000 rw-p 003e4000 fe:00 10010690                   /usr/bin/x
7f110000-7f114000 rw-p 00000000 00:00 0
7f200000-7f23c000 rw-p 00000000 00:00 0
7f23c000-7f23d000 ---p 00000000 00:00 0
7f23d000-7f23f000 rw-p 00000000 00:00 0
7f23f000-7f240000 rw-s 00000000 00:01 7                          /memfd:x (deleted)
7f240000-7f244000 r--p 00000000 00:00 0                          [vvar]
7ffe0000-7ffe8000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn heap_is_what_is_neither_of_the_program_nor_of_a_thread() {
        let all = [0x55_5000..0x55_5400, 0x7f20_0000..0x7f23_c000, 0x7f23_c000..0x7f23_d000, 0x7f23_d000..0x7f23_f000];
        assert_eq!(heaps(MAPS, &[0x7ffe_0010, 0x7f11_0010]), all);
        assert_eq!(heaps(MAPS, &[0x7f23_d010]), all[..3]);
    }

    #[test]
    fn own_memory_of_this_thread_is_needed() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let on_heap = Box::new(1_u8);
        let found = heaps(&maps, &[]);
        let holds = |address: usize| found.iter().any(|range| range.contains(&address));
        assert!(holds((&raw const *on_heap).addr()));
        let needed = heaps(&maps, &[errno_address()]);
        assert!(!needed.iter().any(|range| range.contains(&errno_address())));
    }
}
