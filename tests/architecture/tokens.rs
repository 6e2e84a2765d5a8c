//! Source text as tokens that know their line, their module's depth and whether they are test code.

/// A word, a `::` or a single other character of code, comments and literals left out.
pub struct Token {
    pub text: String,
    pub line: usize,
    /// Whether it stands under `#[cfg(test)]` or in a file of tests.
    pub in_test: bool,
    /// How many modules it stands in, below the crate's root.
    pub depth: usize,
}

/// Cuts a text into tokens, leaving out comments, texts, characters, lifetimes and numbers.
pub fn tokenize(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let is_word_part = |character: char| character.is_alphanumeric() || character == '_';
    let mut tokens = Vec::new();
    let (mut index, mut line) = (0, 1);
    while index < characters.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < characters.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => index = end_of_block_comment(&characters, index),
            '"' => index = end_of_text(&characters, index, None),
            'r' | 'b' | 'c' if raw_hashes(&characters, index).is_some() => {
                let (quote, hashes) = raw_hashes(&characters, index).unwrap_or((index, None));
                index = end_of_text(&characters, quote, hashes);
            }
            // 'a' is a character, 'a a lifetime; what follows a backslash is always a character.
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                while index < characters.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            '\'' => {
                index += 1;
                while is_word_part(at(index)) {
                    index += 1;
                }
            }
            ':' if at(index + 1) == ':' => index += 2,
            character if is_word_part(character) => {
                while is_word_part(at(index)) {
                    index += 1;
                }
            }
            _ => index += 1,
        }
        let end = index.min(characters.len());
        let piece: String = characters[start..end].iter().collect();
        let is_literal = piece.starts_with('/') && piece.len() > 1
            || piece.contains(['"', '\''])
            || piece.starts_with(|character: char| character.is_ascii_digit());
        if !is_literal && !piece.trim().is_empty() {
            tokens.push(Token { text: piece.clone(), line, in_test: false, depth: 0 });
        }
        line += piece.matches('\n').count();
    }
    tokens
}

/// Where the quote of `r"`, `br##"`, `b"`, `c"` … at `index` is, and how many hashes stand before it when
/// it is raw. `None` when this is a word like any other (or a raw name, `r#type`).
fn raw_hashes(characters: &[char], index: usize) -> Option<(usize, Option<usize>)> {
    let letters =
        characters[index..].iter().take_while(|letter| "rbc".contains(**letter)).count().min(2);
    let is_raw = characters[index..index + letters].contains(&'r');
    let hashes = characters[index + letters..].iter().take_while(|mark| **mark == '#').count();
    let quote = index + letters + hashes;
    let is_text = characters.get(quote) == Some(&'"') && (is_raw || hashes == 0);
    is_text.then_some((quote, is_raw.then_some(hashes)))
}

/// The index after the text whose quote is at `quote`; raw texts know no escapes and end in hashes.
fn end_of_text(characters: &[char], quote: usize, raw_hashes: Option<usize>) -> usize {
    let mut index = quote + 1;
    while index < characters.len() {
        match (characters[index], raw_hashes) {
            ('\\', None) => index += 1,
            ('"', None) => return index + 1,
            ('"', Some(hashes)) => {
                let after = &characters[index + 1..];
                if after.iter().take(hashes).filter(|mark| **mark == '#').count() == hashes {
                    return index + 1 + hashes;
                }
            }
            _ => {}
        }
        index += 1;
    }
    index
}

fn end_of_block_comment(characters: &[char], start: usize) -> usize {
    let (mut index, mut depth) = (start + 2, 1);
    while index < characters.len() && depth > 0 {
        match characters[index..] {
            ['*', '/', ..] => (index, depth) = (index + 2, depth - 1),
            ['/', '*', ..] => (index, depth) = (index + 2, depth + 1),
            _ => index += 1,
        }
    }
    index
}

/// Writes into every token how many modules enclose it: those of its file, and those with braces.
pub fn mark_depth(tokens: &mut [Token], file_depth: usize) {
    let mut is_module = Vec::new();
    for index in 0..tokens.len() {
        match tokens[index].text.as_str() {
            "{" => is_module.push(index >= 2 && tokens[index - 2].text == "mod"),
            "}" => {
                is_module.pop();
            }
            _ => {}
        }
        tokens[index].depth = file_depth + is_module.iter().filter(|module| **module).count();
    }
}

/// Marks what is compiled for tests only: a whole file of tests, or the items after `#[cfg(test)]`.
pub fn mark_tests(tokens: &mut [Token], is_test_file: bool) {
    let texts: Vec<String> = tokens.iter().map(|token| token.text.clone()).collect();
    let is_test_at = |index: usize, opening: &[&str]| {
        let condition = &texts[(index + opening.len()).min(texts.len())..];
        texts[index..].iter().zip(opening).filter(|(text, mark)| text == mark).count()
            == opening.len()
            && ([&["(", "test", ")"][..], &["(", "all", "(", "test", ","][..]].iter()).any(|test| {
                condition.iter().zip(*test).filter(|(a, b)| a == b).count() == test.len()
            })
    };
    if is_test_file || is_test_at(0, &["#", "!", "[", "cfg"]) {
        tokens.iter_mut().for_each(|token| token.in_test = true);
        return;
    }
    for index in 0..texts.len() {
        if is_test_at(index, &["#", "[", "cfg"]) {
            let end = end_of_item(&texts, index);
            tokens[index..end].iter_mut().for_each(|token| token.in_test = true);
        }
    }
}

/// The index after the item that begins at `start` with its attributes: after its `;` or its braces.
/// What is no item (a field, an arm) is not followed: it stays code like any other.
fn end_of_item(texts: &[String], start: usize) -> usize {
    const ITEMS: [&str; 15] = [
        "mod",
        "fn",
        "struct",
        "enum",
        "impl",
        "trait",
        "use",
        "const",
        "static",
        "type",
        "pub",
        "unsafe",
        "async",
        "let",
        "macro_rules",
    ];
    let text = |index: usize| texts.get(index).map_or("", String::as_str);
    let mut index = start;
    while text(index) == "#" {
        index = end_of_group(texts, index + 1);
    }
    if !ITEMS.contains(&text(index)) {
        return index;
    }
    let is_use = (index..index + 6).take_while(|at| text(*at) != ";").any(|at| text(at) == "use");
    while index < texts.len() {
        match text(index) {
            ";" => return index + 1,
            "{" if !is_use => return end_of_group(texts, index),
            "(" | "[" | "{" => index = end_of_group(texts, index),
            _ => index += 1,
        }
    }
    index
}

/// The index after the bracket that closes the one at `start`.
fn end_of_group(texts: &[String], start: usize) -> usize {
    let mut depth = 0;
    for (index, text) in texts.iter().enumerate().skip(start) {
        match text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    texts.len()
}
