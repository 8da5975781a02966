//! Who is concerned: from the checks that changed to the services that need what failed.

use super::Change;
use crate::engine::Engine;

impl Engine {
    /// Called once a step with every check that changed its state in it.
    pub(in crate::engine) fn checks_changed(&mut self, _changes: &[Change]) {}
}
