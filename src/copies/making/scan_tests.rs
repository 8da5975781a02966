use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::*;
use crate::sys::testing::{TempDir, root_or_skip};

/// Paths below the source with a letter for their kind.
fn walked(from: &[PathBuf], exclude: &[&str]) -> Vec<String> {
    let exclude = Exclude::new(&exclude.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>()).unwrap();
    let mut last: Option<Vec<u8>> = None;
    let (mut paths, mut told) = (Vec::new(), Vec::new());
    for found in Scan::new(from, &exclude) {
        let Found { entry, is_way, is_mount, .. } = found.unwrap();
        assert!(last.is_none_or(|last| order(&last, &entry.path).is_lt()), "{}", entry.path.escape_ascii());
        last = Some(entry.path.clone());
        paths.push(entry.path.clone());
        if is_way {
            assert_eq!(entry.kind, Kind::Dir);
            continue;
        }
        let kind = match &entry.kind {
            Kind::File { size, .. } => format!("f{size}"),
            Kind::Dir if is_mount => "mount".into(),
            Kind::Dir => "d".into(),
            Kind::Link { target } => format!("l{}", target.escape_ascii()),
            Kind::Fifo => "p".into(),
            Kind::Socket => "s".into(),
            Kind::Char { .. } => "c".into(),
            Kind::Block { .. } => "b".into(),
        };
        told.push(format!("{} {kind}", entry.path.escape_ascii()));
    }
    let scouted: Vec<_> = Scan::new(from, &exclude).scouted().map(|found| found.unwrap().entry.path).collect();
    assert_eq!(scouted, paths);
    let prefix = format!("{} ", below_root(&std::env::temp_dir()).escape_ascii());
    told.retain(|line| *line != prefix);
    told
}

fn below(directory: &TempDir, lines: &[&str]) -> Vec<String> {
    let root = below_root(directory.path()).escape_ascii().to_string();
    lines
        .iter()
        .map(|line| if line.starts_with(' ') { format!("{root}{line}") } else { format!("{root}/{line}") })
        .collect()
}

#[test]
fn everything_comes_in_the_order_of_the_manifest() {
    let directory = TempDir::new();
    let root = directory.path();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/c/deep"), "12345").unwrap();
    fs::write(root.join("a.x"), "1").unwrap();
    fs::write(root.join("a-x"), "1").unwrap();
    symlink("../nowhere\n", root.join("a/link")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"odd\xff\nname")), "").unwrap();
    fs::write(root.join("n".repeat(255)), "").unwrap();
    let _listener = UnixListener::bind(root.join("sock")).unwrap();
    Dir::open(root).unwrap().make_node(OsStr::new("pipe"), 0o010_600, 0).unwrap();
    let long = format!("{} f0", "n".repeat(255));
    let expected = [
        " d",
        "a d",
        "a/b d",
        "a/b/c d",
        "a/b/c/deep f5",
        "a/link l../nowhere\\n",
        "a-x f1",
        "a.x f1",
        &long,
        "odd\\xff\\nname f0",
        "pipe p",
        "sock s",
    ];
    assert_eq!(walked(&[root.to_path_buf()], &[]), below(&directory, &expected));
    let expected = [" d", "a d", "a/link l../nowhere\\n", "pipe p", "sock s"];
    assert_eq!(walked(&[root.to_path_buf()], &["/a/b", "*x", "nnn*", "odd*", "pipe/"]), below(&directory, &expected));
}

#[test]
fn several_sources_share_their_ways_and_files_are_sources_too() {
    let directory = TempDir::new();
    let root = directory.path();
    fs::create_dir_all(root.join("x/two")).unwrap();
    fs::create_dir_all(root.join("x/one")).unwrap();
    fs::write(root.join("x/one/f"), "").unwrap();
    fs::write(root.join("file"), "abc").unwrap();
    let exclude = Exclude::default();
    let from = ["x/two", "file", "x/one"].map(|name| root.join(name));
    let found: Vec<Found> = Scan::new(&from, &exclude).map(Result::unwrap).collect();
    let paths: Vec<_> = found.iter().filter(|found| !found.is_way).map(|found| found.entry.name()).collect();
    assert_eq!(paths, ["file", "one", "f", "two"]);
    let ways: Vec<_> = found.iter().filter(|found| found.is_way).map(|found| found.entry.path.as_slice()).collect();
    let last = [below_root(root), b"/x"].concat();
    assert_eq!(ways.last(), Some(&last.as_slice()));
    assert!(ways.is_sorted_by(|a, b| order(a, b).is_lt()), "each of them once");
    assert!(found.iter().all(|found| found.attributes().is_ok()));
}

