//! Which copies of which sets hold the data of a service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Part;
use crate::engine::Engine;
use crate::engine::copies::catalog::Copy;
use crate::engine::copies::plan::CopyPlan;
use crate::engine::types::{ServiceId, Time};

impl Engine {
    /// One part for each set that something comes from.
    pub(super) fn parts_to_restore(&self, service: ServiceId, seq: Option<u64>) -> Result<Vec<Part>, String> {
        let name = self.name(service);
        let data = self.plan_of(service).needs.as_deref().map(|needs| needs.data.as_slice()).unwrap_or_default();
        if data.is_empty() {
            return Err(format!("{name} declares no `data`, so nothing of a set is its own; {}", self.sets_in_words()));
        }
        let wanted = self.wanted_of(data);
        if wanted.is_empty() {
            let data: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
            let sets = self.sets_in_words();
            return Err(format!("no set of copies has the data of {name} ({}); {sets}", data.join(", ")));
        }
        let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
        for path in wanted {
            let (plan, copy) = self.best_copy_of(&path, seq)?;
            let part = || Part {
                set: plan.name.clone(),
                seq: copy.seq,
                verified: copy.verified.is_some(),
                paths: Vec::new(),
                swaps: Vec::new(),
            };
            parts.entry(&plan.name).or_insert_with(part).paths.push(path);
        }
        if seq.is_some() && parts.len() > 1 {
            let sets: Vec<&str> = parts.keys().copied().collect();
            let sets = sets.join(" and ");
            return Err(format!("the data of {name} is in {sets}, whose copies have numbers of their own; name none"));
        }
        Ok(parts.into_values().collect())
    }

    /// The directories to be replaced: those of the service that a set has whole, and the sources that lie within the others.
    fn wanted_of(&self, data: &[PathBuf]) -> Vec<PathBuf> {
        let sources = || self.plan.copies.iter().flat_map(|plan| &plan.from);
        let mut wanted: Vec<PathBuf> = Vec::new();
        for path in data {
            if sources().any(|from| path.starts_with(from)) {
                wanted.push(path.clone());
            } else {
                wanted.extend(sources().filter(|from| from.starts_with(path)).cloned());
            }
        }
        wanted.sort();
        wanted.dedup();
        let all = wanted.clone();
        wanted.retain(|path| !all.iter().any(|other| other != path && path.starts_with(other)));
        wanted
    }

    /// The newest good one that was verified, of all sets that have this directory; else the newest good one.
    fn best_copy_of(&self, path: &Path, seq: Option<u64>) -> Result<(&CopyPlan, &Copy), String> {
        let covers = |plan: &&CopyPlan| plan.from.iter().any(|from| path.starts_with(from));
        let sets: Vec<&CopyPlan> = self.plan.copies.iter().filter(covers).collect();
        let found = sets.iter().filter_map(|plan| Some((*plan, self.best_copy(plan, seq)?)));
        let rank = |copy: &Copy| -> (bool, Time) { (copy.verified.is_some(), copy.at) };
        found.max_by_key(|(_, copy)| rank(copy)).ok_or_else(|| {
            let why: Vec<String> = sets.iter().map(|plan| self.why_no_copy(plan, seq)).collect();
            format!("there is nothing to restore {} from: {}", path.display(), why.join("; "))
        })
    }

    fn best_copy(&self, plan: &CopyPlan, seq: Option<u64>) -> Option<&Copy> {
        let copies = &self.copies.sets.get(&plan.name).filter(|memory| memory.heard)?.catalog.copies;
        if let Some(seq) = seq {
            return copies.iter().find(|copy| copy.seq == seq);
        }
        let good = || copies.iter().rev().filter(|copy| copy.is_good());
        good().find(|copy| copy.verified.is_some()).or_else(|| good().next())
    }

    fn why_no_copy(&self, plan: &CopyPlan, seq: Option<u64>) -> String {
        let set = &plan.name;
        match (self.copies.sets.get(set).is_some_and(|memory| memory.heard), seq) {
            (false, _) => format!("the role of copies {set} does not answer; see `mainstay status @copy.{set}`"),
            (true, Some(seq)) => format!("copies {set} has no copy {seq}; `mainstay copies list {set}` shows them"),
            (true, None) => format!("copies {set} has no good copy; `mainstay copies list {set}` shows the others"),
        }
    }

    fn sets_in_words(&self) -> String {
        let from = |plan: &CopyPlan| plan.from.iter().map(|from| from.display().to_string()).collect::<Vec<_>>();
        let set = |plan: &CopyPlan| format!("{} ({})", plan.name, from(plan).join(", "));
        let sets: Vec<String> = self.plan.copies.iter().map(set).collect();
        if sets.is_empty() { "there are no sets".to_owned() } else { format!("the sets are {}", sets.join(", ")) }
    }
}
