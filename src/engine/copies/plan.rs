//! What the configuration says of copies, checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One set: sources that are copied together, and where to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyPlan {
    pub name: String,
    /// Absolute, without `.` and `..`, none within another. At least one.
    pub from: Vec<PathBuf>,
    /// Patterns of paths below each source: `*` and `?` within a name, `**` over names, a trailing `/` for directories only. A pattern
    /// with a `/` elsewhere begins at the source, one without matches names at any depth.
    pub exclude: Vec<String>,
    /// A directory below a marked mount; the set lies in `to/name`.
    pub to: PathBuf,
    /// The target may be on the disk of the source, or of `/`.
    pub same_disk: bool,
    /// Of the marker; `None`: any marker will do.
    pub uuid: Option<String>,
    pub when: When,
    pub keep: Keep,
    pub quiesce: Quiesce,
    /// Every inode is read again within this time. `None`: never.
    pub scrub_every: Option<Duration>,
    /// Some files of the newest copy are restored into scratch space this often. `None`: never.
    pub restore_test: Option<Duration>,
    /// The newest good copy (or the newest proof that nothing has changed) may be this old. `None`: no alarm.
    pub max_age: Option<Duration>,
    /// A copy whose files or bytes fell by more than this share of the last good one is suspect. Thousandths.
    pub max_shrink_permille: u32,
    /// Bytes a second that are read and written at most. `None`: as fast as the disks are when nobody else uses them.
    pub bandwidth: Option<u64>,
    pub space: Space,
    pub read_back: ReadBack,
    /// `None`: the service's own `on_disk_failing` holds.
    pub on_source_failing: Option<OnSourceFailing>,
    pub failover: FailoverPlan,
}

impl CopyPlan {
    /// A set with the defaults of the configuration, but that nothing is done unless somebody asks for it.
    #[must_use]
    pub fn with_defaults(name: &str, from: PathBuf, to: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            from: vec![from],
            exclude: Vec::new(),
            to,
            same_disk: false,
            uuid: None,
            when: When::default(),
            keep: Keep::default(),
            quiesce: Quiesce::None,
            scrub_every: None,
            restore_test: None,
            max_age: None,
            max_shrink_permille: 500,
            bandwidth: None,
            space: Space::default(),
            read_back: ReadBack::Written,
            on_source_failing: None,
            failover: FailoverPlan::default(),
        }
    }

    /// The same without its sources: for what must not touch their disk, which may never answer.
    #[must_use]
    pub fn without_sources(&self) -> Self {
        Self { from: Vec::new(), ..self.clone() }
    }

    /// Whether what lies at this path is copied, or a part of it.
    #[must_use]
    pub fn covers(&self, path: &Path) -> bool {
        self.from.iter().any(|from| path.starts_with(from) || from.starts_with(path))
    }
}

/// When copies are made by themselves. Nothing of it: by hand only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    /// After the beginning of the last run.
    pub every: Option<Duration>,
    /// After midnight UTC, ascending.
    pub at: Vec<Duration>,
    /// After the last of some changes.
    pub on_change: Option<OnChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnChange {
    /// No change for this long.
    pub quiet: Duration,
    /// After the first change at the latest.
    pub max_wait: Duration,
}

/// Which copies stay. Each rule keeps the newest of so many of its periods (UTC) that have a copy; what any rule keeps stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    /// ISO weeks.
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// Good copies that stay whatever the rules and a full disk say. At least 1.
    pub min_keep: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quiesce {
    #[default]
    None,
    /// Freeze the service while its files are cloned, or while those it has open for writing are copied.
    Freeze { service: String, max: Duration },
    /// Stop it, copy, start it.
    Stop { service: String },
    /// Run `pre`; if it succeeds, copy; then run `post` in any case.
    Exec { pre: Vec<String>, post: Vec<String>, timeout: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Of the target that is left free, in thousandths, and at least `reserve_bytes`.
    pub reserve_permille: u32,
    pub reserve_bytes: u64,
    pub on_full: OnFull,
    /// Versions of files of at least this size, that the target cannot share pages of, are kept in this many copies only (and those that have the
    /// same version). `None`: no cap.
    pub large: Option<Large>,
}

impl Default for Space {
    fn default() -> Self {
        Self { reserve_permille: 20, reserve_bytes: 512 << 20, on_full: OnFull::Stop, large: None }
    }
}

impl Space {
    /// All of the target may be filled.
    pub const NO_RESERVE: Self = Self { reserve_permille: 0, reserve_bytes: 0, on_full: OnFull::Stop, large: None };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Large {
    pub over: u64,
    pub keep: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFull {
    /// No copy, and an alert.
    Stop,
    /// The oldest go, beyond what the rules say, down to `min_keep`.
    PruneOldest,
}

/// What of a new copy is read again before it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadBack {
    Written,
    All,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnSourceFailing {
    Hold,
    /// Go on from the newest verified copy, on the disk of the copies.
    Restore,
}

/// How `Restore` is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPlan {
    /// The disk of the source must have failed for this long before anything is built; its services are held meanwhile.
    pub after: Duration,
    /// A symbolic link through which the service reaches its data, and that is switched. `None`: the copy is mounted over the source.
    pub link: Option<PathBuf>,
}

impl Default for FailoverPlan {
    fn default() -> Self {
        Self { after: Duration::from_secs(10), link: None }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 10, hourly: 24, daily: 7, weekly: 4, monthly: 6, yearly: 0, min_keep: 3 }
    }
}
