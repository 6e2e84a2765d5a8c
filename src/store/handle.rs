//! The OpenDAL service below a store, made anew where what opened it has run out: some services keep a token for as long
//! as they think that it is good, and the server may think otherwise.

use opendal::Operator;
use parking_lot::RwLock;

/// Makes the service as it was made first.
pub(super) type Make = Box<dyn Fn() -> opendal::Result<Operator> + Send + Sync>;

/// The service, of which all clones of a store share one.
pub(super) struct Handle {
    // With how many were there before it.
    current: RwLock<(u64, Operator)>,
    make: Option<Make>,
}

impl Handle {
    /// One that is made anew by `make`; `None`: it renews itself what it needs.
    pub(super) fn new(operator: Operator, make: Option<Make>) -> Self {
        Handle { current: RwLock::new((0, operator)), make }
    }

    /// The service as it is now.
    pub(super) fn operator(&self) -> Operator {
        self.current.read().1.clone()
    }

    /// How many were there before the one that is there now.
    pub(super) fn generation(&self) -> u64 {
        self.current.read().0
    }

    /// The server did not accept what the service of this generation had. Many calls find that out at once: the first
    /// one makes the next generation.
    pub(super) fn renew(&self, generation: u64) {
        let Some(make) = &self.make else { return };
        let mut current = self.current.write();
        // It was made from the same settings before, and stays if that should fail.
        if current.0 == generation
            && let Ok(operator) = make()
        {
            *current = (generation + 1, operator);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn memory() -> Operator {
        Operator::new(opendal::services::Memory::default()).unwrap()
    }

    #[test]
    fn of_many_that_were_refused_at_once_one_renews() {
        let made = Arc::new(AtomicUsize::new(0));
        let make: Make = {
            let made = made.clone();
            Box::new(move || {
                made.fetch_add(1, Ordering::Relaxed);
                Ok(memory())
            })
        };
        let handle = Handle::new(memory(), Some(make));
        let seen = handle.generation();
        (0..8).for_each(|_| handle.renew(seen));
        assert_eq!((made.load(Ordering::Relaxed), handle.generation()), (1, seen + 1));
        handle.renew(handle.generation());
        assert_eq!((made.load(Ordering::Relaxed), handle.generation()), (2, seen + 2));
    }

    #[test]
    fn one_that_renews_itself_stays() {
        let handle = Handle::new(memory(), None);
        handle.renew(0);
        assert_eq!(handle.generation(), 0);
    }
}
