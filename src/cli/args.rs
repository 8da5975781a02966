//! Words of the command line -> one command with its options and arguments. Options may stand before or after the command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::Arg;

use super::table::{self, Arguments, Command, Opt};
use crate::api::render::nearest;

/// A command line that was understood.
#[derive(Debug)]
pub struct Invocation {
    /// `None`: the summary.
    pub command: Option<&'static Command>,
    options: Vec<(&'static str, Option<OsString>)>,
    arguments: Vec<OsString>,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Table,
    Json,
    Ndjson,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    message: String,
}

impl UsageError {
    /// One JSON document cannot be written of what has no end.
    pub(super) fn endless_json() -> Self {
        usage("--follow has no end that would complete a JSON document; use -o ndjson")
    }

    pub(super) fn of(message: impl Into<String>) -> Self {
        usage(message)
    }

    /// For `--level`.
    pub(super) fn bad_level(text: &str, levels: &str) -> Self {
        usage(format!("no level {text:?}; there are {levels}"))
    }

    /// For `--since`.
    pub(super) fn bad_time(text: &str) -> Self {
        usage(format!("--since needs a time ago such as 10m, or an instant such as 2026-11-22T08:00:00Z, not {text:?}"))
    }
}

fn usage(message: impl Into<String>) -> UsageError {
    UsageError { message: message.into() }
}

/// Parses the words after the program's name.
///
/// # Errors
/// They do not make a command.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut invocation = Invocation { command: None, options: Vec::new(), arguments: Vec::new() };
    while let Some(word) = parser.next().map_err(|error| usage(error.to_string()))? {
        let option = match word {
            Arg::Long(name) => find_option(|option| option.long == name, &format!("--{name}"))?,
            Arg::Short(letter) => find_option(|option| option.short == Some(letter), &format!("-{letter}"))?,
            Arg::Value(value) if invocation.command.is_none() => {
                invocation.command = Some(find_command(&value)?);
                continue;
            }
            Arg::Value(value) => {
                invocation.arguments.push(value);
                continue;
            }
        };
        let value = match option.value {
            Some(_) => Some(parser.value().map_err(|error| usage(error.to_string()))?),
            None => None,
        };
        invocation.options.push((option.long, value));
    }
    invocation.validate()?;
    Ok(invocation)
}

fn find_option(matches: impl Fn(&Opt) -> bool, shown: &str) -> Result<&'static Opt, UsageError> {
    table::options().find(|option| matches(option)).ok_or_else(|| {
        let near = nearest(shown.trim_start_matches('-'), table::options().map(|option| option.long));
        let near = near.filter(|_| shown.starts_with("--")).map(|near| format!("; did you mean --{near}?"));
        usage(format!("no option {shown}{}", near.unwrap_or_default()))
    })
}

fn find_command(word: &OsString) -> Result<&'static Command, UsageError> {
    let name = word.to_string_lossy();
    table::find(&name).ok_or_else(|| {
        let near = nearest(&name, table::COMMANDS.iter().map(|command| command.name));
        let near = near.map_or_else(|| "mainstay help lists them".to_owned(), |near| format!("did you mean {near}?"));
        usage(format!("no command \"{name}\"; {near}"))
    })
}

impl Invocation {
    fn validate(&self) -> Result<(), UsageError> {
        if self.is_set(&table::HELP) || self.is_set(&table::VERSION) {
            return Ok(());
        }
        let name = self.command.map_or("the summary", |command| command.name);
        let own = self.command.map_or(&[][..], |command| command.options);
        for (index, (long, _)) in self.options.iter().enumerate() {
            let known = table::GLOBAL.iter().chain(own).any(|option| option.long == *long);
            if !known {
                return Err(usage(format!("{name} has no option --{long}")));
            }
            if self.options[..index].iter().any(|(earlier, _)| earlier == long) {
                return Err(usage(format!("--{long} is given twice")));
            }
        }
        let Some(command) = self.command else { return Ok(()) };
        let count = self.arguments.len();
        let fits = match command.arguments {
            Arguments::None => count == 0,
            Arguments::AtMostOne => count <= 1,
            Arguments::One => count == 1,
            Arguments::Any => true,
            Arguments::Some => count >= 1,
        };
        if fits { Ok(()) } else { Err(usage(format!("usage: mainstay {}", command.usage))) }
    }

    #[must_use]
    pub fn is_set(&self, option: &Opt) -> bool {
        self.options.iter().any(|(long, _)| *long == option.long)
    }

    fn value(&self, option: &Opt) -> Option<&OsString> {
        self.options.iter().find(|(long, _)| *long == option.long)?.1.as_ref()
    }

    #[must_use]
    pub fn path(&self, option: &Opt) -> Option<PathBuf> {
        self.value(option).map(PathBuf::from)
    }

    /// # Errors
    /// The value is not UTF-8.
    pub fn text(&self, option: &Opt) -> Result<Option<&str>, UsageError> {
        let Some(value) = self.value(option) else { return Ok(None) };
        value.to_str().map(Some).ok_or_else(|| usage(format!("--{} is not UTF-8", option.long)))
    }

