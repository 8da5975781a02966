//! Resource limits by name (getrlimit(2)).
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

/// One of the kernel's resource limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nproc,
    Nofile,
    Memlock,
    As,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}

impl Resource {
    /// `nofile`, `core` ...; lower case as in the configuration.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        todo!()
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        todo!()
    }
}
