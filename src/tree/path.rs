//! Paths inside a snapshot: absolute, bytes, in one normal form.

use std::cmp::Ordering;
use std::fmt;

/// Why a text is no path inside a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is no path inside a snapshot: {reason}")]
pub struct ParsePathError {
    /// What was given, made printable.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// An absolute path inside a snapshot: `/`, or `/` before each of its components. A component is any
/// bytes but NUL and `/`, never empty, `.` or `..`. Ordered by components, which is the order of a
/// walk: a directory, what is below it, then its next sibling (`/a`, `/a/x`, `/a-b`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath {
    bytes: Box<[u8]>,
}

/// Whether bytes can be the name of an entry: not empty, not `.` or `..`, without NUL and `/`.
pub fn is_valid_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

impl TreePath {
    /// The root, `/`.
    pub fn root() -> Self {
        TreePath { bytes: Box::new(*b"/") }
    }

    /// The path that somebody typed: repeated and trailing slashes and `.` go; a missing first slash is
    /// added, because inside a snapshot there is no working directory. `..` is refused: what it means
    /// depends on symbolic links, and a guess would name another file.
    pub fn parse(typed: impl AsRef<[u8]>) -> Result<Self, ParsePathError> {
        let typed = typed.as_ref();
        let refuse = |reason| ParsePathError { path: Printable(typed).to_string(), reason };
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for component in typed.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(refuse("`..` is not understood")),
                _ if component.contains(&0) => return Err(refuse("it contains a NUL byte")),
                _ => {
                    bytes.push(b'/');
                    bytes.extend_from_slice(component);
                }
            }
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        Ok(TreePath { bytes: bytes.into_boxed_slice() })
    }

    /// The path of the entry `name` in this directory. The name must be an entry's
    /// ([`is_valid_name`]), as those of a walk and of a decoded directory are.
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(is_valid_name(name), "{} is no name", Printable(name));
        let own = if self.is_root() { &[][..] } else { &self.bytes };
        TreePath { bytes: [own, b"/", name].concat().into_boxed_slice() }
    }

    /// The normal form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.bytes.len() == 1
    }

    /// The names from the root down; none for the root itself.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.bytes.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory this is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let name = self.name()?;
        let length = (self.bytes.len() - name.len() - 1).max(1);
        Some(TreePath { bytes: Box::from(&self.bytes[..length]) })
    }

    /// Whether this is `ancestor` or below it.
    pub fn starts_with(&self, ancestor: &TreePath) -> bool {
        ancestor.is_root()
            || self
                .bytes
                .strip_prefix(ancestor.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // No component contains NUL, so a separator read as NUL sorts before every byte of a name:
        // then bytes compare as components do.
        fn key(path: &TreePath) -> impl Iterator<Item = u8> {
            path.bytes.iter().map(|byte| if *byte == b'/' { 0 } else { *byte })
        }
        key(self).cmp(key(other))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::str::FromStr for TreePath {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, ParsePathError> {
        TreePath::parse(text)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.bytes).fmt(f)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreePath({self})")
    }
}

/// Bytes of a name or path made fit for a terminal: what is not UTF-8 is replaced, and what would move
/// the cursor, start a new line or turn the reading direction is escaped (`\n`, `\u{1b}`). For people
/// only: it cannot be turned back.
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            // Nearly all names are such.
            if chunk.valid().bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                f.write_str(chunk.valid())?;
            } else {
                write_printable(f, chunk.valid())?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

fn write_printable(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    use fmt::Write;
    for character in text.chars() {
        let turns_direction = matches!(character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns_direction {
            write!(f, "{}", character.escape_default())?;
        } else {
            f.write_char(character)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn typed_paths_are_brought_into_the_normal_form() {
        for (typed, normal) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            ("a", "/a"),
            ("/a/", "/a"),
            ("//a//b/./c/.", "/a/b/c"),
            ("/.../..a", "/.../..a"),
        ] {
            assert_eq!(path(typed).as_bytes(), normal.as_bytes(), "{typed}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(TreePath::parse("/a/../b").is_err());
        assert!(TreePath::parse("..").is_err());
        let error = TreePath::parse(b"/a\0b").unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");
    }

    #[test]
    fn parts_of_a_path_are_found() {
        let deep = path("/a/b/c");
        assert_eq!(deep.components().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!(deep.name(), Some(&b"c"[..]));
        assert_eq!(deep.parent(), Some(path("/a/b")));
        assert_eq!(path("/a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(TreePath::root().components().count(), 0);
        assert_eq!(TreePath::root().join(b"a").join(b"\xff").as_bytes(), b"/a/\xff");
        assert!(deep.starts_with(&path("/a/b")) && deep.starts_with(&deep));
        assert!(deep.starts_with(&TreePath::root()));
        assert!(!path("/ab").starts_with(&path("/a")));
    }

    #[test]
    fn paths_sort_as_a_walk_meets_them() {
        let sorted = ["/", "/a", "/a/x", "/a/x/y", "/a!", "/a-b", "/b"].map(path);
        let mut shuffled = sorted.clone();
        shuffled.reverse();
        shuffled.sort();
        assert_eq!(shuffled, sorted);
    }

    #[test]
    fn printing_does_not_touch_the_terminal() {
        let odd = TreePath::root().join(b"a\nb\x1b[31m\xff\xc3\xa9\xe2\x80\xae");
        assert_eq!(odd.to_string(), "/a\\nb\\u{1b}[31m\u{fffd}é\\u{202e}");
    }
}
