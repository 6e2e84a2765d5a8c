//! What an attempt to collect knows of what snapshots need, each time it looks.

use std::collections::HashSet;
use std::sync::Arc;

use super::PruneOptions;
use super::lost::IN_THE_WAY;
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
use crate::ops::findings::Finding;
use crate::ops::marking::{Following, Marking, roots_of};
use crate::repository::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::marks::Marks;
use crate::repository::reader::BlobReader;
use crate::repository::snapshots::Snapshots;

/// What is needed by the snapshots that this attempt has looked at.
pub struct Needs<'n, 'a> {
    repository: &'a Repository,
    options: &'n PruneOptions,
    monitor: &'n dyn Monitor,
    marking: Marking<'n, 'a>,
    marks: Arc<Marks>,
    has_looked: bool,
    /// Nothing was remembered from an earlier run.
    is_anew: bool,
}

impl<'n, 'a> Needs<'n, 'a> {
    /// Before it has looked at any.
    pub fn new(
        reader: &'n BlobReader<'a>,
        options: &'n PruneOptions,
        monitor: &'n dyn Monitor,
    ) -> Self {
        Needs {
            repository: reader.repository(),
            options,
            monitor,
            marking: Marking::new(reader, monitor),
            marks: Arc::default(),
            has_looked: false,
            is_anew: false,
        }
    }

    /// What is needed.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether just these snapshots were followed, and nothing was remembered.
    pub fn are_anew_of(&self, snapshots: &Snapshots) -> bool {
        self.is_anew && *self.marks.roots() == roots_of(&snapshots.all)
    }

    /// Looks at these snapshots. Those that this attempt has looked at before go on to count: a listing may leave one out.
    pub fn follow(&mut self, snapshots: &Snapshots) -> Result<(), OpsError> {
        self.monitor.phase(Phase::Mark);
        let base = match (self.has_looked, self.options.following) {
            (true, _) => Some(self.marks.clone()),
            (false, Following::Anew) => None,
            (false, _) => self.repository.marks().take(),
        };
        let marks = match &base {
            Some(base) => self.marking.from(base, &snapshots.all, self.has_looked)?,
            None => None,
        };
        let Some(marks) = marks else {
            self.require_none_left_out(snapshots)?;
            return self.follow_anew(snapshots);
        };
        if self.options.following == Following::Compared {
            self.marking.compare(&marks, &snapshots.all)?;
        }
        let is_remembered = base.is_some_and(|base| Arc::ptr_eq(&base, &marks));
        self.keep(marks, !is_remembered);
        Ok(())
    }

    /// Refuses when this attempt has counted a snapshot that is not among these: a listing may have left it out, and whoever
    /// begins anew for want of what was remembered would not count it any more.
    pub fn require_none_left_out(&self, snapshots: &Snapshots) -> Result<(), OpsError> {
        let there: HashSet<SnapshotId> = snapshots.all.iter().map(|(id, _)| *id).collect();
        match self.has_looked && !self.marks.roots().keys().all(|id| there.contains(id)) {
            true => Err(OpsError::Busy(
                "what was marked cannot be read any more, and snapshots that it counted have gone from the \
                 store's listing meanwhile; run `aumbry prune` again"
                    .into(),
            )),
            false => Ok(()),
        }
    }

    /// Begins anew with the snapshots that are there, whatever is remembered.
    pub fn follow_anew(&mut self, snapshots: &Snapshots) -> Result<(), OpsError> {
        self.monitor.phase(Phase::Mark);
        let marks = self.marking.anew(&snapshots.all)?.map_err(unknown_needs)?;
        self.keep(marks, true);
        self.is_anew = true;
        Ok(())
    }

    fn keep(&mut self, marks: Arc<Marks>, is_new: bool) {
        self.marks = marks;
        self.has_looked = true;
        // What is only assumed is not worth remembering.
        if is_new && self.options.assume_forgotten.is_empty() {
            self.repository.marks().put(&self.marks, &self.repository.environment().chance);
        }
    }
}

/// Why nothing is collected when trees cannot be followed.
fn unknown_needs(finding: Finding) -> RepositoryError {
    RepositoryError::corrupt(
        finding.item,
        format!(
            "{}; what it needs is unknown and would be taken for garbage, so nothing is collected. `aumbry check` names \
             what is hit, `aumbry repair` mends what can be mended; {IN_THE_WAY}",
            finding.message
        ),
    )
}
