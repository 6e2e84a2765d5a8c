//! `aumbry debug`: looks into a repository's objects, for a bad day.

use std::ffi::OsString;

use aumbry::format::directory::DirectoryNode;
use aumbry::format::header::ObjectKind;
use aumbry::format::list::ListNode;
use aumbry::format::pack::Encoding;
use aumbry::format::snapshot::Decision;
use aumbry::id::BlobId;
use aumbry::id::IndexId;
use aumbry::id::PackId;
use aumbry::repository::Repository;
use aumbry::repository::reader::BlobReader;
use aumbry::store::ObjectInfo;
use aumbry::store::layout;
use aumbry::tree::entry::Content;
use aumbry::tree::entry::Entry;
use aumbry::tree::entry::Extent;
use aumbry::tree::entry::FileContent;
use aumbry::tree::entry::Node;
use aumbry::tree::path::TreePath;
use aumbry::view::DirectoryRoot;
use aumbry::view::Extents;
use aumbry::view::Found;
use aumbry::view::find_path;
use clap::Args;
use clap::Subcommand;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::commands::snapshots::id_or_null;
use crate::commands::snapshots::snapshot_json;
use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::put_bytes;
use crate::selection::ChoiceArgs;
use crate::selection::Named;

/// What to look into.
#[derive(Args)]
pub struct DebugArgs {
    #[command(subcommand)]
    command: DebugCommand,
}

#[derive(Subcommand)]
enum DebugCommand {
    /// The repository's settings
    Config,
    /// What stands in a pack: segments and blobs
    Pack {
        /// Its name, or a part of it that no other pack's has
        id: String,
    },
    /// The index objects, or what one of them lists
    Index {
        /// Its name, or a part of it that no other's has
        id: Option<String>,
    },
    /// A snapshot, with all that is recorded
    Snapshot {
        /// latest, or an id
        #[arg(value_name = "SNAP", default_value = "latest")]
        what: OsString,
        #[command(flatten)]
        choice: ChoiceArgs,
    },
    /// A node of a directory or of a chunk list
    Tree {
        /// A blob's whole id, or SNAP:PATH
        #[arg(value_name = "BLOB|SNAP:PATH")]
        what: OsString,
        #[command(flatten)]
        choice: ChoiceArgs,
    },
    /// A blob's bytes, to standard output
    Blob {
        /// The blob's whole id
        id: BlobId,
    },
}

/// Looks.
pub fn run(args: &DebugArgs, context: &Context) -> Result<Outcome, Failure> {
    let repository = context.open()?;
    match &args.command {
        DebugCommand::Config => print(context, &config(context, &repository))?,
        DebugCommand::Pack { id } => print(context, &pack(&repository, id)?)?,
        DebugCommand::Index { id: None } => {
            for object in repository.store().list(layout::INDEX)? {
                context.output.line(&format!("{:>12} {}", object.size, object.name))?;
            }
        }
        DebugCommand::Index { id: Some(id) } => print(context, &index(&repository, id)?)?,
        DebugCommand::Snapshot { what, choice } => snapshot(context, &repository, what, choice)?,
        DebugCommand::Tree { what, choice } => tree(context, &repository, what, choice)?,
        DebugCommand::Blob { id } => {
            let monitor = context.monitor();
            repository.refresh_index(&monitor)?;
            let reader = BlobReader::new(&repository, 8 << 20);
            let place = reader.locate(id)?;
            let is_tree = repository.cache().pack(place.pack)?.kind == ObjectKind::TreePack;
            let blob = if is_tree { reader.tree(id)? } else { reader.data(id)? };
            context.output.bytes(&blob)?;
        }
    }
    Ok(Outcome::Done)
}

/// One line for programs, many for people: what is inside is the same.
fn print(context: &Context, value: &Value) -> Result<(), Failure> {
    if context.output.is_json() {
        context.output.json(value)?;
    } else {
        context.output.line(&serde_json::to_string_pretty(value)?)?;
    }
    Ok(())
}

fn config(context: &Context, repository: &Repository) -> Value {
    let settings = repository.settings();
    json!({
        "id": repository.id().to_string(),
        "location": repository.store().location(),
        "created": context.rfc3339(settings.created),
        "format_version": aumbry::format::VERSION,
        "chunk_minimum": settings.chunk_minimum,
        "chunk_average": settings.chunk_average,
        "chunk_maximum": settings.chunk_maximum,
        "segment_length": settings.segment_length,
        "pack_length": settings.pack_length,
        "compression_level": settings.compression_level,
        "parity_percent": settings.parity_percent,
        "epoch": repository.sealer().newest_epoch(),
        "key_slot": repository.slot().to_string(),
        "cache": repository.cache_folder().map(|folder| folder.to_string_lossy()),
    })
}

