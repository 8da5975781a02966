//! Questions to the host that the check asks: is there such a user, can this file be run. Every answer comes from files below one
//! root, so that a test (or a check of another machine's files) brings its own.
//!
//! No name service is asked: a static binary that does so loads the host's libraries. What stands in /etc/passwd and /etc/group counts.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::engine::plan::User;

/// Where a command without `/` is looked for, in this order; the agent's own PATH plays no part.
pub const COMMAND_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// More of a file of users or groups is not read.
const ACCOUNTS_BYTES_MAX: u64 = 4 << 20;
/// capabilities(7), linux/capability.h.
const CAP_SYS_ADMIN: u32 = 21;
/// The kernel reads no more of a `#!` line.
const SHEBANG_BYTES_MAX: u64 = 256;

/// The host as the check sees it.
#[derive(Clone, Debug)]
pub struct Look {
    root: PathBuf,
    passwd: String,
    group: String,
}

/// What became of the search for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Found(PathBuf),
    NotFound,
    Directory(PathBuf),
    /// The file is there, but this user may not run it.
    NotExecutable(PathBuf),
    /// The user may not enter a directory above the file.
    NoEntry(PathBuf, PathBuf),
    /// A script whose interpreter is not there.
    NoInterpreter(PathBuf, String),
    Unreadable(PathBuf, String),
}

impl Look {
    /// This host.
    #[must_use]
    pub fn host() -> Self {
        Self::at(Path::new("/"))
    }

