//! Reading the files: the one that was named, and those its `include` leads to. As root, only what root alone can change is read.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Context;
use super::parse::{self, Parts};
use super::report::{Item, Report, Severity, Source};

/// A file of more bytes is refused.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// More files in one configuration are refused.
pub const FILES_MAX: usize = 256;
/// Files that include files that include files.
const INCLUDE_DEPTH_MAX: usize = 8;

/// The parts of all files, in the order in which they count.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) agent: Option<Item>,
    pub(super) services: Vec<Item>,
    pub(super) balancers: Vec<Item>,
    pub(super) checks: Vec<Item>,
    pub(super) copies: Vec<Item>,
    pub(super) alerts: Vec<Item>,
    /// Some file could not be read or cut, so that names may be missing.
    pub(super) incomplete: bool,
}

/// Why a file may not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("cannot read {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path} is refused: it is larger than {bytes_max} bytes")]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{path} is refused: {who} can change it, and the agent runs as root")]
    Insecure { path: PathBuf, who: String },
    #[error("{path} is refused: line {line} is not UTF-8")]
    NotText { path: PathBuf, line: usize },
}

impl Refused {
    /// The whole sentence, with its cause.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::NotAFile { .. } | Self::TooLarge { .. } | Self::Insecure { .. } | Self::NotText { .. } => {
                self.to_string()
            }
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Insecure { path, .. } => Some(format!("chown root:root {0} && chmod go-w {0}", path.display())),
            Self::Io { .. } | Self::NotAFile { .. } | Self::TooLarge { .. } | Self::NotText { .. } => None,
        }
    }
}

/// Reads a text file of at most `bytes_max` at `real`, named `path` in messages. As root it must belong to root (or `owner`), and
/// nobody else may write it.
pub(super) fn read_text(
    real: &Path,
    path: &Path,
    uid: u32,
    owner: Option<u32>,
    bytes_max: u64,
) -> Result<String, Refused> {
    let io = |source| Refused::Io { path: path.to_owned(), source };
    // Opening a FIFO that nobody writes would wait for ever.
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(real).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(Refused::NotAFile { path: path.to_owned() });
    }
    if let Some(who) = stranger(&metadata, owner).filter(|_| uid == 0) {
        return Err(Refused::Insecure { path: path.to_owned(), who });
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Refused::TooLarge { path: path.to_owned(), bytes_max });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        Refused::NotText { path: path.to_owned(), line: 1 + valid.iter().filter(|byte| **byte == b'\n').count() }
    })?;
    // The mark of some editors; it is part of no value.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Who, besides root and `owner`, can change a file.
fn stranger(metadata: &fs::Metadata, owner: Option<u32>) -> Option<String> {
    if metadata.uid() != 0 && Some(metadata.uid()) != owner {
        return Some(format!("the user with uid {}", metadata.uid()));
    }
    match metadata.mode() & 0o022 {
        0 => None,
        0o020 => Some(format!("the group with gid {}", metadata.gid())),
        _ => Some("everybody".to_owned()),
    }
}

/// Reads `path` and everything it includes.
pub(super) fn gather(path: &Path, context: &Context, report: &mut Report) -> Gathered {
    let mut reader = Reader { context, report, gathered: Gathered::default(), seen: Vec::new(), trail: Vec::new() };
    reader.file(path, None);
    reader.gathered
}

/// Takes `text` in place of a file; it has no directory, so it can include nothing.
pub(super) fn gather_text(name: &str, text: &str, report: &mut Report) -> Gathered {
    report.sources.push(Source::new(name.to_owned(), text.to_owned(), None));
    let Some(parts) = parse::parts(0, report) else { return Gathered { incomplete: true, ..Gathered::default() } };
    for (_, place) in &parts.include {
        let range = place.range.clone();
        let message = "a built-in configuration cannot include files";
        report.at_range(Severity::Error, place.source, range, place.prefix.clone(), message);
    }
    let Parts { include: _, agent, services, balancers, checks, copies, alerts } = parts;
    Gathered { agent, services, balancers, checks, copies, alerts, incomplete: false }
}

struct Reader<'a> {
    context: &'a Context,
    report: &'a mut Report,
    gathered: Gathered,
    /// Canonical paths of all files so far, and of those that are being read.
    seen: Vec<PathBuf>,
    trail: Vec<PathBuf>,
}

