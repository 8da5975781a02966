//! Resource limits by name (getrlimit(2)).

use nix::libc;

macro_rules! resources {
    ($($variant:ident $name:literal $number:ident),+ $(,)?) => {
        /// One of the kernel's resource limits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Resource {
            $($variant),+
        }

        impl Resource {
            /// In the order of the kernel's manual page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Lower case as in the configuration: `nofile`, `core` ...
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            fn number(self) -> libc::c_int {
                match self {
                    $(Self::$variant => libc::$number as libc::c_int),+
                }
            }
        }
    };
}

resources! {
    As "as" RLIMIT_AS,
    Core "core" RLIMIT_CORE,
    Cpu "cpu" RLIMIT_CPU,
    Data "data" RLIMIT_DATA,
    Fsize "fsize" RLIMIT_FSIZE,
    Locks "locks" RLIMIT_LOCKS,
    Memlock "memlock" RLIMIT_MEMLOCK,
    Msgqueue "msgqueue" RLIMIT_MSGQUEUE,
    Nice "nice" RLIMIT_NICE,
    Nofile "nofile" RLIMIT_NOFILE,
    Nproc "nproc" RLIMIT_NPROC,
    Rss "rss" RLIMIT_RSS,
    Rtprio "rtprio" RLIMIT_RTPRIO,
    Rttime "rttime" RLIMIT_RTTIME,
    Sigpending "sigpending" RLIMIT_SIGPENDING,
    Stack "stack" RLIMIT_STACK,
}

impl Resource {
    /// The inverse of [`Resource::name`].
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|resource| resource.name() == name)
    }
}

/// A limit as the kernel takes it; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) number: libc::c_int,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

impl Limit {
    pub(super) fn new(resource: Resource, soft: u64, hard: u64) -> Self {
        Self { number: resource.number(), soft, hard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_found_by_its_name() {
        for resource in Resource::ALL {
            assert_eq!(Resource::by_name(resource.name()), Some(*resource));
        }
        assert_eq!(Resource::by_name("NOFILE"), None);
        assert_eq!(Resource::by_name("nofile").map(Resource::number), Some(7));
    }
}
