//! Which packs are dropped, which are copied anew without what nobody needs, and what that costs. Pure.

use std::cmp::Reverse;

use crate::id::PackId;

/// How much of the repository may stay occupied by what nobody needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UnusedLimit {
    /// This share of all bytes that stay, 0 to 1.
    Share(f64),
    /// This many bytes.
    Bytes(u64),
    /// Any: nothing is copied only to save space.
    Unlimited,
}

impl UnusedLimit {
    /// How many of `kept_bytes` may be unused.
    pub fn bytes(&self, kept_bytes: u64) -> u64 {
        match self {
            UnusedLimit::Share(share) => (kept_bytes as f64 * share) as u64,
            UnusedLimit::Bytes(bytes) => *bytes,
            UnusedLimit::Unlimited => u64::MAX,
        }
    }
}

/// So many small packs a writer leaves: two of data, which it fills at once, and one of trees.
const SMALL_LEFT: [usize; 2] = [2, 1];

/// What is known of a pack when the plan is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// Its name.
    pub id: PackId,
    /// Length of the object in bytes.
    pub object_length: u64,
    /// About how many bytes its blobs take.
    pub blob_bytes: u64,
    /// About how many of them those take that are needed from this very pack.
    pub used_bytes: u64,
    /// Blobs that are needed from this very pack.
    pub used_blobs: u64,
    /// It belongs to a backup that still runs, or holds something that this version cannot read: hands off.
    pub untouchable: bool,
    /// It has another length than it should, or nobody can tell what is in it.
    pub unreadable: bool,
    /// Requests that reading what is needed of it takes.
    pub read_requests: u64,
    /// It is sealed with an old epoch's key.
    pub old_epoch: bool,
    /// It is smaller than packs are meant to be.
    pub small: bool,
    /// It holds nodes of trees; no pack holds both kinds of blobs.
    pub is_tree: bool,
}

impl PackUse {
    /// About how many bytes of the object nobody needs.
    pub fn unused_bytes(&self) -> u64 {
        let unused = self.blob_bytes - self.used_bytes;
        let share = u128::from(self.object_length) * u128::from(unused);
        // Without a blob, all of it.
        let share = share.checked_div(u128::from(self.blob_bytes));
        share.unwrap_or_else(|| self.object_length.into()) as u64
    }
}

/// What a plan goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanLimits {
    /// How much may stay unused.
    pub max_unused: UnusedLimit,
    /// Packs of at most so many bytes together are copied.
    pub max_repack_bytes: Option<u64>,
    /// Packs that are smaller than they are meant to be are joined.
    pub repack_small: bool,
    /// Data packs are not copied, whatever stays unused in them: where they are in a cold store, which is not read lightly.
    /// It has no meaning elsewhere.
    pub leave_cold: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackPlan {
    /// Packs that nobody needs anything from, the largest first.
    pub drop: Vec<PackId>,
    /// Their bytes.
    pub drop_bytes: u64,
    /// How many of them are cut short, or cannot be read.
    pub drop_unreadable: u64,
    /// Packs whose needed blobs are copied into new ones, and which are dropped then. In the order in which that is
    /// done.
    pub repack: Vec<PackId>,
    /// Their bytes, all of which are read at worst.
    pub repack_bytes: u64,
    /// Requests that reading what is needed of them takes, about.
    pub read_requests: u64,
    /// About how many bytes the copies take.
    pub write_bytes: u64,
    /// About how many bytes stay although nobody needs them.
    pub unused_bytes: u64,
    /// About how many of them are in data packs that were not to be copied.
    pub left_cold_bytes: u64,
    /// Bytes of all packs when everything is done, about.
    pub kept_bytes: u64,
}

impl PackPlan {
    /// About how many bytes come free.
    pub fn freed_bytes(&self) -> u64 {
        self.drop_bytes + self.repack_bytes.saturating_sub(self.write_bytes)
    }
}

