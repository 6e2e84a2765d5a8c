//! What a copy would take, from directories and the index alone: no chunk is read.

use super::Named;
use crate::format::header::ObjectKind;
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
use crate::ops::findings::Findings;
use crate::ops::walk::Walk;
use crate::repository::Repository;
use crate::repository::reader::BlobReader;

/// Objects that a copied snapshot takes beside packs: session, index object, slot.
const OBJECTS: u64 = 3;

/// What a copy would take, at most: what the target has from elsewhere is found only when it is named under the target's
/// keys, for which it has to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyPlan {
    /// Blobs that no snapshot refers to that the target has.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that they take in the source, and about as many in the target.
    pub stored_bytes: u64,
    /// Requests that reading them takes.
    pub read_requests: u64,
    /// Objects that are created for them.
    pub write_requests: u64,
    /// Things that cannot be read. The snapshots that need them would not be copied.
    pub damaged: u64,
}

/// Counts what `wanted` refer to and `known`, which the target has, do not.
pub fn plan(
    reader: &BlobReader<'_>,
    target: &Repository,
    known: &[Named],
    wanted: &[Named],
    monitor: &dyn Monitor,
) -> Result<CopyPlan, OpsError> {
    monitor.phase(Phase::Plan);
    let (of_known, of_wanted) = (Findings::default(), Findings::default());
    let there = Walk::new(reader, monitor, &of_known);
    there.run(known)?;
    let new = Walk::new(reader, monitor, &of_wanted);
    new.run(wanted)?;
    let cache = reader.repository().cache();
    let mut plan = CopyPlan::default();
    let mut segments = std::collections::HashSet::new();
    let mut last = None;
    for entry in cache.entries()? {
        let (id, location) = entry?;
        if last.replace(id) == Some(id) {
            continue;
        }
        let pack = cache.pack(location.pack)?;
        let is_tree = pack.kind == ObjectKind::TreePack;
        if !new.needs(pack.kind, &id) || there.needs(pack.kind, &id) {
            continue;
        }
        plan.blobs += 1;
        plan.bytes += u64::from(location.length);
        plan.stored_bytes += pack.share(&location);
        // Directories are read to find out what there is, and are written anew.
        if !is_tree {
            segments.insert(location.place());
        }
    }
    drop(new);
    plan.damaged = of_wanted.finish().len() as u64;
    let pack_length = target.settings().usual_pack_length();
    plan.read_requests = segments.len() as u64;
    plan.write_requests = plan.stored_bytes.div_ceil(pack_length) + OBJECTS * wanted.len() as u64;
    Ok(plan)
}
