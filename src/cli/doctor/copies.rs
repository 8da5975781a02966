//! Whether copies can be made, by the agent's own word.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, fail, ok, warn};
use crate::api::client::Access;
use crate::api::copies::{Copies, Set};
use crate::api::proto::Index;
use crate::cli::args::Invocation;
use crate::cli::ask;
use crate::sys::caps;

/// Nothing where no agent runs, or where it makes no copies.
pub(super) fn findings(invocation: &Invocation) -> Vec<Finding> {
    let Ok(client) = ask::agent(invocation, Access::Read) else { return Vec::new() };
    let Ok(all) = client.get_json::<Copies>("/v1/copies") else { return Vec::new() };
    // Who may not know the agent's number is not told what it may do.
    let agent = client.get_json::<Index>("/v1").ok().map(|index| index.pid);
    let mounts = agent.and_then(|pid| caps::effective(pid).ok()).map(|set| caps::has(set, "SYS_ADMIN"));
    let host = Host { mounts, link: &|link| fs::read_link(link).map_err(|error| error.to_string()) };
    all.copies.iter().flat_map(|set| of_set(set).into_iter().chain(prospects(set, &host))).collect()
}

/// What is looked at from here.
struct Host<'a> {
    /// Whether the agent may mount, if that can be told.
    mounts: Option<bool>,
    /// What stands in a link.
    link: &'a dyn Fn(&str) -> Result<PathBuf, String>,
}

/// What would keep services from going on from a copy when the disk of a source fails.
fn prospects(set: &Set, host: &Host<'_>) -> Vec<Finding> {
    let Some(prospects) = set.prospects.as_ref().filter(|_| set.failover.is_none()) else { return Vec::new() };
    let name = &set.name;
    let mut findings = Vec::new();
    if prospects.services.is_empty() {
        let text = format!("{name}: no service has anything of it in its `data`, so none goes on from a copy");
        findings.push(warn("failover", text, format!("add {} to the `data` of the service", set.from.join(", "))));
    }
    if !prospects.shared.is_empty() {
        let shared = prospects.shared.join(", ");
        let text = format!("{name}: the copies need what the source needs ({shared}): nothing is left to go on from");
        findings.push(warn("failover", text, "keep the copies on another disk"));
    }
    match (&prospects.link, set.from.first()) {
        (None, _) if host.mounts == Some(false) => {
            let text = format!("{name}: the agent may not mount a copy over the source: services will be held instead");
            let remedy = "run it as root with CAP_SYS_ADMIN, or let a link be switched: failover: (link: ..)";
            findings.push(warn("failover", text, remedy));
        }
        (Some(link), Some(source)) => {
            let leads = (host.link)(link);
            if leads.as_ref().is_ok_and(|leads| leads == Path::new(source)) {
                return findings;
            }
            let leads =
                leads.map_or_else(|why| format!("cannot be read: {why}"), |to| format!("leads to {}", to.display()));
            let text = format!("{name}: the link {link} {leads}, and not to {source}: it cannot be switched");
            findings.push(warn("failover", text, format!("ln -sfn {source} {link}")));
        }
        (None | Some(_), _) => {}
    }
    findings
}

