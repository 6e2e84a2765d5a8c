//! What a command says: lines, tables or JSON on standard output, remarks on standard error.

use std::cell::RefCell;
use std::io;
use std::io::BufWriter;
use std::io::IsTerminal;
use std::io::Stdout;
use std::io::Write;

use aumbry::tree::path::Printable;
use serde::Serialize;
use serde_json::Value;

use crate::cli::GlobalArgs;

/// Where a command's words go. Nothing here panics when nobody reads any more: writing fails, and the
/// command ends quietly.
pub struct Output {
    stdout: RefCell<BufWriter<Stdout>>,
    is_json: bool,
    is_quiet: bool,
    verbosity: u8,
    style: Style,
    error_style: Style,
    error_terminal: bool,
}

impl Output {
    /// As the global flags want it.
    pub fn new(global: &GlobalArgs) -> Self {
        let may_color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let error_terminal = io::stderr().is_terminal();
        Output {
            stdout: RefCell::new(BufWriter::new(io::stdout())),
            is_json: global.json,
            is_quiet: global.quiet,
            verbosity: global.verbose,
            style: Style(may_color && io::stdout().is_terminal()),
            error_style: Style(may_color && error_terminal),
            error_terminal,
        }
    }

    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Whether only what was asked for is wanted.
    pub fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// How many times `-v` was given.
    pub fn verbosity(&self) -> u8 {
        self.verbosity
    }

    /// Whether a person looks at standard error.
    pub fn error_terminal(&self) -> bool {
        self.error_terminal
    }

    /// Colours for standard output.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Colours for standard error.
    pub fn error_style(&self) -> Style {
        self.error_style
    }

    /// A line of what was asked for.
    pub fn line(&self, text: &str) -> io::Result<()> {
        let mut stdout = self.stdout.borrow_mut();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")
    }

    /// A line that tells how it went; not with `--quiet`.
    pub fn say(&self, text: &str) -> io::Result<()> {
        if self.is_quiet { Ok(()) } else { self.line(text) }
    }

    /// A value as one line of JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), serde_json::Error> {
        let mut stdout = self.stdout.borrow_mut();
        serde_json::to_writer(&mut *stdout, value)?;
        stdout.write_all(b"\n").map_err(serde_json::Error::io)
    }

    /// Raw bytes.
    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.borrow_mut().write_all(bytes)
    }

    /// Standard output as a stream for a verb to write to.
    pub fn stream(&self) -> std::cell::RefMut<'_, BufWriter<Stdout>> {
        self.stdout.borrow_mut()
    }

    /// A remark for a person, on standard error; not with `--quiet` and not when a program reads.
    pub fn remark(&self, text: &str) {
        if !self.is_quiet && !self.is_json {
            self.error_line(text);
        }
    }

    /// A line on standard error, come what may.
    pub fn error_line(&self, text: &str) {
        // Nobody reading standard error is no reason to stop.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Everything is on its way.
    pub fn finish(&self) -> io::Result<()> {
        self.stdout.borrow_mut().flush()
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Style(bool);

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// What heads a table or names a result.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What went wrong.
    pub fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// What went well.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What somebody should look at.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a header, in columns as wide as they must be.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    /// As wide as what was written so far.
    widths: Vec<usize>,
    has_titles: bool,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        let widths = columns.iter().map(|(title, _)| title.chars().count()).collect();
        Table { columns: columns.to_vec(), rows: Vec::new(), widths, has_titles: false }
    }

    /// How many rows wait to be written.
    pub fn height(&self) -> usize {
        self.rows.len()
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes it. A cell of several lines makes its row as high.
    pub fn write(mut self, output: &Output) -> io::Result<()> {
        self.write_page(output)
    }

    /// Writes the rows that there are, and forgets them: of a long table a part at a time, where a later one may be wider. The
    /// first has the titles above it.
    pub fn write_page(&mut self, output: &Output) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let mut widths = std::mem::take(&mut self.widths);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                let widest = cell.lines().map(|line| line.chars().count()).max();
                *width = (*width).max(widest.unwrap_or(0));
            }
        }
        if !self.has_titles {
            let titles: Vec<_> = self.columns.iter().map(|(title, _)| *title).collect();
            output.line(&output.style().bold(&self.compose(&titles, &widths)))?;
            self.has_titles = true;
        }
        for row in &rows {
            let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(1);
            for line in 0..height.max(1) {
                let cells: Vec<_> =
                    row.iter().map(|cell| cell.lines().nth(line).unwrap_or("")).collect();
                output.line(&self.compose(&cells, &widths))?;
            }
        }
        self.widths = widths;
        Ok(())
    }

    fn compose(&self, cells: &[&str], widths: &[usize]) -> String {
        let mut text = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            if !text.is_empty() || *width == 0 {
                text.push_str("  ");
            }
            match align {
                Align::Left => text.push_str(&format!("{cell:<width$}")),
                Align::Right => text.push_str(&format!("{cell:>width$}")),
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// A number of things: `1 file`, `12,345 files`.
pub fn count(number: u64, thing: &str) -> String {
    let number_text = grouped(number);
    if number == 1 {
        return format!("{number_text} {thing}");
    }
    match thing.strip_suffix('y') {
        Some(stem) => format!("{number_text} {stem}ies"),
        None => format!("{number_text} {thing}s"),
    }
}

/// A number with its thousands apart: `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A name or path for a terminal.
pub fn printable(bytes: &[u8]) -> String {
    Printable(bytes).to_string()
}

/// Puts bytes that are nearly always text under `key`: what is not UTF-8 is replaced there and stands
/// under `key` with `_b64`, too, as it is.
pub fn put_bytes(object: &mut serde_json::Map<String, Value>, key: &str, bytes: &[u8]) {
    object.insert(key.to_string(), Value::from(String::from_utf8_lossy(bytes)));
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{key}_b64"), Value::from(base64(bytes)));
    }
}

/// Base64 as RFC 4648 section 4 has it, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes(word);
        for index in 0..4 {
            if index <= group.len() {
                let sextet = word >> (18 - 6 * index) & 0x3f;
                text.push(char::from(ALPHABET[sextet as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_the_examples_of_its_standard() {
        let examples = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let wanted = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(examples.map(|text| base64(text.as_bytes())), wanted);
    }

    #[test]
    fn numbers_are_told_with_their_things() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(1_234_567, "directory"), "1,234,567 directories");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(grouped(100), "100");
    }

    #[test]
    fn what_is_no_text_is_told_twice() {
        let mut object = serde_json::Map::new();
        put_bytes(&mut object, "path", b"/a\xff");
        put_bytes(&mut object, "name", b"plain");
        assert_eq!(object["path"], "/a\u{fffd}");
        assert_eq!(object["path_b64"], "L2H/");
        assert!(!object.contains_key("name_b64"));
    }
}
