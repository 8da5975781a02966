//! Network interfaces: their counters from /proc/net/dev, their state from /sys/class/net, their changes from rtnetlink.
//!
//! Only what takes no rtnl lock is read (`flags`, `operstate` and `carrier_changes` do not, `carrier`, `speed` and a question over
//! rtnetlink do): a driver may hold it while it waits for its device.

use std::path::Path;

use super::reading::{Buffer, Kept};
use crate::engine::host::sample::NicStat;

/// These NICs, with their files kept open.
#[derive(Debug)]
pub(super) struct NicsReader {
    buffer: Buffer,
    counters: Kept,
    nics: Vec<NicFiles>,
}

#[derive(Debug)]
struct NicFiles {
    name: String,
    flags: Kept,
    operstate: Kept,
    carrier_changes: Kept,
    bond: Option<Kept>,
}

/// What of a NIC is told at once when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkState(String, bool, bool, u32, Option<(u32, u32)>);

impl NicsReader {
    pub(super) fn new(root: &Path, names: &[String]) -> Self {
        let nics = names.iter().filter(|name| super::devices::is_name(name)).map(|name| {
            let base = root.join("sys/class/net").join(name);
            let bond = base.join("bonding").exists().then(|| Kept::new(root.join("proc/net/bonding").join(name)));
            NicFiles {
                name: name.clone(),
                flags: Kept::new(base.join("flags")),
                operstate: Kept::new(base.join("operstate")),
                carrier_changes: Kept::new(base.join("carrier_changes")),
                bond,
            }
        });
        Self { buffer: Buffer::new(), counters: Kept::new(root.join("proc/net/dev")), nics: nics.collect() }
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.nics.iter().any(|nic| nic.name == name)
    }

    /// Those that are there.
    pub(super) fn read(&mut self) -> Vec<NicStat> {
        let mut stats = Vec::with_capacity(self.nics.len());
        let buffer = &mut self.buffer;
        for line in self.counters.table(buffer).unwrap_or_default().lines() {
            let Some((name, rest)) = line.split_once(':') else { continue };
            let name = name.trim_ascii();
            if self.nics.iter().any(|nic| nic.name == name)
                && let Some(stat) = parse_counters(name, rest)
            {
                stats.push(stat);
            }
        }
        for stat in &mut stats {
            if let Some(files) = self.nics.iter_mut().find(|nic| nic.name == stat.name) {
                files.read(stat, buffer);
            }
        }
        stats
    }
}

impl LinkState {
    pub(super) fn of(stats: &[NicStat]) -> Vec<Self> {
        let state =
            |stat: &NicStat| Self(stat.name.clone(), stat.admin_up, stat.carrier, stat.carrier_changes, stat.bond);
        stats.iter().map(state).collect()
    }
}

impl NicFiles {
    fn read(&mut self, stat: &mut NicStat, buffer: &mut Buffer) {
        const UP: u32 = 1;
        let flags = self
            .flags
            .value(buffer)
            .and_then(|text| u32::from_str_radix(text.trim_ascii().trim_start_matches("0x"), 16).ok());
        stat.admin_up = flags.is_some_and(|flags| flags & UP != 0);
        // `unknown`: its driver does not tell, as of a tunnel; there is no link that could be down.
        let state = self.operstate.value(buffer).unwrap_or_default().trim_ascii();
        stat.carrier = matches!(state, "up" | "unknown" | "dormant" | "testing");
        let changes = self.carrier_changes.number(buffer).and_then(|count| u32::try_from(count).ok());
        stat.carrier_changes = changes.unwrap_or_default();
        stat.bond = self.bond.as_mut().and_then(|file| file.table(buffer)).map(parse_bond);
    }
}

/// `bytes packets errs drop fifo frame compressed multicast`, and then of what was sent
/// `bytes packets errs drop fifo colls carrier compressed`.
fn parse_counters(name: &str, text: &str) -> Option<NicStat> {
    let mut fields = [0_u64; 16];
    let mut words = text.split_ascii_whitespace();
    for field in &mut fields {
        *field = words.next()?.parse().ok()?;
    }
    Some(NicStat {
        name: name.to_owned(),
        received_bytes: fields[0],
        received_packets: fields[1],
        sent_bytes: fields[8],
        sent_packets: fields[9],
        errors: fields[2].wrapping_add(fields[10]),
        drops: fields[3].wrapping_add(fields[11]),
        ..NicStat::default()
    })
}

/// Slaves, and those whose MII status is up. The first status is that of the bond.
fn parse_bond(text: &str) -> (u32, u32) {
    let (mut slaves, mut up) = (0, 0);
    for line in text.lines() {
        if line.starts_with("Slave Interface:") {
            slaves += 1;
        } else if slaves > 0 && line.strip_prefix("MII Status:").is_some_and(|state| state.trim_ascii() == "up") {
            up += 1;
        }
    }
    (slaves, up)
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::{garbage, put, root};
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 0 0 0 0 0 0 1 2 0 0 0 0 0 0
  eth0: 1000 20 3 4 0 0 0 0 2000 30 5 6 0 0 7 0
 bond0:12345 60 0 0 0 0 0 0 2000 30 0 0 0 0 0 0
";
    const BOND: &str = "\
Ethernet Channel Bonding Driver: v6.1\n\nBonding Mode: fault-tolerance (active-backup)\nMII Status: up\n\n\
Slave Interface: eth0\nMII Status: up\nSpeed: 1000 Mbps\n\nSlave Interface: eth1\nMII Status: down\n";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn counters_state_and_bond_are_read_of_those_that_are_wanted() {
        let root = root(&[
            ("proc/net/dev", DEV),
            ("proc/net/bonding/bond0", BOND),
            ("sys/class/net/bond0/bonding/mode", "x"),
            ("sys/class/net/bond0/flags", "0x1403\n"),
            ("sys/class/net/bond0/operstate", "up\n"),
            ("sys/class/net/bond0/carrier_changes", "2\n"),
            ("sys/class/net/eth0/flags", "0x1002\n"),
            ("sys/class/net/eth0/operstate", "lowerlayerdown\n"),
            ("sys/class/net/eth0/carrier_changes", "7\n"),
        ]);
        let mut reader = NicsReader::new(root.path(), &names(&["bond0", "eth0", "eth9"]));
        let eth0 = NicStat {
            name: "eth0".to_owned(),
            carrier_changes: 7,
            received_packets: 20,
            sent_packets: 30,
            received_bytes: 1000,
            sent_bytes: 2000,
            errors: 8,
            drops: 10,
            ..NicStat::default()
        };
        let [first, second] = reader.read().try_into().unwrap();
        assert_eq!(first, eth0);
        assert!(second.admin_up && second.carrier);
        assert_eq!((second.bond, second.received_bytes), (Some((2, 1)), 12_345));
        put(root.path(), "sys/class/net/eth0/flags", "0x1003\n");
        put(root.path(), "sys/class/net/eth0/operstate", "unknown\n");
        let state = LinkState::of(&reader.read());
        assert_eq!(state[0], LinkState("eth0".to_owned(), true, true, 7, None));
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        let root = root(&[("sys/class/net/eth0/bonding/mode", "x")]);
        let mut reader = NicsReader::new(root.path(), &names(&["eth0"]));
        for seed in 0..200 {
            put(
                root.path(),
                "proc/net/dev",
                garbage(seed, &[DEV, "eth0:", " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"]),
            );
            put(root.path(), "proc/net/bonding/eth0", garbage(seed + 7, &[BOND]));
            put(root.path(), "sys/class/net/eth0/flags", garbage(seed + 9, &["0x1003"]));
            reader.read();
        }
    }
}
