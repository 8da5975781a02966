//! Roles that are to be connected, each at its own pace: at once when there is a reason to hope, ever more seldom while it is in vain. The
//! helper of a dead disk may not accept for days.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pace::Pace;
use crate::engine::plan::Role;
use crate::engine::types::Time;

/// Between two tries with a role that does not listen. It says so itself when it does.
const DELAY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Connecting(BTreeMap<Role, Pace>);

impl Connecting {
    /// It listens, or may have a successor: the next try is due at once.
    pub(super) fn hope(&mut self, role: Role) {
        self.0.insert(role, Pace::default());
    }

    /// The connection was lost: tried again, but at no other pace than before if that was being done already.
    pub(super) fn lost(&mut self, role: Role) {
        self.0.entry(role).or_default();
    }

    /// Roles to be tried now.
    pub(super) fn due(&self, now: Time) -> Vec<Role> {
        self.0.iter().filter(|(_, pace)| pace.is_due(now)).map(|(role, _)| *role).collect()
    }

    /// It is connected, or wanted no more.
    pub(super) fn settled(&mut self, role: Role) {
        self.0.remove(&role);
    }

    pub(super) fn in_vain(&mut self, role: Role, now: Time) {
        if let Some(pace) = self.0.get_mut(&role) {
            pace.back_off(now, DELAY_MAX);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.0.values().map(Pace::deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_that_does_not_listen_is_tried_ever_more_seldom_until_it_says_that_it_does() {
        let (mut connecting, mut now, mut tries) = (Connecting::default(), Time(1), 0);
        connecting.hope(Role::Disk(1));
        while now < Time(60_000_000_000) {
            assert_eq!(connecting.due(now), [Role::Disk(1)]);
            connecting.in_vain(Role::Disk(1), now);
            assert!(connecting.due(now).is_empty());
            connecting.lost(Role::Disk(1));
            now = connecting.next_deadline().unwrap();
            tries += 1;
        }
        assert!((15..25).contains(&tries), "{tries}");
        connecting.in_vain(Role::Disk(1), now);
        connecting.hope(Role::Disk(1));
        assert_eq!(connecting.due(now), [Role::Disk(1)]);
        connecting.settled(Role::Disk(1));
        assert_eq!(connecting.next_deadline(), None);
    }
}
