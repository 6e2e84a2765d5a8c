//! Include and exclude patterns: which paths a backup leaves out and a restore takes.
//!
//! A pattern is written as for restic or a `.gitignore`:
//!
//! | pattern | meaning |
//! |---|---|
//! | `*.tmp` | that name at any depth |
//! | `foo/bar` | a path that ends so, at any depth |
//! | `/home/*/cache` | from the root |
//! | `foo/` | directories only |
//! | `a/**/b` | any number of directories between, also none |
//! | `foo/**` | everything below `foo`, not `foo` itself |
//! | `!foo` | takes back what an earlier pattern excluded; the last that matches decides |
//! | `?` `[a-z]` `[!a]` `\*` | one byte; a class; its opposite; a literal star |
//!
//! `*`, `?` and a negated class never match `/`. Braces mean themselves, as in a shell's quoted text.
//! Case, where it does not matter, is that of ASCII letters. Names are bytes: what is not UTF-8
//! matches `*` and `?` like everything else.

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// A pattern as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The text.
    pub text: String,
    /// Whether `a` matches `A`.
    pub case_insensitive: bool,
}

impl Pattern {
    /// A pattern that minds upper and lower case.
    pub fn new(text: impl Into<String>) -> Self {
        Pattern { text: text.into(), case_insensitive: false }
    }

    /// A pattern that does not mind upper and lower case of ASCII letters.
    pub fn case_insensitive(text: impl Into<String>) -> Self {
        Pattern { text: text.into(), case_insensitive: true }
    }
}

/// A pattern that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?}: {reason}")]
pub struct FilterError {
    /// The pattern, as it was typed.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which entries a backup leaves out. Costs nothing when there are no patterns.
#[derive(Debug, Clone, Default)]
pub struct ExcludeFilter {
    globs: GlobSet,
    rules: Vec<Rule>,
    /// Whether every rule excludes files and directories alike: then any match is an answer.
    is_plain: bool,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    takes_back: bool,
    directories_only: bool,
}

impl ExcludeFilter {
    /// The filter of these patterns, which are tried together; where several match, the last decides.
    pub fn new(patterns: &[Pattern]) -> Result<Self, FilterError> {
        let mut globs = GlobSetBuilder::new();
        let mut rules = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let (parsed, takes_back) = match pattern.text.strip_prefix('!') {
                Some(rest) => (ParsedPattern::parse(pattern, rest)?, true),
                None => (ParsedPattern::parse(pattern, &pattern.text)?, false),
            };
            if parsed.components.is_empty() {
                return Err(refuse(pattern, "it would exclude everything"));
            }
            globs.add(parsed.glob(pattern, parsed.components.len())?);
            rules.push(Rule { takes_back, directories_only: parsed.directories_only });
        }
        let is_plain = rules.iter().all(|rule| !rule.takes_back && !rule.directories_only);
        Ok(ExcludeFilter { globs: build(&globs, patterns)?, rules, is_plain })
    }

    /// Whether there is no pattern, so that nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the entry at this path (in the normal form of a
    /// [`TreePath`](crate::tree::path::TreePath)) is left out; what is below an excluded directory is
    /// left out with it and need not be asked about.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let candidate = Candidate::from_bytes(path);
        if self.is_plain {
            return self.globs.is_match_candidate(&candidate);
        }
        let matches = self.globs.matches_candidate(&candidate);
        let mut rules = matches.into_iter().rev().map(|index| self.rules[index]);
        rules
            .find(|rule| is_directory || !rule.directories_only)
            .is_some_and(|rule| !rule.takes_back)
    }
}

/// What an [`IncludeFilter`] says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It is wanted, with all that is below it: nothing below need be asked about.
    Whole,
    /// It is not wanted for itself, but something below it may be.
    Inside,
    /// Neither it nor anything below it is wanted.
    No,
}

/// Which entries a restore takes, and what `find` looks for. Without patterns that is everything. A restore takes what is below
/// something that is wanted, too; who looks for something asks whether an entry matches itself.
#[derive(Debug, Clone, Default)]
pub struct IncludeFilter {
    wanted: GlobSet,
    /// For each glob in `wanted`: whether it matches directories only.
    directories_only: Vec<bool>,
    /// The directories above what patterns want, and, where a pattern ends in `**`, those that it wants.
    above: GlobSet,
    /// Whether a pattern may match at any depth, so that every directory must be looked into.
    anywhere: bool,
    wants_everything: bool,
}

