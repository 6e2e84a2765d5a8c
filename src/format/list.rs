//! Extents: a file's chunk list, in a directory entry while short, and as a tree of list blobs when long.

use super::FormatError;
use super::bytes::{Reader, put_varint};
use super::directory::{DIRECTORY_BRANCH, DIRECTORY_LEAF};
use crate::id::BlobId;
use crate::tree::entry::Extent;

/// First byte of a list blob that holds extents.
pub(super) const LIST_LEAF: u8 = 3;
/// First byte of a list blob that holds children.
pub(super) const LIST_BRANCH: u8 = 4;

/// A child of a list branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListChild {
    /// How many bytes of the file the child covers.
    pub length: u64,
    /// The child's blob.
    pub blob: BlobId,
}

/// A list blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListNode {
    /// Extents, in the file's order.
    Leaf(Vec<Extent>),
    /// Children, in the file's order; all of the same height.
    Branch(Vec<ListChild>),
}

/// Appends one extent: its length doubled, plus one for a hole; then the blob of what is no hole.
pub fn put_extent(output: &mut Vec<u8>, extent: &Extent) {
    match extent {
        Extent::Data { blob, length } => {
            put_varint(output, length << 1);
            output.extend_from_slice(blob.as_bytes());
        }
        Extent::Hole { length } => put_varint(output, length << 1 | 1),
    }
}

/// Reads one extent.
pub fn read_extent(reader: &mut Reader<'_>) -> Result<Extent, FormatError> {
    let number = reader.varint()?;
    let length = number >> 1;
    if length == 0 {
        return Err(FormatError::corrupt("an extent of no bytes"));
    }
    match number & 1 {
        0 => Ok(Extent::Data { blob: BlobId(reader.array()?), length }),
        _ => Ok(Extent::Hole { length }),
    }
}

impl ListNode {
    /// The blob's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        match self {
            ListNode::Leaf(extents) => {
                output.push(LIST_LEAF);
                put_varint(&mut output, extents.len() as u64);
                extents.iter().for_each(|extent| put_extent(&mut output, extent));
            }
            ListNode::Branch(children) => {
                output.push(LIST_BRANCH);
                put_varint(&mut output, children.len() as u64);
                for child in children {
                    put_varint(&mut output, child.length);
                    output.extend_from_slice(child.blob.as_bytes());
                }
            }
        }
        output
    }

    /// Reads a blob.
    pub fn decode(blob: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(blob);
        let node = match reader.u8()? {
            LIST_LEAF => {
                let count = reader.count(1)?;
                let extents = (0..count).map(|_| read_extent(&mut reader));
                ListNode::Leaf(extents.collect::<Result<_, _>>()?)
            }
            LIST_BRANCH => {
                let count = reader.count(BlobId::LENGTH + 1)?;
                let mut children = Vec::with_capacity(count);
                for _ in 0..count {
                    let length = reader.varint()?;
                    children.push(ListChild { length, blob: BlobId(reader.array()?) });
                }
                ListNode::Branch(children)
            }
            DIRECTORY_LEAF | DIRECTORY_BRANCH => {
                return Err(FormatError::corrupt("a directory, not a chunk list"));
            }
            other => {
                return Err(FormatError::newer(format!("a tree blob of unknown type {other}")));
            }
        };
        reader.finish()?;
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_nodes_come_back() {
        let blob = BlobId([9; 32]);
        let leaf = ListNode::Leaf(vec![
            Extent::Data { blob, length: 1 },
            Extent::Hole { length: 50 << 30 },
            Extent::Data { blob, length: 65_536 },
        ]);
        let branch = ListNode::Branch(vec![ListChild { length: 1 << 40, blob }]);
        for node in [leaf, branch] {
            let bytes = node.encode();
            assert_eq!(ListNode::decode(&bytes).as_ref(), Ok(&node));
            assert!(ListNode::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        assert!(ListNode::decode(&[LIST_LEAF, 1, 1]).is_err());
        assert!(ListNode::decode(&[1, 0]).is_err());
    }
}
