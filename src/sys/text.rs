//! The program's own code and constants in memory.

use std::io;
use std::ops::Range;
use std::ptr;
use std::slice;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::{SysconfVar, sysconf};

/// From the start of a process until what follows once (greetings, first orders, first readings) is over, too.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// A shorter sleep is a pause in something.
const AT_REST: Duration = Duration::from_millis(100);
/// Parts of a program that cannot be written: linkers make up to three.
const PARTS_MAX: usize = 8;

/// Gives back the code of a start, once, when the process has settled.
///
/// A role runs most of its code only then, and the kernel maps 64 KiB around each page that it touches: three quarters of what is mapped
/// is never needed again. Done once and not before each sleep, so that nothing is slower for long: what runs next costs a fault for each
/// 64 KiB, some ten microseconds in all.
///
/// Against it speaks a host whose root disk hangs: a page that is no longer in the page cache then stalls whoever runs it. But giving back
/// takes nothing out of the page cache; only the kernel does, when it is short of memory, and it does so to mapped pages of files, too. What
/// keeps them there is `memory.min` of the agent's control group (`reserve.conf` of the systemd units), and that holds whether they are
/// mapped or not. Locking them would, and would cost the whole of them.
#[derive(Debug)]
pub struct Settling {
    at: Option<Instant>,
}

impl Settling {
    /// The start is over from now on but for what follows.
    #[must_use]
    pub fn begin() -> Self {
        Self { at: Some(Instant::now() + SETTLED_AFTER) }
    }

    /// Something large has run that seldom does.
    pub fn again(&mut self) {
        *self = Self::begin();
    }

    /// To be called before a loop sleeps; returns for how long it may. It wakes a loop once, when it would not wake by itself.
    pub fn before_sleep(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        let Some(at) = self.at else { return timeout };
        let left = at.saturating_duration_since(Instant::now());
        if left > Duration::ZERO {
            return Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
        if timeout.is_none_or(|timeout| timeout >= AT_REST) {
            self.at = None;
            // Only memory: without it, the code of the start stays mapped.
            let _ = forget();
        }
        timeout
    }
}

/// Gives back the pages of the program's code and constants. What is needed next is mapped in again from the page cache.
fn forget() -> io::Result<()> {
    for part in Parts::of_this_program()?.ranges() {
        drop_pages(part)?;
    }
    Ok(())
}

/// What of the program file is mapped and never written to, neither by the program nor while it is loaded.
struct Parts {
    ranges: [Range<usize>; PARTS_MAX],
    count: usize,
}

impl Parts {
    fn of_this_program() -> io::Result<Self> {
        let mut parts = Self { ranges: std::array::from_fn(|_| 0..0), count: 0 };
        visit_programs(&mut parts);
        let here = forget as fn() -> io::Result<()> as usize;
        let found = parts.ranges().any(|part| part.contains(&here));
        found.then_some(parts).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.ranges.iter().take(self.count).cloned()
    }

    fn take(&mut self, base: usize, header: &ProgramHeader, page: usize) {
        let is_constant = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        if let Some(free) = self.ranges.get_mut(self.count).filter(|_| is_constant) {
            let begin = base.wrapping_add(as_address(header.p_vaddr));
            *free = begin & !(page - 1)..begin + as_address(header.p_memsz);
            self.count += 1;
        }
    }
}

#[cfg(target_pointer_width = "64")]
type ProgramHeader = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type ProgramHeader = libc::Elf32_Phdr;

/// An address of this very process, in the type of its program headers.
fn as_address(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or_default()
}

#[expect(unsafe_code, reason = "dl_iterate_phdr")]
fn visit_programs(parts: &mut Parts) {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: libc::size_t, data: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the C library passes a description of a loaded program, and what was given to it below, which nobody else uses meanwhile.
        let (info, parts) = unsafe { (&*info, &mut *data.cast::<Parts>()) };
        // SAFETY: the program headers are mapped as long as the program is.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
        for header in headers {
            parts.take(as_address(info.dlpi_addr), header, page.unwrap_or(1 << 16));
        }
        // The first is the program itself; of libraries, nothing is taken.
        1
    }
    // SAFETY: `first` takes what is given here and keeps nothing of it.
    unsafe { libc::dl_iterate_phdr(Some(first), ptr::from_mut(parts).cast()) };
}

#[expect(unsafe_code, reason = "madvise")]
fn drop_pages(part: Range<usize>) -> io::Result<()> {
    let begin = ptr::with_exposed_provenance_mut::<libc::c_void>(part.start);
    // SAFETY: the range is one part of the program file that is mapped without the right to write, so each page has the content of the file
    // and comes back with it at the next access.
    match unsafe { libc::madvise(begin, part.len(), libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_was_forgotten_is_the_code_and_still_runs() {
        let parts = Parts::of_this_program().unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        for part in parts.ranges() {
            let line = maps.lines().find(|line| line.starts_with(&format!("{:x}-", part.start)));
            let line = line.unwrap_or_else(|| panic!("no mapping begins at {:x}: {maps}", part.start));
            let access = line.split(' ').nth(1).unwrap();
            assert!(line.contains('/') && !access.contains('w'), "{line}");
        }
        forget().unwrap();
        assert!(parts.ranges().count() > 0);
    }

    #[test]
    fn parts_that_can_be_written_are_left_alone() {
        let mut parts = Parts { ranges: std::array::from_fn(|_| 0..0), count: 0 };
        let header = |p_type, p_flags| ProgramHeader {
            p_type,
            p_flags,
            p_offset: 0,
            p_vaddr: 0x1234,
            p_paddr: 0,
            p_filesz: 0x10,
            p_memsz: 0x1000,
            p_align: 0x1000,
        };
        parts.take(0x40_0000, &header(libc::PT_LOAD, libc::PF_R | libc::PF_W), 0x1000);
        parts.take(0x40_0000, &header(libc::PT_GNU_RELRO, libc::PF_R), 0x1000);
        assert_eq!(parts.count, 0);
        for _ in 0..=PARTS_MAX {
            parts.take(0x40_0000, &header(libc::PT_LOAD, libc::PF_R | libc::PF_X), 0x1000);
        }
        assert_eq!(parts.ranges().collect::<Vec<_>>(), vec![0x40_1000..0x40_2234; PARTS_MAX]);
    }

    #[test]
    fn a_loop_is_woken_once_and_only_for_what_is_not_yet_given_back() {
        let long = Some(Duration::from_secs(60));
        let mut settling = Settling::begin();
        assert!(settling.before_sleep(None).is_some_and(|timeout| timeout <= SETTLED_AFTER));
        assert!(settling.before_sleep(long).is_some_and(|timeout| timeout <= SETTLED_AFTER));
        assert_eq!(settling.before_sleep(Some(Duration::ZERO)), Some(Duration::ZERO));
        settling.at = Some(Instant::now());
        let pause = Some(Duration::from_millis(5));
        assert_eq!(settling.before_sleep(pause), pause);
        assert!(settling.at.is_some());
        assert_eq!(settling.before_sleep(None), None);
        assert!(settling.at.is_none());
        assert_eq!(settling.before_sleep(long), long);
        settling.again();
        assert!(settling.before_sleep(None).is_some());
    }
}
