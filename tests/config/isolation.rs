//! Limits and fences in the file.

use std::fs;
use std::time::Duration;

use expect_test::{Expect, expect};
use mainstay::engine::fence::plan::{Access, FencePlan, IoMax, Limits, Mode, ReleaseRule, Resources, Rung, Triggers};
use mainstay::engine::plan::ServicePlan;

use super::{Host, short};

/// Of 2 CPUs and 4 GiB.
fn host() -> Host {
    let host = Host::new();
    host.file("/sys/devices/system/cpu/online", 0o644, "0,3\n");
    host.file("/proc/meminfo", 0o644, "MemTotal:        4194304 kB\nMemFree: 1 kB\n");
    fs::create_dir_all(host.root.join("srv/a")).unwrap();
    host
}

/// The findings about one service, each line of `text` from line 2 on.
fn found(text: &str, expected: &Expect) {
    found_with("", text, expected);
}

fn found_with(agent: &str, text: &str, expected: &Expect) {
    let host = host();
    let result = host.load_text(&format!("({agent} services: [(name: \"a\", command: [\"true\"],\n{text})])"));
    expected.assert_eq(&short(&result, &host.root));
}

fn plan(text: &str) -> ServicePlan {
    let result = host().load_text(&format!("(services: [(name: \"a\", command: [\"true\"], {text})])"));
    result.unwrap_or_else(|found| panic!("{}", found[0])).plan.services.remove(0)
}

#[test]
fn every_key_arrives() {
    let plan = plan(
        "replicas: 3, priority: -5, min_healthy: 2, can_read: [\"/\"], can_write: [\"{service_dir}/{replica}\"], \
         resources: (cpu_max: \"150%\", cpu_weight: 50, memory_max: \"512MiB\", pids_max: 20, io_weight: 10000, \
         io_max: [(path: \"/srv/a/\", read_bytes: \"1MiB\", write_bytes: \"2MiB\", read_operations: 3, write_operations: 4)], required: true), \
         fence: (ladder: [Throttle(cpu_max: \"12.5%\", pids_max: 5), Hold], step: \"1s\", probation: \"2s\", release: After(\"3s\"), release_max: \"4s\", \
         triggers: (liveness: Off, restarts: DryRun, cpu: On, pids: Off, pressure: DryRun, host_memory: Off))",
    );
    let io_max = IoMax {
        path: "/srv/a".into(),
        read_bytes: Some(1 << 20),
        write_bytes: Some(2 << 20),
        read_operations: Some(3),
        write_operations: Some(4),
    };
    let limits = Limits {
        cpu_max_permille: Some(1_500),
        cpu_weight: Some(50),
        memory_max_bytes: Some(512 << 20),
        pids_max: Some(20),
        io_weight: Some(10_000),
        io_max: vec![io_max],
    };
    assert_eq!(plan.resources.as_deref(), Some(&Resources { limits, required: true }));
    let throttle = Limits { cpu_max_permille: Some(125), pids_max: Some(5), ..Limits::default() };
    let fence = FencePlan {
        ladder: vec![Rung::Throttle(throttle), Rung::Hold],
        step: Duration::from_secs(1),
        probation: Duration::from_secs(2),
        release: ReleaseRule::After(Duration::from_secs(3)),
        release_max: Duration::from_secs(4),
        triggers: Triggers {
            liveness: Mode::Off,
            restarts: Mode::DryRun,
            cpu: Mode::On,
            pids: Mode::Off,
            pressure: Mode::DryRun,
            host_memory: Mode::Off,
        },
    };
    assert_eq!(plan.fence.as_deref(), Some(&fence));
    let access = Access { read: Some(vec!["/".to_owned()]), write: Some(vec!["{service_dir}/{replica}".to_owned()]) };
    assert_eq!(plan.process.access.as_deref(), Some(&access));
    assert_eq!((plan.priority, plan.min_healthy), (-5, 2));
}

#[test]
fn nothing_given_is_nothing_and_defaults_spelt_out_are_the_defaults() {
    let plan = plan(
        "resources: (required: false, io_max: []), can_write: [], \
         fence: (ladder: [Throttle(cpu_max: \"10%\"), Freeze, Kill, Hold], step: \"10s\", probation: \"5m\", release: After(\"10m\"), triggers: ())",
    );
    assert_eq!((plan.resources, plan.fence), (None, None));
    assert_eq!(plan.process.access.as_deref(), Some(&Access { read: None, write: Some(Vec::new()) }));
}

