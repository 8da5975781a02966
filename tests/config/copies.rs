//! Sets of copies in the file.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use expect_test::{Expect, expect};
use mainstay::config::explain;
use mainstay::engine::copies::plan::{CopyPlan, Keep, OnChange, OnFull, OnSourceFailing, Quiesce, ReadBack, Space};

use super::{Host, short};

fn host() -> Host {
    let host = Host::new();
    for directory in ["srv/a/b", "srv/c", "mnt/second"] {
        fs::create_dir_all(host.root.join(directory)).unwrap();
    }
    host
}

/// The findings about one set, each line of `text` from line 2 on.
fn found(text: &str, expected: &Expect) {
    found_in("", &format!("(name: \"a\", to: \"/mnt/second\",\n{text})"), expected);
}

fn found_in(rest: &str, sets: &str, expected: &Expect) {
    let host = host();
    let services =
        "services: [(name: \"api\", command: [\"true\"]), (name: \"once\", kind: Oneshot, command: [\"true\"])]";
    let result = host.load_text(&format!("({rest} {services}, copies: [{sets}])"));
    expected.assert_eq(&short(&result, &host.root));
}

fn plan(text: &str) -> CopyPlan {
    let result = host().load_text(&format!(
        "(services: [(name: \"api\", command: [\"true\"], data: [\"/srv/a/b\"])], copies: [(name: \"a\", from: [\"/srv/a/\"], to: \"/mnt/second\", {text})])"
    ));
    result.unwrap_or_else(|found| panic!("{}", found[0])).plan.copies.remove(0)
}

pub(super) fn the_full_files_set_has_the_defaults(host: &Host, full: &CopyPlan) {
    let least =
        "(copies: [(name: \"data\", from: [\"/var/lib/postgresql\"], to: \"/mnt/second/copies\", every: \"1h\")])";
    let least = host.load_text(least).unwrap().plan.copies.remove(0);
    assert_eq!(*full, least, "a value in configs/full.ron is not the default");
}

#[test]
fn every_key_arrives() {
    let plan = plan(
        "exclude: [\"*.tmp\"], same_disk: true, uuid: \"0F0E0D0C-0000-4000-8000-000000000001\", every: \"2h\", at: [\"14:30\", \"02:30:05\"], \
         on_change: (quiet: \"5s\", max_wait: \"7s\"), keep: (last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5, yearly: 6, min_keep: 7), \
         quiesce: Freeze(\"api\", max: \"900ms\"), scrub_every: None, restore_test: \"1d\", max_age: \"1w\", max_shrink: \"12.5%\", \
         bandwidth: \"20MB\", space: (reserve: \"5%\", reserve_min: \"1GiB\", on_full: PruneOldest, large: None), \
         read_back: All, on_source_failing: Hold",
    );
    let clock = |hours: u64, minutes: u64, seconds: u64| Duration::from_secs(hours * 3_600 + minutes * 60 + seconds);
    assert_eq!(plan.from, [PathBuf::from("/srv/a")]);
    assert_eq!((plan.exclude.as_slice(), plan.same_disk), ([String::from("*.tmp")].as_slice(), true));
    assert_eq!(plan.uuid.as_deref(), Some("0f0e0d0c-0000-4000-8000-000000000001"));
    assert_eq!(plan.when.every, Some(clock(2, 0, 0)));
    assert_eq!(plan.when.at, [clock(2, 30, 5), clock(14, 30, 0)]);
    assert_eq!(plan.when.on_change, Some(OnChange { quiet: clock(0, 0, 5), max_wait: clock(0, 0, 7) }));
    assert_eq!(plan.keep, Keep { last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5, yearly: 6, min_keep: 7 });
    assert_eq!(plan.quiesce, Quiesce::Freeze { service: "api".to_owned(), max: Duration::from_millis(900) });
    assert_eq!((plan.scrub_every, plan.restore_test), (None, Some(clock(24, 0, 0))));
    assert_eq!((plan.max_age, plan.max_shrink_permille), (Some(clock(168, 0, 0)), 125));
    assert_eq!(plan.bandwidth, Some(20_000_000));
    let space = Space { reserve_permille: 50, reserve_bytes: 1 << 30, on_full: OnFull::PruneOldest, large: None };
    assert_eq!(plan.space, space);
    assert_eq!((plan.read_back, plan.on_source_failing), (ReadBack::All, Some(OnSourceFailing::Hold)));
}

