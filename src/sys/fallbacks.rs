//! What an older kernel lacks, so that a test can take the other way on a new one.

/// Facilities that are treated as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fallbacks {
    /// Before 5.3, or refused by a container's filter: fork, then pidfd_open.
    pub no_clone3: bool,
    /// Before 5.7: the child joins its group by itself.
    pub no_clone_into_cgroup: bool,
    /// Before 5.14: freeze, kill each, thaw.
    pub no_cgroup_kill: bool,
    /// Before 6.15: the exit of a process that is not our child is unknown once its parent has waited for it.
    pub no_pidfd_info: bool,
}

impl Fallbacks {
    pub const NONE: Self =
        Self { no_clone3: false, no_clone_into_cgroup: false, no_cgroup_kill: false, no_pidfd_info: false };
    pub const ALL: Self =
        Self { no_clone3: true, no_clone_into_cgroup: true, no_cgroup_kill: true, no_pidfd_info: true };

    /// From words such as `clone3,into_cgroup,cgroup_kill,pidfd_info`; `all` is each of them. `Err` is the unknown word.
    pub fn parse(words: &str) -> Result<Self, &str> {
        let mut fallbacks = Self::NONE;
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "all" => fallbacks = Self::ALL,
                "clone3" => fallbacks.no_clone3 = true,
                "into_cgroup" => fallbacks.no_clone_into_cgroup = true,
                "cgroup_kill" => fallbacks.no_cgroup_kill = true,
                "pidfd_info" => fallbacks.no_pidfd_info = true,
                unknown => return Err(unknown),
            }
        }
        Ok(fallbacks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_an_unknown_one_is_named() {
        assert_eq!(Fallbacks::parse(""), Ok(Fallbacks::NONE));
        assert_eq!(Fallbacks::parse("all"), Ok(Fallbacks::ALL));
        assert_eq!(
            Fallbacks::parse("clone3, cgroup_kill").map(|read| (read.no_clone3, read.no_cgroup_kill)),
            Ok((true, true))
        );
        assert_eq!(Fallbacks::parse("clone3,vfork"), Err("vfork"));
    }
}
