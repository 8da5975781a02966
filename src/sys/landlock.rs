//! Landlock: a process and all that descend from it reach only the paths that were named (landlock(7), Linux 5.13).
//!
//! The wall is described here and built in the child, between clone and exec: a path on a disk that hangs holds up nobody else. What it
//! cannot hold back: descriptors that are open already, the change of modes and owners, and what somebody else does on request.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc::{self, c_char, c_long};

use super::luggage::Luggage;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Remove directories and files; make devices, directories, files, sockets, pipes and links.
const REMOVE_AND_MAKE: u64 = 0x1ff0;
/// Move or link from one directory into another (ABI 2; before that it is always refused behind a wall).
const REFER: u64 = 1 << 13;
/// ABI 3.
const TRUNCATE: u64 = 1 << 14;

const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
/// What can be allowed for something that is no directory.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;

/// Not in the C library's headers for musl; the same on every architecture.
const SYS_CREATE_RULESET: c_long = 444;
const SYS_ADD_RULE: c_long = 445;
const SYS_RESTRICT_SELF: c_long = 446;
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// What the kernel knows of it; `None`: it was built without, or booted without (`lsm=`).
#[must_use]
#[expect(unsafe_code, reason = "landlock_create_ruleset has no wrapper")]
pub fn abi() -> Option<u32> {
    static ABI: OnceLock<Option<u32>> = OnceLock::new();
    *ABI.get_or_init(|| {
        let nothing = std::ptr::null::<u64>();
        // SAFETY: without attributes the call only answers with a number.
        let version = unsafe { libc::syscall(SYS_CREATE_RULESET, nothing, 0, CREATE_RULESET_VERSION) };
        u32::try_from(version).ok().filter(|version| *version > 0)
    })
}

/// What is refused where nothing was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    Writing,
    /// And executing.
    Reading,
    Both,
}

/// The rules of one child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wall {
    refused: u64,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    path: CString,
    rights: u64,
    /// One that is not there is passed over.
    optional: bool,
}

impl Wall {
    /// `None`: this kernel has no Landlock.
    #[must_use]
    pub fn new(refuse: Refuse) -> Option<Self> {
        Some(Self::for_abi(refuse, abi()?))
    }

    fn for_abi(refuse: Refuse, abi: u32) -> Self {
        let refer = if abi >= 2 { REFER } else { 0 };
        let truncate = if abi >= 3 { TRUNCATE } else { 0 };
        let writing = WRITE_FILE | REMOVE_AND_MAKE | refer | truncate;
        let mut wall = Self { refused: 0, rules: Vec::new() };
        match refuse {
            Refuse::Writing => wall.refused = writing,
            Refuse::Both => wall.refused = writing | READ,
            Refuse::Reading => {
                // Else moving files would be refused everywhere.
                wall.refused = READ | refer;
                wall.add(c"/".to_owned(), refer, false);
            }
        }
        wall
    }

    /// Reading and executing it and what lies below it.
    pub fn allow_reading(&mut self, path: CString) {
        self.add(path, READ, false);
    }

    /// And whatever else can be done there.
    pub fn allow_writing(&mut self, path: CString) {
        self.add(path, u64::MAX, false);
    }

    /// [`Wall::allow_writing`], if it is there.
    pub fn allow_writing_if_there(&mut self, path: CString) {
        self.add(path, u64::MAX, true);
    }

    fn add(&mut self, path: CString, rights: u64, optional: bool) {
        let rights = rights & self.refused;
        if rights != 0 {
            self.rules.push(Rule { path, rights, optional });
        }
    }

    /// In the order in which the child meets them.
    pub(super) fn paths(&self) -> impl Iterator<Item = &CStr> {
        self.rules.iter().map(|rule| rule.path.as_c_str())
    }

    /// As the child finds it.
    pub(super) fn pack<'m>(&self, luggage: &mut Luggage<'m>) -> Result<Packed<'m>, Errno> {
        let rules = self.rules.iter().map(|rule| {
            let path = luggage.pack_string(&rule.path)?.as_ptr();
            Ok(PackedRule { path, rights: rule.rights, optional: rule.optional })
        });
        let rules = rules.collect::<Result<Vec<_>, Errno>>()?;
        Ok(Packed { refused: self.refused, rules: luggage.pack(&rules)? })
    }
}

/// A wall without the heap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'m> {
    refused: u64,
    rules: &'m [PackedRule],
}

#[derive(Clone, Copy, Debug)]
struct PackedRule {
    path: *const c_char,
    rights: u64,
    optional: bool,
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Builds the wall around this process. `Err`: the rule that failed (`None`: the wall itself), and how. Async-signal-safe.
#[expect(unsafe_code, reason = "system calls")]
pub(super) fn enforce(wall: &Packed<'_>) -> Result<(), (Option<usize>, Errno)> {
    // SAFETY: the attribute of the first ABI is this number, which lives on this frame.
    let ruleset = unsafe { libc::syscall(SYS_CREATE_RULESET, &raw const wall.refused, size_of::<u64>(), 0) };
    let ruleset = Errno::result(ruleset).map_err(|errno| (None, errno))?;
    for (index, rule) in wall.rules.iter().enumerate() {
        match add(ruleset, rule) {
            Err(Errno::ENOENT) if rule.optional => {}
            other => other.map_err(|errno| (Some(index), errno))?,
        }
    }
    // SAFETY: numbers only.
    let restrict = || Errno::result(unsafe { libc::syscall(SYS_RESTRICT_SELF, ruleset, 0) });
    let mut restricted = restrict();
    if restricted == Err(Errno::EPERM) {
        // Without CAP_SYS_ADMIN only who can gain no privileges may restrict itself.
        // SAFETY: numbers only.
        unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        restricted = restrict();
    }
    close(ruleset);
    restricted.map(drop).map_err(|errno| (None, errno))
}

fn add(ruleset: c_long, rule: &PackedRule) -> Result<(), Errno> {
    let (place, rights) = match open(rule.path, libc::O_DIRECTORY) {
        Err(Errno::ENOTDIR) => (open(rule.path, 0)?, rule.rights & OF_FILES),
        other => (other?, rule.rights),
    };
    let added = if rights == 0 { Ok(()) } else { add_rights(ruleset, place, rights) };
    close(place);
    added
}

#[expect(unsafe_code, reason = "system call")]
fn add_rights(ruleset: c_long, place: c_long, rights: u64) -> Result<(), Errno> {
    let parent_fd = RawFd::try_from(place).map_err(|_| Errno::EBADF)?;
    let attribute = PathBeneath { allowed_access: rights, parent_fd };
    // SAFETY: the attribute lives on this frame and has the kernel's layout.
    Errno::result(unsafe { libc::syscall(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, &raw const attribute, 0) }).map(drop)
}

#[expect(unsafe_code, reason = "system call")]
fn open(path: *const c_char, flags: i32) -> Result<c_long, Errno> {
    let flags = flags | libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the path is a C string of the luggage.
    Errno::result(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0) })
}

#[expect(unsafe_code, reason = "system call")]
fn close(descriptor: c_long) {
    // SAFETY: opened here, and nobody else uses it. Close-on-exec would close it too, hence the ignored result.
    unsafe { libc::syscall(libc::SYS_close, descriptor) };
}

#[cfg(test)]
#[path = "landlock_tests.rs"]
mod tests;
