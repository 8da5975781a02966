//! Another file system in the place of one that has failed, or the same one after it was mended: what was found before says nothing of it.

use super::CheckKey;
use super::kind::CheckKind;
use super::state::HostState;
use crate::engine::types::Now;

impl HostState {
    /// Lifts what holds a check of a file system at failing, where another one is mounted since. A place where nothing is mounted stays as
    /// bad as it was: what needs it must not go on below.
    pub(super) fn release_replaced(&mut self, now: Now) {
        let mounted = self.devices.mounts.iter().filter_map(|mount| Some((mount.point.clone(), mount.instance?)));
        for (point, instance) in mounted.collect::<Vec<_>>() {
            if !self.seen.is_mounted_anew(&point, instance) {
                continue;
            }
            let key = CheckKey { kind: CheckKind::Filesystem, target: point.clone() };
            if let Some(check) = self.checks.get_mut(&key) {
                let turn = check.condition.release_at_once();
                self.turned(&key, turn);
            }
            let said = self.bench(now, |bench| bench.filesystem_errors_before_it_was_known(&point, instance));
            self.take(said, now);
        }
        self.unsaved |= self.seen.take_changed();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::host::Health;
    use crate::engine::host::rules::Wishes;
    use crate::engine::host::sample::{Devices, FilesystemStat, Mount, Sample};
    use crate::engine::plan::Role;
    use crate::engine::types::Time;

    const WISHES: Wishes<'static> = Wishes { plans: &[], defaults: true, services: &[] };

    struct Host {
        state: HostState,
        now: Now,
    }

    fn disk(instance: u64) -> Mount {
        let name = |name: &str| Some(name.to_owned());
        Mount {
            point: "/srv".to_owned(),
            source: "/dev/sda1".to_owned(),
            fs_type: "ext4".to_owned(),
            disk: name("sda"),
            device: name("sda1"),
            instance: Some(instance),
            ..Mount::default()
        }
    }

    impl Host {
        fn with(instance: u64) -> Self {
            let mono = Time(1_000_000_000_000);
            let now = Now { mono, boot: mono, wall: mono, wall_synchronised: true };
            let mut host = Self { state: HostState::default(), now };
            host.mounted(&[disk(instance)]);
            host.counts(0);
            host
        }

        fn mounted(&mut self, mounts: &[Mount]) {
            let devices = Devices { mounts: mounts.to_vec(), ..Devices::default() };
            self.state.devices_came(devices, WISHES, self.now);
        }

        /// Often enough for the counter to be believed, and not for as long as something bad lasts at least.
        fn counts(&mut self, errors: u64) {
            for _ in 0..3 {
                self.now.mono = self.now.mono.after(Duration::from_secs(10));
                let stat =
                    FilesystemStat { mount: "/srv".to_owned(), errors: Some(errors), ..FilesystemStat::default() };
                self.state.sampled(Role::Checks, &Sample::Filesystems(vec![stat]), WISHES, self.now);
            }
        }

        fn error_of(&mut self, instance: u64) {
            let error =
                Sample::FilesystemError { mount: "/srv".to_owned(), instance: Some(instance), errno: 117, count: 1 };
            self.state.sampled(Role::Disk(0), &error, WISHES, self.now);
        }

        fn health(&self) -> Health {
            let key = CheckKey { kind: CheckKind::Filesystem, target: "/srv".to_owned() };
            self.state.states.get(&key).map_or(Health::Absent, |(health, _)| *health)
        }

        /// The next agent, which knows what this one has left.
        fn next_agent(&mut self) {
            let memory = self.state.memory();
            self.state = HostState::default();
            self.state.restore(memory, WISHES, self.now);
        }
    }

    #[test]
    fn file_system_that_was_mended_between_two_looks_is_well_again() {
        let mut host = Host::with(7);
        host.error_of(7);
        // Its counter was never seen to grow.
        host.counts(0);
        assert_eq!(host.health(), Health::Failing);
        host.mounted(&[disk(8)]);
        assert_eq!(host.health(), Health::Failing, "until it is seen to be well");
        host.counts(0);
        assert_eq!(host.health(), Health::Ok);
        host.error_of(8);
        assert_eq!(host.health(), Health::Failing, "its own errors count");
    }

    #[test]
    fn errors_that_it_still_counts_are_not_forgotten_with_the_one_before() {
        let mut host = Host::with(7);
        host.counts(1);
        assert_eq!(host.health(), Health::Failing);
        host.mounted(&[disk(8)]);
        host.counts(1);
        assert_eq!(host.health(), Health::Degraded);
    }

    #[test]
    fn errors_of_the_one_before_come_late_and_those_of_the_next_one_early() {
        let mut host = Host::with(7);
        host.mounted(&[disk(8)]);
        host.error_of(7);
        host.counts(0);
        assert_eq!(host.health(), Health::Ok);
        host.error_of(9);
        assert_eq!(host.health(), Health::Ok, "nobody has told yet that it is there");
        host.mounted(&[disk(9)]);
        host.counts(0);
        assert_eq!(host.health(), Health::Failing);
    }

    #[test]
    fn another_file_system_is_known_by_the_next_agent_too() {
        let mut host = Host::with(7);
        host.error_of(7);
        host.next_agent();
        host.mounted(&[disk(7)]);
        host.counts(0);
        assert_eq!(host.health(), Health::Failing);
        host.next_agent();
        host.mounted(&[disk(8)]);
        host.counts(0);
        assert_eq!(host.health(), Health::Ok);
    }

    #[test]
    fn of_a_covered_file_system_only_what_does_not_go_to_its_point_is_read() {
        let mut host = Host::with(7);
        let orders = |host: &Host| format!("{:?}", host.state.orders(Role::Checks));
        assert!(orders(&host).contains("/srv"));
        host.error_of(7);
        host.mounted(&[Mount { covered: true, ..disk(7) }]);
        assert!(orders(&host).contains("/srv"), "its counter is read on");
        host.counts(0);
        assert_eq!(host.health(), Health::Failing);
        let room = CheckKey { kind: CheckKind::DiskSpace, target: "/srv".to_owned() };
        assert_eq!(host.state.states.get(&room).map(|(health, _)| *health), Some(Health::Unknown));
        let covering = host.state.feeds.iter().any(|feed| format!("{:?}", feed.key).contains("Canary"));
        assert!(!covering);
    }
}
