//! An OpenSSH server of our own: keys, configuration and log in a temporary folder, on a port of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aumbry::store::{SftpAddress, SftpOptions, Store};
use rustix::process::{Pid, Signal, kill_process};

const BINARIES: [&str; 3] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];

/// A running server, and a client's configuration that knows it. Dropped, it is stopped.
pub struct Sshd {
    folder: tempfile::TempDir,
    server: Child,
    port: u16,
}

impl Sshd {
    /// `None`, and said so, where there is no server to be had.
    pub fn start() -> Option<Sshd> {
        Sshd::start_with("Subsystem sftp internal-sftp\n")
    }

    /// The same with these lines in its configuration.
    pub fn start_with(lines: &str) -> Option<Sshd> {
        let Some(binary) = BINARIES.into_iter().find(|path| Path::new(path).exists()) else {
            println!("skipped: no sshd");
            return None;
        };
        if rustix::process::geteuid().is_root() {
            // Where a server that is started by root locks up its helpers.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        for name in ["host_key", "user_key", "other_key"] {
            make_key(&folder.path().join(name));
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::copy(path("user_key.pub"), path("authorized_keys")).unwrap();
        // A port that is free now may be taken a moment later: then another is tried.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nUsePAM no\n\
                 StrictModes no\nPidFile none\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nMaxStartups 200\nMaxSessions 100\n{lines}",
                path("host_key"),
                path("authorized_keys"),
            );
            fs::write(path("sshd_config"), config).unwrap();
            let mut server = Command::new(binary)
                .args(["-D", "-f", &path("sshd_config"), "-E", &path("sshd_log")])
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            loop {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    let server = Sshd { folder, server, port };
                    server.know(&["host_key"]);
                    server.log_in_with("user_key");
                    return Some(server);
                }
                if server.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        panic!("{}", fs::read_to_string(path("sshd_log")).unwrap_or_default());
    }

    /// Writes which host keys the client takes for the server's.
    pub fn know(&self, keys: &[&str]) {
        let line = |key: &&str| {
            let key = fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
            format!("[127.0.0.1]:{} {key}", self.port)
        };
        let lines: String = keys.iter().map(line).collect();
        fs::write(self.path("known_hosts"), lines).unwrap();
    }

    /// Writes with which key the client comes.
    pub fn log_in_with(&self, key: &str) {
        let config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n",
            self.path(key).display(),
            self.path("known_hosts").display(),
        );
        fs::write(self.path("ssh_config"), config).unwrap();
    }

    /// The folder that the store is in.
    pub fn root(&self) -> PathBuf {
        self.path("store")
    }

    /// What a client that knows this server reads.
    pub fn client_config(&self) -> PathBuf {
        self.path("ssh_config")
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The client that knows this server.
    pub fn command(&self) -> String {
        format!("ssh -F {}", self.client_config().display())
    }

    /// The same for one that stands at another port in front of it.
    pub fn command_through(&self) -> String {
        format!("{} -o 'HostKeyAlias=[127.0.0.1]:{}'", self.command(), self.port)
    }

    /// A folder below the store's, as a place.
    pub fn place(&self, folder: &str) -> String {
        self.place_through(self.port, folder)
    }

    /// The same by way of another port.
    pub fn place_through(&self, port: u16, folder: &str) -> String {
        format!("sftp://127.0.0.1:{port}{}/{folder}", self.root().display())
    }

    /// A store on this server, with so many connections at most.
    pub fn store(&self, connections: usize) -> Store {
        let address = SftpAddress {
            host: "127.0.0.1".into(),
            user: None,
            port: Some(self.port),
            path: self.root().display().to_string(),
        };
        let ssh_command = Some(self.command());
        Store::sftp(address, SftpOptions { connections, ssh_command, ..SftpOptions::default() })
            .unwrap()
    }

    /// How many temporaries stand there.
    pub fn temporaries(&self) -> usize {
        fs::read_dir(self.root().join("tmp")).map_or(0, Iterator::count)
    }

    /// The `ssh` processes that this process runs for this server.
    pub fn clients(&self) -> Vec<Pid> {
        let marker = self.client_config().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_ours = |pid: &i32| {
            let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let parent = format!("\nPPid:\t{}\n", std::process::id());
            String::from_utf8_lossy(&read("status")).contains(&parent)
                && String::from_utf8_lossy(&read("cmdline")).contains(&marker)
        };
        pids.filter(is_ours).filter_map(Pid::from_raw).collect()
    }

    /// Kills them; tells how many there were.
    pub fn cut_clients(&self) -> usize {
        let clients = self.clients();
        clients.iter().for_each(|client| {
            let _ = kill_process(*client, Signal::KILL);
        });
        clients.len()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
