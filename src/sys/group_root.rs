//! Where groups live: found once, at the start of the agent.
//!
//! In order: below the second unit that systemd delegated for the groups alone (`mainstay-services.service` beside `mainstay.service`; a
//! delegated directory carries `delegate` = 1); else below the unit that it delegated to us, with the agent itself moved into a group of
//! its own beside them, because a group with controllers enabled may hold no processes; else at the root of the cgroup2 mount,
//! which the agent's own group does not take with it when something kills that; else in the agent's own group; else nowhere,
//! and then containment is weak. Works in a hybrid setup too: killing and freezing need no controller.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::group::{Group, groups_in, remove_tree};
use super::mounts::Mounts;
use super::{Fallbacks, xattr};

/// Where groups shall live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best place there is, in a directory of this name.
    Auto { name: String },
    /// This directory of a cgroup2 mount; made if it is missing.
    Path(PathBuf),
    /// Nowhere.
    Off,
}

/// Where groups live; `None`: nowhere.
#[derive(Debug)]
pub struct Root(Option<Base>);

#[derive(Debug)]
struct Base {
    path: PathBuf,
    instance: String,
    /// Whether directories can be marked. Where they cannot, everything in `path` counts as ours.
    marks: bool,
    fallbacks: Fallbacks,
    /// The unit that systemd starts the agent in, from where it moved aside.
    started_in: Option<PathBuf>,
    /// See [`Root::counts_oom_kills`].
    counts_oom_kills: Cell<bool>,
}

/// Marks a group as that of one instance of the agent.
const INSTANCE: &str = "mainstay.instance";

/// What the host says about cgroups.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Mount point of the cgroup2 hierarchy.
    pub(super) mount: Option<PathBuf>,
    /// This process's group, relative to the mount; empty at its root.
    pub(super) own: PathBuf,
    /// This process, as `cgroup.procs` takes it: 0 is the writer.
    process: i32,
    pub(super) systemd: bool,
}

impl Surroundings {
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            mount: cgroup2_mount(&Mounts::read().unwrap_or_default()),
            own: own_group(&text("/proc/self/cgroup")),
            process: 0,
            systemd: Path::new("/run/systemd/system").is_dir(),
        }
    }
}

/// The mount that shows the hierarchy from its root, the first of several.
fn cgroup2_mount(mounts: &Mounts) -> Option<PathBuf> {
    let whole = mounts.iter().find(|mount| mount.fs_type == "cgroup2" && mount.root == Path::new("/"))?;
    Some(whole.point.clone())
}

/// `/../` leads out of our cgroup namespace, where we see no more than its root.
fn own_group(cgroup: &str) -> PathBuf {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    if own.starts_with("..") { PathBuf::new() } else { PathBuf::from(own) }
}

const NOT_PROMISED: &str = "a process that leaves its session, clears its environment and outlives its parent is not found and survives a \
                            stop, and there are no limits for memory and CPU of a service";

impl Root {
    /// Finds the place; each sentence says what cannot be promised there, and the remedy.
    #[must_use]
    pub fn detect(choice: Choice, instance: &str) -> (Self, Vec<String>) {
        Self::detect_with(choice, instance, Fallbacks::NONE)
    }

    /// [`Root::detect`], for groups that behave as on a kernel without what `fallbacks` names.
    #[must_use]
    pub fn detect_with(choice: Choice, instance: &str, fallbacks: Fallbacks) -> (Self, Vec<String>) {
        detect_in(&Surroundings::read(), choice, instance, fallbacks)
    }

