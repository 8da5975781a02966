//! A replica that is not alive is killed and restarted, but not for a fault that it does not own.

use super::plan::Mode;
use crate::engine::Engine;
use crate::engine::host::kind::CheckKind;
use crate::engine::host::{CheckKey, Health};
use crate::engine::types::{ReplicaId, ServiceId};

/// While one of these fails, everything is late.
const PRESSURE: [CheckKind; 4] =
    [CheckKind::Memory, CheckKind::PressureMemory, CheckKind::PressureIo, CheckKind::PressureCpu];

impl Engine {
    /// Why this replica is left alone although it is not alive, if it is.
    pub(in crate::engine) fn excuse(&self, id: ReplicaId) -> Option<String> {
        if let Some(trouble) = self.trouble(id.service) {
            return Some(format!("while {} fails", trouble.subject()));
        }
        if self.fence(id).is_some() {
            return Some("while it is fenced".to_owned());
        }
        if self.service_at(id.service).is_role {
            return None;
        }
        match self.read_fence_plan(id.service, |plan| plan.triggers.liveness) {
            Mode::On => {}
            Mode::Off => return Some("as `liveness` is off".to_owned()),
            Mode::DryRun => return Some("as `liveness` is a dry run; else it would be killed".to_owned()),
        }
        if let Some(missing) = self.missing_dependency(id.service) {
            return Some(format!("while {} is not well", self.name(missing)));
        }
        let fails = |kind: &CheckKind| self.check_state(*kind) == Health::Failing;
        PRESSURE.into_iter().find(fails).map(|kind| {
            let key = CheckKey { kind, target: String::new() };
            format!("while check {} is failing", self.check_name(&key))
        })
    }

    /// A service that this one needs and that is not there for it: down, or fenced wherever it is up.
    fn missing_dependency(&self, service: ServiceId) -> Option<ServiceId> {
        let edges = &self.service_at(service).edges;
        let serves = |id: &ReplicaId| {
            self.at(*id).seen.standing == crate::engine::service::Standing::Up && self.fence(*id).is_none()
        };
        let is_missing = |service: &ServiceId| !self.replicas_of(*service).iter().any(serves);
        // What is wanted only, and stopped by an operator, is not missed.
        let is_meant = |service: &ServiceId| self.replicas_of(*service).iter().any(|id| self.is_meant_to_run(*id));
        let wants = edges.wants.iter().filter(|service| is_meant(service));
        edges.requires.iter().chain(wants).copied().find(is_missing)
    }

    /// Whether a check of the whole host fails by its latest reading as well: nobody is killed for what is over.
    pub(in crate::engine) fn fails_now(&self, kind: CheckKind) -> bool {
        let key = CheckKey { kind, target: String::new() };
        self.check_state(kind) == Health::Failing && self.host.is_as_shown(&key)
    }

    /// The state of a check of the whole host.
    pub(in crate::engine) fn check_state(&self, kind: CheckKind) -> Health {
        let key = CheckKey { kind, target: String::new() };
        self.host.states.get(&key).map_or(Health::Unknown, |(state, _)| *state)
    }
}
