//! Descriptors that this process was born with, by number.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes the inherited descriptor `number` into possession and sets its close-on-exec flag; `None` when there is none open.
///
/// Call it before anything else of this process opens descriptors, once for each number: what is open at that number then was
/// handed over by the parent and belongs to nobody in this process.
///
/// # Errors
/// Numbers below 3 (the standard streams have owners), and whatever fcntl(2) says but EBADF.
pub fn take(number: RawFd) -> io::Result<Option<OwnedFd>> {
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptors below 3 are the standard streams"));
    }
    #[expect(unsafe_code, reason = "a number becomes a descriptor")]
    // SAFETY: borrowed for one fcntl, which answers EBADF when the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    match fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => {}
        Err(Errno::EBADF) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    #[expect(unsafe_code, reason = "a number becomes a descriptor")]
    // SAFETY: the number is open (seen above), and by the contract of this function nobody else in this process owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(Some(owned))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn inherited_descriptor_is_taken_once_and_a_closed_one_is_none() {
        let (mut read, write) = std::io::pipe().unwrap();
        let number = OwnedFd::from(write).into_raw_fd();
        let taken = take(number).unwrap().unwrap();
        std::fs::File::from(taken).write_all(b"\n").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\n");
        // Far above what the other tests of this process have open.
        assert!(take(1_000_000).unwrap().is_none());
        assert!(take(2).is_err());
    }
}
