//! One order: its reader, and when it is due.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{
    Alarms, Asked, Begin, Epoll, FromChecks, Interest, KernelReader, LinkState, Missing, Sample, Settings, Source,
    Told, keys, sampled,
};
use crate::checks::block::BlockReader;
use crate::checks::filesystems::FilesystemsReader;
use crate::checks::gateway::GatewayReader;
use crate::checks::hardware::HardwareReader;
use crate::checks::nics::NicsReader;
use crate::checks::system::SystemReader;

/// A shorter period is made this long.
const EVERY_MIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) source: Source,
    pub(super) reader: Reader,
    every: Duration,
    /// The periods begin here.
    begun: Instant,
    /// `None`: as it comes.
    due: Option<Instant>,
    /// Said already.
    missing: Option<String>,
}

#[derive(Debug)]
pub(super) enum Reader {
    /// Not open yet, or this host cannot tell.
    None,
    System(Box<SystemReader>),
    Disks(BlockReader),
    Filesystems(FilesystemsReader),
    Nics {
        reader: NicsReader,
        told: Vec<LinkState>,
    },
    Gateway(Box<GatewayReader>),
    Hardware(HardwareReader),
    Kernel(Box<KernelReader>),
}

impl Reader {
    pub(super) fn knows_nic(&self, name: &str) -> bool {
        matches!(self, Self::Nics { reader, .. } if reader.knows(name))
    }
}

impl Entry {
    pub(super) fn new(source: Source) -> Self {
        let now = Instant::now();
        Self { source, reader: Reader::None, every: EVERY_MIN, begun: now, due: None, missing: None }
    }

    /// The first reading follows at once.
    pub(super) fn begin(&mut self, every_ms: u64, now: Instant) {
        self.every = Duration::from_millis(every_ms).max(EVERY_MIN);
        self.begun = now;
        self.due = (self.source != Source::Kernel).then_some(now);
    }

    /// Opens what it reads, or says why it cannot.
    pub(super) fn open(&mut self, settings: &Settings, begin: Begin, epoll: &Epoll, told: &mut Told) {
        let root = &settings.root;
        let opened = match &self.source {
            Source::System => SystemReader::new(root).map(|reader| Reader::System(Box::new(reader))),
            Source::Disks(names) => Ok(Reader::Disks(open_disks(settings, names, epoll))),
            Source::Filesystems(wanted) => Ok(Reader::Filesystems(FilesystemsReader::new(root, wanted))),
            Source::Nics(names) => Ok(Reader::Nics { reader: NicsReader::new(root, names), told: Vec::new() }),
            Source::Gateway => Ok(Reader::Gateway(Box::new(GatewayReader::new(root)))),
            Source::Hardware => HardwareReader::new(root).map(Reader::Hardware),
            Source::Kernel => KernelReader::new(root, &settings.kmsg, begin).and_then(|reader| {
                epoll
                    .add(reader.log().as_fd(), keys::KERNEL, Interest::READ)
                    .map_err(|error| format!("cannot wait for {}: {error}", settings.kmsg.display()))?;
                Ok(Reader::Kernel(Box::new(reader)))
            }),
            Source::Sensors
            | Source::LinkModes(_)
            | Source::Space { .. }
            | Source::Canary { .. }
            | Source::FilesystemErrors { .. }
            | Source::Smart { .. } => Err("not read by the checks role".to_owned()),
        };
        match opened {
            Ok(reader) => self.reader = reader,
            Err(why) => self.miss(why, told),
        }
    }

    /// This host cannot tell; said once for each reason.
    pub(super) fn miss(&mut self, why: String, told: &mut Told) {
        self.reader = Reader::None;
        self.due = None;
        if self.missing.as_ref() != Some(&why) {
            told.push(FromChecks::Missing { missing: Missing { source: self.source.clone(), why: why.clone() } });
            self.missing = Some(why);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let answer = match &self.reader {
            Reader::Gateway(reader) => reader.deadline(),
            Reader::None
            | Reader::System(_)
            | Reader::Disks(_)
            | Reader::Filesystems(_)
            | Reader::Nics { .. }
            | Reader::Hardware(_)
            | Reader::Kernel(_) => None,
        };
        [self.due, answer].into_iter().flatten().min()
    }

    /// Whether it is due by then; the next time is the first of its grid after that. What was slept through is not made up for.
    pub(super) fn take_due(&mut self, by: Instant) -> bool {
        let Some(due) = self.due.filter(|due| *due <= by) else { return false };
        let every_ns = self.every.as_nanos().max(1);
        let periods = by.max(due).saturating_duration_since(self.begun).as_nanos() / every_ns + 1;
        let next = u64::try_from(periods.saturating_mul(every_ns)).unwrap_or(u64::MAX);
        self.due = self.begun.checked_add(Duration::from_nanos(next));
        true
    }

    /// The gateway has not answered in time.
    pub(super) fn give_up(&mut self, now: Instant, told: &mut Told) {
        if let Reader::Gateway(reader) = &mut self.reader
            && let Some(stat) = reader.give_up(now)
        {
            told.push(sampled(Sample::Gateway(stat)));
        }
    }

    pub(super) fn read(&mut self, epoll: &Epoll, now: Instant, alarms: Option<&mut Alarms>, told: &mut Told) {
        let sample = match &mut self.reader {
            Reader::None | Reader::Kernel(_) => return,
            Reader::System(reader) => {
                let system = reader.read();
                if let Some(alarms) = alarms {
                    alarms.rearm(&system, epoll);
                }
                Sample::System(Box::new(system))
            }
            Reader::Disks(reader) => Sample::Disks(reader.read()),
            Reader::Filesystems(reader) => Sample::Filesystems(reader.read(now)),
            Reader::Nics { reader, told } => {
                let stats = reader.read();
                *told = LinkState::of(&stats);
                Sample::Nics(stats)
            }
            Reader::Hardware(reader) => Sample::Hardware(Box::new(reader.read())),
            Reader::Gateway(_) => match self.ask_gateway(epoll, now) {
                Asked::Wait => return,
                Asked::Told(stat) => Sample::Gateway(stat),
                Asked::Missing(why) => {
                    let due = self.due;
                    self.say_missing(why, told);
                    // Another default route may come.
                    self.due = due;
                    return;
                }
            },
        };
        // What could not be told before can be again missing later.
        self.missing = None;
        told.push(sampled(sample));
    }

    fn say_missing(&mut self, why: String, told: &mut Told) {
        let reader = std::mem::replace(&mut self.reader, Reader::None);
        self.miss(why, told);
        self.reader = reader;
    }

    fn ask_gateway(&mut self, epoll: &Epoll, now: Instant) -> Asked {
        let Reader::Gateway(reader) = &mut self.reader else { return Asked::Wait };
        let asked = reader.ask(now, self.every * 3 / 4);
        if let Some(asker) = reader.asker()
            && asked == Asked::Wait
        {
            // It is there already unless it is a new one.
            let _ = epoll.add(asker.as_fd(), keys::GATEWAY, Interest::READ);
        }
        asked
    }
}

/// The kernel tells at once when an array loses a member.
fn open_disks(settings: &Settings, names: &[String], epoll: &Epoll) -> BlockReader {
    let reader = BlockReader::new(&settings.root, names);
    for (key, file) in (keys::ARRAYS..keys::END).zip(reader.watched()) {
        // Where it cannot be waited for, it is read in its turn.
        let _ = epoll.add(file.as_fd(), key, Interest::PRIORITY);
    }
    reader
}
