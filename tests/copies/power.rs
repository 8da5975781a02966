//! Power cuts: the file system of the target is shut down without its journal, as if the power had gone, and mounted again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay::copies::conduct::Alone;
use mainstay::copies::place::init::{Claim, init};

use crate::bench::{Bench, tree};
use crate::faults::{changed, has_strace, traced};

const IMAGE_BYTES: u64 = 96 << 20;
/// FS_IOC_SHUTDOWN with FSOP_GOING_FLAGS_NOLOGFLUSH.
const CUT: &str =
    "import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, b'\\x02\\0\\0\\0')";

/// A file with a file system, mounted.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// `None`: it cannot be made here; that is told.
    fn new(root: &Path, at: PathBuf, make: &[&str]) -> Option<Self> {
        let skip = |why: &str| eprintln!("skipped: power cuts on {}: {why}", make[0]);
        if !nix::unistd::geteuid().is_root() {
            skip("not root");
            return None;
        }
        let image = root.join("image");
        fs::File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("an image");
        if !Command::new(make[0]).args(&make[1..]).arg(&image).output().is_ok_and(|made| made.status.success()) {
            skip("no such program");
            return None;
        }
        fs::create_dir_all(&at).expect("a mount point");
        let disk = Self { image, at };
        if !disk.mount() {
            skip("no loop devices");
            return None;
        }
        Some(disk)
    }

    fn mount(&self) -> bool {
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.at)
            .output()
            .is_ok_and(|done| done.status.success())
    }

    fn umount(&self) -> bool {
        Command::new("umount").arg(&self.at).output().is_ok_and(|done| done.status.success())
    }

    fn cut_power(&self) {
        let cut = Command::new("python3").args(["-c", CUT]).arg(&self.at).status().expect("python3");
        assert!(cut.success());
        assert!(self.umount() && self.mount(), "mounted again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.umount();
    }
}

#[test]
fn power_cut_at_any_step_loses_no_copy_and_makes_none_that_is_not_whole() {
    if !has_strace() {
        return;
    }
    let mut bench = Bench::new();
    bench.plan.to = bench.root.join("disk/copies");
    let Some(disk) = Disk::new(&bench.root, bench.root.join("to"), &["mkfs.ext4", "-q"]) else { return };
    bench.plan.to = disk.at.clone();
    init(&bench.plan, Claim::No, &mut Alone::default()).expect("marked");
    changed(&bench);
    let first = bench.copied(1);
    let trace = bench.root.join("trace");
    let steps = [
        "mkdirat:when=2",
        "linkat:when=2",
        "syncfs:when=1",
        "fsync:when=3",
        "fsync:when=4",
        "fsync:when=5",
        "fsync:when=6",
        "renameat2:when=1",
        "renameat2:when=2",
        "renameat2:when=3",
    ];
    for (round, step) in steps.iter().enumerate() {
        bench.put("d/1", format!("round {round}"));
        let former = bench.seqs();
        let (name, when) = step.split_once(':').expect("a call");
        let (_, said) = traced(&bench, &["-e", &format!("inject={name}:signal=SIGKILL:{when}")], &trace);
        disk.cut_power();
        let now = bench.seqs();
        assert!(now.starts_with(&former), "{step}: {former:?} became {now:?}");
        assert!(!said.starts_with("Taken") || now.len() > former.len(), "{step}: a copy that was told is lost");
        bench.all_verify();
        assert_eq!(bench.copied(1), first, "{step}");
        bench.take().unwrap_or_else(|failure| panic!("{step}: {failure:?}"));
        // What was told is there, even if the power goes at once.
        let told = bench.seqs();
        disk.cut_power();
        assert_eq!(bench.seqs(), told, "{step}");
        assert_eq!(bench.copied(*told.last().expect("a copy")), tree(bench.source()), "{step}");
        bench.all_verify();
    }
    drop(disk);
}
