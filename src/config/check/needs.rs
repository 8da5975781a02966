//! What of the host a service needs: the file systems of its data, and its NICs.

use std::path::{Path, PathBuf};

use super::super::report::Item;
use super::super::schema::{self, Service};
use super::{Scope, checks, no_zero_byte, words};
use crate::engine::host::plan::OnDiskFailing;
use crate::engine::plan::{Needs, Words, expand};

/// Paths, and NICs, of one service.
const NEEDS_MAX: usize = 64;

/// `None`: nothing that is watched.
pub(super) fn needs(item: &Item, service: &Service, scope: &mut Scope<'_>) -> Option<Needs> {
    for (key, count) in [("data", service.data.len()), ("nics", service.nics.len())] {
        if count > NEEDS_MAX {
            scope.report.error(item, key, format!("a service names at most {NEEDS_MAX} of them"));
        }
    }
    let words = shared_words(&service.name, scope);
    let mut data = Vec::new();
    for (index, text) in service.data.iter().enumerate() {
        if let Some(path) = path(item, &format!("data[{index}]"), text, &words, scope)
            && !data.contains(&path)
        {
            data.push(path);
        }
    }
    let mut nics: Vec<String> = Vec::new();
    for (index, nic) in service.nics.iter().enumerate() {
        if checks::nic(item, &format!("nics[{index}]"), nic, scope) && !nics.contains(nic) {
            nics.push(nic.clone());
        }
    }
    let acts = service.on_disk_failing.is_some_and(|then| then != schema::OnDiskFailing::Leave);
    if acts && service.data.is_empty() && !item.is_broken("data") {
        let message = "`on_disk_failing` has no effect: no `data` says which disks the service needs";
        scope.report.warning(item, "on_disk_failing", message).hint("add data: [\"/var/lib/..\"], or remove it");
    }
    let on_disk_failing = match service.on_disk_failing {
        None | Some(schema::OnDiskFailing::Leave) => OnDiskFailing::Leave,
        Some(schema::OnDiskFailing::Freeze) => OnDiskFailing::Freeze,
        Some(schema::OnDiskFailing::Kill) => OnDiskFailing::Kill,
        Some(schema::OnDiskFailing::Hold) => OnDiskFailing::Hold,
        Some(schema::OnDiskFailing::Ignore) => OnDiskFailing::Ignore,
    };
    (!data.is_empty() || !nics.is_empty()).then_some(Needs { data, nics, on_disk_failing })
}

/// The words that mean the same for all replicas of a service.
pub(super) fn shared_words(name: &str, scope: &Scope<'_>) -> Words {
    Words {
        name: name.to_owned(),
        run_dir: scope.run_dir.to_string_lossy().into_owned(),
        service_dir: scope.run_dir.join("svc").join(name).to_string_lossy().into_owned(),
        ..Words::default()
    }
}

/// A path that all replicas share.
pub(super) fn absolute(item: &Item, path: &str, text: &str, values: &Words, scope: &mut Scope<'_>) -> Option<PathBuf> {
    if let Some(word) = words::braced(text).find(|word| matches!(*word, "port" | "replica" | "release")) {
        let message = format!("`{{{word}}}` has no meaning here: all replicas share this");
        scope.report.error(item, path, message).hint("name the directory above");
        return None;
    }
    if !no_zero_byte(item, path, text, scope) {
        return None;
    }
    let text = expand(text, values);
    if !text.starts_with('/') {
        scope.report.error(item, path, format!("{text:?} is not an absolute path")).hint("it must start with /");
        return None;
    }
    Some(Path::new(&text).components().collect())
}

/// Where the data really is: which disk that means depends on the links on the way.
fn path(item: &Item, path: &str, text: &str, values: &Words, scope: &mut Scope<'_>) -> Option<PathBuf> {
    let cleaned = absolute(item, path, text, values, scope)?;
    match scope.context.look.resolve(&cleaned) {
        Some(real) => Some(real),
        None => {
            if !cleaned.starts_with(scope.run_dir) {
                let message =
                    format!("{} does not exist: it counts as being where it would be made", cleaned.display());
                scope.report.warning(item, path, message);
            }
            Some(scope.context.look.resolve_existing(&cleaned))
        }
    }
}
