use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::sys::testing::TempDir;

/// Something that is there (or not), something that was built for it, and what is known of both.
struct Scene {
    directory: TempDir,
    swap: Swap,
}

impl Scene {
    fn new(kind: SwapKind) -> Self {
        let directory = TempDir::new();
        let root = directory.path().join("srv");
        fs::create_dir(&root).unwrap();
        let (path, around) = match kind {
            SwapKind::MountPoint => (root.clone(), root),
            SwapKind::Free | SwapKind::Taken => (root.join("data"), root),
        };
        let name = |word: &str| around.join(format!(".{word}-000007-20261122T063000Z"));
        if kind != SwapKind::Free {
            fill(&path, "old");
            fs::write(path.join("only-old"), "old").unwrap();
        }
        let built = around.join(".mainstay-restore");
        fill(&built, "new");
        fs::write(built.join("only-new"), "new").unwrap();
        let new = fs::metadata(&built).unwrap().ino();
        let swap = Swap { path, kind, built, kept: name("before"), aside: name("failed"), new };
        Self { directory, swap }
    }

    fn place(&self) -> Place<'_> {
        let plan = CopyPlan::with_defaults("d", self.directory.path().join("srv"), "/nowhere".into());
        Place::open(&plan, &self.swap).unwrap()
    }

    /// What is in the place: everything of the one and nothing of the other.
    fn is(&self, what: &str) {
        let path = &self.swap.path;
        let is_new = what == "new";
        if !is_new && self.swap.kind == SwapKind::Free {
            return assert!(!path.exists(), "nothing was there");
        }
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), what);
        assert_eq!(fs::read_to_string(path.join("below/file")).unwrap(), what);
        assert_eq!(path.join("only-new").exists(), is_new);
        assert_eq!(path.join("only-old").exists(), !is_new && self.swap.kind != SwapKind::Free);
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, if is_new { 0o750 } else { 0o700 });
        assert!(!self.swap.built.exists(), "nothing half stays");
    }

    fn rename(&self, from: &Path, to: &Path) {
        fs::rename(from, to).unwrap();
    }
}

fn fill(path: &Path, what: &str) {
    fs::create_dir_all(path.join("below")).unwrap();
    fs::write(path.join("file"), what).unwrap();
    fs::write(path.join("below/file"), what).unwrap();
    let mode = if what == "new" { 0o750 } else { 0o700 };
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

const KINDS: [SwapKind; 3] = [SwapKind::Free, SwapKind::Taken, SwapKind::MountPoint];

#[test]
fn what_is_exchanged_comes_back_and_either_may_be_done_twice() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        for _ in 0..2 {
            scene.place().forward().unwrap();
            scene.is("new");
        }
        if kind != SwapKind::Free {
            assert_eq!(fs::read_to_string(scene.swap.kept.join("only-old")).unwrap(), "old");
        }
        for _ in 0..2 {
            assert!(scene.place().back().unwrap(), "what had been in its place lies aside");
            scene.is("old");
        }
        assert_eq!(fs::read_to_string(scene.swap.aside.join("only-new")).unwrap(), "new");
        assert!(!scene.swap.kept.exists());
    }
}

#[test]
fn what_was_never_exchanged_is_taken_away() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        assert!(!scene.place().back().unwrap());
        scene.is("old");
        assert!(scene.place().forward().is_err() || kind == SwapKind::Free && scene.swap.path.exists());
    }
}

#[test]
fn what_wrote_meanwhile_is_put_aside_and_not_lost() {
    for kind in KINDS {
        let scene = Scene::new(kind);
        scene.place().forward().unwrap();
        fs::write(scene.swap.path.join("written"), "while it was tried").unwrap();
        if kind == SwapKind::Taken {
            // The service may have replaced the whole of it, which gives it another inode.
            let other = scene.directory.path().join("other");
            fill(&other, "new");
            fs::write(other.join("written"), "while it was tried").unwrap();
            fs::remove_dir_all(&scene.swap.path).unwrap();
            scene.rename(&other, &scene.swap.path);
        }
        for _ in 0..2 {
            assert!(scene.place().back().unwrap());
            scene.is("old");
        }
        assert_eq!(fs::read_to_string(scene.swap.aside.join("written")).unwrap(), "while it was tried");
    }
}

