//! What the agent orders.

use std::fs;
use std::io::Write;

use mainstay::logs::proto::{FromLogs, Settings, ToLogs};
use mainstay::logs::{last_seq, read_decisions};

use crate::harness::{Agent, Dirs, PLENTY, Role, all_of, past, stream, write_lines};

#[test]
fn bytes_written_while_nobody_read_arrive() {
    let dirs = Dirs::new("nobody");
    let api = stream("api", 0);
    let mut pipe = dirs.pipe(&api);
    pipe.write_all(&[b'x'; 33_000]).unwrap();
    let mut role = Role::start_in(dirs);
    role.agent.watch(&role.dirs, &api, PLENTY);
    role.agent.begin(&api, 1, None);
    role.agent.end(&api, 1);
    let dirs = role.quit();
    assert_eq!(dirs.output(&api), "x".repeat(33_000) + "\n");
}

#[test]
fn the_last_words_of_a_crash_are_in_the_answer_and_in_the_file() {
    let mut role = Role::start("last-words");
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    for line in 0..20 {
        writeln!(pipe, "line {line}").unwrap();
    }
    pipe.write_all(b"panic: \xff no newline").unwrap();
    let tail = role.agent.end(&api, 1);
    assert_eq!(tail.len(), 10);
    assert_eq!((tail[0].as_str(), tail[9].as_str()), ("line 11", "panic: \u{fffd} no newline"));
    // A repeated question has the same answer; one about an unknown stream or run has an empty one.
    assert_eq!(role.agent.end(&api, 1), tail);
    assert!(role.agent.end(&api, 7).is_empty());
    assert!(role.agent.end(&stream("nobody", 3), 1).is_empty());
    role.agent.begin(&api, 2, None);
    pipe.write_all(b"again\n").unwrap();
    assert_eq!(role.agent.end(&api, 2), vec!["again"]);
    let lines = role.agent.lines(past(vec![all_of("api")], Some(2)));
    let lines: Vec<&str> = lines.iter().map(|line| line.line.as_str()).collect();
    assert_eq!(lines, vec!["panic: \u{fffd} no newline", "again"]);
}

#[test]
fn a_ready_text_matches_once_in_its_run_even_when_it_is_cut() {
    let mut role = Role::start("ready");
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    let matched = |message: &FromLogs| match message {
        FromLogs::Matched { run, .. } => Some(*run),
        _ => None,
    };
    pipe.write_all(b"listening on 1\n").unwrap();
    role.agent.end(&api, 1);
    role.agent.begin(&api, 2, Some("listening on"));
    pipe.write_all(b"still liste").unwrap();
    role.agent.begin(&api, 2, Some("listening on"));
    role.agent.end(&stream("fence", 0), 0);
    pipe.write_all(b"ning on 2").unwrap();
    assert_eq!(role.agent.find(matched), 2);
    // A new agent that repeats the order hears of it again, although nothing more was said.
    role.agent = Agent::connect(&role.dirs.root);
    role.agent.begin(&api, 2, Some("listening on"));
    assert_eq!(role.agent.find(matched), 2);
}

#[test]
fn a_process_that_speaks_before_its_order_is_heard_is_heard() {
    let mut role = Role::start("early");
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    for run in 1..200 {
        role.agent.end(&api, run);
        // The role may read this before or after the order.
        pipe.write_all(b"ready\n").unwrap();
        role.agent.begin(&api, run + 1, Some("ready"));
        role.agent.find(|message| matches!(message, FromLogs::Matched { run: of, .. } if *of == run + 1).then_some(()));
    }
}

#[test]
fn a_role_that_takes_over_in_the_midst_of_a_run_finds_its_ready_text() {
    let dirs = Dirs::new("midst");
    let api = stream("api", 0);
    let mut pipe = dirs.pipe(&api);
    pipe.write_all(b"ready\n").unwrap();
    let mut role = Role::start_in(dirs);
    role.agent.watch(&role.dirs, &api, PLENTY);
    role.agent.begin(&api, 9, Some("ready"));
    role.agent.find(|message| matches!(message, FromLogs::Matched { run: 9, .. }).then_some(()));
}

