//! Named points at which a test can have the agent die: `MAINSTAY_CRASH_POINT=name` at the first passage, `name:3` at the third. Only
//! debug builds and builds with the feature `crash-points` look; in a release build a point is nothing.

/// The agent dies here if the test wants it so.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub(crate) fn point(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("MAINSTAY_CRASH_POINT") else { return };
    let (wanted_name, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if wanted_name == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == nth.parse().unwrap_or(1) {
        // SIGKILL, not abort(): no handler, no core, as the kernel's OOM killer does it.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(any(debug_assertions, feature = "crash-points")))]
pub(crate) fn point(_name: &str) {}
