//! fanotify(7), for the one event that says what no flag of a mount does: FAN_FS_ERROR (Linux 5.16).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Bytes taken from the kernel at once. An event with its records is about 80 bytes long.
const READ_BYTES: usize = 1024;
/// struct fanotify_event_metadata: event_len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd i32, pid i32.
const METADATA_BYTES: usize = 24;
/// struct fanotify_event_info_header: info_type u8, pad u8, len u16.
const HEADER_BYTES: usize = 4;
/// struct fanotify_event_info_error: the header, error i32, error_count u32.
const ERROR_BYTES: usize = HEADER_BYTES + 8;
/// FAN_EVENT_INFO_TYPE_ERROR
const INFO_ERROR: u8 = 5;

/// An error that the file system reported, and how many there were since the last one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesystemError {
    pub errno: i32,
    pub count: u32,
}

/// Errors of one file system, for as long as it is mounted. Does not keep it from being unmounted.
#[derive(Debug)]
pub struct FilesystemErrors(OwnedFd);

impl FilesystemErrors {
    /// Of the file system that `path` lies on. EPERM without CAP_SYS_ADMIN; EINVAL before Linux 5.16; ENODEV, EXDEV and EOPNOTSUPP for file
    /// systems that cannot tell their files apart. A file system that reports no errors is accepted.
    #[expect(unsafe_code, reason = "fanotify_init has no wrapper here")]
    pub fn of(path: &Path) -> io::Result<Self> {
        let class = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID;
        // SAFETY: numbers only.
        let group = unsafe { libc::fanotify_init(class | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK, 0) };
        let group = Errno::result(group)?;
        // SAFETY: a fresh descriptor that nobody else has.
        let group = unsafe { OwnedFd::from_raw_fd(group) };
        let errors = Self(group);
        errors.mark(path)?;
        Ok(errors)
    }

    /// As [`Self::of`], for what is mounted there by now. Of one that is known already nothing is lost.
    #[expect(unsafe_code, reason = "fanotify_mark has no wrapper here")]
    pub fn mark(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: our own group and a C string.
        let marked = unsafe {
            libc::fanotify_mark(self.0.as_raw_fd(), flags, libc::FAN_FS_ERROR, libc::AT_FDCWD, path.as_ptr())
        };
        Errno::result(marked)?;
        Ok(())
    }

    /// What was reported since the last call; empty when nothing was.
    pub fn take(&self) -> io::Result<Vec<FilesystemError>> {
        let mut buffer = [0_u8; READ_BYTES];
        let mut found = Vec::new();
        loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(found),
                Ok(length) => found.extend(parse(&buffer[..length])),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for FilesystemErrors {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The error records of a buffer of events. What is cut or of another kind is left out.
fn parse(mut bytes: &[u8]) -> Vec<FilesystemError> {
    let mut found = Vec::new();
    while let Some((event, rest)) = split_event(bytes) {
        found.extend(error_of(event));
        bytes = rest;
    }
    found
}

/// The first event with its records, and what comes after it.
fn split_event(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    if length < METADATA_BYTES { None } else { bytes.split_at_checked(length) }
}

fn error_of(event: &[u8]) -> Option<FilesystemError> {
    let mut records = event.get(usize::from(u16_at(event, 6)?).max(METADATA_BYTES)..)?;
    loop {
        let length = usize::from(u16_at(records, 2)?);
        let record = records.get(..length.max(HEADER_BYTES))?;
        if record[0] == INFO_ERROR && length >= ERROR_BYTES {
            let errno = u32_at(record, HEADER_BYTES)?.cast_signed();
            let errno = i32::try_from(errno.unsigned_abs()).unwrap_or(i32::MAX);
            return Some(FilesystemError { errno, count: u32_at(record, HEADER_BYTES + 4)? });
        }
        records = records.get(record.len()..)?;
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event as Linux 6.18 gives it: metadata, an error record, and the file identifier of the root.
    fn event(errno: i32, count: u32) -> Vec<u8> {
        let mut records = vec![INFO_ERROR, 0];
        records.extend(12_u16.to_ne_bytes());
        records.extend(errno.to_ne_bytes());
        records.extend(count.to_ne_bytes());
        records.extend([1, 0]);
        records.extend(28_u16.to_ne_bytes());
        records.extend([7; 24]);
        let mut bytes = u32::try_from(METADATA_BYTES + records.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend([3, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(libc::FAN_FS_ERROR.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(0_i32.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    #[test]
    fn every_event_of_a_buffer_is_found_with_its_error() {
        let mut bytes = event(117, 1);
        bytes.extend(event(-5, 3));
        let expected = [FilesystemError { errno: 117, count: 1 }, FilesystemError { errno: 5, count: 3 }];
        assert_eq!(parse(&bytes), expected);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(parse(&bytes), expected[..1]);
    }

    #[test]
    fn garbage_is_no_event_and_no_end_of_the_process() {
        assert_eq!(parse(&[]), []);
        assert_eq!(parse(&[0; 200]), []);
        assert_eq!(parse(&[0xff; 200]), []);
        let whole = event(117, 1);
        for place in 0..whole.len() {
            for byte in [0, 1, 4, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = byte;
                parse(&bytes);
                parse(&bytes[..place]);
            }
        }
    }
}
