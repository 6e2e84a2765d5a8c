use std::collections::BTreeMap;

use super::*;
use crate::id::BlobKey;
use crate::repository::marks::{Gathering, TREE};

const REPOSITORY: RepositoryId = RepositoryId([7; 16]);

fn key(number: u64) -> BlobKey {
    BlobKey::new(&BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes()))
}

fn roots(numbers: &[u8]) -> super::super::Roots {
    let root = |number: &u8| {
        let id = SnapshotId(SessionId { generation: 3, random: [*number; 16] });
        (id, Root { blob: BlobId([*number; 32]), height: number % 3 })
    };
    numbers.iter().map(root).collect()
}

fn rows(marks: &Marks) -> io::Result<Vec<Mark>> {
    marks.rows(IdRange::ALL).collect()
}

/// Marks of so many blobs, each counted as often as its number says.
fn marks(shelf: &Shelf, numbers: std::ops::Range<u64>) -> Arc<Marks> {
    let gathering = Gathering::new(shelf, &Chance::System);
    for number in numbers {
        gathering.add(Mark { key: key(number), tag: number as u32, count: number as i32 + 1 });
    }
    let (marks, differs) = gathering.finish(None, Vec::new(), roots(&[1, 2])).unwrap();
    assert_eq!(differs, None);
    Arc::new(marks)
}

#[test]
fn what_is_put_is_taken_by_the_next_process_and_by_no_other_repository() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = || Shelf::new(REPOSITORY, Some(folder.path()));
    assert!(shelf().take().is_none());
    let put = marks(&shelf(), 0..3000);
    shelf().put(&put, &Chance::System);
    let taken = shelf().take().unwrap();
    assert_eq!(taken.roots(), &roots(&[1, 2]));
    assert_eq!(rows(&taken).unwrap(), rows(&put).unwrap());
    assert!(Shelf::new(RepositoryId([8; 16]), Some(folder.path())).take().is_none());
    shelf().forget();
    assert!(shelf().take().is_none());
}

#[test]
fn without_a_folder_the_shelf_ends_with_the_repository() {
    let shelf = Shelf::new(REPOSITORY, None);
    let put = marks(&shelf, 0..1000);
    shelf.put(&put, &Chance::System);
    assert_eq!(rows(&shelf.take().unwrap()).unwrap(), rows(&put).unwrap());
    assert!(Shelf::new(REPOSITORY, None).take().is_none());
}

/// Whatever byte is another, and wherever a file ends: what is there says so, or is what was put.
#[test]
fn no_file_can_change_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(REPOSITORY, Some(folder.path()));
    let put = marks(&shelf, 0..900);
    shelf.put(&put, &Chance::System);
    let (wanted_rows, wanted_roots) = (rows(&put).unwrap(), put.roots().clone());
    let files: Vec<_> = fs::read_dir(folder.path().join("marks")).unwrap().flatten().collect();
    assert_eq!(files.len(), 2, "a state and a run");
    let is_right = || match shelf.take() {
        None => true,
        Some(taken) => match rows(&taken) {
            Ok(rows) => rows == wanted_rows && *taken.roots() == wanted_roots,
            Err(_) => taken.is_broken(),
        },
    };
    for file in files {
        let whole = fs::read(file.path()).unwrap();
        let step = (whole.len() / 500).max(1);
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(file.path(), bytes).unwrap();
            assert!(is_right(), "byte {at} of {:?}", file.path());
            fs::write(file.path(), &whole[..at]).unwrap();
            assert!(is_right(), "{:?} cut at {at}", file.path());
        }
        fs::remove_file(file.path()).unwrap();
        assert!(is_right(), "without {:?}", file.path());
        fs::write(file.path(), whole).unwrap();
    }
    assert!(shelf.take().is_some());
}

#[test]
fn of_two_processes_the_later_state_counts_and_no_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let shelves = [0, 1].map(|_| Shelf::new(REPOSITORY, Some(folder.path())));
    let one = marks(&shelves[0], 0..500);
    shelves[0].put(&one, &Chance::System);
    // What is not published yet goes with another one's state, so it is made afterwards.
    let other = marks(&shelves[1], 500..900);
    shelves[1].put(&other, &Chance::System);
    // Its run went with the other state, and it is read all the same.
    assert_eq!(rows(&one).unwrap().len(), 500);
    assert_eq!(rows(&shelves[0].take().unwrap()).unwrap(), rows(&other).unwrap());
    shelves[0].put(&one, &Chance::System);
    assert_eq!(rows(&shelves[1].take().unwrap()).unwrap(), rows(&other).unwrap());
    assert_eq!(fs::read_dir(folder.path().join("marks")).unwrap().count(), 2);
}

