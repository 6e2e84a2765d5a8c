//! Repositories on stores of which only a probe tells what they do.

use std::path::Path;

use aumbry::format::config::Form;
use aumbry::monitor::SilentMonitor;
use aumbry::repository::Repository;
use aumbry::store::{Store, layout};

use crate::support::{
    back_up, back_up_with, contents, create, environment, open, options, passphrase,
    small_settings, snapshots,
};

/// What a probe asks at the least.
const PROBE_CALLS: u64 = 100;

fn far() -> Store {
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    Store::remote(operator, "far away").unproven()
}

fn source() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"content").unwrap();
    folder
}

/// How many requests opening and backing up took.
fn cost(store: &Store, folder: &Path, cache: &Path) -> u64 {
    let before = store.traffic().requests();
    back_up(&open(store.clone(), Some(cache)), folder);
    store.traffic().requests() - before
}

#[test]
fn a_store_is_probed_when_a_repository_is_made_and_not_again_within_a_week_on_the_same_client() {
    let (store, source) = (far(), source());
    let (known, unknown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = create(store.clone(), small_settings(), Some(known.path()));
    assert_eq!(repository.settings().form, Form::Conditions);
    assert!(store.traffic().requests() > PROBE_CALLS);
    drop(repository);
    assert!(cost(&store, source.path(), known.path()) < PROBE_CALLS);
    assert!(cost(&store, source.path(), unknown.path()) > PROBE_CALLS);
    assert!(cost(&store, source.path(), unknown.path()) < PROBE_CALLS);
    assert_eq!(store.list(layout::PROBE).unwrap(), []);
}

#[test]
fn the_form_is_decided_once_and_every_client_uses_it() {
    let (store, source) = (far(), source());
    let weak = store.clone().without_conditions();
    let repository = create(weak, small_settings(), None);
    assert_eq!(repository.settings().form, Form::Confirmations);
    back_up(&repository, source.path());
    // A client that could do more does not.
    let repository = open(store.clone(), None);
    assert!(!repository.store().is_conditional());
    back_up(&repository, source.path());
    assert_eq!(store.list(layout::CONFIRMED).unwrap().len(), 2);
    assert_eq!(snapshots(&open(store, None)).len(), 2);
}

#[test]
fn a_store_that_does_less_than_the_repository_relies_on_is_read_and_not_written() {
    let (store, source) = (far(), source());
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let weak = open(store.clone().without_conditions(), None);
    let before = store.list("").unwrap();
    let refused = back_up_with(&weak, source.path(), &options(), &SilentMonitor).unwrap_err();
    assert!(refused.to_string().contains("not what it was"), "{refused}");
    let refused = weak.store().create("keys/another", vec![1]).unwrap_err();
    assert!(refused.to_string().contains("not what it was"), "{refused}");
    let left = store.list("").unwrap().into_iter();
    let left: Vec<_> = left.filter(|object| !object.name.starts_with(layout::PROBE)).collect();
    assert_eq!(left, before);
    let (_, snapshot) = snapshots(&weak).remove(0);
    assert_eq!(contents(&weak, &snapshot)[&b"/tree/file"[..]], b"content");
}

#[test]
fn what_a_store_has_shown_is_shown_again_and_a_disk_is_not_asked() {
    let repository = create(far(), small_settings(), None);
    assert!(repository.probe_store().unwrap().unwrap().creates_once);
    let folder = tempfile::tempdir().unwrap();
    let disk = Store::local(folder.path(), aumbry::store::LocalMode::Open).unwrap();
    let repository = create(disk, small_settings(), None);
    assert_eq!(repository.probe_store().unwrap(), None);
    drop(repository);
    let again = Store::local(folder.path(), aumbry::store::LocalMode::Open).unwrap();
    let again = Repository::open(again, &passphrase(), environment(None)).unwrap();
    assert_eq!(again.settings().form, Form::Conditions);
}
