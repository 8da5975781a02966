//! People who read: the past, the present, and where they meet.

use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mainstay::logs::proto::{LogLine, Serve, Settings, StreamFilter, ToLogs};

use crate::harness::{PLENTY, Role, all_of, eventually, past, present, write_lines};

#[test]
fn followers_of_two_streams_get_every_line_once_wherever_they_begin() {
    let role = Role::start("two");
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for index in 0..2 {
        // Small files: followers also meet rotations.
        let (_, mut pipe) =
            role.stream("api", index, Settings { max_size_bytes: 64 << 10, keep: 1_000, lines_per_second: None });
        let stop = Arc::clone(&stop);
        writers.push(std::thread::spawn(move || {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                // Halves of lines, so that a follower begins within one now and then.
                let text = format!("{number:0100}\n");
                pipe.write_all(&text.as_bytes()[..40]).unwrap();
                pipe.write_all(&text.as_bytes()[40..]).unwrap();
                number += 1;
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }));
    }
    for _ in 0..10 {
        let reader = role.agent.serve(present(vec![all_of("api")], None));
        let mut next = [0_u64; 2];
        for line in reader.lines() {
            let line = line.unwrap();
            let line: LogLine = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            let expected = &mut next[usize::from(line.replica)];
            assert_eq!(line.line.parse::<u64>().unwrap(), *expected, "replica {}", line.replica);
            *expected += 1;
            if next.iter().all(|next| *next > 0) && next.iter().sum::<u64>() % 400 == 399 {
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    role.quit();
}

#[test]
fn the_past_is_merged_by_time_and_cut_to_its_tail() {
    let mut role = Role::start("past");
    let (first, mut pipe) = role.stream("api", 0, PLENTY);
    let (second, mut other) = role.stream("api", 1, PLENTY);
    for number in 0..3 {
        write_lines(&mut pipe, number, 1);
        role.agent.end(&first, 1);
        std::thread::sleep(std::time::Duration::from_millis(1_010));
        write_lines(&mut other, 10 + number, 1);
        role.agent.end(&second, 1);
        std::thread::sleep(std::time::Duration::from_millis(1_010));
    }
    let numbers = |lines: Vec<LogLine>| -> Vec<u64> { lines.iter().map(|line| line.line.parse().unwrap()).collect() };
    let lines = role.agent.lines(past(vec![all_of("api")], None));
    let middle = lines[3].at.clone();
    assert_eq!(numbers(lines), vec![0, 10, 1, 11, 2, 12]);
    assert_eq!(numbers(role.agent.lines(past(vec![all_of("api")], Some(3)))), vec![11, 2, 12]);
    let only = StreamFilter { service: "api".into(), index: Some(1) };
    assert_eq!(numbers(role.agent.lines(past(vec![only], Some(2)))), vec![11, 12]);
    let since_unix_ms = Some(unix_ms(&middle));
    let since = Serve::Logs { streams: vec![all_of("api")], tail: None, since_unix_ms, follow: false };
    let since = numbers(role.agent.lines(since));
    assert!(since.ends_with(&[11, 2, 12]) && since.len() <= 4, "{since:?}");
    // A replica that is not watched any more still has its past.
    role.agent.send(&ToLogs::Unwatch { stream: first });
    assert_eq!(role.agent.lines(past(vec![all_of("api")], None)).len(), 6);
    assert!(role.agent.lines(past(vec![all_of("nobody")], None)).is_empty());
}

/// Within the day of the test, which is enough to compare.
fn unix_ms(at: &str) -> u64 {
    let output = std::process::Command::new("date").args(["-u", "+%s%3N", "-d", at]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn events_are_told_from_a_number_on_and_followed() {
    let role = Role::start("events");
    let entry = |seq: u64| ToLogs::Journal {
        seq,
        line: format!(r#"{{"seq":{seq},"at":"2026-11-22T08:00:{:02}.000Z","type":"x"}}"#, seq % 60),
    };
    for seq in 1..=50 {
        role.agent.send(&entry(seq));
    }
    let events = |since_seq, since_unix_ms, tail, follow| Serve::Events { since_seq, since_unix_ms, tail, follow };
    let seqs = |reader: std::io::BufReader<std::os::unix::net::UnixStream>, count: usize| -> Vec<u64> {
        let lines = reader.lines().take(count);
        let seq = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap()["seq"].as_u64().unwrap();
        lines.map(|line| seq(line.unwrap())).collect()
    };
    assert_eq!(seqs(role.agent.serve(events(Some(47), None, None, false)), 99), vec![48, 49, 50]);
    assert_eq!(seqs(role.agent.serve(events(None, None, Some(2), false)), 99), vec![49, 50]);
    let since = Some(unix_ms("2026-11-22T08:00:49Z"));
    assert_eq!(seqs(role.agent.serve(events(None, since, None, false)), 99), vec![49, 50]);
    let follower = role.agent.serve(events(Some(48), None, None, true));
    for seq in 51..=60 {
        role.agent.send(&entry(seq));
    }
    assert_eq!(seqs(follower, 12), (49..=60).collect::<Vec<u64>>());
}

#[test]
fn a_reader_that_does_not_keep_up_is_told_and_dropped() {
    let mut role = Role::start("lagged");
    let (api, mut pipe) = role.stream("api", 0, PLENTY);
    let slow = role.agent.serve(present(vec![all_of("api")], None));
    let mut quick = role.agent.serve(present(vec![all_of("api")], None));
    let read = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&read);
    let reading = std::thread::spawn(move || {
        let mut line = String::new();
        while count.load(Ordering::Acquire) < 20_000 {
            line.clear();
            assert!(quick.read_line(&mut line).unwrap() > 0);
            count.fetch_add(1, Ordering::Release);
        }
    });
    // The quick one is given the time it needs, the slow one never reads.
    for piece in 0..200 {
        write_lines(&mut pipe, piece * 100, 100);
        eventually("the quick reader", || reading.is_finished() || read.load(Ordering::Acquire) >= piece * 100);
    }
    reading.join().unwrap();
    role.agent.end(&api, 1);
    let mut text = String::new();
    slow.into_inner().read_to_string(&mut text).unwrap();
    let (lines, last) = text.trim_end().rsplit_once('\n').unwrap();
    let missed = serde_json::from_str::<serde_json::Value>(last).unwrap();
    assert_eq!(missed["type"], "lagged");
    let missed = missed["missed"].as_u64().unwrap();
    let got = lines.lines().count() as u64;
    assert!(missed > 0 && got + missed <= 20_000, "{got} {missed}");
}

#[test]
fn readers_are_limited_and_one_that_left_makes_room() {
    let role = Role::start("limit");
    let (_, _pipe) = role.stream("api", 0, PLENTY);
    let mut readers: Vec<_> = (0..32).map(|_| role.agent.serve(present(vec![all_of("api")], Some(0)))).collect();
    let mut refused = String::new();
    role.agent.serve(present(vec![all_of("api")], Some(0))).read_to_string(&mut refused).unwrap();
    assert!(refused.contains("\"type\":\"refused\""), "{refused}");
    readers.pop();
    eventually("room for another reader", || {
        let mut text = String::new();
        role.agent.serve(past(vec![all_of("api")], None)).read_to_string(&mut text).unwrap();
        text.is_empty()
    });
}