/// The only object of a folder whose name contains `part`.
fn find_object(repository: &Repository, folder: &str, part: &str) -> Result<ObjectInfo, Failure> {
    let mut objects = repository.store().list(folder)?;
    objects.retain(|object| object.name.contains(part));
    match (objects.pop(), objects.len()) {
        (Some(object), 0) => Ok(object),
        (None, _) => Err(Failure::failed(format!("no name in {folder} contains {part:?}"))),
        (Some(_), others) => {
            let number = others + 1;
            Err(Failure::failed(format!(
                "{number} names in {folder} contain {part:?}: give more of it"
            )))
        }
    }
}

fn strange_name(object: &ObjectInfo) -> Failure {
    Failure::failed(format!("{} is no name of ours", object.name))
}

fn pack(repository: &Repository, part: &str) -> Result<Value, Failure> {
    let object = find_object(repository, layout::PACKS, part)?;
    let id: PackId = layout::parse_pack(&object.name).ok_or_else(|| strange_name(&object))?;
    let record = repository.read_pack_directory(id, object.size)?;
    let segments: Vec<_> = record
        .directory
        .segments
        .iter()
        .map(|segment| {
            let (encoding, bases) = match &segment.encoding {
                Encoding::Stored => ("stored", &[][..]),
                Encoding::Zstd => ("zstd", &[][..]),
                Encoding::Delta(bases) => ("delta", &bases[..]),
                Encoding::Unknown(_) => ("unknown", &[][..]),
            };
            let mut value = json!({
                "offset": segment.offset,
                "stored_length": segment.stored_length,
                "plain_length": segment.plain_length(),
                "encoding": encoding,
                "blobs": segment
                    .blobs
                    .iter()
                    .map(|blob| json!({"id": blob.id.to_string(), "length": blob.length}))
                    .collect::<Vec<_>>(),
            });
            if !bases.is_empty() {
                value["bases"] = json!(bases.iter().map(BlobId::to_string).collect::<Vec<_>>());
            }
            value
        })
        .collect();
    Ok(json!({
        "name": object.name,
        "kind": record.header.kind.name(),
        "epoch": record.header.epoch,
        "object_length": object.size,
        "parity_shards": record.header.parity.map_or(0, |parity| parity.shards),
        "segments": segments,
    }))
}

fn index(repository: &Repository, part: &str) -> Result<Value, Failure> {
    let object = find_object(repository, layout::INDEX, part)?;
    let id: IndexId = layout::parse_index(&object.name).ok_or_else(|| strange_name(&object))?;
    let index = repository.read_index(id)?;
    let packs: Vec<_> = index
        .packs
        .iter()
        .map(|pack| {
            json!({
                "id": pack.id.to_string(),
                "kind": pack.header.kind.name(),
                "object_length": pack.object_length,
                "segments": pack.directory.segments.len(),
                "blobs": pack.directory.blob_count(),
            })
        })
        .collect();
    Ok(json!({
        "name": object.name,
        "superseded": index.superseded.iter().map(IndexId::to_string).collect::<Vec<_>>(),
        "packs": packs,
    }))
}

