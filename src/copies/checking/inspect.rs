//! One way through a copy: everything that its manifest names is looked at, the content of each inode is read once a job, and what is bad is mended as
//! soon as there is enough of it. What is known of the set afterwards is written to its state.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::compare::{Difference, Eyes};
use super::inodes::Inodes;
use super::joined::{Joined, Step, Surplus};
use super::readers::{Content, Job, Read, Readers, Reading, hash_from_disk};
use super::repair::{self, BATCH, Bad, Mending, Repair, Why, lossy};
use crate::copies::conduct::Conduct;
use crate::copies::failure::cancelled;
use crate::copies::format::entry::{Entry, Hash, Kind};
use crate::copies::place::state::{QUARANTINED_MAX, Quarantined};
use crate::copies::place::target::{CommittedCopy, Set};
use crate::engine::copies::order::{Failure, Finding, FindingKind, Phase, Progress};
use crate::engine::copies::plan::CopyPlan;
use crate::sys::dir::{Dir, Stat};

/// Lines about single files in one job; the state and the outcome count all of them.
const FINDINGS_MAX: u64 = 200;
/// With a limit on the bandwidth, files of this size are not left to the readers, which know nothing of it.
const SLOWLY_BYTES: u64 = 8 << 20;
const SLOWLY_BUFFER_BYTES: usize = 128 << 10;
/// Progress is told after so many entries.
const PROGRESS_EVERY: u64 = 256;

/// What differs between a verification and a scrub.
pub(in crate::copies) trait Course {
    /// Whether this inode was read as part of another copy lately.
    fn has_been_read(&mut self, entry: &Entry, stat: &Stat) -> bool;
    /// Whether the file that it was copied from is to be read too.
    fn reads_source(&self, entry: &Entry) -> bool;
}

/// A job that looks at copies.
pub(in crate::copies) struct Inspection<'a> {
    pub(in crate::copies) set: &'a mut Set,
    pub(in crate::copies) conduct: &'a mut dyn Conduct,
    is_paced: bool,
    eyes: Eyes,
    readers: Readers,
    seen: Inodes,
    pub(in crate::copies) progress: Progress,
    looked_at: u64,
    bad: Vec<Bad>,
    /// Bad places that were not mended, by copy.
    left: BTreeMap<u64, u64>,
    pub(in crate::copies) mended: u64,
    findings: u64,
}

impl<'a> Inspection<'a> {
    pub(in crate::copies) fn new(
        set: &'a mut Set,
        plan: &CopyPlan,
        conduct: &'a mut dyn Conduct,
    ) -> Result<Self, Failure> {
        let eyes = Eyes::of_this_process();
        let readers =
            Readers::start(eyes).map_err(|error| crate::copies::failure::other("a thread to read with", &error))?;
        Ok(Self {
            set,
            conduct,
            is_paced: plan.bandwidth.is_some(),
            eyes,
            readers,
            seen: Inodes::default(),
            progress: Progress { phase: Phase::Verify, ..Progress::default() },
            looked_at: 0,
            bad: Vec::new(),
            left: BTreeMap::new(),
            mended: 0,
            findings: 0,
        })
    }

    /// Bad places of all copies that were not mended.
    pub(in crate::copies) fn left(&self) -> u64 {
        self.left.values().sum()
    }

    pub(in crate::copies) fn left_in(&self, seq: u64) -> u64 {
        self.left.get(&seq).copied().unwrap_or(0)
    }

    /// Whether the manifest is the one that the COMMIT names.
    pub(in crate::copies) fn manifest_is_whole(&mut self, copy: &CommittedCopy) -> Result<bool, Failure> {
        let seq = copy.commit.seq;
        let hash =
            copy.dir.read(crate::copies::format::layout::MANIFEST.as_ref()).and_then(|file| self.hash_slowly(&file));
        let detail = match hash {
            Ok(hash) if crate::copies::format::entry::hex(&hash) == copy.commit.manifest => return Ok(true),
            Ok(_) => "it is not the one that COMMIT names; the files themselves can still be used".to_owned(),
            Err(error) => format!("it cannot be read: {error}"),
        };
        self.count_bad(seq, crate::copies::format::layout::MANIFEST.to_owned());
        self.find(
            FindingKind::Rot,
            crate::copies::format::layout::MANIFEST.to_owned(),
            format!("copy {seq}: {detail}"),
        );
        Ok(false)
    }