/// Plans what becomes of these packs.
pub fn plan(packs: &[PackUse], limits: &PlanLimits) -> PackPlan {
    let mut plan = PackPlan::default();
    let mut candidates = Vec::new();
    let mut left_kept_bytes = 0;
    let mut largest_first: Vec<&PackUse> = packs.iter().collect();
    largest_first.sort_by_key(|pack| Reverse(pack.object_length));
    for pack in largest_first {
        if pack.used_blobs == 0 && !pack.untouchable {
            plan.drop.push(pack.id);
            plan.drop_bytes += pack.object_length;
            plan.drop_unreadable += u64::from(pack.unreadable);
            continue;
        }
        plan.kept_bytes += pack.object_length;
        plan.unused_bytes += pack.unused_bytes();
        if limits.leave_cold && !pack.is_tree {
            plan.left_cold_bytes += pack.unused_bytes();
            left_kept_bytes += pack.object_length;
        } else if !pack.untouchable {
            candidates.push(pack);
        }
    }
    let is_small = |pack: &&&PackUse, is_tree: bool| pack.small && pack.is_tree == is_tree;
    let small = [false, true]
        .map(|is_tree| candidates.iter().filter(|pack| is_small(pack, is_tree)).count());
    // Old keys first, then whatever frees the most for each byte that is read.
    candidates.sort_by(|left, right| {
        let share = |pack: &PackUse| pack.unused_bytes() as f64 / pack.object_length.max(1) as f64;
        let order = right.old_epoch.cmp(&left.old_epoch);
        order.then(share(right).total_cmp(&share(left))).then(left.id.cmp(&right.id))
    });
    for pack in candidates {
        let unused = pack.unused_bytes();
        // What is left is no reason to copy others.
        let unused_bytes = plan.unused_bytes - plan.left_cold_bytes;
        let kept_bytes = plan.kept_bytes - left_kept_bytes;
        let too_much = unused_bytes > limits.max_unused.bytes(kept_bytes);
        // Fewer would only be written as so many small packs again.
        let kind = usize::from(pack.is_tree);
        let joined = limits.repack_small && pack.small && small[kind] > SMALL_LEFT[kind];
        if !(pack.old_epoch || too_much && unused > 0 || joined) {
            continue;
        }
        let repack_bytes = plan.repack_bytes + pack.object_length;
        if limits.max_repack_bytes.is_some_and(|limit| repack_bytes > limit) {
            continue;
        }
        plan.repack.push(pack.id);
        plan.repack_bytes = repack_bytes;
        plan.read_requests += pack.read_requests;
        plan.write_bytes += pack.object_length - unused;
        plan.kept_bytes -= unused;
        plan.unused_bytes -= unused;
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;
    use proptest::prelude::*;

    fn pack(number: u32, used: u64) -> PackUse {
        PackUse {
            id: PackId { session: SessionId { generation: 0, random: [1; 16] }, number },
            object_length: 1000,
            blob_bytes: 4000,
            used_bytes: used * 4,
            used_blobs: used,
            untouchable: false,
            unreadable: false,
            read_requests: 3,
            old_epoch: false,
            small: false,
            is_tree: false,
        }
    }

    const TIGHT: PlanLimits = PlanLimits {
        max_unused: UnusedLimit::Share(0.05),
        max_repack_bytes: None,
        repack_small: false,
        leave_cold: false,
    };

    fn numbers(packs: &[PackId]) -> Vec<u32> {
        packs.iter().map(|pack| pack.number).collect()
    }

    #[test]
    fn the_emptiest_packs_are_copied_until_little_is_unused() {
        let packs: Vec<_> = [0, 1000, 980, 500, 100]
            .iter()
            .zip(0..)
            .map(|(used, number)| pack(number, *used))
            .collect();
        let plan = plan(&packs, &TIGHT);
        assert_eq!(numbers(&plan.drop), [0]);
        assert_eq!(numbers(&plan.repack), [4, 3]);
        assert_eq!((plan.drop_bytes, plan.repack_bytes, plan.write_bytes), (1000, 2000, 600));
        assert_eq!((plan.unused_bytes, plan.kept_bytes), (20, 2600));
        assert_eq!(plan.read_requests, 6);
    }

    #[test]
    fn packs_that_nobody_can_read_are_counted_among_those_that_go() {
        let mut packs = [pack(0, 0), pack(1, 0), pack(2, 0), pack(3, 1000)];
        packs[0].unreadable = true;
        packs[2].unreadable = true;
        let plan = plan(&packs, &TIGHT);
        assert_eq!((plan.drop.len(), plan.drop_unreadable), (3, 2));
    }

    #[test]
    fn what_runs_is_left_alone_old_keys_go_first_and_limits_hold() {
        let mut packs = vec![pack(0, 0), pack(1, 100), pack(2, 200), pack(3, 1000), pack(4, 1000)];
        packs[0].untouchable = true;
        packs[1].untouchable = true;
        packs[4].old_epoch = true;
        let unlimited = PlanLimits { max_unused: UnusedLimit::Unlimited, ..TIGHT };
        assert_eq!(numbers(&plan(&packs, &unlimited).repack), [4]);
        assert_eq!(numbers(&plan(&packs, &TIGHT).repack), [4, 2]);
        let limited = PlanLimits { max_repack_bytes: Some(1500), ..TIGHT };
        assert_eq!(numbers(&plan(&packs, &limited).repack), [4]);
        assert_eq!(plan(&packs, &TIGHT).drop, []);
    }

    #[test]
    fn small_packs_are_joined_when_there_are_more_of_a_kind_than_a_writer_leaves() {
        let joining = PlanLimits { repack_small: true, ..TIGHT };
        let mut packs = vec![pack(0, 1000), pack(1, 1000), pack(2, 1000), pack(3, 1000)];
        packs[0].small = true;
        packs[2].small = true;
        assert_eq!(plan(&packs, &joining).repack, []);
        packs[3].small = true;
        assert_eq!(numbers(&plan(&packs, &joining).repack), [0, 2, 3]);
        assert_eq!(plan(&packs, &TIGHT).repack, []);
        packs[3].is_tree = true;
        assert_eq!(plan(&packs, &joining).repack, []);
        packs[2].is_tree = true;
        assert_eq!(numbers(&plan(&packs, &joining).repack), [2, 3]);
    }

    #[test]
    fn what_frees_the_most_for_each_byte_that_is_read_goes_first() {
        let mut packs = vec![pack(0, 700), pack(1, 500)];
        // Ten times as large, and three tenths of it unused.
        packs[0].object_length = 10_000;
        assert_eq!((packs[0].unused_bytes(), packs[1].unused_bytes()), (3000, 500));
        let plan = plan(&packs, &TIGHT);
        assert_eq!(numbers(&plan.repack), [1, 0]);
        assert_eq!((plan.repack_bytes, plan.write_bytes), (11_000, 7500));
        assert_eq!(plan.freed_bytes(), 3500);
    }

    #[test]
    fn what_a_limit_names_is_within_it() {
        let packs = [pack(0, 100), pack(1, 200), pack(2, 0)];
        let unused = |bytes| PlanLimits { max_unused: UnusedLimit::Bytes(bytes), ..TIGHT };
        assert_eq!(plan(&packs, &unused(1700)).repack, []);
        assert_eq!(plan(&packs, &unused(1700)).freed_bytes(), 1000);
        assert_eq!(numbers(&plan(&packs, &unused(1699)).repack), [0]);
        assert_eq!(plan(&packs, &unused(1699)).freed_bytes(), 1900);
        let copied = |bytes| PlanLimits { max_repack_bytes: Some(bytes), ..TIGHT };
        assert_eq!(numbers(&plan(&packs, &copied(2000)).repack), [0, 1]);
        assert_eq!(numbers(&plan(&packs, &copied(1999)).repack), [0]);
        assert_eq!(plan(&packs, &copied(999)).repack, []);
    }

    #[test]
    fn data_packs_that_are_left_are_dropped_whole_and_never_copied() {
        let mut packs = vec![pack(0, 0), pack(1, 100), pack(2, 100), pack(3, 980)];
        packs[2].is_tree = true;
        packs[3].is_tree = true;
        packs[1].old_epoch = true;
        let leaving = PlanLimits { leave_cold: true, ..TIGHT };
        let left = plan(&packs, &leaving);
        assert_eq!((numbers(&left.drop), numbers(&left.repack)), (vec![0], vec![2]));
        assert_eq!((left.left_cold_bytes, left.unused_bytes), (900, 920));
        // Two hundredths of what may be copied are unused then: the nine tenths of the other do not count.
        packs[2].used_blobs = 0;
        assert_eq!(plan(&packs, &leaving).repack, []);
        assert_eq!(numbers(&plan(&packs, &TIGHT).repack), [1]);
    }

    proptest! {
        #[test]
        fn without_a_limit_on_copying_what_stays_unused_is_within_bounds(
            used in prop::collection::vec(0..=1000_u64, 0..60),
            share in 0.0..1.0,
        ) {
            let packs: Vec<_> = used.iter().zip(0..).map(|(used, number)| pack(number, *used)).collect();
            let limits = PlanLimits { max_unused: UnusedLimit::Share(share), ..TIGHT };
            let plan = plan(&packs, &limits);
            prop_assert!(plan.unused_bytes <= limits.max_unused.bytes(plan.kept_bytes));
            prop_assert_eq!(plan.drop.len(), used.iter().filter(|used| **used == 0).count());
            prop_assert!(plan.repack.iter().all(|pack| !plan.drop.contains(pack)));
        }
    }
}
