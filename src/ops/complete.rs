//! Whether everything below a root is there for the writer that asks.

use std::collections::HashSet;

use crate::format::directory::DirectoryNode;
use crate::format::list::ListNode;
use crate::id::BlobId;
use crate::ops::OpsError;
use crate::ops::references::BlobKey;
use crate::repository::reader::BlobReader;
use crate::repository::writer::Writer;
use crate::tree::entry::{Content, Extent, Node};
use crate::view::{DirectoryRoot, directory_node, list_node};

/// What is still to be looked at.
enum Pending {
    Directory(DirectoryRoot),
    List(BlobId, u8),
}

/// Whether the repository has, outside of what counts as missing for this writer, every blob that the tree with
/// this root refers to. A node that cannot be read is not there. Memory: 16 bytes a tree blob.
pub fn is_complete(
    writer: &Writer<'_>,
    reader: &BlobReader<'_>,
    root: DirectoryRoot,
) -> Result<bool, OpsError> {
    let mut seen = HashSet::new();
    let mut pending = vec![Pending::Directory(root)];
    while let Some(next) = pending.pop() {
        let id = match &next {
            Pending::Directory(root) => root.blob,
            Pending::List(id, _) => *id,
        };
        if !seen.insert(BlobKey::new(&id)) {
            continue;
        }
        if !writer.has(&id)? {
            return Ok(false);
        }
        let extents = match next {
            Pending::Directory(root) => match directory_node(reader, &id) {
                Ok(DirectoryNode::Branch(children)) if root.height > 0 => {
                    let height = root.height - 1;
                    pending.extend(children.iter().map(|child| {
                        Pending::Directory(DirectoryRoot { blob: child.blob, height })
                    }));
                    Vec::new()
                }
                Ok(DirectoryNode::Leaf(entries)) if root.height == 0 => {
                    let mut extents = Vec::new();
                    for entry in entries {
                        pending.extend(DirectoryRoot::of_entry(&entry).map(Pending::Directory));
                        let Node::File(file) = entry.node else { continue };
                        match file.content {
                            Content::Inline(_) => {}
                            Content::Extents(all) => extents.extend(all),
                            Content::List { root, height } => {
                                pending.push(Pending::List(root, height))
                            }
                        }
                    }
                    extents
                }
                _ => return Ok(false),
            },
            Pending::List(_, height) => match list_node(reader, &id) {
                Ok(ListNode::Leaf(extents)) if height == 0 => extents,
                Ok(ListNode::Branch(children)) if height > 0 => {
                    let below = children.iter().map(|child| Pending::List(child.blob, height - 1));
                    pending.extend(below);
                    Vec::new()
                }
                _ => return Ok(false),
            },
        };
        for extent in extents {
            if let Extent::Data { blob, .. } = extent
                && !writer.has(&blob)?
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
