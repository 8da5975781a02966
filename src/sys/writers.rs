//! Who has files below some directories open for writing, as /proc tells without touching one of them.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// A process and a file that it may write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    pub pid: i32,
    /// `comm`.
    pub name: String,
    pub path: PathBuf,
}

/// At most so many files of other processes than this one, at or below these paths. Processes that this one may not look into are left out, and so is
/// what is reached by another name: the paths are those that the kernel tells.
pub fn below(paths: &[PathBuf], at_most: usize) -> io::Result<Vec<Writer>> {
    let mut writers = Vec::new();
    let own = std::process::id();
    for process in fs::read_dir("/proc")? {
        let Some(pid) = process?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if u32::try_from(pid) == Ok(own) {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            let Ok(path) = fs::read_link(descriptor.path()) else { continue };
            if !paths.iter().any(|below| is_at_or_below(below, &path)) || !is_for_writing(pid, &descriptor.file_name())
            {
                continue;
            }
            if writers.len() == at_most {
                return Ok(writers);
            }
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            writers.push(Writer { pid, name: name.trim_end().to_owned(), path });
        }
    }
    Ok(writers)
}

/// A file that has been unlinked is not there any more, whatever it was called.
fn is_at_or_below(directory: &Path, path: &Path) -> bool {
    path.starts_with(directory) && !path.as_os_str().as_bytes().ends_with(b" (deleted)")
}

fn is_for_writing(pid: i32, descriptor: &std::ffi::OsStr) -> bool {
    let Ok(text) = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("fdinfo").join(descriptor)) else {
        return false;
    };
    let flags = text.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| {
        flags & libc::O_PATH == 0 && matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn only_writers_of_other_processes_below_the_directory_are_named() {
        let directory = TempDir::new();
        let inside = directory.path().join("d");
        fs::create_dir(&inside).unwrap();
        let open = |path: &Path, write: bool| {
            fs::File::options().read(true).write(write).create(write).truncate(false).open(path).unwrap()
        };
        let (written, beside) = (open(&inside.join("f"), true), open(&directory.path().join("d2"), true));
        let read = open(&inside.join("f"), false);
        let mut child = Command::new("sleep").arg("60").stdin(read).stdout(written).stderr(beside).spawn().unwrap();
        let found = below(&[inside.canonicalize().unwrap()], 10).unwrap();
        let none = below(&[inside.canonicalize().unwrap()], 0).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].pid, found[0].name.as_str()), (i32::try_from(child.id()).unwrap(), "sleep"));
        assert!(found[0].path.ends_with("d/f"));
        assert!(none.is_empty());
        let mut idle = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        assert!(below(&[inside], 10).unwrap().is_empty());
        idle.kill().unwrap();
        idle.wait().unwrap();
    }
}
