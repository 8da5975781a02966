//! What an inode has beside its content: owner, mode, times, extended attributes (access control lists and capabilities among them).
//!
//! An inode is an open file or, for what cannot be opened so, a handle (`O_PATH`); attributes of the latter are reached through `/proc/self/fd`,
//! which leads to that inode and to no other, a symbolic link itself included.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use super::dir::Dir;
use super::stat::{self, Stamp, Stat};

/// Names and values of one inode together. The kernel has a limit for the names and for each value, but none for their number.
pub const ATTRIBUTES_BYTES_MAX: usize = 1 << 20;
/// What most inodes fit in, so that one call is enough.
const FIRST_BYTES: usize = 1024;

/// Name and value.
pub type Attribute = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
pub enum Inode<'a> {
    Open(BorrowedFd<'a>),
    /// Of [`Dir::handle`].
    Handle(OwnedFd),
}

impl<'a> Inode<'a> {
    /// A file or a directory that is open for reading or writing.
    pub fn open(file: &'a impl AsFd) -> Self {
        Self::Open(file.as_fd())
    }

    /// Whatever has this name, a link itself.
    pub fn named(dir: &Dir, name: &OsStr) -> io::Result<Self> {
        dir.handle(name).map(Self::Handle)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(file) => *file,
            Self::Handle(handle) => handle.as_fd(),
        }
    }

    /// By the bytes of the names. An attribute that goes away meanwhile is left out.
    pub fn attributes(&self) -> io::Result<Vec<Attribute>> {
        let place = self.place()?;
        let names = grown(|buffer| self.call_list(&place, buffer))?;
        let mut found = Vec::new();
        let mut bytes = names.len();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let value = match grown(|buffer| self.call_get(&place, name, buffer)) {
                Ok(value) => value,
                Err(error) if error.raw_os_error() == Some(Errno::ENODATA as i32) => continue,
                Err(error) => return Err(error),
            };
            bytes += value.len();
            if bytes > ATTRIBUTES_BYTES_MAX {
                return Err(Errno::E2BIG.into());
            }
            found.push((name.to_bytes().to_vec(), value));
        }
        found.sort();
        Ok(found)
    }

    pub fn set_attribute(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let (place, name) = (self.place()?, CString::new(name)?);
        self.call_set(&place, &name, value)
    }

    pub fn remove_attribute(&self, name: &[u8]) -> io::Result<()> {
        let (place, name) = (self.place()?, CString::new(name)?);
        self.call_remove(&place, &name)
    }

    pub fn stat(&self) -> io::Result<Stat> {
        stat::of(self.fd())
    }

    /// `None` leaves the owner or the group as it is.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(fchownat(self.fd(), "", uid, gid, AtFlags::AT_EMPTY_PATH)?)
    }

    /// Not for symbolic links, which have none.
    pub fn chmod(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        match self {
            Self::Open(file) => fchmod(file, mode)?,
            Self::Handle(_) => fchmodat(AT_FDCWD, self.place()?.as_c_str(), mode, FchmodatFlags::FollowSymlink)?,
        }
        Ok(())
    }

    /// The time of the last change; that of the last access becomes the same.
    pub fn set_mtime(&self, mtime: Stamp) -> io::Result<()> {
        let time = TimeSpec::new(mtime.s, i64::from(mtime.ns));
        match self {
            Self::Open(file) => futimens(file, &time, &time)?,
            Self::Handle(_) => {
                utimensat(AT_FDCWD, self.place()?.as_c_str(), &time, &time, UtimensatFlags::FollowSymlink)?;
            }
        }
        Ok(())
    }

    /// Empty for an open file, which needs none.
    fn place(&self) -> io::Result<CString> {
        Ok(match self {
            Self::Open(_) => CString::default(),
            Self::Handle(handle) => CString::new(format!("/proc/self/fd/{}", handle.as_raw_fd()))?,
        })
    }

    #[expect(unsafe_code, reason = "flistxattr and listxattr have no wrapper")]
    fn call_list(&self, place: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (start, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        let filled = match self {
            // SAFETY: a descriptor that is open, and pointer and length of `buffer`.
            Self::Open(file) => unsafe { libc::flistxattr(file.as_raw_fd(), start, length) },
            // SAFETY: a C string, and pointer and length of `buffer`.
            Self::Handle(_) => unsafe { libc::listxattr(place.as_ptr(), start, length) },
        };
        Ok(Errno::result(filled)?.cast_unsigned())
    }

    #[expect(unsafe_code, reason = "fgetxattr and getxattr have no wrapper")]
    fn call_get(&self, place: &CStr, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (start, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        let filled = match self {
            // SAFETY: a descriptor that is open, a C string, and pointer and length of `buffer`.
            Self::Open(file) => unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), start, length) },
            // SAFETY: two C strings, and pointer and length of `buffer`.
            Self::Handle(_) => unsafe { libc::getxattr(place.as_ptr(), name.as_ptr(), start, length) },
        };
        Ok(Errno::result(filled)?.cast_unsigned())
    }

    #[expect(unsafe_code, reason = "fsetxattr and setxattr have no wrapper")]
    fn call_set(&self, place: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
        let (start, length) = (value.as_ptr().cast(), value.len());
        let result = match self {
            // SAFETY: a descriptor that is open, a C string, and pointer and length of `value`.
            Self::Open(file) => unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), start, length, 0) },
            // SAFETY: two C strings, and pointer and length of `value`.
            Self::Handle(_) => unsafe { libc::setxattr(place.as_ptr(), name.as_ptr(), start, length, 0) },
        };
        Errno::result(result)?;
        Ok(())
    }

    #[expect(unsafe_code, reason = "fremovexattr and removexattr have no wrapper")]
    fn call_remove(&self, place: &CStr, name: &CStr) -> io::Result<()> {
        let result = match self {
            // SAFETY: a descriptor that is open, and a C string.
            Self::Open(file) => unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) },
            // SAFETY: two C strings.
            Self::Handle(_) => unsafe { libc::removexattr(place.as_ptr(), name.as_ptr()) },
        };
        Errno::result(result)?;
        Ok(())
    }
}

