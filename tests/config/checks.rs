//! Checks, alerts and what services need of the host: every rule with the text it answers with.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use expect_test::{Expect, expect};
use mainstay::config::explain;
use mainstay::engine::host::kind::CheckKind;
use mainstay::engine::host::plan::{AlertOn, AlertPlan, Band, CheckPlan, OnDiskFailing};
use mainstay::engine::plan::Plan;

use super::{Host, load_text, short};

/// A host with two disks (one of them with a partition), two NICs and three mounts.
fn host() -> Host {
    let host = Host::new();
    for directory in [
        "sys/block/sda/sda1",
        "sys/block/nvme0n1",
        "sys/class/net/eth0",
        "sys/class/net/eth1",
        "dev/mapper",
        "srv/data",
    ] {
        fs::create_dir_all(host.root.join(directory)).unwrap();
    }
    for device in ["dev/sda", "dev/nvme0n1", "dev/watchdog"] {
        host.file(device, 0o600, "");
    }
    symlink("../nvme0n1", host.root.join("dev/mapper/fast")).unwrap();
    symlink("data", host.root.join("srv/current")).unwrap();
    host.file(
        "/proc/self/mountinfo",
        0o644,
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n23 22 259:0 / /srv rw - ext4 /dev/nvme0n1 rw\n24 22 0:30 / /mnt/a\\040b rw - fuse x rw\n",
    );
    host
}

/// The findings, each line of `text` from line 2 on.
fn found(text: &str, expected: &Expect) {
    let host = host();
    let result = host.load_text(&format!("(services: [(name: \"a\", command: [\"true\"])],\n{text})"));
    expected.assert_eq(&short(&result, &host.root));
}

fn checks(text: &str, expected: &Expect) {
    found(&format!("checks: [\n{text}]"), expected);
}

fn plan(text: &str) -> Plan {
    let host = host();
    let result = host.load_text(&format!("(services: [(name: \"a\", command: [\"true\"])], {text})"));
    result.unwrap_or_else(|found| panic!("{}", found[0])).plan
}

pub(super) fn the_full_files_alert_has_the_defaults(host: &Host, full: &AlertPlan) {
    let text = "(services: [(name: \"a\", command: [\"true\"])], alerts: [(exec: [\"sh\", \"-c\", \"exec cat >> /dev/null\"])])";
    let least = host.load_text(text).unwrap().plan.alerts.remove(0);
    assert_eq!(*full, least, "a value in configs/full.ron is not the default");
}

#[test]
fn every_key_of_a_check_arrives() {
    let plan = plan(
        "checks: [(name: \"root\", check: DiskSpace(path: \"//srv/\"), every: \"30s\", degraded: (enter: \"90%\", leave: \"85.5%\"), \
         failing: (enter: \"97%\"), fall: 2, rise: 3, enabled: true), (name: \"ram\", check: Memory, enabled: false)]",
    );
    let expected = CheckPlan {
        name: "root".to_owned(),
        kind: CheckKind::DiskSpace,
        target: Some("/srv".to_owned()),
        enabled: true,
        every: Some(Duration::from_secs(30)),
        degraded: Some(Band { enter: 900, leave: 855 }),
        failing: Some(Band { enter: 970, leave: 920 }),
        fall: Some(2),
        rise: Some(3),
    };
    assert_eq!(plan.checks[0], expected);
    let ram = &plan.checks[1];
    assert_eq!(
        (ram.kind, &ram.target, ram.enabled, ram.every, ram.fall),
        (CheckKind::Memory, &None, false, None, None)
    );
    assert!(plan.agent.default_checks);
}