#[test]
fn source_that_is_missing_or_a_link_is_told_and_the_others_are_walked() {
    let directory = TempDir::new();
    let root = directory.path();
    fs::create_dir(root.join("there")).unwrap();
    symlink("there", root.join("link")).unwrap();
    let exclude = Exclude::default();
    let from = ["gone", "gone2/below", "link", "there"].map(|name| root.join(name));
    let (found, troubles): (Vec<_>, Vec<_>) = Scan::new(&from, &exclude).partition(Result::is_ok);
    assert!(found.into_iter().flatten().any(|found| found.entry.name() == "there"));
    let troubles: Vec<Trouble> = troubles.into_iter().filter_map(Result::err).collect();
    assert!(troubles.iter().all(|trouble| trouble.extent == Extent::Source));
    let names = troubles.iter().map(|trouble| trouble.path.rsplit(|byte| *byte == b'/').next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), [b"gone".as_slice(), b"below", b"link"]);
}

#[test]
fn source_behind_a_link_is_walked_and_its_way_is_a_directory() {
    let directory = TempDir::new();
    let root = directory.path();
    fs::create_dir_all(root.join("real/source")).unwrap();
    symlink("real", root.join("link")).unwrap();
    assert_eq!(walked(&[root.join("link/source")], &[]), below(&directory, &["link/source d"]));
}

#[test]
fn directory_with_many_names_and_a_deep_one_come_whole() {
    let directory = TempDir::new();
    let root = directory.path();
    for n in 0..2 * WINDOW_NAMES as u64 + 5 {
        fs::write(root.join(format!("{:08x}", n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff)), "").unwrap();
    }
    let mut trail = Trail::new(Arc::new(Dir::open(root).unwrap()));
    for _ in 0..300 {
        trail.here().make_dir(OsStr::new("deep"), 0o700).unwrap();
        trail.enter(OsStr::new("deep")).unwrap();
    }
    assert_eq!(walked(&[root.to_path_buf()], &[]).len(), 1 + 2 * WINDOW_NAMES + 5 + 300);
}

#[test]
fn names_of_one_inode_have_one_group() {
    let directory = TempDir::new();
    let root = directory.path();
    fs::write(root.join("a"), "").unwrap();
    fs::write(root.join("single"), "").unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    let exclude = Exclude::default();
    let keys: Vec<_> = Scan::new(&[root.to_path_buf()], &exclude)
        .map(Result::unwrap)
        .filter(|found| matches!(found.entry.kind, Kind::File { .. }))
        .map(|found| found.entry.link_key())
        .collect();
    assert!(keys[0].is_some() && keys[0] == keys[1] && keys[2].is_none());
}

#[test]
fn mount_below_a_source_is_told_and_not_entered() {
    if !root_or_skip("mounting") {
        return;
    }
    let directory = TempDir::new();
    let root = directory.path();
    fs::create_dir_all(root.join("mnt")).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(root.join("mnt")).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: tmpfs cannot be mounted here");
        return;
    }
    fs::write(root.join("mnt/inside"), "").unwrap();
    let told = walked(&[root.to_path_buf()], &[]);
    let as_source = walked(&[root.join("mnt")], &[]);
    assert!(Command::new("umount").arg(root.join("mnt")).status().unwrap().success());
    assert_eq!(told, below(&directory, &[" d", "mnt mount"]));
    assert_eq!(as_source, below(&directory, &["mnt d", "mnt/inside f0"]));
}