#[test]
fn limits_out_of_range() {
    found(
        "resources: (cpu_max: \"0.9%\", cpu_weight: 0, memory_max: \"1023KiB\", pids_max: 0, io_weight: 10001,\nio_max: [(path: \"srv\", read_bytes: \"1MiB\"),\n(path: \"/srv/a\"),\n(read_operations: 1),\n(path: \"/srv/a\", write_bytes: \"0B\"),\n(path: \"/srv/a/\", write_operations: 5),\n(path: \"/srv/{replica}\", write_operations: 0),\n(path: \"/nosuch\", write_bytes: \"1B\")])",
        &expect![[r#"
            error test.ron:2:22 services[0].resources.cpu_max: 0.9% of one CPU is less than the kernel can give (at least "1%")
            error test.ron:2:42 services[0].resources.cpu_weight: 0 is no weight: they are 1 to 10000 (100 is what everybody else has)
            error test.ron:2:57 services[0].resources.memory_max: 1023KiB of memory: no process could even start (at least "1MiB")
            error test.ron:2:78 services[0].resources.pids_max: 0 processes: it could not even start (threads count too; leave it out for no limit)
            error test.ron:2:92 services[0].resources.io_weight: 10001 is no weight: they are 1 to 10000 (100 is what everybody else has)
            error test.ron:3:17 services[0].resources.io_max[0].path: "srv" is not an absolute path (it must start with /)
            error test.ron:4:1 services[0].resources.io_max[1]: no limit is given for this path (add read_bytes, write_bytes, read_operations or write_operations, all a second)
            error test.ron:5:1 services[0].resources.io_max[2]: the key `path` is missing or empty (name what lies on the device, such as "/var/lib/api")
            error test.ron:6:8 services[0].resources.io_max[3].path: /srv/a stands here twice
            error test.ron:6:31 services[0].resources.io_max[3].write_bytes: 0 a second would stop it for good (leave it out for no limit)
            error test.ron:7:8 services[0].resources.io_max[4].path: /srv/a stands here twice
            error test.ron:8:8 services[0].resources.io_max[5].path: `{replica}` has no meaning here: all replicas share this (name the directory above)
            error test.ron:8:44 services[0].resources.io_max[5].write_operations: 0 a second would stop it for good (leave it out for no limit)
            warning test.ron:9:8 services[0].resources.io_max[6].path: /nosuch does not exist: the limit is that of the device where it would be made
        "#]],
    );
    found(
        "resources: (cpu_max: \"200%\", memory_max: \"4GiB\")",
        &expect![[r#"
        accepted
    "#]],
    );
    found(
        "resources: (cpu_max: \"200.1%\", memory_max: \"4097MiB\", required: true)",
        &expect![[r#"
        warning test.ron:2:22 services[0].resources.cpu_max: 200.1% is no limit: this host has 2 CPUs, which are 200%
        warning test.ron:2:44 services[0].resources.memory_max: 4097MiB is no limit: this host has 4096 MiB of memory
        accepted
    "#]],
    );
    found(
        "resources: (required: true)",
        &expect![[r#"
        warning test.ron:2:23 services[0].resources.required: `required` has no effect: there is no limit beside it (add one, such as memory_max: "512MiB")
        accepted
    "#]],
    );
}

#[test]
fn mistakes_of_types_are_all_found_at_once() {
    found(
        "resources: (cpu_max: 1.5, memory_max: 512, pids: 3),\npriority: \"high\", min_healthy: -1,\ncan_write: \"/srv\",\nfence: (ladder: [Throtle(cpu_max: \"10%\")])",
        &expect![[r#"
            error test.ron:2:22 services[0].resources.cpu_max: 1.5 lacks a unit; write "1.5%"
            error test.ron:3:11 services[0].priority: expected a whole number
            error test.ron:3:32 services[0].min_healthy: the number is out of range
            error test.ron:4:12 services[0].can_write: expected a list in square brackets (write ["/srv"])
            error test.ron:5:18 services[0].fence.ladder[0]: unknown word `Throtle`; expected Throttle, Freeze, Kill or Hold (did you mean Throttle?)
        "#]],
    );
    found(
        "fence: (ladder: [Throttle, Kill])",
        &expect![[r#"
        error test.ron:2:18 services[0].fence.ladder[0]: `Throttle` needs a value in round brackets
    "#]],
    );
    found(
        "fence: (ladder: [Throttle(cpu: \"10%\")])",
        &expect![[r#"
        error test.ron:2:27 services[0].fence.ladder[0].cpu: unknown key `cpu` (the keys here are cpu_max, cpu_weight, memory_max, pids_max, io_weight, io_max)
    "#]],
    );
    found(
        "fence: (triggers: (cpu: Maybe))",
        &expect![[r#"
        error test.ron:2:25 services[0].fence.triggers.cpu: unknown word `Maybe`; expected On, DryRun or Off
    "#]],
    );
    found(
        "fence: (release: \"10m\")",
        &expect![[r#"
            error test.ron:2:18 services[0].fence.release: expected a word, not a text in quotes
        "#]],
    );
    found(
        "fence: None",
        &expect![[r#"
        error test.ron:2:12 services[0].fence: expected round brackets, such as (key: value)
    "#]],
    );
}

#[test]
fn ladders() {
    found(
        "fence: (ladder: [])",
        &expect![[r#"
            error test.ron:2:17 services[0].fence.ladder: an empty ladder: nothing could be done (leave it out for the default; `triggers` say what the agent may do by itself)
        "#]],
    );
    found(
        "fence: (ladder: [Freeze, Throttle(cpu_max: \"10%\"), Kill,\nFreeze, Hold, Hold])",
        &expect![[r#"
        note test.ron:2:8 services[0].fence: while it is well the agent does not fence it by itself: `min_healthy` is 1 of 1 replicas (min_healthy: 0 lets it)
        error test.ron:2:26 services[0].fence.ladder[1]: Throttle is milder than Freeze before it (the mildest first: Throttle, Freeze, Kill, Hold)
        error test.ron:3:1 services[0].fence.ladder[3]: Freeze stands here twice
        error test.ron:3:15 services[0].fence.ladder[5]: Hold stands here twice
    "#]],
    );
    found(
        "fence: (ladder: [Throttle(), Kill])",
        &expect![[r#"
        note test.ron:2:8 services[0].fence: while it is well the agent does not fence it by itself: `min_healthy` is 1 of 1 replicas (min_healthy: 0 lets it)
        error test.ron:2:18 services[0].fence.ladder[0]: a Throttle without a limit (write one, such as Throttle(cpu_max: "10%"))
    "#]],
    );
    found(
        "min_healthy: 0, resources: (cpu_max: \"20%\", pids_max: 5), fence: (ladder: [Throttle(cpu_max: \"0.1%\", pids_max: 10, memory_max: \"64MiB\"), Kill])",
        &expect![[r#"
            error test.ron:2:94 services[0].fence.ladder[0].cpu_max: 0.1% of one CPU is less than the kernel can give (at least "1%")
            warning test.ron:2:112 services[0].fence.ladder[0].pids_max: not tighter than the service's own in `resources`: it changes nothing
        "#]],
    );
    found(
        "min_healthy: 0, fence: (ladder: [Freeze])",
        &expect![[r#"
        warning test.ron:2:33 services[0].fence.ladder: the ladder ends before Kill: a service that eats the host's memory is left alone, since no throttling and no freezing gives memory back (add Kill, or say so: triggers: (pressure: Off, host_memory: Off))
        accepted
    "#]],
    );
    found(
        "min_healthy: 0, fence: (ladder: [Freeze], triggers: (pressure: Off, host_memory: Off))",
        &expect![[r#"
        accepted
    "#]],
    );
}

#[test]
fn times_of_a_fence() {
    found(
        "fence: (step: \"0s\", probation: \"0s\", release: After(\"0s\")), min_healthy: 0",
        &expect![[r#"
        error test.ron:2:15 services[0].fence.step: `step` must be longer than 0s
        error test.ron:2:32 services[0].fence.probation: `probation` must be longer than 0s
        error test.ron:2:47 services[0].fence.release: `release` must be longer than 0s (Manual waits for an operator)
    "#]],
    );
    found(
        "fence: (release: After(\"3h\")), min_healthy: 0",
        &expect![[r#"
        error test.ron:2:18 services[0].fence.release: 3h is longer than `release_max` 2h (add release_max: "1d", up to which it doubles)
    "#]],
    );
    found(
        "fence: (release: After(\"3h\"), release_max: \"3h\"), min_healthy: 0",
        &expect![[r#"
        accepted
    "#]],
    );
    found(
        "fence: (release: Manual), min_healthy: 0",
        &expect![[r#"
        accepted
    "#]],
    );
}

#[test]
fn settings_that_do_not_what_they_look_like() {
    found(
        "fence: (triggers: (cpu: On)), min_healthy: 0",
        &expect![[r#"
        warning test.ron:2:25 services[0].fence.triggers.cpu: `cpu` has no effect: it looks at a service that is at its `cpu_max`, and there is none (add resources: (cpu_max: "150%"))
        accepted
    "#]],
    );
    found(
        "replicas: 2, fence: (step: \"20s\"), min_healthy: 2",
        &expect![[r#"
        note test.ron:2:21 services[0].fence: while it is well the agent does not fence it by itself: `min_healthy` is 2 of 2 replicas (min_healthy: 1 lets it)
        accepted
    "#]],
    );
    found(
        "replicas: 2, fence: (step: \"20s\"), min_healthy: 3",
        &expect![[r#"
            error test.ron:2:49 services[0].min_healthy: 3 replicas cannot stay well: there are 2 (at most 2)
        "#]],
    );
    found(
        "fence: (triggers: (pids: Off, pressure: DryRun, host_memory: Off))",
        &expect![[r#"
        accepted
    "#]],
    );
}

#[test]
fn without_cgroups_there_are_no_limits() {
    let agent = "agent: (cgroup: Off),";
    let text = "resources: (pids_max: 5), min_healthy: 0, fence: (ladder: [Throttle(pids_max: 3), Freeze, Kill])";
    found_with(
        agent,
        text,
        &expect![[r#"
        warning test.ron:2:12 services[0].resources: limits need a group of the kernel, and `agent.cgroup` is Off: none of them will be in force (use `cgroup: Auto`)
        warning test.ron:2:60 services[0].fence.ladder[0]: Throttle needs a group of the kernel, and `agent.cgroup` is Off (use `cgroup: Auto`)
        warning test.ron:2:83 services[0].fence.ladder[1]: Freeze needs a group of the kernel, and `agent.cgroup` is Off (use `cgroup: Auto`)
        accepted
    "#]],
    );
    found_with(
        agent,
        "resources: (pids_max: 5, required: true)",
        &expect![[r#"
        error test.ron:2:12 services[0].resources: limits need a group of the kernel, and `agent.cgroup` is Off: with `required` it could never start (use `cgroup: Auto`)
    "#]],
    );
}

#[test]
fn paths_that_it_may_use() {
    found(
        "can_read: [\"/usr\"], can_write: [\"{service_dir}\", \"/srv/a/{replica}\"]",
        &expect![[r#"
        accepted
    "#]],
    );
    found(
        "can_read: [\"/usr/bin/true\"]",
        &expect![[r#"
            note test.ron:2:11 services[0].can_read: nothing of /usr/lib or /lib can be read: only a static program starts (add "/usr", "/lib" and "/lib64", unless it is static)
            accepted
        "#]],
    );
    found(
        "can_read: [\"/srv/a\", \"usr\",\n\"/srv/a\", \"/nosuch\", \"/\\u{0}\"],\ncan_write: [\"{port}\", \"/srv/{replic}\"]",
        &expect![[r#"
            note test.ron:2:11 services[0].can_read: nothing of /usr/lib or /lib can be read: only a static program starts (add "/usr", "/lib" and "/lib64", unless it is static)
            error test.ron:2:22 services[0].can_read[1]: "usr" is not an absolute path (it must start with /)
            warning test.ron:3:1 services[0].can_read[2]: "/srv/a" stands here twice
            warning test.ron:3:11 services[0].can_read[3]: /nosuch does not exist: the service does not start while it is missing
            error test.ron:3:22 services[0].can_read[4]: a zero byte cannot stand here
            error test.ron:4:13 services[0].can_write[0]: `{port}` stands here, but the service has no `port` (add the key `port`, such as port: 9001)
            error test.ron:4:13 services[0].can_write[0]: "{port}" is not an absolute path (it must start with /)
            warning test.ron:4:23 services[0].can_write[1]: `{replic}` is none of our words and stays as written (did you mean `{replica}`?)
            warning test.ron:4:23 services[0].can_write[1]: /srv/{replic} does not exist: the service does not start while it is missing
        "#]],
    );
    found(
        "can_read: []",
        &expect![[r#"
            note test.ron:2:11 services[0].can_read: nothing of /usr/lib or /lib can be read: only a static program starts (add "/usr", "/lib" and "/lib64", unless it is static)
            accepted
        "#]],
    );
    found(
        "can_read: [], can_write: [\"/\"]",
        &expect![[r#"
        accepted
    "#]],
    );
}
