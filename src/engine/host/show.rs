//! The checks as others see them.

use super::feeds::{FeedKey, GRACE};
use super::state::{Check, HostState};
use super::view::CheckView;
use super::{CheckKey, Health};
use crate::engine::Engine;
use crate::engine::types::{Now, Time};

impl Engine {
    /// Every check with its state, by kind and target.
    #[must_use]
    pub fn checks(&self, _now: Now) -> Vec<CheckView> {
        let views = self.host.views().into_iter();
        let named = views.map(|view| {
            let key = CheckKey { kind: view.kind, target: view.target.clone() };
            CheckView { services: self.concerned_by(&key), ..view }
        });
        named.collect()
    }
}

impl HostState {
    /// Without the services that they concern.
    pub(super) fn views(&self) -> Vec<CheckView> {
        self.checks.iter().map(|(key, check)| self.view(key, check)).collect()
    }

    fn view(&self, key: &CheckKey, check: &Check) -> CheckView {
        let condition = &check.condition;
        let pace = FeedKey::pace(key);
        let feed = self.feeds.iter().find(|feed| feed.key == pace);
        let expected = feed.and_then(|feed| feed.deadline).map(|at| Time(at.0.saturating_sub(Time(0).after(GRACE).0)));
        CheckView {
            name: check.name.clone(),
            kind: key.kind,
            target: key.target.clone(),
            state: condition.state,
            value: check.value,
            unit: key.kind.unit(),
            degraded: check.rule.degraded,
            failing: check.rule.failing,
            since_wall: condition.since_wall,
            since: condition.since,
            sampled: check.sampled,
            next: expected,
            every: feed.map_or(check.rule.every, |feed| feed.every.max(check.rule.every)),
            flapping: condition.pin.is_some(),
            why: (condition.state != Health::Ok && !condition.why.is_empty()).then(|| condition.why.clone()),
            services: Vec::new(),
        }
    }
}
