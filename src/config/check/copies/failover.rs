//! Going on from a copy: what is switched, and whether it can help.

use std::path::{Path, PathBuf};

use super::super::super::report::Item;
use super::super::super::schema::{self, Copy};
use super::super::Scope;
use super::paths;
use crate::engine::copies::plan::{FailoverPlan, OnSourceFailing};
use crate::engine::plan::ServicePlan;

pub(super) fn plan(
    item: &Item,
    copy: &Copy,
    from: &[PathBuf],
    to: &Path,
    on_source_failing: Option<OnSourceFailing>,
    services: &[ServicePlan],
    scope: &mut Scope<'_>,
) -> FailoverPlan {
    let schema::Failover { after, link } = &copy.failover;
    let restores = on_source_failing == Some(OnSourceFailing::Restore);
    if copy.failover != schema::Failover::default() && !restores {
        let message = "`failover` has no effect without `on_source_failing: Restore`";
        scope.report.warning(item, "failover", message);
    }
    let link = link.as_ref().and_then(|text| self::link(item, text, copy, from, to, scope));
    let may_mount = scope.context.uid == 0 && scope.context.look.root_may_mount();
    if restores && copy.failover.link.is_none() && !may_mount {
        let who = if scope.context.uid == 0 { "without CAP_SYS_ADMIN root cannot" } else { "only root can" };
        let message = format!("{who} mount the copy over the source: the services will be held instead");
        scope.report.warning(item, "on_source_failing", message).hint("failover: (link: ..) switches a symbolic link");
    }
    if restores && copy.same_disk {
        let message = "the copies may be on the disk that fails: then there is nothing to go on from";
        scope.report.warning(item, "same_disk", message).hint("keep them on another disk, and remove `same_disk`");
    }
    if restores {
        lies_within(item, from, services, scope);
    }
    FailoverPlan { after: after.0, link }
}

/// A link that leads to the one source, and is not on its disk.
fn link(item: &Item, text: &str, copy: &Copy, from: &[PathBuf], to: &Path, scope: &mut Scope<'_>) -> Option<PathBuf> {
    let link = paths::absolute(item, "failover.link", text, scope)?;
    if copy.from.len() != 1 {
        let message = "a link leads to one source, and this set has others";
        scope
            .report
            .error(item, "failover.link", message)
            .hint("one set for each, or no link: then all are mounted over");
    }
    if copy.from.iter().any(|source| PathBuf::from(source).starts_with(&link)) {
        let message = format!("the source is named by the link {}, which is to be switched", link.display());
        scope.report.error(item, "from", message).hint("write what the link leads to");
    } else if from.iter().any(|source| link.starts_with(source)) || link.starts_with(to) {
        let message = format!("{} lies on a disk that it is to lead away from", link.display());
        scope.report.error(item, "failover.link", message).hint("put the link where neither disk is needed");
    } else if let [source] = from {
        leads_home(item, &link, source, to, scope);
    }
    // As the data of a service that is reached by it are known while it leads nowhere.
    let parent = link.parent().and_then(|parent| scope.context.look.resolve(parent));
    Some(parent.zip(link.file_name()).map_or(link.clone(), |(parent, name)| parent.join(name)))
}

/// A link that leads elsewhere is somebody else's, and is not switched.
fn leads_home(item: &Item, link: &Path, source: &Path, to: &Path, scope: &mut Scope<'_>) {
    let message = match scope.context.look.link(link) {
        // It was switched, and leads to the live data.
        Some(leads) if leads == source || leads.starts_with(to) => return,
        Some(leads) => format!("{} leads to {}, and not to {}", link.display(), leads.display(), source.display()),
        None => format!("{} is no symbolic link", link.display()),
    };
    let message = format!("{message}: it cannot be switched, and the services will be held instead");
    let hint = format!("ln -sfn {} {}", source.display(), link.display());
    scope.report.warning(item, "failover.link", message).hint(hint);
}

/// What else a service needs of a failing disk would keep it held.
fn lies_within(item: &Item, from: &[PathBuf], services: &[ServicePlan], scope: &mut Scope<'_>) {
    for service in services.iter().filter(|service| from.iter().any(|source| paths::is_data_of(service, source))) {
        let data = service.needs.iter().flat_map(|needs| &needs.data);
        for other in data.filter(|data| !from.iter().any(|source| data.starts_with(source))) {
            let message = format!(
                "{} is data of {} as well and not of this set: should its disk fail, {} is held all the same",
                other.display(),
                service.name,
                service.name
            );
            scope.report.warning(item, "on_source_failing", message).hint("add it to `from`");
        }
    }
}