#[test]
fn every_kind_is_a_word_alone_or_with_its_target() {
    for kind in CheckKind::ALL {
        let camel: String = kind.word().split('_').map(|part| part[..1].to_uppercase() + &part[1..]).collect();
        for brackets in ["", "()", " ( ) "] {
            let plan = plan(&format!("checks: [(name: \"x\", check: {camel}{brackets})]"));
            assert_eq!((plan.checks[0].kind, &plan.checks[0].target), (kind, &None), "{camel}{brackets}");
        }
    }
    for (text, target) in [
        ("Smart(device: \"sda\")", "sda"),
        ("Smart(device: \"/dev/sda\")", "sda"),
        ("DiskHung(device: \"/dev/mapper/fast\",)", "nvme0n1"),
        ("NicLink ( nic : \"eth1\" )", "eth1"),
        ("Temperature(sensor: \"coretemp/temp1\")", "coretemp/temp1"),
        ("DiskInodes(path: \"/mnt/a b\")", "/mnt/a b"),
    ] {
        let plan = plan(&format!("checks: [(name: \"x\", check: {text})]"));
        assert_eq!(plan.checks[0].target.as_deref(), Some(target), "{text}");
    }
}

#[test]
fn mistakes_of_types_are_all_found_at_once() {
    checks(
        "(nam: \"a\", check: DiskSpce(path: \"/\"), evry: \"1s\", every: 5, fall: \"2\", enabled: no),\n(name: \"b\", check: DiskSpace(paht: \"/\"), degraded: \"90%\", failing: (entr: \"90%\")),\n(name: \"c\", check: \"DiskSpace\", degraded: (leave: \"1%\")),\n(name: \"d\", check: DiskSpace(path: sda), degraded: (enter: 1.5)),\n(name: \"e\", check: DiskSpace(\"/\")),\n(name: \"f\", check: disk_space),\n(name: \"g\", check: Banana)",
        &expect![[r#"
            error test.ron:3:2 checks[0].nam: unknown key `nam` (did you mean "name"?)
            error test.ron:3:19 checks[0].check: unknown word `DiskSpce` (did you mean DiskSpace?)
            error test.ron:3:40 checks[0].evry: unknown key `evry` (did you mean "every"?)
            error test.ron:3:59 checks[0].every: 5 lacks a unit; write "5s"
            error test.ron:3:68 checks[0].fall: expected a whole number (write 2)
            error test.ron:3:82 checks[0].enabled: expected true or false
            error test.ron:4:20 checks[1].check: unknown key `paht` (did you mean "path"?)
            error test.ron:4:52 checks[1].degraded: expected round brackets, such as (key: value)
            error test.ron:4:69 checks[1].failing.entr: unknown key `entr` (did you mean "enter"?)
            error test.ron:5:20 checks[2].check: expected a kind of check, such as DiskSpace(path: "/")
            error test.ron:5:43 checks[2].degraded: the key `enter` is missing
            error test.ron:6:20 checks[3].check: the target of `DiskSpace` is a text in quotes
            error test.ron:6:60 checks[3].degraded.enter: 1.5 lacks a unit; write a text such as "1.5%"
            error test.ron:7:20 checks[4].check: what stands in the brackets of `DiskSpace` is a target, such as (path: "/")
            error test.ron:8:20 checks[5].check: unknown word `disk_space` (did you mean DiskSpace?)
            error test.ron:9:20 checks[6].check: unknown word `Banana` (known are DiskSpace, DiskInodes, DiskFill, Filesystem, DiskHung, DiskLatency, DiskErrors, Smart, DiskWear, Raid, Btrfs, NicLink, NicSpeed, NicErrors, NicDrops, Bond, Gateway, Temperature, Throttling, Fan, Power, Ecc, MemoryPoison, MachineCheck, Pcie, PressureMemory, PressureCpu, PressureIo, Memory, Swap, BlockedTasks, Files, Pids, Conntrack, Clock, Kernel)
        "#]],
    );
}

#[test]
fn what_is_missing_and_what_is_there_twice() {
    checks(
        "(),\n(name: \"Root\", check: Memory),\n(name: \"root\", check: Swap),\n(name: \"root\", check: Files),\n(name: \"x\", check: Smart(device: \"sda\")),\n(name: \"y\", check: Smart(device: \"/dev/sda\")),\n(name: \"z\", check: Smart),\n(name: \"swap\", check: Swap)",
        &expect![[r#"
            error test.ron:3:1 checks[0].name: the key `name` is missing or empty (each check needs a name such as "root")
            error test.ron:3:1 checks[0].check: the key `check` is missing (write what is checked, such as check: DiskSpace(path: "/"))
            error test.ron:4:8 checks[1].name: "Root" cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . - (write "root")
            error test.ron:6:8 checks[3].name: there are two checks "root" (the other one is at test.ron:5:8)
            error test.ron:8:20 checks[5].check: `Smart` of "sda" is checked already, by "x" (the other one is at test.ron:7:20)
            error test.ron:10:23 checks[7].check: `Swap` is checked already, by "root" (the other one is at test.ron:5:23)
        "#]],
    );
}

#[test]
fn targets() {
    checks(
        "(name: \"a\", check: Memory(path: \"/\")),\n(name: \"b\", check: Smart(path: \"/\")),\n(name: \"c\", check: DiskSpace(path: \"srv\")),\n(name: \"d\", check: DiskSpace(path: \"/srv/data\")),\n(name: \"e\", check: Smart(device: \"sda1\")),\n(name: \"f\", check: Smart(device: \"sdb\")),\n(name: \"g\", check: Smart(device: \"/dev/disk/by-id/x\")),\n(name: \"h\", check: NicLink(nic: \"etho\")),\n(name: \"i\", check: NicLink(nic: \"a-name-that-is-too-long\")),\n(name: \"j\", check: Fan(sensor: \"\")),\n(name: \"k\", check: DiskSpace(path: \"/\\u{0}\"))",
        &expect![[r#"
            error test.ron:3:33 checks[0].check.path: `Memory` has no `path` (write Memory alone: it is of the whole host)
            error test.ron:4:32 checks[1].check.path: `Smart` has no `path` (write Smart(device: "sda"), or Smart for all of them)
            error test.ron:5:36 checks[2].check.path: "srv" is not an absolute path (it must start with /)
            warning test.ron:6:36 checks[3].check.path: nothing is mounted at /srv/data: it is checked once there is (what lies there is on "/srv")
            error test.ron:7:34 checks[4].check.device: "sda1" is a partition, and a disk is checked as a whole (write "sda")
            warning test.ron:8:34 checks[5].check.device: there is no disk "sdb" now: it is checked once there is (did you mean "sda"?)
            error test.ron:9:34 checks[6].check.device: "/dev/disk/by-id/x" is not a disk (write its name as in /sys/block, such as "sda", or a path below /dev that exists)
            warning test.ron:10:33 checks[7].check.nic: there is no NIC "etho" now (did you mean "eth1"?)
            error test.ron:11:33 checks[8].check.nic: "a-name-that-is-too-long" is no name of a NIC: they have at most 15 bytes (write a name as in `ip link`, such as "eth0")
            error test.ron:12:32 checks[9].check.sensor: a `sensor` has 1 to 4096 bytes (without brackets the check is of all of them)
            error test.ron:13:36 checks[10].check.path: a zero byte cannot stand here
        "#]],
    );
}

#[test]
fn thresholds() {
    checks(
        "(name: \"a\", check: DiskSpace, degraded: (enter: 90), failing: (enter: \"197%\")),\n(name: \"b\", check: DiskSpace, degraded: (enter: \"24h\")),\n(name: \"c\", check: DiskLatency, degraded: (enter: \"90%\"), failing: (enter: \"1500us\")),\n(name: \"d\", check: Temperature, degraded: (enter: \"85\"), failing: (enter: 85)),\n(name: \"e\", check: NicSpeed, degraded: (enter: \"1000\")),\n(name: \"f\", check: Raid, degraded: (enter: \"1\"), failing: (enter: -1)),\n(name: \"g\", check: Smart, degraded: (enter: 1)),\n(name: \"h\", check: Memory, degraded: (enter: \"80%\", leave: \"85%\")),\n(name: \"i\", check: DiskFill(path: \"/\"), degraded: (enter: \"24h\", leave: \"12h\")),\n(name: \"j\", check: Swap, degraded: (enter: \"90%\"), failing: (enter: \"80%\")),\n(name: \"k\", check: DiskFill(path: \"/srv\"), degraded: (enter: \"4h\"), failing: (enter: \"24h\")),\n(name: \"l\", check: Files, degraded: (enter: \"80%\"), failing: (enter: \"80%\")),\n(name: \"m\", check: Pids, degraded: (enter: \"80%\", leave: \"79%\"), failing: (enter: \"90%\", leave: \"50%\")),\n(name: \"n\", check: DiskWear, failing: (enter: \"120%\"), every: \"500ms\", fall: 0, rise: 0),\n(name: \"o\", check: Conntrack, enabled: false, failing: (enter: \"90%\")),\n(name: \"p\", check: DiskInodes, degraded: (enter: \"98%\")),\n(name: \"q\", check: DiskFill(path: \"/mnt/a b\"), failing: (enter: \"2d\"))",
        &expect![[r#"
            error test.ron:3:49 checks[0].degraded.enter: 90 lacks a unit; `DiskSpace` is a share such as "90%"
            error test.ron:3:71 checks[0].failing.enter: "197%" is more than everything there is
            error test.ron:4:20 checks[1].check: `DiskSpace` is checked already, by "a" (the other one is at test.ron:3:20)
            error test.ron:4:49 checks[1].degraded.enter: "24h" is not a share (`DiskSpace` is a share such as "90%")
            error test.ron:5:51 checks[2].degraded.enter: "90%" is not a duration (`DiskLatency` is a duration such as "24h" or "500ms")
            error test.ron:5:76 checks[2].failing.enter: "1500us" is finer than milliseconds
            error test.ron:6:51 checks[3].degraded.enter: "85" is not a temperature; write degrees Celsius such as "85C"
            error test.ron:6:75 checks[3].failing.enter: 85 lacks a unit; `Temperature` is a temperature such as "85C"
            error test.ron:7:48 checks[4].degraded.enter: "1000" is not a speed; write "100Mbit" or "2.5Gbit"
            error test.ron:8:44 checks[5].degraded.enter: "1" is not a count (`Raid` is a count such as 3, without quotes)
            error test.ron:8:67 checks[5].failing.enter: -1 is no count
            error test.ron:9:37 checks[6].degraded: `Smart` has no value that could be compared: it is well or it is not (remove `degraded`)
            error test.ron:10:60 checks[7].degraded.leave: it would be left at 85%, which is worse than 80% (`leave` is at or below `enter`)
            error test.ron:11:73 checks[8].degraded.leave: it would be left at 12h, which is worse than 1d (`leave` is at or above `enter`)
            error test.ron:12:69 checks[9].failing.enter: it would be failing at 80% and only degraded at 90% (`failing` begins at a worse value than `degraded`)
            error test.ron:13:86 checks[10].failing.enter: it would be failing at 1d and only degraded at 4h (`failing` begins at a worse value than `degraded`)
            warning test.ron:14:70 checks[11].failing.enter: it fails at 80% and is never degraded before (choose a worse value for `failing`)
            error test.ron:15:97 checks[12].failing.leave: it would be failing until 50%, but degraded only until 79% (`failing` ends at a worse value than `degraded`)
            error test.ron:16:63 checks[13].every: every 500ms: the shortest is 1s
            error test.ron:16:78 checks[13].fall: `fall` must be at least 1
            error test.ron:16:87 checks[13].rise: `rise` must be at least 1
            warning test.ron:17:56 checks[14].failing: `failing` has no effect: the check is not `enabled`
            warning test.ron:18:50 checks[15].degraded.enter: it is failing from 97% on by default, and not degraded before (give `failing` too)
            warning test.ron:19:65 checks[16].failing.enter: it is degraded from 1d on by default, and failing before (give `degraded` too)
        "#]],
    );
}

#[test]
fn alerts() {
    let plan = plan(
        "alerts: [(exec: [\"sh\", \"-c\", \"x\"], user: \"api\", on: [Degraded, CopyFailed], at_most: \"3/15m\", timeout: \"5s\", cwd: \"/srv/\")]",
    );
    let alert = &plan.alerts[0];
    assert_eq!(alert.exec, ["/usr/bin/sh", "-c", "x"]);
    assert_eq!(alert.user.as_ref().map(|user| user.uid), Some(900));
    assert_eq!((&alert.on[..], alert.at_most), (&[AlertOn::Degraded, AlertOn::CopyFailed][..], 3));
    assert_eq!(
        (alert.within.as_secs(), alert.timeout.as_secs(), alert.cwd.as_deref()),
        (900, 5, Some(Path::new("/srv")))
    );
    found(
        "alerts: [\n(),\n(exec: [\"nosuch\"], user: \"nobodi\", on: [], at_most: \"0/h\", timeout: \"0s\", cwd: \"srv\"),\n(exec: [\"./page\"], on: [Failing, Failing, Fenced], at_most: \"10/0s\", timeout: \"1h\", cwd: \"/nosuch\"),\n(exec: \"sh\", on: [Faling], at_most: 10, name: \"x\"),\n(exec: [\"sh\"], at_most: \"often\"),\n(exec: [\"sh\"], at_most: \"5000/d\")]",
        &expect![[r#"
            error test.ron:3:1 alerts[0].exec: the key `exec` is missing or empty (write a list such as ["/usr/local/bin/page-me"]; it gets the event as JSON on its standard input)
            error test.ron:4:9 alerts[1].exec[0]: there is no command "nosuch" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin (write its absolute path)
            error test.ron:4:26 alerts[1].user: there is no user "nobodi" in /etc/passwd (did you mean "nobody"?)
            error test.ron:4:40 alerts[1].on: an empty list: nobody would be told (remove the alert)
            error test.ron:4:53 alerts[1].at_most: 0 alerts: nobody would be told (remove the alert)
            error test.ron:4:69 alerts[1].timeout: `timeout` must be longer than 0s
            error test.ron:4:80 alerts[1].cwd: "srv" is not an absolute path (it must start with /)
            error test.ron:5:9 alerts[2].exec[0]: "./page" is not an absolute path (write "/nosuch/page")
            warning test.ron:5:34 alerts[2].on[1]: `Failing` stands here twice
            error test.ron:5:61 alerts[2].at_most: the time of a rate must be longer than 0s
            error test.ron:5:79 alerts[2].timeout: 1h is too long: the next alert waits for this one (at most "10m")
            error test.ron:5:90 alerts[2].cwd: there is no directory /nosuch
            error test.ron:6:8 alerts[3].exec: expected a list in square brackets (write ["sh"])
            error test.ron:6:19 alerts[3].on[0]: unknown word `Faling`; expected Failing, Degraded, Recovered, Fenced or CopyFailed (did you mean Failing?)
            error test.ron:6:37 alerts[3].at_most: 10 lacks a unit; write "10/h"
            error test.ron:6:41 alerts[3].name: unknown key `name` (the keys here are exec, user, on, at_most, timeout, cwd)
            error test.ron:7:25 alerts[4].at_most: "often" is not a rate; write a count and a time, such as "10/h" or "3/15m"
            error test.ron:8:25 alerts[5].at_most: at most 1000 alerts a window
        "#]],
    );
}

#[test]
fn without_root_a_command_of_an_alert_runs_as_the_agents_own_user() {
    let host = host();
    let load = |text: &str| load_text("test.ron", text, &host.context(900));
    let own =
        load("(agent: (default_checks: true), alerts: [(exec: [\"sh\"]), (exec: [\"sh\"], user: \"api\")])").unwrap();
    assert!(own.plan.alerts.iter().all(|alert| alert.user.is_none()));
    expect![[r#"
        error test.ron:1:32 alerts[0].user: only an agent that runs as root can run a command as another user (remove `user`, or run the agent as root)
    "#]].assert_eq(&short(&load("(alerts: [(exec: [\"sh\"], user: \"nobody\")])"), &host.root));
}

#[test]
fn what_a_service_needs() {
    let host = host();
    let text = "(services: [(name: \"a\", command: [\"true\"], data: [\"/srv/current/\", \"/srv/data\", \"{service_dir}/db\"], nics: [\"eth0\", \"eth0\"], on_disk_failing: Hold), \
                (name: \"b\", command: [\"true\"], nics: [\"eth1\"]), (name: \"c\", command: [\"true\"])])";
    let loaded = host.load_text(text).unwrap_or_else(|found| panic!("{}", found[0]));
    assert_eq!(short(&Ok(loaded.clone()), &host.root), "accepted\n");
    let [a, b, c] = &loaded.plan.services[..] else { panic!("three services") };
    let needs = a.needs.as_deref().unwrap();
    assert_eq!(needs.data, [Path::new("/srv/data"), Path::new("/run/mainstay/svc/a/db")]);
    assert_eq!((needs.nics.as_slice(), needs.on_disk_failing), (&["eth0".to_owned()][..], OnDiskFailing::Hold));
    assert_eq!(b.needs.as_deref().map(|needs| needs.on_disk_failing), Some(OnDiskFailing::Leave));
    assert_eq!(c.needs, None);
    let result = host.load_text(
        "(services: [(name: \"a\", command: [\"true\"],\ndata: [\"srv\", \"/srv/{replica}\", \"/nosuch\", \"/\\u{0}\"], nics: [\"etho\", \"\"], on_disk_failing: Stop),\n(name: \"b\", command: [\"true\"], on_disk_failing: Kill)])",
    );
    expect![[r#"
        error test.ron:2:8 services[0].data[0]: "srv" is not an absolute path (it must start with /)
        error test.ron:2:15 services[0].data[1]: `{replica}` has no meaning here: all replicas share this (name the directory above)
        warning test.ron:2:33 services[0].data[2]: /nosuch does not exist: it counts as being where it would be made
        error test.ron:2:44 services[0].data[3]: a zero byte cannot stand here
        warning test.ron:2:62 services[0].nics[0]: there is no NIC "etho" now (did you mean "eth1"?)
        error test.ron:2:70 services[0].nics[1]: "" is no name of a NIC: they have at most 15 bytes (write a name as in `ip link`, such as "eth0")
        error test.ron:2:92 services[0].on_disk_failing: unknown word `Stop`; expected Leave, Freeze, Kill, Hold or Ignore
        warning test.ron:3:49 services[1].on_disk_failing: `on_disk_failing` has no effect: no `data` says which disks the service needs (add data: ["/var/lib/.."], or remove it)
    "#]].assert_eq(&short(&result, &host.root));
}

#[test]
fn checks_and_alerts_of_included_files_are_added() {
    let host = host();
    host.file("conf.d/a.ron", 0o644, "(checks: [(name: \"a\", check: Swap)], alerts: [(exec: [\"sh\"])])");
    host.file("conf.d/b.ron", 0o644, "(checks: [(name: \"b\", check: Files), (name: \"root\", check: Pids)])");
    let main = host.file("main.ron", 0o644, "(include: [\"conf.d/*.ron\"], checks: [(name: \"root\", check: Memory)])");
    let result = mainstay::config::load(&main, &host.context(host.own_uid()));
    expect![[r#"
        error ROOT/conf.d/b.ron:1:45 checks[1].name: there are two checks "root" (the other one is at ROOT/main.ron:1:45)
    "#]].assert_eq(&short(&result, &host.root));
    host.file("conf.d/b.ron", 0o644, "(checks: [(name: \"b\", check: Files)])");
    let plan = mainstay::config::load(&main, &host.context(host.own_uid())).unwrap().plan;
    let names: Vec<&str> = plan.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!((names, plan.alerts.len()), (vec!["root", "a", "b"], 1));
}

#[test]
fn the_watchdog() {
    found(
        "agent: (watchdog: (timeout: \"5s\", device: \"/dev/watchdog9\"))",
        &expect![[r#"
        error test.ron:2:29 agent.watchdog.timeout: after 5s a busy host would be reset: at least "10s" (30s is usual)
        warning test.ron:2:43 agent.watchdog.device: there is no /dev/watchdog9: this host has no such watchdog now (load its driver, such as iTCO_wdt or softdog)
    "#]],
    );
    found(
        "agent: (watchdog: (timeout: \"20s\", require: [\"a\"]))",
        &expect![[r#"
        warning test.ron:2:29 agent.watchdog.timeout: 20s is short: busy hosts were reset by less than 30 s (write "30s")
        accepted
    "#]],
    );
    found(
        "agent: (watchdog: (timeout: \"2d\"))",
        &expect![[r#"
        error test.ron:2:29 agent.watchdog.timeout: 2d is more than hardware watchdogs count (at most "18h 12m 15s")
    "#]],
    );
    found(
        "agent: (watchdog: ())",
        &expect![[r#"
        accepted
    "#]],
    );
}

#[test]
fn an_explanation_shows_the_watch_over_the_host() {
    let plan = plan(
        "agent: (watchdog: (require: [\"a\"])), checks: [(name: \"root\", check: DiskSpace(path: \"/\"), every: \"30s\", degraded: (enter: \"90%\"), fall: 2), \
         (name: \"wear\", check: DiskWear), (name: \"swap\", check: Swap, enabled: false), (name: \"heat\", check: Temperature(sensor: \"x/temp1\"), failing: (enter: \"90C\"))], \
         alerts: [(exec: [\"sh\", \"-c\", \"exec page\"])]",
    );
    let text = explain(&plan);
    let agent = text.split("\n\n").next().unwrap().lines().skip(6).collect::<Vec<_>>().join("\n");
    let host = text.split_once("\n\ncheck ").unwrap().1;
    expect![[r#"
          starting_max       2 x CPUs
          shutdown_timeout   1m 30s
          default_checks     true: of all this host has
          watchdog           /dev/watchdog, 30s, while a are well

        check root
          check              DiskSpace of /
          every              30s
          degraded           from 90% on, until 85%
          fall               2 bad samples in a row

        check wear
          check              DiskWear, all of them

        check swap
          check              Swap
          enabled            false: not checked at all

        check heat
          check              Temperature of x/temp1
          failing            from 90C on, until 85C

        alert
          exec               /usr/bin/sh -c "exec page"
          user               nobody (uid 65534, gid 65534)
          on                 Failing, Recovered
          at_most            10 in 1h, then one summary
          timeout            30s
    "#]]
    .assert_eq(&format!("{agent}\n\ncheck {host}"));
    let needs = super::Host::new();
    let text =
        "(services: [(name: \"a\", command: [\"true\"], data: [\"/usr\"], nics: [\"eth0\"], on_disk_failing: Kill)])";
    let text = explain(&needs.load_text(text).unwrap().plan);
    let shown: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| ["data", "nics", "on_disk"].iter().any(|key| line.starts_with(key)))
        .collect();
    expect![[r#"
          data               /usr
          nics               eth0
          on_disk_failing    Kill: it is killed, and started again when the disk is well"#]]
    .assert_eq(&shown.join("\n"));
}