    /// # Errors
    /// The value is no whole number.
    pub fn number(&self, option: &Opt) -> Result<Option<u64>, UsageError> {
        let Some(text) = self.text(option)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| usage(format!("--{} needs a whole number, not {text:?}", option.long)))
    }

    /// # Errors
    /// The value is no duration.
    pub fn duration(&self, option: &Opt) -> Result<Option<Duration>, UsageError> {
        let Some(text) = self.text(option)? else { return Ok(None) };
        let bad = || usage(format!("--{} needs a duration such as 30s or \"1m 30s\", not {text:?}", option.long));
        parse_duration(text).map(Some).ok_or_else(bad)
    }

    /// `--output`.
    ///
    /// # Errors
    /// It names no format.
    pub fn format(&self) -> Result<Format, UsageError> {
        match self.text(&table::OUTPUT)? {
            None | Some("table") => Ok(Format::Table),
            Some("json") => Ok(Format::Json),
            Some("ndjson") => Ok(Format::Ndjson),
            Some(other) => Err(usage(format!("no output format {other:?}; there are table, json and ndjson"))),
        }
    }

    /// The arguments as text.
    ///
    /// # Errors
    /// One is not UTF-8.
    pub fn names(&self) -> Result<Vec<&str>, UsageError> {
        let texts = self.arguments.iter().map(|word| word.to_str());
        texts.collect::<Option<_>>().ok_or_else(|| usage("a name is not UTF-8"))
    }

    /// The arguments as they are: paths need not be UTF-8.
    #[must_use]
    pub fn words(&self) -> &[OsString] {
        &self.arguments
    }

    /// The first argument as a path.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.arguments.first().map(PathBuf::from)
    }
}

/// `NAME` or `NAME/replica`.
///
/// # Errors
/// What follows the `/` is no replica number.
pub fn target(text: &str) -> Result<(&str, Option<u16>), UsageError> {
    match text.split_once('/') {
        None => Ok((text, None)),
        Some((name, index)) => match index.parse() {
            Ok(index) => Ok((name, Some(index))),
            Err(_) => Err(usage(format!("\"{index}\" in \"{text}\" is no replica number"))),
        },
    }
}

/// The syntax of the configuration: `850ms`, `30s`, `1h 30m`; each unit at most once, the largest first.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut total_ms = 0_u64;
    let mut allowed = &UNITS[..];
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..digits + letters];
        let at = allowed.iter().position(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(number.checked_mul(allowed[at].1)?)?;
        allowed = &allowed[at + 1..];
        rest = rest[digits + letters..].trim_start();
    }
    Some(Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn refused(line: &str) -> String {
        words(line).unwrap_err().to_string()
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in ["-f -n 5 logs --socket /s api", "logs api -fn5 --socket=/s", "--socket /s logs -f api -n 5"] {
            let found = words(line).unwrap();
            assert_eq!(found.command.unwrap().name, "logs", "{line}");
            assert!(found.is_set(&table::FOLLOW));
            assert_eq!(found.number(&table::TAIL).unwrap(), Some(5));
            assert_eq!(found.path(&table::SOCKET), Some(PathBuf::from("/s")));
            assert_eq!(found.names().unwrap(), ["api"]);
        }
    }

    #[test]
    fn no_words_are_the_summary() {
        assert!(words("").unwrap().command.is_none());
        assert!(words("--socket /s").unwrap().command.is_none());
    }

    #[test]
    fn mistakes_are_named_with_the_nearest_right_word() {
        assert_eq!(refused("statsu"), "no command \"statsu\"; did you mean status?");
        assert_eq!(refused("xyzzy"), "no command \"xyzzy\"; mainstay help lists them");
        assert_eq!(refused("logs --folow api"), "no option --folow; did you mean --follow?");
        assert_eq!(refused("status -x"), "no option -x");
        assert_eq!(refused("status --follow"), "status has no option --follow");
        assert_eq!(refused("logs"), "usage: mainstay logs [-f] [-n N] [--since TIME] NAME[/replica]..");
        assert_eq!(refused("tree api"), "usage: mainstay tree");
        assert_eq!(refused("status -o json -o json"), "--output is given twice");
        assert_eq!(refused("logs api -n"), "missing argument for option '-n'");
        assert_eq!(
            words("status -o xml").unwrap().format().unwrap_err().to_string(),
            "no output format \"xml\"; there are table, json and ndjson"
        );
    }

    #[test]
    fn help_is_given_even_to_a_wrong_line() {
        assert!(words("logs --help").unwrap().is_set(&table::HELP));
    }

    #[test]
    fn durations_are_those_of_the_configuration() {
        for (text, ms) in [
            ("10m", 600_000),
            ("1h 30m", 5_400_000),
            ("1m30s", 90_000),
            ("850ms", 850),
            ("0s", 0),
            (" 2d ", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "10", "m", "30s 1m", "1m 1m", "-1s", "1.5s", "1w", "é", "99999999999999999999s", "999999999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_target_may_name_a_replica() {
        assert_eq!(target("api").unwrap(), ("api", None));
        assert_eq!(target("api/2").unwrap(), ("api", Some(2)));
        assert!(target("api/x").is_err());
        assert!(target("api/70000").is_err());
    }
}
