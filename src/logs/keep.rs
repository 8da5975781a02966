//! Descriptors that stay open while no agent lives: listening sockets, notify sockets, readiness pipes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::OwnedFd;

/// All keys together. The kernel's limit of one packet is 253.
pub(super) const DESCRIPTORS_MAX: usize = 16_384;
const KEY_BYTES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Keeper {
    kept: BTreeMap<String, Vec<OwnedFd>>,
    count: usize,
}

impl Keeper {
    /// Replaces what is kept under this key; what does not fit is closed and said.
    pub(super) fn keep(&mut self, key: String, fds: Vec<OwnedFd>) -> Result<(), String> {
        self.drop_key(&key);
        if key.len() > KEY_BYTES_MAX {
            return Err(format!(
                "cannot keep descriptors under a key of {} bytes (at most {KEY_BYTES_MAX})",
                key.len()
            ));
        }
        if self.count + fds.len() > DESCRIPTORS_MAX {
            return Err(format!("cannot keep the descriptors of {key}: {DESCRIPTORS_MAX} are kept already"));
        }
        self.count += fds.len();
        self.kept.insert(key, fds);
        Ok(())
    }

    pub(super) fn drop_key(&mut self, key: &str) {
        if let Some(fds) = self.kept.remove(key) {
            self.count -= fds.len();
        }
    }

    /// The first key, or the first after `key`, with its descriptors.
    pub(super) fn after(&self, key: Option<&str>) -> Option<(&String, &Vec<OwnedFd>)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.kept.range::<str, _>((from, Bound::Unbounded)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_second_keep_replaces_the_first_and_the_limit_holds() {
        let mut keeper = Keeper::default();
        keeper.keep("b".into(), vec![null(), null()]).unwrap();
        keeper.keep("b".into(), vec![null()]).unwrap();
        keeper.keep("a".into(), vec![]).unwrap();
        assert_eq!(keeper.count, 1);
        let first = keeper.after(None).unwrap();
        assert_eq!((first.0.as_str(), first.1.len()), ("a", 0));
        assert_eq!(keeper.after(Some("a")).unwrap().0, "b");
        assert!(keeper.after(Some("b")).is_none());
        keeper.count = DESCRIPTORS_MAX;
        assert!(keeper.keep("c".into(), vec![null()]).is_err());
        keeper.drop_key("b");
        assert!(keeper.keep("c".into(), vec![null()]).is_ok());
    }
}
