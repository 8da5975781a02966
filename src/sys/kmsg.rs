//! /dev/kmsg: one record a read, for every reader from its own position (Documentation/ABI/testing/dev-kmsg).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// The longest record that the kernel gives out (CONSOLE_EXT_LOG_MAX).
pub const RECORD_BYTES_MAX: usize = 8 << 10;

/// The kernel's log, or for tests a pipe or file with the same text; non-blocking.
#[derive(Debug)]
pub struct Kmsg(File);

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The oldest record that is still there.
    Oldest,
    /// The next one to come.
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes in the buffer: of the kernel one record, of a pipe or file whatever was there.
    Bytes(usize),
    /// Records were overwritten before they were read; the next reading goes on with the oldest that is there.
    Lost,
    /// Nothing more for now.
    Nothing,
    /// The file, which is no log, is read.
    End,
}

impl Kmsg {
    pub fn open(path: &Path, from: From) -> io::Result<Self> {
        // A pipe that is held open for writing too does not end when its writers go.
        let pipe = path.metadata()?.file_type().is_fifo();
        let mut file = File::options().read(true).write(pipe).custom_flags(libc::O_NONBLOCK).open(path)?;
        let start = match from {
            From::Oldest => SeekFrom::Start(0),
            From::Now => SeekFrom::End(0),
        };
        match file.seek(start) {
            Ok(_) => Ok(Self(file)),
            // A pipe has no past.
            Err(error) if error.raw_os_error() == Some(Errno::ESPIPE as i32) => Ok(Self(file)),
            Err(error) => Err(error),
        }
    }

    /// `buffer` has at least [`RECORD_BYTES_MAX`]: a record that does not fit is an error, again and again.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => return Ok(Got::End),
                Ok(length) => return Ok(Got::Bytes(length)),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::EAGAIN) => return Ok(Got::Nothing),
                    Some(Errno::EPIPE) => return Ok(Got::Lost),
                    Some(_) | None => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Kmsg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_of_this_host_is_read_from_its_oldest_record_to_the_end() {
        let mut kmsg = match Kmsg::open(Path::new("/dev/kmsg"), From::Oldest) {
            Ok(kmsg) => kmsg,
            Err(error) => return eprintln!("skipped: cannot open /dev/kmsg: {error}"),
        };
        let mut buffer = vec![0; RECORD_BYTES_MAX];
        let first = kmsg.read(&mut buffer).unwrap();
        assert!(matches!(first, Got::Bytes(length) if buffer[..length].contains(&b';')), "{first:?}");
        let mut late = Kmsg::open(Path::new("/dev/kmsg"), From::Now).unwrap();
        assert!(matches!(late.read(&mut buffer).unwrap(), Got::Nothing | Got::Bytes(_)));
    }
}
