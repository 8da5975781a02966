//! Where the controllers of cgroups are: in the cgroup2 tree below which our groups lie, in a hierarchy of their own (v1, on hybrid hosts), or
//! nowhere.
//!
//! In cgroup2 a controller has to be handed down from directory to directory (`cgroup.subtree_control`) before the groups have its files. That
//! is done when a limit needs it first, so that a host without limits pays for none. On v1 our base has a directory of the same name in
//! each hierarchy, and a group that is limited there one of its own below it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::group::{groups_in, remove_tree, write_if_there};
use super::group_root::{Choice, Root, Surroundings, places, started_in};
use super::host;
use super::mounts::{Mount, Mounts};
use super::xattr;

/// What limits are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    Cpu,
    Memory,
    Pids,
    Io,
}

impl Controller {
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Pids, Self::Io];

    /// Its name in cgroup2.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }

    fn v1_name(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            Self::Cpu | Self::Memory | Self::Pids => self.name(),
        }
    }
}

/// Where a controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the groups themselves.
    V2,
    /// In groups of its own hierarchy, below this directory of ours.
    V1(PathBuf),
    /// Why, and the remedy.
    Absent(String),
}

/// One controller on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub controller: &'static str,
    pub place: Place,
}

/// What an agent with this choice would find. Nothing is written: a controller that is offered may still be refused when it is enabled.
#[must_use]
pub fn survey(choice: &Choice) -> Vec<Found> {
    let host = Surroundings::read();
    let (base, unit) = match choice {
        Choice::Off => (None, None),
        Choice::Path(path) => (Some(path.clone()), None),
        Choice::Auto { name } => {
            let places = places(&host, name);
            (places.paths.into_iter().next(), places.unit)
        }
    };
    let started_in = started_in(&host, unit.as_deref());
    let controllers = Controllers::look(&host, choice, base, started_in.as_deref());
    let found =
        |controller: Controller| Found { controller: controller.name(), place: controllers.place(controller).clone() };
    Controller::ALL.into_iter().map(found).collect()
}

/// The controllers as one agent uses them.
#[derive(Debug)]
pub struct Controllers {
    /// The directories that hand a controller down, from the first that is ours to the one that holds the groups.
    chain: Vec<PathBuf>,
    /// The group of this process.
    own: Option<PathBuf>,
    places: [Place; 4],
    /// Handed down, or its directory made.
    ready: [bool; 4],
}

impl Controllers {
    /// For the groups of this root.
    #[must_use]
    pub fn detect(choice: &Choice, root: &Root) -> Self {
        Self::look(&Surroundings::read(), choice, root.path().map(Path::to_owned), root.started_in())
    }

    fn look(host: &Surroundings, choice: &Choice, base: Option<PathBuf>, started_in: Option<&Path>) -> Self {
        let chain = match (&base, &host.mount) {
            (Some(base), Some(mount)) if base.starts_with(mount) => handing_down(base, mount, host.systemd),
            (Some(_) | None, Some(_) | None) => Vec::new(),
        };
        let relative = relative_base(choice, base.as_deref(), host.mount.as_deref());
        let mounts = Mounts::read().unwrap_or_default();
        let blocked = started_in.filter(|unit| chain.iter().any(|directory| directory == unit));
        let place = |controller: Controller| match &relative {
            Some(relative) => place_of(controller, &chain, blocked, relative, &mounts),
            None => Place::Absent("cgroups are switched off (cgroup: Off)".to_owned()),
        };
        let own = host.mount.as_ref().map(|mount| mount.join(&host.own));
        Self { own, places: Controller::ALL.map(place), ready: [false; 4], chain }
    }

    #[must_use]
    pub fn place(&self, controller: Controller) -> &Place {
        &self.places[controller as usize]
    }

    /// Whether groups may hold limits of an earlier agent.
    #[must_use]
    pub fn were_used(&self) -> bool {
        let handed_down = || {
            let base = self.chain.last().map(|base| words_in(&base.join("cgroup.subtree_control")));
            base.is_some_and(|words| Controller::ALL.iter().any(|one| words.iter().any(|word| word == one.name())))
        };
        self.v1_bases().any(|base| base.is_dir()) || handed_down()
    }

