//! An operator fences a service, or lifts a fence.

use super::plan::FenceLevel;
use crate::engine::Engine;
use crate::engine::event::Target;
use crate::engine::types::{ReplicaId, RequestId};

impl Engine {
    /// `None`: the fence ends, whoever set it.
    pub(in crate::engine) fn command_fence(
        &mut self,
        request: RequestId,
        target: &Target,
        replicas: &[ReplicaId],
        level: Option<FenceLevel>,
    ) {
        let _ = (request, target, replicas, level);
    }
}
