//! The devices as the agent was told last, and how their changes are noticed: mounts by EPOLLPRI on mountinfo, disks by the kernel's
//! uevents, NICs by rtnetlink. Where one of these is not to be had, a look every [`LOOK_EVERY`].

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::devices;
use super::link_events::is_about_disks;
use super::reading::Buffer;
use super::watch::keys;
use crate::engine::host::sample::Devices;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::netlink::{Heard, Netlink};

/// Where the kernel does not tell of changes.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Below another root than the host's, nothing tells of changes, and somebody waits for them.
const LOOK_EVERY_OTHER_ROOT: Duration = Duration::from_secs(1);
/// Changes come in numbers, and udev takes a moment to finish its part.
const GATHER: Duration = Duration::from_millis(50);
/// Between two readings, however much changes.
const PAUSE: Duration = Duration::from_secs(1);
/// A uevent; what is longer is cut off, behind the fields that are looked at.
const UEVENT_BYTES: usize = 4096;
/// Messages taken in one turn.
const MESSAGES_AT_ONCE: usize = 64;

#[derive(Debug)]
pub(super) struct Inventory {
    root: PathBuf,
    buffer: Buffer,
    devices: Devices,
    #[expect(dead_code, reason = "held open, so that it is heard of")]
    mounts: Option<File>,
    uevents: Option<Netlink>,
    read_at: Instant,
    /// When it is read again because something has changed.
    due: Option<Instant>,
    look_every: Option<Duration>,
}

impl Inventory {
    /// Begins to notice, and then reads, so that no change is missed in between. `links_heard`: somebody tells of NICs.
    pub(super) fn new(root: &Path, epoll: &Epoll, links_heard: bool, now: Instant) -> Self {
        let own = root == Path::new("/");
        let mounts = File::open(root.join("proc/self/mountinfo"))
            .ok()
            .filter(|file| epoll.add(file.as_fd(), keys::MOUNTS, Interest::PRIORITY).is_ok());
        let uevents = own
            .then(|| Netlink::uevents().ok())
            .flatten()
            .filter(|socket| epoll.add(socket.as_fd(), keys::UEVENTS, Interest::READ).is_ok());
        let told = mounts.is_some() && uevents.is_some() && links_heard;
        let look_every = match (told, own) {
            (true, _) => None,
            (false, true) => Some(LOOK_EVERY),
            (false, false) => Some(LOOK_EVERY_OTHER_ROOT),
        };
        let mut buffer = Buffer::new();
        let devices = devices::read(root, &mut buffer);
        Self { root: root.to_owned(), buffer, devices, mounts, uevents, read_at: now, due: None, look_every }
    }

    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// When [`Self::look`] is to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let look = self.look_every.map(|every| self.read_at + every);
        [self.due, look].into_iter().flatten().min()
    }

    /// Something may have changed.
    pub(super) fn stir(&mut self, now: Instant) {
        self.due.get_or_insert((now + GATHER).max(self.read_at + PAUSE));
    }

    /// Messages of the kernel about devices.
    pub(super) fn hear(&mut self, now: Instant, epoll: &Epoll) {
        let mut buffer = [0; UEVENT_BYTES];
        for _ in 0..MESSAGES_AT_ONCE {
            let heard = match &self.uevents {
                Some(socket) => socket.receive(&mut buffer),
                None => return,
            };
            match heard {
                Ok(Heard::Message(length)) if is_about_disks(&buffer[..length]) => self.stir(now),
                Ok(Heard::Message(_)) => {}
                Ok(Heard::Overrun) => self.stir(now),
                Ok(Heard::Nothing) => return,
                Err(_) => {
                    if let Some(socket) = self.uevents.take() {
                        // Closing it takes it out as well.
                        let _ = epoll.remove(socket.as_fd());
                    }
                    self.look_every = Some(LOOK_EVERY);
                    return;
                }
            }
        }
    }

    /// Whether it is time to read again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Reads again if it is time; the devices if they are others.
    pub(super) fn look(&mut self, now: Instant) -> Option<&Devices> {
        if !self.is_due(now) {
            return None;
        }
        self.due = None;
        self.read_at = now;
        let devices = devices::read(&self.root, &mut self.buffer);
        if devices == self.devices {
            return None;
        }
        self.devices = devices;
        Some(&self.devices)
    }
}
