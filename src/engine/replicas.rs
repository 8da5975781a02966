//! The replicas of one service by their index. Most services have one, and a tree's node for it would be larger than half of it.

use serde::{Deserialize, Serialize};

use super::service::Replica;

/// Sorted by index.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Replicas(Vec<(u16, Box<Replica>)>);

impl Replicas {
    pub(super) fn get(&self, index: u16) -> Option<&Replica> {
        let place = self.find(index).ok()?;
        Some(&self.0[place].1)
    }

    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Replica> {
        let place = self.find(index).ok()?;
        Some(&mut self.0[place].1)
    }

    pub(super) fn get_or_insert_with(&mut self, index: u16, make: impl FnOnce() -> Replica) -> &mut Replica {
        let place = match self.find(index) {
            Ok(place) => place,
            Err(place) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(place, (index, Box::new(make())));
                place
            }
        };
        &mut self.0[place].1
    }

    pub(super) fn remove(&mut self, index: u16) -> Option<Box<Replica>> {
        let place = self.find(index).ok()?;
        Some(self.0.remove(place).1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn indices(&self) -> impl DoubleEndedIterator<Item = u16> + '_ {
        self.0.iter().map(|(index, _)| *index)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Replica> {
        self.0.iter().map(|(_, replica)| &**replica)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Replica> {
        self.0.iter_mut().map(|(_, replica)| &mut **replica)
    }

    /// Those with this index and above.
    pub(super) fn starting_at_mut(&mut self, first: u16) -> impl Iterator<Item = &mut Replica> {
        self.0.iter_mut().filter(move |(index, _)| *index >= first).map(|(_, replica)| &mut **replica)
    }

    fn find(&self, index: u16) -> Result<usize, usize> {
        self.0.binary_search_by_key(&index, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::Memory;

    #[test]
    fn replicas_are_kept_in_the_order_of_their_indices() {
        let mut replicas = Replicas::default();
        for index in [2, 0, 1, 2] {
            replicas.get_or_insert_with(index, || Replica::new(Memory::unknown())).was_up |= index == 2;
        }
        assert_eq!(replicas.indices().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(replicas.starting_at_mut(1).count(), 2);
        assert!(replicas.get(2).is_some_and(|replica| replica.was_up) && replicas.get(3).is_none());
        assert!(replicas.remove(1).is_some() && replicas.remove(1).is_none() && replicas.get_mut(1).is_none());
        assert_eq!((replicas.values().count(), replicas.is_empty()), (2, false));
    }
}
