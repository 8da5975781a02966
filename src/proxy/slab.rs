//! Connections of one worker by number. A number is used again, with another generation: what is still said of its predecessor (an
//! event that lies in the same batch, a place in a queue) finds nothing.

/// Entries made at once: memory follows the number of connections in small steps.
const CHUNK: usize = 64;
const LAST_OF_CHUNK: u32 = 63;
const NONE: u32 = u32::MAX;
/// Generations stay below; what lies above is for other keys of the epoll.
pub(super) const GENERATION_END: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Box<[Entry<T>]>>,
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> Handle {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let entry = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        self.free = entry.next_free;
        entry.value = Some(value);
        self.len += 1;
        Handle { index, generation: entry.generation }
    }

    fn grow(&mut self) {
        let first = u32::try_from(self.chunks.len() * CHUNK).unwrap_or(NONE);
        let entry = |number| Entry {
            generation: 0,
            next_free: if number == LAST_OF_CHUNK { NONE } else { first + number + 1 },
            value: None,
        };
        self.chunks.push((0..=LAST_OF_CHUNK).map(entry).collect());
        self.free = first;
    }

    fn entry(&mut self, handle: Handle) -> Option<&mut Entry<T>> {
        let index = handle.index as usize;
        let entry = self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)?;
        (entry.generation == handle.generation).then_some(entry)
    }

    pub(super) fn get(&mut self, handle: Handle) -> Option<&mut T> {
        self.entry(handle)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<T> {
        let free = self.free;
        let entry = self.entry(handle)?;
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) % GENERATION_END;
        entry.next_free = free;
        self.free = handle.index;
        self.len -= 1;
        Some(value)
    }

    /// What is at this number now.
    pub(super) fn handle_of(&self, index: u32) -> Option<Handle> {
        let entry = self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?;
        entry.value.as_ref().map(|_| Handle { index, generation: entry.generation })
    }

    pub(super) fn handles(&self, which: impl Fn(&T) -> bool) -> Vec<Handle> {
        let entries = (0..).zip(self.chunks.iter().flatten());
        let those = entries.filter(|(_, entry)| entry.value.as_ref().is_some_and(&which));
        those.map(|(index, entry)| Handle { index, generation: entry.generation }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_used_again_and_its_old_handle_finds_nothing() {
        let mut slab = Slab::new();
        let handles: Vec<_> = (0..200).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.len(), 200);
        assert_eq!(slab.remove(handles[70]), Some(70));
        assert_eq!(slab.remove(handles[70]), None);
        let again = slab.insert(1000);
        assert_eq!(again.index, handles[70].index);
        assert_eq!(slab.get(handles[70]), None);
        assert_eq!(slab.get(again), Some(&mut 1000));
        assert_eq!(slab.handles(|value| *value > 198), [again, handles[199]]);
        assert_eq!(slab.handle_of(again.index), Some(again));
        assert_eq!(slab.handle_of(100_000), None);
    }
}
