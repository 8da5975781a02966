//! Lets one directory or file be seen in the place of another: by a bind mount, or by a symbolic link that is switched.
//!
//! Looking up a path on a disk that does not answer may never return: this is for a child that can be left behind.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mounts::Mounts;

/// The mounts of ours that are lifted from one place; more than two are somebody else's doing.
const STACKED_MAX: u32 = 8;

/// Whether `live` is what is mounted, above all else, at `at`. Told from the list of mounts alone.
pub fn is_bound(live: &Path, at: &Path) -> io::Result<bool> {
    Ok(is_bound_in(&Mounts::read()?, live, at))
}

fn is_bound_in(mounts: &Mounts, live: &Path, at: &Path) -> bool {
    let Some(below) = mounts.of(live) else { return false };
    let Ok(rest) = live.strip_prefix(&below.point) else { return false };
    let root = if rest.as_os_str().is_empty() { below.root.clone() } else { below.root.join(rest) };
    let top = mounts.iter().rfind(|mount| mount.point == at);
    top.is_some_and(|top| top.device == below.device && top.root == root)
}

/// Mounts `live` over `at`, unless it is there.
pub fn bind(live: &Path, at: &Path) -> io::Result<()> {
    let (live, at) = (fs::canonicalize(live)?, without_links(at));
    if is_bound(&live, &at)? {
        return Ok(());
    }
    make_point(&live, &at)?;
    Ok(mount(Some(&live), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Another disk may be in the place of the one that failed, with nothing on it.
fn make_point(live: &Path, at: &Path) -> io::Result<()> {
    match fs::symlink_metadata(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::metadata(live)?.is_dir() => fs::create_dir(at),
        // Where it cannot be looked at, mounting says why.
        Err(_) | Ok(_) => Ok(()),
    }
}

/// Lifts it, as often as it is there.
pub fn unbind(live: &Path, at: &Path) -> io::Result<()> {
    let live = fs::canonicalize(live).unwrap_or_else(|_| live.to_owned());
    let at = without_links(at);
    for _ in 0..STACKED_MAX {
        if !is_bound(&live, &at)? {
            return Ok(());
        }
        umount2(&at, MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Err(Errno::EBUSY.into())
}

/// The links before the last name followed, as far as that can be told.
fn without_links(path: &Path) -> PathBuf {
    match (path.parent().map(fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        (Some(Ok(_) | Err(_)) | None, _) => path.to_owned(),
    }
}

/// What a link leads to after this; anything but `from` and `to` is an error.
pub fn relink(link: &Path, from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::read_link(link)?;
    if found == to {
        return Ok(());
    }
    if found != from {
        return Err(io::Error::other(format!(
            "it leads to {}, and neither to {} nor to {}",
            found.display(),
            from.display(),
            to.display()
        )));
    }
    let mut name = OsString::from(".");
    name.push(link.file_name().unwrap_or_default());
    name.push(".mainstay-new");
    let fresh = link.with_file_name(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(to, &fresh)?;
    fs::rename(&fresh, link)?;
    link.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TempDir, root_or_skip};

    #[test]
    fn own_mount_is_told_from_others_by_the_list_alone() {
        let list = b"27 1 254:0 / / rw - ext4 /dev/root rw\n\
            31 27 8:1 / /second rw - xfs /dev/sda1 rw\n\
            32 27 8:1 /copies/live/1/data/srv /srv rw - xfs /dev/sda1 rw\n\
            33 27 8:1 /other /var rw - xfs /dev/sda1 rw\n";
        let mounts = Mounts::parse(list);
        let live = Path::new("/second/copies/live/1/data/srv");
        assert!(is_bound_in(&mounts, live, Path::new("/srv")));
        assert!(!is_bound_in(&mounts, live, Path::new("/var")));
        assert!(!is_bound_in(&mounts, Path::new("/second/copies/live/2/data/srv"), Path::new("/srv")));
        let covered = [list.as_slice(), b"34 27 8:2 / /srv rw - ext4 /dev/sdb rw\n"].concat();
        assert!(!is_bound_in(&Mounts::parse(&covered), live, Path::new("/srv")), "something else was mounted over it");
    }

    #[test]
    fn link_is_switched_and_switched_back_and_a_strange_one_is_left_alone() {
        let directory = TempDir::new();
        let path = |name: &str| directory.path().join(name);
        let (link, own, live) = (path("link"), path("own"), path("live"));
        std::os::unix::fs::symlink(&own, &link).unwrap();
        for _ in 0..2 {
            relink(&link, &own, &live).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), live);
        }
        relink(&link, &live, &own).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), own);
        assert!(relink(&link, &path("another"), &live).unwrap_err().to_string().contains("leads to"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn mount_is_made_once_and_lifted_again() {
        if !root_or_skip("bind mounts") {
            return;
        }
        let directory = TempDir::new();
        let (own, live) = (directory.path().join("own"), directory.path().join("live"));
        for (path, text) in [(&own, "own"), (&live, "live")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), text).unwrap();
        }
        let seen = || fs::read_to_string(own.join("file")).unwrap();
        if let Err(error) = bind(&live, &own) {
            return println!("skipped: no mounts here: {error}");
        }
        bind(&live, &own).unwrap();
        assert_eq!(seen(), "live");
        unbind(&live, &own).unwrap();
        unbind(&live, &own).unwrap();
        assert_eq!(seen(), "own");
    }
}