#[test]
fn a_match_while_no_agent_lives_is_told_to_the_next() {
    let mut role = Role::start("no-agent");
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    role.agent.end(&api, 1);
    role.agent.begin(&api, 2, Some("ready"));
    role.agent.hang_up();
    pipe.write_all(b"ready\n").unwrap();
    role.agent = Agent::connect(&role.dirs.root);
    role.agent.find(|message| matches!(message, FromLogs::Matched { run: 2, .. }).then_some(()));
}

#[test]
fn the_newest_agent_is_obeyed_after_what_the_former_still_said() {
    let role = Role::start("newest");
    for seq in 1..=500 {
        role.agent.send(&ToLogs::Journal { seq, line: format!(r#"{{"seq":{seq},"type":"x"}}"#) });
    }
    let next = Agent::connect(&role.dirs.root);
    assert!(role.agent.is_closed());
    assert_eq!(next.last_seq, 500);
}

#[test]
fn a_stranger_that_does_not_say_hello_is_sent_away() {
    let mut role = Role::start("stranger");
    let path = mainstay::logs::socket_path(&role.dirs.root.join("run"));
    let stranger = mainstay::sys::packet::PacketSocket::connect(&path).unwrap();
    assert!(stranger.send(&serde_json::to_vec(&ToLogs::Quit).unwrap(), &[]).unwrap());
    role.agent.end(&stream("still", 0), 1);
}

#[test]
fn kept_descriptors_outlive_the_agent() {
    let mut role = Role::start("keep");
    let (reader, writer) = std::io::pipe().unwrap();
    role.agent.send_with(&ToLogs::Keep { key: "listen:a".into() }, &[&reader]);
    role.agent.send_with(&ToLogs::Keep { key: "notify:b".into() }, &[&writer, &reader]);
    role.agent.send(&ToLogs::Keep { key: "gone".into() });
    role.agent.send(&ToLogs::Drop { key: "gone".into() });
    drop((reader, writer));
    for _ in 0..3 {
        role.agent = Agent::connect(&role.dirs.root);
        role.agent.send(&ToLogs::Claim);
        let mut kept = Vec::new();
        loop {
            match role.agent.receive(crate::harness::PATIENCE) {
                Some((FromLogs::Kept { key }, fds)) => kept.push((key, fds)),
                Some((FromLogs::KeptAll, _)) => break,
                other => panic!("unexpected: {other:?}"),
            }
        }
        let keys: Vec<(&str, usize)> = kept.iter().map(|(key, fds)| (key.as_str(), fds.len())).collect();
        assert_eq!(keys, vec![("listen:a", 1), ("notify:b", 2)]);
        let writer = fs::File::from(kept.remove(1).1.remove(0));
        (&writer).write_all(b"x").unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut fs::File::from(kept.remove(0).1.remove(0)), &mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }
}

#[test]
fn decisions_are_on_disk_when_they_are_confirmed_and_survive() {
    let mut role = Role::start("decisions");
    let persisted = |wanted: u64| {
        move |message: &FromLogs| match message {
            FromLogs::Persisted { decision, error } if *decision == wanted => Some(error.clone()),
            _ => None,
        }
    };
    let decide = |decision, key: &str, content: Option<&str>| ToLogs::Decide {
        decision,
        key: key.into(),
        content: content.map(str::to_owned),
    };
    role.agent.send(&decide(1, "stop:api", Some(r#"{"wanted":false}"#)));
    role.agent.send(&decide(2, "drain:api/1", Some("{}")));
    assert_eq!(role.agent.find(persisted(1)), None);
    assert_eq!(role.agent.find(persisted(2)), None);
    let stored = read_decisions(&role.dirs.state()).unwrap();
    assert_eq!(stored, vec![("drain:api/1".into(), "{}".into()), ("stop:api".into(), r#"{"wanted":false}"#.into())]);
    role.agent.send(&decide(3, "stop:api", None));
    assert_eq!(role.agent.find(persisted(3)), None);
    let mut role = Role::start_in(role.quit());
    role.agent.send(&decide(4, "pin:api", Some("7")));
    assert_eq!(role.agent.find(persisted(4)), None);
    let keys: Vec<String> = read_decisions(&role.dirs.state()).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, vec!["drain:api/1", "pin:api"]);
    let dirs = role.quit();
    fs::write(dirs.state().join("decisions.json"), "{half").unwrap();
    assert!(read_decisions(&dirs.state()).is_err());
    let mut role = Role::start_in(dirs);
    role.agent.find(|message| {
        matches!(message, FromLogs::Trouble { text } if text.contains("decisions.json.unreadable")).then_some(())
    });
    assert_eq!(fs::read_to_string(role.dirs.state().join("decisions.json.unreadable")).unwrap(), "{half");
}

#[test]
fn the_journal_goes_on_where_it_was_and_the_agents_lines_have_a_file() {
    let role = Role::start("journal");
    let entry = |seq: u64| ToLogs::Journal { seq, line: format!(r#"{{"seq":{seq},"level":"info","type":"x"}}"#) };
    for seq in 1..=3 {
        role.agent.send(&entry(seq));
    }
    role.agent.send(&ToLogs::AgentLine { line: "the agent speaks".into() });
    let dirs = role.quit();
    assert_eq!(last_seq(&dirs.state()), 3);
    assert_eq!(fs::read_to_string(dirs.log().join("mainstay.log")).unwrap(), "the agent speaks\n");
    let mut file = fs::OpenOptions::new().append(true).open(dirs.state().join("events.ndjson")).unwrap();
    file.write_all(br#"{"seq":4,"level":"in"#).unwrap();
    let role = Role::start_in(dirs);
    assert_eq!(role.agent.last_seq, 3);
    role.agent.send(&entry(4));
    let dirs = role.quit();
    assert_eq!(last_seq(&dirs.state()), 4);
    let text = fs::read_to_string(dirs.state().join("events.ndjson")).unwrap();
    assert_eq!(text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count(), 4);
    assert_eq!(text.lines().count(), 5);
}

#[test]
fn a_rate_guard_drops_whole_lines_and_says_how_many() {
    let mut role = Role::start("guard");
    let (api, mut pipe) = role.stream("api", 0, Settings { lines_per_second: Some(100), ..PLENTY });
    write_lines(&mut pipe, 0, 1_000);
    let (mut lost, mut reasons) = (0, Vec::new());
    while lost < 850 {
        lost += role
            .agent
            .find(|message| match message {
                FromLogs::Dropped { lines, reason, .. } => Some((*lines, reason.clone())),
                _ => None,
            })
            .0;
        reasons.push(lost);
    }
    write_lines(&mut pipe, 1_000, 1);
    role.agent.end(&api, 1);
    let output = role.quit().output(&api);
    let passed = output.lines().filter(|line| line.len() == 127).count() as u64;
    assert_eq!(passed + lost, 1_001, "{reasons:?}");
    assert!(output.contains("lines dropped (rate guard: more than 100 lines a second)\n"), "{output}");
}

#[test]
fn rotation_under_load_loses_no_byte() {
    let mut role = Role::start("load");
    let (api, mut pipe) =
        role.stream("api", 0, Settings { max_size_bytes: 1 << 20, keep: 200, lines_per_second: None });
    let count = 400_000;
    write_lines(&mut pipe, 0, count);
    role.agent.end(&api, 1);
    let dirs = role.quit();
    let output = dirs.output(&api);
    assert_eq!(output.len() as u64, count * 128);
    for (number, line) in output.lines().enumerate() {
        assert_eq!(line.parse::<usize>().unwrap(), number);
    }
    assert!(fs::read_dir(dirs.log()).unwrap().count() > 48);
    assert!(fs::read_dir(dirs.log()).unwrap().all(|file| file.unwrap().metadata().unwrap().len() <= 1 << 20));
}
