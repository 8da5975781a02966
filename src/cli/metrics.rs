//! `mainstay metrics`.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::{ask, output};
use crate::api::client::Access;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let body = ask::agent(invocation, Access::Read)?.get("/metrics")?;
    output::print(&String::from_utf8_lossy(&body))?;
    Ok(Exit::Well)
}
