//! What only a local directory promises: modes, sweeping, full and read-only disks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::store::conformance::Extent;
use crate::store::{Access, Created, Kind, Store, conformance};

fn new_store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::local(directory.path(), LocalMode::Create).unwrap();
    (directory, store)
}

fn temporaries(directory: &Path) -> usize {
    fs::read_dir(directory.join(TEMPORARY)).map_or(0, Iterator::count)
}

/// A small file system of its own, unmounted when dropped; `None` where we may not mount.
struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    fn new(options: &str) -> Option<Mount> {
        let directory = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: no mounting of tmpfs");
        }
        mounted.then_some(Mount { directory })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    fn remount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-o", options]).arg(self.directory.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for a failing test may still hold it open.
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).status();
    }
}

#[test]
fn local_store_conforms() {
    let (directory, store) = new_store();
    conformance::check(&store, &Extent::QUICK);
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn local_store_conforms_where_only_link_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let service = LocalService::open(directory.path(), LocalMode::Create).unwrap();
    service.renames.store(false, Ordering::Relaxed);
    let line = Access::default().line("by link".to_string(), false);
    conformance::check(&Store::over_local(service, line), &Extent::QUICK);
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn a_second_store_on_the_directory_sees_the_same_objects() {
    let (directory, store) = new_store();
    store.create("keys/a", vec![1]).unwrap();
    let second = Store::local(directory.path(), LocalMode::Open).unwrap();
    assert_eq!(second.get("keys/a").unwrap(), [1]);
    assert_eq!(second.create("keys/a", vec![2]).unwrap(), Created::AlreadyThere);
}

#[test]
fn open_refuses_what_is_not_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    assert_eq!(Store::local(&absent, LocalMode::Open).unwrap_err().kind, Kind::NotFound);
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    for mode in [LocalMode::Create, LocalMode::Open] {
        assert_eq!(Store::local(&file, mode).unwrap_err().kind, Kind::Invalid);
    }
    let below = file.join("below");
    assert_eq!(Store::local(&below, LocalMode::Create).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn create_makes_the_tree_and_nobody_else_may_look_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/c");
    let store = Store::local(&path, LocalMode::Create).unwrap();
    store.create("packs/3f/one", vec![1]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [".", "packs", "packs/3f", "tmp", "..", "../.."] {
        assert_eq!(mode(&path.join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(&path.join("packs/3f/one")), 0o600);
    assert_eq!(Store::local(&path, LocalMode::Create).unwrap().size("packs/3f/one"), Ok(Some(1)));
}

#[test]
fn temporaries_of_the_dead_are_swept_and_those_of_the_living_are_not() {
    let (directory, store) = new_store();
    store.create("config", vec![1]).unwrap();
    let service = LocalService::open(directory.path(), LocalMode::Open).unwrap();
    let living = service.temporary().unwrap();
    fs::write(directory.path().join("tmp/0123456789abcdef0123456789abcdef"), "torn").unwrap();
    assert_eq!(temporaries(directory.path()), 2);

    let reopened = Store::local(directory.path(), LocalMode::Open).unwrap();
    assert_eq!(temporaries(directory.path()), 1);
    assert!(!living.was_swept());
    let names: Vec<String> =
        reopened.list("").unwrap().into_iter().map(|object| object.name).collect();
    assert_eq!(names, ["config"]);
    assert_eq!(reopened.create("tmp/a", vec![1]).unwrap_err().kind, Kind::Invalid);
    drop(living);
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn a_create_outlives_a_sweeper_that_ignores_locks() {
    let (directory, _) = new_store();
    let service = LocalService::open(directory.path(), LocalMode::Open).unwrap();
    let mut swept = service.temporary().unwrap();
    fs::remove_file(directory.path().join(&swept.name)).unwrap();
    assert!(swept.was_swept());
    assert_eq!(service.give_name(&mut swept, "config", true), Err(Errno::NOENT));
    service.publish("config", &Buffer::from(vec![1]), true).unwrap();
    assert_eq!(fs::read(directory.path().join("config")).unwrap(), [1]);
}

#[test]
fn a_full_disk_is_told_as_full_and_nothing_is_left() {
    let Some(mount) = Mount::new("size=256k") else { return };
    let store = Store::local(&mount.path(), LocalMode::Create).unwrap();
    let error = store.create("packs/00/big", vec![7; 1 << 20]).unwrap_err();
    assert_eq!(error.kind, Kind::Full, "{error}");
    assert_eq!(temporaries(&mount.path()), 0);
    assert_eq!(store.size("packs/00/big"), Ok(None));
    assert_eq!(store.create("packs/00/small", vec![7; 1 << 16]), Ok(Created::New));
}

#[test]
fn a_read_only_disk_can_be_read_and_denies_the_rest() {
    let Some(mount) = Mount::new("size=256k") else { return };
    Store::local(&mount.path(), LocalMode::Create).unwrap().create("keys/a", vec![1]).unwrap();
    mount.remount("remount,ro");
    let store = Store::local(&mount.path(), LocalMode::Open).unwrap();
    assert_eq!(store.get("keys/a").unwrap(), [1]);
    assert_eq!(store.list("keys/").unwrap().len(), 1);
    assert_eq!(store.create("keys/b", vec![1]).unwrap_err().kind, Kind::Denied);
    assert_eq!(store.delete("keys/a").unwrap_err().kind, Kind::Denied);
}

#[test]
fn a_directory_without_permission_denies() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root, whom permission bits do not stop");
        return;
    }
    let (directory, store) = new_store();
    store.create("keys/a", vec![1]).unwrap();
    let keys = directory.path().join("keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(store.create("keys/b", vec![1]).unwrap_err().kind, Kind::Denied);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(store.get("keys/a").unwrap_err().kind, Kind::Denied);
    assert_eq!(store.list("keys/").unwrap_err().kind, Kind::Denied);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_where_a_folder_should_be_is_an_error_and_no_empty_list() {
    let (directory, store) = new_store();
    fs::write(directory.path().join("packs"), "x").unwrap();
    assert_eq!(store.create("packs/00/a", vec![1]).unwrap_err().kind, Kind::Invalid);
    assert_eq!(store.list("packs/").unwrap_err().kind, Kind::Invalid);
    assert_eq!(store.list("packs/00/").unwrap_err().kind, Kind::Invalid);
}

#[test]
fn what_is_not_ours_is_not_listed() {
    let (directory, store) = new_store();
    store.create("packs/00/a", vec![1]).unwrap();
    let folder = directory.path().join("packs");
    fs::create_dir(folder.join("lost+found")).unwrap();
    fs::write(folder.join(".nfs0001"), "x").unwrap();
    fs::write(folder.join("a file of mine"), "x").unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    assert_eq!(store.list("packs/").unwrap().len(), 1);
    symlink("..", folder.join("upwards")).unwrap();
    assert!(store.list("packs/").is_err(), "a loop must end");
}

#[test]
fn a_folder_of_packs_may_be_a_link_to_another_directory() {
    let (directory, store) = new_store();
    let other = tempfile::tempdir_in(directory.path().parent().unwrap()).unwrap();
    symlink(other.path(), directory.path().join("packs")).unwrap();
    store.create("packs/00/a", vec![1]).unwrap();
    assert_eq!(store.list("packs/").unwrap().len(), 1);
    assert!(other.path().join("00/a").exists());
}

#[test]
fn an_object_that_was_cut_is_told_as_truncated() {
    let (directory, store) = new_store();
    store.create("packs/00/a", vec![7; 100]).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(directory.path().join("packs/00/a"))
        .and_then(|file| file.set_len(40))
        .unwrap();
    let error = store.get_range("packs/00/a", 30..50).unwrap_err();
    assert_eq!(error.kind, Kind::Truncated);
    assert_eq!(error.to_string(), "packs/00/a: is only 40 bytes long, and was read up to byte 50");
}
