//! Errors that file systems report themselves, as they happen (fanotify, FAN_FS_ERROR).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::libc;

use super::{agent, instance, mount_point};
use crate::engine::host::sample::Sample;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::fanotify::FilesystemErrors;

/// The mounts whose errors are waited for.
#[derive(Default)]
pub(super) struct ErrorWatches {
    watches: Vec<Watch>,
    /// How many there have been: none gets the key of another.
    made: u64,
}

struct Watch {
    mount: String,
    /// Which time of being mounted it is.
    instance: Option<u64>,
    key: u64,
    errors: FilesystemErrors,
}

impl ErrorWatches {
    /// Those of other mounts end; closing them takes them out of the epoll.
    pub(super) fn keep(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.watches.retain(|watch| is_wanted(&watch.mount));
    }

    /// Makes sure that errors of what is mounted there now are told. The sentence is why they cannot be.
    pub(super) fn renew(&mut self, epoll: &Epoll, root: &Path, point: &str) -> Result<(), String> {
        let path = mount_point::path(root, point);
        let renewed = mount_point::must_be_mounted(root, point).and_then(|()| {
            let instance = instance::at(root, &path);
            // What an earlier one had to tell and nobody has taken is of no use.
            self.watches.retain(|watch| watch.mount != point || watch.instance == instance);
            match self.watches.iter().find(|watch| watch.mount == point) {
                Some(watch) => watch.errors.mark(&path).map_err(|error| reason(&error)),
                None => self.begin(epoll, &path, point, instance),
            }
        });
        if renewed.is_err() {
            self.watches.retain(|watch| watch.mount != point);
        }
        renewed
    }

    fn begin(&mut self, epoll: &Epoll, path: &Path, point: &str, instance: Option<u64>) -> Result<(), String> {
        let errors = FilesystemErrors::of(path).map_err(|error| reason(&error))?;
        let key = agent::FIRST_KEY + self.made;
        epoll.add(errors.as_fd(), key, Interest::READ).map_err(|error| format!("cannot wait for them: {error}"))?;
        self.made += 1;
        self.watches.push(Watch { mount: point.to_owned(), instance, key, errors });
        Ok(())
    }

    /// What was reported under the key of a descriptor that is ready.
    pub(super) fn take(&mut self, key: u64) -> Vec<Sample> {
        let Some(place) = self.watches.iter().position(|watch| watch.key == key) else { return Vec::new() };
        let watch = &self.watches[place];
        let Ok(errors) = watch.errors.take() else {
            // Ready for ever otherwise; the next renewal begins anew.
            self.watches.remove(place);
            return Vec::new();
        };
        let mut counts: BTreeMap<i32, u32> = BTreeMap::new();
        for error in &errors {
            let count = counts.entry(error.errno).or_default();
            *count = count.saturating_add(error.count);
        }
        let (mount, instance) = (&watch.mount, watch.instance);
        let sample = |(errno, count)| Sample::FilesystemError { mount: mount.clone(), instance, errno, count };
        counts.into_iter().map(sample).collect()
    }
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "fanotify needs CAP_SYS_ADMIN: run the agent as root".to_owned(),
        Some(libc::EINVAL | libc::ENOSYS) => "this kernel reports no file system errors: Linux 5.16 does".to_owned(),
        Some(libc::ENODEV | libc::EXDEV | libc::EOPNOTSUPP) => "this file system reports no errors".to_owned(),
        _ => format!("cannot wait for its errors: {error}"),
    }
}
