use std::os::fd::OwnedFd;

use super::*;
use crate::sys::Fallbacks;
use crate::sys::child::Ended;
use crate::sys::fifo;
use crate::sys::gauge;
use crate::sys::group::{Choice, Freezer, Group, Root};
use crate::sys::spawn::SpawnRequest;
use crate::sys::testing::{TempDir, eventually, exit_of, read_pid, root_or_skip, shell, start};

fn permille(permille: u32) -> Limits {
    Limits { cpu_max_permille: Some(permille), ..Limits::default() }
}

#[test]
fn smallest_share_of_a_cpu_is_still_one_that_the_kernel_takes() {
    assert_eq!(bandwidth(1_500), (150_000, 100_000));
    assert_eq!(bandwidth(10), (1_000, 100_000));
    assert_eq!(bandwidth(9), (9_000, 1_000_000));
    assert_eq!(bandwidth(1), (1_000, 1_000_000));
    assert_eq!(bandwidth(0), (1_000, 1_000_000));
}

#[test]
fn value_that_was_read_back_is_compared_as_the_kernel_shows_it() {
    for (told, wanted) in [
        ("max 100000", "max 100000"),
        ("100000", "100000"),
        ("default 100\n8:0 200", "default 100"),
        ("default 50", "50"),
        ("98304", "100000"),
        ("9223372036854771712", "-1"),
        ("-1", "-1"),
    ] {
        assert!(says(told, wanted), "{told:?} {wanted:?}");
    }
    for (told, wanted) in [("max", "5"), ("4", "5"), ("6", "5"), ("", "5"), ("1000", "-1"), ("default 51", "50")] {
        assert!(!says(told, wanted), "{told:?} {wanted:?}");
    }
}

/// A cgroup2 group as its files would be, with a controller that is there.
struct Fake(TempDir);

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new();
        for (file, content) in files {
            fs::write(directory.path().join(file), content).unwrap();
        }
        Self(directory)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join(file)).unwrap()
    }
}

