//! Locks of parts of files that belong to an open file and not to a process: they end when that is closed, and what else this process opens and closes does them
//! no harm. They stand in the way of the POSIX locks of other processes, and the other way round.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// A part of a file, which may lie beyond its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub from: u64,
    pub length: u64,
}

/// Keeps others from locking this part for themselves alone. `false`: somebody has. The file is open for reading.
pub fn try_share(file: &File, part: Part) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK, part))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

pub fn release(file: &File, part: Part) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_UNLCK, part)))?;
    Ok(())
}

/// Whether somebody has locked any of this part for himself alone.
pub fn is_taken(file: &File, part: Part) -> io::Result<bool> {
    let mut found = lock(libc::F_RDLCK, part);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn lock(kind: libc::c_int, part: Part) -> libc::flock {
    let offset = |value: u64| libc::off_t::try_from(value).unwrap_or(libc::off_t::MAX);
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: offset(part.from),
        l_len: offset(part.length),
        // The kernel wants it so.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn locks_of_two_open_files_meet_and_end_with_their_file() {
        const PART: Part = Part { from: 0x4000_0000, length: 510 };
        let directory = TempDir::new();
        let path = directory.path().join("f");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (writer, reader) = (open(), open());
        let alone = lock(libc::F_WRLCK, Part { from: PART.from + 1, length: 1 });
        fcntl(&writer, FcntlArg::F_OFD_SETLK(&alone)).unwrap();
        assert!(!try_share(&reader, PART).unwrap());
        assert!(is_taken(&reader, PART).unwrap());
        assert!(try_share(&reader, Part { from: 0, length: 100 }).unwrap());
        // Another descriptor of this process takes nothing away.
        drop(open());
        assert!(is_taken(&reader, PART).unwrap());
        drop(writer);
        assert!(!is_taken(&reader, PART).unwrap());
        assert!(try_share(&reader, PART).unwrap());
        let writer = open();
        assert_eq!(fcntl(&writer, FcntlArg::F_OFD_SETLK(&alone)), Err(Errno::EAGAIN));
        release(&reader, PART).unwrap();
        fcntl(&writer, FcntlArg::F_OFD_SETLK(&alone)).unwrap();
    }
}
