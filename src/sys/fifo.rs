//! Named pipes for the output of services. The service holds its own pipe open for reading too, so nothing breaks while the reader is
//! away: it writes on, and waits when the pipe is full. The next reader goes on where the last one stopped.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, SpliceFFlags, fcntl, openat, tee};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};

use super::unix::give;

/// What a pipe holds while nobody reads, where the kernel's limits allow it (64 KiB otherwise).
pub const PIPE_BYTES: i32 = 1 << 20;

/// Makes a named pipe with mode 0600 for `owner` (`None`: us), unless there is one. EEXIST when something else is there.
pub fn create(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => {}
        Err(Errno::EEXIST) if fs::symlink_metadata(path)?.file_type().is_fifo() => {}
        Err(errno) => return Err(errno.into()),
    }
    give(path, owner)
}

/// For the service: both ways and blocking, so that it never sees a broken pipe nor an error when the pipe is full. Its size is the
/// reader's care.
pub fn open_read_write(path: &Path) -> io::Result<OwnedFd> {
    open_fifo(path, OFlag::empty())
}

/// For the reader: both ways as well, so that there is never an end, and non-blocking. Makes the pipe larger ([`PIPE_BYTES`]).
pub fn open_reader(path: &Path) -> io::Result<OwnedFd> {
    let fifo = open_fifo(path, OFlag::O_NONBLOCK)?;
    grow(&fifo);
    Ok(fifo)
}

fn open_fifo(path: &Path, more: OFlag) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | more;
    // Not open(2), which the C library follows by setting close-on-exec once more.
    let fifo = openat(AT_FDCWD, path, flags, Mode::empty())?;
    let kind = nix::sys::stat::fstat(&fifo)?.st_mode & nix::libc::S_IFMT;
    if kind != nix::libc::S_IFIFO {
        return Err(Errno::EEXIST.into());
    }
    Ok(fifo)
}

fn grow(pipe: &OwnedFd) {
    if fcntl(pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|bytes| bytes < PIPE_BYTES) {
        // Best effort: a user's share of pipe memory may be spent, and the pipe works at its old size.
        let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }
}

/// The reading end (non-blocking) and the writing end (blocking) of an anonymous pipe; both close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

/// Copies what waits in a pipe into `buffer` without taking it out (tee(2) into a scratch pipe). `None` at the end of the pipe: all its
/// writers are gone; 0 when nothing waits.
pub fn peek(reader: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let (copy, scratch) = pipe()?;
    match tee(reader, &scratch, buffer.len(), SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(nix::unistd::read(&copy, buffer)?)),
        Err(Errno::EAGAIN) => Ok(Some(0)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{read, write};

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn next_reader_goes_on_where_the_last_one_stopped() {
        let directory = TempDir::new();
        let path = directory.path().join("api.0");
        create(&path, None).unwrap();
        create(&path, None).unwrap();
        let service = open_read_write(&path).unwrap();
        let first = open_reader(&path).unwrap();
        write(&service, b"one\ntwo\n").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(read(&first, &mut buffer), Ok(4));
        drop(first);
        write(&service, b"three\n").unwrap();
        let second = open_reader(&path).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(read(&second, &mut buffer), Ok(10));
        assert_eq!(&buffer[..10], b"two\nthree\n");
        assert_eq!(read(&second, &mut buffer), Err(Errno::EAGAIN));
    }

    #[test]
    fn writer_waits_where_the_reader_does_not() {
        let directory = TempDir::new();
        let path = directory.path().join("api.0");
        create(&path, None).unwrap();
        let flags = |fd: &OwnedFd| OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        assert!(!flags(&open_read_write(&path).unwrap()).contains(OFlag::O_NONBLOCK));
        assert!(flags(&open_reader(&path).unwrap()).contains(OFlag::O_NONBLOCK));
        let (reader, writer) = pipe().unwrap();
        assert!(flags(&reader).contains(OFlag::O_NONBLOCK));
        assert!(!flags(&writer).contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn anything_but_a_pipe_is_refused() {
        let directory = TempDir::new();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        assert_eq!(create(&path, None).unwrap_err().raw_os_error(), Some(nix::libc::EEXIST));
        assert_eq!(open_reader(&path).unwrap_err().raw_os_error(), Some(nix::libc::EEXIST));
        let link = directory.path().join("link");
        create(&directory.path().join("fifo"), None).unwrap();
        std::os::unix::fs::symlink("fifo", &link).unwrap();
        assert!(create(&link, None).is_err());
        assert!(open_reader(&link).is_err());
    }

    #[test]
    fn what_is_peeked_at_stays_in_the_pipe_until_its_end() {
        let (reader, writer) = pipe().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(peek(&reader, &mut buffer).unwrap(), Some(0));
        write(&writer, b"up\n").unwrap();
        for _ in 0..2 {
            assert_eq!(peek(&reader, &mut buffer).unwrap(), Some(3));
            assert_eq!(&buffer[..3], b"up\n");
        }
        assert_eq!(read(&reader, &mut buffer), Ok(3));
        drop(writer);
        assert_eq!(peek(&reader, &mut buffer).unwrap(), None);
    }
}
