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
    if restores && link.is_none() && scope.context.uid != 0 {
        let message = "only root can mount the copy over the source: the services will be held instead";
        scope.report.warning(item, "on_source_failing", message).hint("failover: (link: ..) switches a symbolic link");
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
    }
    Some(link)
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