    /// Looks at these entries of the copy.
    pub(in crate::copies) fn pass<E: std::fmt::Display>(
        &mut self,
        copy: &CommittedCopy,
        entries: impl Iterator<Item = Result<Entry, E>>,
        surplus: Surplus,
        course: &mut dyn Course,
    ) -> Result<(), Failure> {
        let seq = copy.commit.seq;
        let data = copy.data.again().map_err(|error| self.set.failed("data", &error))?;
        let mut joined =
            Joined::new(Arc::new(data), entries, surplus).map_err(|error| self.set.failed("data", &error))?;
        while let Some(step) = joined.step() {
            if self.conduct.is_cancelled() {
                return Err(cancelled());
            }
            match step {
                Ok(step) => self.step(seq, step, course),
                Err(error) => {
                    self.count_bad(seq, crate::copies::format::layout::MANIFEST.to_owned());
                    self.find(
                        FindingKind::Rot,
                        crate::copies::format::layout::MANIFEST.to_owned(),
                        format!("copy {seq}: {error}"),
                    );
                    break;
                }
            }
            while let Some(read) = self.readers.ready() {
                self.judge(seq, read);
            }
            if self.bad.len() >= BATCH {
                self.mend()?;
            }
        }
        while let Some(read) = self.readers.wait() {
            self.judge(seq, read);
        }
        self.mend()
    }

    fn step(&mut self, seq: u64, step: Step, course: &mut dyn Course) {
        match step {
            Step::Present { entry, dir, stat } => self.present(seq, entry, dir, stat, course),
            Step::Missing { entry } if self.eyes.expect(&entry) => {
                self.bad.push(Bad { seq, entry, ino: None, why: Why::Missing });
            }
            Step::Missing { .. } => {}
            Step::Unreadable { entry, error } => {
                self.bad.push(Bad { seq, entry, ino: None, why: Why::Unreadable(error) });
            }
            Step::Surplus { path } => {
                let detail = format!("nobody wrote this into copy {seq}; it stays, and a restore leaves it out");
                self.find(FindingKind::Stray, people(&path), detail);
            }
        }
    }

    fn present(&mut self, seq: u64, mut entry: Entry, dir: Arc<Dir>, stat: Stat, course: &mut dyn Course) {
        if !self.eyes.expect(&entry) {
            return;
        }
        self.looked_at += 1;
        if self.looked_at.is_multiple_of(PROGRESS_EVERY) {
            self.conduct.progress(self.progress);
        }
        let differences = self.eyes.stat(&entry, &stat);
        let is_other = differences.iter().any(Difference::is_of_content);
        let Kind::File { size, ref mut blocks, .. } = entry.kind else {
            let (content, source) = (Reading::No, false);
            return self.hand(seq, Job { entry, dir, stat, differences, content, source });
        };
        // Many, and of no use here.
        *blocks = None;
        self.progress.files += 1;
        self.progress.bytes += size;
        let is_read = self.seen.contains(stat.ino) || course.has_been_read(&entry, &stat);
        if is_other || (is_read && !differences.is_empty()) {
            return self.bad.push(Bad { seq, entry, ino: Some(stat.ino), why: Why::Differs(differences) });
        }
        if is_read {
            return;
        }
        self.seen.insert(stat.ino);
        let source = course.reads_source(&entry);
        let content = if self.is_paced && size >= SLOWLY_BYTES {
            let file = dir.read(entry.name());
            self.conduct.pace(if source { size } else { 0 });
            Reading::Done(file.and_then(|file| self.hash_slowly(&file)))
        } else {
            self.conduct.pace(if source { 2 * size } else { size });
            Reading::Wanted
        };
        self.hand(seq, Job { entry, dir, stat, differences, content, source });
    }

    /// Within the bandwidth of the plan all the way through the file, and to be ended anywhere.
    fn hash_slowly(&mut self, file: &File) -> io::Result<Hash> {
        let mut buffer = vec![0; SLOWLY_BUFFER_BYTES];
        hash_from_disk(file, &mut buffer, &mut |count| {
            self.conduct.pace(count);
            !self.conduct.is_cancelled()
        })
    }

    fn hand(&mut self, seq: u64, job: Job) {
        if let Some(read) = self.readers.hand(job) {
            self.judge(seq, read);
        }
    }

    fn judge(&mut self, seq: u64, read: Read) {
        let Read { job, content, is_source_rotten } = read;
        if is_source_rotten {
            let detail = format!(
                "it has other content than when copy {seq} was made, though nobody has changed it: the copy stays the newest good one of it \
                 (`mainstay copies restore` brings it back)"
            );
            self.find(FindingKind::SourceRot, people(&job.entry.path), detail);
        }
        let why = match content {
            Content::Other => Why::Content,
            Content::Unreadable(error) => Why::Unreadable(error),
            Content::Good | Content::NotRead if job.differences.is_empty() => return,
            Content::Good | Content::NotRead => Why::Differs(job.differences),
        };
        self.bad.push(Bad { seq, entry: job.entry, ino: Some(job.stat.ino), why });
    }

