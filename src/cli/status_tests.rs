use expect_test::expect;

use super::*;
use crate::api::render;
use crate::api::route::Roles;
use crate::api::testing::{World, stamp, usage};

fn services() -> Vec<Service> {
    render::services(&World::new().views(), Roles::Hidden, &usage, &stamp()).services
}

#[test]
fn the_table_is_whole_in_a_pipe_and_fits_a_terminal() {
    expect![[r#"
        NAME   STATE    HEALTH   SINCE  RESTARTS  PID   CPU   MEM   WHY
        api/0  ready    ok       1m     2         4711  1.5%  5.0M
        api/1  backoff  failing  2s     2         -     -     -     flapping; exited with code 1; restart 3 of 10 in 800ms
        web    waiting  unknown  14s    2         -     -     -     waits for db
        db     backoff  failing  12s    2         -     -     -     exited with code 1; restart 3 of 10 in 800ms
        job    stopped  -        1d     2         -     -     -     stopped by an operator
    "#]].assert_eq(&listing(&services(), &Look::plain()));
    let narrow = listing(&services(), &Look { columns: Some(80), colour: false });
    expect![[r#"
        NAME   STATE    HEALTH   SINCE  RESTARTS  PID   CPU   MEM   WHY
        api/0  ready    ok       1m     2         4711  1.5%  5.0M
        api/1  backoff  failing  2s     2         -     -     -     flapping; exited wi~
        web    waiting  unknown  14s    2         -     -     -     waits for db
        db     backoff  failing  12s    2         -     -     -     exited with code 1;~
        job    stopped  -        1d     2         -     -     -     stopped by an opera~
    "#]]
    .assert_eq(&narrow);
    assert!(narrow.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn the_exit_code_tells_whether_all_that_is_wanted_is_well() {
    let all = services();
    assert_eq!(verdict(&all, false), Exit::NotWell);
    let stopped = select(all.clone(), &["job"]).unwrap();
    assert_eq!((verdict(&stopped, false), verdict(&stopped, true)), (Exit::Well, Exit::NotWell));
    let mut well = all[0].clone();
    well.health = "ok".into();
    assert_eq!(verdict(&[well, stopped[0].clone()], false), Exit::Well);
}

#[test]
fn names_are_found_or_refused_with_exit_code_4() {
    let chosen = select(services(), &["api/1", "db"]).unwrap();
    assert_eq!((chosen[0].replicas.len(), chosen[0].replicas[0].replica, chosen[1].name.as_str()), (1, 1, "db"));
    let refused = |name: &str| select(services(), &[name]).unwrap_err();
    assert_eq!(refused("apj").exit(), Exit::UnknownName);
    assert_eq!(refused("apj").hint(), Some("did you mean \"api\"?"));
    assert_eq!(refused("api/2").exit(), Exit::UnknownName);
}

#[test]
fn details_tell_what_the_table_has_no_room_for() {
    let world = World::new();
    let views = world.views();
    let more = render::service_detail(&views[0], &usage, &stamp());
    expect![[r#"
        api: ready, health degraded
          command   /usr/bin/api --port {port}
          replica 0: ready for 1m 21s, pid 4711, run 3, 2 restarts, port 9001
            uses 1.5% of a CPU and 5.0MB of memory
          replica 1: backoff for 2s, run 3, 2 restarts, port 9002
            last exit: SIGSEGV, core dumped at 2026-11-22T08:00:00Z
            flapping: its state changes again and again
            why: exited with code 1
            next: restart 3 of 10 in 800ms (2026-11-22T08:00:00.800Z)
    "#]]
    .assert_eq(&describe(&more.service, &more, &Look::plain()));
    let more = render::service_detail(&views[1], &usage, &stamp());
    expect![[r#"
        web: waiting, health unknown
          why       waits for db
          command   /usr/bin/web
          needs     db (requires, blocks)
          replica 0: waiting for 14s, run 3, 2 restarts
    "#]]
    .assert_eq(&describe(&more.service, &more, &Look::plain()));
}
