//! One attribute of /sys, read once: broken drivers answer EAGAIN for ever, so there is no loop.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Attributes that are read are numbers and words.
const BYTES_MAX: usize = 128;

/// Without the spaces and the newline around it.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut buffer = [0; BYTES_MAX];
    let length = File::open(path)?.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

pub(super) fn number(path: &Path) -> io::Result<i64> {
    let text = text(path)?;
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no number")))
}

/// `None` where there is no such attribute, or nothing in it.
pub(super) fn word(path: &Path) -> Option<String> {
    text(path).ok().filter(|text| !text.is_empty())
}
