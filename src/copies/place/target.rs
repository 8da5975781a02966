//! A target: the marked mount that sets of copies lie on, and one set of it, locked.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::catalog::{self, Listed};
use super::guard::{self, Place};
use super::state::{Loaded, State};
use crate::copies::failure::{failure, on_target, other};
use crate::copies::format::commit::Commit;
use crate::copies::format::layout::{
    COPIES, DATA, DIRECTORIES, LIVE, MANIFEST, MARKER, QUARANTINE, STATE, TRASH, WORK,
};
use crate::copies::format::manifest::Reader;
use crate::engine::copies::catalog::{Catalog, TargetState};
use crate::engine::copies::order::{Failure, FailureKind, Finding, FindingKind};
use crate::engine::copies::plan::CopyPlan;
use crate::engine::types::Time;
use crate::sys::clone::clone_file;
use crate::sys::dir::{Dir, Lock, LockError};

pub const FORMAT: u32 = 1;
/// A marker is shorter than this.
const MARKER_BYTES_MAX: u64 = 4 << 10;
/// Of the files that show whether the target can be written to, and whether it shares pages.
const PROBE: &str = "probe";
const PROBE_CLONE: &str = "probe-clone";
const PROBE_BYTES: usize = 4096;

/// What `.mainstay-target` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub format: u32,
    pub uuid: String,
    pub created: Time,
    /// `/etc/machine-id` of the machine that marked it, or claimed it last.
    pub machine: String,
}

impl Marker {
    /// Of this directory; `None`: there is none.
    pub(in crate::copies) fn read(root: &Dir) -> io::Result<Option<Self>> {
        let file = match root.read(OsStr::new(MARKER)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MARKER_BYTES_MAX).read_to_end(&mut text)?;
        Ok(Some(serde_json::from_slice(&text)?))
    }
}

/// No copies can be made there, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub TargetState);

impl Refused {
    fn failing(what: impl fmt::Display, error: &io::Error) -> Self {
        Self(TargetState::Failing { why: format!("{what}: {error}") })
    }
}

impl From<Refused> for Failure {
    fn from(Refused(state): Refused) -> Self {
        let (kind, why, remedy) = match state {
            TargetState::Unknown | TargetState::Ready => {
                (FailureKind::Other, "nothing is known of it".to_owned(), None)
            }
            TargetState::Absent { why } => (FailureKind::Target, why, Some("mount the disk of the copies")),
            TargetState::Unmarked { why } => (FailureKind::Target, why, Some("`mainstay copies init NAME`, once")),
            TargetState::Refused { why } => (FailureKind::Target, why, None),
            TargetState::Full { missing_bytes } => {
                (FailureKind::Full, format!("{missing_bytes} bytes are missing"), Some("make room on the target"))
            }
            TargetState::Failing { why } => (FailureKind::TargetIo, why, Some("see the health of that disk")),
            TargetState::NoSource { why } => (FailureKind::Source, why, None),
        };
        failure(kind, why, remedy)
    }
}

/// A marked mount, seen to be the right one.
#[derive(Debug)]
pub struct Target {
    name: String,
    place: Place,
    marker: Marker,
}

impl Target {
    /// With all guards: copies may be made there.
    pub fn open(plan: &CopyPlan) -> Result<Self, Refused> {
        let place = guard::place(plan).map_err(Refused)?;
        guard::medium(plan, &place).map_err(Refused)?;
        Self::with_marker(plan, place)
    }

    /// For who only reads: on whatever disk it is, mounted read-only or not.
    pub fn open_to_read(plan: &CopyPlan) -> Result<Self, Refused> {
        Self::with_marker(plan, guard::place(plan).map_err(Refused)?)
    }