    /// A new, empty, marked group. An empty one of this name is replaced, whosever it was; one with processes is EEXIST. On a weak root
    /// it is an error: see [`Group::weak`].
    pub fn create(&self, name: &str) -> io::Result<Group> {
        let base = self.base()?;
        let path = base.path_of(name)?;
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A used one may be frozen or hold limits. The kernel does not remove one that has processes.
                remove_tree(&path).map_err(|_| base.occupied(&path))?;
                fs::create_dir(&path)?;
            }
            Err(error) => return Err(error),
        }
        if base.marks {
            xattr::set(&path, INSTANCE, &base.instance)?;
        }
        Group::cgroup(path, base.fallbacks)
    }

    /// A group of an agent before us; `None` when there is none, EPERM when it is not marked as ours.
    pub fn open(&self, name: &str) -> io::Result<Option<Group>> {
        let base = self.base()?;
        let path = base.path_of(name)?;
        if !path.is_dir() {
            return Ok(None);
        }
        if !base.is_ours(&path) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} belongs to another instance", path.display()),
            ));
        }
        Group::cgroup(path, base.fallbacks).map(Some)
    }

    /// The names of all groups, and whether each is ours. Empty when weak.
    pub fn list(&self) -> io::Result<Vec<(String, bool)>> {
        let Some(base) = &self.0 else { return Ok(Vec::new()) };
        let mut list = Vec::new();
        for path in groups_in(&base.path)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            list.push((name, base.is_ours(&path)));
        }
        list.sort();
        Ok(list)
    }

    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.0.is_none()
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.as_ref().map(|base| base.path.as_path())
    }

    /// systemd starts every agent in this group: once it hands controllers down, no process can be put there.
    pub(super) fn started_in(&self) -> Option<&Path> {
        self.0.as_ref()?.started_in.as_deref()
    }

    /// Whether the groups count the kills of the OOM killer: the memory controller was enabled for them at the last look.
    #[must_use]
    pub fn counts_oom_kills(&self) -> bool {
        self.0.as_ref().is_some_and(|base| base.counts_oom_kills.get())
    }

    /// Somebody may have enabled controllers. To look here once is cheaper than to look for a file in every group at its end.
    pub fn look_for_controllers(&self) {
        let Some(base) = &self.0 else { return };
        let enabled = fs::read_to_string(base.path.join("cgroup.subtree_control")).unwrap_or_default();
        base.counts_oom_kills.set(enabled.split_ascii_whitespace().any(|controller| controller == "memory"));
    }

    fn base(&self) -> io::Result<&Base> {
        self.0.as_ref().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "there are no cgroups here"))
    }
}

impl Base {
    /// Names come from the configuration and from records on disk: one component, and not a control file.
    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." || name.starts_with("cgroup.") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("\"{name}\" cannot name a group")));
        }
        let mut path = self.path.join(name);
        path.shrink_to_fit();
        Ok(path)
    }

    fn is_ours(&self, path: &Path) -> bool {
        match xattr::get(path, INSTANCE) {
            Some(instance) => instance == self.instance,
            None => !self.marks,
        }
    }

    fn occupied(&self, path: &Path) -> io::Error {
        let whose = if self.is_ours(path) { "is still in use" } else { "is in use by another instance" };
        io::Error::new(io::ErrorKind::AlreadyExists, format!("{} {whose}", path.display()))
    }
}

fn detect_in(host: &Surroundings, choice: Choice, instance: &str, fallbacks: Fallbacks) -> (Root, Vec<String>) {
    let (places, started_in, mut notes) = match choice {
        Choice::Off => {
            return (Root(None), vec![format!("cgroups are switched off (cgroup: Off): {NOT_PROMISED}")]);
        }
        Choice::Path(path) => (vec![path], None, Vec::new()),
        Choice::Auto { name } => candidates(host, &name),
    };
    let mut failures = Vec::new();
    for path in places {
        match prepare(host, &path) {
            Ok(()) => {
                let marks = xattr::set(&path, INSTANCE, instance).is_ok();
                if !marks {
                    notes.push(format!(
                        "groups cannot be marked in {}: all in it are taken for ours, so let no other agent use it",
                        path.display()
                    ));
                }
                let (instance, counts_oom_kills) = (instance.to_owned(), Cell::new(false));
                let root = Root(Some(Base { path, instance, marks, fallbacks, started_in, counts_oom_kills }));
                root.look_for_controllers();
                return (root, notes);
            }
            Err(error) => failures.push(format!("{}: {error}", path.display())),
        }
    }
    if failures.is_empty() {
        failures.push("there is no cgroup2 mount; mount -t cgroup2 none /sys/fs/cgroup".to_owned());
    }
    notes.push(format!("no place for cgroups ({}): {NOT_PROMISED}", failures.join("; ")));
    (Root(None), notes)
}

