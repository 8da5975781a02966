//! Files without a name (memfd_create(2)): what a child reads or writes through one never waits for anybody, and is gone with its last user.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, ftruncate, lseek};

/// Never to be executed (6.3, which warns when this is not said).
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// A file with this content, to be read from its beginning.
pub fn holding(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(create(c"mainstay-input")?);
    file.write_all(bytes)?;
    lseek(&file, 0, Whence::SeekSet)?;
    Ok(file.into())
}

/// A file that takes this many bytes; writing more is EPERM.
pub fn taking(bytes_max: u16) -> io::Result<OwnedFd> {
    let file = create(c"mainstay-output")?;
    ftruncate(&file, i64::from(bytes_max))?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK))?;
    Ok(file)
}

/// What was written into a file of [`taking`], by whatever descriptor.
pub fn taken(file: BorrowedFd<'_>, bytes_max: u16) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(bytes_max)];
    let length = nix::sys::uio::pread(file.as_fd(), &mut bytes, 0)?;
    bytes.truncate(length);
    // What nobody has written reads as zeros.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(written);
    Ok(bytes)
}

fn create(name: &CStr) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | NOEXEC_SEAL) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn content_is_read_from_the_beginning() {
        let mut text = String::new();
        File::from(holding(b"{\"event\":\"failing\"}\n").unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"event\":\"failing\"}\n");
    }

    #[test]
    fn file_takes_so_much_and_refuses_the_rest() {
        let file = taking(64).unwrap();
        assert_eq!(taken(file.as_fd(), 64).unwrap(), b"");
        let mut writer = File::from(file.try_clone().unwrap());
        writer.write_all(b"curl: (7) no\n").unwrap();
        assert_eq!(taken(file.as_fd(), 64).unwrap(), b"curl: (7) no\n");
        let refused = (0..100).find_map(|_| writer.write(b"and more and more\n").err()).unwrap();
        assert_eq!(refused.raw_os_error(), Some(nix::libc::EPERM));
        assert!(taken(file.as_fd(), 64).unwrap().len() <= 64);
    }
}
