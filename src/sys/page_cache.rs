//! The kernel's cache of file content, left as it was found: reading a big file through it would throw out what services need.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;

use super::direct;
use super::process::page_bytes;

/// So much is looked at in one go.
const WINDOW_BYTES: u64 = 64 << 20;
/// The unit of what is remembered; a read of this size goes with it.
pub const STRETCH_BYTES: u64 = 1 << 20;
/// Longer files are taken as cached beyond it, so that what is remembered has a limit.
const REMEMBERED_BYTES_MAX: u64 = 1 << 40;

/// Which stretches of a file had pages in the cache.
#[derive(Debug, Default)]
pub struct Cached {
    /// A bit a stretch.
    bits: Vec<u8>,
    stretches: u64,
}

impl Cached {
    /// Looks without touching anything.
    pub fn of(file: &File, length: u64) -> io::Result<Self> {
        let mut cached = Self::default();
        let length = length.min(REMEMBERED_BYTES_MAX);
        let mut from = 0;
        while from < length {
            let bytes = WINDOW_BYTES.min(length - from);
            for stretch in in_core(file, from, bytes)?.chunks(pages(STRETCH_BYTES)) {
                cached.push(stretch.iter().any(|page| page & 1 != 0));
            }
            from += bytes;
        }
        Ok(cached)
    }

    fn push(&mut self, is_cached: bool) {
        let bit = self.stretches % 8;
        if bit == 0 {
            self.bits.push(0);
        }
        if let Some(last) = self.bits.last_mut() {
            *last |= u8::from(is_cached) << bit;
        }
        self.stretches += 1;
    }

    /// Whether any page of the stretch that begins at this offset was there; yes where nobody has looked.
    #[must_use]
    pub fn had(&self, offset: u64) -> bool {
        let stretch = offset / STRETCH_BYTES;
        let byte = usize::try_from(stretch / 8).ok().and_then(|at| self.bits.get(at));
        stretch >= self.stretches || byte.is_none_or(|byte| byte >> (stretch % 8) & 1 != 0)
    }
}

fn pages(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(page_bytes())).unwrap_or(usize::MAX)
}

/// A byte a page, of which the lowest bit says whether it is in the cache.
#[expect(unsafe_code, reason = "mincore wants a mapping")]
fn in_core(file: &File, from: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(bytes).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
    let from = libc::off_t::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
    let (protection, flags) = (libc::PROT_NONE, libc::MAP_SHARED);
    // SAFETY: a new mapping wherever the kernel likes, that nobody may read or write.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length.get(), protection, flags, file.as_raw_fd(), from) };
    if start == libc::MAP_FAILED {
        return Err(Errno::last().into());
    }
    let start = NonNull::new(start).ok_or(Errno::ENOMEM)?;
    let mut found = vec![0_u8; pages(bytes)];
    // SAFETY: start and length of the mapping, and a byte for each of its pages.
    let looked = Errno::result(unsafe { libc::mincore(start.as_ptr(), length.get(), found.as_mut_ptr()) });
    // SAFETY: the mapping was made above, and nothing refers to it.
    unsafe { libc::munmap(start.as_ptr(), length.get()) };
    looked?;
    Ok(found)
}

/// Begins to write this part back; does not wait for it.
pub fn write_back(file: &File, from: u64, length: u64) -> io::Result<()> {
    write_range(file, from, length, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until all that was written to this file so far is on its way to the disk no more, so that whoever must wait for that later waits for less. No promise
/// that it lasts.
pub fn settle(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    write_range(file, 0, 0, flags)
}

#[expect(unsafe_code, reason = "sync_file_range has no wrapper")]
fn write_range(file: &File, from: u64, length: u64, flags: libc::c_uint) -> io::Result<()> {
    let [from, length] = [from, length].map(|value| libc::off64_t::try_from(value).unwrap_or(libc::off64_t::MAX));
    // SAFETY: a descriptor that is open, and three numbers.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, flags) };
    Errno::result(result)?;
    Ok(())
}

/// Waits until this part is written back, then takes it out of the cache. It is no promise that it lasts: the disk may still have it in its own.
pub fn write_back_and_drop(file: &File, from: u64, length: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    write_range(file, from, length, flags)?;
    drop_cache(file, from, length)
}

/// Asks for this part to be brought into the cache; does not wait for it.
pub fn read_ahead(file: &File, from: u64, length: u64) -> io::Result<()> {
    let [from, length] = [from, length].map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    direct::will_need(file, from, length)
}

/// Takes this part out of the cache, so that the next read of it comes from the disk. Pages that are not written back yet stay.
pub fn drop_cache(file: &File, from: u64, length: u64) -> io::Result<()> {
    let [from, length] = [from, length].map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    direct::drop_cached(file, from, length)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn what_was_dropped_is_not_cached_and_what_was_read_is() {
        let directory = TempDir::new();
        let path = directory.path().join("f");
        let length = 4 * STRETCH_BYTES + 5;
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.write_all_at(&vec![9; usize::try_from(length).unwrap()], 0).unwrap();
        write_back(&file, 0, length).unwrap();
        file.sync_all().unwrap();
        write_back_and_drop(&file, 0, length).unwrap();
        let cached = Cached::of(&file, length).unwrap();
        if cached.had(0) {
            eprintln!("skipped: {} lives in the cache", directory.path().display());
            return;
        }
        assert_eq!([0, 1, 2, 3, 4].map(|n| cached.had(n * STRETCH_BYTES)), [false; 5]);
        assert!(cached.had(5 * STRETCH_BYTES), "nobody has looked there");
        file.read_exact_at(&mut [0; 10], 4 * STRETCH_BYTES - 4096).unwrap();
        assert!(Cached::of(&file, length).unwrap().had(3 * STRETCH_BYTES));
    }
}
