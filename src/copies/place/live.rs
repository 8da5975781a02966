//! What services run from: `live/DIRECTORY/` with the data and a marker that is written last and says which copy it was.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::copies::failure::is_missing;
use crate::copies::format::layout::{LIVE, LIVE_MARKER};
use crate::engine::copies::catalog::FailedOver;
use crate::sys::dir::Dir;

/// A marker is shorter than this.
const MARKER_BYTES_MAX: u64 = 4 << 10;

/// The markers of all that is whole.
pub(in crate::copies) fn markers(set: &Dir) -> io::Result<Vec<FailedOver>> {
    let live = match set.sub(Path::new(LIVE)) {
        Ok(live) => live,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for (name, _, _) in live.entries()? {
        match live.sub(Path::new(&name)).and_then(|dir| marker(&dir)) {
            Ok(Some(marker)) => found.push(marker),
            Ok(None) => {}
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Of one directory; `None`: it is not whole.
pub(in crate::copies) fn marker(dir: &Dir) -> io::Result<Option<FailedOver>> {
    let file = match dir.read(OsStr::new(LIVE_MARKER)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MARKER_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

pub(in crate::copies) fn write_marker(dir: &Dir, marker: &FailedOver) -> io::Result<()> {
    let mut file = dir.overwrite(OsStr::new(LIVE_MARKER))?;
    file.write_all(&serde_json::to_vec(marker)?)?;
    file.sync_all()
}
