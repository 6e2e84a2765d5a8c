//! How large a random sample of packs must be, and what it proves when all of it is good.
//!
//! Of `packs` packs let `bad` be bad. A sample of `n` of them, drawn without replacement, meets none with the
//! probability C(packs - bad, n) / C(packs, n), the product of (packs - bad - i) / (packs - i) for i from 0 to
//! n - 1: the hypergeometric distribution at 0, exact for every size. The statement "at least this proportion is
//! good" is false from one `bad` on, and more bad packs are met more likely, so it is enough to look at that
//! one. For ever more packs n tends to ln(1 - confidence) / ln(proportion): 4603 packs for 99 % and 99.9 %. (The
//! "rule of three" is the same for 95 %: 3 / (1 - proportion); Hanley and Lippman-Hand, "If nothing goes wrong,
//! is everything all right?", JAMA 249(13), 1983.)

/// What a sample is to prove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Confidence {
    /// How sure one wants to be, above 0 and below 1.
    pub confidence: f64,
    /// That at least this proportion of packs is good, above 0 and at most 1.
    pub proportion: f64,
}

impl Default for Confidence {
    /// 99 % sure that at least 99.9 % are good.
    fn default() -> Self {
        Confidence { confidence: 0.99, proportion: 0.999 }
    }
}

impl Confidence {
    /// Whether the two can be asked for.
    pub fn is_valid(&self) -> bool {
        let Confidence { confidence, proportion } = *self;
        0.0 < confidence && confidence < 1.0 && 0.0 < proportion && proportion <= 1.0
    }

    /// The fewest bad packs with which the statement is false.
    fn fewest_bad(&self, packs: u64) -> u64 {
        // The least whole number of good packs that is enough, not one more because 0.999 · 1000 is 999.0000001.
        let good = (packs as f64 * self.proportion - 1e-6).ceil().max(0.0) as u64;
        packs - good.min(packs) + 1
    }

    /// How many of so many packs must be read.
    pub fn sample_size(&self, packs: u64) -> u64 {
        let bad = self.fewest_bad(packs);
        let mut missed = 1.0;
        for read in 0..packs {
            // Not one more because 1 - 0.8 is 0.19999999999999996.
            if missed <= 1.0 - self.confidence + 1e-12 {
                return read;
            }
            missed *= factor(packs, bad, read);
        }
        packs
    }

    /// How sure one is after so many were read and all were good: what was asked for, or a little more.
    pub fn reached(&self, packs: u64, read: u64) -> f64 {
        let bad = self.fewest_bad(packs);
        if read >= packs {
            return 1.0;
        }
        1.0 - (0..read).map(|read| factor(packs, bad, read)).product::<f64>()
    }
}

/// With what probability the next pack that is drawn is good, too, when none was bad so far.
fn factor(packs: u64, bad: u64, read: u64) -> f64 {
    packs.saturating_sub(bad + read) as f64 / (packs - read) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all samples of `read` among `packs`, the share that meets one of the first `bad`.
    fn enumerate(packs: u32, bad: u32, read: u32) -> f64 {
        let bad = (1u32 << bad) - 1;
        let samples = (0..1u32 << packs).filter(|sample| sample.count_ones() == read);
        let (all, met) =
            samples.fold((0, 0), |(all, met), it| (all + 1, met + u32::from(it & bad != 0)));
        f64::from(met) / f64::from(all)
    }

    #[test]
    fn the_confidence_is_the_share_of_all_samples_that_meet_a_bad_pack() {
        for packs in 1..=12u32 {
            for proportion in [0.3, 0.5, 0.75, 0.9, 0.999, 1.0] {
                // As many bad packs as just make the statement false.
                let is_false = |bad: &u32| f64::from(packs - bad) < f64::from(packs) * proportion;
                let bad = (1..=packs).find(is_false).unwrap();
                for confidence in [0.2, 0.5, 0.8, 0.99] {
                    let wanted = Confidence { confidence, proportion };
                    for read in 1..packs {
                        let exact = enumerate(packs, bad, read);
                        let stated = wanted.reached(packs.into(), read.into());
                        assert!((stated - exact).abs() < 1e-9, "{packs} {bad} {read}");
                    }
                    let size = wanted.sample_size(packs.into()) as u32;
                    let is_enough = |read: u32| enumerate(packs, bad, read) >= confidence - 1e-9;
                    assert!(size == packs || is_enough(size), "{packs} {wanted:?}: {size}");
                    assert!(!is_enough(size - 1), "{packs} {wanted:?}: {size} is one too many");
                }
            }
        }
    }

    #[test]
    fn small_repositories_are_read_nearly_whole_and_large_ones_in_the_limit() {
        let wanted = Confidence::default();
        assert_eq!(wanted.sample_size(0), 0);
        assert_eq!(wanted.sample_size(50), 50);
        assert_eq!(wanted.sample_size(999), 990);
        assert_eq!(wanted.sample_size(1000), 900);
        assert_eq!(wanted.sample_size(1_000_000_000), 4603);
        assert_eq!(wanted.reached(50, 50), 1.0);
        for packs in [999, 1000, 12_345, 1_000_000] {
            let size = wanted.sample_size(packs);
            let (reached, less) = (wanted.reached(packs, size), wanted.reached(packs, size - 1));
            assert!(reached >= 0.99 - 1e-12 && less < 0.99, "{packs}: {size} reaches {reached}");
        }
        let three = Confidence { confidence: 0.95, proportion: 0.999 };
        assert!((2990..=3000).contains(&three.sample_size(1 << 40)));
    }

    #[test]
    fn what_cannot_be_is_not_asked_for() {
        assert!(Confidence::default().is_valid());
        for (confidence, proportion) in [(1.0, 0.9), (0.0, 0.9), (0.9, 0.0), (0.9, 1.1)] {
            assert!(!Confidence { confidence, proportion }.is_valid());
        }
        assert!(!Confidence { confidence: f64::NAN, proportion: 0.5 }.is_valid());
    }
}
