//! What services mean to each other: names that are given once, dependencies without circles, and how many there are.

use std::collections::{BTreeMap, BTreeSet};

use super::super::suggest;
use super::{Given, REPLICAS_MAX, Scope, sockets};
use crate::engine::plan::ServicePlan;

const EDGES: [&str; 4] = ["requires", "wants", "after", "restart_with"];

/// `incomplete`: some names may be missing, so that nothing is said about unknown ones.
pub(super) fn check(given: &[Given], plans: &[ServicePlan], incomplete: bool, scope: &mut Scope<'_>) {
    let names = names(given, scope);
    let edges = edges(given, &names, incomplete, scope);
    cycles(given, &edges, scope);
    sockets::check(given, plans, scope);
    total(given, plans, scope);
}

/// The services by name; of equal names the first counts.
fn names<'a>(given: &'a [Given], scope: &mut Scope<'_>) -> BTreeMap<&'a str, usize> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, Given { item, service }) in given.iter().enumerate() {
        let name = service.name.as_str();
        match names.get(name) {
            _ if name.is_empty() => {}
            Some(first) => {
                let place = scope.report.place(&given[*first].item, "name");
                let found = scope.report.error(item, "name", format!("there are two services {name:?}"));
                found.hint(format!("the other one is at {place}"));
            }
            None => {
                names.insert(name, index);
            }
        }
    }
    names
}

/// Where one service names another.
struct Edge {
    to: usize,
    path: String,
}

fn edges(given: &[Given], names: &BTreeMap<&str, usize>, incomplete: bool, scope: &mut Scope<'_>) -> Vec<Vec<Edge>> {
    let mut all = Vec::new();
    for Given { item, service } in given {
        let mut edges = Vec::new();
        for (key, list) in
            EDGES.into_iter().zip([&service.requires, &service.wants, &service.after, &service.restart_with])
        {
            let mut seen = BTreeSet::new();
            for (index, name) in list.iter().enumerate() {
                let path = format!("{key}[{index}]");
                if !seen.insert(name) {
                    scope.report.warning(item, &path, format!("{name:?} stands here twice"));
                    continue;
                }
                match names.get(name.as_str()) {
                    Some(to) => edges.push(Edge { to: *to, path }),
                    None if incomplete => {}
                    None => {
                        let hint = suggest::did_you_mean(name, names.keys().copied());
                        scope.report.error(item, &path, format!("there is no service {name:?}")).maybe_hint(hint);
                    }
                }
            }
        }
        all.push(edges);
    }
    all
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

/// Each circle once, where it closes. Depth first with a stack of our own: a chain may be as long as there are services.
fn cycles(given: &[Given], edges: &[Vec<Edge>], scope: &mut Scope<'_>) {
    let mut marks = vec![Mark::New; given.len()];
    let mut reported: BTreeSet<Vec<usize>> = BTreeSet::new();
    for start in 0..given.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        let mut trail: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((at, next)) = trail.last_mut() {
            let from = *at;
            let Some(edge) = edges[from].get(*next) else {
                marks[from] = Mark::Done;
                trail.pop();
                continue;
            };
            *next += 1;
            match marks[edge.to] {
                Mark::New => {
                    marks[edge.to] = Mark::Open;
                    trail.push((edge.to, 0));
                }
                Mark::Open => {
                    let circle: Vec<usize> = trail.iter().map(|(at, _)| *at).skip_while(|at| *at != edge.to).collect();
                    let mut same = circle.clone();
                    same.sort_unstable();
                    if reported.insert(same) {
                        let words: Vec<&str> =
                            circle.iter().chain([&edge.to]).map(|at| given[*at].service.name.as_str()).collect();
                        let message = format!("services wait for each other: {}", words.join(" -> "));
                        scope
                            .report
                            .error(&given[from].item, &edge.path, message)
                            .hint("remove one of these dependencies");
                    }
                }
                Mark::Done => {}
            }
        }
    }
}

fn total(given: &[Given], plans: &[ServicePlan], scope: &mut Scope<'_>) {
    let mut sum = 0;
    for (Given { item, .. }, plan) in given.iter().zip(plans) {
        sum += u32::from(plan.replicas);
        if sum > REPLICAS_MAX {
            let message = format!("with this service there are more than {REPLICAS_MAX} replicas in all");
            scope.report.error(item, "replicas", message);
            return;
        }
    }
}
