//! Extended attributes of cgroup directories: `user.` ones where the kernel has them there (5.7), else `trusted.`, which needs
//! CAP_SYS_ADMIN.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

const NAMESPACES: [&str; 2] = ["user.", "trusted."];

/// Longer values than this are not ours.
const VALUE_BYTES_MAX: usize = 256;

/// Sets the attribute in the first namespace that takes it.
pub(super) fn set(path: &Path, name: &str, value: &str) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut failed = Errno::ENOTSUP;
    for namespace in NAMESPACES {
        let name = CString::new(format!("{namespace}{name}"))?;
        match set_one(&path, &name, value.as_bytes()) {
            Ok(()) => return Ok(()),
            Err(errno) => failed = errno,
        }
    }
    Err(failed.into())
}

/// The attribute, from whichever namespace has it; `None` when none has.
pub(super) fn get(path: &Path, name: &str) -> Option<String> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    NAMESPACES.iter().find_map(|namespace| {
        let name = CString::new(format!("{namespace}{name}")).ok()?;
        get_one(&path, &name)
    })
}

#[expect(unsafe_code, reason = "setxattr")]
fn set_one(path: &CString, name: &CString, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: two C strings, and pointer and length of `value`.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

#[expect(unsafe_code, reason = "getxattr")]
fn get_one(path: &CString, name: &CString) -> Option<String> {
    let mut value = [0_u8; VALUE_BYTES_MAX];
    // SAFETY: two C strings, and pointer and length of `value`.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let length = usize::try_from(length).ok()?;
    String::from_utf8(value[..length].to_vec()).ok()
}
