//! CPU and memory of the replicas, read when somebody asks and never otherwise.

use std::collections::BTreeMap;

use super::shell::Shell;
use crate::api::render::Usage;
use crate::engine::types::{Now, ReplicaId};

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_mono_ns: u64,
    cpu_usec: u64,
    usage: Usage,
}

/// The last reading of each replica. CPU is the mean between two readings; at the first, the mean since its group was made (which may
/// serve several runs), and nothing where an earlier agent made it.
#[derive(Debug, Default)]
pub(super) struct Usages {
    samples: BTreeMap<ReplicaId, Sample>,
}

/// Two readings closer than this are one: a second client does not turn the mean into noise.
const MIN_INTERVAL_NS: u64 = 200_000_000;

impl Usages {
    /// Reads the usage of these replicas.
    pub(super) fn sample(&mut self, shell: &Shell, replicas: impl Iterator<Item = ReplicaId>, now: Now) {
        for replica in replicas {
            self.sample_one(shell, replica, now);
        }
        self.samples.retain(|replica, _| shell.stations.contains_key(replica));
    }

    fn sample_one(&mut self, shell: &Shell, replica: ReplicaId, now: Now) {
        let Some(live) = shell.stations.get(&replica).and_then(|station| station.live.as_ref()) else {
            self.samples.remove(&replica);
            return;
        };
        let Some(group) = &live.group else { return };
        let same_group = |sample: &Sample| live.group_since.is_none_or(|since| since.0 <= sample.at_mono_ns);
        let before = self.samples.get(&replica).filter(|sample| same_group(sample)).copied();
        if before.is_some_and(|sample| now.mono.0 < sample.at_mono_ns + MIN_INTERVAL_NS) {
            return;
        }
        let read = group.usage();
        let cpu_usec = read.cpu_usec.unwrap_or(0);
        let counted = match before {
            Some(sample) => Some((sample.at_mono_ns, cpu_usec.saturating_sub(sample.cpu_usec))),
            None => live.group_since.map(|since| (since.0, cpu_usec)),
        };
        let mean = |(since_ns, used_usec)| percent(used_usec, now.mono.0.saturating_sub(since_ns) / 1_000);
        let cpu_percent = read.cpu_usec.and_then(|_| counted.map(mean));
        let usage = Usage { cpu_percent, cpu_usec: read.cpu_usec, memory_bytes: read.memory_bytes };
        self.samples.insert(replica, Sample { at_mono_ns: now.mono.0, cpu_usec, usage });
    }

    #[must_use]
    pub(super) fn of(&self, replica: ReplicaId) -> Usage {
        self.samples
            .get(&replica)
            .map_or(Usage { cpu_percent: None, cpu_usec: None, memory_bytes: None }, |sample| sample.usage)
    }
}

/// To a tenth; 100 is one CPU.
fn percent(used_usec: u64, wall_usec: u64) -> f64 {
    let permille = u128::from(used_usec) * 1_000 / u128::from(wall_usec.max(1));
    f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 10.0
}