    /// Mends what has been found so far, and says what became of it.
    pub(in crate::copies) fn mend(&mut self) -> Result<(), Failure> {
        if self.bad.is_empty() {
            return Ok(());
        }
        let mut bads = std::mem::take(&mut self.bad);
        bads.sort_by(|a, b| crate::copies::format::manifest::order(&a.entry.path, &b.entry.path));
        let now = self.conduct.now();
        let mendings = Repair::new(self.set, self.eyes, now)?.mend(bads, &mut *self.conduct)?;
        let mut records = Vec::new();
        for mending in mendings {
            self.tell(&mending, &mut records);
        }
        self.set.update(|state| {
            for (record, is_left) in records {
                state.quarantined.retain(|known| (known.seq, &known.path) != (record.seq, &record.path));
                if is_left {
                    state.quarantine(record);
                }
            }
        })
    }

    fn tell(&mut self, mending: &Mending, records: &mut Vec<(Quarantined, bool)>) {
        let bad = &mending.bad;
        let (path, found) = (people(&bad.entry.path), bad.detail());
        let others = match mending.places.len() {
            0 | 1 => String::new(),
            count => format!(", as in {} other places of its inode", count - 1),
        };
        let is_left = match &mending.result {
            Ok((whence, ino)) => {
                self.mended += 1;
                self.seen.insert(*ino);
                self.find(
                    FindingKind::Mended,
                    path,
                    format!("copy {}: {found}; right again, from {whence}{others}", bad.seq),
                );
                false
            }
            Err(why) if bad.is_of_metadata() => {
                return self.find(FindingKind::NotKept, path, format!("copy {}: {found}: {why}", bad.seq));
            }
            Err(why) => {
                self.find(FindingKind::Rot, path, format!("copy {}: {found}: {why}{others}", bad.seq));
                true
            }
        };
        for place in &mending.places {
            if is_left {
                *self.left.entry(place.seq).or_default() += 1;
            }
            let (at, seq, path) = (self.conduct.now(), place.seq, people(&place.path));
            records.push((Quarantined { at, seq, path, name: mending.kept.clone() }, is_left));
        }
    }

    fn count_bad(&mut self, seq: u64, path: String) {
        *self.left.entry(seq).or_default() += 1;
        let at = self.conduct.now();
        // What cannot be saved now is counted all the same, and saved with the next.
        let _ = self.set.update(|state| {
            state.quarantined.retain(|known| (known.seq, &known.path) != (seq, &path));
            state.quarantine(Quarantined { at, seq, path, name: None });
        });
    }

    /// Something about a file; of very many, not each is told.
    pub(in crate::copies) fn find(&mut self, kind: FindingKind, path: String, detail: String) {
        self.findings += 1;
        if self.findings <= FINDINGS_MAX {
            self.conduct.finding(Finding { kind, path, detail });
        } else if self.findings == FINDINGS_MAX + 1 {
            let detail = "there are more; only their number is told from here on".to_owned();
            self.conduct.finding(Finding { kind, path: self.set.path().display().to_string(), detail });
        }
    }

    /// Writes down how many bad files each copy has now. Of `whole`, a copy that all has been looked at of, exactly those that were found in this job.
    pub(in crate::copies) fn settle(&mut self, whole: Option<u64>) -> Result<(), Failure> {
        let left = self.left.clone();
        let began = self.left_in(whole.unwrap_or_default());
        self.set.update(|state| {
            if let Some(seq) = whole {
                if began == 0 {
                    state.quarantined.retain(|known| known.seq != seq);
                }
                state.marks_of(seq).bad = began;
            }
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            for known in &state.quarantined {
                *counts.entry(known.seq).or_default() += 1;
            }
            let is_cut_off = state.quarantined.len() >= QUARANTINED_MAX;
            for (seq, marks) in &mut state.marks {
                let counted = counts.remove(seq).unwrap_or(0);
                if Some(*seq) != whole && !is_cut_off {
                    marks.bad = counted;
                }
            }
            for (seq, counted) in counts.into_iter().chain(left) {
                let marks = state.marks_of(seq);
                marks.bad = marks.bad.max(counted);
            }
            for marks in state.marks.values_mut().filter(|marks| marks.bad > 0) {
                marks.verified = None;
            }
        })
    }

    /// What was mended long ago is not kept for ever.
    pub(in crate::copies) fn sweep(&mut self) -> Result<(), Failure> {
        let now = self.conduct.now();
        repair::sweep(self.set, now).map_err(|error| self.set.failed(crate::copies::format::layout::QUARANTINE, &error))
    }
}

/// As people know it: an absolute path.
pub(in crate::copies) fn people(path: &[u8]) -> String {
    format!("/{}", lossy(path))
}