    fn with_marker(plan: &CopyPlan, place: Place) -> Result<Self, Refused> {
        let path = place.root_path.join(MARKER);
        let marker = match Marker::read(&place.root) {
            Ok(Some(marker)) => marker,
            Ok(None) => {
                let why = format!("{} is not there: nobody has said that copies may lie here", path.display());
                return Err(Refused(TargetState::Unmarked { why }));
            }
            Err(error) => return Err(Refused::failing(path.display(), &error)),
        };
        let refused = |why: String| Err(Refused(TargetState::Refused { why }));
        if marker.format != FORMAT {
            return refused(format!("{} is of format {}, this program knows {FORMAT}", path.display(), marker.format));
        }
        match &plan.uuid {
            Some(wanted) if *wanted != marker.uuid => {
                refused(format!("{} is target {}, the configuration wants {wanted}", path.display(), marker.uuid))
            }
            Some(_) | None => Ok(Self { name: plan.name.clone(), place, marker }),
        }
    }

    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.marker.uuid
    }

    /// What lies there, without a lock: somebody else may be at work.
    pub fn catalog(&self) -> io::Result<Catalog> {
        let opened = self.place.root.sub(&self.place.below.join(&self.name));
        let (dir, copies, state) =
            match opened.and_then(|dir| Ok((dir.sub(COPIES.as_ref())?, dir.sub(STATE.as_ref())?, dir))) {
                Ok((copies, state, dir)) => (dir, copies, state),
                // A set without any copy yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let space = self.place.root.space()?;
                    return Ok(Catalog {
                        target: TargetState::Ready,
                        uuid: Some(self.marker.uuid.clone()),
                        free_bytes: space.free_bytes,
                        size_bytes: space.size_bytes,
                        ..Catalog::default()
                    });
                }
                Err(error) => return Err(error),
            };
        let state = match State::load(&state)? {
            Loaded::Whole(state) => *state,
            Loaded::Missing | Loaded::Unreadable(_) => State::default(),
        };
        catalog::read(&dir, &copies, &state, &self.marker.uuid)
    }

    /// The set, for this process alone until it is dropped. Its directories are made where they are missing.
    pub fn lock(self) -> Result<Set, Failure> {
        self.locked(None)
    }

    /// The set, for whoever builds in `live/` alone: also while another job, which waits for a disk that does not answer, holds the lock of the set. Of the
    /// copies it only reads those that the engine removes meanwhile no more than any other in use.
    pub(in crate::copies) fn lock_live(self) -> Result<Set, Failure> {
        self.locked(Some(LIVE))
    }

    fn locked(self, part: Option<&str>) -> Result<Set, Failure> {
        let path = self.place.below.join(&self.name);
        let shown = self.place.root_path.join(&path);
        let failed = |error: io::Error| on_target(shown.display(), &error);
        let dir = directory(&self.place.root, &path).map_err(failed)?;
        let part = part.map(|name| directory(&dir, Path::new(name))).transpose().map_err(failed)?;
        let lock = match part.as_ref().unwrap_or(&dir).lock() {
            Ok(lock) => lock,
            Err(LockError::Busy) => {
                let what = format!("somebody else works on {}", shown.display());
                return Err(failure(FailureKind::Busy, what, Some("wait until it has ended")));
            }
            Err(LockError::Failed(error)) => return Err(failed(error)),
        };
        for name in DIRECTORIES {
            directory(&dir, Path::new(name)).map_err(failed)?;
        }
        let sub = |name: &str| dir.sub(name.as_ref()).map_err(failed);
        let (copies, work, trash) = (sub(COPIES)?, sub(WORK)?, sub(TRASH)?);
        let (quarantine, state_dir) = (sub(QUARANTINE)?, sub(STATE)?);
        let mut set = Set {
            name: self.name,
            place: self.place,
            marker: self.marker,
            path: shown,
            dir,
            copies,
            work,
            trash,
            quarantine,
            state_dir,
            state: State::default(),
            strays: Vec::new(),
            shuns_sources: part.is_some(),
            _lock: lock,
        };
        set.load()?;
        Ok(set)
    }
}

