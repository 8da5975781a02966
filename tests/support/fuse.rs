//! A FUSE file system that answers until it is told to fall silent: the quickest way to a mount that nobody can wait for. A request that was
//! read and is not answered survives SIGKILL, as one to a dead disk does.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// linux/fuse.h
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// The header of a request: length, opcode, number and more.
const HEADER: usize = 40;
const READ_MAX: usize = 256 << 10;

pub(crate) struct SilentMount {
    point: PathBuf,
    silent: Arc<AtomicBool>,
    unanswered: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl SilentMount {
    /// Mounts it, answering. Only in a mount namespace of one's own: whoever looks at all mounts of the machine would be caught.
    pub(crate) fn on(point: &Path) -> io::Result<Self> {
        fs::create_dir_all(point)?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("silent"), point, Some("fuse"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(data.as_str()))?;
        let (silent, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let unanswered = Arc::new(AtomicUsize::new(0));
        let server = Server { device, silent: silent.clone(), unanswered: unanswered.clone(), ended: ended.clone() };
        let server = Some(std::thread::spawn(move || server.run()));
        Ok(Self { point: point.to_owned(), silent, unanswered, ended, server })
    }

    /// From now on nothing is answered.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Requests that wait for ever.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        self.ended.store(true, Ordering::Relaxed);
        // With the device closed those who wait are told that there is no connection.
        let _ = self.server.take().unwrap().join();
    }
}

struct Server {
    device: File,
    silent: Arc<AtomicBool>,
    unanswered: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Server {
    fn run(mut self) {
        let mut request = vec![0; READ_MAX];
        while !self.ended.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(20_u16)) != Ok(1) {
                continue;
            }
            match self.device.read(&mut request) {
                Ok(length) if length >= HEADER => self.serve(&request[..length]),
                // ENODEV: unmounted. ENOENT: the request was taken back.
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return,
                Err(_) => {}
            }
        }
    }

    fn serve(&mut self, request: &[u8]) {
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (opcode, number) = (word(4), u64::from_ne_bytes(request[8..16].try_into().unwrap()));
        if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
            return;
        }
        if self.silent.load(Ordering::Relaxed) {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let answer = match opcode {
            INIT => Ok(init(word(HEADER + 4))),
            GETATTR => Ok(root_attributes()),
            STATFS => Ok(half_full()),
            LOOKUP => Err(Errno::ENOENT),
            _ => Err(Errno::ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).unwrap();
        let header = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &number.to_ne_bytes()].concat();
        // ENOENT: nobody waits for it any more.
        let _ = self.device.write(&[header, body].concat());
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_init_out`: version 7, and nothing that is optional.
fn init(minor: u32) -> Vec<u8> {
    let mut body = words(&[7, minor.min(31), 0, 0, 0, 64 << 10]);
    body.resize(64, 0);
    body
}

/// `struct fuse_attr_out` of a directory, never cached.
fn root_attributes() -> Vec<u8> {
    const DIRECTORY: u32 = 0o040_755;
    let mut body = words(&[0, 0, 0, 0, 1, 0]);
    body.resize(16 + 60, 0);
    body.extend(words(&[DIRECTORY, 2]));
    body.resize(104, 0);
    body
}

/// `struct fuse_statfs_out`
fn half_full() -> Vec<u8> {
    let numbers: [u64; 5] = [1_000, 500, 500, 1_000, 500];
    let mut body: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    body.extend(words(&[4_096, 255, 4_096, 0]));
    body.resize(80, 0);
    body
}
