//! Text to schema. The file is cut into its parts (the agent, each service) and each part is read by itself. When a key of a part
//! cannot be read, it is blanked and the part is read again, so that one look shows every mistake.

use std::ops::Range;

use ron::error::SpannedError;
use ron::extensions::Extensions;
use ron::value::RawValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::report::{Item, Report, Severity, offset_of};
use super::suggest;
use super::{locate, scan};

/// Mistakes that are looked for in one part.
const MISTAKES_MAX: usize = 16;
/// More words than this are listed only when none of them is close to what was written.
const WORDS_SHOWN_MAX: usize = 12;

/// The parts of one file, not yet read.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) include: Vec<(String, Item)>,
    pub(super) agent: Option<Item>,
    pub(super) services: Vec<Item>,
    pub(super) balancers: Vec<Item>,
    pub(super) checks: Vec<Item>,
    pub(super) copies: Vec<Item>,
    pub(super) alerts: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename = "config", deny_unknown_fields)]
struct Top<'a> {
    #[serde(borrow, default)]
    include: Option<&'a RawValue>,
    #[serde(borrow, default)]
    agent: Option<&'a RawValue>,
    #[serde(borrow, default)]
    services: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    balancers: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    checks: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    copies: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    alerts: Option<Vec<&'a RawValue>>,
}

/// The keys of the file itself, asked of the deserializer.
pub(super) fn top_keys() -> &'static [&'static str] {
    match ron::from_str::<Top<'_>>("(no_such_key: 0)") {
        Err(SpannedError { code: ron::Error::NoSuchStructField { expected, .. }, .. }) => expected,
        Err(_) | Ok(_) => &[],
    }
}

fn options() -> ron::Options {
    let extensions = Extensions::IMPLICIT_SOME | Extensions::UNWRAP_VARIANT_NEWTYPES;
    ron::Options::default().with_default_extension(extensions)
}

/// Cuts a file into its parts. `None`: it is no RON, or has another shape, and the report says where.
pub(super) fn parts(source: usize, report: &mut Report) -> Option<Parts> {
    let file = report.sources.get(source)?;
    let mut text = file.text.clone();
    unlabel(&mut text);
    let whole = Item { source, range: 0..text.len(), prefix: String::new(), broken: Vec::new() };
    for _ in 0..MISTAKES_MAX {
        let error = match options().from_str::<Top<'_>>(&text) {
            Ok(top) => return Some(cut(source, &text, &top, report)),
            Err(error) => error,
        };
        let (_, range) = explain(&error, &text, &whole, report)?;
        // Anything but a wrong key is a mistake of the syntax, after which nothing can be trusted.
        if !matches!(error.code, ron::Error::NoSuchStructField { .. } | ron::Error::DuplicateStructField { .. }) {
            return None;
        }
        blank(&mut text, range);
    }
    None
}

fn cut(source: usize, text: &str, top: &Top<'_>, report: &mut Report) -> Parts {
    let item = |raw: &RawValue, prefix: String| {
        let start = raw.get_ron().as_ptr() as usize - text.as_ptr() as usize;
        let node = scan::scan(text, start..start + raw.get_ron().len());
        Item { source, range: node.range, prefix, broken: Vec::new() }
    };
    let list = |key: &str, values: Option<&Vec<&RawValue>>| {
        let values = values.into_iter().flatten().enumerate();
        values.map(|(index, raw)| item(raw, format!("{key}[{index}]"))).collect()
    };
    let mut parts = Parts {
        include: Vec::new(),
        agent: top.agent.map(|raw| item(raw, "agent".to_owned())),
        services: list("services", top.services.as_ref()),
        balancers: list("balancers", top.balancers.as_ref()),
        checks: list("checks", top.checks.as_ref()),
        copies: list("copies", top.copies.as_ref()),
        alerts: list("alerts", top.alerts.as_ref()),
    };
    if let Some(raw) = top.include {
        let mut list = item(raw, "include".to_owned());
        let patterns: Vec<String> = read(&mut list, report).unwrap_or_default();
        let place = |index: usize| match scan::scan(text, list.range.clone()).kind {
            scan::Kind::List(values) => values.get(index).map_or(list.range.clone(), |value| value.range.clone()),
            scan::Kind::Leaf | scan::Kind::Struct(_) | scan::Kind::Tuple(_) | scan::Kind::Map(_) => list.range.clone(),
        };
        for (index, pattern) in patterns.into_iter().enumerate() {
            let item = Item { source, range: place(index), prefix: format!("include[{index}]"), broken: Vec::new() };
            parts.include.push((pattern, item));
        }
    }
    parts
}

