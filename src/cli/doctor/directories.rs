//! The agent's directories: owner, mode, room, and sockets that nobody listens on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::{Finding, fail, ok, warn};
use crate::api::server::{ADMIN_SOCKET, READ_SOCKET};
use crate::cli::args::Invocation;
use crate::cli::exit::CliError;
use crate::cli::output::size;
use crate::cli::{check, table};
use crate::sys;

const FREE_BYTES_WANTED: u64 = 256 << 20;
const FREE_BYTES_NEEDED: u64 = 16 << 20;

pub(super) fn findings(invocation: &Invocation) -> Result<Vec<Finding>, CliError> {
    let dirs = check::dirs(invocation.path(&table::CONFIG).as_deref())?;
    let mut findings = vec![run_dir(&dirs.run_dir)];
    findings.extend([ADMIN_SOCKET, READ_SOCKET].into_iter().filter_map(|name| socket(&dirs.run_dir.join(name))));
    findings.push(room("state_dir", &dirs.state_dir));
    findings.push(room("log_dir", &dirs.log_dir));
    Ok(findings)
}

fn run_dir(path: &Path) -> Finding {
    let object = "run_dir";
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return ok(object, format!("{shown} will be made by the agent"));
        }
        Err(error) => return fail(object, format!("{shown}: {error}"), "make it reachable for the agent"),
    };
    if !metadata.is_dir() {
        return fail(object, format!("{shown} is no directory"), format!("remove {shown}"));
    }
    let uid = sys::host::uid();
    if metadata.uid() != uid && metadata.uid() != 0 {
        let text = format!("{shown} belongs to uid {}: an agent of uid {uid} refuses it", metadata.uid());
        return fail(object, text, format!("chown {uid} {shown}, or name another run_dir"));
    }
    if metadata.mode() & 0o022 != 0 {
        let text = format!("{shown} can be written by others (mode {:o})", metadata.mode() & 0o7777);
        return fail(object, text, format!("chmod 0711 {shown}"));
    }
    ok(object, format!("{shown} of uid {}, mode {:o}", metadata.uid(), metadata.mode() & 0o7777))
}

/// A socket that is there although nobody listens.
fn socket(path: &Path) -> Option<Finding> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let text = format!("{} is left over: nobody listens", path.display());
            Some(warn("sockets", text, "start the agent, which replaces it"))
        }
        Ok(_) | Err(_) => None,
    }
}

/// The directory itself, or the nearest one above it that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"))
}

fn room(object: &'static str, path: &Path) -> Finding {
    let there = existing(path);
    let shown = path.display();
    if access(there, AccessFlags::W_OK).is_err() {
        let text = format!("{} cannot be written by this user", there.display());
        // A user who only asks is not the agent.
        return if sys::host::uid() == 0 {
            fail(object, text, "remount it for writing, or name another directory")
        } else {
            warn(object, text, "nothing, if the agent runs as another user")
        };
    }
    let free = match statvfs(there) {
        Ok(stat) => stat.blocks_available().saturating_mul(stat.fragment_size()),
        Err(error) => return warn(object, format!("{shown}: {error}"), "mend the file system"),
    };
    let text = format!("{shown} has {}B free", size(free));
    match free {
        FREE_BYTES_WANTED.. => ok(object, text),
        FREE_BYTES_NEEDED.. => warn(object, text, "make room, or lower logs.max_size and logs.keep"),
        0.. => fail(object, text, "make room: output of services is dropped when the disk is full"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::super::Verdict;
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn a_run_dir_that_others_can_write_fails() {
        let directory = TempDir::new();
        let path = directory.path().join("run");
        assert_eq!(run_dir(&path).verdict, Verdict::Ok);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(run_dir(&path).verdict, Verdict::Ok);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let finding = run_dir(&path);
        assert_eq!(
            (finding.verdict, finding.remedy.unwrap()),
            (Verdict::Fail, format!("chmod 0711 {}", path.display()))
        );
    }

    #[test]
    fn a_socket_without_a_listener_is_told() {
        let directory = TempDir::new();
        let path = directory.path().join(ADMIN_SOCKET);
        assert_eq!(socket(&path), None);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(socket(&path), None);
        drop(listener);
        assert_eq!(socket(&path).unwrap().verdict, Verdict::Warn);
    }
}
