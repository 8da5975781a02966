//! Where a target is, and whether copies may be made there. Nothing is written here, and nothing is made.
//!
//! The most costly mistake of a tool like this is to write to the root disk what was meant for a second one that is not mounted, while
//! everything looks well. So the mount is found from the path, its root is held open, and whatever follows goes by that descriptor.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::copies::catalog::TargetState;
use crate::engine::copies::plan::CopyPlan;
use crate::sys::dir::Dir;
use crate::sys::mounts;

/// Those that can hold hard links, owners and attributes, and that fail by themselves when their journal does.
const FILE_SYSTEMS: [&str; 7] = ["ext4", "ext3", "xfs", "btrfs", "bcachefs", "f2fs", "zfs"];
/// Only where the copies are told to stay on the disk of their source: then nothing is lost by it that was to be had.
const FILE_SYSTEMS_SAME_DISK: [&str; 2] = ["tmpfs", "overlay"];

/// Where a target is.
#[derive(Debug)]
pub(in crate::copies) struct Place {
    /// The directory of the marker: the root of a mount, or the `to` of copies that stay on the disk of their source.
    pub(in crate::copies) root_path: PathBuf,
    pub(in crate::copies) root: Dir,
    pub(in crate::copies) mount_id: u64,
    pub(in crate::copies) device: u64,
    /// The plan's `to` below it; may be empty.
    pub(in crate::copies) below: PathBuf,
}

/// Finds it.
pub(in crate::copies) fn place(plan: &CopyPlan) -> Result<Place, TargetState> {
    let (there, missing) = existing_part(&plan.to)?;
    let failing = |error: io::Error| TargetState::Failing { why: format!("{}: {error}", there.display()) };
    let found = Dir::open(&there).and_then(|dir| dir.stat_self()).map_err(failing)?;
    // Otherwise the sources are not looked at: their disk may never answer.
    if plan.same_disk && devices_of_the_host(plan).contains(&found.dev) {
        if missing != Path::new("") {
            let why = format!("{} is not there yet: `copies init {}` makes it", plan.to.display(), plan.name);
            return Err(TargetState::Unmarked { why });
        }
        let root = Dir::open(&there).map_err(failing)?;
        return Ok(Place {
            root_path: there,
            root,
            mount_id: found.mount_id,
            device: found.dev,
            below: PathBuf::new(),
        });
    }
    let (root_path, root) = mount_root(&there)?;
    let found = root.stat_self().map_err(failing)?;
    let below = there.strip_prefix(&root_path).unwrap_or(Path::new("")).join(missing);
    if root_path == Path::new("/") {
        let why = format!("nothing is mounted at {} or above it: it lies on the root disk", plan.to.display());
        return Err(TargetState::Absent { why });
    }
    Ok(Place { root_path, root, mount_id: found.mount_id, device: found.dev, below })
}

/// The longest part of the path that is there, with no link in it, and the rest.
fn existing_part(path: &Path) -> Result<(PathBuf, PathBuf), TargetState> {
    for part in path.ancestors() {
        match part.canonicalize() {
            Ok(there) => {
                let missing = path.strip_prefix(part).unwrap_or(Path::new("")).to_owned();
                return Ok((there, missing));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(TargetState::Failing { why: format!("{}: {error}", part.display()) }),
        }
    }
    Err(TargetState::Absent { why: format!("{} is no absolute path", path.display()) })
}

fn mount_root(there: &Path) -> Result<(PathBuf, Dir), TargetState> {
    for part in there.ancestors() {
        let failing = |error: io::Error| TargetState::Failing { why: format!("{}: {error}", part.display()) };
        let dir = Dir::open(part).map_err(failing)?;
        if dir.stat_self().map_err(failing)?.is_mount_root || part == Path::new("/") {
            return Ok((part.to_owned(), dir));
        }
    }
    Err(TargetState::Absent { why: format!("{} lies on no mount", there.display()) })
}

/// The file systems of the root and of the sources.
fn devices_of_the_host(plan: &CopyPlan) -> BTreeSet<u64> {
    use std::os::unix::fs::MetadataExt;
    let paths = plan.from.iter().map(PathBuf::as_path).chain([Path::new("/")]);
    paths.filter_map(|path| path.metadata().ok()).map(|found| found.dev()).collect()
}

/// Whether the file system there will do.
pub(in crate::copies) fn medium(plan: &CopyPlan, place: &Place) -> Result<(), TargetState> {
    let failing = |error: io::Error| TargetState::Failing { why: format!("/proc/self/mountinfo: {error}") };
    let Some(mount) = mounts::seen(place.mount_id).map_err(failing)? else {
        return Err(TargetState::Absent { why: format!("{} is not mounted any more", place.root_path.display()) });
    };
    if let Some(word) = mount.not_writable {
        let why = format!("{} cannot be written to: it is mounted `{word}`", place.root_path.display());
        return Err(TargetState::Failing { why });
    }
    let fs_type = mount.fs_type.as_str();
    let fits = FILE_SYSTEMS.contains(&fs_type) || (plan.same_disk && FILE_SYSTEMS_SAME_DISK.contains(&fs_type));
    if !fits {
        let why = format!(
            "{} is {fs_type}, which cannot keep copies; one of these can: {}",
            place.root_path.display(),
            FILE_SYSTEMS.join(", ")
        );
        return Err(TargetState::Refused { why });
    }
    not_within_a_source(plan, place)?;
    if plan.same_disk { Ok(()) } else { other_disk(plan, place) }
}

/// Or every copy would hold all copies before it.
fn not_within_a_source(plan: &CopyPlan, place: &Place) -> Result<(), TargetState> {
    let target = place.root_path.join(&place.below);
    for source in &plan.from {
        let source = source.canonicalize().unwrap_or_else(|_| source.clone());
        if target.starts_with(&source) {
            let why = format!("{} lies within the source {}", target.display(), source.display());
            return Err(TargetState::Refused { why });
        }
    }
    Ok(())
}

/// Copies on the disk of their source die with it.
fn other_disk(plan: &CopyPlan, place: &Place) -> Result<(), TargetState> {
    let refused = |why: String| TargetState::Refused { why: format!("{why}; `same_disk: true` allows it") };
    if devices_of_the_host(plan).contains(&place.device) {
        let why = format!("{} is the file system of a source or of /", place.root_path.display());
        return Err(refused(why));
    }
    let disk_of = |path: &Path| {
        let failing = |error: io::Error| TargetState::Failing { why: format!("/proc/self/mountinfo: {error}") };
        mounts::disk_of(path).map_err(failing)
    };
    let target = disk_of(&place.root_path)?.map_err(&refused)?;
    for source in plan.from.iter().map(PathBuf::as_path).chain([Path::new("/")]) {
        let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
        // A source without a disk of its own, in memory or on the network, is on another one than the target.
        if disk_of(&source)?.is_ok_and(|disk| disk == target) {
            let name = target.name().unwrap_or_else(|| target.to_string());
            let why = format!("{} and {} are on the same disk {name}", place.root_path.display(), source.display());
            return Err(refused(why));
        }
    }
    Ok(())
}
