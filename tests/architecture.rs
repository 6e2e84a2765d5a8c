//! Holds the sources to the map in `docs/architecture.md`. The checker is a function of texts, so that
//! the tests at the end can show it broken houses.

#[path = "architecture/tokens.rs"]
mod tokens;

use std::fmt;
use std::fs;
use std::path::Path;

use tokens::Token;
use tokens::mark_depth;
use tokens::mark_tests;
use tokens::tokenize;

/// Crates that only the binary may use, as Cargo.toml says.
const BINARY_CRATES: [&str; 9] = [
    "clap",
    "clap_complete",
    "ctrlc",
    "indicatif",
    "libc",
    "rpassword",
    "serde",
    "serde_json",
    "tar",
];

/// Rooms that neither do I/O nor ask for the time, and what they therefore never name.
const PURE_ROOMS: [&str; 3] = ["codec", "tree", "format"];
const IMPURE_PATHS: [&[&str]; 6] = [
    &["std", "fs"],
    &["std", "net"],
    &["rustix"],
    &["opendal"],
    &["std", "time", "SystemTime"],
    &["std", "time", "Instant"],
];

const PRINTING_MACROS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];
const PANICKING_MACROS: [&str; 3] = ["panic", "todo", "unimplemented"];

/// What the rules forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Map,
    Order,
    UnmappedRoom,
    EmptyRoom,
    Arrow,
    TestArrow,
    TestModule,
    Glob,
    BinaryCrate,
    Printing,
    Environment,
    Exit,
    Panic,
    Impure,
}

/// A place where a rule is broken.
struct Violation {
    rule: Rule,
    place: String,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({:?})", self.place, self.message, self.rule)
    }
}

/// One row of the map.
struct Room {
    name: String,
    uses: Vec<String>,
}

/// Every violation of the map and of the house's rules. `sources` are the library's files: paths from
/// the package's root (`src/id.rs`) and texts.
fn check(map: &str, sources: &[(String, String)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut report = |rule, place: &str, message: String| {
        violations.push(Violation { rule, place: place.to_string(), message });
    };

    let rooms = parse_map(map);
    if rooms.is_empty() {
        report(Rule::Map, "map", "no table `| room | uses | what lives here |`".to_string());
    }
    for (index, room) in rooms.iter().enumerate() {
        for used in &room.uses {
            if !rooms[..index].iter().any(|below| below.name == *used) {
                report(Rule::Order, "map", format!("{} uses {used}, not above it", room.name));
            }
        }
    }

    let files: Vec<SourceFile> =
        sources.iter().map(|(path, text)| SourceFile::parse(path, text)).collect();
    for room in &rooms {
        let declared = files.iter().any(|file| {
            file.room.is_none() && file.declared_modules().any(|(name, _)| name == room.name)
        });
        let has_code = files
            .iter()
            .any(|file| file.room.as_deref() == Some(&room.name) && !file.tokens.is_empty());
        if !declared || !has_code {
            report(Rule::EmptyRoom, "map", format!("{} has no code", room.name));
        }
    }

    for file in &files {
        let row = rooms.iter().position(|room| file.room.as_deref() == Some(&room.name));
        match &file.room {
            Some(room) if row.is_none() => {
                report(Rule::UnmappedRoom, &file.path, format!("the map lacks the room {room}"));
            }
            Some(_) => {}
            None => {
                for (name, place) in file.declared_modules() {
                    if !rooms.iter().any(|room| room.name == name) {
                        report(Rule::UnmappedRoom, &place, format!("the map lacks {name}"));
                    }
                }
            }
        }
        file.check_paths(&rooms, row, &mut report);
        file.check_words(&mut report);
    }
    violations
}

/// The rows of the table whose head is `| room | uses | … |`, in order.
fn parse_map(map: &str) -> Vec<Room> {
    map.lines()
        .map(|line| line.trim().trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .skip_while(|cells| !cells.starts_with(&["room", "uses"]))
        .skip(2)
        .take_while(|cells| cells.len() >= 3)
        .map(|cells| Room {
            name: cells[0].trim_matches('`').to_string(),
            uses: cells[1]
                .split(',')
                .map(|used| used.trim().trim_matches('`').to_string())
                .filter(|used| used != "-")
                .collect(),
        })
        .collect()
}

struct SourceFile {
    path: String,
    /// `None` for `src/lib.rs`.
    room: Option<String>,
    tokens: Vec<Token>,
}

/// A path in the code or one branch of a `use` tree: `crate::id::BlobId`, `std::fmt`, `super::*`.
struct CodePath<'a> {
    segments: Vec<&'a str>,
    first: &'a Token,
    in_use: bool,
}

impl CodePath<'_> {
    fn starts_with(&self, prefix: &[&str]) -> bool {
        self.segments.starts_with(prefix)
    }

    fn ends_with_pair(&self, pair: [&str; 2]) -> bool {
        self.segments.windows(2).any(|window| window == pair)
    }
}

