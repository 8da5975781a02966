//! `can_read` and `can_write` of a service: the paths that the kernel leaves to it (Landlock).

use std::path::{Path, PathBuf};

use super::super::report::Item;
use super::super::schema::Service;
use super::{Scope, no_zero_byte, words};
use crate::engine::fence::plan::Access;
use crate::engine::plan::{ServicePlan, expand};

/// Each path is opened by every child before it becomes the service.
const PATHS_MAX: usize = 64;
/// Where the loader and its libraries are.
const LIBRARIES: [&str; 2] = ["/usr/lib", "/lib"];

/// `None`: not restricted.
pub(super) fn access(item: &Item, service: &Service, plan: &ServicePlan, scope: &mut Scope<'_>) -> Option<Access> {
    let access = Access {
        read: paths(item, "can_read", service.can_read.as_deref(), plan, scope),
        write: paths(item, "can_write", service.can_write.as_deref(), plan, scope),
    };
    if access == Access::default() {
        return None;
    }
    if access.read.is_some() && !item.is_broken("can_read") && !item.is_broken("can_write") {
        libraries(item, &access, plan, scope);
    }
    Some(access)
}

fn paths(
    item: &Item,
    key: &str,
    given: Option<&[String]>,
    plan: &ServicePlan,
    scope: &mut Scope<'_>,
) -> Option<Vec<String>> {
    let given = given?;
    if given.len() > PATHS_MAX {
        scope.report.error(item, key, format!("a service names at most {PATHS_MAX} paths"));
    }
    let mut list: Vec<String> = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let place = format!("{key}[{index}]");
        if !no_zero_byte(item, &place, text, scope) {
            continue;
        }
        let first = PathBuf::from(expand(text, &plan.words(0, scope.run_dir)));
        if !first.is_absolute() {
            let message = format!("{text:?} is not an absolute path");
            scope.report.error(item, &place, message).hint("it must start with /");
            continue;
        }
        let of_replica = words::braced(text).any(|word| matches!(word, "replica" | "port"));
        if !of_replica && !first.starts_with(scope.run_dir) && !scope.context.look.exists(&first) {
            let message = format!("{} does not exist: the service does not start while it is missing", first.display());
            scope.report.warning(item, &place, message);
        }
        if list.contains(text) {
            scope.report.warning(item, &place, format!("{text:?} stands here twice"));
        } else {
            list.push(text.clone());
        }
    }
    Some(list)
}

/// Without the loader and its libraries only a static program starts; the program itself is always allowed.
fn libraries(item: &Item, access: &Access, plan: &ServicePlan, scope: &mut Scope<'_>) {
    let words = plan.words(0, scope.run_dir);
    let named: Vec<PathBuf> =
        access.read.iter().chain(&access.write).flatten().map(|text| PathBuf::from(expand(text, &words))).collect();
    let covers = |library: &Path| named.iter().any(|path| library.starts_with(path) || path.starts_with(library));
    if !LIBRARIES.iter().any(|library| covers(Path::new(library))) {
        let message = "nothing of /usr/lib or /lib can be read: only a static program starts";
        scope.report.note(item, "can_read", message).hint("add \"/usr\", \"/lib\" and \"/lib64\", unless it is static");
    }
}
