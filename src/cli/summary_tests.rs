use expect_test::expect;

use super::*;
use crate::api::render;
use crate::api::route::Roles;
use crate::api::testing::{World, balancers, check_views, stamp, usage};

fn events() -> Vec<Event> {
    let event = |seq: u64, text: &str| Event {
        seq,
        at: "2026-11-22T08:00:00.125Z".to_owned(),
        level: "warn".into(),
        kind: "ended".into(),
        service: Some("db".to_owned()),
        replica: Some(0),
        text: text.to_owned(),
        caller: None,
        detail: None,
    };
    (0..7)
        .map(|seq| event(seq, "exited with code 1 after 1.5s; restart 2 of 10 in 800ms, which nobody wanted"))
        .collect()
}

fn services() -> Vec<Service> {
    render::services(&World::new().views(), Roles::Hidden, &usage, &stamp()).services
}

fn checks() -> Vec<Check> {
    crate::api::checks::checks(&check_views(), &stamp()).checks
}

fn told_by(services: Vec<Service>, balancers: &[Balancer], checks: &[Check], events: &[Event], look: &Look) -> String {
    screen("edge-7 up 3d 2h", Told { services, balancers, checks, copies: &[], events }, look)
}

#[test]
fn what_is_wrong_with_the_host_is_told_above_the_services() {
    let told = told_by(Vec::new(), &[], &checks(), &[], &Look::plain());
    expect![[r#"
        edge-7 up 3d 2h
        host: disk_hung sda failing: 2 requests stand still for 12s
        host: root degraded: 91.1 % used, 1.3 GiB left
        0 services: 0 well, 0 not well, 0 stopped

        NAME  STATE  HEALTH  SINCE  RESTARTS  PID  CPU  MEM  WHY
    "#]]
    .assert_eq(&told);
    let told = told_by(Vec::new(), &[], &checks()[2..4], &[], &Look::plain());
    assert!(told.contains("0 stopped; 2 checks well"), "{told}");
}

#[test]
fn what_is_wrong_comes_first() {
    let screen = told_by(services(), &balancers(), &[], &events()[..2], &Look::plain());
    expect![[r#"
        edge-7 up 3d 2h
        4 services: 0 well, 3 not well, 1 stopped; not well: balancer front

        NAME   STATE    HEALTH   SINCE  RESTARTS  PID   CPU   MEM   WHY
        api/0  ready    ok       1m     2         4711  1.5%  5.0M
        api/1  backoff  failing  2s     2         -     -     -     flapping; exited wi~
        web    waiting  unknown  14s    2         -     -     -     waits for db
        db     backoff  failing  12s    2         -     -     -     exited with code 1;~
        job    stopped  -        1d     2         -     -     -     stopped by an opera~

        2026-11-22T08:00:00.125Z warn  db/0: exited with code 1 after 1.5s; restart 2 o~
        2026-11-22T08:00:00.125Z warn  db/0: exited with code 1 after 1.5s; restart 2 o~
    "#]]
    .assert_eq(&screen);
}

#[test]
fn a_large_host_still_fits_80_by_24() {
    let many: Vec<Service> = services().into_iter().cycle().take(1_000).collect();
    let checks: Vec<Check> = checks().into_iter().cycle().take(50).collect();
    let events = events();
    let told = Told { services: many, balancers: &[], checks: &checks, copies: &[], events: &events };
    let screen = screen(&"host ".repeat(40), told, &Look { columns: Some(200), colour: false });
    assert_eq!(screen.lines().count(), LINES - 1, "the prompt is the last line");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(screen.contains("1000 services: 0 well, 750 not well, 250 stopped\n"), "{screen}");
}
