//! The rules of the house that no compiler knows: who may use whom, what the engine must not see, how long a file may be, and what
//! must not be left lying about. Each test names every offender with file and line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module of `src/` and what it may use of ours, beside itself. `types` alone is the engine's vocabulary: names and units, no
/// decision. A new module needs a line here.
const MAY_USE: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("sys", &[]),
    ("config", &["engine"]),
    ("checks", &["sys", "engine::types", "engine::host"]),
    ("logs", &["sys"]),
    ("proxy", &["sys", "engine::balance", "engine::types"]),
    ("copies", &["sys", "engine::types", "engine::copies"]),
    ("api", &["engine", "sys"]),
    ("sample", &["sys", "engine::types"]),
    ("runtime", &["engine", "sys", "config", "checks", "logs", "proxy", "copies", "api"]),
    ("cli", &["runtime", "engine", "sys", "config", "checks", "logs", "proxy", "copies", "api", "sample"]),
    ("main", &["cli"]),
];

/// What would make the engine depend on something other than its arguments.
const NOT_IN_ENGINE: &[&str] = &[
    "std::time::Instant",
    "SystemTime",
    "Instant::now",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "std::process",
    // Not Arc, which only shares what never changes.
    "std::sync::atomic",
    "std::sync::mpsc",
    "std::sync::{",
    "Mutex",
    "RwLock",
    "Condvar",
    "OnceLock",
    "LazyLock",
    "std::os",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "HashMap",
    "HashSet",
    "log::",
    "nix::",
    "sysinfo::",
    "crossbeam_channel",
];

const FILE_LINES_MAX: usize = 600;
const MAIN_LINES_MAX: usize = 80;

#[test]
fn modules_use_only_what_the_architecture_allows() {
    let mut offences = Vec::new();
    for file in rust_files("src") {
        let Some(module) = module_of(&file) else { continue };
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            offences.push(format!("{}: module {module} has no rule in tests/tidy.rs", file.display()));
            continue;
        };
        for (line, used) in uses(&file) {
            let top = used.split("::").next().unwrap_or_default();
            let known = MAY_USE.iter().any(|(name, _)| *name == top);
            let fits = |rule: &str| used == rule || used.starts_with(&format!("{rule}::"));
            if known && top != module && !allowed.iter().any(|rule| fits(rule)) {
                offences.push(format!("{}:{line}: {module} must not use {used}", file.display()));
            }
        }
    }
    none(&offences);
}

#[test]
fn engine_sees_nothing_but_its_arguments() {
    let mut offences = Vec::new();
    for file in rust_files("src/engine") {
        for (number, line) in code_lines(&file) {
            for word in NOT_IN_ENGINE.iter().filter(|word| has_path(&line, word)) {
                offences.push(format!("{}:{number}: {word}", file.display()));
            }
        }
    }
    none(&offences);
}