/// Each state that an end in the middle can leave, made by hand; from each both directions lead to something whole.
#[test]
fn whatever_an_end_leaves_is_finished_in_either_direction() {
    let moving = |scene: &Scene| {
        let mut name = scene.swap.kept.clone().into_os_string();
        name.push(MOVING);
        PathBuf::from(name)
    };
    type Cut = (&'static str, SwapKind, fn(&Scene, &Path));
    let cuts: [Cut; 8] = [
        ("renamed, not exchanged", SwapKind::Taken, |scene, _| scene.rename(&scene.swap.built, &scene.swap.kept)),
        ("between two steps", SwapKind::Taken, |scene, _| scene.rename(&scene.swap.path, &scene.swap.kept)),
        ("the old half of a mount point moved out", SwapKind::MountPoint, |scene, moving| {
            fs::create_dir(moving).unwrap();
            fs::set_permissions(moving, fs::metadata(&scene.swap.path).unwrap().permissions()).unwrap();
            scene.rename(&scene.swap.path.join("below"), &moving.join("below"));
        }),
        ("all of it moved out", SwapKind::MountPoint, |scene, moving| {
            fs::create_dir(moving).unwrap();
            fs::set_permissions(moving, fs::metadata(&scene.swap.path).unwrap().permissions()).unwrap();
            for name in ["below", "file", "only-old"] {
                scene.rename(&scene.swap.path.join(name), &moving.join(name));
            }
        }),
        ("and said so", SwapKind::MountPoint, |scene, moving| {
            fs::create_dir(moving).unwrap();
            fs::set_permissions(moving, fs::metadata(&scene.swap.path).unwrap().permissions()).unwrap();
            for name in ["below", "file", "only-old"] {
                scene.rename(&scene.swap.path.join(name), &moving.join(name));
            }
            scene.rename(moving, &scene.swap.kept);
        }),
        ("half of the new moved in", SwapKind::MountPoint, |scene, moving| {
            fs::create_dir(moving).unwrap();
            fs::set_permissions(moving, fs::metadata(&scene.swap.path).unwrap().permissions()).unwrap();
            for name in ["below", "file", "only-old"] {
                scene.rename(&scene.swap.path.join(name), &moving.join(name));
            }
            scene.rename(moving, &scene.swap.kept);
            scene.rename(&scene.swap.built.join("file"), &scene.swap.path.join("file"));
        }),
        ("going back", SwapKind::Taken, |scene, _| {
            scene.place().forward().unwrap();
            scene.rename(&scene.swap.path, &scene.swap.aside);
        }),
        ("half of the old moved back in", SwapKind::MountPoint, |scene, moving| {
            scene.place().forward().unwrap();
            fs::create_dir(&scene.swap.aside).unwrap();
            for name in ["below", "file", "only-new"] {
                scene.rename(&scene.swap.path.join(name), &scene.swap.aside.join(name));
            }
            scene.rename(&scene.swap.kept, moving);
            scene.rename(&moving.join("file"), &scene.swap.path.join("file"));
        }),
    ];
    for (what, kind, cut) in cuts {
        for to in [SwapTo::New, SwapTo::Old] {
            let scene = Scene::new(kind);
            cut(&scene, &moving(&scene));
            // Nobody goes forward again once it goes back.
            if to == SwapTo::New && (what.contains("back")) {
                continue;
            }
            let context = format!("{what} to {to:?}");
            match to {
                SwapTo::New => scene.place().forward().unwrap_or_else(|error| panic!("{context}: {error}")),
                SwapTo::Old => {
                    scene.place().back().unwrap_or_else(|error| panic!("{context}: {error}"));
                }
            }
            scene.is(if to == SwapTo::New { "new" } else { "old" });
        }
    }
}

#[test]
fn what_somebody_else_has_put_where_the_old_is_to_be_kept_is_neither_taken_for_it_nor_put_in_its_place() {
    let scene = Scene::new(SwapKind::Taken);
    fill(&scene.swap.kept, "squatter");
    let error = scene.place().forward().unwrap_err();
    assert!(error.to_string().contains("is somebody else's"), "{error}");
    assert!(!scene.place().back().unwrap(), "it has never been in the place");
    scene.is("old");
    assert_eq!(fs::read_to_string(scene.swap.kept.join("file")).unwrap(), "squatter");
}

#[test]
fn mount_point_is_not_reached_through_a_link_below_a_source() {
    let scene = Scene::new(SwapKind::Taken);
    let root = scene.directory.path().join("srv");
    fs::create_dir_all(scene.directory.path().join("elsewhere/point")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", root.join("link")).unwrap();
    let swap = Swap { kind: SwapKind::MountPoint, path: root.join("link/point"), ..scene.swap.clone() };
    let plan = CopyPlan::with_defaults("d", root, "/nowhere".into());
    assert!(Place::open(&plan, &swap).is_err());
}
