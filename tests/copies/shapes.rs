//! Trees of odd shapes: names of any bytes, deeper than a path can be, with very many files, with inodes of many names. What comes back is compared by rsync, which
//! knows nothing of how it was kept.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mainstay::copies::conduct::Alone;
use mainstay::copies::restoring::restore::restore;
use mainstay::engine::copies::order::{Outcome, Place, Restore};
use mainstay::sys::dir::Dir;
use mainstay::sys::trail::Trail;

use crate::bench::{Bench, tree};
use crate::faults::{Task, helped};

/// So many files, of which one in [`WITH_CONTENT`] has content.
const MANY: usize = 200_000;
const WITH_CONTENT: usize = 20;
/// What the role may need for them at most.
const MEMORY_KIB: u64 = 32 << 10;

fn into(bench: &Bench, seq: Option<u64>) -> PathBuf {
    let into = bench.root.join("restored");
    fs::create_dir(&into).expect("a directory");
    let wanted = Restore { seq, paths: Vec::new(), place: Place::Into(into.clone()), dry_run: false, force: false };
    restore(&mut bench.set(), &bench.plan, &wanted, &mut Alone::default()).expect("restored");
    into.join(bench.source().strip_prefix("/").expect("absolute"))
}

/// What rsync would have to do to make the one like the other: owners, modes, times, links, holes, ACLs, attributes, content.
fn rsync_differences(one: &Path, other: &Path) -> Option<String> {
    let slash = |path: &Path| format!("{}/", path.display());
    let said = Command::new("rsync")
        .args(["-nc", "-aHAX", "--delete", "--itemize-changes"])
        .args([slash(one), slash(other)])
        .output();
    match said {
        Ok(said) if said.status.success() => Some(String::from_utf8_lossy(&said.stdout).into_owned()),
        Ok(said) => panic!("rsync: {}", String::from_utf8_lossy(&said.stderr)),
        Err(_) => {
            eprintln!("skipped: what was restored is compared by rsync, which is not here");
            None
        }
    }
}

/// One of everything.
fn everything(bench: &Bench) {
    let at = |name: &str| bench.source().join(name);
    bench.put("d/plain", "plain");
    fs::hard_link(at("d/plain"), at("other name")).expect("a link");
    std::os::unix::fs::symlink("d/nothing", at("dangling")).expect("a link");
    let mut sparse = File::create(at("sparse")).expect("a file");
    sparse.write_all(b"begin").expect("written");
    sparse.set_len(3 << 20).expect("a hole");
    fs::set_permissions(at("sparse"), fs::Permissions::from_mode(0o4711)).expect("a mode");
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
    drop(std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket"));
    let names: [&[u8]; 6] = [b"\xff\xfe not UTF-8", b"two\nlines", &[b'n'; 255], b"-rf", b" ", b"\x01\\\"'*?"];
    for name in names {
        fs::write(bench.source().join(OsStr::from_bytes(name)), name).expect("a file with an odd name");
        let directory = bench.source().join("odd").join(OsStr::from_bytes(name));
        fs::create_dir_all(&directory).expect("a directory with an odd name");
        fs::write(directory.join(OsStr::from_bytes(name)), "inside").expect("a file");
    }
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(at("d/plain"), Some(1234), Some(4321)).expect("an owner");
        let device = nix::sys::stat::makedev(1, 3);
        nix::sys::stat::mknod(&at("null"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRUSR, device)
            .expect("a node");
    }
    // Where attributes are not to be had, rsync sees none on either side.
    for (program, arguments) in [
        ("setfattr", vec!["-n", "user.colour", "-v", "green", "d/plain"]),
        ("setfacl", vec!["-m", "u:77:rwx,d:u:78:r", "odd"]),
        ("setcap", vec!["cap_net_bind_service=ep", "d/plain"]),
    ] {
        let _ = Command::new(program).args(arguments).current_dir(bench.source()).output();
    }
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::open(at("odd")).and_then(|directory| directory.set_modified(old)).expect("a time");
}

#[test]
fn everything_there_is_comes_back_as_it_was_into_a_directory_and_in_its_place() {
    let bench = Bench::new();
    everything(&bench);
    let source = tree(bench.source());
    let Outcome::Taken { .. } = bench.take().expect("a copy") else { panic!("nothing was copied") };
    bench.all_verify();
    let restored = into(&bench, None);
    // Sockets are not made again: who listens makes its own.
    fs::remove_file(bench.source().join("socket")).expect("a socket");
    let times = |from: &Path, to: &Path| {
        let modified = fs::metadata(to).and_then(|to| to.modified()).expect("a time");
        File::open(from).and_then(|from| from.set_modified(modified)).expect("a time");
    };
    times(bench.source(), &restored);
    let Some(differences) = rsync_differences(bench.source(), &restored) else { return };
    assert_eq!(differences, "");
    assert_eq!(fs::metadata(restored.join("sparse")).expect("a file").blocks(), 8, "a hole was filled");
    fs::remove_dir_all(bench.source()).expect("the source");
    fs::create_dir(bench.source()).expect("an empty source");
    Task::Replace.carry_out(&bench).expect("restored");
    times(bench.source(), &restored);
    assert_eq!(rsync_differences(&restored, bench.source()).as_deref(), Some(""));
    let mut now = tree(bench.source());
    let mut before = source;
    for tree in [&mut now, &mut before] {
        tree.remove(Path::new("socket"));
        tree.remove(Path::new(""));
    }
    assert_eq!(now, before);
    assert!(matches!(Task::VerifyAll.carry_out(&bench), Ok(Outcome::Verified { bad: 0, mended: 0, .. })));
}

/// So many directories of so long names are four times as deep as a path may be long.
const DEEP: usize = 80;
const DEEP_NAME: [u8; 200] = [b'd'; 200];

/// The directory at the bottom.
fn bottom(top: &Path) -> Arc<Dir> {
    let mut trail = Trail::new(Arc::new(Dir::open(top).expect("a directory")));
    for depth in 0..DEEP {
        trail.enter(OsStr::from_bytes(&DEEP_NAME)).unwrap_or_else(|error| panic!("at depth {depth}: {error}"));
    }
    trail.here()
}

#[test]
fn tree_that_is_deeper_than_a_path_can_name_is_copied_verified_and_restored() {
    let bench = Bench::new();
    let mut trail = Trail::new(Arc::new(Dir::open(bench.source()).expect("a directory")));
    for _ in 0..DEEP {
        trail.here().make_dir(OsStr::from_bytes(&DEEP_NAME), 0o700).expect("a directory");
        trail.enter(OsStr::from_bytes(&DEEP_NAME)).expect("a directory");
    }
    let put = |content: &str| {
        let mut file = trail.here().overwrite(OsStr::new("bottom")).expect("a file");
        file.write_all(content.as_bytes()).expect("written");
    };
    let content = |top: &Path| {
        let mut text = String::new();
        bottom(top).read(OsStr::new("bottom")).and_then(|mut file| file.read_to_string(&mut text)).expect("a file");
        text
    };
    put("first");
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 1, files: 1, .. })));
    assert!(matches!(bench.take(), Ok(Outcome::Unchanged { seq: 1 })));
    put("second");
    assert!(matches!(bench.take(), Ok(Outcome::Taken { seq: 2, files: 1, .. })));
    assert!(matches!(Task::VerifyAll.carry_out(&bench), Ok(Outcome::Verified { bad: 0, files: 2, .. })));
    assert_eq!((content(&bench.data(1)), content(&bench.data(2))), ("first".to_owned(), "second".to_owned()));
    assert_eq!(content(&into(&bench, Some(1))), "first");
    put("third");
    Task::Replace.carry_out(&bench).expect("restored");
    assert_eq!(content(bench.source()), "second");
    Task::Prune.carry_out(&bench).expect("pruned");
    assert_eq!(bench.seqs(), [2]);
    // The standard library cannot remove it.
    let removed = Command::new("rm").arg("-rf").arg(&bench.root).status().expect("rm");
    assert!(removed.success());
}