/// Reads one part. Keys that cannot be read are reported, listed in `item.broken` and left at their defaults.
/// `None`: not even that was possible.
pub(super) fn read<T: DeserializeOwned>(item: &mut Item, report: &mut Report) -> Option<T> {
    let mut text = report.sources.get(item.source)?.text.get(item.range.clone())?.to_owned();
    unlabel(&mut text);
    for _ in 0..MISTAKES_MAX {
        let error = match options().from_str::<T>(&text) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let (name, range) = explain(&error, &text, item, report)?;
        if let ron::Error::NoSuchStructField { expected, found, .. } = &error.code
            && *found == name
        {
            // What was meant by it is not missing.
            item.broken.extend(suggest::closest(found, expected.iter().copied()).map(str::to_owned));
        }
        item.broken.push(name);
        blank(&mut text, range);
    }
    None
}

/// Reports an error of the parser in `text` (the bytes of `item`); returns the top-level field in which it lies.
fn explain(error: &SpannedError, text: &str, item: &Item, report: &mut Report) -> Option<(String, Range<usize>)> {
    let tree = scan::scan(text, 0..text.len());
    let start = offset_of(text, error.span.start.line, error.span.start.col);
    let end = offset_of(text, error.span.end.line, error.span.end.col).max(start);
    let (offset, whole_value) = place(error, text, start, end);
    let mut found = locate::at(&tree, text, offset);
    if matches!(error.code, ron::Error::MissingStructField { .. }) {
        found = locate::brackets_around(&tree, text, found);
    }
    let range = if whole_value && !found.path.is_empty() { found.range } else { start.max(offset)..end.max(offset) };
    let path = match (item.prefix.as_str(), found.path.as_str()) {
        ("", inner) => inner.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, inner) if inner.starts_with('[') => format!("{prefix}{inner}"),
        (prefix, inner) => format!("{prefix}.{inner}"),
    };
    let place = item.range.start + range.start..item.range.start + range.end;
    let (message, hint) = sentence(&error.code, text.get(range).unwrap_or(""));
    report.at_range(Severity::Error, item.source, place, path, message).maybe_hint(hint);
    locate::field_at(&tree, text, offset).map(|(name, range)| (name.to_owned(), range))
}

/// The byte that an error is about, and whether it is about the whole value there (not about a spot of the syntax).
fn place(error: &SpannedError, text: &str, start: usize, end: usize) -> (usize, bool) {
    let first = start + text[start..].len() - text[start..].trim_start().len();
    match &error.code {
        ron::Error::NoSuchStructField { .. }
        | ron::Error::NoSuchEnumVariant { .. }
        | ron::Error::DuplicateStructField { .. }
        | ron::Error::InvalidValueForType { .. }
        | ron::Error::ExpectedDifferentLength { .. }
        | ron::Error::MissingStructField { .. }
        | ron::Error::Message(_)
        | ron::Error::IntegerOutOfBounds => (first.min(end), true),
        ron::Error::ExpectedArray
        | ron::Error::ExpectedBoolean
        | ron::Error::ExpectedFloat
        | ron::Error::ExpectedInteger
        | ron::Error::ExpectedString
        | ron::Error::ExpectedMap
        | ron::Error::ExpectedOption
        | ron::Error::ExpectedIdentifier
        | ron::Error::ExpectedStructLike => (first.min(text.len()), true),
        _ => (end.min(text.len()), false),
    }
}

