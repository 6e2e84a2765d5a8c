//! What only this store promises, against OpenSSH's `sftp-server` on two pipes, without a network and without retries.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use opendal::Operator;

use super::*;
use crate::store::conformance::Extent;
use crate::store::{Created, Kind, Store, conformance};

const SERVERS: [&str; 3] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
];

/// A server's folder and how it is reached: the server itself stands in the place of `ssh`.
struct Server {
    directory: tempfile::TempDir,
    // Elsewhere, for a log that is written keeps a file system writable.
    logs: tempfile::TempDir,
    binary: &'static str,
}

impl Server {
    fn new() -> Option<Server> {
        let binary = SERVERS.into_iter().find(|path| Path::new(path).exists());
        if binary.is_none() {
            println!("skipped: no sftp-server");
        }
        let folder = || tempfile::tempdir().unwrap();
        Some(Server { directory: folder(), logs: folder(), binary: binary? })
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn log(&self) -> PathBuf {
        self.logs.path().join("log")
    }

    /// The store, with this many connections and with these arguments for the server.
    fn service(&self, connections: usize, arguments: &str) -> SftpService {
        self.service_at(&self.root(), connections, arguments, false)
    }

    fn service_at(
        &self,
        root: &Path,
        connections: usize,
        arguments: &str,
        unsynced: bool,
    ) -> SftpService {
        let (binary, log, start) = (self.binary, self.log(), self.directory.path());
        let server = format!(
            "exec {binary} -d {} -e -l DEBUG3 {arguments} 2>>{}",
            start.display(),
            log.display()
        );
        let address = SftpAddress {
            host: "server".into(),
            user: None,
            port: None,
            path: root.to_str().unwrap().into(),
        };
        let ssh_command = Some(format!("sh -c '{server}'"));
        SftpService::open(address, SftpOptions { connections, ssh_command, unsynced }).unwrap()
    }

    fn store(&self, arguments: &str) -> Store {
        store(self.service(2, arguments))
    }

    fn temporaries(&self) -> usize {
        fs::read_dir(self.root().join(TEMPORARY)).map_or(0, Iterator::count)
    }

    /// The processes of this server that this process started.
    fn processes(&self) -> Vec<u32> {
        let marker = self.directory.path().to_str().unwrap().to_string();
        let is_ours = |pid: &u32| {
            let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let status = String::from_utf8_lossy(&read("status")).into_owned();
            status.contains(&format!("\nPPid:\t{}\n", std::process::id()))
                && String::from_utf8_lossy(&read("cmdline")).contains(&marker)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }
}

fn store(service: SftpService) -> Store {
    let operator = Operator::from_parts(OperationContext::default(), Arc::new(service));
    Store::direct(operator, "sftp", true)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn sftp_store_conforms() {
    let Some(server) = Server::new() else { return };
    conformance::check(&server.store(""), &Extent::QUICK);
    assert_eq!(server.temporaries(), 0);
}

#[test]
fn sftp_store_conforms_with_a_server_that_knows_nothing_but_the_draft() {
    let Some(server) = Server::new() else { return };
    let denied = "-P hardlink,fsync,posix-rename,limits,statvfs";
    conformance::check(&store(server.service_at(&server.root(), 4, denied, true)), &Extent::QUICK);
    assert_eq!(server.temporaries(), 0);
}

#[test]
fn a_server_that_cannot_sync_is_refused_unless_that_is_accepted() {
    let Some(server) = Server::new() else { return };
    let error = server.store("-P fsync").create("config", vec![1]).unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    assert!(error.message.contains("`unsynced`"), "{error}");
    let accepting = store(server.service_at(&server.root(), 1, "-P fsync", true));
    assert_eq!(accepting.create("config", vec![1]), Ok(Created::New));
}

#[test]
fn bytes_then_name_then_folder_are_made_durable_in_this_order() {
    let Some(server) = Server::new() else { return };
    let store = store(server.service(1, ""));
    let root = server.root().to_str().unwrap().to_string();
    let above = server.directory.path().to_str().unwrap();
    let steps_after = |begun: usize| -> Vec<String> {
        let log = fs::read_to_string(server.log()).unwrap();
        let told = log.lines().skip(begun).filter_map(|line| {
            let step = ["mkdir name ", "open \"", "fsync ", "hardlink old ", "remove name "]
                .into_iter()
                .find(|step| line.starts_with(step))?;
            let told = line.replace(&format!("{root}/"), "").replace(&root, ".");
            let told = told.trim_end().replace(above, "..");
            // A temporary's digits differ each time.
            let told = match told.split_once("tmp/") {
                Some((before, after)) => format!("{before}tmp/X{}", &after[32..]),
                None => told,
            };
            Some(told).filter(|_| step != "open \"" || !line.contains("READ"))
        });
        told.collect()
    };
    store.create("packs/3f/zero", vec![7; 600_000]).unwrap();
    // Folders are made while the bytes are on their way, and both before the name.
    let first = steps_after(0);
    let at = |wanted: &str| {
        let found = first.iter().rposition(|step| step == wanted);
        found.ok_or_else(|| format!("{wanted}: {first:?}")).unwrap()
    };
    let name = at("hardlink old \"tmp/X\" new \"packs/3f/zero\"");
    assert!(at("fsync \"tmp/X\"") < name && name < at("fsync \"packs/3f\""), "{first:?}");
    let folders = [
        "mkdir name \"packs\" mode 0700",
        "fsync \".\"",
        "mkdir name \"packs/3f\" mode 0700",
        "fsync \"packs\"",
    ];
    assert!(folders.map(at).is_sorted() && at(folders[3]) < name, "{first:?}");
    assert!(at("fsync \"..\"") < at(folders[0]), "{first:?}");

    let begun = fs::read_to_string(server.log()).unwrap().lines().count();
    store.create("packs/3f/one", vec![7; 600_000]).unwrap();
    assert_eq!(store.create("packs/3f/one", vec![8; 9]), Ok(Created::AlreadyThere));
    store.delete("packs/3f/one").unwrap();
    insta::assert_snapshot!(steps_after(begun).join("\n"));
}

#[test]
fn nobody_else_may_look_in() {
    let Some(server) = Server::new() else { return };
    let root = server.directory.path().join("a/b/c");
    let service = server.service_at(&root, 1, "", false);
    store(service).create("packs/3f/one", vec![1]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [".", "packs", "packs/3f", "tmp", "..", "../.."] {
        assert_eq!(mode(&root.join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(&root.join("packs/3f/one")), 0o600);
}

#[test]
fn temporaries_go_when_they_are_a_week_old_by_the_servers_clock() {
    let Some(server) = Server::new() else { return };
    server.store("").create("config", vec![1]).unwrap();
    let folder = server.root().join(TEMPORARY);
    let leave = |name: &str, days: u64| {
        let file = fs::File::create(folder.join(name)).unwrap();
        let now = fs::metadata(server.root().join("config")).unwrap().modified().unwrap();
        file.set_modified(now - Duration::from_secs(days * 24 * 60 * 60 + 60)).unwrap();
    };
    leave("0123456789abcdef0123456789abcdef", 7);
    leave("1123456789abcdef0123456789abcdef", 6);
    let second = server.store("");
    assert_eq!(second.get("config").unwrap(), [1]);
    assert_eq!(server.temporaries(), 2, "who only reads changes nothing");
    second.create("keys/a", vec![1]).unwrap();
    assert_eq!(server.temporaries(), 1);
    assert!(folder.join("1123456789abcdef0123456789abcdef").exists());
    let names = second.list("").unwrap().into_iter().map(|object| object.name);
    assert_eq!(names.collect::<Vec<_>>(), ["config", "keys/a"]);
    assert_eq!(second.create("tmp/a", vec![1]).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn a_store_that_vanishes_is_an_error_and_is_not_made_again() {
    let Some(server) = Server::new() else { return };
    let store = server.store("");
    assert_eq!(store.list("").unwrap(), []);
    assert_eq!(store.size("config"), Ok(None));
    store.create("config", vec![1]).unwrap();
    fs::rename(server.root(), server.directory.path().join("elsewhere")).unwrap();
    for error in [
        store.get("config").unwrap_err(),
        store.size("config").unwrap_err(),
        store.list("packs/").unwrap_err(),
        store.list("").unwrap_err(),
        store.create("packs/00/a", vec![1]).unwrap_err(),
    ] {
        assert_eq!(error.kind, Kind::Unavailable, "{error}");
        assert!(error.message.contains("is gone: is the disk there still mounted?"), "{error}");
    }
    assert!(!server.root().exists());
    fs::rename(server.directory.path().join("elsewhere"), server.root()).unwrap();
    assert_eq!(store.get("config").unwrap(), [1]);
}

#[test]
fn a_file_where_a_folder_should_be_is_an_error_and_no_empty_list() {
    let Some(server) = Server::new() else { return };
    let store = server.store("");
    store.create("config", vec![1]).unwrap();
    fs::write(server.root().join("packs"), "x").unwrap();
    assert_eq!(store.create("packs/00/a", vec![1]).unwrap_err().kind, Kind::Invalid);
    assert_eq!(store.list("packs/").unwrap_err().kind, Kind::Invalid);
    assert_eq!(store.list("packs/00/").unwrap_err().kind, Kind::Invalid);
}

#[test]
fn what_is_not_ours_is_not_listed_and_links_are_followed() {
    let Some(server) = Server::new() else { return };
    let store = server.store("");
    store.create("packs/00/a", vec![1]).unwrap();
    let folder = server.root().join("packs");
    fs::create_dir(folder.join("lost+found")).unwrap();
    fs::write(folder.join(".nfs0001"), "x").unwrap();
    fs::write(folder.join("a file of mine"), "x").unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    symlink("00", folder.join("01")).unwrap();
    assert_eq!(store.list("packs/").unwrap().len(), 2);
    symlink("..", folder.join("upwards")).unwrap();
    assert_eq!(store.list("packs/").unwrap_err().kind, Kind::Invalid, "a loop must end");
}

#[test]
fn a_name_that_is_too_long_is_told_as_invalid() {
    let Some(server) = Server::new() else { return };
    let store = store(server.service(1, ""));
    let name = format!("keys/{}", "n".repeat(255));
    assert_eq!(store.create(&name, vec![1]), Ok(Created::New));
    assert_eq!(store.create(&format!("{name}n"), vec![1]).unwrap_err().kind, Kind::Invalid);
    // Nobody waits for what is cleared away after an error, but the server works in order.
    assert_eq!(store.size(&name), Ok(Some(1)));
    assert_eq!(server.temporaries(), 0);
}

#[test]
fn a_full_disk_is_told_as_full_and_nothing_is_left() {
    let Some(server) = Server::new() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(server.directory.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        println!("skipped: no mounting of tmpfs");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let store = store(server.service(1, "-l QUIET"));
        let error = store.create("packs/00/big", vec![7; 1 << 20]).unwrap_err();
        assert_eq!(error.kind, Kind::Full, "{error}");
        assert_eq!(store.size("packs/00/big"), Ok(None));
        assert_eq!(store.create("packs/00/small", vec![7; 1 << 16]), Ok(Created::New));
        assert_eq!(server.temporaries(), 0);
        let remount = |options: &str| {
            let folder = server.directory.path();
            let status = Command::new("mount").args(["-o", options]).arg(folder).status();
            assert!(status.unwrap().success());
        };
        remount("remount,ro");
        assert_eq!(store.create("packs/00/other", vec![7]).unwrap_err().kind, Kind::Denied);
        assert_eq!(store.delete("packs/00/small").unwrap_err().kind, Kind::Denied);
    });
    let _ = Command::new("umount").arg("-l").arg(server.directory.path()).status();
    outcome.unwrap();
}

#[test]
fn a_name_that_cannot_be_given_is_not_given_some_other_way() {
    let Some(server) = Server::new() else { return };
    let store = server.store("");
    store.create("config", vec![1]).unwrap();
    // No link leads from one file system to another.
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
    // What a call leaves behind is taken away without anybody waiting for it, perhaps over another connection.
    let comes_true = |is_true: &dyn Fn() -> bool| {
        (0..1000).any(|_| is_true() || store.size("config").is_ok_and(|size| size.is_none()))
    };
    assert!(comes_true(&|| fs::remove_dir(server.root().join(TEMPORARY)).is_ok()));
    symlink(other.path(), server.root().join(TEMPORARY)).unwrap();
    let error = store.create("keys/a", vec![1]).unwrap_err();
    // A link within tmp/ works, so the file system is not blamed.
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert_eq!(store.size("keys/a"), Ok(None));
    assert!(comes_true(&|| fs::read_dir(other.path()).unwrap().count() == 0));
}

/// A store whose server's system calls fail as `injected` says; `None`, and said so, where that cannot be had.
fn faulty_store(server: &Server, injected: &str) -> Option<Store> {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: no strace");
        return None;
    }
    let script = format!(
        "exec strace -qq -o /dev/null -e trace=link,linkat,fsync -e inject={injected} {} -d {}",
        server.binary,
        server.directory.path().display()
    );
    let path = server.root().to_str().unwrap().to_string();
    let address = SftpAddress { host: "server".into(), user: None, port: None, path };
    let ssh_command = Some(format!("sh -c '{script}'"));
    let options = SftpOptions { connections: 1, ssh_command, unsynced: false };
    Some(store(SftpService::open(address, options).unwrap()))
}

#[test]
fn a_file_system_that_cannot_link_is_refused_and_takes_unconditional_creates() {
    let Some(server) = Server::new() else { return };
    for (round, errno) in ["EPERM", "EOPNOTSUPP", "ENOSYS"].into_iter().enumerate() {
        let injected = format!("link,linkat:error={errno}");
        let Some(store) = faulty_store(&server, &injected) else { return };
        let name = format!("keys/{round}");
        let error = store.create(&name, vec![1]).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert!(error.message.contains("cannot link"), "{error}");
        assert_eq!(store.size(&name), Ok(None));
        assert_eq!(server.temporaries(), 0);
        let store = store.without_conditions();
        assert_eq!(store.create(&name, vec![1]), Ok(Created::New));
        assert_eq!(store.create(&name, vec![2]), Ok(Created::New));
        assert_eq!(store.get(&name).unwrap(), [2]);
    }
}

#[test]
fn what_a_failing_disk_does_not_sync_is_not_reported_as_saved() {
    let Some(server) = Server::new() else { return };
    server.store("").create("keys/first", vec![1]).unwrap();
    // The file.
    let Some(store) = faulty_store(&server, "fsync:error=EIO:when=1") else { return };
    assert_eq!(store.create("keys/a", vec![1]).unwrap_err().kind, Kind::Unavailable);
    assert_eq!(store.size("keys/a"), Ok(None));
    assert_eq!(server.temporaries(), 0);
    assert_eq!(store.create("keys/a", vec![1]), Ok(Created::New));
    // Its name.
    let Some(store) = faulty_store(&server, "fsync:error=EIO:when=2") else { return };
    let error = store.create("keys/b", vec![1]).unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.starts_with("cannot sync the folder"), "{error}");
    assert_eq!(store.size("keys/b"), Ok(Some(1)), "whole, but perhaps not for long");
    // Of a name that another has given, before "already there" is said.
    let Some(store) = faulty_store(&server, "fsync:error=EIO:when=2") else { return };
    assert_eq!(store.create("keys/b", vec![2]).unwrap_err().kind, Kind::Unavailable);
    assert_eq!(store.create("keys/b", vec![2]), Ok(Created::AlreadyThere));
    // What a server cannot do at all is no failure: the object is synced under its name.
    let Some(store) = faulty_store(&server, "fsync:error=EINVAL:when=2") else { return };
    assert_eq!(store.create("keys/c", vec![1]), Ok(Created::New));
}

#[test]
fn a_call_that_is_dropped_leaves_no_handle_and_no_temporary() {
    let Some(server) = Server::new() else { return };
    let service = server.service(1, "");
    let runtime = runtime();
    let publish = |name: String, bytes: Buffer| {
        let remote = Arc::clone(&service.remote);
        async move { remote.publish(&name, &bytes, true).await }
    };
    runtime.block_on(publish("config".into(), Buffer::from(vec![1]))).unwrap();
    let handles = || {
        let pid = server.processes()[0];
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    };
    // What was closed without waiting for an answer is closed when the next one comes.
    runtime.block_on(service.remote.stat("config")).unwrap();
    let before = handles();
    let bytes = Buffer::from(vec![7; 8 << 20]);
    let mut dropped = 0;
    for round in 0..60_u64 {
        let name = format!("packs/00/{round}");
        let call = publish(name.clone(), bytes.clone());
        let patience = Duration::from_micros(round * round * 20);
        let outcome = runtime.block_on(async { tokio::time::timeout(patience, call).await });
        match outcome {
            Err(_) => dropped += 1,
            Ok(outcome) => outcome.unwrap(),
        }
        let read = service.remote.read(&name, BytesRange::Range { offset: 0, size: None });
        let read = runtime.block_on(async { tokio::time::timeout(patience, read).await });
        if let Ok(Ok((read, _))) = read {
            assert_eq!(read.len(), bytes.len());
        }
        match runtime.block_on(service.remote.stat(&name)) {
            Ok(metadata) => assert_eq!(metadata.content_length(), bytes.len() as u64),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    }
    assert!(dropped > 10, "{dropped}");
    // The server works in order: when this is answered, so is all that went before.
    runtime.block_on(service.remote.stat("config")).unwrap();
    assert_eq!(server.processes().len(), 1, "one connection served all of it");
    assert_eq!((handles(), server.temporaries()), (before, 0));
}

#[test]
fn a_connection_that_drops_fails_what_is_under_way_and_is_made_again() {
    let Some(server) = Server::new() else { return };
    let service = server.service(2, "");
    let remote = &service.remote;
    let runtime = runtime();
    let bytes = Buffer::from(vec![7; 32 << 20]);
    let mut broken = 0;
    for round in 0..20 {
        let name = format!("packs/00/{round}");
        let call = {
            let (remote, name, bytes) = (Arc::clone(remote), name.clone(), bytes.clone());
            runtime.spawn(async move { remote.publish(&name, &bytes, true).await })
        };
        // Some of its bytes are there, or it is done already.
        while !call.is_finished() && server.temporaries() == 0 {}
        for pid in server.processes() {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let outcome = runtime.block_on(call).unwrap();
        let found = runtime.block_on(async {
            match remote.stat(&name).await {
                // The drop may only show itself now.
                Err(error) if error.is_temporary() => remote.stat(&name).await,
                found => found,
            }
        });
        match (outcome, found) {
            (Ok(()), found) => assert_eq!(found.unwrap().content_length(), bytes.len() as u64),
            (Err(error), found) => {
                broken += 1;
                assert!(error.is_temporary(), "{error}");
                assert_eq!(error.message(), "the connection to server was lost: ssh was killed");
                match found {
                    // Its reply was lost.
                    Ok(found) => assert_eq!(found.content_length(), bytes.len() as u64),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                }
            }
        }
        fs::read_dir(server.root().join(TEMPORARY)).unwrap().flatten().for_each(|entry| {
            fs::remove_file(entry.path()).unwrap();
        });
    }
    assert!(broken > 10, "{broken}");
}

#[test]
fn one_connection_stands_until_there_is_work_for_more() {
    let Some(server) = Server::new() else { return };
    let service = server.service(3, "");
    let runtime = runtime();
    for _ in 0..5 {
        let _ = runtime.block_on(service.remote.stat("config"));
    }
    assert_eq!(server.processes().len(), 1);
    let bytes = Buffer::from(vec![7; 4 << 20]);
    let calls: Vec<_> = (0..40)
        .map(|number| {
            let (remote, bytes) = (Arc::clone(&service.remote), bytes.clone());
            runtime.spawn(async move {
                remote.publish(&format!("packs/00/{number}"), &bytes, true).await
            })
        })
        .collect();
    for call in calls {
        runtime.block_on(call).unwrap().unwrap();
    }
    let count = server.processes().len();
    assert!((2..=3).contains(&count), "{count} connections");
    drop((service, runtime));
}

#[test]
fn a_server_that_grants_one_connection_gets_all_work_over_it() {
    let Some(server) = Server::new() else { return };
    let lock = server.directory.path().join("lock");
    let count = server.directory.path().join("count");
    let script = format!(
        "echo >> {}; exec 9> {}; flock -n 9 || exit 255; exec {} -d {}",
        count.display(),
        lock.display(),
        server.binary,
        server.directory.path().display()
    );
    let path = server.root().to_str().unwrap().to_string();
    let address = SftpAddress { host: "server".into(), user: None, port: None, path };
    let ssh_command = Some(format!("sh -c '{script}'"));
    let options = SftpOptions { connections: 4, ssh_command, unsynced: false };
    let store = store(SftpService::open(address, options).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..8 {
                    let name = format!("packs/00/{thread}-{number}");
                    assert_eq!(store.create(&name, vec![7; 300_000]), Ok(Created::New));
                }
            });
        }
    });
    assert_eq!(store.list("packs/").unwrap().len(), 64);
    assert_eq!(fs::read(count).unwrap().len(), 2, "it asked for more once, and took the no");
}

#[test]
fn creates_need_no_right_to_remove() {
    let Some(server) = Server::new() else { return };
    let store = store(server.service(1, "-P remove,rename,posix-rename,rmdir,setstat,fsetstat"));
    assert_eq!(store.create("packs/00/a", vec![1]), Ok(Created::New));
    assert_eq!(store.create("packs/00/a", vec![2]), Ok(Created::AlreadyThere));
    assert_eq!(store.get("packs/00/a").unwrap(), [1]);
    assert_eq!(store.list("").unwrap().len(), 1);
    assert_eq!(store.delete("packs/00/a").unwrap_err().kind, Kind::Denied);
    // Two had their turn; they wait for somebody who may.
    assert_eq!(server.temporaries(), 2);
}

#[test]
fn a_host_that_is_an_option_is_refused() {
    for (host, user) in [("-oProxyCommand=x", None), ("", None), ("a b", None), ("a", Some("-x"))] {
        let (host, user) = (host.to_string(), user.map(str::to_string));
        let address = SftpAddress { host, user, port: None, path: "x".into() };
        assert_eq!(Store::sftp(address, SftpOptions::default()).unwrap_err().kind, Kind::Invalid);
    }
}

#[test]
fn what_cannot_be_reached_is_told_with_what_to_do() {
    let told = |command: &str, port: Option<u16>| {
        let address = SftpAddress { host: "127.0.0.1".into(), user: None, port, path: "x".into() };
        let ssh_command = Some(command.to_string());
        let options = SftpOptions { ssh_command, ..SftpOptions::default() };
        store(SftpService::open(address, options).unwrap()).get("config").unwrap_err()
    };
    let error = told("no-such-ssh", None);
    assert_eq!(error.kind, Kind::Invalid);
    assert!(error.message.contains("no-such-ssh"), "{error}");
    let error = told("sh -c 'echo welcome; cat'", None);
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("does not speak the protocol"), "{error}");
    assert!(error.message.contains("login script"), "{error}");
    if Command::new("ssh").arg("-V").output().is_err() {
        println!("skipped: no ssh");
        return;
    }
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = told("ssh -F none", Some(port));
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        error.message.ends_with("Connection refused: is sshd running there, and on this port?"),
        "{error}"
    );
}

#[test]
fn a_path_from_the_root_and_one_from_home_stay_what_they_are() {
    for (path, root, inner) in [
        ("/", "/", "/config"),
        ("/a/b/", "/a/b", "/a/b/config"),
        ("a", "a", "a/config"),
        ("", ".", "./config"),
    ] {
        let path = path.to_string();
        let address =
            SftpAddress { host: "nas".into(), user: Some("me".into()), port: Some(22), path };
        let service = SftpService::open(address, SftpOptions::default()).unwrap();
        assert_eq!(
            (service.remote.path(""), service.remote.path("config")),
            (root.into(), inner.into())
        );
    }
    let path = "/srv/backup".to_string();
    let address =
        SftpAddress { host: "nas".into(), user: Some("me".into()), port: Some(2222), path };
    assert_eq!(address.to_string(), "sftp://me@nas:2222/srv/backup");
}
