//! Whether copies can be made, by the agent's own word.

use super::{Finding, fail, ok, warn};
use crate::api::client::Access;
use crate::api::copies::{Copies, Set};
use crate::cli::args::Invocation;
use crate::cli::ask;

/// Nothing where no agent runs, or where it makes no copies.
pub(super) fn findings(invocation: &Invocation) -> Vec<Finding> {
    let all = ask::agent(invocation, Access::Read).ok().and_then(|client| client.get_json("/v1/copies").ok());
    all.map_or_else(Vec::new, |all: Copies| all.copies.iter().flat_map(of_set).collect())
}

fn of_set(set: &Set) -> Vec<Finding> {
    let name = &set.name;
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
    use crate::api::copies::Target;

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
}