fn snapshot(
    context: &Context,
    repository: &Repository,
    what: &OsString,
    choice: &ChoiceArgs,
) -> Result<(), Failure> {
    let named = Named::parse(Some(what))?;
    let monitor = context.monitor();
    let (id, _) = choice.choose(context, repository, &named, &monitor)?;
    // Not from the cache: what the store has is what is wanted.
    let Decision::Snapshot(found) = repository.read_slot(id)? else {
        return Err(Failure::failed(format!("snapshot {} was given up", id.short())));
    };
    let chosen = (id, *found);
    let mut value = snapshot_json(context, &chosen);
    value["object"] = json!(layout::snapshot(id.0));
    value["height"] = json!(chosen.1.height);
    value["zone_offset_seconds"] = json!(chosen.1.zone_offset_seconds);
    value["end_time"] = json!(context.rfc3339(chosen.1.end_time));
    value["parent"] = id_or_null(chosen.1.parent);
    value["predecessor"] = chosen.1.predecessor.map_or(Value::Null, |digest| json!(hex(&digest)));
    value["signature"] = chosen.1.signature.map_or(Value::Null, |bytes| json!(hex(&bytes)));
    print(context, &value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tree(
    context: &Context,
    repository: &Repository,
    what: &OsString,
    choice: &ChoiceArgs,
) -> Result<(), Failure> {
    let monitor = context.monitor();
    let reader = BlobReader::new(repository, 8 << 20);
    if let Some(id) = what.to_str().and_then(|text| text.parse::<BlobId>().ok()) {
        repository.refresh_index(&monitor)?;
        return print(context, &node(&reader, &id)?);
    }
    let named = Named::parse(Some(what))?;
    let chosen = choice.choose(context, repository, &named, &monitor)?;
    repository.refresh_index(&monitor)?;
    let path = named.path.unwrap_or_else(TreePath::root);
    let value = match find_path(&reader, &chosen.1, &path)? {
        None => {
            return Err(Failure::failed(format!("snapshot {} has no {path}", chosen.0.short())));
        }
        Some(Found::Root(root)) => node(&reader, &root.blob)?,
        Some(Found::Entry(entry)) => match (DirectoryRoot::of_entry(&entry), &entry.node) {
            (Some(root), _) => node(&reader, &root.blob)?,
            (None, Node::File(file)) => {
                let extents: Result<Vec<_>, _> = Extents::new(&reader, file).collect();
                let mut value = entry_value(&entry);
                value["extents"] = extents?.iter().map(extent_value).collect();
                value
            }
            _ => entry_value(&entry),
        },
    };
    print(context, &value)
}

/// A node, whichever of the two kinds it is.
fn node(reader: &BlobReader<'_>, id: &BlobId) -> Result<Value, Failure> {
    let blob = reader.tree(id)?;
    let no_directory = match DirectoryNode::decode(&blob) {
        Ok(DirectoryNode::Leaf(entries)) => {
            let entries: Vec<_> = entries.iter().map(entry_value).collect();
            return Ok(json!({"id": id.to_string(), "kind": "directory leaf", "entries": entries}));
        }
        Ok(DirectoryNode::Branch(children)) => {
            let children: Vec<_> = children
                .iter()
                .map(|child| {
                    let mut object = Map::new();
                    put_bytes(&mut object, "first_name", &child.first_name);
                    object.insert("blob".to_string(), json!(child.blob.to_string()));
                    Value::Object(object)
                })
                .collect();
            return Ok(
                json!({"id": id.to_string(), "kind": "directory branch", "children": children}),
            );
        }
        Err(error) => error,
    };
    match ListNode::decode(&blob) {
        Ok(ListNode::Leaf(extents)) => {
            let extents: Vec<_> = extents.iter().map(extent_value).collect();
            Ok(json!({"id": id.to_string(), "kind": "list leaf", "extents": extents}))
        }
        Ok(ListNode::Branch(children)) => {
            let children: Vec<_> = children
                .iter()
                .map(|child| json!({"blob": child.blob.to_string(), "length": child.length}))
                .collect();
            Ok(json!({"id": id.to_string(), "kind": "list branch", "children": children}))
        }
        Err(no_list) => Err(Failure::failed(format!(
            "blob {} is no directory ({no_directory}) and no chunk list ({no_list})",
            id.short()
        ))),
    }
}

fn entry_value(entry: &Entry) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "name", &entry.name);
    object.insert("type".to_string(), json!(entry.node.kind_name()));
    match &entry.node {
        Node::File(file) => {
            object.insert("size".to_string(), json!(file.size));
            object.insert("content".to_string(), content_value(file));
        }
        Node::Directory { root, height } => {
            object.insert("root".to_string(), json!(root.to_string()));
            object.insert("height".to_string(), json!(height));
        }
        Node::Symlink(target) => put_bytes(&mut object, "linktarget", target),
        Node::CharDevice(number) | Node::BlockDevice(number) => {
            object.insert("device".to_string(), json!(number));
        }
        Node::Fifo | Node::Socket => {}
    }
    Value::Object(object)
}

fn content_value(file: &FileContent) -> Value {
    match &file.content {
        Content::Inline(bytes) => json!({"inline": bytes.len()}),
        Content::Extents(extents) => extents.iter().map(extent_value).collect(),
        Content::List { root, height } => json!({"list": root.to_string(), "height": height}),
    }
}

fn extent_value(extent: &Extent) -> Value {
    match extent {
        Extent::Data { blob, length } => json!({"blob": blob.to_string(), "length": length}),
        Extent::Hole { length } => json!({"hole": length}),
    }
}
