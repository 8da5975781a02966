//! One reading of what may block, by whoever calls: `mainstay checks --once` does it in a process of its own.

use std::path::Path;

use super::{read_link_modes, read_sensors, read_smart, read_space};
use crate::engine::host::sample::Sample;
use crate::engine::host::watch::Source;

/// `None`: not read this way. Canaries are not, because nothing is written without an agent.
#[must_use]
pub fn read_blocking(root: &Path, source: &Source) -> Option<Sample> {
    match source {
        Source::Sensors => Some(Sample::Sensors(read_sensors(root))),
        Source::LinkModes(nics) => Some(Sample::LinkModes(read_link_modes(root, nics))),
        Source::Space { mount } => Some(Sample::Space(read_space(root, mount))),
        Source::Smart { disk, by } => Some(Sample::Smart(read_smart(root, disk, *by))),
        Source::System
        | Source::Disks(_)
        | Source::Filesystems(_)
        | Source::Nics(_)
        | Source::Gateway
        | Source::Hardware
        | Source::Kernel
        | Source::Canary { .. }
        | Source::FilesystemErrors { .. } => None,
    }
}