impl Reader<'_> {
    /// Reads one file; `from` is the place of the `include` that led to it.
    fn file(&mut self, path: &Path, from: Option<&Item>) {
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Some(start) = self.trail.iter().position(|open| *open == canonical) {
            let mut circle: Vec<String> = self.trail[start..].iter().map(|file| file.display().to_string()).collect();
            circle.push(canonical.display().to_string());
            return self.complain(from, path, format!("files include each other: {}", circle.join(" -> ")), None);
        }
        if self.seen.contains(&canonical) {
            return;
        }
        if self.seen.len() >= FILES_MAX || self.trail.len() >= INCLUDE_DEPTH_MAX {
            let message = format!(
                "more than {FILES_MAX} files, or {INCLUDE_DEPTH_MAX} levels of include: {} is not read",
                path.display()
            );
            return self.complain(from, path, message, None);
        }
        self.seen.push(canonical.clone());
        let text = match read_text(path, path, self.context.uid, None, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(refused) => return self.complain(from, path, refused.sentence(), refused.hint()),
        };
        self.report.sources.push(Source::new(path.display().to_string(), text, Some(path.to_owned())));
        let source = self.report.sources.len() - 1;
        match parse::parts(source, self.report) {
            Some(parts) => {
                self.trail.push(canonical);
                self.parts(parts, path, from.is_none());
                self.trail.pop();
            }
            None => self.gathered.incomplete = true,
        }
    }

    fn parts(&mut self, parts: Parts, path: &Path, main: bool) {
        match parts.agent {
            Some(agent) if main => self.gathered.agent = Some(agent),
            Some(agent) => {
                let message = "`agent` belongs into the main file, not into an included one";
                self.report.error(&agent, "", message);
            }
            None => {}
        }
        self.gathered.services.extend(parts.services);
        self.gathered.balancers.extend(parts.balancers);
        self.gathered.checks.extend(parts.checks);
        self.gathered.copies.extend(parts.copies);
        self.gathered.alerts.extend(parts.alerts);
        let directory = path.parent().unwrap_or(Path::new("."));
        for (pattern, place) in parts.include {
            match glob(directory, &pattern) {
                Ok(files) if files.is_empty() && !has_wildcard(&pattern) => {
                    let message = format!("there is no file {:?} beside {}", pattern, path.display());
                    self.complain(Some(&place), path, message, None);
                }
                Ok(files) => {
                    for file in files {
                        self.file(&file, Some(&place));
                    }
                }
                Err((directory, error)) => {
                    let message = format!("cannot list {}: {error}", directory.display());
                    self.complain(Some(&place), path, message, None);
                }
            }
        }
    }

    /// A finding at the `include` that led to a file, or about the file itself.
    fn complain(&mut self, from: Option<&Item>, path: &Path, message: String, hint: Option<String>) {
        self.gathered.incomplete = true;
        let found = match from {
            Some(place) => {
                let (source, range, shown) = (place.source, place.range.clone(), place.prefix.clone());
                self.report.at_range(Severity::Error, source, range, shown, message)
            }
            None => self.report.about_file(&path.display().to_string(), message),
        };
        found.maybe_hint(hint);
    }
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The files that match a pattern relative to `directory`, in the order of their names. `*` and `?` do not match `/`, nor a
/// leading dot. A directory that is not there holds no files.
fn glob(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let base = if pattern.starts_with('/') { PathBuf::from("/") } else { directory.to_owned() };
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let mut found = vec![base];
    for part in parts {
        let mut next = Vec::new();
        for directory in found {
            if !has_wildcard(part) {
                next.extend(Some(directory.join(part)).filter(|path| path.exists()));
                continue;
            }
            let mut names = match list(&directory) {
                Ok(names) => names,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    Vec::new()
                }
                Err(error) => return Err((directory, error)),
            };
            names.retain(|name| matches(part.as_bytes(), name.as_bytes()));
            names.sort_unstable();
            next.extend(names.iter().map(|name| directory.join(name)));
        }
        found = next;
    }
    Ok(found)
}

fn list(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        // A name that is not UTF-8 cannot be shown in a message, and no pattern can name it.
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// `*` for any characters, `?` for one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // The last `*` that was passed, and where it began to match: a mismatch lets it take one more byte.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            Some(_) | None => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_takes_any_characters_and_no_hidden_file() {
        for (pattern, name, expected) in [
            ("*.ron", "a.ron", true),
            ("*.ron", "a.ron.bak", false),
            ("*.ron", ".hidden.ron", false),
            (".*.ron", ".hidden.ron", true),
            ("a?c*", "abcdef", true),
            ("*a*b*c", "xxaxxbxxbc", true),
            ("*a*b*c", "xxaxxbxxb", false),
            ("exact", "exact", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
