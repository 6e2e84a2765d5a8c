//! Real servers on loopback: started for a test, stopped by their process id when it ends.
//!
//! What Python, Node and Cargo bring stands in the folder that `AUMBRY_TEST_SERVERS` names (`bin/`, `node_modules/.bin/`);
//! what the system brings, in `/usr/sbin`. A test that lacks its server says `skipped: no …`, which continuous integration
//! takes for a failure.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The access key of every server that wants one.
pub const ACCESS_KEY: &str = "aumbrytestaccess";
/// Its secret.
pub const SECRET_KEY: &str = "aumbrytestsecretaumbrytestsecret";
/// The bucket, container or folder that is there when a server has started.
pub const BUCKET: &str = "backups";
/// A bucket with Object Lock, where a test has made one.
pub const LOCKING_BUCKET: &str = "locking";
/// The account that azurite knows without being told, and its key: both are published in its documentation.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
/// The key of that account.
pub const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A server that runs.
pub struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    /// Some are several processes, which only the first one can end; one that does not is killed.
    fn drop(&mut self) {
        if let Some(server) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(server, Signal::TERM);
        }
        for _ in 0..100 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Starts a server whose command line is made for a port and a folder of its own, and waits until it takes connections.
fn start(name: &str, command: impl Fn(u16, &Path) -> Command) -> Server {
    // Another process may take the port between asking and using it.
    for _ in 0..5 {
        let (port, folder) = (free_port(), TempDir::new().expect("a folder can be made"));
        let log = fs::File::create(folder.path().join("log")).expect("a log can be made");
        let mut command = command(port, folder.path());
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = Server { child, address, folder };
        for _ in 0..600 {
            if TcpStream::connect(address).is_ok() {
                return server;
            }
            if server.child.try_wait().expect("a child can be asked").is_some() {
                break;
            }
            pause();
        }
        eprintln!("{name} does not start on port {port}:\n{}", server.log());
    }
    panic!("{name} does not start");
}

/// A server's start is waited for by asking again, 20 times a second.
#[allow(clippy::disallowed_methods, reason = "another process is waited for, which tells nobody")]
fn pause() {
    thread::sleep(Duration::from_millis(50));
}

