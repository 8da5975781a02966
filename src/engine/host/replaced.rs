//! Another file system in the place of one that has failed: what was found of the old one says nothing of it.

use super::kind::CheckKind;
use super::sample::{Devices, Mount};
use super::state::HostState;

impl HostState {
    /// Lifts what holds a check of a file system at failing, where that one is not mounted any more and another is in its place. A place where nothing is
    /// mounted stays as bad as it was: what needs it must not go on below.
    pub(super) fn release_replaced(&mut self, before: &Devices) {
        let is_gone = |old: &&Mount| !self.devices.mounts.iter().any(|mount| mount.source == old.source);
        let has_another = |old: &&Mount| self.devices.mounts.iter().any(|mount| mount.point == old.point);
        let replaced: Vec<String> =
            before.mounts.iter().filter(is_gone).filter(has_another).map(|old| old.point.clone()).collect();
        let keys = self.checks.keys().filter(|key| key.kind == CheckKind::Filesystem && replaced.contains(&key.target));
        for key in keys.cloned().collect::<Vec<_>>() {
            if let Some(check) = self.checks.get_mut(&key) {
                let turn = check.condition.release();
                self.turned(&key, turn);
            }
        }
    }
}