impl SourceFile {
    fn parse(path: &str, text: &str) -> SourceFile {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut modules: Vec<&str> = inner.split('/').collect();
        if modules.last() == Some(&"mod") {
            modules.pop();
        }
        let is_root = modules == ["lib"];
        let is_test = modules.iter().any(|module| is_test_module(module));
        let mut tokens = tokenize(text);
        let file_depth = if is_root { 0 } else { modules.len() };
        mark_depth(&mut tokens, file_depth);
        mark_tests(&mut tokens, is_test);
        let room = (!is_root).then(|| modules[0].to_string());
        SourceFile { path: path.to_string(), room, tokens }
    }

    fn place(&self, token: &Token) -> String {
        format!("{}:{}", self.path, token.line)
    }

    fn text(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |token| &token.text)
    }

    /// Names and places of the modules that are declared outside test code.
    fn declared_modules(&self) -> impl Iterator<Item = (&str, String)> {
        self.tokens
            .windows(2)
            .filter(|pair| pair[0].text == "mod" && !pair[0].in_test && is_word(&pair[1].text))
            .map(|pair| (pair[1].text.as_str(), self.place(&pair[1])))
    }

    fn check_paths(
        &self,
        rooms: &[Room],
        row: Option<usize>,
        report: &mut impl FnMut(Rule, &str, String),
    ) {
        for path in self.paths() {
            let place = self.place(path.first);
            let name = path.segments.join("::");
            if let (Some(row), Some(used)) = (row, self.used_room(&path)) {
                let room = &rooms[row];
                let allowed = room.name == used || room.uses.iter().any(|uses| uses == used);
                let below = rooms[..row].iter().any(|room| room.name == used);
                if path.first.in_test && !allowed && !below {
                    let message = format!("a test of {} uses {used}, not below it", room.name);
                    report(Rule::TestArrow, &place, message);
                } else if !path.first.in_test && !allowed {
                    let message = format!("the map has no arrow from {} to {used}", room.name);
                    report(Rule::Arrow, &place, message);
                }
            }
            if path.first.in_test {
                continue;
            }
            if path.in_use && path.segments.last() == Some(&"*") {
                report(Rule::Glob, &place, format!("{name} hides what it imports"));
            }
            if BINARY_CRATES.contains(&path.segments[0]) && (path.in_use || path.segments.len() > 1)
            {
                report(Rule::BinaryCrate, &place, format!("{name} belongs to the binary"));
            }
            if path.starts_with(&["std", "env"]) {
                report(Rule::Environment, &place, format!("{name} reads the environment"));
            }
            if ["exit", "abort"].iter().any(|end| path.ends_with_pair(["process", end])) {
                report(Rule::Exit, &place, format!("{name} ends the process"));
            }
            if PURE_ROOMS.iter().any(|pure| self.room.as_deref() == Some(pure))
                && IMPURE_PATHS.iter().any(|impure| path.starts_with(impure))
            {
                report(Rule::Impure, &place, format!("{name} in a room that does no I/O"));
            }
        }
    }

    fn check_words(&self, report: &mut impl FnMut(Rule, &str, String)) {
        for (index, token) in self.tokens.iter().enumerate() {
            if token.in_test {
                continue;
            }
            let word = token.text.as_str();
            let is_macro = self.text(index + 1) == "!" && self.text(index + 2) != "=";
            let place = self.place(token);
            if is_macro && PRINTING_MACROS.contains(&word) {
                report(Rule::Printing, &place, format!("{word}! prints"));
            }
            if is_macro && PANICKING_MACROS.contains(&word) {
                report(Rule::Panic, &place, format!("{word}! outside tests"));
            }
            let is_call = index > 0 && self.text(index - 1) == "." && self.text(index + 1) == "(";
            if word == "unwrap" && is_call {
                report(Rule::Panic, &place, "unwrap() outside tests".to_string());
            }
            // Files of tests are told by their name; a name alone must not set code free.
            if word == "mod" && is_test_module(self.text(index + 1)) {
                report(Rule::TestModule, &place, "a test module without #[cfg(test)]".to_string());
            }
        }
    }

    /// The room that a path leads to from the crate's root, if it does: by `crate`, or by so many
    /// `super` that they leave the room.
    fn used_room<'a>(&self, path: &CodePath<'a>) -> Option<&'a str> {
        let ups = path.segments.iter().take_while(|segment| **segment == "super").count();
        let from_root = path.segments[0] == "crate" || (ups > 0 && ups >= path.first.depth);
        let next = path.segments.get(ups.max(1)).copied();
        next.filter(|next| from_root && *next != "*" && *next != "self")
    }

    /// Every path: of `use` trees each branch, elsewhere as far as it is words joined by `::`.
    fn paths(&self) -> Vec<CodePath<'_>> {
        let mut paths = Vec::new();
        let mut index = 0;
        while index < self.tokens.len() {
            let in_use = self.text(index) == "use";
            if in_use {
                index += 1;
            }
            let begins = is_word(self.text(index)) || self.text(index) == "::";
            // A type's associated path (`<T as Trait>::Item`) goes on after a bracket: no new path.
            let continues = index > 0 && self.text(index - 1) == ">" && self.text(index) == "::";
            if begins && !continues || in_use {
                index = self.collect_paths(index, &[], in_use, &mut paths);
            }
            index += 1;
        }
        paths
    }

    /// Collects the path or `use` tree that begins at `index`, below `prefix`; returns its last token.
    fn collect_paths<'a>(
        &'a self,
        mut index: usize,
        prefix: &[&'a str],
        in_use: bool,
        paths: &mut Vec<CodePath<'a>>,
    ) -> usize {
        let first = index;
        let mut segments = prefix.to_vec();
        if self.text(index) == "::" {
            index += 1;
        }
        loop {
            match self.text(index) {
                "{" if in_use => {
                    index += 1;
                    while !matches!(self.text(index), "}" | "") {
                        index = match self.text(index) {
                            "," => index + 1,
                            _ => self.collect_paths(index, &segments, true, paths) + 1,
                        };
                    }
                    return index;
                }
                word if is_word(word) || (word == "*" && in_use) => segments.push(word),
                _ => break,
            }
            if self.text(index + 1) != "::" {
                break;
            }
            index += 2;
        }
        // `as name` gives another name to what was said already.
        if in_use && self.text(index + 1) == "as" {
            index += 2;
        }
        if let (Some(token), false) = (self.tokens.get(first), segments.is_empty()) {
            paths.push(CodePath { segments, first: token, in_use });
        }
        index
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|character: char| character.is_alphabetic() || character == '_')
}

