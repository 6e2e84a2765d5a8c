//! Patterns and lists of paths, as they stand on the command line and in files.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use aumbry::tree::filter::Pattern;
use globset::GlobBuilder;

use crate::failure::Failure;
use crate::output::printable;

/// The patterns of a command line, in the order in which later ones are stronger.
pub fn patterns(
    files: &[PathBuf],
    plain: &[String],
    insensitive: &[String],
) -> Result<Vec<Pattern>, Failure> {
    let mut patterns = Vec::new();
    for file in files {
        for line in read_lines(file)? {
            let text = String::from_utf8(line).map_err(|_| {
                let name = printable(file.as_os_str().as_bytes());
                Failure::failed(format!("{name} is not UTF-8 text"))
            })?;
            patterns.push(Pattern::new(text));
        }
    }
    patterns.extend(plain.iter().map(Pattern::new));
    patterns.extend(insensitive.iter().map(Pattern::case_insensitive));
    Ok(patterns)
}

/// A pattern that matches this path, which begins at the root, and nothing else.
pub fn exactly(path: &Path) -> Option<Pattern> {
    let mut text = String::new();
    for character in path.to_str()?.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '!') {
            text.push('\\');
        }
        text.push(character);
    }
    Some(Pattern::new(text))
}

/// The lines of a file that say something: neither empty nor a remark after `#`, blanks around them cut.
fn read_lines(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let text = read(file)?;
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(<[u8]>::to_vec)
        .collect())
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let fail = |error| Failure::file(file.as_os_str().as_bytes(), &error);
    if file == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text).map_err(fail)?;
        return Ok(text);
    }
    std::fs::read(file).map_err(fail)
}

/// Paths from a list of patterns, one a line: each stands for what it matches now.
pub fn paths_from(file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for line in read_lines(file)? {
        let found = expand(&line)?;
        if found.is_empty() {
            return Err(Failure::failed(format!(
                "{}: nothing matches {}",
                printable(file.as_os_str().as_bytes()),
                printable(&line)
            )));
        }
        paths.extend(found);
    }
    Ok(paths)
}

/// Paths from a list, each as it stands, ended by `end`.
pub fn paths_from_verbatim(file: &Path, end: u8) -> Result<Vec<PathBuf>, Failure> {
    let text = read(file)?;
    let parts = text.split(|byte| *byte == end).filter(|part| !part.is_empty());
    Ok(parts.map(|part| PathBuf::from(OsString::from_vec(part.to_vec()))).collect())
}

/// What a pattern matches, sorted; a path without special characters stands for itself, there or not.
fn expand(line: &[u8]) -> Result<Vec<PathBuf>, Failure> {
    let is_special = |part: &[u8]| part.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
    if !is_special(line) {
        return Ok(vec![PathBuf::from(OsStr::from_bytes(line))]);
    }
    let start = if line.starts_with(b"/") { "/" } else { "" };
    let mut found = vec![PathBuf::from(start)];
    for part in line.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        if is_special(part) {
            let text = String::from_utf8_lossy(part);
            let glob = GlobBuilder::new(&text)
                .literal_separator(true)
                .build()
                .map_err(|error| Failure::usage(format!("pattern {text:?}: {}", error.kind())))?
                .compile_matcher();
            for folder in &found {
                let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                let Ok(entries) = std::fs::read_dir(here) else { continue };
                for name in entries.flatten().map(|entry| entry.file_name()) {
                    // As in a shell, a name that begins with a dot has to be asked for.
                    let is_hidden = name.as_bytes().starts_with(b".") && !part.starts_with(b".");
                    if !is_hidden && glob.is_match(Path::new(&name)) {
                        next.push(folder.join(&name));
                    }
                }
            }
        } else {
            let name = OsStr::from_bytes(part);
            next.extend(found.iter().map(|folder| folder.join(name)));
            next.retain(|path| path.symlink_metadata().is_ok());
        }
        found = next;
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aumbry::tree::filter::ExcludeFilter;

    #[test]
    fn an_exact_pattern_matches_its_path_only() {
        let path = "/home/a[b]/*?/c{d}!";
        let filter = ExcludeFilter::new(&[exactly(Path::new(path)).unwrap()]).unwrap();
        assert!(filter.excludes(path.as_bytes(), true));
        assert!(!filter.excludes(b"/home/ab/xy/c{d}!", true));
    }

    #[test]
    fn a_pattern_stands_for_what_it_matches() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one.txt", "two.txt", ".hidden.txt", "three.md"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let line = format!("{}/*.txt", folder.path().display());
        let names: Vec<_> = expand(line.as_bytes())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_os_string())
            .collect();
        assert_eq!(names, ["one.txt", "two.txt"]);
        assert_eq!(expand(b"not there").unwrap(), [PathBuf::from("not there")]);
    }

    #[test]
    fn lists_are_read_as_they_say() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list");
        std::fs::write(&file, "# remark\n\n  a b  \n").unwrap();
        assert_eq!(read_lines(&file).unwrap(), [b"a b"]);
        assert_eq!(paths_from_verbatim(&file, b'\n').unwrap().len(), 2);
    }
}
