//! Changes of the sources (`on_change`). Events are hints that something is different, never what: the copy looks for itself. Whenever it is not
//! certain that none was missed, it counts as a change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::EventKindMask;
use notify::{Config, EventKind, INotifyWatcher, RecursiveMode, Watcher};

use crate::engine::copies::plan::{CopyPlan, OnChange};
use crate::sys::wake::Wake;

/// Where the kernel watches no more directories, or a source is not there: looked at again this often, as if something had changed.
const BLIND_EVERY: Duration = Duration::from_secs(60);
const STACK_BYTES: usize = 256 << 10;

pub(in crate::copies) struct Watch {
    wake: Arc<Wake>,
    followed: Option<Followed>,
}

struct Followed {
    from: Vec<PathBuf>,
    on_change: OnChange,
    changes: Arc<Changes>,
    /// It was said, and nothing is said again before the next copy.
    told: bool,
}

/// What the thread of the watcher and the loop share.
#[derive(Debug)]
struct Changes {
    wake: Arc<Wake>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first and the latest since the last copy began.
    seen: Option<(Instant, Instant)>,
    /// Changes may happen without being seen.
    blind: bool,
    /// Kept here to be dropped, with its thread, when the plan changes.
    watcher: Option<INotifyWatcher>,
    /// Nobody follows these any more.
    over: bool,
}

impl Watch {
    pub(in crate::copies) fn new(wake: Arc<Wake>) -> Self {
        Self { wake, followed: None }
    }

    /// Watches what the plan wants watched; an unchanged wish goes on.
    pub(in crate::copies) fn follow(&mut self, plan: &CopyPlan) {
        let Some(on_change) = plan.when.on_change else { return self.stop() };
        if let Some(followed) = &mut self.followed
            && followed.from == plan.from
        {
            followed.on_change = on_change;
            return;
        }
        self.stop();
        let changes = Arc::new(Changes { wake: Arc::clone(&self.wake), state: Mutex::default() });
        // Whatever has changed before is not known.
        changes.note(Instant::now());
        // A tree is walked for this: not in the loop, since the disk may not answer.
        let (shared, from) = (Arc::clone(&changes), plan.from.clone());
        let thread = std::thread::Builder::new().name("copy-watch".to_owned()).stack_size(STACK_BYTES);
        if thread.spawn(move || shared.begin(&from)).is_err() {
            changes.lock().blind = true;
        }
        self.followed = Some(Followed { from: plan.from.clone(), on_change, changes, told: false });
    }

    fn stop(&mut self) {
        if let Some(followed) = self.followed.take() {
            let watcher = {
                let mut state = followed.changes.lock();
                state.over = true;
                state.watcher.take()
            };
            drop(watcher);
        }
    }

    /// When a change is to be told.
    pub(in crate::copies) fn due_at(&self) -> Option<Instant> {
        let followed = self.followed.as_ref().filter(|followed| !followed.told)?;
        let (first, latest) = followed.changes.lock().seen?;
        Some((latest + followed.on_change.quiet).min(first + followed.on_change.max_wait))
    }

    pub(in crate::copies) fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|at| at <= now)
    }

    pub(in crate::copies) fn told(&mut self) {
        if let Some(followed) = &mut self.followed {
            followed.told = true;
        }
    }

    /// A new agent has not been told.
    pub(in crate::copies) fn again(&mut self) {
        if let Some(followed) = &mut self.followed {
            followed.told = false;
        }
    }

    /// A copy begins: what is seen from now on is for the next one.
    pub(in crate::copies) fn begin_anew(&mut self) {
        let Some(followed) = &mut self.followed else { return };
        followed.told = false;
        let mut state = followed.changes.lock();
        let blind = state.blind;
        let later = Instant::now() + BLIND_EVERY.max(followed.on_change.max_wait);
        state.seen = blind.then_some((later, later));
    }
}

impl Changes {
    fn note(&self, now: Instant) {
        let mut state = self.lock();
        let first = state.seen.map(|(first, _)| first).filter(|first| *first <= now);
        state.seen = Some((first.unwrap_or(now), now));
        drop(state);
        // Else the loop sleeps until a time that this only moves away.
        if first.is_none() {
            self.wake.wake();
        }
    }

    fn begin(self: Arc<Self>, from: &[PathBuf]) {
        let watcher = watcher(&self, from);
        let mut state = self.lock();
        let (watcher, blind) = match watcher {
            Ok(watcher) => (Some(watcher), false),
            Err(error) => {
                log::warn!("changes cannot be watched, so there is a look every minute: {error}");
                (None, true)
            }
        };
        if state.over {
            drop(state);
            return drop(watcher);
        }
        (state.watcher, state.blind) = (watcher, blind);
        drop(state);
        // What happened between the walk and its watches.
        self.note(Instant::now());
    }

    fn heard(&self, event: notify::Result<notify::Event>) {
        match event {
            // Opening and reading is not asked for; who asks nevertheless changes nothing.
            Ok(event) if matches!(event.kind, EventKind::Access(_)) && !event.need_rescan() => {}
            Ok(_) => self.note(Instant::now()),
            // Of a directory that cannot be watched, most likely: what happens in it is not seen.
            Err(_) => {
                self.lock().blind = true;
                self.note(Instant::now());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it, and a panic ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watcher(changes: &Arc<Changes>, from: &[PathBuf]) -> notify::Result<INotifyWatcher> {
    let shared = Arc::downgrade(changes);
    let heard = move |event| {
        if let Some(changes) = shared.upgrade() {
            changes.heard(event);
        }
    };
    let config = Config::default().with_event_kinds(EventKindMask::CORE).with_follow_symlinks(false);
    let mut watcher = INotifyWatcher::new(heard, config)?;
    for source in from {
        let (path, mode) = whole(source);
        watcher.watch(path, mode)?;
    }
    Ok(watcher)
}

/// A file that is replaced by another of its name is seen in its directory only.
fn whole(source: &Path) -> (&Path, RecursiveMode) {
    let is_directory = std::fs::symlink_metadata(source).is_ok_and(|metadata| metadata.is_dir());
    match source.parent() {
        Some(parent) if !is_directory => (parent, RecursiveMode::NonRecursive),
        Some(_) | None => (source, RecursiveMode::Recursive),
    }
}
