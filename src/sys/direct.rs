//! Past the page cache: to the device, or an error.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};

/// From now on, reads and writes of this open file go to the device. `false`: its file system does not do that.
pub fn bypass_cache(file: &File) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    match fcntl(file.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)) {
        Ok(_) => Ok(true),
        Err(Errno::EINVAL | Errno::ENOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Asks the kernel to drop this part from its page cache, so that the next read of it goes to the device; pages that are not written
/// yet stay.
pub fn drop_cached(file: &File, offset: i64, bytes: i64) -> io::Result<()> {
    Ok(posix_fadvise(file.as_fd(), offset, bytes, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Asks the kernel to begin to read this part into its page cache.
pub fn will_need(file: &File, offset: i64, bytes: i64) -> io::Result<()> {
    Ok(posix_fadvise(file.as_fd(), offset, bytes, PosixFadviseAdvice::POSIX_FADV_WILLNEED)?)
}

/// Through the page cache again.
pub fn use_cache(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
    Ok(())
}
