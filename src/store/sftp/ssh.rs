//! The system's `ssh`, started with SFTP on its two pipes, and what its last words mean.
//!
//! Keys, agents, `~/.ssh/config`, jump hosts and known hosts are all its business, and so is asking for a passphrase,
//! at the terminal, if there is one. It does not hear Ctrl-C (a shell sets that before it becomes `ssh`): whoever
//! uses the store decides what an interruption does to it.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use opendal::ErrorKind;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::SftpAddress;
use super::connection::{Connection, Ended, LastWords, plain_line};

/// How much of what `ssh` says is kept.
const LAST_BYTES: usize = 8 * 1024;
/// How long an `ssh` that closed its pipe may take to end.
const MOST_DYING: Duration = Duration::from_secs(2);

/// Whether there is a terminal at which somebody can be asked.
pub(super) fn can_ask() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whom to call, and how.
pub(super) struct Dialer {
    pub(super) address: SftpAddress,
    pub(super) command: Option<String>,
}

/// What was true when a call was made.
#[derive(Clone, Copy)]
pub(super) struct Circumstances {
    /// Nobody may be asked anything: another connection stands already, or nobody waits for this one yet.
    pub(super) is_extra: bool,
    /// This server answered before, so a name that is not found now is a network that is down.
    pub(super) was_reached: bool,
}

impl Dialer {
    /// Starts `ssh` and greets the server at its other end.
    pub(super) async fn dial(
        &self,
        circumstances: Circumstances,
    ) -> Result<Arc<Connection>, Ended> {
        let mut child = self.spawn(circumstances.is_extra)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Ended::passing("ssh was started without pipes"));
        };
        let host = self.address.host.clone();
        let words = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn(listen(stderr, Arc::clone(&words)));
        let last_words: LastWords = Box::new(move |has_spoken| {
            Box::pin(async move {
                let status = wait(child).await;
                // A connection that others share may outlive this process and keep the pipe open.
                let _ = timeout(MOST_DYING, listening).await;
                let words = String::from_utf8_lossy(&words.lock()).into_owned();
                interpret(&host, &words, status, has_spoken, circumstances)
            })
        });
        Connection::open(stdout, stdin, last_words).await
    }

    fn spawn(&self, is_extra: bool) -> Result<Child, Ended> {
        // A shell reads the command, as git has it read GIT_SSH_COMMAND.
        let command = self.command.as_deref().unwrap_or("ssh");
        let script = format!("trap '' INT; exec {command} \"$@\"");
        let mut process = Command::new("sh");
        process.args(["-c", &script, "ssh"]);
        // What sftp(1) switches off, too.
        process.args(["-T", "-oForwardX11=no", "-oForwardAgent=no", "-oPermitLocalCommand=no"]);
        process.arg("-oClearAllForwardings=yes");
        // A line that is dead is noticed within a minute and a half.
        process.args(["-oServerAliveInterval=15", "-oServerAliveCountMax=6"]);
        if is_extra || !can_ask() {
            process.arg("-oBatchMode=yes");
        }
        if let Some(user) = &self.address.user {
            process.args(["-l", user]);
        }
        if let Some(port) = self.address.port {
            process.args(["-p", &port.to_string()]);
        }
        process.args(["-s", &self.address.host, "sftp"]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.kill_on_drop(true);
        process.spawn().map_err(|error| Ended {
            kind: ErrorKind::ConfigInvalid,
            message: format!("cannot start ssh: {error}"),
            hint: None,
            is_passing: false,
        })
    }
}

/// Keeps the end of what `ssh` says.
async fn listen(mut stderr: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1_024];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        let mut words = words.lock();
        words.extend_from_slice(&piece[..length]);
        let surplus = words.len().saturating_sub(LAST_BYTES);
        words.drain(..surplus);
    }
}

async fn wait(mut child: Child) -> Option<ExitStatus> {
    timeout(MOST_DYING, child.wait()).await.ok()?.ok()
}

