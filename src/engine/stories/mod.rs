//! What the engine does, told as stories. Each begins with services that are being started.

mod adopt;
mod alerts;
mod balance;
mod commands;
mod copies;
mod copies_still;
mod failover;
mod failover_changed;
mod fence;
mod fence_auto;
mod fence_late;
mod health;
mod host;
mod host_helpers;
mod order;
mod restore_service;
mod runs;
mod watchdog;
