//! From an order to what is read: the sources of the roles that may block.

use std::path::{Path, PathBuf};

use super::canary::read_canary;
use super::fs_errors::ErrorWatches;
use super::link_modes::read_link_modes;
use super::sensors::Sensors;
use super::smart::read_smart;
use super::space::read_space;
use crate::engine::host::sample::Sample;
use crate::engine::host::watch::{Order, Source};
use crate::sys::epoll::Epoll;

/// Which of the roles reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Sensors,
    Disk,
}

/// What a reading came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Sampled(Sample),
    /// This host cannot tell.
    Missing(String),
    /// It will be told when it happens.
    Waiting,
}

pub(super) struct Readings {
    reader: Reader,
    root: PathBuf,
    sensors: Sensors,
    errors: ErrorWatches,
}

impl Readings {
    pub(super) fn new(reader: Reader, root: &Path) -> Self {
        Self { reader, root: root.to_owned(), sensors: Sensors::new(root), errors: ErrorWatches::default() }
    }

    /// Begins anew with these orders.
    pub(super) fn watch(&mut self, orders: &[Order]) {
        self.sensors.forget();
        self.errors.keep(|point| {
            orders.iter().any(|order| matches!(&order.source, Source::FilesystemErrors { mount } if mount == point))
        });
    }

    /// Reads, however long it takes.
    pub(super) fn read(&mut self, epoll: &Epoll, source: &Source) -> Reading {
        match (self.reader, source) {
            (Reader::Sensors, Source::Sensors) => match self.sensors.read() {
                none if none.is_empty() => {
                    Reading::Missing("no driver of a sensor is loaded: sensors-detect finds the one to load".to_owned())
                }
                stats => Reading::Sampled(Sample::Sensors(stats)),
            },
            (Reader::Sensors, Source::LinkModes(nics)) => {
                Reading::Sampled(Sample::LinkModes(read_link_modes(&self.root, nics)))
            }
            (Reader::Disk, Source::Space { mount }) => Reading::Sampled(Sample::Space(read_space(&self.root, mount))),
            (Reader::Disk, Source::Canary { mount }) => {
                Reading::Sampled(Sample::Canary(read_canary(&self.root, mount)))
            }
            (Reader::Disk, Source::FilesystemErrors { mount }) => match self.errors.renew(epoll, &self.root, mount) {
                Ok(()) => Reading::Waiting,
                Err(why) => Reading::Missing(why),
            },
            (Reader::Disk, Source::Smart { disk, by }) => {
                Reading::Sampled(Sample::Smart(read_smart(&self.root, disk, *by)))
            }
            (
                Reader::Sensors | Reader::Disk,
                Source::System
                | Source::Disks(_)
                | Source::Filesystems(_)
                | Source::Nics(_)
                | Source::Gateway
                | Source::Hardware
                | Source::Kernel
                | Source::Sensors
                | Source::LinkModes(_)
                | Source::Space { .. }
                | Source::Canary { .. }
                | Source::FilesystemErrors { .. }
                | Source::Smart { .. },
            ) => Reading::Missing("another role reads this".to_owned()),
        }
    }

    /// What came under the key of a descriptor that is none of the loop's own.
    pub(super) fn take(&mut self, key: u64) -> Vec<Sample> {
        self.errors.take(key)
    }
}
