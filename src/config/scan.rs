//! Where things stand in a RON text. `ron` itself gives values without their places, so this small scanner of the token stream
//! builds a tree of byte ranges, in which `locate` finds its way.
//!
//! It runs beside the real parser and judges nothing. A text that is no RON yields a tree as far as it makes sense.

use std::ops::Range;

/// Deeper nesting is not followed; `ron` refuses more than 128 levels anyway.
const DEPTH_MAX: usize = 128;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Bytes of the text, without surrounding space.
    pub(super) range: Range<usize>,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number, string, word.
    Leaf,
    /// `(a: 1, b: 2)`, perhaps after a name.
    Struct(Vec<Field>),
    /// `(1, 2)`, perhaps after a name, as in `Some(1)`.
    Tuple(Vec<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) name_range: Range<usize>,
    pub(super) value: Node,
}

/// The tree of the first value in `text[within]`; ranges count from the start of `text`.
pub(super) fn scan(text: &str, within: Range<usize>) -> Node {
    let mut scanner = Scanner { text: text.get(..within.end).unwrap_or(text), at: within.start };
    scanner.attributes();
    scanner.value(0)
}

/// The place after a comma that follows `at`, or `at`.
pub(super) fn after_comma(text: &str, at: usize) -> usize {
    let mut scanner = Scanner { text, at };
    scanner.space();
    if scanner.eat(',') { scanner.at } else { at }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.at += wanted.len_utf8();
        }
        there
    }

    fn skip_while(&mut self, belongs: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !belongs(c)).unwrap_or(rest.len());
    }

    /// White space and comments.
    fn space(&mut self) {
        loop {
            self.skip_while(|c| c.is_whitespace() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{feff}'));
            if self.rest().starts_with("//") {
                self.skip_while(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                self.block_comment();
            } else {
                return;
            }
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                depth = depth.saturating_sub(1);
                self.at += 2;
            } else {
                match rest.chars().next() {
                    Some(c) => self.at += c.len_utf8(),
                    None => return,
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// `#![enable(..)]` before the value.
    fn attributes(&mut self) {
        self.space();
        while self.peek() == Some('#') {
            self.skip_while(|c| c != ']');
            self.eat(']');
            self.space();
        }
    }

    fn value(&mut self, depth: usize) -> Node {
        self.space();
        let start = self.at;
        let kind = match self.peek() {
            None => Kind::Leaf,
            Some(_) if depth >= DEPTH_MAX => {
                self.at = self.text.len();
                Kind::Leaf
            }
            Some('(') => self.parenthesis(depth),
            Some('[') => {
                self.eat('[');
                Kind::List(self.values(']', depth))
            }
            Some('{') => self.map(depth),
            Some('"') => {
                self.string();
                Kind::Leaf
            }
            Some('\'') => {
                self.quoted('\'');
                Kind::Leaf
            }
            Some(_) => self.word(depth),
        };
        Node { range: start..self.at, kind }
    }

    /// A number, a name, a name with brackets, or a string with a prefix. Always moves on by at least one character.
    fn word(&mut self, depth: usize) -> Kind {
        let start = self.at;
        self.skip_while(is_word);
        let word = self.text[start..self.at].to_owned();
        match (word.as_str(), self.peek()) {
            ("", Some(c)) => {
                self.at += c.len_utf8();
                return Kind::Leaf;
            }
            ("r" | "br", Some('#' | '"')) => {
                self.raw();
                return Kind::Leaf;
            }
            ("b", Some(quote @ ('"' | '\''))) => {
                self.quoted(quote);
                return Kind::Leaf;
            }
            (_, _) => {}
        }
        let end = self.at;
        self.space();
        if self.peek() == Some('(') {
            return self.parenthesis(depth);
        }
        self.at = end;
        Kind::Leaf
    }

    fn string(&mut self) {
        self.quoted('"');
    }

    fn quoted(&mut self, quote: char) {
        self.eat(quote);
        while let Some(c) = self.peek() {
            self.at += c.len_utf8();
            match c {
                '\\' => {
                    if let Some(escaped) = self.peek() {
                        self.at += escaped.len_utf8();
                    }
                }
                c if c == quote => return,
                _ => {}
            }
        }
    }

    /// `r#"…"#` after its prefix, or a raw name `r#type`.
    fn raw(&mut self) {
        let start = self.at;
        self.skip_while(|c| c == '#');
        let end = format!("\"{}", &self.text[start..self.at]);
        if self.eat('"') {
            let rest = self.rest();
            self.at += rest.find(&end).map_or(rest.len(), |found| found + end.len());
        } else {
            self.skip_while(is_word);
        }
    }

    fn parenthesis(&mut self, depth: usize) -> Kind {
        self.eat('(');
        let mut fields = Vec::new();
        let mut values = Vec::new();
        loop {
            self.space();
            match self.peek() {
                None => break,
                Some(')') => {
                    self.eat(')');
                    break;
                }
                Some(']' | '}') => break,
                Some(',') => {
                    self.eat(',');
                }
                Some(_) => match self.field_name() {
                    Some((name, name_range)) => fields.push(Field { name, name_range, value: self.value(depth + 1) }),
                    None => values.push(self.value(depth + 1)),
                },
            }
        }
        if fields.is_empty() { Kind::Tuple(values) } else { Kind::Struct(fields) }
    }

    /// A name and its colon; nothing is consumed when there is none.
    fn field_name(&mut self) -> Option<(String, Range<usize>)> {
        let start = self.at;
        self.skip_while(is_word);
        if self.text.get(start..self.at) == Some("r") && self.peek() == Some('#') {
            self.eat('#');
            self.skip_while(is_word);
        }
        let range = start..self.at;
        self.space();
        if range.is_empty() || !self.eat(':') {
            self.at = start;
            return None;
        }
        let name = self.text[range.clone()].trim_start_matches("r#").to_owned();
        Some((name, range))
    }

    fn values(&mut self, close: char, depth: usize) -> Vec<Node> {
        let mut values = Vec::new();
        loop {
            self.space();
            match self.peek() {
                None => break,
                Some(c) if c == close => {
                    self.eat(close);
                    break;
                }
                Some(')' | ']' | '}') => break,
                Some(',') => {
                    self.eat(',');
                }
                Some(_) => values.push(self.value(depth + 1)),
            }
        }
        values
    }

    fn map(&mut self, depth: usize) -> Kind {
        self.eat('{');
        let mut entries = Vec::new();
        loop {
            self.space();
            match self.peek() {
                None => break,
                Some('}') => {
                    self.eat('}');
                    break;
                }
                Some(')' | ']') => break,
                Some(',' | ':') => self.at += 1,
                Some(_) => {
                    let key = self.value(depth + 1);
                    self.space();
                    self.eat(':');
                    self.space();
                    match self.peek() {
                        None | Some(',' | '}' | ')' | ']') => {
                            let end = key.range.end;
                            entries.push((key, Node { range: end..end, kind: Kind::Leaf }));
                        }
                        Some(_) => entries.push((key, self.value(depth + 1))),
                    }
                }
            }
        }
        Kind::Map(entries)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r##"#![enable(implicit_some)]
// a comment with ( and "
( services: [ /* nested /* comment */ ( */
    (name: "a(", command: ["x", r#"raw " ( "#], alive: Some((probe: Tcp("1:2"), every: "1s"))),
    Service(name: "b\"", ready: Exec(["p", "q"]), env: {"K": "v", "L" : "w"}, budget: None, c: ':'),
])"##;

    #[test]
    fn any_prefix_of_a_text_is_scanned_to_its_end() {
        for end in (0..=TEXT.len()).filter(|end| TEXT.is_char_boundary(*end)) {
            let tree = scan(&TEXT[..end], 0..end);
            assert!(tree.range.end <= end);
        }
        let deep = "[".repeat(100_000);
        assert!(scan(&deep, 0..deep.len()).range.end <= deep.len());
        for odd in ["(a:", "{:}", "((((", "]", "(a b c)", "{\"a\"}", "r#", "'", "(r#type: 1)", "\u{85}(é: \"ü\")"] {
            let _ = scan(odd, 0..odd.len());
        }
    }
}
