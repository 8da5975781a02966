//! The program's own code in memory.

use std::fs;
use std::io;

use nix::libc;

/// Gives back the pages of the program's code. What runs next is mapped in again from the page cache; what ran only at the start stays
/// out, which is the larger part of a small process.
pub fn forget_code() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let here = forget_code as fn() -> io::Result<()> as usize;
    let own = maps.lines().filter_map(code_of).find(|(begin, end)| (*begin..*end).contains(&here));
    let Some((begin, end)) = own else { return Err(io::ErrorKind::NotFound.into()) };
    drop_pages(begin, end - begin)
}

/// Begin and end of a mapping that is executable, never writable, and backed by a file.
fn code_of(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let number = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some(())?;
    Some((number(begin)?, number(end)?))
}

#[expect(unsafe_code, reason = "madvise")]
fn drop_pages(begin: usize, length: usize) -> io::Result<()> {
    let begin = std::ptr::with_exposed_provenance_mut::<libc::c_void>(begin);
    // SAFETY: the range is one whole mapping of the program file that cannot be written, so each page has the content of the file and
    // comes back with it at the next access.
    match unsafe { libc::madvise(begin, length, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_forgotten_still_runs() {
        forget_code().unwrap();
        assert_eq!(code_of("555000-556000 r-xp 00001000 08:01 42 /usr/bin/x"), Some((0x0055_5000, 0x0055_6000)));
        for other in [
            "555000-556000 rw-p 00001000 08:01 42 /usr/bin/x",
            "555000-556000 r-xp 00000000 00:00 0 [vdso]",
            "555000-556000 rwxp 00001000 08:01 42 /usr/bin/x",
            "",
        ] {
            assert_eq!(code_of(other), None, "{other}");
        }
    }
}
