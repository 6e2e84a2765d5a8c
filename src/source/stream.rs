//! One file from a stream: what comes in from standard input, or what a command writes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::ops::Range;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::monitor::Monitor;
use crate::source::OpenFile;
use crate::source::Readable;
use crate::source::Source;
use crate::source::SourceError;
use crate::source::Step;
use crate::tree::entry::Entry;
use crate::tree::entry::ExtendedAttribute;
use crate::tree::entry::FileContent;
use crate::tree::entry::Metadata;
use crate::tree::entry::Node;
use crate::tree::entry::Owner;
use crate::tree::path::TreePath;
use crate::units::Timestamp;

/// A source with one file, at a path of the snapshot, whose bytes come in order and once.
pub struct Stream {
    path: TreePath,
    time: Timestamp,
    owner: Arc<Owner>,
    origin: Option<Origin>,
    steps: VecDeque<Step>,
}

/// Where the bytes come from.
enum Origin {
    Reader(Box<dyn Read + Send>),
    Command(Vec<OsString>),
}

impl Stream {
    /// What `reader` tells until its end, as a file at `path` that changed at `time`.
    pub fn stdin(
        path: TreePath,
        reader: Box<dyn Read + Send>,
        time: Timestamp,
    ) -> Result<Self, SourceError> {
        Self::new(path, Origin::Reader(reader), time)
    }

    /// What a command writes on its standard output, as a file at `path` that changed at `time`. The
    /// command (a program and its arguments; no shell) starts with the first step and reads nothing. When
    /// it fails, so does [`OpenFile::finish`]; when it is not read to its end, it is killed.
    pub fn command(
        path: TreePath,
        command: &[OsString],
        time: Timestamp,
    ) -> Result<Self, SourceError> {
        if command.is_empty() {
            return Err(SourceError::Invalid("there is no command to run".to_string()));
        }
        Self::new(path, Origin::Command(command.to_vec()), time)
    }

    fn new(path: TreePath, origin: Origin, time: Timestamp) -> Result<Self, SourceError> {
        if path.is_root() {
            return Err(SourceError::Invalid("a file cannot stand at /".to_string()));
        }
        let owner = Arc::default();
        Ok(Stream { path, time, owner, origin: Some(origin), steps: VecDeque::new() })
    }

    fn metadata(&self, mode: u32) -> Metadata {
        Metadata {
            mode,
            owner: Arc::clone(&self.owner),
            mtime: self.time,
            ctime: self.time,
            links: 1,
            ..Metadata::default()
        }
    }

    /// All steps: the directories down to the file, the file, and out again.
    fn plan(&self, content: Content) -> VecDeque<Step> {
        let file_name = self.path.name().unwrap_or_default();
        let directories = self.path.components().count();
        let enter = |name: &[u8]| {
            let node = Node::new_directory();
            Step::Enter(Entry { name: Box::from(name), node, metadata: self.metadata(0o755) })
        };
        let mut steps = VecDeque::from([enter(b"")]);
        steps.extend(self.path.components().take(directories - 1).map(enter));
        let node = Node::File(FileContent::default());
        let entry = Entry { name: Box::from(file_name), node, metadata: self.metadata(0o644) };
        let content = Mutex::new(Some(content));
        let readable = Arc::new(StreamReadable { path: self.path.clone(), content });
        steps.push_back(Step::Entry { entry, readable });
        steps.extend((0..directories).map(|_| Step::Leave));
        steps
    }
}

impl Source for Stream {
    fn next(&mut self, _monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        match self.origin.take() {
            Some(Origin::Reader(reader)) => self.steps = self.plan(Content::Reader(reader)),
            Some(Origin::Command(command)) => {
                self.steps = self.plan(Content::Command(RunningCommand::start(&command)?));
            }
            None => {}
        }
        Ok(self.steps.pop_front())
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![self.path.as_bytes().to_vec()]
    }
}

/// What is read, from the first step on.
enum Content {
    Reader(Box<dyn Read + Send>),
    Command(RunningCommand),
}

/// A command that was started; killed when it is dropped before it was waited for.
struct RunningCommand {
    /// The command, for people.
    text: String,
    child: Child,
    is_finished: bool,
}

