//! How often a copy makes the disk write down what it has in its cache: each time, everybody else on that disk waits too.

use std::fs;

use crate::bench::Bench;
use crate::faults::{has_strace, traced};

const FLUSHES_MAX: usize = 20;

/// Calls of the next copy that flush.
fn flushes(bench: &Bench) -> usize {
    let trace = bench.root.join("trace");
    let calls = ["-e", "trace=fsync,fdatasync,syncfs,sync"];
    let (status, said) = traced(bench, &calls, &trace);
    assert!(status.success() && said.contains("Taken"), "{status} {said}");
    let text = fs::read_to_string(&trace).expect("a trace");
    let calls: Vec<&str> = text.lines().filter(|line| line.contains("sync")).collect();
    assert_eq!(calls.iter().filter(|line| line.contains("syncfs(")).count(), 1, "{calls:?}");
    calls.len()
}

#[test]
fn number_of_flushes_does_not_grow_with_the_number_of_files() {
    if !has_strace() {
        return;
    }
    let bench = Bench::new();
    for number in 0..400 {
        bench.put(&format!("d{}/{number}", number % 40), format!("first {number}"));
    }
    let first = flushes(&bench);
    for number in 0..40 {
        bench.put(&format!("d{number}/{number}"), format!("second {number}"));
    }
    let second = flushes(&bench);
    assert!(first <= FLUSHES_MAX && second <= FLUSHES_MAX, "{first}, {second}");
    bench.all_verify();
}
