//! Names of users and groups, looked up once and shared by all entries of one owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::tree::entry::Owner;

/// The names in `/etc/passwd` and `/etc/group`, read once. Directory services (LDAP and the like) are
/// not asked: that takes the C library's plug-ins and may block on a network for every id. Such owners
/// keep their numbers and have no name.
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    known: Mutex<HashMap<(u32, u32), Arc<Owner>>>,
}

impl Owners {
    /// Reads the system's two lists. A list that cannot be read has no names.
    pub(super) fn of_system() -> Self {
        let read = |path| parse_names(&std::fs::read(path).unwrap_or_default());
        Owners { users: read("/etc/passwd"), groups: read("/etc/group"), known: Mutex::default() }
    }

    /// The owner with these numbers; the same allocation every time.
    pub(super) fn get(&self, uid: u32, gid: u32) -> Arc<Owner> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = known.entry((uid, gid)).or_insert_with(|| {
            let name = |names: &HashMap<_, String>, id| names.get(&id).cloned().unwrap_or_default();
            let (user, group) = (name(&self.users, uid), name(&self.groups, gid));
            Arc::new(Owner { uid, gid, user, group })
        });
        Arc::clone(owner)
    }
}

/// Ids and names of `name:password:id:…` lines; of several names of one id the first is taken, as the
/// system does.
fn parse_names(list: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(list).lines() {
        let mut fields = line.split(':');
        let (name, id) = (fields.next().unwrap_or_default(), fields.nth(1));
        if let Some(id) = id.and_then(|id| id.parse().ok())
            && !name.is_empty()
        {
            names.entry(id).or_insert_with(|| name.to_string());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_an_id_counts_and_odd_lines_are_passed_over() {
        let names =
            parse_names(b"root:x:0:0:root:/root:/bin/sh\n\nodd\ntoor:x:0:0\n+:::\nme:x:7:7\n");
        assert_eq!(names.len(), 2);
        assert_eq!((names[&0].as_str(), names[&7].as_str()), ("root", "me"));
    }

    #[test]
    fn one_owner_is_kept_once() {
        let owners = Owners::of_system();
        assert!(Arc::ptr_eq(&owners.get(0, 0), &owners.get(0, 0)));
        assert_eq!(owners.get(4_000_000_000, 0).user, "");
    }
}