/// Opens a directory below, and makes what is missing of it.
pub(in crate::copies) fn directory(above: &Dir, path: &Path) -> io::Result<Dir> {
    match above.sub(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mut at = above.again()?;
    for name in path {
        match at.make_dir(name, 0o700) {
            Ok(()) => at.sync()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        at = at.sub(Path::new(name))?;
    }
    Ok(at)
}

/// A set that nobody else works on.
#[derive(Debug)]
pub struct Set {
    name: String,
    pub(in crate::copies) place: Place,
    marker: Marker,
    path: PathBuf,
    pub(in crate::copies) dir: Dir,
    pub(in crate::copies) copies: Dir,
    pub(in crate::copies) work: Dir,
    pub(in crate::copies) trash: Dir,
    pub(in crate::copies) quarantine: Dir,
    state_dir: Dir,
    state: State,
    strays: Vec<Finding>,
    /// Nothing is mended from them: their disk may never answer.
    pub(in crate::copies) shuns_sources: bool,
    _lock: Lock,
}

/// A copy that is whole as far as its COMMIT says, opened.
#[derive(Debug)]
pub struct CommittedCopy {
    pub dir: Dir,
    pub data: Dir,
    pub commit: Commit,
}

impl CommittedCopy {
    /// Its entries, in their order.
    pub fn manifest(&self) -> io::Result<Reader<File>> {
        Ok(Reader::new(self.dir.read(OsStr::new(MANIFEST))?))
    }
}

impl Set {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For messages; nothing is opened by it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn catalog(&self) -> io::Result<Catalog> {
        catalog::read(&self.dir, &self.copies, &self.state, &self.marker.uuid)
    }

    /// The committed copies, in the order of their numbers.
    pub fn listed(&self) -> Result<Vec<Listed>, Failure> {
        Ok(catalog::listed(&self.copies).map_err(|error| self.failed(COPIES, &error))?.0)
    }

    pub fn copy(&self, seq: u64) -> Result<CommittedCopy, Failure> {
        match self.listed()?.into_iter().find(|listed| listed.commit.seq == seq) {
            Some(listed) => self.open(listed),
            None => {
                let what = format!("{} has no copy {seq}", self.path.display());
                Err(failure(FailureKind::NoCopy, what, Some("`mainstay copies list` shows those that are there")))
            }
        }
    }

    pub(in crate::copies) fn open(&self, Listed { directory, commit }: Listed) -> Result<CommittedCopy, Failure> {
        let opened = self.copies.sub(directory.as_ref()).and_then(|dir| Ok((dir.sub(DATA.as_ref())?, dir)));
        let (data, dir) = opened.map_err(|error| self.failed(&directory.to_string_lossy(), &error))?;
        Ok(CommittedCopy { dir, data, commit })
    }

    /// Changes what is known of the set, and makes it last.
    pub fn update(&mut self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        let mut state = self.state.clone();
        change(&mut state);
        if state == self.state {
            return Ok(());
        }
        let saved = match state.save(&self.state_dir) {
            Err(error) if crate::copies::failure::is_full(&error) => {
                super::reserve::give_up(&self.place.root).and_then(|()| state.save(&self.state_dir))
            }
            saved => saved,
        };
        saved.map_err(|error| self.failed(STATE, &error))?;
        self.state = state;
        Ok(())
    }

    /// What lay in the set and is none of its own, since the last time this was asked.
    pub fn strays(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.strays)
    }

    pub(in crate::copies) fn stray(&mut self, path: String, detail: String) {
        self.strays.push(Finding { kind: FindingKind::Stray, path, detail });
    }

    /// Whether files can share pages here; fails when nothing can be written, whatever the mount says.
    pub(in crate::copies) fn probe(&mut self) -> Result<bool, Failure> {
        let (first, second) = (OsStr::new(PROBE), OsStr::new(PROBE_CLONE));
        let probed = self.work.overwrite(first).and_then(|mut file| {
            file.write_all(&[0x5a; PROBE_BYTES])?;
            file.sync_all()?;
            let clone = self.work.overwrite(second)?;
            Ok(clone_file(&file, &clone).is_ok())
        });
        for name in [first, second] {
            // It may not be there; what stays is removed with everything in `work/`.
            let _ = self.work.remove_file(name);
        }
        let reflinks = probed.map_err(|error| self.failed("the probe of work/", &error))?;
        self.update(|state| state.reflinks = reflinks)?;
        Ok(reflinks)
    }

    /// The target is still what it was when it was opened: the same marker, and mounted at the same place.
    pub(in crate::copies) fn still_there(&self) -> Result<(), Failure> {
        let gone = |why: String| Refused(TargetState::Absent { why });
        let marker = Marker::read(&self.place.root).map_err(|error| self.failed(MARKER, &error))?;
        if marker.is_none_or(|marker| marker.uuid != self.marker.uuid) {
            return Err(gone(format!("the marker of {} has changed", self.place.root_path.display())).into());
        }
        let now = Dir::open(&self.place.root_path).and_then(|root| root.stat_self());
        match now {
            Ok(now) if (now.dev, now.mount_id) == (self.place.device, self.place.mount_id) => Ok(()),
            Ok(_) => Err(gone(format!("{} has been unmounted", self.place.root_path.display())).into()),
            Err(error) => Err(gone(format!("{}: {error}", self.place.root_path.display())).into()),
        }
    }

    pub(in crate::copies) fn failed(&self, what: &str, error: &io::Error) -> Failure {
        on_target(self.path.join(what).display(), error)
    }

    fn load(&mut self) -> Result<(), Failure> {
        match State::load(&self.state_dir).map_err(|error| self.failed(STATE, &error))? {
            Loaded::Whole(state) => self.state = *state,
            Loaded::Missing => {}
            Loaded::Unreadable(why) => {
                State::set_aside(&self.state_dir).map_err(|error| self.failed(STATE, &error))?;
                // Which copies were pinned is not known: all of them, until somebody says otherwise.
                let seqs: Vec<u64> = self.listed()?.iter().map(|listed| listed.commit.seq).collect();
                self.update(|state| {
                    for seq in seqs {
                        state.marks_of(seq).pinned = true;
                    }
                })?;
                self.stray(format!("{STATE}/state.json"), format!("{why}; it lies aside, and every copy is pinned"));
            }
        }
        Ok(())
    }

    /// The number of the next copy.
    pub(in crate::copies) fn next_seq(&self) -> Result<u64, Failure> {
        let mut last = self.state.last_seq;
        for directory in [&self.copies, &self.trash, &self.quarantine] {
            let entries = directory.entries().map_err(|error| self.failed(COPIES, &error))?;
            for (name, _, _) in entries {
                last = last.max(crate::copies::format::layout::seq_of(&name).unwrap_or(0));
            }
        }
        last.checked_add(1).ok_or_else(|| other(self.path.display(), &"there are no numbers left for copies"))
    }
}
