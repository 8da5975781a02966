//! `can_read` and `can_write` of a service: the paths that the kernel leaves to it (Landlock).

use std::path::{Path, PathBuf};

use super::super::report::Item;
use super::super::schema::Service;
use super::{Scope, no_zero_byte, words};
use crate::engine::fence::plan::Access;
use crate::engine::plan::{ServicePlan, expand};

/// Each path is opened by every child before it becomes the service.
const PATHS_MAX: usize = 64;

/// `None`: not restricted.
pub(super) fn access(
    item: &Item,
    service: &Service,
    plan: &ServicePlan,
    command: &[String],
    scope: &mut Scope<'_>,
) -> Option<Access> {
    let access = Access {
        read: paths(item, "can_read", service.can_read.as_deref(), plan, scope),
        write: paths(item, "can_write", service.can_write.as_deref(), plan, scope),
    };
    if access == Access::default() {
        return None;
    }
    if access.read.is_some() && !item.is_broken("can_read") && !item.is_broken("can_write") {
        program(item, &access, plan, command, scope);
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
            let message = format!(
                "{} does not exist: what is made there while the service runs stays closed to it",
                first.display()
            );
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

/// The program must be readable too, or nothing starts.
fn program(item: &Item, access: &Access, plan: &ServicePlan, command: &[String], scope: &mut Scope<'_>) {
    let Some(program) = command.first().map(Path::new).filter(|program| program.is_absolute()) else { return };
    let look = &scope.context.look;
    let real = look.resolve(program).unwrap_or_else(|| program.to_owned());
    let words = plan.words(0, scope.run_dir);
    let covers = |text: &String| {
        let path = PathBuf::from(expand(text, &words));
        real.starts_with(look.resolve(&path).unwrap_or(path))
    };
    if !access.read.iter().chain(&access.write).flatten().any(covers) {
        let message = format!("the command itself, {}, cannot be read: nothing would start", real.display());
        let directory = real.parent().unwrap_or(Path::new("/usr/bin")).display();
        let hint = format!(
            "add {:?}; a program that is not static also needs \"/usr/lib\" (and \"/lib\", \"/lib64\")",
            directory.to_string()
        );
        scope.report.error(item, "can_read", message).hint(hint);
    }
}
