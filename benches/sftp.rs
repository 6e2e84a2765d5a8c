//! Objects of 16 MiB to and from an `sshd` on loopback, beside what `sftp` needs for the same bytes over one connection.
//!
//! `cargo bench --bench sftp -- [MEGABYTES] [CONNECTIONS…]`; everything lies in the folder for temporary files. Eight
//! threads put and get, as a repository does. `sftp -f` syncs each file, as the store does; the store syncs the
//! folder as well. All take turns three times in one process, and the best counts.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

#[path = "../tests/stores/sshd.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sshd;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use sshd::Sshd;

const OBJECT_BYTES: usize = 16 << 20;
const THREADS: usize = 8;
const ROUNDS: usize = 3;

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Does `work` for every number below `count`, on all threads.
fn each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

fn sftp(server: &Sshd, arguments: &[&str], script: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), script).unwrap();
    let status = Command::new("sftp")
        .args(["-q", "-F"])
        .arg(server.client_config())
        .args(["-P", &server.port().to_string(), "-b"])
        .arg(file.path())
        .args(arguments)
        .arg("127.0.0.1")
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let megabytes = numbers.first().copied().unwrap_or(1_024);
    let connections = if numbers.len() > 1 { numbers[1..].to_vec() } else { vec![1, 2, 4] };
    let count = (megabytes << 20).div_ceil(OBJECT_BYTES);
    let Some(server) = Sshd::start() else { return };

    // xorshift64 (Marsaglia 2003): nothing between here and there can compress it.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = (0..OBJECT_BYTES / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();

    let local = tempfile::tempdir().unwrap();
    let (there, back) = (server.root().join("sftp"), local.path().join("back"));
    let file = local.path().join("object");
    fs::write(&file, &bytes).unwrap();
    let script = |line: &dyn Fn(usize) -> String| -> String { (0..count).map(line).collect() };
    let puts = script(&|number| format!("put {} {}/{number}\n", file.display(), there.display()));
    let gets = script(&|number| {
        format!("get {}/{number} {}\n", there.display(), back.join(number.to_string()).display())
    });

    let mut best = vec![[f64::MAX; 2]; connections.len() + 2];
    for _ in 0..ROUNDS {
        for (row, &connections) in connections.iter().enumerate() {
            let store = server.store(connections);
            let put = seconds(|| {
                each(count, |number| {
                    store.create(&format!("packs/00/{number}"), bytes.clone()).unwrap();
                });
            });
            let get = seconds(|| {
                each(count, |number| {
                    assert_eq!(
                        store.get(&format!("packs/00/{number}")).unwrap().len(),
                        OBJECT_BYTES
                    );
                });
            });
            each(count, |number| store.delete(&format!("packs/00/{number}")).unwrap());
            best[row] = [best[row][0].min(put), best[row][1].min(get)];
        }
        for (row, arguments) in
            [&["-f"][..], &["-f", "-B", "261120", "-R", "64"]].iter().enumerate()
        {
            fs::create_dir_all(&there).unwrap();
            fs::create_dir_all(&back).unwrap();
            let put = seconds(|| sftp(&server, arguments, &puts));
            let get = seconds(|| sftp(&server, arguments, &gets));
            fs::remove_dir_all(&there).unwrap();
            fs::remove_dir_all(&back).unwrap();
            let row = connections.len() + row;
            best[row] = [best[row][0].min(put), best[row][1].min(get)];
        }
    }

    let names = connections.iter().map(|connections| format!("store, {connections} connections"));
    let names = names.chain(["sftp -f".into(), "sftp -f -B 261120 -R 64".into()]);
    println!("{count} objects of {} MiB: MB/s", OBJECT_BYTES >> 20);
    for (name, [put, get]) in names.zip(&best) {
        let rate = |seconds: &f64| (count * OBJECT_BYTES) as f64 / 1e6 / seconds;
        println!("{name:24} put {:6.0}  get {:6.0}", rate(put), rate(get));
    }
}