#[test]
fn unsafe_code_is_in_sys() {
    let words = [concat!("unsafe", " {"), concat!("unsafe", " fn"), concat!("unsafe", " impl")];
    let mut offences = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        if file.starts_with("src/sys") {
            continue;
        }
        for (number, line) in code_lines(&file) {
            if words.iter().any(|word| line.contains(word)) {
                offences.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    none(&offences);
}

#[test]
fn files_are_short() {
    let mut offences = Vec::new();
    for file in rust_files("src") {
        let limit = if file == Path::new("src/main.rs") { MAIN_LINES_MAX } else { FILE_LINES_MAX };
        let lines = without_tests(&read(&file)).lines().count();
        if lines > limit {
            offences.push(format!(
                "{}: {lines} lines without its tests, {limit} are the limit: split it by concern",
                file.display()
            ));
        }
    }
    none(&offences);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, or this file would be its own first offender.
    let words = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore"), concat!("db", "g!(")];
    let mut offences = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        for (number, line) in read(&file).lines().enumerate() {
            // A program that a test starts in a process of its own is none that was put off.
            let helper = line.trim() == concat!("#[ig", "nore = \"started by other tests\"]");
            for word in words.iter().filter(|word| line.contains(**word) && !helper) {
                offences.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    none(&offences);
}

#[test]
fn every_example_configuration_is_explained() {
    let mut texts = String::new();
    for file in tracked_files() {
        if file.extension().is_some_and(|extension| extension == "md") {
            texts.push_str(&read(&file));
        }
    }
    let offences: Vec<String> = tracked_files()
        .iter()
        .filter(|file| file.starts_with("configs") && file.extension().is_some_and(|extension| extension == "ron"))
        .filter(|file| !texts.contains(&file.display().to_string()))
        .map(|file| format!("{}: no page mentions it", file.display()))
        .collect();
    none(&offences);
}

#[test]
fn nothing_points_to_the_machine_it_was_written_on() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/."),
        concat!("crates", ".io"),
        concat!("deb.deb", "ian.org"),
        concat!("py", "pi.org"),
        concat!("npm", "js.org"),
    ];
    let mut offences = Vec::new();
    for file in tracked_files() {
        // Cargo writes the registry's name into its lock file by itself.
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        if file.file_name().is_some_and(|name| name == "Cargo.lock") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    none(&offences);
}

#[test]
fn shell_scripts_parse() {
    let mut offences = Vec::new();
    let mut scripts = 0;
    for file in tracked_files() {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        let first = text.lines().next().unwrap_or_default();
        let by_name =
            file.extension().is_some_and(|extension| extension == "sh") || file.starts_with("tests/vm/services");
        let by_shebang = first.starts_with("#!") && first.trim_end().ends_with("sh");
        if !by_name && !by_shebang {
            continue;
        }
        scripts += 1;
        let output = Command::new("bash").arg("-n").arg(root().join(&file)).output().expect("bash runs");
        if !output.status.success() {
            offences.push(format!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    assert!(scripts >= 2, "only {scripts} scripts found: the search is wrong");
    none(&offences);
}

#[test]
fn ci_runs_the_one_command_and_nothing_else() {
    let text = read(Path::new(".ci/run"));
    let commands: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
    assert_eq!(commands, ["cd \"$(dirname \"$0\")/..\" && exec bash tests/run"]);
}

#[test]
fn unit_files_keep_what_survival_depends_on() {
    let agent = read(Path::new("systemd/mainstay.service"));
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "KillMode=process",
        "Delegate=yes",
        "RuntimeDirectoryPreserve=yes",
        "OOMScoreAdjust=-900",
        "TasksMax=infinity",
        "Wants=mainstay-services.service",
    ] {
        assert!(agent.lines().any(|own| own == line), "mainstay.service lacks {line}");
    }
    let groups = read(Path::new("systemd/mainstay-services.service"));
    for line in ["Delegate=yes", "RemainAfterExit=yes", "TasksMax=infinity", "OOMPolicy=continue"] {
        assert!(groups.lines().any(|own| own == line), "mainstay-services.service lacks {line}");
    }
    for binding in ["PartOf=", "BindsTo=", "Requires=", "Requisite="] {
        let bound = groups.lines().any(|own| own.starts_with(binding));
        assert!(
            !bound,
            "{binding} in mainstay-services.service: the automatic restart of a dead agent would kill the services"
        );
    }
}

#[test]
fn reading_code_finds_what_it_should() {
    let text = "use crate::{engine::{types, Plan}, sys::files};\nlet a = super::super::logs::X; // crate::api\nuse crate::logs;\n";
    let found: Vec<String> = uses_in(text, 2).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(found, ["1 engine::types", "1 engine::Plan", "1 sys::files", "2 logs::X", "3 logs"]);
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n    b\n}\n"), "a\n");
    assert!(has_path("use std::io;", "std::io") && !has_path("catalog::x", "log::"));
}

// ---- reading the tree

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn none(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// All files below a folder of the repository, relative to it, in order.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(root().join(folder)) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let path = if folder.as_os_str().is_empty() { PathBuf::from(&name) } else { folder.join(&name) };
        let Ok(kind) = entry.file_type() else { continue };
        let private = matches!(name.to_str(), Some(".git" | "target" | ".tests"));
        if kind.is_dir() && !private {
            files_below(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files_below(Path::new(folder), &mut found);
    found.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    found
}

/// What git knows; where there is no git, whatever lies here.
fn tracked_files() -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => output
            .stdout
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
            .filter(|file| root().join(file).is_file())
            .collect(),
        _ => {
            let mut found = Vec::new();
            files_below(Path::new(""), &mut found);
            found
        }
    }
}

// ---- reading code

/// `src/engine/plan.rs` is of module `engine`, `src/main.rs` of `main`; `src/lib.rs` is of none.
fn module_of(file: &Path) -> Option<String> {
    let first = file.strip_prefix("src").ok()?.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then(|| name.to_owned())
}

/// The text before the tests at a file's end; nothing of a file that is all tests.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next_is_tests = lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if line.starts_with("#[cfg(test)]") && next_is_tests {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Numbered lines without comments and tests. A `//` inside a string ends the line too early, which only makes us blind there.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if name == "tests"
        || name.ends_with("_tests")
        || file.components().any(|part| part.as_os_str() == "tests" && !file.starts_with("tests"))
    {
        return Vec::new();
    }
    strip(&without_tests(&read(file)))
}

fn strip(text: &str) -> Vec<(usize, String)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().to_owned()))
        .collect()
}

/// Whether `path` stands in the line as a path of its own, not as the end of a longer name.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

fn uses(file: &Path) -> Vec<(usize, String)> {
    // Depth of the module below the crate: `src/a.rs` and `src/a/mod.rs` 1, `src/a/b.rs` 2.
    let parts = file.components().count() - 1;
    let depth = if file.ends_with("mod.rs") { parts - 1 } else { parts };
    let code = code_lines(file).into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    uses_in(&code, depth)
}

/// Every path of ours that the code names, with its line: `crate::a::b`, the members of `crate::{...}`, `mainstay::a` in a program, and
/// chains of `super` that reach the crate's root.
fn uses_in(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut text = String::new();
    for (_, line) in strip(code) {
        text.push_str(&line);
        text.push('\n');
    }
    let supers = "super::".repeat(depth);
    for start in ["crate::", "mainstay::", supers.as_str()] {
        for (at, _) in text.match_indices(start) {
            let before = &text[..at];
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let begin = at + start.len();
            collect_paths(&text[begin..], begin, "", &mut |at, path| found.push((at, path.to_owned())));
        }
    }
    found.sort();
    found.into_iter().map(|(at, path)| (text[..at].matches('\n').count() + 1, path)).collect()
}

/// Reads `a::b` or `{a::{b, c}, d}` from the start of `text`, which begins at `at` of the whole; reports the place and at most the first
/// two names of each path. Returns how many bytes were read.
fn collect_paths(text: &str, at: usize, prefix: &str, found: &mut dyn FnMut(usize, &str)) -> usize {
    if let Some(list) = text.strip_prefix('{') {
        let mut read = 0;
        loop {
            read += list[read..].len() - list[read..].trim_start_matches([' ', '\n', '\t', ',']).len();
            let length = collect_paths(&list[read..], at + 1 + read, prefix, found);
            if length == 0 {
                // The closing brace, or something that is no list of paths.
                return (read + 2).min(text.len());
            }
            read += length;
        }
    }
    let length = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let name = &text[..length];
    if name.is_empty() {
        return 0;
    }
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    let Some(rest) = text[length..].strip_prefix("::") else {
        found(at, &path);
        return length;
    };
    if prefix.is_empty() {
        return length + 2 + collect_paths(rest, at + length + 2, &path, found);
    }
    found(at, &path);
    length + 2 + collect_paths(rest, at + length + 2, &path, &mut |_, _| ())
}
