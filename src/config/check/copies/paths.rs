//! What a set copies and where to: absolute, and nothing within another, or copies would hold copies.

use std::path::{Component, Path, PathBuf};

use super::super::super::report::Item;
use super::super::super::schema::Copy;
use super::super::{Scope, no_zero_byte};
use crate::engine::plan::ServicePlan;

/// Sources of one set.
const SOURCES_MAX: usize = 64;
/// Patterns of one set.
const EXCLUDES_MAX: usize = 256;
const PATTERN_BYTES_MAX: usize = 4_096;
/// File systems of the kernel, which are no data.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Where the data really is: what is on the way is looked at now, and links are not followed when it is copied.
pub(super) fn sources(item: &Item, copy: &Copy, scope: &mut Scope<'_>) -> Vec<PathBuf> {
    if copy.from.is_empty() && !item.is_broken("from") {
        let missing = scope.report.error(item, "from", "the key `from` is missing or empty");
        missing.hint("write what is copied, such as from: [\"/var/lib/api\"]");
    }
    if copy.from.len() > SOURCES_MAX {
        scope.report.error(item, "from", format!("a set has at most {SOURCES_MAX} sources"));
    }
    let mut sources: Vec<PathBuf> = Vec::new();
    for (index, text) in copy.from.iter().enumerate() {
        let path = format!("from[{index}]");
        let Some(source) = absolute(item, &path, text, scope) else { continue };
        let source = real(item, &path, source, scope);
        if let Some(kernel) = KERNEL.iter().find(|kernel| source.starts_with(kernel)) {
            scope.report.error(item, &path, format!("{kernel} is the kernel's: there is no data to copy"));
        }
        let holds = |other: &&PathBuf| source.starts_with(other) || other.starts_with(&source);
        if let Some(other) = sources.iter().find(holds) {
            let message = if *other == source {
                format!("{} stands here twice", source.display())
            } else {
                format!("{} and {} lie in one another", source.display(), other.display())
            };
            scope.report.error(item, &path, message).hint("keep the outer one");
        }
        sources.push(source);
    }
    sources
}

fn real(item: &Item, path: &str, source: PathBuf, scope: &mut Scope<'_>) -> PathBuf {
    match scope.context.look.resolve(&source) {
        Some(real) if real != source => {
            let message = format!("{} leads to {}: that is what is copied", source.display(), real.display());
            scope.report.note(item, path, message);
            real
        }
        Some(_) => source,
        None => {
            let message = format!("{} does not exist: no copy is made until it does", source.display());
            scope.report.warning(item, path, message);
            scope.context.look.resolve_existing(&source)
        }
    }
}

/// Nothing is made here, so that a disk that is not there is seen.
pub(super) fn target(item: &Item, copy: &Copy, from: &[PathBuf], scope: &mut Scope<'_>) -> PathBuf {
    if copy.to.is_empty() {
        if !item.is_broken("to") {
            let missing = scope.report.error(item, "to", "the key `to` is missing or empty");
            missing.hint("write a directory on the second disk, such as to: \"/mnt/second/copies\"");
        }
        return PathBuf::new();
    }
    let Some(to) = absolute(item, "to", &copy.to, scope) else { return PathBuf::new() };
    let to = scope.context.look.resolve_existing(&to);
    for source in from {
        let message = if to.starts_with(source) {
            format!("the copies would lie in {}, which they are of", source.display())
        } else if source.starts_with(to.join(&copy.name)) {
            format!("{} lies among the copies", source.display())
        } else {
            continue;
        };
        scope.report.error(item, "to", message).hint("choose a directory on another disk");
    }
    to
}

/// Patterns of paths below a source, as they are.
pub(super) fn exclude(item: &Item, patterns: &[String], from: &[PathBuf], scope: &mut Scope<'_>) -> Vec<String> {
    if patterns.len() > EXCLUDES_MAX {
        scope.report.error(item, "exclude", format!("a set has at most {EXCLUDES_MAX} patterns"));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let path = format!("exclude[{index}]");
        if !no_zero_byte(item, &path, pattern, scope) {
            continue;
        }
        if pattern.trim_matches('/').is_empty() || pattern.len() > PATTERN_BYTES_MAX {
            let message = format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes");
            scope.report.error(item, &path, message).hint("such as \"cache/**\" or \"*.tmp\"");
        } else if pattern.starts_with('/') {
            let inside = from.iter().find_map(|source| Path::new(pattern).strip_prefix(source).ok());
            let hint = inside.map(|inside| format!("write {inside:?}"));
            let message = format!("{pattern:?} begins with /, while patterns begin at each source");
            scope.report.error(item, &path, message).maybe_hint(hint);
        } else if pattern.split('/').any(|part| matches!(part, "." | "..")) {
            scope.report.error(item, &path, format!("{pattern:?} has a part . or .., which no file is called"));
        }
    }
    patterns.to_vec()
}

/// Whether a source holds data of the service, or lies in it.
pub(super) fn is_data_of(service: &ServicePlan, source: &Path) -> bool {
    let data = service.needs.iter().flat_map(|needs| &needs.data);
    data.into_iter().any(|data| data.starts_with(source) || source.starts_with(data))
}

pub(super) fn absolute(item: &Item, path: &str, text: &str, scope: &mut Scope<'_>) -> Option<PathBuf> {
    if !no_zero_byte(item, path, text, scope) {
        return None;
    }
    let given = Path::new(text);
    if !given.is_absolute() {
        scope.report.error(item, path, format!("{text:?} is not an absolute path")).hint("it must start with /");
        return None;
    }
    if given.components().any(|part| part == Component::ParentDir) {
        scope.report.error(item, path, format!("{text:?} goes up with ..")).hint("write where it leads to");
        return None;
    }
    Some(given.components().collect())
}