impl IncludeFilter {
    /// The filter of these patterns: wanted is what any of them matches, and all below it. `!` has no
    /// meaning here: what should be left out of a restore is excluded.
    pub fn new(patterns: &[Pattern]) -> Result<Self, FilterError> {
        let mut wanted = GlobSetBuilder::new();
        let mut above = GlobSetBuilder::new();
        let mut filter = IncludeFilter { wants_everything: patterns.is_empty(), ..Self::default() };
        for pattern in patterns {
            if pattern.text.starts_with('!') {
                return Err(refuse(pattern, "`!` cannot stand in an include pattern; exclude it"));
            }
            let parsed = ParsedPattern::parse(pattern, &pattern.text)?;
            if parsed.components.is_empty() {
                filter.wants_everything = true;
                continue;
            }
            wanted.add(parsed.glob(pattern, parsed.components.len())?);
            filter.directories_only.push(parsed.directories_only);
            filter.anywhere |= !parsed.is_anchored;
            let whole = parsed.components.len();
            // What `**` at the end matches leads on to what is below it.
            let leading = if parsed.components.last() == Some(&"**") { whole } else { whole - 1 };
            for length in 1..=leading {
                above.add(parsed.glob(pattern, length)?);
            }
        }
        filter.wanted = build(&wanted, patterns)?;
        filter.above = build(&above, patterns)?;
        Ok(filter)
    }

    /// Whether everything is wanted.
    pub fn is_empty(&self) -> bool {
        self.wants_everything
    }

    /// Whether a pattern matches the entry at this path itself, and not only something above it.
    pub fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        self.wants_everything || self.is_match(&Candidate::from_bytes(path), is_directory)
    }

    /// Whether a pattern may match, itself, something below the directory at this path.
    pub fn leads_on(&self, path: &[u8]) -> bool {
        self.wants_everything
            || self.anywhere
            || path == b"/"
            || self.above.is_match_candidate(&Candidate::from_bytes(path))
    }

    fn is_match(&self, candidate: &Candidate<'_>, is_directory: bool) -> bool {
        let matches = self.wanted.matches_candidate(candidate);
        matches.into_iter().any(|index| is_directory || !self.directories_only[index])
    }

    /// Whether the entry at this path (in the normal form of a
    /// [`TreePath`](crate::tree::path::TreePath)) is wanted, or something below it. Asked from the root
    /// down; below an entry that is [`Match::Whole`] everything is wanted without asking.
    pub fn includes(&self, path: &[u8], is_directory: bool) -> Match {
        if self.wants_everything {
            return Match::Whole;
        }
        if path == b"/" {
            return Match::Inside;
        }
        let candidate = Candidate::from_bytes(path);
        if self.is_match(&candidate, is_directory) {
            Match::Whole
        } else if is_directory && (self.anywhere || self.above.is_match_candidate(&candidate)) {
            Match::Inside
        } else {
            Match::No
        }
    }
}

/// A pattern taken apart.
struct ParsedPattern<'a> {
    is_anchored: bool,
    directories_only: bool,
    components: Vec<&'a str>,
}

impl<'a> ParsedPattern<'a> {
    fn parse(pattern: &Pattern, text: &'a str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(refuse(pattern, "it is empty"));
        }
        let components: Vec<_> =
            text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if components.contains(&"..") {
            return Err(refuse(pattern, "`..` is not understood"));
        }
        if components.is_empty() && !text.starts_with('/') {
            return Err(refuse(pattern, "it names nothing"));
        }
        Ok(ParsedPattern {
            is_anchored: text.starts_with('/'),
            directories_only: text.ends_with('/'),
            components,
        })
    }

    /// The first `length` components as a glob. Cut short, it matches the directories above what the
    /// whole pattern matches; a `**` among them matches all of those, as it does in the whole.
    fn glob(&self, pattern: &Pattern, length: usize) -> Result<Glob, FilterError> {
        let kept = &self.components[..length];
        let mut text = String::from(if self.is_anchored { "" } else { "**" });
        for component in kept {
            // A `**` that follows another says nothing more.
            if *component == "**" && text.ends_with("**") {
                continue;
            }
            if self.is_anchored || !text.is_empty() {
                text.push('/');
            }
            push_escaped(&mut text, component);
        }
        GlobBuilder::new(&text)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(pattern.case_insensitive)
            .build()
            .map_err(|error| refuse(pattern, error.kind().to_string()))
    }
}

