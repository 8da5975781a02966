//! What an older kernel lacks, so that a test can take the other way on a new one.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

/// Facilities that are treated as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fallbacks {
    /// Before 5.3, or refused by a seccomp filter.
    pub no_clone3: bool,
    /// Before 5.7.
    pub no_clone_into_cgroup: bool,
    /// Before 5.14.
    pub no_cgroup_kill: bool,
    /// Before 6.15.
    pub no_pidfd_info: bool,
}

impl Fallbacks {
    pub const NONE: Self =
        Self { no_clone3: false, no_clone_into_cgroup: false, no_cgroup_kill: false, no_pidfd_info: false };

    /// From words such as `clone3,into_cgroup,cgroup_kill,pidfd_info`; `all` is each of them.
    #[must_use]
    pub fn parse(words: &str) -> Self {
        todo!()
    }
}
