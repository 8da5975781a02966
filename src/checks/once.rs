//! All readings of this role without its loop and without an agent, for `mainstay checks --once`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::block::BlockReader;
use super::devices;
use super::filesystems::{FilesystemsReader, Wanted};
use super::gateway::{ANSWER_MAX, Asked, GatewayReader};
use super::hardware::HardwareReader;
use super::kernel::{Begin, KernelReader, Turn};
use super::nics::NicsReader;
use super::reading::Buffer;
use super::system::SystemReader;
use crate::engine::host::sample::{Devices, Sample};
use crate::engine::host::watch::{Missing, Source};

/// Turns of the kernel's log that are read at once: more records than its buffer usually has.
const TURNS_MAX: usize = 500;

/// Readers of everything on this host that is read without waiting for a device.
#[derive(Debug)]
pub struct Once {
    system: Option<SystemReader>,
    disks: BlockReader,
    filesystems: FilesystemsReader,
    nics: NicsReader,
    gateway: Option<GatewayReader>,
    hardware: Option<HardwareReader>,
    kernel: Option<KernelReader>,
    missing: Vec<Missing>,
}

/// Looks what there is below `root` (`/`, or for tests a directory with the same files), and opens what tells of it.
#[must_use]
pub fn read_once(root: &Path) -> (Devices, Once) {
    let devices = devices::read(root, &mut Buffer::new());
    let mut missing = Vec::new();
    let mut note = |source: Source, why: String| missing.push(Missing { source, why });
    let disks: Vec<String> = devices.disks.iter().map(|disk| disk.name.clone()).collect();
    let nics: Vec<String> = devices.nics.iter().map(|nic| nic.name.clone()).collect();
    let local = devices.mounts.iter().filter(|mount| !mount.remote);
    let mounts: Vec<Wanted> =
        local.map(|mount| (mount.point.clone(), mount.device.clone(), mount.fs_type.clone())).collect();
    let kmsg = match root == Path::new("/") {
        true => PathBuf::from("/dev/kmsg"),
        false => root.join("dev/kmsg"),
    };
    let once = Once {
        system: SystemReader::new(root).map_err(|why| note(Source::System, why)).ok(),
        disks: BlockReader::new(root, &disks),
        filesystems: FilesystemsReader::new(root, &mounts),
        nics: NicsReader::new(root, &nics),
        gateway: Some(GatewayReader::new(root)),
        hardware: HardwareReader::new(root).map_err(|why| note(Source::Hardware, why)).ok(),
        kernel: KernelReader::new(root, &kmsg, Begin::LookBack).map_err(|why| note(Source::Kernel, why)).ok(),
        missing: Vec::new(),
    };
    (devices, Once { missing, ..once })
}

impl Once {
    /// One reading of everything. The gateway has a second to answer; all else is there at once. Of the kernel's log the first
    /// reading has the last five minutes, a later one what came since.
    pub fn read(&mut self) -> Vec<Sample> {
        let now = Instant::now();
        let mut samples = Vec::new();
        samples.extend(self.system.as_mut().map(|reader| Sample::System(Box::new(reader.read()))));
        samples.push(Sample::Disks(self.disks.read()));
        samples.push(Sample::Filesystems(self.filesystems.read(now)));
        samples.push(Sample::Nics(self.nics.read()));
        samples.extend(self.hardware.as_ref().map(|reader| Sample::Hardware(Box::new(reader.read()))));
        samples.extend(self.read_gateway());
        samples.extend(self.read_kernel());
        samples
    }

    /// What this host cannot tell, with the reason. That of the gateway is known after the first reading.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    fn read_gateway(&mut self) -> Option<Sample> {
        let reader = self.gateway.as_mut()?;
        match reader.ask(Instant::now(), ANSWER_MAX) {
            Asked::Told(stat) => return Some(Sample::Gateway(stat)),
            Asked::Missing(why) => {
                self.missing.push(Missing { source: Source::Gateway, why });
                self.gateway = None;
                return None;
            }
            Asked::Wait => {}
        }
        while let Some(deadline) = reader.deadline() {
            let now = Instant::now();
            if let Some(stat) = reader.give_up(now) {
                return Some(Sample::Gateway(stat));
            }
            let left = deadline.saturating_duration_since(now) + Duration::from_millis(1);
            let socket = reader.asker()?;
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // A signal only makes it look again.
            let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout);
            if let Some(stat) = reader.hear() {
                return Some(Sample::Gateway(stat));
            }
        }
        None
    }

    fn read_kernel(&mut self) -> Option<Sample> {
        let reader = self.kernel.as_mut()?;
        let mut found = Vec::new();
        for _ in 0..TURNS_MAX {
            let before = reader.position();
            match reader.read() {
                Turn::More(lines) => found.extend(lines),
                Turn::Ended(lines) => {
                    found.extend(lines);
                    break;
                }
            }
            if reader.position() == before {
                break;
            }
        }
        (!found.is_empty()).then_some(Sample::Kernel(found))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::root;
    use super::*;

    #[test]
    fn host_is_read_whole_and_says_what_it_cannot_tell() {
        let (devices, mut once) = read_once(Path::new("/"));
        assert!(devices.mounts.iter().any(|mount| mount.point == "/"));
        let samples = once.read();
        assert!(samples.iter().any(|sample| matches!(sample, Sample::System(_))));
        assert!(
            samples.iter().any(|sample| matches!(sample, Sample::Disks(disks) if disks.len() == devices.disks.len()))
        );
        assert!(samples.iter().any(|sample| matches!(sample, Sample::Nics(nics) if nics.len() == devices.nics.len())));
        assert!(once.missing().iter().all(|missing| !missing.why.is_empty()));
    }

    #[test]
    fn empty_root_has_nothing_and_says_why() {
        let root = root(&[]);
        let (devices, mut once) = read_once(root.path());
        assert_eq!(devices, Devices::default());
        let sources: Vec<_> = once.missing().iter().map(|missing| missing.source.clone()).collect();
        assert_eq!(sources, [Source::System, Source::Hardware, Source::Kernel]);
        assert_eq!(once.read().len(), 4);
    }
}