    /// Makes the controller ready for the groups, once; what cannot be had is absent from then on.
    pub(super) fn prepare(&mut self, controller: Controller) -> Result<&Place, &str> {
        if controller == Controller::Io && self.knows_writers() {
            // What cannot be had is told by `knows_writers` afterwards.
            let _ = self.prepare(Controller::Memory);
        }
        let index = controller as usize;
        if !self.ready[index] {
            let made = match &self.places[index] {
                Place::V2 => self.hand_down(controller),
                Place::V1(base) => {
                    fs::create_dir_all(base).map_err(|error| format!("cannot make {}: {error}", base.display()))
                }
                Place::Absent(_) => Ok(()),
            };
            if let Err(why) = made {
                self.places[index] = Place::Absent(why);
            }
            self.ready[index] = true;
        }
        match &self.places[index] {
            Place::Absent(why) => Err(why),
            place @ (Place::V2 | Place::V1(_)) => Ok(place),
        }
    }

    /// Whether writes through the page cache are held back with those of the group that made them: in cgroup2 the kernel knows them by
    /// whose memory they lie in.
    pub(super) fn knows_writers(&self) -> bool {
        *self.place(Controller::Io) == Place::V2 && *self.place(Controller::Memory) == Place::V2
    }

    fn hand_down(&self, controller: Controller) -> Result<(), String> {
        for directory in &self.chain {
            let file = directory.join("cgroup.subtree_control");
            if words_in(&file).iter().any(|word| word == controller.name()) {
                continue;
            }
            let enabled = match enable(&file, controller) {
                Err(error)
                    if error.raw_os_error() == Some(Errno::EBUSY as i32) && self.own.as_ref() == Some(directory) =>
                {
                    step_aside(directory).and_then(|()| enable(&file, controller))
                }
                other => other,
            };
            if let Err(error) = enabled {
                let remedy = match error.raw_os_error() {
                    Some(code) if code == Errno::EBUSY as i32 => {
                        "; processes in a group keep it from handing controllers down: move them into a group below it"
                    }
                    Some(_) | None => "",
                };
                return Err(format!("cannot enable it in {}: {error}{remedy}", file.display()));
            }
        }
        Ok(())
    }

    /// Favours the group of this process over those of the services, where both lie in a directory that was delegated to us: a share of the CPU
    /// (100 is everybody's) and memory that is not taken from it. `Err`: the first of the two that cannot be had.
    pub fn favour_own(&self, cpu_weight: u16, memory_min_bytes: u64) -> io::Result<()> {
        let (Some(own), Some(first)) = (&self.own, self.chain.first()) else { return Ok(()) };
        let delegated = xattr::get(first, "delegate").as_deref() == Some("1");
        if !delegated || own.parent() != Some(first) || self.chain.contains(own) {
            return Ok(());
        }
        let subtree = first.join("cgroup.subtree_control");
        let wanted = [
            (Controller::Cpu, "cpu.weight", u64::from(cpu_weight)),
            (Controller::Memory, "memory.min", memory_min_bytes),
        ];
        let mut outcome = Ok(());
        for (controller, file, value) in wanted {
            if *self.place(controller) == Place::V2 {
                let favoured =
                    enable(&subtree, controller).and_then(|()| write_if_there(&own.join(file), &value.to_string()));
                outcome = outcome.and(favoured);
            }
        }
        outcome
    }

    /// Removes v1 groups that no group of ours answers to any more; the names of those that still hold processes, and are to be removed later.
    #[must_use]
    pub fn sweep(&self, kept: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for base in self.v1_bases() {
            for group in groups_in(base).unwrap_or_default() {
                let name = group.file_name().unwrap_or_default().to_string_lossy();
                if !kept(&name) && remove_tree(&group).is_err() {
                    left.insert(name.into_owned());
                }
            }
        }
        left
    }

    /// At the end of the agent: our directories go where nothing is left in them.
    pub fn leave(&self) {
        for base in self.v1_bases() {
            // ENOTEMPTY: not ours alone. ENOENT: it was never needed.
            let _ = fs::remove_dir(base);
        }
    }

    fn v1_bases(&self) -> impl Iterator<Item = &PathBuf> {
        self.places.iter().filter_map(|place| match place {
            Place::V1(base) => Some(base),
            Place::V2 | Place::Absent(_) => None,
        })
    }
}

/// Where our directory is below the top of each hierarchy: the same everywhere. `None`: there shall be none.
fn relative_base(choice: &Choice, base: Option<&Path>, mount: Option<&Path>) -> Option<PathBuf> {
    let below_mount = base.zip(mount).and_then(|(base, mount)| base.strip_prefix(mount).ok());
    match (below_mount, choice) {
        (_, Choice::Off) => None,
        (Some(relative), Choice::Auto { .. } | Choice::Path(_)) => Some(relative.to_owned()),
        (None, Choice::Auto { name }) => Some(PathBuf::from(name)),
        (None, Choice::Path(path)) => path.file_name().map(PathBuf::from),
    }
}

