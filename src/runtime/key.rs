//! What a ready descriptor means: the 64 bits that epoll keeps for us. Eight bits of kind, 24 of slot, 32 of run, so that an event of
//! an older run is recognised even if the kernel still delivers it.

/// One registered descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Signals,
    Api,
    BootTimer,
    LogsLink,
    ChecksLink,
    ProxyLink,
    SensorsLink,
    /// The helper of a disk, by its number.
    DiskLink(u8),
    /// The role of a set of copies, by its number: in the place of a run, for it needs all 32 bits.
    CopyLink(u32),
    /// The command of an alert, by its slot in the table of those that run.
    Alert(u32),
    /// A hook of copies, by its slot in the table of those that run.
    Hook(u32),
    Loader,
    /// The pidfd of a replica's main process.
    Main(u32, u32),
    /// Gate and exec status of a child.
    Gate(u32, u32),
    /// The readiness descriptor.
    ReadyPipe(u32, u32),
    /// `cgroup.events` of a tree that outlived its main process.
    Tree(u32, u32),
    /// The notify socket: belongs to the replica, not to a run.
    Notify(u32),
    /// An exec probe, by its slot in the table of probes.
    ExecProbe(u32),
    /// The child that takes a notification with descriptors.
    Taker(u32),
}

const SLOT_MASK: u64 = (1 << 24) - 1;

impl Key {
    #[must_use]
    pub fn encode(self) -> u64 {
        let (kind, slot, run) = match self {
            Self::Signals => (0, 0, 0),
            Self::Api => (1, 0, 0),
            Self::BootTimer => (2, 0, 0),
            Self::LogsLink => (3, 0, 0),
            Self::ChecksLink => (4, 0, 0),
            Self::Loader => (5, 0, 0),
            Self::Main(slot, run) => (6, slot, run),
            Self::Gate(slot, run) => (7, slot, run),
            Self::ReadyPipe(slot, run) => (8, slot, run),
            Self::Tree(slot, run) => (9, slot, run),
            Self::Notify(slot) => (10, slot, 0),
            Self::ExecProbe(slot) => (11, slot, 0),
            Self::Taker(slot) => (12, slot, 0),
            Self::ProxyLink => (13, 0, 0),
            Self::SensorsLink => (14, 0, 0),
            Self::DiskLink(slot) => (15, u32::from(slot), 0),
            Self::Alert(slot) => (16, slot, 0),
            Self::CopyLink(number) => (17, 0, number),
            Self::Hook(slot) => (18, slot, 0),
        };
        (kind << 56) | ((u64::from(slot) & SLOT_MASK) << 32) | u64::from(run)
    }

    #[must_use]
    pub fn decode(bits: u64) -> Option<Self> {
        let slot = u32::try_from((bits >> 32) & SLOT_MASK).ok()?;
        let run = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(match bits >> 56 {
            0 => Self::Signals,
            1 => Self::Api,
            2 => Self::BootTimer,
            3 => Self::LogsLink,
            4 => Self::ChecksLink,
            5 => Self::Loader,
            6 => Self::Main(slot, run),
            7 => Self::Gate(slot, run),
            8 => Self::ReadyPipe(slot, run),
            9 => Self::Tree(slot, run),
            10 => Self::Notify(slot),
            11 => Self::ExecProbe(slot),
            12 => Self::Taker(slot),
            13 => Self::ProxyLink,
            14 => Self::SensorsLink,
            15 => Self::DiskLink(u8::try_from(slot).ok()?),
            16 => Self::Alert(slot),
            17 => Self::CopyLink(run),
            18 => Self::Hook(slot),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn every_key_comes_back_from_its_bits() {
        let keys = [
            Key::Signals,
            Key::Api,
            Key::BootTimer,
            Key::LogsLink,
            Key::ChecksLink,
            Key::Loader,
            Key::Main(7, u32::MAX),
            Key::Gate((1 << 24) - 1, 1),
            Key::ReadyPipe(0, 3),
            Key::Tree(12, 9),
            Key::Notify(4),
            Key::ExecProbe(5),
            Key::Taker(6),
            Key::ProxyLink,
            Key::SensorsLink,
            Key::DiskLink(63),
            Key::Alert(8),
            Key::CopyLink(u32::MAX),
            Key::Hook(8),
        ];
        for key in keys {
            assert_eq!(Key::decode(key.encode()), Some(key));
        }
        assert_eq!(Key::decode(200 << 56), None);
    }
}
