//! The first thing on a target: its marker. Done by hand and once, because it says that whatever is mounted there is meant for copies.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::guard;
use super::reserve;
use super::target::{FORMAT, Marker, Refused, directory};
use crate::copies::conduct::Conduct;
use crate::copies::failure::{failure, on_target};
use crate::copies::format::layout::{DIRECTORIES, MARKER, PROGRAM_DIRECTORY};
use crate::engine::copies::catalog::TargetState;
use crate::engine::copies::order::{Failure, FailureKind};
use crate::engine::copies::plan::CopyPlan;
use crate::sys::dir::{Dir, Rename};

/// Marks the target and makes the directories of the set; returns the uuid. A target that this machine has marked already is left as it is; one of
/// another machine is taken over with `claim`, and everything on it stays.
pub fn init(plan: &CopyPlan, claim: Claim, conduct: &mut dyn Conduct) -> Result<String, Failure> {
    if plan.same_disk && !plan.to.exists() {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&plan.to);
        made.map_err(|error| on_target(plan.to.display(), &error))?;
    }
    let place = guard::place(plan).map_err(Refused)?;
    guard::medium(plan, &place).map_err(Refused)?;
    let failed = |error: io::Error| on_target(place.root_path.display(), &error);
    let former = match Marker::read(&place.root) {
        Ok(former) => former,
        Err(error) if claim == Claim::Taken && error.kind() == io::ErrorKind::InvalidData => None,
        Err(error) => return Err(failed(error)),
    };
    let marker = marker(plan, former.as_ref(), claim, conduct)?;
    if former.as_ref() != Some(&marker) {
        write_marker(&place.root, &marker).map_err(failed)?;
    }
    reserve::make(&place.root).map_err(failed)?;
    carry_program(&place.root).map_err(failed)?;
    let set = directory(&place.root, &place.below.join(&plan.name)).map_err(failed)?;
    for name in DIRECTORIES {
        directory(&set, Path::new(name)).map_err(failed)?;
    }
    set.sync_fs().map_err(failed)?;
    Ok(marker.uuid)
}

/// Whether a target may be taken over from another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    No,
    Taken,
}

fn marker(plan: &CopyPlan, former: Option<&Marker>, claim: Claim, conduct: &dyn Conduct) -> Result<Marker, Failure> {
    let machine = machine();
    let Some(former) = former else {
        let random = || fs::read_to_string("/proc/sys/kernel/random/uuid").map(|uuid| uuid.trim().to_owned());
        let uuid = match &plan.uuid {
            Some(uuid) => uuid.clone(),
            None => random().map_err(|error| on_target("/proc/sys/kernel/random/uuid", &error))?,
        };
        return Ok(Marker { format: FORMAT, uuid, created: conduct.now(), machine });
    };
    let refused = |why: String| Failure::from(Refused(TargetState::Refused { why }));
    if former.format != FORMAT {
        return Err(refused(format!("it is marked with format {}, this program knows {FORMAT}", former.format)));
    }
    if let Some(wanted) = plan.uuid.as_ref().filter(|wanted| **wanted != former.uuid) {
        return Err(refused(format!("it is target {}, the configuration wants {wanted}", former.uuid)));
    }
    if former.machine != machine && claim == Claim::No {
        let what = format!("it is target {} of machine {}", former.uuid, former.machine);
        return Err(failure(FailureKind::Target, what, Some("`--claim` takes it over; what lies on it stays")));
    }
    Ok(Marker { machine, ..former.clone() })
}

fn machine() -> String {
    let text = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() }
}

fn write_marker(root: &Dir, marker: &Marker) -> io::Result<()> {
    let fresh = OsString::from(format!("{MARKER}.new"));
    let mut file = root.overwrite(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(marker)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    root.rename(&fresh, root, OsStr::new(MARKER), Rename::Replace)?;
    root.sync()
}

/// Puts this program beside the copies, for a rescue shell that has nothing else.
pub(in crate::copies) fn carry_program(root: &Dir) -> io::Result<()> {
    let dir = directory(root, Path::new(PROGRAM_DIRECTORY))?;
    let name = OsString::from(format!("mainstay-{}", env!("CARGO_PKG_VERSION")));
    let mut program = File::open("/proc/self/exe")?;
    let size = program.metadata()?.len();
    if dir.stat(&name).is_ok_and(|found| found.size == size) {
        return Ok(());
    }
    let fresh = OsStr::new("mainstay.new");
    let mut file = dir.overwrite(fresh)?;
    io::copy(&mut program, &mut file)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    file.sync_all()?;
    dir.rename(fresh, &dir, &name, Rename::Replace)?;
    dir.sync()
}
