use std::time::{Duration, Instant};

use super::*;
use crate::engine::event::Event;
use crate::engine::host::HostMemory;
use crate::engine::host::sample::{Devices, Disk, Mount};
use crate::engine::host::watch::Helper;
use crate::engine::plan::{CgroupPlan, ServicePlan};
use crate::runtime::shell::Directories;
use crate::runtime::{now, start};
use crate::sys::packet::{PacketListener, PacketSocket, Received};
use crate::sys::testing::TempDir;

const ROLE: Role = Role::Disk(5);

/// A shell, an engine that knows one helper, and the helper's listening socket.
fn scene(directory: &TempDir) -> (Shell, Engine, PacketListener) {
    let here = || directory.path().to_owned();
    std::fs::create_dir(directory.path().join("roles")).unwrap();
    let directories = Directories { run: here(), state: here(), log: here() };
    let (shell, _) = start::make_shell(directories, &CgroupPlan::Off, 0).unwrap();
    let mut plan = Plan { helper: Some(Box::new(ServicePlan::with_defaults("@disk", &[]))), ..Plan::default() };
    plan.agent.default_checks = true;
    let disk = Disk { name: "sda".to_owned(), ..Disk::default() };
    let root =
        Mount { point: "/".to_owned(), fs_type: "ext4".to_owned(), disk: Some("sda".to_owned()), ..Mount::default() };
    let devices = Devices { disks: vec![disk], mounts: vec![root], nics: Vec::new() };
    let helper =
        Helper { service: "@disk.sda".to_owned(), slot: 5, disk: Some("sda".to_owned()), mounts: vec!["/".to_owned()] };
    let host = HostMemory { devices: Some(devices), helpers: vec![helper], ..HostMemory::default() };
    let mut engine = Engine::new(plan, 1, now());
    engine.step(
        now(),
        Event::Begin {
            found: Vec::new(),
            decisions: Vec::new(),
            host: Some(Box::new(host)),
            fences: None,
            tables: None,
        },
    );
    let listener = PacketListener::bind(&socket_path(&shell, ROLE), 0o600).unwrap();
    (shell, engine, listener)
}

fn linked(shell: &mut Shell) -> Vec<bool> {
    let is_linked = |event: Event| match event {
        Event::Host(event) => match *event {
            HostEvent::Linked { role: ROLE, connected } => Some(connected),
            _ => None,
        },
        _ => None,
    };
    std::mem::take(&mut shell.events).into_iter().filter_map(is_linked).collect()
}

/// What the helper has been told, by the first word of each message.
fn heard(helper: &PacketSocket) -> Vec<String> {
    let (mut buffer, mut words) = (Vec::new(), Vec::new());
    while let Ok(Received::Message { .. }) = helper.receive(&mut buffer) {
        let message: serde_json::Value = serde_json::from_slice(&buffer).unwrap();
        words.push(message["type"].as_str().unwrap().to_owned());
    }
    words
}

#[test]
fn helper_that_accepts_nobody_keeps_nobody_waiting_and_is_not_taken_for_one_that_answers() {
    let directory = TempDir::new();
    let (mut shell, engine, listener) = scene(&directory);
    let began = Instant::now();
    let connected = (0..100).filter(|_| connect(&mut shell, &engine, ROLE)).count();
    assert!((1..100).contains(&connected), "its queue takes {connected}");
    for _ in 0..100 {
        watch(&mut shell, &engine, ROLE);
        look_after(&mut shell, &engine, ROLE);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(linked(&mut shell).is_empty());

    // It comes back: those who have given up have left, and the newest counts.
    while listener.accept().unwrap().is_some() {}
    assert!(connect(&mut shell, &engine, ROLE));
    look_after(&mut shell, &engine, ROLE);
    let helper = listener.accept().unwrap().unwrap();
    assert_eq!(heard(&helper), ["hello", "watch"]);
    assert!(linked(&mut shell).is_empty());
    helper.send(&serde_json::to_vec(&FromChecks::Hello { pid: 1 }).unwrap(), &[]).unwrap();
    turn(&mut shell, &engine, ROLE);
    assert_eq!(linked(&mut shell), [true]);
    drop(helper);
    turn(&mut shell, &engine, ROLE);
    assert_eq!(linked(&mut shell), [false]);
    assert_eq!(shell.lost_links, [ROLE]);
}

#[test]
fn link_of_a_helper_goes_with_its_helper() {
    let directory = TempDir::new();
    let (mut shell, engine, listener) = scene(&directory);
    assert!(is_wanted(&engine, ROLE) && !is_wanted(&engine, Role::Disk(4)));
    assert!(connect(&mut shell, &engine, ROLE));
    drop_links_of_the_gone(&mut shell, &engine);
    assert!(shell.helpers.contains_key(&ROLE));
    let without = Engine::new(Plan::default(), 1, now());
    drop_links_of_the_gone(&mut shell, &without);
    assert!(shell.helpers.is_empty());
    drop(listener);
}
