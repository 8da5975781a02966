//! A file that is worth nothing, and is given up when the disk is full: so there is room to write down what has been deleted.

use std::ffi::OsStr;
use std::io;

use crate::copies::format::layout::{RESERVE, RESERVE_BYTES};
use crate::sys::clone;
use crate::sys::dir::Dir;

/// Makes it where it is missing and there is room for it several times over.
pub(in crate::copies) fn make(root: &Dir) -> io::Result<()> {
    let name = OsStr::new(RESERVE);
    if root.stat(name).is_ok_and(|found| found.size == RESERVE_BYTES) || root.space()?.free_bytes < RESERVE_BYTES * 4 {
        return Ok(());
    }
    let file = root.overwrite(name)?;
    let made = clone::reserve(&file, RESERVE_BYTES).and_then(|()| file.set_len(RESERVE_BYTES));
    if made.is_err() {
        give_up(root)?;
    }
    Ok(())
}

/// Takes it away.
pub(in crate::copies) fn give_up(root: &Dir) -> io::Result<()> {
    root.remove_file_if_there(OsStr::new(RESERVE))
}
