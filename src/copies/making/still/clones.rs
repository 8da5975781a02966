//! Clones of files on the source's own file system. They have no names, so nothing of them is left, whoever dies; and they are made ready before the service stands
//! still, so that a clone is one call to the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::copies::format::entry::Entry;
use crate::copies::format::layout::below_root;
use crate::copies::making::cursor::is_at_or_below;
use crate::copies::making::scan::Found;
use crate::sys::dir::{Dir, FileType};
use crate::sys::{attributes, clone, page_cache, stat};

/// Files that are cloned in one copy; each is a descriptor. What changes beyond these is read while the service stands still.
const CLONES_MAX: usize = 400;
/// Of the sources, files that are open before the service stands still.
const OPEN_MAX: usize = 300;
/// Ready beyond what is known to be needed: what changes at the last moment.
const SPARE: usize = 16;
/// What a file system is tried with.
const TRIAL_BYTES: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Clones {
    /// Files of the sources, by their paths.
    open: BTreeMap<Vec<u8>, File>,
    pools: Vec<Pool>,
    made: usize,
}

/// Of one source.
#[derive(Debug)]
struct Pool {
    below: Vec<u8>,
    /// On the file system of the source. `None`: it shares no pages.
    dir: Option<Dir>,
    ready: Vec<File>,
}

impl Clones {
    /// Another look ahead begins.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// This file will probably have to be cloned. What it has in memory is written back, for a clone waits for that.
    pub(super) fn prepare(&mut self, found: &Found) {
        if self.open.len() >= OPEN_MAX {
            return;
        }
        // Where something is in the way now, the clone will tell, or the reading.
        let Ok(file) = found.parent.read(found.entry.name()) else { return };
        let _ = page_cache::settle(&file);
        self.open.insert(found.entry.path.clone(), file);
    }

    /// The last that is done before the service stands still.
    pub(super) fn make_ready(&mut self, from: &[PathBuf]) {
        for source in from {
            let below = below_root(source).as_os_str().as_encoded_bytes().to_vec();
            let known = self.open.keys().filter(|path| is_at_or_below(path, &below)).count();
            let dir = place_beside(source).filter(shares_pages);
            let ready =
                dir.iter().flat_map(|dir| (0..known + SPARE).map_while(|_| clone::nameless(dir).ok())).collect();
            self.pools.push(Pool { below, dir, ready });
        }
    }

    /// A clone of what was found, with what it is at this moment. `None`: it is to be read itself.
    pub(super) fn clone_of(&mut self, found: &Found) -> Option<(Entry, File)> {
        let path = &found.entry.path;
        let pool = self.pools.iter_mut().find(|pool| is_at_or_below(path, &pool.below))?;
        let dir = pool.dir.as_ref().filter(|_| self.made < CLONES_MAX)?;
        let opened = self.open.remove(path).and_then(|file| Some((stat::of(file.as_fd()).ok()?, file)));
        let (stat, file) = match opened.filter(|(stat, _)| stat.ino == found.entry.source.ino) {
            Some(opened) => opened,
            None => {
                let file = found.parent.read(found.entry.name()).ok()?;
                (stat::of(file.as_fd()).ok()?, file)
            }
        };
        if stat.kind() != FileType::File {
            return None;
        }
        let mut entry = Entry::of(path.clone(), &stat)?;
        entry.attributes = attributes::list(&file).ok()?;
        let into = match pool.ready.pop() {
            Some(ready) => ready,
            None => clone::nameless(dir).ok()?,
        };
        clone::clone_file(&file, &into).ok()?;
        self.made += 1;
        Some((entry, into))
    }
}

/// A directory on the file system of this source, outside of it where that can be: nobody who watches the source is to wonder.
fn place_beside(source: &Path) -> Option<Dir> {
    let device = source.symlink_metadata().map(|found| std::os::unix::fs::MetadataExt::dev(&found)).ok()?;
    let above = source.parent().map(|parent| parent.join("."));
    let places = above.into_iter().chain([source.to_owned()]);
    places.filter_map(|place| Dir::open(&place).ok()).find(|dir| dir.stat_self().is_ok_and(|stat| stat.dev == device))
}

fn shares_pages(dir: &Dir) -> bool {
    let try_it = || -> io::Result<()> {
        let (from, to) = (clone::nameless(dir)?, clone::nameless(dir)?);
        from.write_all_at(&[1; TRIAL_BYTES], 0)?;
        clone::clone_file(&from, &to)
    };
    try_it().is_ok()
}