/// Appends a component, with what only globset takes for special made literal: braces; and with the
/// separator put into negated classes, which would match it.
fn push_escaped(text: &mut String, component: &str) {
    let mut characters = component.chars().peekable();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                text.push('\\');
                text.extend(characters.next());
            }
            '[' if !in_class => {
                in_class = true;
                text.push('[');
                if let Some(negation) = characters.next_if(|next| matches!(next, '!' | '^')) {
                    text.push(negation);
                    // Before `]` and `-`, which are literal only in the first place, it would change them.
                    if !matches!(characters.peek(), Some(']' | '-')) {
                        text.push('/');
                    }
                }
                text.extend(characters.next_if_eq(&']'));
            }
            ']' if in_class => {
                in_class = false;
                text.push(']');
            }
            '{' | '}' if !in_class => text.extend(['\\', character]),
            _ => text.push(character),
        }
    }
}

fn refuse(pattern: &Pattern, reason: impl Into<String>) -> FilterError {
    FilterError { pattern: pattern.text.clone(), reason: reason.into() }
}

/// Builds the set; each glob was proven alone, so what can fail is only their number.
fn build(globs: &GlobSetBuilder, patterns: &[Pattern]) -> Result<GlobSet, FilterError> {
    globs.build().map_err(|error| FilterError {
        pattern: patterns.iter().map(|pattern| pattern.text.as_str()).collect::<Vec<_>>().join(" "),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(patterns: &[&str]) -> ExcludeFilter {
        let patterns: Vec<_> = patterns.iter().copied().map(Pattern::new).collect();
        ExcludeFilter::new(&patterns).unwrap()
    }

    fn include(patterns: &[&str]) -> IncludeFilter {
        let patterns: Vec<_> = patterns.iter().copied().map(Pattern::new).collect();
        IncludeFilter::new(&patterns).unwrap()
    }

    #[test]
    fn exclude_patterns_mean_what_the_table_says() {
        let table: &[(&[&str], &str, bool)] = &[
            (&[], "/a", false),
            (&["*.tmp"], "/a.tmp", true),
            (&["*.tmp"], "/x/y/a.tmp", true),
            (&["*.tmp"], "/x/y/a.tmpx", false),
            (&["*.tmp"], "/x/.tmp", true),
            (&["foo"], "/foo", true),
            (&["foo"], "/a/foo", true),
            (&["foo"], "/a/foobar", false),
            (&["./foo"], "/a/foo", true),
            (&["foo/bar"], "/foo/bar", true),
            (&["foo/bar"], "/x/foo/bar", true),
            (&["foo/bar"], "/x/afoo/bar", false),
            (&["foo//bar"], "/x/foo/bar", true),
            (&["foo/*"], "/x/foo/y", true),
            (&["foo/*"], "/x/foo", false),
            (&["/home/*/cache"], "/home/me/cache", true),
            (&["/home/*/cache"], "/home/me/x/cache", false),
            (&["/home/*/cache"], "/mnt/home/me/cache", false),
            (&["/home/*/cache"], "/home/cache", false),
            (&["/a/**/b"], "/a/b", true),
            (&["/a/**/b"], "/a/x/y/b", true),
            (&["/a/**/b"], "/a/xb", false),
            (&["a/**"], "/x/a/y", true),
            (&["a/**"], "/x/a", false),
            (&["**/a"], "/x/a", true),
            (&["**/a"], "/a", true),
            (&["**"], "/a/b", true),
            (&["/**/**/a"], "/a", true),
            (&["?.c"], "/x/a.c", true),
            (&["?.c"], "/x/ab.c", false),
            (&["[ab].c"], "/b.c", true),
            (&["[!ab].c"], "/b.c", false),
            (&["[^ab].c"], "/c.c", true),
            (&["a[!x]b"], "/a/b", false),
            (&["[!]]x"], "/ax", true),
            (&["{a,b}"], "/a", false),
            (&["{a,b}"], "/{a,b}", true),
            (&["\\*"], "/*", true),
            (&["\\*"], "/a", false),
            (&["\\!a"], "/!a", true),
            (&["#a"], "/#a", true),
            (&["*.o", "!keep.o"], "/keep.o", false),
            (&["*.o", "!keep.o"], "/other.o", true),
            (&["!keep.o", "*.o"], "/keep.o", true),
            (&["/a/*", "!/a/b"], "/a/b", false),
            (&["a*b"], "/x/a\nb", true),
        ];
        for (patterns, path, expected) in table {
            let excluded = exclude(patterns).excludes(path.as_bytes(), false);
            assert_eq!(excluded, *expected, "{patterns:?} {path:?}");
        }
    }

    #[test]
    fn a_pattern_with_a_trailing_slash_is_for_directories() {
        let filter = exclude(&["build/"]);
        assert!(filter.excludes(b"/x/build", true));
        assert!(!filter.excludes(b"/x/build", false));
    }

    #[test]
    fn case_matters_only_where_it_should() {
        let patterns = [Pattern::new("*.JPG"), Pattern::case_insensitive("/Data/*.tmp")];
        let filter = ExcludeFilter::new(&patterns).unwrap();
        assert!(filter.excludes(b"/a.JPG", false));
        assert!(!filter.excludes(b"/a.jpg", false));
        assert!(filter.excludes(b"/dATA/x.TMP", false));
    }

    #[test]
    fn names_that_are_not_utf_8_are_matched() {
        assert!(exclude(&["*.tmp"]).excludes(b"/\xff\xfe.tmp", false));
        assert!(exclude(&["a?b"]).excludes(b"/a\xffb", false));
        assert_eq!(include(&["/a/*/c"]).includes(b"/a/\xff", true), Match::Inside);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["", "!", ".", "/", "a/../b", "[a", "x[z-a]"] {
            let error = ExcludeFilter::new(&[Pattern::new("ok"), Pattern::new(text)]).unwrap_err();
            assert_eq!(error.pattern, text);
        }
        assert!(IncludeFilter::new(&[Pattern::new("!a")]).is_err());
    }

    #[test]
    fn what_matches_itself_and_what_leads_on_are_told_apart() {
        let table: &[(&[&str], &str, bool, bool)] = &[
            (&["/a"], "/", false, true),
            (&["/a"], "/a", true, false),
            (&["/a"], "/a/b", false, false),
            (&["/a/b"], "/a", false, true),
            (&["/a/**"], "/a", false, true),
            (&["/a/**"], "/a/b", true, true),
            (&["/a/**"], "/a/b/c", true, true),
            (&["/a/**"], "/b", false, false),
            (&["/**"], "/b", true, true),
            (&["a"], "/x/a", true, true),
            (&["a"], "/a/x", false, true),
            (&["/", "a"], "/b/c", true, true),
        ];
        for (patterns, path, matches, leads_on) in table {
            let filter = include(patterns);
            let found = (filter.matches(path.as_bytes(), true), filter.leads_on(path.as_bytes()));
            assert_eq!(found, (*matches, *leads_on), "{patterns:?} {path:?}");
        }
        let any_case = IncludeFilter::new(&[Pattern::case_insensitive("/Home/**")]).unwrap();
        assert!(any_case.matches(b"/hOME/a/b", false) && any_case.leads_on(b"/hOME/a"));
    }

    #[test]
    fn include_patterns_mean_what_the_table_says() {
        let table: &[(&[&str], &str, bool, Match)] = &[
            (&[], "/a", false, Match::Whole),
            (&["/"], "/a", false, Match::Whole),
            (&["/a"], "/", true, Match::Inside),
            (&["/a"], "/a", true, Match::Whole),
            (&["/a"], "/b", true, Match::No),
            (&["/a/b/c"], "/a", true, Match::Inside),
            (&["/a/b/c"], "/a/b", true, Match::Inside),
            (&["/a/b/c"], "/a/b", false, Match::No),
            (&["/a/b/c"], "/a/c", true, Match::No),
            (&["/a/b/c"], "/a/b/c", false, Match::Whole),
            (&["/home/*/docs"], "/home/me", true, Match::Inside),
            (&["/home/*/docs"], "/home/me/docs", true, Match::Whole),
            (&["/home/*/docs"], "/home/me/music", true, Match::No),
            (&["/a/**/z"], "/a", true, Match::Inside),
            (&["/a/**/z"], "/a/b/c", true, Match::Inside),
            (&["/a/**/z"], "/a/b/z", false, Match::Whole),
            (&["/a/**/z/q"], "/a/z", true, Match::Inside),
            (&["/a/**/z"], "/b", true, Match::No),
            (&["*.txt"], "/any", true, Match::Inside),
            (&["*.txt"], "/any", false, Match::No),
            (&["*.txt"], "/any/a.txt", false, Match::Whole),
            (&["docs/"], "/docs", false, Match::No),
            (&["docs/"], "/docs", true, Match::Whole),
        ];
        for (patterns, path, is_directory, expected) in table {
            let answer = include(patterns).includes(path.as_bytes(), *is_directory);
            assert_eq!(answer, *expected, "{patterns:?} {path:?}");
        }
    }
}