#[test]
fn short_forms_mean_what_they_say() {
    let by = |text: &str| plan(text);
    let quiet = Duration::from_secs(30);
    assert_eq!(by("on_change: \"30s\"").when.on_change, Some(OnChange { quiet, max_wait: quiet * 10 }));
    assert_eq!(by("at: \"02:30\"").when.at, [Duration::from_secs(9_000)]);
    assert_eq!(
        by("every: \"1m\", quiesce: Freeze(\"api\")").quiesce,
        Quiesce::Freeze { service: "api".to_owned(), max: Duration::from_secs(2) }
    );
    assert_eq!(by("every: \"1m\", quiesce: Stop(\"api\")").quiesce, Quiesce::Stop { service: "api".to_owned() });
    let exec = Quiesce::Exec { pre: vec!["/usr/bin/true".to_owned()], post: Vec::new(), timeout: quiet * 2 };
    assert_eq!(by("every: \"1m\", quiesce: Exec(pre: [\"true\"])").quiesce, exec);
    assert_eq!(by("every: \"1m\", quiesce: None").quiesce, Quiesce::None);
}

#[test]
fn too_old_is_three_periods() {
    let age = |text: &str| plan(text).max_age.map(|age| age.as_secs() / 3_600);
    assert_eq!(age("every: \"1h\""), Some(3));
    assert_eq!(age("at: \"02:30\""), Some(72));
    assert_eq!(age("at: [\"02:00\", \"08:00\"]"), Some(54), "the longest of the gaps");
    assert_eq!(age("every: \"1h\", at: \"02:30\""), Some(3));
    assert_eq!(age("on_change: \"1s\""), None);
    assert_eq!(age("every: \"1h\", max_age: None"), None);
}