/// From the directory that was delegated to us, else from the top of the mount; where systemd runs and has delegated nothing, only our own: what
/// is above is its.
fn handing_down(base: &Path, mount: &Path, systemd: bool) -> Vec<PathBuf> {
    let mut chain: Vec<PathBuf> =
        base.ancestors().take_while(|path| path.starts_with(mount)).map(Path::to_owned).collect();
    chain.reverse();
    let delegated = chain.iter().position(|path| xattr::get(path, "delegate").as_deref() == Some("1"));
    let first = match delegated {
        Some(first) => first,
        None if systemd => chain.len() - 1,
        None => 0,
    };
    chain.split_off(first)
}

fn place_of(
    controller: Controller,
    chain: &[PathBuf],
    blocked: Option<&Path>,
    relative: &Path,
    mounts: &Mounts,
) -> Place {
    if let Some(first) = chain.first()
        && offers(first, controller)
    {
        return blocked.map_or(Place::V2, |unit| Place::Absent(why_blocked(unit)));
    }
    let hierarchy = mounts.iter().rev().find(|mount| is_hierarchy_of(mount, controller));
    let Some(hierarchy) = hierarchy else { return Place::Absent(why_absent(controller, chain.first())) };
    let point = &hierarchy.point;
    match hierarchy.read_only || access(point, AccessFlags::W_OK).is_err() {
        true => Place::Absent(format!(
            "{} cannot be written to: the agent needs root and a writable mount",
            point.display()
        )),
        false => Place::V1(point.join(relative)),
    }
}

/// What the directory may hand down; one that is not made yet will be offered what the one above it hands down.
fn offers(directory: &Path, controller: Controller) -> bool {
    let offered = match (directory.is_dir(), directory.parent()) {
        (false, Some(above)) => words_in(&above.join("cgroup.subtree_control")),
        (true | false, _) => words_in(&directory.join("cgroup.controllers")),
    };
    offered.iter().any(|word| word == controller.name())
}

fn is_hierarchy_of(mount: &Mount, controller: Controller) -> bool {
    mount.fs_type == "cgroup" && mount.options.split(',').any(|option| option == controller.v1_name())
}

fn why_blocked(unit: &Path) -> String {
    format!(
        "once {} hands controllers down, systemd can start no second agent in it: install mainstay-services.service beside it, or give the \
         unit DelegateSubgroup=agent (systemd 254)",
        unit.display()
    )
}

fn why_absent(controller: Controller, first: Option<&PathBuf>) -> String {
    let name = controller.name();
    let Some(first) = first else {
        return format!(
            "there is neither a cgroup2 directory of ours nor a mounted v1 hierarchy of {}",
            controller.v1_name()
        );
    };
    format!(
        "{} is not offered {name}: under systemd give the unit Delegate=yes, else write +{name} to cgroup.subtree_control above it, or boot \
         a kernel that has it (cgroup_enable={name} on some boards)",
        first.display()
    )
}

fn words_in(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
}

/// With CONFIG_RT_GROUP_SCHED no process may be real-time where the CPU controller is handed down: limits go before our own haste.
fn enable(subtree_control: &Path, controller: Controller) -> io::Result<()> {
    let write = || fs::write(subtree_control, format!("+{}", controller.name()));
    match write() {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) && controller == Controller::Cpu => {
            host::run_with_others().and_then(|()| write())
        }
        other => other,
    }
}