impl RunningCommand {
    fn start(command: &[OsString]) -> Result<Self, SourceError> {
        let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let text = words.join(" ");
        let (program, arguments) = command.split_first().expect("checked when it was handed in");
        let started = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => Ok(RunningCommand { text, child, is_finished: false }),
            Err(error) => {
                Err(SourceError::Command { command: text, reason: format!("not started: {error}") })
            }
        }
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        // Nobody reads any more: a command that still writes must not wait for us while we wait for it.
        drop(self.child.stdout.take());
        let failure = match self.child.wait() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.is_finished = true;
        match failure {
            None => Ok(()),
            Some(reason) => Err(SourceError::Command { command: self.text.clone(), reason }),
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        if !self.is_finished {
            // It may have ended by itself; either way it is waited for and leaves no zombie.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

struct StreamReadable {
    path: TreePath,
    content: Mutex<Option<Content>>,
}

impl Readable for StreamReadable {
    fn attributes(&self) -> io::Result<Vec<ExtendedAttribute>> {
        Ok(Vec::new())
    }

    fn open(&self) -> io::Result<Box<dyn OpenFile>> {
        match self.content.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(content) => Ok(Box::new(OpenStream { content: Mutex::new(content) })),
            None => Err(io::Error::other("a stream can be read only once")),
        }
    }

    fn display(&self) -> String {
        self.path.to_string()
    }
}

struct OpenStream {
    content: Mutex<Content>,
}

impl OpenFile for OpenStream {
    fn stat(&self) -> io::Result<Option<Entry>> {
        Ok(None)
    }

    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let reader: &mut dyn Read = match &mut *content {
            Content::Reader(reader) => reader,
            Content::Command(command) => match &mut command.child.stdout {
                Some(output) => output,
                None => return Ok(0),
            },
        };
        loop {
            match reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn next_data(&self, offset: u64, size: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < size).then_some(offset..size))
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn finish(&self) -> Result<(), SourceError> {
        match &mut *self.content.lock().unwrap_or_else(PoisonError::into_inner) {
            Content::Reader(_) => Ok(()),
            Content::Command(command) => command.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::SilentMonitor;

    const TIME: Timestamp = Timestamp { seconds: 7, nanoseconds: 8 };

    fn command(words: &[&str]) -> Stream {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        Stream::command(TreePath::parse("/db.sql").unwrap(), &words, TIME).unwrap()
    }

    /// The steps as text, and the only file.
    fn walk(mut stream: Stream) -> (String, Arc<dyn Readable>) {
        let (mut text, mut file) = (String::new(), None);
        while let Some(step) = stream.next(&SilentMonitor).unwrap() {
            match step {
                Step::Enter(entry) => {
                    text += &format!("{}/ ", String::from_utf8_lossy(&entry.name))
                }
                Step::Entry { entry, readable } => {
                    assert_eq!(entry.metadata.mtime, TIME);
                    text += &format!("{} ", String::from_utf8_lossy(&entry.name));
                    file = Some(readable);
                }
                Step::Leave => text += ".. ",
            }
        }
        (text, file.unwrap())
    }

    fn read_to_end(file: &dyn OpenFile) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 3]);
        loop {
            match file.read_at(&mut buffer, 0).unwrap() {
                0 => return bytes,
                length => bytes.extend_from_slice(&buffer[..length]),
            }
        }
    }

    #[test]
    fn standard_input_is_one_file_below_its_directories() {
        let path = TreePath::parse("/a/b/dump").unwrap();
        let stream = Stream::stdin(path, Box::new(&b"content"[..]), TIME).unwrap();
        assert_eq!(stream.paths(), [b"/a/b/dump"]);
        let (steps, file) = walk(stream);
        assert_eq!(steps, "/ a/ b/ dump .. .. .. ");
        let open = file.open().unwrap();
        assert!(!open.is_seekable() && open.stat().unwrap().is_none());
        assert_eq!(read_to_end(&*open), b"content");
        assert!(open.finish().is_ok());
        assert!(file.open().is_err());
    }

    #[test]
    fn a_command_is_read_and_its_failure_is_told() {
        let (_, file) = walk(command(&["printf", "%s", "hello"]));
        let open = file.open().unwrap();
        assert_eq!(read_to_end(&*open), b"hello");
        assert!(open.finish().is_ok());

        let (_, file) = walk(command(&["sh", "-c", "echo half; exit 3"]));
        let open = file.open().unwrap();
        assert_eq!(read_to_end(&*open), b"half\n");
        let error = open.finish().unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_command_that_is_not_read_does_not_stay() {
        let (_, file) = walk(command(&["cat", "/dev/zero"]));
        drop(file.open().unwrap());
        let mut missing = command(&["/nonexistent/program"]);
        let error = missing.next(&SilentMonitor).err().unwrap();
        assert!(matches!(error, SourceError::Command { .. }));
    }
}
