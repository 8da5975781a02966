//! Which copies stay, and why.

use serde::{Deserialize, Serialize};

/// One copy and all that keeps it. Nothing: it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub seq: u64,
    pub reasons: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Among the newest so many.
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// The oldest, while a rule has room left.
    Oldest,
    MinKeep,
    NewestGood,
    /// The newest that was verified from the disk.
    NewestVerified,
    Pinned,
    /// A restore or a verification reads it.
    InUse,
    /// Not good, but perhaps all there is of something: two weeks, or until it is accepted.
    Suspect,
    /// A service runs from it.
    FailedOver,
}

impl Reason {
    /// The word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Oldest => "oldest",
            Self::MinKeep => "min_keep",
            Self::NewestGood => "newest_good",
            Self::NewestVerified => "newest_verified",
            Self::Pinned => "pinned",
            Self::InUse => "in_use",
            Self::Suspect => "suspect",
            Self::FailedOver => "failed_over",
        }
    }
}