fn candidates(host: &Surroundings, name: &str) -> (Vec<PathBuf>, Option<PathBuf>, Vec<String>) {
    let Places { paths, unit, undelegated } = places(host, name);
    let started_in = started_in(host, unit.as_deref());
    let mut notes = Vec::new();
    if let (Some(unit), Some(mount)) = (&unit, &host.mount)
        && let Err(error) = move_aside(unit, &mount.join(&host.own), host.process)
    {
        notes.push(format!(
            "the agent cannot move to {}/agent ({error}): no limits for memory and CPU of a service",
            unit.display()
        ));
    }
    if let Some(top) = undelegated {
        notes.push(format!(
            "systemd does not know of the groups in {}: give the unit Delegate=yes, or name a delegated directory in cgroup: Path(...)",
            top.display()
        ));
    }
    (paths, started_in, notes)
}

/// The unit itself, unless systemd starts the agent in a group below it (`DelegateSubgroup=`).
pub(super) fn started_in(host: &Surroundings, unit: Option<&Path>) -> Option<PathBuf> {
    let own = host.mount.as_ref()?.join(&host.own);
    unit.filter(|unit| **unit == own && host.systemd).map(Path::to_owned)
}

/// Where groups may lie.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The best first.
    pub(super) paths: Vec<PathBuf>,
    /// The agent has to leave this directory for a group below it.
    pub(super) unit: Option<PathBuf>,
    /// The first is a directory of systemd's that it has not delegated.
    undelegated: Option<PathBuf>,
}

/// Looks for them and changes nothing.
pub(super) fn places(host: &Surroundings, name: &str) -> Places {
    let Some(mount) = &host.mount else { return Places::default() };
    let own = mount.join(&host.own);
    if let Some(unit) = services_unit(mount, &own) {
        return Places { paths: vec![unit.join(name)], ..Places::default() };
    }
    if let Some(unit) = delegated_unit(mount, &own) {
        return Places { paths: vec![unit.join(name)], unit: Some(unit), ..Places::default() };
    }
    let top = mount.join(name);
    // Our own group may be the root of the mount.
    let mut paths = vec![top.clone(), own.join(name)];
    paths.dedup();
    Places { paths, unit: None, undelegated: host.systemd.then_some(top) }
}

/// A second delegated unit beside ours that holds nothing but groups: `mainstay-services.service` for `mainstay.service`. systemd starts no
/// process there, so controllers may be enabled in it; in our own unit they would keep systemd from starting the next agent (EBUSY).
fn services_unit(mount: &Path, own: &Path) -> Option<PathBuf> {
    let within = own.ancestors().take_while(|path| path.starts_with(mount));
    let unit = within.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "service"))?;
    let beside = format!("{}-services.service", unit.file_stem()?.to_str()?);
    Some(unit.with_file_name(beside)).filter(|path| is_delegated(path))
}

/// The directory that systemd delegated: our own group's, or the one above when we were started in a subgroup of it.
fn delegated_unit(mount: &Path, own: &Path) -> Option<PathBuf> {
    let above = own.parent().filter(|above| above.starts_with(mount));
    [Some(own), above].into_iter().flatten().find(|path| is_delegated(path)).map(Path::to_owned)
}

fn is_delegated(path: &Path) -> bool {
    xattr::get(path, "delegate").as_deref() == Some("1") && access(path, AccessFlags::W_OK).is_ok()
}

fn move_aside(unit: &Path, own: &Path, process: i32) -> io::Result<()> {
    if own != unit {
        return Ok(());
    }
    let aside = unit.join("agent");
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::write(aside.join("cgroup.procs"), process.to_string())
}