/// What it means that `ssh` ended with these words.
fn interpret(
    host: &str,
    words: &str,
    status: Option<ExitStatus>,
    has_spoken: bool,
    circumstances: Circumstances,
) -> Ended {
    let line = last_line(words);
    let code = status.and_then(|status| status.code());
    let told = match (line.is_empty(), code) {
        (false, _) => line,
        (true, Some(code)) => format!("ssh ended with status {code}"),
        (true, None) => "ssh was killed".to_string(),
    };
    if has_spoken {
        return Ended::passing(format!("the connection to {host} was lost: {told}"));
    }
    let has = |part: &str| words.contains(part);
    let is_unknown_name = has("Could not resolve hostname");
    let (kind, hint) = if has("IDENTIFICATION HAS CHANGED") {
        let hint = format!(
            "the host key is another one: if the server was set up anew, compare it there and run \
             `ssh-keygen -R {host}`; if not, somebody stands between"
        );
        (ErrorKind::PermissionDenied, hint)
    } else if has("Host key verification failed") {
        let hint = format!("run `ssh {host}` once, compare the key with the server's, and say yes");
        (ErrorKind::PermissionDenied, hint)
    } else if has("Permission denied") || has("Too many authentication failures") {
        let hint = format!(
            "`ssh {host}` must get in without a password: `ssh-copy-id {host}`, or IdentityFile in \
             ~/.ssh/config"
        );
        (ErrorKind::PermissionDenied, hint)
    } else if has("subsystem request failed") {
        let hint =
            "the server offers no SFTP: its sshd_config needs `Subsystem sftp internal-sftp`";
        (ErrorKind::Unsupported, hint.to_string())
    } else if matches!(code, Some(126 | 127)) {
        let hint = "OpenSSH's client has to be installed here, and an SFTP server there";
        (ErrorKind::ConfigInvalid, hint.to_string())
    } else if has("onfiguration option") || has("Bad owner or permissions") {
        let hint = format!("`ssh -G {host}` shows what ssh makes of its configuration");
        (ErrorKind::ConfigInvalid, hint)
    } else if is_unknown_name && !circumstances.was_reached && !has("Temporary failure") {
        let hint = "check the name, or add it as a Host to ~/.ssh/config";
        (ErrorKind::ConfigInvalid, hint.to_string())
    } else {
        let hint = match () {
            () if has("Connection refused") => {
                "is sshd running there, and on this port?".to_string()
            }
            () if is_unknown_name => "is the network up?".to_string(),
            () => format!("`ssh -v -s {host} sftp` shows more"),
        };
        let message = format!("cannot reach {host}: {told}");
        return Ended { hint: Some(hint), ..Ended::passing(message) };
    };
    let message = format!("cannot reach {host}: {told}");
    Ended { kind, message, hint: Some(hint), is_passing: false }
}

/// The last line that says something of this failure.
fn last_line(words: &str) -> String {
    let is_chatter = |line: &str| {
        line.starts_with("debug")
            || line.starts_with("**")
            || line.starts_with("Warning: Permanently added")
    };
    let mut lines = words.lines().map(plain_line).rev();
    lines.find(|line| !line.is_empty() && !is_chatter(line)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn ended(words: &str, code: i32, has_spoken: bool, was_reached: bool) -> Ended {
        let status = Some(ExitStatus::from_raw(code << 8));
        interpret("nas", words, status, has_spoken, Circumstances { is_extra: false, was_reached })
    }

    #[test]
    fn last_words_are_told_with_what_to_do() {
        let cases = [
            (
                "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\r\n",
                ErrorKind::PermissionDenied,
                "ssh-keygen -R nas",
            ),
            (
                "No ED25519 host key is known for nas.\r\nHost key verification failed.\r\n",
                ErrorKind::PermissionDenied,
                "run `ssh nas` once",
            ),
            (
                "a@nas: Permission denied (publickey,password).\r\n",
                ErrorKind::PermissionDenied,
                "ssh-copy-id nas",
            ),
            ("subsystem request failed on channel 0\r\n", ErrorKind::Unsupported, "internal-sftp"),
            (
                "ssh: Could not resolve hostname nas: Name or service not known\r\n",
                ErrorKind::ConfigInvalid,
                "check the name",
            ),
            (
                "/home/me/.ssh/config: line 1: Bad configuration option: x\r\n",
                ErrorKind::ConfigInvalid,
                "ssh -G nas",
            ),
        ];
        for (words, kind, hint) in cases {
            let ended = ended(words, 255, false, false);
            assert_eq!((ended.kind, ended.is_passing), (kind, false), "{words}");
            assert!(ended.hint.as_ref().is_some_and(|told| told.contains(hint)), "{ended:?}");
            assert!(ended.message.starts_with("cannot reach nas: "), "{ended:?}");
        }
        let missing = ended("sh: 1: exec: ssh: not found\n", 127, false, false);
        assert_eq!(missing.kind, ErrorKind::ConfigInvalid);
        assert_eq!(missing.message, "cannot reach nas: sh: 1: exec: ssh: not found");
    }

    #[test]
    fn what_passes_is_told_as_passing() {
        for words in [
            "ssh: connect to host nas port 22: Connection refused\r\n",
            "ssh: connect to host nas port 22: Connection timed out\r\n",
            "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by 10.0.0.1 port 22\r\n",
            "ssh: Could not resolve hostname nas: Temporary failure in name resolution\r\n",
            "",
        ] {
            assert!(ended(words, 255, false, false).is_passing, "{words}");
        }
        let unknown = "ssh: Could not resolve hostname nas: Name or service not known\r\n";
        assert!(ended(unknown, 255, false, true).is_passing);
        let lost = ended("Timeout, server nas not responding.\r\n", 255, true, true);
        assert!(lost.is_passing);
        let message = "the connection to nas was lost: Timeout, server nas not responding";
        assert_eq!(lost.message, message);
    }

    #[test]
    fn a_hostile_banner_cannot_reach_the_terminal() {
        let words = "** WARNING: no post-quantum key exchange\r\n\x1b]0;evil\x07gone\r\nWarning: Permanently added 'nas'.\r\n\r\n";
        assert_eq!(
            ended(words, 255, true, true).message,
            "the connection to nas was lost: ]0;evilgone"
        );
    }
}
