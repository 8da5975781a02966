//! What a child takes along from its parent: copies of the strings and lists it needs, in memory that is not the heap.
//!
//! The heap is not there in children of a process that keeps it to itself ([`super::heap`]). The stack always is, so that is where the copies
//! lie, or in a mapping of their own when there are many.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc::{self, c_char};

/// Enough for the arguments and environment of most programs.
pub(super) const SMALL_BYTES: usize = 8 << 10;

/// Room on the stack; only what is written to takes memory.
pub(super) type Small = [MaybeUninit<u8>; SMALL_BYTES];

/// Memory that is filled from its beginning.
#[derive(Debug)]
pub(super) struct Luggage<'m> {
    free: &'m mut [MaybeUninit<u8>],
}

impl<'m> Luggage<'m> {
    /// In `small` if `bytes` fit there, else in `large`, which then becomes a mapping of that size.
    pub(super) fn new(bytes: usize, small: &'m mut Small, large: &'m mut Option<Mapping>) -> Result<Self, Errno> {
        if bytes <= SMALL_BYTES {
            return Ok(Self { free: small });
        }
        Ok(Self { free: large.insert(Mapping::new(bytes)?).bytes() })
    }

    /// Copies a list into it.
    #[expect(unsafe_code, reason = "uninitialised memory becomes a list")]
    pub(super) fn pack<T: Copy>(&mut self, items: &[T]) -> Result<&'m mut [T], Errno> {
        let free = std::mem::take(&mut self.free);
        let skipped = free.as_ptr().align_offset(align_of::<T>());
        let end = skipped.checked_add(size_of_val(items)).filter(|end| *end <= free.len()).ok_or(Errno::E2BIG)?;
        let (used, rest) = free.split_at_mut(end);
        self.free = rest;
        let first = used[skipped..].as_mut_ptr().cast::<T>();
        // SAFETY: `first` is aligned for T and begins `items.len()` places that nobody else refers to for 'm. They are filled before they
        // are called a list, and what is Copy may be copied as bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(items.as_ptr(), first, items.len());
            Ok(std::slice::from_raw_parts_mut(first, items.len()))
        }
    }

    pub(super) fn pack_string(&mut self, string: &CStr) -> Result<&'m CStr, Errno> {
        let bytes: &'m [u8] = self.pack(string.to_bytes_with_nul())?;
        CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::EINVAL)
    }

    /// Copies the strings and the list of their addresses.
    pub(super) fn pack_strings(&mut self, strings: &[CString]) -> Result<&'m [*const c_char], Errno> {
        let addresses = strings.iter().map(|string| self.pack_string(string).map(CStr::as_ptr));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        self.pack_pointers(addresses)
    }

    /// The list with a null pointer as its end.
    pub(super) fn pack_pointers(&mut self, mut addresses: Vec<*const c_char>) -> Result<&'m [*const c_char], Errno> {
        addresses.push(std::ptr::null());
        Ok(self.pack(&addresses)?)
    }
}

/// Private anonymous memory.
#[derive(Debug)]
pub(super) struct Mapping {
    first: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    #[expect(unsafe_code, reason = "mmap")]
    fn new(length: usize) -> Result<Self, Errno> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping where the kernel likes it; nothing that exists is touched.
        let first = unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind, -1, 0) };
        if first == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self { first: NonNull::new(first).ok_or(Errno::ENOMEM)?, length })
    }

    #[expect(unsafe_code, reason = "a mapping as a list of bytes")]
    fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the mapping has this length, is ours alone, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr().cast(), self.length) }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.first.as_ptr(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_lie_one_after_the_other_aligned_and_never_beyond_the_end() {
        let mut small = [const { MaybeUninit::uninit() }; SMALL_BYTES];
        let mut large = None;
        let mut luggage = Luggage::new(SMALL_BYTES, &mut small, &mut large).unwrap();
        let bytes = luggage.pack(b"odd").unwrap();
        let numbers = luggage.pack(&[1_u64, 2, 3]).unwrap();
        let text = luggage.pack_string(c"text").unwrap();
        bytes[0] = b'O';
        numbers[2] = 4;
        assert_eq!((&*bytes, &*numbers, text), (b"Odd".as_slice(), [1, 2, 4].as_slice(), c"text"));
        assert_eq!(luggage.pack(&[0_u8; SMALL_BYTES]), Err(Errno::E2BIG));
    }

    #[test]
    fn much_goes_into_a_mapping_of_its_own() {
        let mut small = [const { MaybeUninit::uninit() }; SMALL_BYTES];
        let mut large = None;
        let mut luggage = Luggage::new(SMALL_BYTES + 1, &mut small, &mut large).unwrap();
        assert_eq!(
            luggage.pack(&[7_u8; SMALL_BYTES]).unwrap().iter().map(|byte| usize::from(*byte)).sum::<usize>(),
            7 * SMALL_BYTES
        );
        assert!(large.is_some());
    }
}