#[test]
fn each_limit_has_its_file_and_its_undoing() {
    let fake = Fake::new(&[("memory.oom.group", ""), ("memory.swap.max", ""), ("io.weight", "")]);
    let path = fake.0.path();
    // A file that is missing is made by nobody.
    for version in [Version::V1, Version::V2] {
        assert!(cpu_max(path, version, Some(200)).unwrap_err().contains("No such file"));
    }
    for file in
        ["cpu.max", "cpu.weight", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"]
    {
        fs::write(path.join(file), "").unwrap();
    }
    assert_eq!(cpu_max(path, Version::V2, Some(200)), Ok("cpu.max"));
    assert_eq!(fake.read("cpu.max"), "20000 100000");
    cpu_max(path, Version::V1, Some(200)).unwrap();
    assert_eq!(
        (fake.read("cpu.cfs_quota_us"), fake.read("cpu.cfs_period_us")),
        ("20000".to_owned(), "100000".to_owned())
    );
    cpu_weight(path, Version::V1, Some(50)).unwrap();
    assert_eq!(fake.read("cpu.shares"), "512");
    memory_max(path, Version::V2, Some(1 << 20)).unwrap();
    assert_eq!(
        ["memory.max", "memory.oom.group", "memory.swap.max"].map(|file| fake.read(file)),
        ["1048576", "1", "0"]
    );
    io_weight(path, Version::V2, Some(30)).unwrap();
    assert_eq!(fake.read("io.weight"), "default 30");
    // A shorter text does not cut a longer one off in a plain file as it does in a cgroup.
    for file in
        ["cpu.max", "cpu.weight", "memory.max", "pids.max", "memory.oom.group", "memory.swap.max", "cpu.cfs_quota_us"]
    {
        fs::write(path.join(file), "").unwrap();
    }
    cpu_max(path, Version::V2, None).unwrap();
    cpu_max(path, Version::V1, None).unwrap();
    cpu_weight(path, Version::V2, None).unwrap();
    memory_max(path, Version::V2, None).unwrap();
    pids_max(path, Version::V2, None).unwrap();
    let lifted =
        ["cpu.max", "cpu.cfs_quota_us", "cpu.weight", "memory.max", "memory.oom.group", "memory.swap.max", "pids.max"];
    assert_eq!(lifted.map(|file| fake.read(file)), ["max 100000", "-1", "100", "max", "0", "max", "max"]);
}

#[test]
fn devices_of_a_group_are_read_from_both_kinds_of_files() {
    let text = "8:0 rbps=1048576 wbps=max riops=max wiops=120\n254:0 rbps=max wbps=max riops=max wiops=max\nbent\n";
    let fake = Fake::new(&[("io.max", text), ("blkio.throttle.read_bps_device", "7:0 100\n7:1 5\n")]);
    let found = devices_in(&fake.0.path().join("io.max"));
    let first = Rates { read_bytes: Some(1 << 20), write_operations: Some(120), ..Rates::default() };
    assert_eq!(found.get(&Device { major: 8, minor: 0 }), Some(&first));
    assert_eq!(found.len(), 2);
    assert_eq!(
        devices_in_v1(fake.0.path()).into_keys().map(|device| device.to_string()).collect::<Vec<_>>(),
        ["7:0", "7:1"]
    );
    let tighter = first.tighter(Rates { read_bytes: Some(5), read_operations: Some(9), ..Rates::default() });
    assert_eq!((tighter.read_bytes, tighter.read_operations, tighter.write_operations), (Some(5), Some(9), Some(120)));
}

/// A root with its controllers; everything below it dies with the test.
struct Real {
    root: Root,
    controllers: Controllers,
}

impl Real {
    /// `None` where this host cannot limit with all of `needed`.
    fn new(name: &str, needed: &[Controller]) -> Option<Self> {
        if !root_or_skip("limits of cgroups") {
            return None;
        }
        let choice = Choice::Auto { name: format!("mainstay-test-limits-{}-{name}", std::process::id()) };
        let (root, _) = Root::detect(choice.clone(), "instance-1");
        let mut controllers = Controllers::detect(&choice, &root);
        let real = |controllers: &mut Controllers| {
            needed.iter().find_map(|one| controllers.prepare(*one).err().map(|why| format!("{}: {why}", one.name())))
        };
        let missing = real(&mut controllers);
        let real = Self { root, controllers };
        if real.root.is_weak() || missing.is_some() {
            eprintln!("skipped: {}", missing.unwrap_or("no cgroups".to_owned()));
            return None;
        }
        Some(real)
    }

    fn group(&mut self, limits: &Limits) -> Group {
        let mut group = self.root.create("api.0").unwrap();
        let mut limited = Box::new(Limited::new(group.path(), "api.0"));
        let applied = limited.apply(&mut self.controllers, limits);
        assert_eq!(applied.refused, [] as [String; 0], "{}", applied.method);
        group.set_limited(Some(limited));
        group
    }

    fn change(&mut self, group: &mut Group, limits: &Limits) -> Applied {
        let mut limited = group.take_limited().unwrap();
        let applied = limited.apply(&mut self.controllers, limits);
        group.set_limited(Some(limited));
        if applied.new_groups {
            group.gather().unwrap();
        }
        applied
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        if let Some(path) = self.root.path() {
            fs::write(path.join("cgroup.kill"), "1").unwrap();
            assert!(self.controllers.sweep(&|_| true).is_empty());
            let mut all = Group::cgroup(path.to_owned(), Fallbacks::NONE).unwrap();
            eventually(|| all.remove().ok());
        }
        eventually(|| {
            drop(self.controllers.sweep(&|_| false));
            self.controllers.leave();
            let left = Controller::ALL
                .iter()
                .any(|one| matches!(self.controllers.place(*one), Place::V1(base) if base.exists()));
            (!left).then_some(())
        });
    }
}

fn inside<'a>(script: &str, output: &'a OwnedFd, group: &'a Group) -> SpawnRequest<'a> {
    let joins = group.limited().map(Limited::groups).unwrap_or_default();
    let joins = joins.iter().map(|group| std::ffi::CString::new(group.join("cgroup.procs").to_str().unwrap()).unwrap());
    SpawnRequest { cgroup: group.directory(), joins: joins.collect(), ..shell(script, output) }
}

fn end(mut group: Group) {
    group.kill().unwrap();
    eventually(|| (!group.populated().unwrap()).then_some(()));
    eventually(|| group.remove().ok());
}

#[test]
fn child_is_held_at_its_share_of_a_cpu_and_set_free_exactly() {
    let Some(mut real) = Real::new("cpu", &[Controller::Cpu]) else { return };
    let mut group = real.group(&permille(100));
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start(&inside("while :; do :; done", &output, &group));
    let first = eventually(|| gauge::read(&group).cpu_throttled.filter(|throttled| *throttled >= 3));
    eventually(|| gauge::read(&group).cpu_throttled.filter(|throttled| *throttled > first));
    let applied = real.change(&mut group, &Limits::default());
    assert_eq!((applied.refused.len(), applied.new_groups), (0, false));
    let settled = gauge::read(&group);
    eventually(|| gauge::read(&group).cpu_usec.filter(|usec| *usec > settled.cpu_usec.unwrap() + 100_000));
    let throttled = gauge::read(&group).cpu_throttled.unwrap();
    assert!(throttled <= settled.cpu_throttled.unwrap() + 1, "{settled:?} {throttled}");
    assert_eq!(real.change(&mut group, &Limits::default()).method, "");
    end(group);
    exit_of(&child.pidfd);
}

#[test]
fn running_tree_is_moved_with_all_its_members_when_it_is_limited_later() {
    let Some(mut real) = Real::new("gather", &[Controller::Cpu, Controller::Pids]) else { return };
    let mut group = real.group(&Limits::default());
    let (reader, output) = fifo::pipe().unwrap();
    let script = "for i in 1 2 3; do (setsid sleep 60 &) ; done; while :; do (:) ; echo $$; done";
    let child = start(&inside(script, &output, &group));
    let drain = std::thread::spawn(move || crate::sys::testing::read_all(&reader));
    drop(output);
    // Not the shells that come and go.
    let sleeps = || -> Vec<i32> {
        let is_sleep = |pid: &i32| crate::sys::process::process(*pid).is_ok_and(|process| process.comm == "sleep");
        group.processes().unwrap().into_iter().filter(is_sleep).collect()
    };
    let lasting = eventually(|| Some(sleeps()).filter(|sleeps| sleeps.len() == 3));
    let limits = Limits { pids_max: Some(20), ..permille(200) };
    let applied = real.change(&mut group, &limits);
    assert!(applied.refused.is_empty(), "{applied:?}");
    let joined = group
        .limited()
        .unwrap()
        .groups()
        .into_iter()
        .map(|group| fs::read_to_string(group.join("cgroup.procs")).unwrap());
    for procs in joined.collect::<Vec<_>>() {
        let members: Vec<i32> = procs.lines().map(|pid| pid.parse().unwrap()).collect();
        assert!(members.contains(&child.pid) && lasting.iter().all(|pid| members.contains(pid)), "{members:?}");
    }
    end(group);
    exit_of(&child.pidfd);
    drain.join().unwrap();
}

#[test]
fn fork_bomb_ends_at_its_number_of_processes() {
    let Some(mut real) = Real::new("pids", &[Controller::Pids]) else { return };
    let group = real.group(&Limits { pids_max: Some(20), ..Limits::default() });
    let (_reader, output) = fifo::pipe().unwrap();
    let child = start(&inside("f() { f | f & }; f 2>/dev/null; sleep 60", &output, &group));
    eventually(|| gauge::read(&group).pids_refused.filter(|refused| *refused > 0));
    assert!(gauge::read(&group).pids.unwrap() <= 20);
    end(group);
    exit_of(&child.pidfd);
}

#[test]
fn memory_hog_is_killed_at_its_limit_and_counted() {
    let Some(mut real) = Real::new("memory", &[Controller::Memory]) else { return };
    let group = real.group(&Limits { memory_max_bytes: Some(16 << 20), ..Limits::default() });
    let (_reader, output) = fifo::pipe().unwrap();
    let before = group.oom_kills();
    let child = start(&inside("x=0123456789abcdef; while :; do x=$x$x; done", &output, &group));
    assert_eq!(exit_of(&child.pidfd), Ended::Signal { signal: libc::SIGKILL, core: false });
    assert!(group.oom_kills() > before);
    assert!(gauge::read(&group).memory_limit_met.unwrap() > 0);
    end(group);
}

#[test]
fn limits_of_an_earlier_agent_are_found_and_taken_away() {
    let Some(mut real) = Real::new("earlier", &[Controller::Cpu, Controller::Pids]) else { return };
    let limits = Limits { pids_max: Some(20), cpu_weight: Some(50), ..permille(300) };
    let group = real.group(&limits);
    let mut limited = Limited::of_earlier_agent(group.path(), "api.0", &real.controllers);
    assert!(real.controllers.were_used() && !limited.is_idle());
    let applied = limited.apply(&mut real.controllers, &Limits::default());
    assert!(applied.refused.is_empty() && applied.method.contains("pids.max"), "{applied:?}");
    let mut fresh = Limited::of_earlier_agent(group.path(), "api.0", &real.controllers);
    let pids = match fresh.v1_group(Controller::Pids) {
        Some(path) => path.to_owned(),
        None => group.path().unwrap().to_owned(),
    };
    assert_eq!(fs::read_to_string(pids.join("pids.max")).unwrap(), "max\n");
    assert!(fresh.apply(&mut real.controllers, &limits).refused.is_empty());
    assert_eq!(fs::read_to_string(pids.join("pids.max")).unwrap(), "20\n");
    assert_eq!(fresh.keys_in_v1().contains(&"pids_max"), fresh.v1_group(Controller::Pids).is_some());
    assert_eq!(fresh.is_astray(), fresh.v1_group(Controller::Pids).is_some());
    end(group);
    // Nobody answers to the v1 groups any more.
    assert!(real.controllers.sweep(&|_| false).is_empty());
    assert!(!pids.exists());
}

#[test]
fn what_cannot_be_had_is_refused_with_its_reason() {
    let Some(mut real) = Real::new("refused", &[]) else { return };
    let rates = Rates { read_bytes: Some(1 << 20), ..Rates::default() };
    let mut limited = Limited::new(None, "api.0");
    let absent = Limits { io_max: vec![(PathBuf::from("/proc"), rates)], ..Limits::default() };
    let refused = limited.apply(&mut real.controllers, &absent).refused;
    assert!(refused[0].starts_with("io_max of /proc: /proc is proc, which lies on no block device"), "{refused:?}");
    let mut off = Controllers::detect(&Choice::Off, &real.root);
    let refused = limited.apply(&mut off, &permille(100)).refused;
    assert_eq!(refused, ["cpu_max: cgroups are switched off (cgroup: Off)"]);
    // Tried again each time, and never said to be in force.
    assert_eq!(limited.apply(&mut off, &permille(100)).refused.len(), 1);
    assert!(limited.apply(&mut off, &Limits::default()).refused.is_empty() && limited.is_idle());
}

#[test]
fn disk_of_a_path_is_held_back_by_its_number() {
    let Some(mut real) = Real::new("io", &[Controller::Io]) else { return };
    let Ok(device) = Mounts::read().unwrap().disk_of(Path::new("/")) else {
        return eprintln!("skipped: / lies on no disk");
    };
    let rates = Rates { read_bytes: Some(1 << 20), write_operations: Some(100), ..Rates::default() };
    let limits = Limits { io_max: vec![(PathBuf::from("/"), rates)], ..Limits::default() };
    let group = real.root.create("api.0").unwrap();
    let mut limited = Limited::new(group.path(), "api.0");
    let applied = limited.apply(&mut real.controllers, &limits);
    let caveats: Vec<&String> = applied.refused.iter().filter(|why| !why.contains("page cache")).collect();
    assert!(caveats.is_empty(), "{applied:?}");
    // What is in force only in part is said as long as it is wanted.
    assert_eq!(limited.apply(&mut real.controllers, &limits).refused, applied.refused);
    let file = match limited.v1_group(Controller::Io) {
        Some(group) => group.join("blkio.throttle.read_bps_device"),
        None => group.path().unwrap().join("io.max"),
    };
    assert!(fs::read_to_string(&file).unwrap().contains(&device.to_string()));
    assert!(limited.apply(&mut real.controllers, &Limits::default()).refused.is_empty());
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    limited.remove().unwrap();
    end(group);
}

#[test]
fn throttled_and_frozen_tree_is_dead_at_once_when_it_is_killed() {
    let Some(mut real) = Real::new("kill", &[Controller::Cpu, Controller::Pids]) else { return };
    let mut group = real.group(&permille(10));
    let (reader, output) = fifo::pipe().unwrap();
    let script = "trap '' TERM; for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; echo $$; wait";
    let child = start(&inside(script, &output, &group));
    assert_eq!(read_pid(&reader), child.pid);
    group.freeze(Freezer::Frozen).unwrap();
    eventually(|| gauge::read(&group).frozen.filter(|frozen| *frozen));
    assert!(gauge::read(&group).pids.unwrap() >= 9);
    assert_eq!(group.kill().unwrap(), "cgroup.kill");
    eventually(|| (!group.populated().unwrap()).then_some(()));
    exit_of(&child.pidfd);
    eventually(|| group.remove().ok());
    assert!(group.limited().unwrap().groups().is_empty());
}