#[test]
fn what_is_missing_is_said() {
    found_in(
        "",
        "(),\n(name: \"B\"),\n(name: \"x\", from: [], to: \"\", every: \"1s\"),\n(name: \"x\", from: [\"/srv/c\"], to: \"/mnt/second\", every: \"1s\")",
        &expect![[r#"
            error test.ron:1:108 copies[0].name: the key `name` is missing or empty (each set of copies needs a name such as "api-data")
            error test.ron:1:108 copies[0].from: the key `from` is missing or empty (write what is copied, such as from: ["/var/lib/api"])
            error test.ron:1:108 copies[0].to: the key `to` is missing or empty (write a directory on the second disk, such as to: "/mnt/second/copies")
            note test.ron:2:1 copies[1]: no `every`, `at` or `on_change`: copies are made by hand only (`mainstay copies run B` makes one)
            error test.ron:2:8 copies[1].name: "B" cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . - (write "b")
            error test.ron:2:8 copies[1].from: the key `from` is missing or empty (write what is copied, such as from: ["/var/lib/api"])
            error test.ron:2:8 copies[1].to: the key `to` is missing or empty (write a directory on the second disk, such as to: "/mnt/second/copies")
            error test.ron:3:19 copies[2].from: the key `from` is missing or empty (write what is copied, such as from: ["/var/lib/api"])
            error test.ron:3:27 copies[2].to: the key `to` is missing or empty (write a directory on the second disk, such as to: "/mnt/second/copies")
            error test.ron:4:8 copies[3].name: there are two sets of copies "x" (the other one is at test.ron:3:8)
        "#]],
    );
}

#[test]
fn paths_that_cannot_be() {
    found(
        "from: [\"srv\", \"/srv/../srv\", \"/srv/a\", \"/srv/a/b\", \"/srv/a\", \"/proc/1\", \"/srv/none\", \"/srv/\\u{0}\"],\nevery: \"1h\",\nexclude: [\"\", \"/srv/a/x/*.tmp\", \"/y\", \"a/../b\", \"ok/**\"]",
        &expect![[r#"
            error test.ron:2:8 copies[0].from[0]: "srv" is not an absolute path (it must start with /)
            error test.ron:2:15 copies[0].from[1]: "/srv/../srv" goes up with .. (write where it leads to)
            error test.ron:2:40 copies[0].from[3]: /srv/a/b and /srv/a lie in one another (keep the outer one)
            error test.ron:2:52 copies[0].from[4]: /srv/a stands here twice (keep the outer one)
            warning test.ron:2:62 copies[0].from[5]: /proc/1 does not exist: no copy is made until it does
            error test.ron:2:62 copies[0].from[5]: /proc is the kernel's: there is no data to copy
            warning test.ron:2:73 copies[0].from[6]: /srv/none does not exist: no copy is made until it does
            error test.ron:2:86 copies[0].from[7]: a zero byte cannot stand here
            error test.ron:4:11 copies[0].exclude[0]: a pattern has 1 to 4096 bytes (such as "cache/**" or "*.tmp")
            error test.ron:4:15 copies[0].exclude[1]: "/srv/a/x/*.tmp" begins with /, while patterns begin at each source (write "x/*.tmp")
            error test.ron:4:33 copies[0].exclude[2]: "/y" begins with /, while patterns begin at each source
            error test.ron:4:39 copies[0].exclude[3]: "a/../b" has a part . or .., which no file is called
        "#]],
    );
}

#[test]
fn copies_within_what_they_are_of() {
    found_in(
        "",
        "(name: \"in\", from: [\"/srv\"], to: \"/srv/c\", every: \"1h\"),\n(name: \"among\", from: [\"/srv/a/among/x\"], to: \"/srv/a\", every: \"1h\"),\n(name: \"beside\", from: [\"/srv/a/b\"], to: \"/srv/a\", every: \"1h\"),\n(name: \"rel\", from: [\"/srv\"], to: \"c\", every: \"1h\")",
        &expect![[r#"
            error test.ron:1:141 copies[0].to: the copies would lie in /srv, which they are of (choose a directory on another disk)
            warning test.ron:2:24 copies[1].from[0]: /srv/a/among/x does not exist: no copy is made until it does
            error test.ron:2:47 copies[1].to: /srv/a/among/x lies among the copies (choose a directory on another disk)
            error test.ron:4:35 copies[3].to: "c" is not an absolute path (it must start with /)
        "#]],
    );
}

#[test]
fn a_link_is_followed_once_and_that_is_told() {
    let host = host();
    std::os::unix::fs::symlink(host.root.join("srv/a"), host.root.join("srv/link")).unwrap();
    let result = host.load_text("(copies: [(name: \"a\", from: [\"/srv/link\"], to: \"/mnt/second\", every: \"1h\")])");
    expect![[r#"
        note test.ron:1:30 copies[0].from[0]: /srv/link leads to /srv/a: that is what is copied
        accepted
    "#]]
    .assert_eq(&short(&result, &host.root));
    assert_eq!(result.unwrap().plan.copies[0].from, [PathBuf::from("/srv/a")]);
}

#[test]
fn times_that_cannot_be() {
    found(
        "from: [\"/srv/a\"], every: \"10ms\",\nat: [\"25:00\"],\non_change: (quiet: \"5s\", max_wait: \"1s\"),\nmax_age: \"0s\", scrub_every: \"0s\"",
        &expect![[r#"
            error test.ron:2:26 copies[0].every: every 10ms: the shortest is 1s
            error test.ron:3:6 copies[0].at[0]: "25:00" is not a time of day; write hours and minutes (UTC), such as "02:30"
            error test.ron:4:36 copies[0].on_change.max_wait: `max_wait` 1s is shorter than `quiet`
            error test.ron:5:10 copies[0].max_age: `max_age` must be longer than 0s
            warning test.ron:5:10 copies[0].max_age: copies are made every 10ms: each will be too old (make it longer than that)
            error test.ron:5:29 copies[0].scrub_every: `scrub_every` must be at least 1s (None is never)
        "#]],
    );
    found(
        "from: [\"/srv/a\"],\nat: [\"02:00\", \"02:00:00\"], max_age: \"1h\"",
        &expect![[r#"
        warning test.ron:3:15 copies[0].at[1]: 02:00 stands here twice
        warning test.ron:3:37 copies[0].max_age: copies are made every 1d: each will be too old (make it longer than that)
        accepted
    "#]],
    );
    found(
        "from: [\"/srv/a\"],\nat: 3, on_change: (quite: \"5s\")",
        &expect![[r#"
        error test.ron:3:5 copies[0].at: expected a time such as "02:30", or a list of them, found the unsigned integer `3`
        error test.ron:3:20 copies[0].on_change.quite: unknown key `quite` (did you mean "quiet"?)
    "#]],
    );
}

#[test]
fn by_hand_only_is_noted() {
    found(
        "from: [\"/srv/a\"]",
        &expect![[r#"
        note test.ron:1:108 copies[0]: no `every`, `at` or `on_change`: copies are made by hand only (`mainstay copies run a` makes one)
        accepted
    "#]],
    );
}

#[test]
fn whoever_holds_still_must_be_there() {
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Freeze(\"apo\", max: \"2m\")",
        &expect![[r#"
        error test.ron:3:10 copies[0].quiesce: there is no service "apo" (did you mean "api"?)
        error test.ron:3:10 copies[0].quiesce: frozen for 2m: whoever asks it gets no answer meanwhile (at most "1m")
    "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Freeze(\"api\", \n max : \"x\")",
        &expect![[r#"
        error test.ron:4:8 copies[0].quiesce[1]: "x" is not a duration; write a number and a unit, such as "1m 30s"
    "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Freeze()",
        &expect![[r#"
        error test.ron:3:10 copies[0].quiesce: write a service, such as Freeze("api", max: "2s")
    "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Stop(\"once\")",
        &expect![[r#"
        warning test.ron:3:10 copies[0].quiesce: "once" is no Daemon: it is waited for, not stopped and started
        accepted
    "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Stp(\"api\")",
        &expect![[r#"
        error test.ron:3:10 copies[0].quiesce: unknown word `Stp`; expected None, Freeze, Stop or Exec (did you mean Stop?)
    "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Exec()",
        &expect![[r#"
        error test.ron:3:10 copies[0].quiesce: neither `pre` nor `post`: nothing would be run (remove `quiesce`, or write Exec(pre: [..], post: [..]))
    "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nquiesce: Exec(pre: [\"dmp\"], timeout: \"2h\")",
        &expect![[r#"
        error test.ron:3:21 copies[0].quiesce.pre[0]: there is no command "dmp" in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin (write its absolute path)
        error test.ron:3:38 copies[0].quiesce.timeout: 2h is too long: no copy is made meanwhile (at most "1h")
    "#]],
    );
    found_in(
        "agent: (cgroup: Off),",
        "(name: \"a\", from: [\"/srv/a\"], to: \"/mnt/second\", every: \"1h\", quiesce: Freeze(\"api\"))",
        &expect![[r#"
            warning test.ron:1:200 copies[0].quiesce: nothing can be frozen without cgroups: copies are taken as if it was not there, and say so (set `agent.cgroup` to Auto, or use Stop or Exec)
            accepted
        "#]],
    );
}

#[test]
fn numbers_that_cannot_be() {
    found(
        "from: [\"/srv/a\"], every: \"1h\", uuid: \"abc\",\nkeep: (last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, min_keep: 0),\nmax_shrink: \"101%\", bandwidth: \"1KiB\",\nspace: (reserve: \"95%\", large: (over: \"1KiB\", keep: 2)), on_source_failing: Hold",
        &expect![[r#"
            error test.ron:2:38 copies[0].uuid: "abc" is not the UUID of a marker (write what `mainstay copies init` printed, or remove it)
            warning test.ron:3:7 copies[0].keep: no rule keeps anything: only the newest 0 stay
            error test.ron:3:71 copies[0].keep.min_keep: `min_keep` must be at least 1: the newest good copy is never removed
            error test.ron:4:13 copies[0].max_shrink: nothing shrinks by more than "100%"
            error test.ron:4:32 copies[0].bandwidth: at least "64KiB" a second (None is no limit)
            error test.ron:5:18 copies[0].space.reserve: more than "90%" of the target would be left free
            error test.ron:5:32 copies[0].space.large: `large` is for files of at least "1MiB", of which at least 1 version is kept (such as (over: "256MiB", keep: 3))
            warning test.ron:5:77 copies[0].on_source_failing: `on_source_failing` has no effect: no service has any of this in its `data` (add the source to the `data` of the service)
        "#]],
    );
    found(
        "from: [\"/srv/a\"], every: \"1h\",\nkeep: (last: 990)",
        &expect![[r#"
        error test.ron:3:7 copies[0].keep: 1031 copies would be kept; at most 1000 are possible (keep fewer of each kind)
    "#]],
    );
}

#[test]
fn an_explanation_shows_a_set() {
    let host = host();
    let text = "(services: [(name: \"api\", command: [\"true\"], data: [\"/srv/a\"])], copies: [(name: \"a\", from: [\"/srv/a\"], to: \"/mnt/second\", every: \"1h\", at: [\"02:30\"], on_change: \"5s\", quiesce: Freeze(\"api\", max: \"1s\"), bandwidth: \"1MiB\", on_source_failing: Hold)])";
    let explained = explain(&host.load_text(text).unwrap().plan);
    let from = explained.find("copies a").unwrap();
    expect![[r#"
        copies a
          from               /srv/a
          to                 /mnt/second/a
          uuid               of any marker
          when               every 1h; at 02:30 UTC; 5s after a change, 50s at the latest
          keep               10 last, 24 hourly, 7 daily, 4 weekly, 6 monthly; at least 3 good ones
          quiesce            Freeze: api is frozen, for 1s at most
          scrub_every        30d
          restore_test       7d
          max_age            3h
          max_shrink         50%: a copy that lost more is suspect
          bandwidth          1MiB a second
          space              2% and at least 512MiB stay free; then no copy is made
          read_back          Written: what is new is read again before it counts
          on_source_failing  Hold: the services are stopped until the disk is well
    "#]]
    .assert_eq(&explained[from..]);
}

#[test]
fn going_on_from_a_copy_is_looked_at_beforehand() {
    let host = host();
    let load = |uid, data: &str, set: &str| {
        let text = format!(
            "(services: [(name: \"api\", command: [\"true\"], data: [{data}])], copies: [(name: \"a\", from: [\"/srv/a\"], to: \"/mnt/second\", every: \"1h\", {set})])"
        );
        super::short(&super::load_text("test.ron", &text, &host.context(uid)), &host.root)
    };
    let restore = "on_source_failing: Restore";
    assert_eq!(load(0, "\"/srv/a\"", restore), "accepted\n");
    assert!(load(1_000, "\"/srv/a\"", restore).contains("only root can mount"));
    let linked = format!("{restore}, failover: (link: \"/srv/c/link\")");
    assert!(!load(1_000, "\"/srv/a\"", &linked).contains("only root"));
    assert!(load(0, "\"/srv/a\", \"/srv/c\"", restore).contains("is held all the same"));
    let within = format!("{restore}, failover: (link: \"/srv/a/link\")");
    assert!(load(0, "\"/srv/a\"", &within).contains("lies on a disk that it is to lead away from"));
    assert_eq!(load(0, "\"/srv/a\"", "same_disk: true"), "accepted\n");
    let beside = load(0, "\"/srv/a\"", &format!("{restore}, same_disk: true"));
    assert!(beside.contains("nothing to go on from"), "{beside}");
    assert!(load(0, "", restore).contains("`on_source_failing` has no effect"));
    host.file("/proc/self/status", 0o644, "CapPrm:\t000001ffffdfffff\n");
    let found = load(0, "\"/srv/a\"", restore);
    assert!(found.contains("without CAP_SYS_ADMIN root cannot mount"), "{found}");
    assert!(load(0, "\"/srv/a\"", "failover: (after: \"1m\")").contains("has no effect without"));
}

#[test]
fn link_that_could_not_be_switched_is_told() {
    let host = host();
    let load = || {
        let text = "(services: [(name: \"api\", command: [\"true\"], data: [\"/srv/c/link\"])], copies: [(name: \"a\", from: [\"/srv/a\"], to: \"/mnt/second\", every: \"1h\", on_source_failing: Restore, failover: (link: \"/srv/c/link\"))])";
        super::short(&super::load_text("test.ron", text, &host.context(1_000)), &host.root)
    };
    assert!(load().contains("/srv/c/link is no symbolic link: it cannot be switched"), "{}", load());
    let link = host.root.join("srv/c/link");
    let lead = |to: &str| {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(to, &link).unwrap();
        load()
    };
    let elsewhere = lead("../a");
    assert!(elsewhere.contains("leads to ../a, and not to /srv/a") && elsewhere.contains("ln -sfn /srv/a /srv/c/link"));
    for leads in ["/srv/a", "/mnt/second/a/live/000001-1/data/srv/a"] {
        let found = lead(leads);
        assert!(!found.contains("cannot be switched"), "{found}");
    }
}

#[test]
fn place_of_a_disk_that_is_not_mounted_is_what_it_is_otherwise() {
    let host = host();
    std::os::unix::fs::symlink("mnt", host.root.join("media")).unwrap();
    let load = || {
        let text = "(services: [(name: \"api\", command: [\"true\"], data: [\"/media/third/data/x\"])], copies: [(name: \"a\", from: [\"/media/third/data\"], to: \"/media/second/copies\", every: \"1h\")])";
        let plan = host.load_text(text).unwrap().plan;
        (plan.copies[0].from.clone(), plan.copies[0].to.clone(), plan.services[0].needs.clone().unwrap().data)
    };
    let absent = load();
    assert_eq!(absent.1, PathBuf::from("/mnt/second/copies"));
    for directory in ["mnt/second/copies", "mnt/third/data/x"] {
        fs::create_dir_all(host.root.join(directory)).unwrap();
    }
    assert_eq!(load(), absent);
}
