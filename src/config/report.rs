//! What the check found: where, what, and how to mend it. All findings of all files are collected and shown together.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{locate, scan};

/// More findings than this are counted, not shown.
pub const DIAGNOSTICS_MAX: usize = 100;
/// More than this are not even placed: each needs a walk through the file.
const FOUND_MAX: usize = 1_000;
/// A shown line of the file is cut to this many characters around the place.
const EXCERPT_CHARS_MAX: usize = 120;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It works, but hardly as it was meant.
    Warning,
    /// Something has no effect yet.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One finding. `Display` renders it with the line of the file and a caret; it is plain data, so that it can be sent as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file as it was named (or as its `include` led to it).
    pub file: String,
    /// From 1; 0 when the finding concerns the file as a whole.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// Just after the end, on `end_line`.
    pub end_line: u32,
    pub end_column: u32,
    /// Such as `services[2].ready`; empty for the file as a whole.
    pub path: String,
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
    /// The line of the file for the caret.
    pub excerpt: Option<Excerpt>,
}

/// One line of a file, cut to a readable width.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    pub text: String,
    /// Characters before the caret, and its width (at least 1).
    pub indent: u32,
    pub width: u32,
}

impl Diagnostic {
    /// Adds how to mend it.
    pub(super) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(printable(hint.into()));
        self
    }

    /// The same, when there is one.
    pub(super) fn maybe_hint(&mut self, hint: Option<String>) -> &mut Self {
        if hint.is_some() {
            self.hint = hint.map(printable);
        }
        self
    }

    fn blank(severity: Severity, file: &str, message: String) -> Self {
        Self {
            severity,
            file: printable(file.to_owned()),
            line: 0,
            column: 0,
            end_line: 0,
            end_column: 0,
            path: String::new(),
            message: printable(message),
            hint: None,
            excerpt: None,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.severity, self.message)?;
        if self.line == 0 {
            write!(out, "\n  --> {}", self.file)?;
        } else {
            write!(out, "\n  --> {}:{}:{}", self.file, self.line, self.column)?;
        }
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(excerpt) = &self.excerpt {
            let indent = " ".repeat(excerpt.indent as usize);
            let caret = "^".repeat(excerpt.width as usize);
            write!(out, "\n{margin} |\n{number} | {}\n{margin} | {indent}{caret}", excerpt.text)?;
        }
        if !self.path.is_empty() {
            write!(out, "\n{margin} = at {}", self.path)?;
        }
        if let Some(hint) = &self.hint {
            write!(out, "\n{margin} = help: {hint}")?;
        }
        Ok(())
    }
}

/// One file that was read.
#[derive(Debug)]
pub(super) struct Source {
    /// As shown in findings.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) path: Option<PathBuf>,
    /// The values of `env`, in order: often secrets, while findings are written to logs.
    secrets: Vec<Range<usize>>,
}

impl Source {
    pub(super) fn new(name: String, text: String, path: Option<PathBuf>) -> Self {
        let secrets = locate::values_of_maps(&scan::scan(&text, 0..text.len()), "env");
        Self { name, text, path, secrets }
    }
}

/// A part of a file that is parsed by itself: the agent, or one service.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Index into the sources.
    pub(super) source: usize,
    /// Its bytes in the text of the file.
    pub(super) range: Range<usize>,
    /// `agent` or `services[2]`.
    pub(super) prefix: String,
    /// Keys whose values could not be read; nothing more is said about them.
    pub(super) broken: Vec<String>,
}

impl Item {
    /// Whether the key's value could not be read, so that conclusions from its absence would be wrong.
    pub(super) fn is_broken(&self, key: &str) -> bool {
        self.broken.iter().any(|broken| broken == key)
    }
}

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) sources: Vec<Source>,
    found: Vec<(usize, Diagnostic)>,
    /// Takes the hints of findings that are not kept.
    scratch: Option<Diagnostic>,
    errors: usize,
    /// Beyond [`FOUND_MAX`].
    dropped: usize,
}

impl Report {
    /// Whether anything was found that refuses the configuration.
    pub(super) fn failed(&self) -> bool {
        self.errors > 0
    }

