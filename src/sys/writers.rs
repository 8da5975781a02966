//! Who has files below some directories open for writing, as /proc tells without touching one of them; and which files some processes may write to.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
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

/// Numbers of inodes that processes may write to. Of any file system: what is of another one by chance is looked at more closely than it need be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writable {
    /// By a descriptor. Each write shows in the ctime.
    pub opened: BTreeSet<u64>,
    /// By a mapping. Only the first write to a page since it was written back shows in the ctime.
    pub mapped: BTreeSet<u64>,
}

/// Every process of these cgroups and of those below them.
#[must_use]
pub fn members(groups: &[PathBuf]) -> Vec<i32> {
    let mut members = Vec::new();
    let mut left = groups.to_vec();
    while let Some(group) = left.pop() {
        // A group that is gone has no members.
        let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        members.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        left.extend(super::group::groups_in(&group).unwrap_or_default());
    }
    members
}

/// What these processes may write to. Those that this process may not look into are left out.
#[must_use]
pub fn writable(processes: &[i32]) -> Writable {
    let mut writable = Writable::default();
    for pid in processes {
        writable.opened.extend(opened(*pid, |_| true));
        writable.mapped.extend(mapped(&fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default()));
    }
    writable
}

/// What any process but this one has open for writing at or below these paths, under the conditions of [`below`].
#[must_use]
pub fn opened_below(paths: &[PathBuf]) -> BTreeSet<u64> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let processes = names.filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|pid| *pid != own);
    let is_wanted = |path: &Path| paths.iter().any(|below| is_at_or_below(below, path));
    processes.flat_map(|pid| opened(pid, is_wanted)).collect()
}

/// Of one process: the numbers of files that it may write to and whose paths are wanted.
fn opened(pid: i32, is_wanted: impl Fn(&Path) -> bool) -> Vec<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |descriptor: fs::DirEntry| {
        // Sockets and pipes are most of them, and are told by what the link says.
        let path = fs::read_link(descriptor.path()).ok().filter(|path| path.is_absolute() && is_wanted(path))?;
        let is_written = !path.starts_with("/dev") && is_for_writing(pid, &descriptor.file_name());
        // Of the open file itself: no path is walked.
        is_written.then(|| fs::metadata(descriptor.path()).ok())?.map(|found| found.ino())
    };
    descriptors.filter_map(inode).collect()
}

/// Of the text of `/proc/PID/maps`: shared, and may be written to.
fn mapped(maps: &str) -> impl Iterator<Item = u64> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let permissions = fields.next()?.as_bytes();
        let inode = fields.nth(2)?.parse::<u64>().ok()?;
        (permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's') && inode != 0).then_some(inode)
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

    #[test]
    fn inodes_that_a_process_may_write_to() {
        let directory = TempDir::new();
        let (written, read) = (directory.path().join("w"), directory.path().join("r"));
        fs::write(&read, "").unwrap();
        let out = fs::File::create(&written).unwrap();
        let input = fs::File::open(&read).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(input).stdout(out).stderr(Stdio::null()).spawn().unwrap();
        let ino = |path: &Path| fs::metadata(path).unwrap().ino();
        let pid = i32::try_from(child.id()).unwrap();
        let below = [directory.path().canonicalize().unwrap()];
        for found in [writable(&[pid]).opened, opened_below(&below)] {
            assert!(found.contains(&ino(&written)));
            assert!(!found.contains(&ino(&read)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(writable(&[pid]), Writable::default());
        let maps = "7f01-7f02 rw-s 00001000 fe:01 4711                 /var/lib/a b\n\
                    7f02-7f03 rw-p 00001000 fe:01 4712 /x\n7f03-7f04 r--s 00001000 fe:01 4713 /y\n7f04-7f05 rw-p 0 00:00 0\nbent";
        assert_eq!(mapped(maps).collect::<Vec<_>>(), [4711]);
        assert!(members(&[directory.path().join("no group")]).is_empty());
    }
}
