//! What a person named, resolved and merged: which directories are walked whole and which are only the
//! way to a source.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::source::SourceError;
use crate::tree::path::Printable;

/// A node of the tree of names that lead to the sources. Sources that contain one another are one tree,
/// so whatever overlaps is met once.
#[derive(Default)]
struct PlanNode {
    /// Whether this very path was named.
    is_named: bool,
    children: BTreeMap<CString, usize>,
}

/// The tree of names; the root is node 0.
pub(super) struct Plan {
    nodes: Vec<PlanNode>,
}

impl Plan {
    /// The root's node.
    pub(super) const ROOT: usize = 0;

    pub(super) fn new() -> Self {
        Plan { nodes: vec![PlanNode::default()] }
    }

    /// Adds a source by the components of its path, which are free of NUL.
    pub(super) fn add<'a>(&mut self, components: impl Iterator<Item = &'a [u8]>) {
        let mut node = Plan::ROOT;
        for component in components {
            // Paths come from the system or were proven to hold no NUL.
            let name = CString::new(component).unwrap_or_default();
            let new = self.nodes.len();
            let child = *self.nodes[node].children.entry(name).or_insert(new);
            if child == new {
                self.nodes.push(PlanNode::default());
            }
            node = child;
        }
        self.nodes[node].is_named = true;
    }

    /// Whether this very path was named.
    pub(super) fn is_named(&self, node: Option<usize>) -> bool {
        node.is_some_and(|node| self.nodes[node].is_named)
    }

    /// Whether something below this path was named.
    pub(super) fn has_children(&self, node: Option<usize>) -> bool {
        node.is_some_and(|node| !self.nodes[node].children.is_empty())
    }

    /// The node of an entry of a directory, if the entry leads to a source.
    pub(super) fn child(&self, node: Option<usize>, name: &CStr) -> Option<usize> {
        self.nodes[node?].children.get(name).copied()
    }

    /// The names in a directory that lead to sources, sorted as bytes.
    pub(super) fn children(&self, node: usize) -> impl Iterator<Item = &CString> {
        self.nodes[node].children.keys()
    }
}

/// One source as it is looked for: the real path of its directory, and its own name in it, not resolved:
/// a link that was named is saved as a link.
pub(super) struct NamedSource {
    /// The real path, in normal form. For a source that is missing: as it was given, cleaned.
    pub(super) path: Vec<u8>,
    /// Why it cannot be saved.
    pub(super) failure: Option<io::Error>,
}

impl NamedSource {
    /// Finds what a person named. A path that ends in `/`, `/.` or `/..` means what a link leads to.
    pub(super) fn resolve(path: &Path) -> Result<Self, SourceError> {
        let bytes = path.as_os_str().as_bytes();
        if !path.is_absolute() || bytes.contains(&0) {
            let path = Printable(bytes);
            return Err(SourceError::Invalid(format!("{path} is not an absolute path")));
        }
        Ok(match find(path) {
            Ok(path) => NamedSource { path, failure: None },
            Err(error) => {
                let cleaned = path.components().as_path().as_os_str().as_bytes().to_vec();
                NamedSource { path: cleaned, failure: Some(error) }
            }
        })
    }
}

fn find(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = path.as_os_str().as_bytes();
    let follows = [&b"/"[..], b"/.", b"/.."].iter().any(|end| bytes.ends_with(end));
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !follows => {
            let mut resolved = fs::canonicalize(parent)?;
            resolved.push(name);
            fs::symlink_metadata(&resolved)?;
            resolved
        }
        _ => fs::canonicalize(path)?,
    };
    Ok(resolved.into_os_string().into_vec())
}