    pub(super) fn error(&mut self, item: &Item, path: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.at_path(Severity::Error, item, path, message.into())
    }

    pub(super) fn warning(&mut self, item: &Item, path: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.at_path(Severity::Warning, item, path, message.into())
    }

    pub(super) fn note(&mut self, item: &Item, path: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.at_path(Severity::Note, item, path, message.into())
    }

    /// A finding about bytes of a file; `path` is shown as given.
    pub(super) fn at_range(
        &mut self,
        severity: Severity,
        source: usize,
        range: Range<usize>,
        path: String,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        if self.found.len() >= FOUND_MAX {
            return self.drop_one(severity);
        }
        let Some(file) = self.sources.get(source) else {
            return self.keep(source, Diagnostic::blank(severity, "", message.into()));
        };
        let mut diagnostic = Diagnostic::blank(severity, &file.name, message.into());
        let range = clip(&file.text, range);
        let (line, column) = position(&file.text, range.start);
        let (end_line, end_column) = position(&file.text, range.end);
        (diagnostic.line, diagnostic.column, diagnostic.end_line, diagnostic.end_column) =
            (line, column, end_line, end_column);
        diagnostic.excerpt = Some(excerpt(&file.text, range, &file.secrets));
        diagnostic.path = printable(path);
        self.keep(source, diagnostic)
    }

    /// A finding about a file as a whole, perhaps one that could not be read.
    pub(super) fn about_file(&mut self, file: &str, message: impl Into<String>) -> &mut Diagnostic {
        let source = self.sources.iter().position(|source| source.name == file).unwrap_or(self.sources.len());
        self.keep(source, Diagnostic::blank(Severity::Error, file, message.into()))
    }

    /// A finding about a line of a file that is not RON and is not shown, for it may hold secrets.
    pub(super) fn at_line(&mut self, file: &str, line: u32, message: impl Into<String>) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::blank(Severity::Error, file, message.into());
        (diagnostic.line, diagnostic.column, diagnostic.end_line, diagnostic.end_column) = (line, 1, line, 1);
        self.keep(self.sources.len(), diagnostic)
    }

    /// `file:line:column` of something, for a message about another place.
    pub(super) fn place(&self, item: &Item, path: &str) -> String {
        let Some(source) = self.sources.get(item.source).filter(|_| self.found.len() < FOUND_MAX) else {
            return String::new();
        };
        let (found, _) = locate(source, item, path);
        let (line, column) = position(&source.text, found.range.start);
        format!("{}:{line}:{column}", source.name)
    }

    /// Everything, in the order of the files; the rest beyond [`DIAGNOSTICS_MAX`] as a count.
    pub(super) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(source, diagnostic)| (*source, diagnostic.line, diagnostic.column));
        let more = self.found.len().saturating_sub(DIAGNOSTICS_MAX) + self.dropped;
        if more > 0 {
            // What refuses the file must not be hidden behind what does not.
            self.found.sort_by_key(|(_, diagnostic)| diagnostic.severity);
            self.found.truncate(DIAGNOSTICS_MAX);
            self.found.sort_by_key(|(source, diagnostic)| (*source, diagnostic.line, diagnostic.column));
        }
        let mut all: Vec<Diagnostic> = self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if let (true, Some(last)) = (more > 0, all.last()) {
            all.push(Diagnostic::blank(last.severity, &last.file, format!("{more} more findings are not shown")));
        }
        all
    }

    fn at_path(&mut self, severity: Severity, item: &Item, path: &str, message: String) -> &mut Diagnostic {
        let key = path.split(['.', '[', '{']).next().unwrap_or(path);
        if item.is_broken(key) {
            return self.scratch.insert(Diagnostic::blank(severity, "", message));
        }
        if self.found.len() >= FOUND_MAX {
            return self.drop_one(severity);
        }
        let Some(source) = self.sources.get(item.source) else { return self.about_file("", message) };
        let (found, whole) = locate(source, item, path);
        let shown = match (whole, found.path.as_str()) {
            (false, _) if !path.contains('{') => path,
            (_, found) => found,
        };
        let path = if shown.is_empty() { item.prefix.clone() } else { format!("{}.{shown}", item.prefix) };
        self.at_range(severity, item.source, found.range, path, message)
    }

    fn drop_one(&mut self, severity: Severity) -> &mut Diagnostic {
        self.errors += usize::from(severity == Severity::Error);
        self.dropped += 1;
        self.scratch.insert(Diagnostic::blank(severity, "", String::new()))
    }

    fn keep(&mut self, source: usize, diagnostic: Diagnostic) -> &mut Diagnostic {
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        self.found.push((source, diagnostic));
        let last = self.found.len() - 1;
        &mut self.found[last].1
    }
}