fn of_set(set: &Set) -> Vec<Finding> {
    let name = &set.name;
    if set.left {
        let why = set.why.clone().unwrap_or_default();
        let text = format!("{name}: it has left the configuration while its services run from a copy: {why}");
        return vec![fail("copies", text, "write the set as it was, mainstay reload, and bring it back")];
    }
    let why = set.target.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let text = format!("{name}: the target {} is {}{why}", set.to, set.target.state.replace('_', " "));
    let mut findings = vec![match set.target.state.as_ref() {
        "ready" => ok("copies", text),
        "unknown" => warn("copies", text, "its role has not answered yet: mainstay status --roles"),
        "absent" => fail("copies", text, "mount the disk of the copies, and write it into /etc/fstab"),
        "unmarked" => fail("copies", text, format!("mainstay copies init {name}, once")),
        "refused" => fail("copies", text, "docs/copies.md, \"What a target must be\", says what is refused and why"),
        "full" => fail("copies", text, "keep less, or take a larger disk"),
        "no_source" => fail("copies", text, "mount the source, or correct `from`"),
        _ => fail("copies", text, "see the health of that disk: mainstay checks, and the kernel's log"),
    }];
    if let Some(failover) = &set.failover {
        let copy = failover.copy.map(|copy| format!(" copy {copy}")).unwrap_or_default();
        let trouble = failover.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let text =
            format!("{name}: its source failed ({}), and its services go on from{copy}{trouble}", failover.cause);
        findings.push(warn("copies", text, format!("replace the disk, then mainstay copies failback {name}")));
    }
    if set.target.state == "ready" && !set.target.reflinks {
        let text =
            format!("{name}: the target cannot share pages, so each version of a large file takes its whole size");
        findings.push(warn("copies", text, "format the second disk as XFS or btrfs, or set `space.large`"));
    }
    if set.target.state == "ready" && set.count == 0 {
        findings.push(warn("copies", format!("{name}: there is no copy yet"), format!("mainstay copies run {name}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::copies::{Prospects, Target};

    fn set(state: &'static str, reflinks: bool, count: u64) -> Set {
        let target = Target {
            state: state.into(),
            why: (state != "ready").then(|| "so it is".to_owned()),
            uuid: None,
            free_bytes: 0,
            size_bytes: 0,
            reflinks,
        };
        let text = r#"{"name":"data","state":"ok","why":null,"from":[],"to":"/mnt/b/data","target":null,"count":0,"newest":null,"files":0,
            "bytes":0,"good_as_of":null,"age_ms":null,"max_age_ms":null,"next_at":null,"next_ms":null,"verified_at":null,"scrubbed_at":null,
            "scrub_permille":0,"restore_tested_at":null,"quarantined":0,"running":null,"failures":0,"failure":null,"prune_frozen":null,"failed_over":null}"#;
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["target"] = serde_json::to_value(target).unwrap();
        Set { count, ..serde_json::from_value(value).unwrap() }
    }

    #[test]
    fn what_keeps_copies_from_being_made_has_a_remedy() {
        assert_eq!(of_set(&set("ready", true, 1)), [ok("copies", "data: the target /mnt/b/data is ready")]);
        assert_eq!(of_set(&set("ready", false, 0)).len(), 3);
        for state in ["unknown", "absent", "unmarked", "refused", "full", "failing", "no_source"] {
            let found = of_set(&set(state, false, 0));
            assert!(found.len() == 1 && found[0].remedy.is_some() && found[0].text.contains("so it is"), "{state}");
        }
    }

    #[test]
    fn what_keeps_services_from_going_on_from_a_copy_has_a_remedy() {
        let told = |services: &[&str], shared: &[&str], link: Option<&str>, mounts| {
            let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
            let (services, shared) = (strings(services), strings(shared));
            let prospects = Prospects { services, shared, link: link.map(str::to_owned) };
            let set = Set { from: vec!["/srv/data".to_owned()], prospects: Some(prospects), ..set("ready", true, 1) };
            let link = |link: &str| match link {
                "/run/right" => Ok(PathBuf::from("/srv/data")),
                "/run/wrong" => Ok(PathBuf::from("/srv/other")),
                _ => Err("no such file".to_owned()),
            };
            let found = super::prospects(&set, &Host { mounts, link: &link });
            assert!(found.iter().all(|found| found.remedy.is_some() && found.object == "failover"));
            found.into_iter().map(|found| found.text).collect::<Vec<_>>()
        };
        let well: [String; 0] = [];
        assert_eq!(told(&["api"], &[], None, Some(true)), well);
        assert_eq!(told(&["api"], &[], None, None), well);
        assert_eq!(told(&["api"], &[], Some("/run/right"), Some(false)), well);
        assert!(told(&["api"], &[], None, Some(false))[0].contains("may not mount"));
        assert!(told(&["api"], &["/", "vda"], None, Some(true))[0].contains("(/, vda)"));
        assert!(told(&[], &[], None, Some(true))[0].contains("no service"));
        assert!(told(&["api"], &[], Some("/run/wrong"), None)[0].contains("leads to /srv/other, and not to /srv/data"));
        assert!(told(&["api"], &[], Some("/run/none"), None)[0].contains("no such file"));
        assert_eq!(told(&[], &["vda"], Some("/run/none"), None).len(), 3);
    }

    #[test]
    fn set_that_is_nowhere_but_in_force_is_told_as_such() {
        let why = Some("runs from copy 1".to_owned());
        let found = of_set(&Set { left: true, why, ..set("unknown", false, 0) });
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("has left the configuration") && found[0].text.contains("runs from copy 1"));
    }
}