/// Moves this process into a group below its own.
fn step_aside(own: &Path) -> io::Result<()> {
    let aside = own.join("agent");
    match fs::create_dir(&aside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::write(aside.join("cgroup.procs"), "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn base_has_the_same_name_in_each_hierarchy() {
        let auto = Choice::Auto { name: "mainstay-1".to_owned() };
        let (base, mount) = (Path::new("/cg/unified/a.service/mainstay-1"), Path::new("/cg/unified"));
        let relative = |choice: &Choice, base, mount| relative_base(choice, base, mount);
        assert_eq!(relative(&auto, Some(base), Some(mount)), Some(PathBuf::from("a.service/mainstay-1")));
        assert_eq!(relative(&auto, None, None), Some(PathBuf::from("mainstay-1")));
        assert_eq!(relative(&Choice::Path(base.to_owned()), None, None), Some(PathBuf::from("mainstay-1")));
        assert_eq!(relative(&Choice::Off, None, Some(mount)), None);
    }

    /// A directory that looks like a group.
    fn fake(path: &Path, controllers: &str, subtree: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("cgroup.controllers"), controllers).unwrap();
        fs::write(path.join("cgroup.subtree_control"), subtree).unwrap();
    }

    #[test]
    fn controllers_are_handed_down_from_the_top_and_only_where_they_are_not_yet() {
        let directory = TempDir::new();
        let mount = directory.path();
        let base = mount.join("mainstay");
        fake(mount, "cpu memory pids\n", "memory pids\n");
        fake(&base, "memory pids\n", "memory\n");
        let chain = handing_down(&base, mount, false);
        assert_eq!(chain, [mount.to_owned(), base.clone()]);
        let mut controllers = Controllers {
            own: None,
            places: Controller::ALL.map(|one| place_of(one, &chain, None, Path::new("mainstay"), &Mounts::default())),
            ready: [false; 4],
            chain,
        };
        assert!(controllers.were_used());
        assert_eq!(controllers.prepare(Controller::Memory), Ok(&Place::V2));
        assert_eq!(fs::read_to_string(base.join("cgroup.subtree_control")).unwrap(), "memory\n");
        assert_eq!(controllers.prepare(Controller::Cpu), Ok(&Place::V2));
        for written in [mount, &base] {
            assert_eq!(fs::read_to_string(written.join("cgroup.subtree_control")).unwrap(), "+cpu");
        }
        assert!(controllers.prepare(Controller::Io).unwrap_err().contains("is not offered io"));
        // Where systemd has delegated nothing, what is above stays as it is.
        assert_eq!(handing_down(&base, mount, true), [base]);
    }

    #[test]
    fn writes_to_disks_are_told_apart_by_the_memory_controller_which_is_handed_down_as_well() {
        let directory = TempDir::new();
        let base = directory.path().join("mainstay");
        fake(directory.path(), "io memory\n", "io memory\n");
        fake(&base, "io memory\n", "io\n");
        let chain = handing_down(&base, directory.path(), false);
        let mut controllers = Controllers {
            own: None,
            places: Controller::ALL.map(|one| place_of(one, &chain, None, Path::new("mainstay"), &Mounts::default())),
            ready: [false; 4],
            chain,
        };
        assert_eq!(controllers.prepare(Controller::Io), Ok(&Place::V2));
        // Of a file that is no kernel's the last word is left.
        assert_eq!(fs::read_to_string(base.join("cgroup.subtree_control")).unwrap(), "+io");
        assert!(controllers.ready[Controller::Memory as usize] && controllers.knows_writers());
    }

    #[test]
    fn hierarchy_of_a_controller_is_found_among_several_and_read_only_ones_are_told() {
        let directory = TempDir::new();
        let here = directory.path().display();
        let text = format!(
            "31 1 0:30 / {here} rw - cgroup cgroup rw,cpu,cpuacct\n32 1 0:31 / /ro ro - cgroup cgroup rw,memory\n\
             33 1 0:32 / /u rw - cgroup2 cgroup2 rw\n"
        );
        let mounts = Mounts::parse(text.as_bytes());
        let place = |controller| place_of(controller, &[], None, Path::new("a/b"), &mounts);
        assert_eq!(place(Controller::Cpu), Place::V1(directory.path().join("a/b")));
        assert!(matches!(place(Controller::Memory), Place::Absent(why) if why.contains("/ro cannot be written to")));
        assert!(matches!(place(Controller::Io), Place::Absent(why) if why.contains("blkio")));
    }

    #[test]
    fn unit_that_systemd_starts_the_agent_in_hands_nothing_down() {
        let directory = TempDir::new();
        let unit = directory.path().join("mainstay.service");
        fake(&unit, "cpu memory\n", "");
        let chain = [unit.clone(), unit.join("mainstay")];
        let place = |blocked| place_of(Controller::Cpu, &chain, blocked, Path::new("mainstay"), &Mounts::default());
        assert_eq!(place(None), Place::V2);
        assert!(matches!(place(Some(&unit)), Place::Absent(why) if why.contains("DelegateSubgroup=agent")));
    }

    #[test]
    fn survey_names_all_four_and_writes_nothing() {
        let name = format!("mainstay-survey-{}", std::process::id());
        let found = survey(&Choice::Auto { name: name.clone() });
        assert_eq!(found.iter().map(|one| one.controller).collect::<Vec<_>>(), ["cpu", "memory", "pids", "io"]);
        for one in found {
            if let Place::V1(base) = one.place {
                assert!(base.ends_with(&name) && !base.exists(), "{}", base.display());
            }
        }
        assert!(survey(&Choice::Off).iter().all(|one| matches!(&one.place, Place::Absent(why) if why.contains("Off"))));
    }
}