/// Makes the directory, and checks that groups can be made in it and processes moved there from ours.
fn prepare(host: &Surroundings, path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if !path.join("cgroup.procs").is_file() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "not in a cgroup2 mount"));
    }
    access(path, AccessFlags::W_OK)?;
    // A process may be moved only by who may write to the group that holds both the old and the new one.
    let Some(mount) = &host.mount else { return Err(Errno::ENOENT.into()) };
    let own = mount.join(&host.own);
    let common = path.ancestors().find(|ancestor| own.starts_with(ancestor)).unwrap_or(mount);
    Ok(access(&common.join("cgroup.procs"), AccessFlags::W_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_and_own_group_are_read() {
        let mountinfo = "31 1 0:25 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n\
                         40 31 0:38 /sub /elsewhere rw - cgroup2 cgroup2 rw\n\
                         41 31 0:38 / /sys/fs/a\\040b rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        let mount = |mountinfo: &str| cgroup2_mount(&Mounts::parse(mountinfo.as_bytes()));
        assert_eq!(mount(mountinfo), Some(PathBuf::from("/sys/fs/a b")));
        assert_eq!(mount("31 1 0:25 / / rw - ext4 /dev/sda rw\n"), None);
        assert_eq!(
            own_group("4:memory:/x\n0::/system.slice/mainstay.service\n"),
            Path::new("system.slice/mainstay.service")
        );
        assert_eq!(own_group("0::/../other\n"), Path::new(""));
        assert_eq!(own_group("4:memory:/x\n"), Path::new(""));
    }

    #[test]
    fn without_a_place_the_sentence_says_why() {
        let host = Surroundings { mount: None, own: PathBuf::new(), process: 0, systemd: false };
        let (root, notes) = detect_in(&host, auto(), "one", Fallbacks::NONE);
        assert!(root.is_weak() && root.path().is_none() && root.list().unwrap().is_empty());
        assert!(notes[0].contains("there is no cgroup2 mount"), "{notes:?}");
        assert_eq!(root.create("api.0").unwrap_err().kind(), io::ErrorKind::Unsupported);
        let (root, notes) = detect_in(&host, Choice::Off, "one", Fallbacks::NONE);
        assert!(root.is_weak() && notes[0].contains("switched off"));
        // A directory that is no cgroup.
        let directory = crate::sys::testing::TempDir::new();
        let (root, notes) = detect_in(&host, Choice::Path(directory.path().join("x")), "one", Fallbacks::NONE);
        assert!(root.is_weak() && notes[0].contains("not in a cgroup2 mount"), "{notes:?}");
    }

    #[test]
    fn oom_kills_are_counted_while_the_memory_controller_is_enabled() {
        let directory = crate::sys::testing::TempDir::new();
        let path = directory.path().to_owned();
        let (instance, counts_oom_kills) = ("one".to_owned(), Cell::new(false));
        let (marks, fallbacks, started_in) = (false, Fallbacks::NONE, None);
        let base = Base { path: path.clone(), instance, marks, fallbacks, started_in, counts_oom_kills };
        let root = Root(Some(base));
        for (enabled, counted) in [("", false), ("cpu memory pids\n", true), ("cpu pids\n", false), ("memory\n", true)]
        {
            fs::write(path.join("cgroup.subtree_control"), enabled).unwrap();
            root.look_for_controllers();
            assert_eq!(root.counts_oom_kills(), counted, "{enabled}");
        }
        let group = Group::cgroup(path.clone(), Fallbacks::NONE).unwrap();
        assert_eq!(group.oom_kills(), 0);
        fs::write(path.join("memory.events"), "low 0\nmax 7\noom 4\noom_kill 3\noom_group_kill 1\n").unwrap();
        assert_eq!(group.oom_kills(), 3);
    }

    /// A cgroup of the test below the root of the mount; `None` where we may not make one.
    fn unit(name: &str) -> Option<(PathBuf, Surroundings)> {
        let real = Surroundings::read();
        let own = format!("mainstay-test-unit-{}-{name}", std::process::id());
        let path = real.mount.as_ref()?.join(&own);
        if let Err(error) = fs::create_dir(&path) {
            eprintln!("skipped: cannot make {}: {error}", path.display());
            return None;
        }
        Some((path, Surroundings { own: PathBuf::from(own), systemd: true, ..real }))
    }

    fn auto() -> Choice {
        Choice::Auto { name: format!("mainstay-test-{}", std::process::id()) }
    }

    #[test]
    fn agent_moves_aside_in_the_unit_that_was_delegated_to_it() {
        let Some((path, host)) = unit("delegated") else { return };
        xattr::set(&path, "delegate", "1").unwrap();
        let (_reader, output) = crate::sys::fifo::pipe().unwrap();
        let group = Group::cgroup(path.clone(), Fallbacks::NONE).unwrap();
        let agent = crate::sys::testing::start(&crate::sys::spawn::SpawnRequest {
            cgroup: group.directory(),
            ..crate::sys::testing::shell("exec sleep 60", &output)
        });
        let host = Surroundings { process: agent.pid, ..host };
        let (root, notes) = detect_in(&host, auto(), "one", Fallbacks::NONE);
        assert_eq!((root.path().unwrap().parent(), notes), (Some(path.as_path()), Vec::new()));
        assert_eq!(fs::read_to_string(path.join("cgroup.procs")).unwrap(), "");
        assert_eq!(fs::read_to_string(path.join("agent/cgroup.procs")).unwrap(), format!("{}\n", agent.pid));
        // The next agent, started in a subgroup by DelegateSubgroup or by an upgrade, finds the same place.
        let again = Surroundings { own: host.own.join("agent"), process: -1, ..host };
        let (same, notes) = detect_in(&again, auto(), "one", Fallbacks::NONE);
        assert_eq!((same.path(), notes), (root.path(), Vec::new()));
        group.kill().unwrap();
        crate::sys::testing::exit_of(&agent.pidfd);
        crate::sys::testing::eventually(|| remove_tree(&path).ok());
    }

    #[test]
    fn groups_lie_in_the_second_unit_where_there_is_one() {
        let Some((slice, host)) = unit("slice") else { return };
        let (first, second) = (slice.join("agent.service"), slice.join("agent-services.service"));
        for path in [&first, &second] {
            fs::create_dir(path).unwrap();
            xattr::set(path, "delegate", "1").unwrap();
        }
        for own in ["agent.service", "agent.service/agent"] {
            let host = Surroundings { own: host.own.join(own), process: -1, mount: host.mount.clone(), ..host };
            let (root, notes) = detect_in(&host, auto(), "one", Fallbacks::NONE);
            assert_eq!((root.path().unwrap().parent(), notes), (Some(second.as_path()), Vec::new()));
        }
        assert!(!fs::exists(first.join("agent")).unwrap());
        // A directory of that name that systemd has not delegated is somebody else's.
        remove_tree(&second).unwrap();
        fs::create_dir(&second).unwrap();
        assert_eq!(services_unit(host.mount.as_deref().unwrap(), &first), None);
        remove_tree(&slice).unwrap();
    }

    #[test]
    fn unit_that_is_not_delegated_is_left_alone() {
        let Some((path, host)) = unit("plain") else { return };
        let (root, notes) = detect_in(&host, auto(), "one", Fallbacks::NONE);
        assert_eq!(root.path().unwrap().parent(), host.mount.as_deref());
        assert!(notes[0].contains("Delegate=yes"), "{notes:?}");
        assert!(!fs::exists(path.join("agent")).unwrap());
        // A second unit, delegated for us, is named in the configuration; another hierarchy is not a place.
        let (other, notes) = detect_in(&host, Choice::Path(path.join("groups")), "one", Fallbacks::NONE);
        assert_eq!((other.path(), notes), (Some(path.join("groups").as_path()), Vec::new()));
        fs::remove_dir(root.path().unwrap()).unwrap();
        remove_tree(&path).unwrap();
    }
}
