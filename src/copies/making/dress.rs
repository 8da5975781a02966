//! Gives an inode the metadata of its entry. The order matters: a change of owner takes away set-user-ID bits and capabilities, attributes hold access control lists
//! whose mask is part of the mode, and everything changes times.

use std::ffi::OsStr;
use std::fs::File;
use std::io;

use nix::errno::Errno;

use crate::copies::format::entry::{Entry, Kind};
use crate::sys::attributes::Inode;
use crate::sys::dir::Dir;

/// What they make of a file: not only its owner may run it as its owner.
const SET_ID_BITS: u32 = 0o6000;
/// A new inode inherits these from its directory.
const ACCESS_LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// A file system with less room than this is full; with more, "no space" is about the attributes of one inode.
const FREE_BYTES_MIN: u64 = 1 << 20;

/// Metadata that the inode does not have, and why.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    #[error("cannot set its owner")]
    Owner(#[source] io::Error),
    #[error("cannot set its mode")]
    Mode(#[source] io::Error),
    /// Without its owner, it would run as somebody else.
    #[error("it lost its set-user-ID or set-group-ID bit with its owner")]
    SetId,
    #[error("cannot set its attribute {name}")]
    Attribute {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// What has this name, a link itself. An error is one of the disk; what the file system or the lack of a privilege refuses is in the answer.
pub fn dress(dir: &Dir, name: &OsStr, entry: &Entry) -> io::Result<Vec<NotKept>> {
    put_on(&Inode::named(dir, name)?, entry, || Ok(dir.space()?.free_bytes))
}

/// [`dress`] of a file that is open, which is quicker.
pub fn dress_open(file: &File, dir: &Dir, entry: &Entry) -> io::Result<Vec<NotKept>> {
    put_on(&Inode::open(file), entry, || Ok(dir.space()?.free_bytes))
}

fn put_on(inode: &Inode<'_>, entry: &Entry, free_bytes: impl Fn() -> io::Result<u64>) -> io::Result<Vec<NotKept>> {
    let mut not_kept = Vec::new();
    // Setting what is so already costs several times as much as looking.
    let is = inode.stat()?;
    let is_owned = (is.uid, is.gid) == (entry.uid, entry.gid);
    let has_owner = is_owned || own(inode, entry, &mut not_kept)?;
    if !matches!(entry.kind, Kind::Link { .. }) {
        let mode = if has_owner { entry.mode } else { entry.mode & !SET_ID_BITS };
        if mode != entry.mode {
            not_kept.push(NotKept::SetId);
        }
        if !(is_owned && is.mode & 0o7777 == mode)
            && let Err(error) = inode.chmod(mode)
        {
            not_kept.push(NotKept::Mode(refusal(error)?));
        }
        drop_inherited(inode, entry)?;
    }
    for (name, value) in &entry.attributes {
        let Err(error) = inode.set_attribute(name, value) else { continue };
        let is_full = error.kind() == io::ErrorKind::StorageFull && free_bytes()? < FREE_BYTES_MIN;
        // There is room: it is the attributes of one inode that have none.
        let is_too_large = error.kind() == io::ErrorKind::StorageFull && !is_full;
        let source = if is_too_large { error } else { refusal(error)? };
        not_kept.push(NotKept::Attribute { name: name.escape_ascii().to_string(), source });
    }
    inode.set_mtime(entry.mtime)?;
    Ok(not_kept)
}

/// False: it may not be given away.
fn own(inode: &Inode<'_>, entry: &Entry, not_kept: &mut Vec<NotKept>) -> io::Result<bool> {
    let Err(error) = inode.chown(Some(entry.uid), Some(entry.gid)) else { return Ok(true) };
    // The group alone, which its members may give.
    let _ = inode.chown(None, Some(entry.gid));
    not_kept.push(NotKept::Owner(refusal(error)?));
    Ok(false)
}

/// Access control lists that came from the directory and not from the entry.
fn drop_inherited(inode: &Inode<'_>, entry: &Entry) -> io::Result<()> {
    for (name, _) in crate::sys::attributes::or_none(inode.attributes())? {
        let is_of_entry = entry.attributes.iter().any(|(own, _)| *own == name);
        if ACCESS_LISTS.contains(&name.as_slice()) && !is_of_entry {
            inode.remove_attribute(&name)?;
        }
    }
    Ok(())
}

/// An error that is about this metadata; any other one is passed on.
fn refusal(error: io::Error) -> io::Result<io::Error> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::EPERM
            | Errno::EACCES
            | Errno::EINVAL
            | Errno::EOPNOTSUPP
            | Errno::ENOSYS
            | Errno::E2BIG
            | Errno::ERANGE
            | Errno::EOVERFLOW,
        ) => Ok(error),
        Some(_) | None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::copies::format::entry::{Attribute, Stamp};
    use crate::sys::attributes::list_named;
    use crate::sys::testing::{TempDir, root_or_skip};

    const LATER: Stamp = Stamp { s: 1_000_000_000, ns: 123_456_789 };

    fn entry(dir: &Dir, name: &str, attributes: Vec<Attribute>) -> Entry {
        let entry = Entry::of(b"x".to_vec(), &dir.stat(OsStr::new(name)).unwrap()).unwrap();
        Entry { mode: 0o6751, uid: 12_345, gid: 54_321, mtime: LATER, attributes, ..entry }
    }

    fn list(tag: u8) -> Vec<u8> {
        // Version 2; user, named user 7, group, mask, others: tag, permissions, id.
        let entries: [(u8, u8, u32); 5] =
            [(1, 7, u32::MAX), (2, tag, 7), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 1, u32::MAX)];
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&[tag, 0, permissions, 0]);
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn owner_mode_lists_capabilities_and_times_are_all_there_in_the_end() {
        if !root_or_skip("chown") {
            return;
        }
        let directory = TempDir::new();
        let dir = Dir::open(directory.path()).unwrap();
        let file = dir.create(OsStr::new("f"), 0o600).unwrap();
        dir.make_dir(OsStr::new("d"), 0o700).unwrap();
        symlink("f", directory.path().join("l")).unwrap();
        // cap_net_bind_service, permitted and effective.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        let attributes = vec![
            (b"security.capability".to_vec(), capability),
            (ACCESS_LISTS[0].to_vec(), list(4)),
            (b"trusted.t".to_vec(), vec![1]),
            (b"user.u".to_vec(), vec![0; 1000]),
        ];
        let wanted = entry(&dir, "f", attributes.clone());
        let not_kept = dress_open(&file, &dir, &wanted).unwrap();
        if matches!(not_kept.first(), Some(NotKept::Attribute { .. })) {
            eprintln!("skipped: {}: {not_kept:?}", directory.path().display());
            return;
        }
        assert!(not_kept.is_empty(), "{not_kept:?}");
        let found = dir.stat(OsStr::new("f")).unwrap();
        assert_eq!((found.uid, found.gid, found.mode & 0o7777, found.mtime), (12_345, 54_321, 0o6751, LATER));
        assert_eq!(list_named(&dir, OsStr::new("f")).unwrap(), attributes);

        let of_dir = vec![(ACCESS_LISTS[1].to_vec(), list(7))];
        assert!(dress(&dir, OsStr::new("d"), &entry(&dir, "d", of_dir.clone())).unwrap().is_empty());
        assert_eq!(list_named(&dir, OsStr::new("d")).unwrap(), of_dir);
        assert!(dress(&dir, OsStr::new("l"), &entry(&dir, "l", Vec::new())).unwrap().is_empty());
        let link = dir.stat(OsStr::new("l")).unwrap();
        assert_eq!((link.uid, link.mtime), (12_345, LATER));
        assert_eq!(dir.stat(OsStr::new("f")).unwrap().mode & 0o7777, 0o6751, "what the link points at was left alone");

        let below = dir.sub(std::path::Path::new("d")).unwrap();
        let inherits = below.create(OsStr::new("x"), 0o600).unwrap();
        assert!(!list_named(&below, OsStr::new("x")).unwrap().is_empty());
        assert!(dress_open(&inherits, &below, &entry(&below, "x", Vec::new())).unwrap().is_empty());
        assert!(list_named(&below, OsStr::new("x")).unwrap().is_empty());
    }

    #[test]
    fn what_the_file_system_refuses_is_told() {
        let directory = TempDir::new();
        let dir = Dir::open(directory.path()).unwrap();
        dir.create(OsStr::new("f"), 0o600).unwrap();
        let stat = dir.stat(OsStr::new("f")).unwrap();
        let attributes = vec![(b"nonsense.x".to_vec(), vec![1])];
        let wanted = Entry { uid: stat.uid, gid: stat.gid, ..entry(&dir, "f", attributes) };
        let not_kept = dress(&dir, OsStr::new("f"), &wanted).unwrap();
        assert!(
            matches!(not_kept.as_slice(), [NotKept::Attribute { name, .. }] if name == "nonsense.x"),
            "{not_kept:?}"
        );
        assert_eq!(dir.stat(OsStr::new("f")).unwrap().mtime, LATER);
        assert!(dress(&dir, OsStr::new("gone"), &wanted).is_err());
    }
}