fn is_test_module(name: &str) -> bool {
    name == "tests" || name.ends_with("_tests")
}

/// The library's files: everything under `src` but the binaries.
fn read_sources(root: &Path, folder: &str, sources: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(root.join(folder)).expect("the package has its sources");
    for entry in entries {
        let entry = entry.expect("a source folder can be listed");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            if path != "src/bin" {
                read_sources(root, &path, sources);
            }
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).expect("a source file is text");
            sources.push((path, text));
        }
    }
}

#[test]
fn the_house_is_as_the_map_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("docs/architecture.md")).expect("the map is there");
    let mut sources = Vec::new();
    read_sources(root, "src", &mut sources);
    assert!(sources.len() > 10, "only {} files were found", sources.len());
    let violations: Vec<String> = check(&map, &sources).iter().map(Violation::to_string).collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

mod the_checker {
    use super::Rule;
    use super::check;

    const MAP: &str = "\
# A map

| room | uses | what lives here |
|---|---|---|
| units | - | words |
| id | - | names |
| codec | id, `units` | bytes |
| ops | codec | verbs |

Text | with a | bar
";

    /// A house with everything that is allowed and looks as if it were not.
    fn healthy() -> Vec<(&'static str, &'static str)> {
        vec![
            ("src/lib.rs", "//! Words.\npub mod codec;\npub mod id;\nmod ops;\npub mod units;\n"),
            ("src/units.rs", "//! Words.\npub struct Size(u64);\n"),
            (
                "src/id.rs",
                r##"
//! Names: `crate::ops::Verb` and [`crate::ops`] are only talked about.
use std::process::Command;
/* println!("no"); /* crate::ops::run() */ panic!() */
pub struct Id; // .unwrap()
const TEXT: &str = "crate::ops \" panic!(\"\") use std::env;";
const RAW: &str = r#"crate::ops "println!" "#;
const QUOTE: (char, u8, char) = ('"', b'"', '\'');
fn a<'a>(text: &'a str) -> Option<&'a str> { text.get(1..).map(|panic| panic) }
fn b() { a("").unwrap_or_default(); let version = env!("CARGO_PKG_VERSION"); }
fn c(print: bool, dbg: bool) -> bool { print != dbg }
mod inner { use super::Id; fn d() -> super::Id { Id } }
#[cfg(test)]
use crate::units::{Size, self};
#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;
    fn prints() { println!("{}", std::env::var("A").unwrap()); panic!(); }
}
"##,
            ),
            (
                "src/codec/mod.rs",
                "use crate::{id::Id, units::Size as Bytes};\npub mod seal;\n\
                 #[cfg(all(test, unix))]\n#[path = \"seal_tests.rs\"]\nmod seal_tests;\n",
            ),
            ("src/codec/seal.rs", "use super::super::id::Id;\nuse crate::codec;\nfn tar() {}\n"),
            ("src/codec/seal_tests.rs", "use super::*;\nuse crate::units::*;\nuse std::fs;\n"),
            ("src/ops/mod.rs", "//! Verbs.\npub fn run() -> crate::codec::Sealed { f() }\n"),
        ]
    }

    fn rules_broken_in(map: &str, house: &[(&str, &str)]) -> Vec<Rule> {
        let sources: Vec<_> =
            house.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        check(map, &sources).into_iter().map(|violation| violation.rule).collect()
    }

    /// The healthy house with one more line of code at the end of a file.
    fn house_with(path: &str, line: &str) -> Vec<Rule> {
        let line = format!("\n{line}\n");
        let mut sources: Vec<(String, String)> = healthy()
            .into_iter()
            .map(|(path, text)| (path.to_string(), text.to_string()))
            .collect();
        match sources.iter_mut().find(|(at, _)| at == path) {
            Some((_, text)) => text.push_str(&line),
            None => sources.push((path.to_string(), line)),
        }
        check(MAP, &sources).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn finds_nothing_in_a_healthy_house() {
        assert_eq!(rules_broken_in(MAP, &healthy()), []);
    }

    #[test]
    fn finds_an_arrow_that_the_map_lacks_wherever_it_stands() {
        for line in [
            "use crate::id::Id;",
            "use crate :: id;",
            "pub(crate) use crate::{codec::seal, id as names};",
            "fn f() { g(crate::id::Id) }",
            "impl From<crate::id::Id> for X {}",
            "use super::id::Id;",
            "mod inner { fn f() { super::super::id::f() } }",
            "#[derive(Clone)] struct A(Vec<crate::id::Id>);",
            "fn f() -> &'static str { let x = 'a'; crate::id::f(\"\") }",
            "macro_rules! m { () => { $crate::id::f() } }",
            "#[cfg(test)] fn f() {} use crate::id;",
            "struct S { #[cfg(test)] a: u8, b: crate::id::Id }",
        ] {
            assert_eq!(house_with("src/ops/mod.rs", line), [Rule::Arrow], "{line}");
        }
        let nested = "use super::super::super::id::Id;";
        assert_eq!(house_with("src/ops/verb/part.rs", nested), [Rule::Arrow]);
    }

    #[test]
    fn lets_tests_use_every_room_below_theirs_and_none_above() {
        let test = "#[cfg(test)] mod more { use crate::id::Id; }";
        assert_eq!(house_with("src/ops/mod.rs", test), []);
        let test = "#[cfg(test)] mod more { use crate::ops::run; }";
        assert_eq!(house_with("src/codec/mod.rs", test), [Rule::TestArrow]);
    }

    #[test]
    fn finds_a_room_that_the_map_lacks() {
        assert_eq!(house_with("src/lib.rs", "pub mod mount;"), [Rule::UnmappedRoom]);
        assert_eq!(house_with("src/mount.rs", "fn f() {}"), [Rule::UnmappedRoom]);
        assert_eq!(house_with("src/mount/mod.rs", "fn f() {}"), [Rule::UnmappedRoom]);
    }

    #[test]
    fn finds_a_room_of_the_map_that_has_no_code() {
        let map = MAP.replace("\nText", "| mount | - | a file system |\n\nText");
        let map = map.replace("|\n\n| mount", "|\n| mount");
        assert_eq!(rules_broken_in(&map, &healthy()), [Rule::EmptyRoom]);
        let mut house = healthy();
        house[1].1 = "//! Only words about words.\n";
        assert_eq!(rules_broken_in(MAP, &house), [Rule::EmptyRoom]);
        house.remove(1);
        assert_eq!(rules_broken_in(MAP, &house), [Rule::EmptyRoom]);
    }

    #[test]
    fn finds_a_room_that_stands_above_one_it_uses() {
        let map = MAP.replace("| units | - |", "| units | id |");
        assert_eq!(rules_broken_in(&map, &healthy()), [Rule::Order]);
        let map = MAP.replace("| units | - |", "| units | cellar |");
        assert_eq!(rules_broken_in(&map, &healthy()), [Rule::Order]);
    }

    #[test]
    fn finds_that_there_is_no_map() {
        assert!(rules_broken_in("# Nothing", &healthy()).contains(&Rule::Map));
    }

    #[test]
    fn finds_globs_outside_tests() {
        for line in ["use std::fmt::*;", "use super::*;", "use std::{fmt, io::{self, prelude::*}};"]
        {
            assert_eq!(house_with("src/codec/seal.rs", line), [Rule::Glob], "{line}");
        }
    }

    #[test]
    fn finds_the_binarys_crates() {
        for line in [
            "use serde::Serialize;",
            "use serde_json;",
            "use ::clap::Parser;",
            "fn f() { tar::Builder::new() }",
            "use {indicatif::ProgressBar, std::fmt};",
            "fn f() -> ::rpassword::Answer { g() }",
        ] {
            assert_eq!(house_with("src/units.rs", line), [Rule::BinaryCrate], "{line}");
        }
    }

    #[test]
    fn finds_code_that_prints() {
        for line in ["println!()", "eprintln!(\"\")", "print ! (1)", "eprint!()", "dbg!(x)"] {
            let line = format!("fn f() {{ {line} }}");
            assert_eq!(house_with("src/units.rs", &line), [Rule::Printing], "{line}");
        }
    }

    #[test]
    fn finds_code_that_reads_the_environment() {
        for line in ["use std::env;", "use std::{env::var, fmt};", "fn f() { std::env::vars() }"] {
            assert_eq!(house_with("src/units.rs", line), [Rule::Environment], "{line}");
        }
    }

    #[test]
    fn finds_code_that_ends_the_process() {
        for line in
            ["use std::process::exit;", "fn f() { process::exit(1) }", "use std::process::{abort};"]
        {
            assert_eq!(house_with("src/units.rs", line), [Rule::Exit], "{line}");
        }
    }

    #[test]
    fn finds_code_that_panics_on_purpose() {
        for line in ["x.unwrap()", "x\n.unwrap ()", "panic!(\"\")", "todo!()", "unimplemented!()"] {
            let line = format!("fn f() {{ {line} }}");
            assert_eq!(house_with("src/units.rs", &line), [Rule::Panic], "{line}");
        }
    }

    #[test]
    fn finds_input_and_output_in_pure_rooms_only() {
        for line in [
            "use std::fs::File;",
            "use std::{net, fmt};",
            "fn f() { rustix::fs::stat(x) }",
            "use opendal::Operator;",
            "use std::time::{Duration, SystemTime};",
            "fn f() { ::std::time::Instant::now() }",
        ] {
            assert_eq!(house_with("src/codec/seal.rs", line), [Rule::Impure], "{line}");
            assert_eq!(house_with("src/units.rs", line), [], "{line}");
        }
        assert_eq!(house_with("src/codec/seal.rs", "use std::time::Duration;"), []);
    }

    #[test]
    fn finds_code_that_hides_behind_the_name_of_a_test() {
        assert_eq!(house_with("src/units.rs", "mod tests { }"), [Rule::TestModule]);
        assert_eq!(house_with("src/units.rs", "mod seal_tests;"), [Rule::TestModule]);
    }
}