/// Messages quote the file, and what they quote must not steer a terminal.
fn printable(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Where a path of an item stands; a missing key is shown at the item's name, or at its opening bracket.
fn locate(source: &Source, item: &Item, path: &str) -> (locate::Found, bool) {
    let tree = scan::scan(&source.text, item.range.clone());
    let (found, whole) = locate::find(&tree, &source.text, path);
    let named = ["services", "balancers", "checks"].iter().any(|list| item.prefix.starts_with(list));
    if !found.path.is_empty() || path.is_empty() && !named {
        return (found, whole);
    }
    let (name, named) = locate::find(&tree, &source.text, "name");
    let range = if named { name.range } else { found.range.start..(found.range.start + 1).min(source.text.len()) };
    (locate::Found { range, path: String::new() }, false)
}

/// Moves the ends of a range onto characters of the text.
fn clip(text: &str, range: Range<usize>) -> Range<usize> {
    let onto = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = onto(range.start);
    start..onto(range.end).max(start)
}

/// Line and column in characters, from 1.
fn position(text: &str, offset: usize) -> (u32, u32) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = 1 + before.matches('\n').count();
    let column = 1 + before[line_start..].chars().count();
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// The byte of a line and column in characters, as `ron` counts them.
pub(super) fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for _ in 1..line {
        match text[start..].find('\n') {
            Some(at) => start += at + 1,
            None => return text.len(),
        }
    }
    let rest = &text[start..];
    rest.char_indices().nth(column.saturating_sub(1)).map_or(text.len(), |(at, _)| start + at)
}

fn excerpt(text: &str, range: Range<usize>, secrets: &[Range<usize>]) -> Excerpt {
    let line_start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[range.start..].find('\n').map_or(text.len(), |at| range.start + at);
    let indent = text[line_start..range.start].chars().count();
    let width = text[range.start..range.end.min(line_end).max(range.start)].chars().count().max(1);
    let line = text[line_start..line_end].trim_end();
    let length = line.chars().count();
    let from = if length <= EXCERPT_CHARS_MAX { 0 } else { indent.saturating_sub(EXCERPT_CHARS_MAX / 3) };
    let secret = |at: usize| {
        let next = secrets.partition_point(|range| range.end <= at);
        secrets.get(next).is_some_and(|range| range.contains(&at))
    };
    let shown = line.char_indices().skip(from).take(EXCERPT_CHARS_MAX).map(|(at, c)| match c {
        // Control characters would move the terminal's cursor.
        c if c.is_control() => ' ',
        _ if secret(line_start + at) => '*',
        c => c,
    });
    let indent = indent - from;
    Excerpt {
        text: shown.collect(),
        indent: u32::try_from(indent).unwrap_or(0),
        width: u32::try_from(width.min(EXCERPT_CHARS_MAX.saturating_sub(indent)).max(1)).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_positions_are_inverse() {
        let text = "ä\nb(\n\nüx";
        for (offset, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let (line, column) = position(text, offset);
            assert_eq!(offset_of(text, line as usize, column as usize), offset);
        }
        assert_eq!(offset_of(text, 9, 9), text.len());
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}HERE{}", "x".repeat(500), "y".repeat(500));
        let cut = excerpt(&text, 500..504, &[]);
        assert_eq!(cut.text.chars().count(), EXCERPT_CHARS_MAX);
        let marked: String = cut.text.chars().skip(cut.indent as usize).take(cut.width as usize).collect();
        assert_eq!(marked, "HERE");
    }
}
