//! They go before a walk: directories that it comes to next are listed and their names asked for, so that it finds all of it in the kernel's caches. What they
//! find they throw away, and the walk asks again: it is a hint only, that can be wrong or late.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::copies::crew::Crew;
use crate::sys::dir::Dir;

/// With cold caches a disk answers several questions at once sooner than one after the other.
const THREADS: usize = 3;
/// Directories beyond the one where the walk is.
pub(in crate::copies) const AHEAD_MAX: usize = 8;

#[derive(Debug)]
pub(in crate::copies) struct Scouts(Crew<(Arc<Dir>, OsString), ()>);

impl Scouts {
    pub(in crate::copies) fn start() -> io::Result<Self> {
        let hire = |_| {
            Ok(|(dir, name): (Arc<Dir>, OsString)| {
                let Ok(dir) = dir.sub(Path::new(&name)) else { return };
                let Ok(names) = dir.glance() else { return };
                for listed in names.iter() {
                    // Into the cache; the walk will see what is wrong with it.
                    let _ = dir.stat(listed.name);
                }
            })
        };
        Crew::start("scout", THREADS, 2 * AHEAD_MAX, hire).map(Self)
    }

    /// Not, if all are under way: they are no help then.
    pub(in crate::copies) fn send(&mut self, dir: &Arc<Dir>, name: OsString) {
        while self.0.ready().is_some() {}
        if !self.0.is_full() {
            self.0.hand((Arc::clone(dir), name));
        }
    }
}