#[test]
fn names_of_one_inode_stay_names_of_one_inode_through_every_change_of_them() {
    let bench = Bench::new();
    let at = |name: &str| bench.source().join(name);
    bench.put("a/1", "content");
    fs::hard_link(at("a/1"), at("2")).expect("a link");
    fs::hard_link(at("a/1"), at("a/3")).expect("a link");
    let changes: [&dyn Fn(); 6] = [
        &|| {},
        // A fourth name.
        &|| fs::hard_link(at("2"), at("4")).expect("a link"),
        // Other content for all of them.
        &|| fs::write(at("2"), "other").expect("written"),
        // One of them becomes a file of its own with the same content.
        &|| {
            fs::copy(at("2"), at("5")).expect("a copy");
            fs::rename(at("5"), at("a/3")).expect("a rename");
        },
        // All names move.
        &|| fs::rename(at("a"), at("b")).expect("a rename"),
        // One is left.
        &|| {
            fs::remove_file(at("2")).expect("a removal");
            fs::remove_file(at("4")).expect("a removal");
        },
    ];
    let mut trees = Vec::new();
    for change in changes {
        change();
        let Outcome::Taken { seq, .. } = bench.take().expect("a copy") else { panic!("nothing was copied") };
        trees.push((seq, tree(bench.source())));
    }
    for (seq, expected) in &trees {
        assert_eq!(bench.copied(*seq), *expected, "copy {seq}");
    }
    bench.all_verify();
    // Copy 3 has four names of one inode, in a place that has one file of two names now.
    let restored = into(&bench, Some(3));
    assert_eq!(tree(&restored), trees[2].1);
    let inodes = ["a/1", "a/3", "2", "4"].map(|name| fs::metadata(restored.join(name)).expect("a file").ino());
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
}

#[test]
fn very_many_files_need_little_memory() {
    let Some(bench) = Bench::in_memory() else {
        return eprintln!("skipped: {MANY} files are made in /dev/shm, which has no room or is not there");
    };
    for number in 0..MANY {
        let directory = bench.source().join(format!("{:03}", number / 500));
        if number % 500 == 0 {
            fs::create_dir(&directory).expect("a directory");
        }
        let mut file =
            File::create(directory.join(format!("a file with a name of usual length {number}"))).expect("a file");
        if number % WITH_CONTENT == 0 {
            file.write_all(number.to_string().as_bytes()).expect("written");
        }
    }
    let files = MANY;
    for (task, told) in [
        (Task::Take, format!("Taken {{ seq: 1, files: {files}")),
        (Task::Take, "Unchanged { seq: 1 }".to_owned()),
        (Task::VerifyAll, "Verified".to_owned()),
    ] {
        let (said, peak_kib) = helped(&bench, task);
        assert!(said.starts_with(&told) && !said.contains("bad: 1"), "{said}");
        eprintln!("{task:?}: {peak_kib} KiB at most");
        assert!(peak_kib <= MEMORY_KIB, "{task:?} needed {peak_kib} KiB");
    }
}
