//! Backing up a tree that did not change: 20 000 small files in 200 directories, compared with the parent
//! snapshot, nothing read and nothing stored.
//!
//! The limit is asking the system the same, on one core: names by getdents, one statx each, in the order of
//! the listing.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::backup;
use aumbry::source::files::{Files, FilesOptions};
use aumbry::store::Store;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, StatxFlags, openat, statx};

use crate::common::{backup_options, create, criterion};

const DIRECTORIES: usize = 200;
const FILES: usize = 100;

fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> OwnedFd {
    openat(parent, name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .unwrap()
}

/// Asks for every entry below a directory, and returns how many there are.
fn stat_all(directory: OwnedFd) -> usize {
    let mut count = 0;
    for entry in Dir::read_from(&directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(&directory, name, flags, wanted).unwrap();
        count += 1;
        if u32::from(stat.stx_mode) & 0o170_000 == 0o040_000 {
            count += stat_all(open(&directory, name));
        }
    }
    count
}

fn make_tree(root: &Path) {
    for directory in 0..DIRECTORIES {
        let directory = root.join(format!("directory-{directory}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..FILES {
            fs::write(directory.join(format!("file-{file}")), format!("content {file}")).unwrap();
        }
    }
}

fn walk(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    make_tree(folder.path());
    let repository = create(Store::memory(), Some(cache.path()));
    let run = |dry_run| {
        let paths = [PathBuf::from(folder.path())];
        let mut source = Files::new(&paths, FilesOptions::default()).unwrap();
        backup(&repository, &mut source, &backup_options(dry_run), &SilentMonitor).unwrap()
    };
    run(false);
    let mut group = criterion.benchmark_group("walk");
    group.throughput(Throughput::Elements((DIRECTORIES * FILES) as u64));
    group.bench_function("unchanged tree", |bencher| {
        bencher.iter(|| {
            let counts = run(true).counts;
            assert_eq!(counts.files_unmodified, (DIRECTORIES * FILES) as u64);
        });
    });
    group.bench_function("limit: getdents and statx", |bencher| {
        bencher.iter(|| {
            assert_eq!(stat_all(open(CWD, folder.path())), DIRECTORIES * (FILES + 1));
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = criterion(); targets = walk }
criterion_main!(benches);