#[test]
fn where_no_file_can_be_made_marks_stand_in_memory() {
    let folder = tempfile::NamedTempFile::new().unwrap();
    let shelf = Shelf::new(REPOSITORY, Some(folder.path()));
    let put = marks(&shelf, 0..500);
    assert_eq!(rows(&put).unwrap().len(), 500);
    shelf.put(&put, &Chance::System);
    assert!(shelf.take().is_none());
}

#[test]
fn a_blob_that_is_two_things_is_told_of() {
    let shelf = Shelf::new(REPOSITORY, None);
    let gathering = Gathering::new(&shelf, &Chance::System);
    let mark = |tag| Mark { key: key(1), tag, count: 1 };
    gathering.add(mark(5));
    gathering.add(mark(TREE));
    let (base, differs) = gathering.finish(None, Vec::new(), roots(&[1])).unwrap();
    assert_eq!(differs, None);
    assert_eq!(rows(&base).unwrap(), [mark(5), mark(TREE)]);
    for (is_based, more) in [(false, vec![mark(5), mark(6)]), (true, vec![mark(6)])] {
        let base = is_based.then_some(&base);
        let gathering = Gathering::new(&shelf, &Chance::System);
        more.into_iter().for_each(|mark| gathering.add(mark));
        let (marks, differs) = gathering.finish(base, Vec::new(), roots(&[2])).unwrap();
        assert_eq!(differs.map(|differs| differs.tags), (!is_based).then_some([5, 6]));
        assert!(rows(&marks).is_err() && marks.is_broken());
    }
}

#[test]
fn what_is_taken_away_twice_does_not_fit() {
    let shelf = Shelf::new(REPOSITORY, None);
    let base = marks(&shelf, 0..10);
    let gathering = Gathering::new(&shelf, &Chance::System);
    gathering.add(Mark { key: key(0), tag: 0, count: -2 });
    let (marks, _) = gathering.finish(Some(&base), Vec::new(), roots(&[2])).unwrap();
    assert!(marks.lookup(&key(0), false).is_err() && marks.is_broken());
    assert!(rows(&marks).is_err());
}

#[test]
fn a_count_that_is_enough_stays() {
    let shelf = Shelf::new(REPOSITORY, None);
    let mark = |count| Mark { key: key(1), tag: 5, count };
    let mut marks = None;
    for count in [i32::MAX - 1, 1, -i32::MAX, -5] {
        let gathering = Gathering::new(&shelf, &Chance::System);
        gathering.add(mark(count));
        marks = Some(gathering.finish(marks.as_ref(), Vec::new(), roots(&[1])).unwrap().0);
    }
    assert_eq!(rows(&marks.unwrap()).unwrap(), [mark(i32::MAX)]);
}

/// Round after round of references that come and go, in parts so small that most is spilled, against a map.
#[test]
fn marks_are_what_a_map_would_be() {
    for has_folder in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(REPOSITORY, has_folder.then(|| folder.path()));
        let mut model: BTreeMap<(BlobKey, u32), i32> = BTreeMap::new();
        let mut base: Option<Arc<Marks>> = None;
        let mut random = 1u64;
        for round in 0..20_u64 {
            let gathering = Gathering::with_parts(&shelf, &Chance::System, 32);
            let mut more = Vec::new();
            for _ in 0..if round == 0 { 40_000 } else { 500 * round } {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = (random >> 33) % 5000;
                let is_tree = number.is_multiple_of(7);
                let tag = number as u32 | if is_tree { TREE } else { 0 };
                let known = model.entry((key(number), tag)).or_default();
                let count = if *known > 0 && random >> 60 < 8 { -1 } else { 1 };
                *known += count;
                let mark = Mark { key: key(number), tag, count };
                if is_tree { more.push(mark) } else { gathering.add(mark) }
            }
            let (marks, differs) =
                gathering.finish(base.as_deref(), more, roots(&[round as u8])).unwrap();
            assert_eq!(differs, None);
            assert!(marks.runs.len() < 10, "{} runs", marks.runs.len());
            let wanted: Vec<Mark> = model
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|((key, tag), count)| Mark { key: *key, tag: *tag, count: *count })
                .collect();
            assert_eq!(rows(&marks).unwrap(), wanted);
            let parts = IdRange::split(7).into_iter().flat_map(|range| marks.rows(range));
            assert_eq!(parts.collect::<io::Result<Vec<_>>>().unwrap(), wanted);
            for mark in wanted.iter().step_by(501) {
                assert_eq!(marks.lookup(&mark.key, mark.is_tree()).unwrap(), Some(*mark));
                assert_eq!(marks.lookup(&mark.key, !mark.is_tree()).unwrap(), None);
            }
            shelf.put(&Arc::new(marks), &Chance::System);
            base = shelf.take();
        }
    }
}
