//! An entry and what lies on a disk: whether that is of the same kind and has the same metadata. Content is compared by its hash, elsewhere.

use std::ffi::OsStr;
use std::fmt;
use std::io;

use crate::copies::format::entry::{Entry, Kind};
use crate::sys::attributes::{self, Attribute};
use crate::sys::dir::{Dir, FileType, Stamp, Stat};
use crate::sys::host;

/// What is not as the entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::copies) enum Difference {
    Kind,
    Size {
        is: u64,
    },
    /// Of a symbolic link, or the number of a device.
    Target,
    Mode {
        is: u32,
    },
    Owner {
        uid: u32,
        gid: u32,
    },
    Modified,
    Attribute(Vec<u8>),
}

impl Difference {
    /// Whether it needs another inode; everything else can be set.
    pub(in crate::copies) fn is_of_content(&self) -> bool {
        match self {
            Self::Kind | Self::Size { .. } | Self::Target => true,
            Self::Mode { .. } | Self::Owner { .. } | Self::Modified | Self::Attribute(_) => false,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => write!(out, "it is of another kind"),
            Self::Size { is } => write!(out, "it has {is} bytes"),
            Self::Target => write!(out, "it leads elsewhere"),
            Self::Mode { is } => write!(out, "its mode is {is:04o}"),
            Self::Owner { uid, gid } => write!(out, "its owner is {uid}:{gid}"),
            Self::Modified => write!(out, "its time of change is another"),
            Self::Attribute(name) => write!(out, "its attribute {} is another", String::from_utf8_lossy(name)),
        }
    }
}

/// Differences as one sentence.
pub(in crate::copies) fn listed(differences: &[Difference]) -> String {
    let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Who compares. Without root no file can be given to others, and no device made, so that neither counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::copies) struct Eyes {
    is_root: bool,
}

impl Eyes {
    pub(in crate::copies) fn of_this_process() -> Self {
        Self { is_root: host::uid() == 0 }
    }

    /// Whether a copy of this entry has anything at its place.
    pub(in crate::copies) fn expect(self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Socket => false,
            Kind::Char { .. } | Kind::Block { .. } => self.is_root,
            Kind::File { .. } | Kind::Dir | Kind::Link { .. } | Kind::Fifo => true,
        }
    }

    /// All but the content of files and their attributes.
    pub(in crate::copies) fn stat(self, entry: &Entry, stat: &Stat) -> Vec<Difference> {
        if stat.kind() != file_type(&entry.kind) {
            return vec![Difference::Kind];
        }
        let mut differences = Vec::new();
        match &entry.kind {
            Kind::File { size, .. } if *size != stat.size => differences.push(Difference::Size { is: stat.size }),
            Kind::Char { rdev } | Kind::Block { rdev } if *rdev != stat.rdev => differences.push(Difference::Target),
            Kind::File { .. } | Kind::Char { .. } | Kind::Block { .. } | Kind::Dir | Kind::Link { .. } => {}
            Kind::Fifo | Kind::Socket => {}
        }
        let mode = stat.mode & 0o7777;
        if mode != entry.mode && !matches!(entry.kind, Kind::Link { .. }) {
            differences.push(Difference::Mode { is: mode });
        }
        if self.is_root && (stat.uid, stat.gid) != (entry.uid, entry.gid) {
            differences.push(Difference::Owner { uid: stat.uid, gid: stat.gid });
        }
        if !is_same_time(entry.mtime, stat.mtime) {
            differences.push(Difference::Modified);
        }
        differences
    }

    /// Where a symbolic link leads, and the attributes.
    pub(in crate::copies) fn rest(self, entry: &Entry, dir: &Dir, name: &OsStr) -> io::Result<Vec<Difference>> {
        let mut differences = Vec::new();
        if let Kind::Link { target } = &entry.kind
            && dir.read_link(name)?.as_encoded_bytes() != target.as_slice()
        {
            differences.push(Difference::Target);
        }
        differences.extend(Self::attributes(entry, attributes::list_named(dir, name)?));
        Ok(differences)
    }

    /// What the entry says of the attributes, and what `is`.
    pub(in crate::copies) fn attributes(entry: &Entry, is: Vec<Attribute>) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (name, value) in &entry.attributes {
            if !is.iter().any(|(other, found)| other == name && found == value) {
                differences.push(Difference::Attribute(name.clone()));
            }
        }
        let unknown = |name: &Vec<u8>| !entry.attributes.iter().any(|(known, _)| known == name);
        let surplus = is.into_iter().map(|(name, _)| name).filter(|name| unknown(name) && is_given_by_people(name));
        differences.extend(surplus.map(Difference::Attribute));
        differences
    }
}

/// Others, labels of a security module for example, are given by the kernel to whatever is made.
fn is_given_by_people(attribute: &[u8]) -> bool {
    attribute.starts_with(b"user.") || attribute.starts_with(b"system.posix_acl_")
}

/// Some file systems keep whole seconds.
fn is_same_time(wanted: Stamp, is: Stamp) -> bool {
    wanted.s == is.s && (wanted.ns == is.ns || is.ns == 0)
}

pub(in crate::copies) fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::File { .. } => FileType::File,
        Kind::Dir => FileType::Dir,
        Kind::Link { .. } => FileType::Link,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::Char { .. } => FileType::Char,
        Kind::Block { .. } => FileType::Block,
    }
}
