//! What others may see of fences and limits.

use super::plan::Limits;
use super::record::Record;
use super::view::{FencesView, LimitsView, ReplicaFence};
use crate::engine::Engine;
use crate::engine::types::{Now, ReplicaId};

impl Engine {
    /// The limits that this replica is to have now, at its birth or while it runs.
    #[must_use]
    pub fn limits(&self, replica: ReplicaId) -> Limits {
        let plan = self.service_plan(replica.service);
        plan.and_then(|plan| plan.resources.as_ref()).map(|resources| resources.limits.clone()).unwrap_or_default()
    }

    /// Whether the shell is to report its kill and its freezing (`Event::Wrote`).
    #[must_use]
    pub fn is_fenced(&self, _replica: ReplicaId) -> bool {
        false
    }

    pub(in crate::engine) fn fence_of(&self, _id: ReplicaId) -> Option<ReplicaFence<'_>> {
        None
    }

    pub(in crate::engine) fn limits_view(&self, id: ReplicaId) -> LimitsView<'_> {
        LimitsView { wanted: self.limits(id), refused: &[] }
    }

    #[must_use]
    pub fn fences(&self, _now: Now) -> FencesView<'_> {
        FencesView::default()
    }

    /// The evidence of one fence.
    #[must_use]
    pub fn fence_record(&self, id: u64) -> Option<&Record> {
        self.fence.memory.records.iter().find(|record| record.id == id)
    }
}
