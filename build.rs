//! When this binary was made, for the clock guard of copies: a clock that is before that is wrong.
//!
//! `SOURCE_DATE_EPOCH` if it is given, else, of a release build, the date of the commit: the same source gives the same binary. 0, of which nothing
//! follows: neither is known, or it is a build of a developer, which need not be made anew with every commit.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let built = given.or_else(|| if is_release { commit_date() } else { None }).unwrap_or(0);
    println!("cargo:rustc-env=MAINSTAY_BUILT_S={built}");
}

/// Seconds since 1970.
fn commit_date() -> Option<u64> {
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["log", "-1", "--format=%ct"])?.parse().ok()
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