/// The attributes of an open file; none on a file system that has none.
pub fn list(file: &File) -> io::Result<Vec<Attribute>> {
    or_none(Inode::open(file).attributes())
}

/// The attributes of whatever has this name, a link itself; none on a file system that has none.
pub fn list_named(dir: &Dir, name: &OsStr) -> io::Result<Vec<Attribute>> {
    // By way of the directory, which saves a handle for each of many.
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    if name.as_bytes().contains(&b'/') {
        return Err(Errno::EINVAL.into());
    }
    match has_none(OsStr::from_bytes(&path)) {
        Ok(true) => Ok(Vec::new()),
        Ok(false) | Err(_) => or_none(Inode::named(dir, name)?.attributes()),
    }
}

/// A file system without attributes has none.
pub fn or_none(found: io::Result<Vec<Attribute>>) -> io::Result<Vec<Attribute>> {
    match found {
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Ok(Vec::new()),
        found => found,
    }
}

#[expect(unsafe_code, reason = "llistxattr has no wrapper")]
fn has_none(path: &OsStr) -> io::Result<bool> {
    let names = path.with_nix_path(|path| {
        // SAFETY: a C string, and no buffer, which asks for the length alone.
        unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) }
    })?;
    Ok(Errno::result(names)? == 0)
}

/// What the call fills in, with as large a buffer as it takes.
fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; FIRST_BYTES];
    loop {
        match call(&mut buffer) {
            Ok(filled) => {
                buffer.truncate(filled);
                return Ok(buffer);
            }
            Err(Errno::ERANGE) if buffer.len() < ATTRIBUTES_BYTES_MAX => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::sys::testing::{TempDir, root_or_skip};

    const MTIME: Stamp = Stamp { s: -7, ns: 123_456_789 };

    #[test]
    fn attributes_of_files_directories_and_links_are_set_and_found() {
        if !root_or_skip("trusted attributes") {
            return;
        }
        let directory = TempDir::new();
        let dir = Dir::open(directory.path()).unwrap();
        let file = dir.create(OsStr::new("f"), 0o600).unwrap();
        dir.make_dir(OsStr::new("d"), 0o700).unwrap();
        symlink("nowhere", directory.path().join("l")).unwrap();
        assert!(list(&file).unwrap().is_empty());
        let open = Inode::open(&file);
        if let Err(error) = open.set_attribute(b"trusted.b", b"\0\xff") {
            eprintln!("skipped: {}: {error}", directory.path().display());
            return;
        }
        open.set_attribute(b"trusted.a", &[7; 3000]).unwrap();
        let expected = [(b"trusted.a".to_vec(), vec![7; 3000]), (b"trusted.b".to_vec(), vec![0, 255])];
        assert_eq!(list(&file).unwrap(), expected);
        assert_eq!(list_named(&dir, OsStr::new("f")).unwrap(), expected);
        for name in ["d", "l"] {
            let inode = Inode::named(&dir, OsStr::new(name)).unwrap();
            inode.set_attribute(b"trusted.x", b"").unwrap();
            assert_eq!(list_named(&dir, OsStr::new(name)).unwrap(), [(b"trusted.x".to_vec(), vec![])]);
            inode.remove_attribute(b"trusted.x").unwrap();
            assert!(list_named(&dir, OsStr::new(name)).unwrap().is_empty());
        }
        assert!(list_named(&dir, OsStr::new("../etc")).is_err());
    }

    #[test]
    fn owner_mode_and_times_reach_the_inode_itself() {
        let directory = TempDir::new();
        let dir = Dir::open(directory.path()).unwrap();
        fs::write(directory.path().join("f"), "").unwrap();
        symlink("f", directory.path().join("l")).unwrap();
        let file = Inode::named(&dir, OsStr::new("f")).unwrap();
        file.chmod(0o4711).unwrap();
        file.set_mtime(MTIME).unwrap();
        let link = Inode::named(&dir, OsStr::new("l")).unwrap();
        link.set_mtime(Stamp { s: 5, ns: 5 }).unwrap();
        link.chown(None, None).unwrap();
        if root_or_skip("chown") {
            link.chown(Some(12_345), None).unwrap();
            assert_eq!(fs::symlink_metadata(directory.path().join("l")).unwrap().uid(), 12_345);
        }
        let (f, l) = (dir.stat(OsStr::new("f")).unwrap(), dir.stat(OsStr::new("l")).unwrap());
        assert_eq!((f.mode & 0o7777, f.mtime, l.mtime.s), (0o4711, MTIME, 5));
        let open = dir.read(OsStr::new("f")).unwrap();
        Inode::open(&open).chmod(0o600).unwrap();
        Inode::open(&open).set_mtime(Stamp { s: 9, ns: 9 }).unwrap();
        assert_eq!(dir.stat(OsStr::new("f")).unwrap().mtime, Stamp { s: 9, ns: 9 });
    }
}
