//! A FUSE mount that takes requests and answers none: what hangs in one stays in uninterruptible sleep even when it is killed.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::mounts::fresh_directory;

const FUSE_INIT: u32 = 26;
const REQUEST_BYTES_MAX: usize = 8192 + 4096;
/// struct fuse_in_header: len u32, opcode u32, unique u64, ..
const IN_HEADER_BYTES: usize = 40;
/// struct fuse_out_header and struct fuse_init_out of protocol 7.31.
const INIT_ANSWER_BYTES: usize = 16 + 64;

pub(crate) struct Unanswered {
    directory: PathBuf,
    /// While it is open, the requests wait.
    connection: RefCell<Option<File>>,
}

impl Unanswered {
    /// `None`: the test was skipped.
    pub(crate) fn mounted() -> Option<Self> {
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: no FUSE here: {error}");
                return None;
            }
        };
        let directory = fresh_directory();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("unanswered"), &directory, Some("fuse"), flags, Some(options.as_str())).unwrap();
        let mounted = Self { directory, connection: RefCell::new(Some(device)) };
        mounted.greet();
        Some(mounted)
    }

    pub(crate) fn point(&self) -> String {
        self.directory.to_str().unwrap().to_owned()
    }

    /// The one request that is answered: before it, whoever waits can still be killed.
    fn greet(&self) {
        let (opcode, unique) = self.request();
        assert_eq!(opcode, FUSE_INIT);
        let mut answer = Vec::with_capacity(INIT_ANSWER_BYTES);
        answer.extend(u32::try_from(INIT_ANSWER_BYTES).unwrap().to_ne_bytes());
        answer.extend(0_i32.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        // major, minor, max_readahead, flags, max_background and congestion_threshold, max_write
        for number in [7_u32, 31, 4096, 0, 0, 4096] {
            answer.extend(number.to_ne_bytes());
        }
        answer.resize(INIT_ANSWER_BYTES, 0);
        self.connection.borrow_mut().as_mut().unwrap().write_all(&answer).unwrap();
    }

    /// Waits until somebody asks for something, and keeps it waiting.
    pub(crate) fn take_a_request(&self) {
        self.request();
    }

    fn request(&self) -> (u32, u64) {
        let mut buffer = [0; REQUEST_BYTES_MAX];
        loop {
            match self.connection.borrow_mut().as_mut().unwrap().read(&mut buffer) {
                Ok(length) => {
                    assert!(length >= IN_HEADER_BYTES);
                    let opcode = u32::from_ne_bytes(buffer[4..8].try_into().unwrap());
                    return (opcode, u64::from_ne_bytes(buffer[8..16].try_into().unwrap()));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whoever waits gets an error.
    pub(crate) fn abort(&self) {
        self.connection.borrow_mut().take();
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.abort();
        umount2(&self.directory, MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(&self.directory).unwrap();
    }
}
