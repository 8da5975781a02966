//! The environment of a service: `env`, and the file of variables below it.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::files::read_text;
use super::super::report::Item;
use super::super::schema::Service;
use super::{Scope, no_zero_byte};
use crate::engine::plan::User;

/// A file of variables of more bytes is refused.
const ENV_FILE_BYTES_MAX: u64 = 64 << 10;
/// Set by the agent for each start.
const RESERVED: [&str; 6] =
    ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "MAINSTAY_RUN", "NOTIFY_SOCKET", "WATCHDOG_USEC"];

/// `env` over `env_file`.
pub(super) fn env(item: &Item, service: &Service, user: &User, scope: &mut Scope<'_>) -> BTreeMap<String, String> {
    let mut merged = match &service.env_file {
        Some(path) => env_file(item, path, user, scope),
        None => BTreeMap::new(),
    };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, (key, value)) in service.env.0.iter().enumerate() {
        let path = format!("env{{{index}}}");
        if let Some(first) = seen.insert(key, index) {
            let place = scope.report.place(item, &format!("env{{{first}}}"));
            let found = scope.report.error(item, &path, format!("the variable {key:?} is given twice"));
            found.hint(format!("it is first given at {place}"));
        }
        if !is_name(key) {
            let message = format!("{key:?} cannot be the name of a variable");
            scope.report.error(item, &path, message).hint("it consists of A-Z a-z 0-9 and _ and starts with no digit");
        }
        if RESERVED.contains(&key.as_str()) {
            scope.report.warning(
                item,
                &path,
                format!("{key} is set by the agent where it is needed; this value may be replaced"),
            );
        }
        if no_zero_byte(item, &path, value, scope) {
            merged.insert(key.clone(), value.clone());
        }
    }
    merged
}

/// The name of a variable that a shell could set.
fn is_name(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn env_file(item: &Item, path: &str, user: &User, scope: &mut Scope<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    if !path.starts_with('/') {
        scope.report.error(item, "env_file", format!("{path:?} is not an absolute path")).hint("it must start with /");
        return variables;
    }
    let real = scope.context.look.real(Path::new(path));
    let text = match read_text(&real, Path::new(path), scope.context.uid, Some(user.uid), ENV_FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(refused) => {
            scope.report.error(item, "env_file", refused.sentence()).maybe_hint(refused.hint());
            return variables;
        }
    };
    for (number, line) in (1_u32..).zip(text.lines()) {
        match variable(line) {
            Ok(Some((key, value))) => {
                variables.insert(key, value);
            }
            Ok(None) => {}
            Err(problem) => {
                scope
                    .report
                    .at_line(path, number, problem)
                    .hint("a line is KEY=VALUE, KEY=\"VALUE\", KEY='VALUE', or a # comment");
            }
        }
    }
    variables
}

/// One line: `KEY=VALUE`, where the value may be quoted as in a shell. Nothing is expanded: `$` stays as written.
fn variable(line: &str) -> Result<Option<(String, String)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (key, value) = line.split_once('=').ok_or("there is no = in this line")?;
    if !is_name(key) {
        return Err(format!("{key:?} cannot be the name of a variable"));
    }
    if value.contains('\0') {
        return Err("a zero byte cannot stand in a value".to_owned());
    }
    let value = match value.chars().next() {
        Some('\'') => {
            let (inside, after) = value[1..].split_once('\'').ok_or("the quote ' is not closed")?;
            nothing_after(after)?;
            inside.to_owned()
        }
        Some('"') => double_quoted(&value[1..])?,
        Some(_) | None => value.to_owned(),
    };
    Ok(Some((key.to_owned(), value)))
}

fn double_quoted(text: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                nothing_after(chars.as_str())?;
                return Ok(value);
            }
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => value.push(escaped),
                Some(other) => value.extend(['\\', other]),
                None => return Err("the quote \" is not closed".to_owned()),
            },
            other => value.push(other),
        }
    }
    Err("the quote \" is not closed".to_owned())
}

fn nothing_after(rest: &str) -> Result<(), String> {
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(())
    } else {
        Err("there is something after the closing quote".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::variable;

    #[test]
    fn lines_of_a_file_of_variables_are_read_as_a_shell_would() {
        for (line, expected) in [
            ("A=b c ", Some(("A", "b c"))),
            ("  export A='x y' # why", Some(("A", "x y"))),
            ("A=\"say \\\"hi\\\" \\n\"", Some(("A", "say \"hi\" \\n"))),
            ("A=", Some(("A", ""))),
            ("A=b=c", Some(("A", "b=c"))),
            ("# A=b", None),
            ("", None),
        ] {
            let read = variable(line).unwrap();
            let read = read.as_ref().map(|(key, value)| (key.as_str(), value.as_str()));
            assert_eq!(read, expected, "{line}");
        }
        for bad in ["A", "1A=b", "A B=c", "A='x", "A=\"x", "A=\"x\\", "A='x'y", "=x"] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }
}
