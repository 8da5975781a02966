//! Room on a file system.

use std::path::Path;

use super::mount_point;
use crate::engine::host::sample::SpaceStat;
use crate::sys::statfs;

/// Asks the file system that is mounted there; waits for it if need be. A directory on which nothing is mounted is an error, or it
/// would tell of the file system below.
#[must_use]
pub fn read_space(root: &Path, point: &str) -> SpaceStat {
    let path = mount_point::path(root, point);
    let asked =
        mount_point::must_be_mounted(root, point).and_then(|()| statfs::space(&path).map_err(|e| e.to_string()));
    let mut stat = SpaceStat { mount: point.to_owned(), ..SpaceStat::default() };
    match asked {
        Ok(space) => {
            stat.size_bytes = space.size_bytes;
            stat.available_bytes = space.available_bytes;
            stat.free_bytes = space.free_bytes;
            stat.inodes = space.inodes;
            stat.inodes_available = space.inodes_available;
        }
        Err(why) => stat.error = Some(why),
    }
    stat
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn room_is_told_and_a_directory_that_is_no_mount_point_has_none() {
        let stat = read_space(Path::new("/"), "/");
        assert_eq!(stat.error, None);
        assert!(stat.size_bytes > 0 && stat.available_bytes <= stat.free_bytes, "{stat:?}");
        let directory = TempDir::new();
        let stat = read_space(Path::new("/"), directory.path().to_str().unwrap());
        assert!(stat.error.is_some_and(|error| error.contains("nothing is mounted")));
        assert_eq!(read_space(directory.path(), "/").error, None, "below another root every directory counts");
        let error = read_space(directory.path(), "/gone").error.unwrap();
        assert!(error.contains("No such file"), "{error}");
    }
}