/// A program of the servers' folder or of the system; says that the test is skipped where there is none.
fn find(program: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("AUMBRY_TEST_SERVERS").map(PathBuf::from);
    let in_folder = ["bin", "node_modules/.bin"].iter();
    let mut places: Vec<PathBuf> = folder
        .iter()
        .flat_map(|folder| in_folder.clone().map(move |part| folder.join(part)))
        .collect();
    places.extend(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    let found = places.into_iter().map(|place| place.join(program)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: no {program}");
    }
    found
}

/// Runs a Python script that uses what the servers' folder has. Returns what it prints.
pub fn python(script: &str, arguments: &[&str]) -> String {
    let python = find("python").expect("the servers' folder has a Python");
    let output = Command::new(python).arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a Python script in which `s3` is a client of this server, with these arguments in `arguments`. Returns what it
/// prints.
pub fn ask_s3(server: &Server, script: &str, arguments: &[&str]) -> String {
    let client = "import boto3, json, sys\n\
                  url, access, secret = sys.argv[1:4]\n\
                  arguments = sys.argv[4:]\n\
                  s3 = boto3.client('s3', endpoint_url=url, region_name='us-east-1',\n\
                                    aws_access_key_id=access, aws_secret_access_key=secret)\n";
    let url = format!("http://{}", server.address());
    let arguments = [&[url.as_str(), ACCESS_KEY, SECRET_KEY], arguments].concat();
    python(&format!("{client}{script}"), &arguments)
}

/// An S3 server that honours conditions, in memory, with the bucket. It answers one request after another: with threads, two
/// that create one object at once have both been told that they did.
pub fn moto() -> Option<Server> {
    let server = start_moto(None)?;
    make_bucket(&server);
    Some(server)
}

/// The same that looks who may do what, with a user for each policy: their keys' ids and secrets.
pub fn moto_with_users(policies: &[serde_json::Value]) -> Option<(Server, Vec<(String, String)>)> {
    // Nothing is looked at before all of them are there: the bucket, and a user, a policy and a key each.
    let server = start_moto(Some(1 + 3 * policies.len()))?;
    let printed = python(
        "import boto3, json, sys\n\
         url, bucket, policies = sys.argv[1:]\n\
         names = {'endpoint_url': url, 'region_name': 'us-east-1', 'aws_access_key_id': 'x',\n\
                  'aws_secret_access_key': 'x'}\n\
         boto3.client('s3', **names).create_bucket(Bucket=bucket)\n\
         iam, keys = boto3.client('iam', **names), []\n\
         for number, policy in enumerate(json.loads(policies)):\n\
         \x20   user = f'user{number}'\n\
         \x20   iam.create_user(UserName=user)\n\
         \x20   iam.put_user_policy(UserName=user, PolicyName='p', PolicyDocument=json.dumps(policy))\n\
         \x20   key = iam.create_access_key(UserName=user)['AccessKey']\n\
         \x20   keys.append((key['AccessKeyId'], key['SecretAccessKey']))\n\
         print(json.dumps(keys))",
        &[
            &format!("http://{}", server.address()),
            BUCKET,
            &serde_json::Value::from(policies).to_string(),
        ],
    );
    Some((server, serde_json::from_str(&printed).unwrap()))
}

/// Who may do what is looked at after so many requests; `None`: never. For a signature, a query is encoded anew as AWS
/// documents it: moto takes it as it came, and a slash may come as it is.
fn start_moto(unchecked: Option<usize>) -> Option<Server> {
    find("moto_server")?;
    let python = find("python")?;
    Some(start("moto", |port, _| {
        let mut command = Command::new(&python);
        if let Some(unchecked) = unchecked {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", unchecked.to_string());
        }
        command.arg("-c").arg(
            "import sys\n\
             from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app\n\
             from werkzeug.serving import run_simple\n\
             from botocore.auth import SigV4Auth\n\
             from urllib.parse import parse_qsl, quote\n\
             def canonical(self, parts):\n\
             \x20   pairs = sorted(parse_qsl(parts.query, keep_blank_values=True))\n\
             \x20   return '&'.join(quote(k, safe='-_.~') + '=' + quote(v, safe='-_.~') for k, v in pairs)\n\
             SigV4Auth._canonical_query_string_url = canonical\n\
             app = DomainDispatcherApplication(create_backend_app)\n\
             run_simple('127.0.0.1', int(sys.argv[1]), app, threaded=False)",
        );
        command.arg(port.to_string());
        command
    }))
}

/// Makes the bucket by a signed request.
fn make_bucket(server: &Server) {
    ask_s3(server, "s3.create_bucket(Bucket=arguments[0])", &[BUCKET]);
}

/// Makes a bucket with Object Lock beside it.
pub fn make_locking_bucket(server: &Server) {
    let script = "s3.create_bucket(Bucket=arguments[0], ObjectLockEnabledForBucket=True)";
    ask_s3(server, script, &[LOCKING_BUCKET]);
}

/// As much of S3 as object locks need, which believes no request that is not signed whole: moto believes them all.
pub fn strict_s3() -> Option<Server> {
    find("moto_server")?;
    let python = find("python")?;
    Some(start("strict S3", |port, _| {
        let mut command = Command::new(&python);
        command.arg("-c").arg(include_str!("strict_s3.py"));
        command.args([&port.to_string(), ACCESS_KEY, SECRET_KEY]);
        command
    }))
}

/// The `rclone` that is installed; says that the test is skipped where there is none.
pub fn rclone_program() -> Option<PathBuf> {
    find("rclone")
}

/// An S3 server over a folder that ignores conditions and says nothing of it.
pub fn rclone_s3() -> Option<Server> {
    let program = find("rclone")?;
    Some(start("rclone serve s3", |port, folder| {
        fs::create_dir_all(folder.join("data").join(BUCKET)).unwrap();
        let mut command = rclone(&program, folder);
        command.args(["serve", "s3", "--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}")]);
        command.args(["--addr", &format!("127.0.0.1:{port}")]).arg(folder.join("data"));
        command
    }))
}

/// An S3 server over a folder that looks whether a name is taken before it takes in what is uploaded: one after another, creates
/// honour their condition, and of many at once all are told that they won.
pub fn s3s_fs() -> Option<Server> {
    let program = find("s3s-fs")?;
    Some(start("s3s-fs", |port, folder| {
        fs::create_dir_all(folder.join("data").join(BUCKET)).unwrap();
        let mut command = Command::new(&program);
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.arg(folder.join("data"));
        command
    }))
}

/// A WebDAV server over a folder.
pub fn rclone_webdav() -> Option<Server> {
    let program = find("rclone")?;
    Some(start("rclone serve webdav", |port, folder| {
        fs::create_dir_all(folder.join("data").join(BUCKET)).unwrap();
        let mut command = rclone(&program, folder);
        command.args(["serve", "webdav", "--addr", &format!("127.0.0.1:{port}")]);
        command.arg(folder.join("data"));
        command
    }))
}

fn rclone(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    // Not this machine's own configuration and caches.
    command.env("RCLONE_CONFIG", folder.join("rclone.conf")).env("HOME", folder);
    command
}

/// Azure Blob Storage, in memory, with the container.
pub fn azurite() -> Option<Server> {
    let program = find("azurite-blob")?;
    let server = start("azurite", |port, folder| {
        let mut command = Command::new(&program);
        command.current_dir(folder);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        command.args([
            "--inMemoryPersistence",
            "--silent",
            "--disableTelemetry",
            "--skipApiVersionCheck",
        ]);
        command
    });
    python(
        "import base64, datetime, hashlib, hmac, sys, urllib.request\n\
         host, account, key, container = sys.argv[1:]\n\
         now = datetime.datetime.now(datetime.timezone.utc).strftime('%a, %d %b %Y %H:%M:%S GMT')\n\
         head = f'x-ms-date:{now}\\nx-ms-version:2021-08-06\\n'\n\
         text = 'PUT' + '\\n' * 12 + head + f'/{account}/{account}/{container}\\nrestype:container'\n\
         mac = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()\n\
         request = urllib.request.Request(f'http://{host}/{account}/{container}?restype=container', method='PUT',\n\
             headers={'x-ms-date': now, 'x-ms-version': '2021-08-06', 'Content-Length': '0',\n\
                      'Authorization': f'SharedKey {account}:{base64.b64encode(mac).decode()}'})\n\
         urllib.request.urlopen(request)",
        &[&server.address().to_string(), AZURE_ACCOUNT, AZURE_KEY, BUCKET],
    );
    Some(server)
}

/// A WebDAV server: nginx with its two modules.
pub fn nginx() -> Option<Server> {
    let program = find("nginx")?;
    let module = Path::new("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so");
    if !module.exists() {
        println!("skipped: no nginx module for WebDAV");
        return None;
    }
    Some(start("nginx", |port, folder| {
        fs::create_dir_all(folder.join("data").join(BUCKET)).unwrap();
        let place = folder.display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let configuration = format!(
            "daemon off; worker_processes 2; pid {place}/pid; error_log stderr; {user}\n\
             load_module {};\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_max_body_size 0; client_body_temp_path {place}/body;\n\
               proxy_temp_path {place}/a; fastcgi_temp_path {place}/b; uwsgi_temp_path {place}/c; scgi_temp_path {place}/d;\n\
               server {{ listen 127.0.0.1:{port}; root {place}/data;\n\
                 location / {{ dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS;\n\
                   create_full_put_path on; dav_access user:rw; }} }} }}\n",
            module.display()
        );
        fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let mut command = Command::new(&program);
        command.arg("-c").arg(folder.join("nginx.conf"));
        command
    }))
}

/// A WebDAV server: apache with mod_dav.
pub fn apache() -> Option<Server> {
    let program = find("apache2")?;
    Some(start("apache", |port, folder| {
        fs::create_dir_all(folder.join("data").join(BUCKET)).unwrap();
        let place = folder.display();
        let modules = ["mpm_event", "authz_core", "dav", "dav_fs"].map(|module| {
            format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n")
        });
        // It refuses to run as root, and gives up root's rights for those named here.
        let owner = if rustix::process::geteuid().is_root() {
            let chown =
                Command::new("chown").arg("-R").arg("www-data:www-data").arg(folder).status();
            assert!(chown.is_ok_and(|status| status.success()));
            let open = Command::new("chmod").arg("755").arg(folder).status();
            assert!(open.is_ok_and(|status| status.success()));
            "User www-data\nGroup www-data\n"
        } else {
            ""
        };
        let configuration = format!(
            "ServerRoot {place}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {place}/pid\n\
             ErrorLog {place}/error\n{}{owner}DavLockDB {place}/locks\nDocumentRoot {place}/data\n\
             LimitRequestBody 0\nLimitXMLRequestBody 0\n<Directory {place}/data>\nDav On\nRequire all granted\n</Directory>\n",
            modules.concat()
        );
        fs::write(folder.join("apache.conf"), configuration).unwrap();
        let mut command = Command::new(&program);
        command.arg("-DFOREGROUND").arg("-f").arg(folder.join("apache.conf"));
        command
    }))
}