/// What went wrong, in our words, and how to mend it.
fn sentence(error: &ron::Error, there: &str) -> (String, Option<String>) {
    let quoted = || format!("write \"{there}\"");
    let is_word = !there.is_empty() && there.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    match error {
        ron::Error::NoSuchStructField { expected, found, .. } => {
            let hint = suggest::did_you_mean(found, expected.iter().copied());
            let hint =
                hint.or_else(|| (expected.len() <= 16).then(|| format!("the keys here are {}", expected.join(", "))));
            (format!("unknown key `{found}`"), hint)
        }
        ron::Error::NoSuchEnumVariant { expected, found, .. } => {
            let hint = suggest::did_you_mean(found, expected.iter().copied()).map(|hint| hint.replace('"', ""));
            if expected.len() > WORDS_SHOWN_MAX {
                let known = || format!("known are {}", expected.join(", "));
                return (format!("unknown word `{found}`"), hint.or_else(|| Some(known())));
            }
            (format!("unknown word `{found}`; expected {}", any_of(expected)), hint)
        }
        ron::Error::MissingStructField { field, .. } => (format!("the key `{field}` is missing"), None),
        ron::Error::DuplicateStructField { field, .. } => (format!("the key `{field}` is given twice"), None),
        ron::Error::ExpectedString => ("expected a text in quotes".to_owned(), is_word.then(quoted)),
        ron::Error::ExpectedArray => {
            let hint = there.starts_with('"').then(|| format!("write [{there}]"));
            ("expected a list in square brackets".to_owned(), hint)
        }
        ron::Error::ExpectedInteger => {
            let bare = there.trim_matches('"');
            let hint = (there.starts_with('"') && bare.parse::<i64>().is_ok()).then(|| format!("write {bare}"));
            ("expected a whole number".to_owned(), hint)
        }
        ron::Error::IntegerOutOfBounds => ("the number is out of range".to_owned(), None),
        ron::Error::ExpectedBoolean => ("expected true or false".to_owned(), None),
        ron::Error::ExpectedMap => ("expected a map such as {\"KEY\": \"value\"}".to_owned(), None),
        ron::Error::ExpectedStructLike | ron::Error::ExpectedNamedStructLike(_) if is_word => {
            (format!("`{there}` needs a value in round brackets"), None)
        }
        ron::Error::ExpectedStructLike | ron::Error::ExpectedNamedStructLike(_) => {
            ("expected round brackets, such as (key: value)".to_owned(), None)
        }
        ron::Error::ExpectedDifferentStructName { .. } => {
            ("expected round brackets, such as (key: value)".to_owned(), None)
        }
        ron::Error::ExpectedIdentifier if there.starts_with('"') => {
            ("expected a word, not a text in quotes".to_owned(), None)
        }
        ron::Error::ExpectedStringEnd => ("the text ends inside of quotes: one is not closed".to_owned(), None),
        ron::Error::ExpectedComma => ("expected a comma before this".to_owned(), None),
        ron::Error::Eof => ("the text ends too early: a bracket or a quote is not closed".to_owned(), None),
        ron::Error::InvalidValueForType { expected, found } => (format!("expected {expected}, found {found}"), None),
        ron::Error::Message(text) => (text.clone(), None),
        other => (lower_first(&other.to_string()), None),
    }
}

/// RON has either values in a row or keys with values, while `quiesce: Freeze("api", max: "2s")` has both: its one label is blanked, so that everything
/// keeps its place.
fn unlabel(text: &mut String) {
    let mut from = 0;
    while let Some(at) = text[from..].find("quiesce").map(|at| from + at) {
        from = at + "quiesce".len();
        if let Some(label) = label(text, from) {
            blank(text, label);
        }
    }
}

/// Where `max:` stands in `: Freeze("..", max:`, if that is what begins at `from`.
fn label(text: &str, from: usize) -> Option<Range<usize>> {
    let after = |rest: &'_ str, word: &str| Some(rest.trim_start().strip_prefix(word)?.len());
    let mut rest = &text[from..];
    for word in [":", "Freeze", "(", "\""] {
        rest = &rest[rest.len() - after(rest, word)?..];
    }
    rest = rest.split_once('"')?.1;
    rest = &rest[rest.len() - after(rest, ",")?..];
    let label = rest.trim_start();
    let value = after(label.strip_prefix("max")?, ":")?;
    Some(text.len() - label.len()..text.len() - value)
}

fn any_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Replaces bytes by spaces, so that everything else keeps its place.
fn blank(text: &mut String, range: Range<usize>) {
    let spaces: String = text[range.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(range, &spaces);
}
