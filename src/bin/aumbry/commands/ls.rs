//! `aumbry ls`: what is in a snapshot.

use std::ffi::OsString;
use std::io;

use aumbry::repository::reader::BlobReader;
use aumbry::tree::entry::Entry;
use aumbry::tree::entry::Node;
use aumbry::tree::path::TreePath;
use aumbry::units::bytes::format_bytes;
use aumbry::view::DirectoryRoot;
use aumbry::view::Entries;
use aumbry::view::Found;
use aumbry::view::find_path;
use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::commands::snapshots::snapshot_json;
use crate::context::Context;
use crate::failure::Code;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::printable;
use crate::output::put_bytes;
use crate::progress::ProgressMonitor;
use crate::progress::is_stopping;
use crate::second::MirrorsArgs;
use crate::selection::ChoiceArgs;
use crate::selection::named_with_path;

/// Opened segments that are kept while a snapshot is walked, in bytes.
const READER_BUDGET: u64 = 64 << 20;

/// What is listed.
#[derive(Args)]
pub struct LsArgs {
    /// The snapshot, or a folder in it: latest, latest~2:/home, 4f2a, /home/me [default: latest]
    #[arg(value_name = "SNAP[:PATH]", num_args = 0..=2)]
    what: Vec<OsString>,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Only what is directly in the folder
    #[arg(long)]
    flat: bool,
    /// Everything below the folder, too (this is what happens anyway)
    #[arg(short = 'R', long, conflicts_with = "flat", hide = true)]
    recursive: bool,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// Lists it.
pub fn run(args: &LsArgs, context: &Context) -> Result<Outcome, Failure> {
    let named = named_with_path(&args.what)?;
    let repository = context.open_to_read(&args.mirrors)?;
    let monitor = context.monitor();
    let chosen = args.choice.choose(context, &repository, &named, &monitor)?;
    repository.refresh_index(&monitor)?;
    monitor.finish();
    let reader = BlobReader::new(&repository, READER_BUDGET);
    let path = named.path.unwrap_or_else(TreePath::root);
    let found = find_path(&reader, &chosen.1, &path)?.ok_or_else(|| {
        Failure::failed(format!("snapshot {} has no {path}", chosen.0.short()))
            .hint(format!("`aumbry ls --flat {}:/` shows where to begin", chosen.0.short()))
    })?;
    let listing = Listing { args, context, reader: &reader, monitor: &monitor };
    if context.output.is_json() {
        let mut object = snapshot_json(context, &chosen);
        object["message_type"] = json!("snapshot");
        object["struct_type"] = json!("snapshot");
        context.output.json(&object)?;
    }
    match found {
        Found::Root(root) => listing.tell_below(&path, root)?,
        Found::Entry(entry) => {
            listing.tell(&path, &entry)?;
            if let Some(root) = DirectoryRoot::of_entry(&entry) {
                listing.tell_below(&path, root)?;
            }
        }
    }
    repository.note_mended(&monitor);
    repository.note_passed_over(&monitor);
    Ok(if monitor.problems() == 0 { Outcome::Done } else { Outcome::Damaged })
}

struct Listing<'a> {
    args: &'a LsArgs,
    context: &'a Context,
    reader: &'a BlobReader<'a>,
    monitor: &'a ProgressMonitor,
}

impl Listing<'_> {
    /// Tells what is below a directory, in the order of a walk. Depth costs heap and no stack.
    fn tell_below(&self, path: &TreePath, root: DirectoryRoot) -> Result<(), Failure> {
        let mut open = vec![(path.clone(), Entries::new(self.reader, root))];
        while let Some((folder, entries)) = open.last_mut() {
            if is_stopping() {
                return Err(Failure::new(Code::Interrupted, "interrupted"));
            }
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            match entry {
                Ok(entry) => {
                    let path = folder.join(&entry.name);
                    self.tell(&path, &entry)?;
                    if let Some(root) = DirectoryRoot::of_entry(&entry)
                        && !self.args.flat
                    {
                        open.push((path, Entries::new(self.reader, root)));
                    }
                }
                Err(error) => {
                    let folder = folder.to_string();
                    self.monitor.tell_problem(&folder, "read", &error.to_string());
                }
            }
        }
        Ok(())
    }

    fn tell(&self, path: &TreePath, entry: &Entry) -> Result<(), Failure> {
        let output = &self.context.output;
        if output.is_json() {
            output.json(&node_json(self.context, path, entry))?;
        } else if self.args.long {
            self.tell_long(path, entry)?;
        } else {
            output.line(&path.to_string())?;
        }
        Ok(())
    }

    fn tell_long(&self, path: &TreePath, entry: &Entry) -> io::Result<()> {
        let owner = &entry.metadata.owner;
        let name_or = |name: &str, id: u32| {
            if name.is_empty() { id.to_string() } else { printable(name.as_bytes()) }
        };
        let size = match entry.node {
            Node::File(_) => format_bytes(entry.size()),
            _ => "-".to_string(),
        };
        let target = match &entry.node {
            Node::Symlink(target) => format!(" -> {}", printable(target)),
            _ => String::new(),
        };
        self.context.output.line(&format!(
            "{} {:<8} {:<8} {size:>11} {} {path}{target}",
            permissions(entry),
            name_or(&owner.user, owner.uid),
            name_or(&owner.group, owner.gid),
            self.context.local(entry.metadata.mtime),
        ))
    }
}

/// An entry as a program reads it.
pub fn node_json(context: &Context, path: &TreePath, entry: &Entry) -> Value {
    let metadata = &entry.metadata;
    let mut object = Map::new();
    put_bytes(&mut object, "name", &entry.name);
    put_bytes(&mut object, "path", path.as_bytes());
    if let Node::Symlink(target) = &entry.node {
        put_bytes(&mut object, "linktarget", target);
    }
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("type", json!(entry.node.kind_name()));
    put("uid", json!(metadata.owner.uid));
    put("gid", json!(metadata.owner.gid));
    put("user", json!(metadata.owner.user));
    put("group", json!(metadata.owner.group));
    if let Node::File(file) = &entry.node {
        put("size", json!(file.size));
    }
    put("mode", json!(metadata.mode));
    put("permissions", json!(permissions(entry)));
    put("mtime", json!(context.rfc3339(metadata.mtime)));
    put("ctime", json!(context.rfc3339(metadata.ctime)));
    if let Some(birth) = metadata.birth {
        put("btime", json!(context.rfc3339(birth)));
    }
    put("inode", json!(metadata.inode));
    put("links", json!(metadata.links));
    put("message_type", json!("node"));
    put("struct_type", json!("node"));
    Value::Object(object)
}

/// `drwxr-xr-x`, as `ls` writes it.
pub fn permissions(entry: &Entry) -> String {
    permissions_of(entry.node.kind_name(), entry.metadata.mode)
}

/// The same of a kind of thing, by its name.
pub fn permissions_of(kind: &str, mode: u32) -> String {
    let kind = match kind {
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "chardev" => 'c',
        "dev" => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (false, false) => '-',
            (true, false) => 'x',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    text
}
