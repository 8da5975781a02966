//! Where the agent of this invocation is.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::args::Invocation;
use super::exit::CliError;
use super::{check, table};
use crate::api::client::{Access, Client};

/// The agent, found by `--socket`, else by the `run_dir` of `--config`, else by `MAINSTAY_SOCKET`, else where agents usually are.
///
/// # Errors
/// There is none, or this user may not ask it.
pub(super) fn agent(invocation: &Invocation, access: Access) -> Result<Client, CliError> {
    let places = match (invocation.path(&table::SOCKET), invocation.path(&table::CONFIG)) {
        (Some(socket), _) => vec![socket],
        (None, Some(file)) => vec![check::run_dir(&file)?],
        (None, None) => usual_places(),
    };
    Ok(Client::find(&places, access)?)
}

fn usual_places() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(socket) = variable("MAINSTAY_SOCKET") {
        return vec![socket];
    }
    let mut places = vec![PathBuf::from("/run/mainstay")];
    places.extend(variable("XDG_RUNTIME_DIR").map(|directory| directory.join("mainstay")));
    let uid = crate::sys::host::uid();
    let temporary = PathBuf::from(format!("/tmp/mainstay-{uid}"));
    // Anybody may make a directory of this name; only our own is believed.
    if owner(&temporary) == Some(uid) {
        places.push(temporary);
    }
    places.retain(|place| place.is_dir() || place == Path::new("/run/mainstay"));
    places
}

fn owner(path: &Path) -> Option<u32> {
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_dir).map(|metadata| metadata.uid())
}