    /// A host whose files lie below `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        let read = |name: &str| {
            let mut text = Vec::new();
            match fs::File::open(root.join("etc").join(name))
                .and_then(|file| file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut text))
            {
                Ok(_) => String::from_utf8_lossy(&text).into_owned(),
                // Without the file there are no users but numbers, which is what the messages will say.
                Err(_) => String::new(),
            }
        };
        Self { root: root.to_owned(), passwd: read("passwd"), group: read("group") }
    }

    /// Where an absolute path of the host lies for us.
    pub(super) fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.real(path).is_dir()
    }

    /// Whether there is anything at an absolute path.
    pub(super) fn exists(&self, path: &Path) -> bool {
        self.real(path).exists()
    }

    /// An absolute path with its links resolved; `None` when it does not exist or cannot be reached. It may wait for the disk.
    pub(super) fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(self.real(path)).ok()?;
        let root = fs::canonicalize(&self.root).ok()?;
        Some(real.strip_prefix(&root).map_or(real.clone(), |inside| Path::new("/").join(inside)))
    }

    /// The same as far as there is something: what is missing (a disk that is not mounted, say) stays as it is written, so that the rest is what it is otherwise.
    pub(super) fn resolve_existing(&self, path: &Path) -> PathBuf {
        let above = path.ancestors().find_map(|above| Some((self.resolve(above)?, path.strip_prefix(above).ok()?)));
        match above {
            Some((real, rest)) if rest.as_os_str().is_empty() => real,
            Some((real, rest)) => real.join(rest),
            None => path.to_owned(),
        }
    }

    /// What stands in a symbolic link; `None` where there is none.
    pub(super) fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(self.real(path)).ok()
    }

    /// The last part of what a path leads to; `None` when it does not exist.
    pub(super) fn link_target(&self, path: &Path) -> Option<String> {
        Some(self.resolve(path)?.file_name()?.to_string_lossy().into_owned())
    }

    /// What a directory of the kernel holds; empty where it is not there.
    pub(super) fn names_in(&self, directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(self.real(directory)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Whether root may mount here: not without CAP_SYS_ADMIN, as in many containers. Yes, where the kernel does not say.
    pub(super) fn root_may_mount(&self) -> bool {
        let text = fs::read_to_string(self.real(Path::new("/proc/self/status"))).unwrap_or_default();
        let set = text.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let set = set.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
        set.is_none_or(|set| set >> CAP_SYS_ADMIN & 1 == 1)
    }

    /// CPUs that are online; `None` where the kernel does not say.
    pub(super) fn cpus(&self) -> Option<u32> {
        let text = fs::read_to_string(self.real(Path::new("/sys/devices/system/cpu/online"))).ok()?;
        let count = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
        };
        Some(text.trim().split(',').filter_map(count).fold(0, u32::saturating_add)).filter(|cpus| *cpus > 0)
    }

    /// All memory of the host; `None` where the kernel does not say.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(self.real(Path::new("/proc/meminfo"))).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1_024)
    }

    /// Where something is mounted, by the kernel's list and without asking the file systems; empty where it is not there.
    pub(super) fn mount_points(&self) -> Vec<PathBuf> {
        let list = fs::read_to_string(self.real(Path::new("/proc/self/mountinfo"))).unwrap_or_default();
        list.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
    }

    /// A user by name or number, with all its groups.
    pub(super) fn user(&self, wanted: &str) -> Option<User> {
        let line = self.passwd_lines().find(|line| line[0] == wanted);
        let line = line.or_else(|| self.passwd_lines().find(|line| line[2] == wanted))?;
        let (uid, gid) = (line[2].parse().ok()?, line[3].parse().ok()?);
        let home = if line[5].is_empty() { "/" } else { line[5] };
        let shell = if line[6].is_empty() { "/bin/sh" } else { line[6] };
        let groups = self.groups_of(line[0], gid);
        Some(User { name: line[0].to_owned(), uid, gid, groups, home: home.to_owned(), shell: shell.to_owned() })
    }

    pub(super) fn user_names(&self) -> impl Iterator<Item = &str> {
        self.passwd_lines().map(|line| line[0])
    }

    /// A group by name or number.
    pub(super) fn group(&self, wanted: &str) -> Option<u32> {
        let line = self.group_lines().find(|line| line[0] == wanted);
        line.or_else(|| self.group_lines().find(|line| line[2] == wanted))?[2].parse().ok()
    }

    pub(super) fn group_names(&self) -> impl Iterator<Item = &str> {
        self.group_lines().map(|line| line[0])
    }

    /// The primary group and those that list the user as a member.
    fn groups_of(&self, name: &str, primary: u32) -> Vec<u32> {
        let listed = self.group_lines().filter(|line| line[3].split(',').any(|member| member == name));
        let mut groups = vec![primary];
        groups.extend(listed.filter_map(|line| line[2].parse::<u32>().ok()));
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    fn passwd_lines(&self) -> impl Iterator<Item = [&str; 7]> {
        self.passwd.lines().filter_map(fields)
    }

    fn group_lines(&self) -> impl Iterator<Item = [&str; 4]> {
        self.group.lines().filter_map(fields)
    }

    /// Finds a command, as a path or (without `/`) along [`COMMAND_PATH`], that `user` may run.
    pub(super) fn command(&self, name: &str, user: &User) -> Command {
        if name.contains('/') {
            return self.program(Path::new(name), user);
        }
        let mut second_best = Command::NotFound;
        for directory in COMMAND_PATH {
            match self.program(&Path::new(directory).join(name), user) {
                found @ Command::Found(_) => return found,
                Command::NotFound | Command::Directory(_) => {}
                other @ (Command::NotExecutable(_)
                | Command::NoEntry(..)
                | Command::NoInterpreter(..)
                | Command::Unreadable(..)) => {
                    if second_best == Command::NotFound {
                        second_best = other;
                    }
                }
            }
        }
        second_best
    }

    fn program(&self, path: &Path, user: &User) -> Command {
        let metadata = match fs::metadata(self.real(path)) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Command::NotFound;
            }
            Err(error) => return Command::Unreadable(path.to_owned(), error.to_string()),
        };
        if metadata.is_dir() {
            return Command::Directory(path.to_owned());
        }
        if !metadata.is_file() || !may_execute(&metadata, user) {
            return Command::NotExecutable(path.to_owned());
        }
        if let Some(directory) = self.closed_directory(path, user) {
            return Command::NoEntry(path.to_owned(), directory);
        }
        match self.interpreter(path) {
            Some(interpreter) if !self.real(Path::new(&interpreter)).exists() => {
                Command::NoInterpreter(path.to_owned(), interpreter)
            }
            Some(_) | None => Command::Found(path.to_owned()),
        }
    }

    /// The outermost directory on the way to a file that the user may not enter.
    fn closed_directory(&self, path: &Path, user: &User) -> Option<PathBuf> {
        let root = fs::canonicalize(&self.root).ok()?;
        let file = fs::canonicalize(self.real(path)).ok()?;
        let above: Vec<&Path> =
            file.ancestors().skip(1).take_while(|above| *above != root && above.starts_with(&root)).collect();
        let closed = above
            .into_iter()
            .rev()
            .find(|above| fs::metadata(above).is_ok_and(|metadata| !may_execute(&metadata, user)))?;
        Some(Path::new("/").join(closed.strip_prefix(&root).unwrap_or(closed)))
    }

    /// The absolute path after `#!`, where the file can be read.
    fn interpreter(&self, path: &Path) -> Option<String> {
        let mut head = Vec::new();
        let file = fs::File::open(self.real(path)).ok()?;
        file.take(SHEBANG_BYTES_MAX).read_to_end(&mut head).ok()?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let word = head.strip_prefix("#!")?.lines().next()?.split_whitespace().next()?.to_owned();
        word.starts_with('/').then_some(word)
    }
}

/// mountinfo writes a space, a tab, a newline and a backslash as `\\040` and so on.
fn unescape(text: &str) -> PathBuf {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, meant)| text.replace(code, meant))
        .into()
}

/// The kernel's rule for the x bits: the first of owner, group and others that applies counts alone. Root needs any of them, and
/// may enter every directory.
fn may_execute(metadata: &fs::Metadata, user: &User) -> bool {
    let bits = match user {
        User { uid: 0, .. } if metadata.is_dir() => return true,
        User { uid: 0, .. } => 0o111,
        User { uid, .. } if *uid == metadata.uid() => 0o100,
        User { groups, .. } if groups.contains(&metadata.gid()) => 0o010,
        User { .. } => 0o001,
    };
    metadata.mode() & bits != 0
}

/// The fields of a line of passwd or group; `None` for a comment or a line that is cut off.
fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    let parts: Vec<&str> = line.split(':').collect();
    let parts: [&str; N] = parts.try_into().ok()?;
    (!parts[0].is_empty() && !parts[0].starts_with(['#', '+', '-'])).then_some(parts)
}
