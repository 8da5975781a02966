//! Where things stand in a RON text. `ron` itself gives values without their places, so this small scanner of the token stream
//! builds a tree of byte ranges: a path such as `services[2].requires[0]` leads to a place, and a place to its path.
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

/// A place and its path as it is shown, such as `ready` or `env["HOME"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) range: Range<usize>,
    pub(super) path: String,
}

/// The tree of the first value in `text[within]`; ranges count from the start of `text`.
pub(super) fn scan(text: &str, within: Range<usize>) -> Node {
    let mut scanner = Scanner { text: text.get(..within.end).unwrap_or(text), at: within.start };
    scanner.attributes();
    scanner.value(0)
}

/// Follows `path` (`requires[0]`, `alive.probe`, `env{1}` for the second key of a map) as far as it leads.
/// The flag says whether it was found to its end.
pub(super) fn find(root: &Node, text: &str, path: &str) -> (Found, bool) {
    let mut node = root;
    let mut found = Found { range: root.range.clone(), path: String::new() };
    for step in steps(path) {
        node = see_through(node, &step);
        match (&step, &node.kind) {
            (Step::Name(name), Kind::Struct(fields)) => {
                let Some(field) = fields.iter().rev().find(|field| field.name == *name) else { return (found, false) };
                if !found.path.is_empty() {
                    found.path.push('.');
                }
                found.path.push_str(name);
                node = &field.value;
                found.range = node.range.clone();
            }
            (Step::Index(index), Kind::List(items) | Kind::Tuple(items)) => {
                let Some(item) = items.get(*index) else { return (found, false) };
                found.path.push_str(&format!("[{index}]"));
                node = item;
                found.range = node.range.clone();
            }
            (Step::Key(index), Kind::Map(entries)) => {
                let Some((key, value)) = entries.get(*index) else { return (found, false) };
                found.path.push_str(&format!("[{}]", &text[key.range.clone()]));
                found.range = key.range.clone();
                node = value;
            }
            (_, Kind::Leaf | Kind::Struct(_) | Kind::Tuple(_) | Kind::List(_) | Kind::Map(_)) => return (found, false),
        }
    }
    (found, true)
}

/// The innermost thing at a byte of the text: a field's name, or a value.
pub(super) fn at(root: &Node, text: &str, offset: usize) -> Found {
    let mut found = Found { range: root.range.clone(), path: String::new() };
    let mut node = root;
    'descend: loop {
        match &node.kind {
            Kind::Leaf => {}
            Kind::Struct(fields) => {
                for field in fields {
                    if offset >= field.name_range.start && offset <= field.value.range.end {
                        if !found.path.is_empty() {
                            found.path.push('.');
                        }
                        found.path.push_str(&field.name);
                        if offset < field.name_range.end {
                            found.range = field.name_range.clone();
                            return found;
                        }
                        node = &field.value;
                        found.range = node.range.clone();
                        continue 'descend;
                    }
                }
            }
            Kind::Tuple(items) | Kind::List(items) => {
                if let Some((index, item)) = items.iter().enumerate().find(|(_, item)| holds(&item.range, offset)) {
                    if matches!(node.kind, Kind::List(_)) || items.len() > 1 {
                        found.path.push_str(&format!("[{index}]"));
                    }
                    node = item;
                    found.range = node.range.clone();
                    continue 'descend;
                }
            }
            Kind::Map(entries) => {
                let hit = entries.iter().find(|(key, value)| offset >= key.range.start && offset <= value.range.end);
                if let Some((key, value)) = hit {
                    found.path.push_str(&format!("[{}]", &text[key.range.clone()]));
                    if offset < key.range.end {
                        found.range = key.range.clone();
                        return found;
                    }
                    node = value;
                    found.range = node.range.clone();
                    continue 'descend;
                }
            }
        }
        return found;
    }
}

/// Where the values of every map stand that is the value of a field of this name, in the order of the text.
pub(super) fn values_of_maps(root: &Node, name: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        match &node.kind {
            Kind::Leaf => {}
            Kind::Struct(fields) => {
                for field in fields {
                    match &field.value.kind {
                        Kind::Map(entries) if field.name == name => {
                            found.extend(entries.iter().map(|(_, value)| value.range.clone()));
                        }
                        Kind::Map(_) | Kind::Leaf | Kind::Struct(_) | Kind::Tuple(_) | Kind::List(_) => {
                            open.push(&field.value)
                        }
                    }
                }
            }
            Kind::Tuple(items) | Kind::List(items) => open.extend(items),
            Kind::Map(entries) => open.extend(entries.iter().map(|(_, value)| value)),
        }
    }
    found.sort_by_key(|range| range.start);
    found
}

/// The innermost `(..)` that holds what was found, or is it.
pub(super) fn brackets_around(root: &Node, text: &str, mut found: Found) -> Found {
    loop {
        let opens_bracket = text.get(found.range.clone()).is_some_and(|value| value.ends_with(')'));
        let Some(cut) = found.path.rfind(['.', '[']).filter(|_| !opens_bracket) else { return found };
        found.path.truncate(cut);
        found = find(root, text, &found.path).0;
    }
}

/// The top-level field of a struct that a byte belongs to, from its name to the comma after its value.
pub(super) fn field_at<'a>(root: &'a Node, text: &str, offset: usize) -> Option<(&'a str, Range<usize>)> {
    let Kind::Struct(fields) = &root.kind else { return None };
    fields.iter().find_map(|field| {
        let mut scanner = Scanner { text, at: field.value.range.end };
        scanner.space();
        let end = if scanner.eat(',') { scanner.at } else { field.value.range.end };
        (offset >= field.name_range.start && offset <= end)
            .then_some((field.name.as_str(), field.name_range.start..end))
    })
}

enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(usize),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let name_end = part.find(['[', '{']).unwrap_or(part.len());
        if name_end > 0 {
            steps.push(Step::Name(&part[..name_end]));
        }
        for index in part[name_end..].split(['[', '{']).filter(|text| !text.is_empty()) {
            match (index.strip_suffix(']').map(str::parse), index.strip_suffix('}').map(str::parse)) {
                (Some(Ok(number)), _) => steps.push(Step::Index(number)),
                (_, Some(Ok(number))) => steps.push(Step::Key(number)),
                (_, _) => {}
            }
        }
    }
    steps
}

/// `Some((a: 1))` and `Http(..)` stand in the way of a path: one value in brackets is looked through.
fn see_through<'a>(mut node: &'a Node, step: &Step<'_>) -> &'a Node {
    while let Kind::Tuple(items) = &node.kind {
        let [only] = items.as_slice() else { break };
        if matches!(step, Step::Index(_)) && !matches!(only.kind, Kind::List(_) | Kind::Tuple(_)) {
            break;
        }
        node = only;
    }
    node
}

fn holds(range: &Range<usize>, offset: usize) -> bool {
    offset >= range.start && offset <= range.end
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

    fn text_at(path: &str) -> Option<String> {
        let tree = scan(TEXT, 0..TEXT.len());
        let (found, whole) = find(&tree, TEXT, path);
        whole.then(|| TEXT[found.range].to_owned())
    }

    #[test]
    fn a_path_leads_to_its_text() {
        assert_eq!(text_at("services[0].name").as_deref(), Some("\"a(\""));
        assert_eq!(text_at("services[0].command[1]").as_deref(), Some("r#\"raw \" ( \"#"));
        assert_eq!(text_at("services[0].alive.probe").as_deref(), Some("Tcp(\"1:2\")"));
        assert_eq!(text_at("services[1].ready[1]").as_deref(), Some("\"q\""));
        assert_eq!(text_at("services[1].env{1}").as_deref(), Some("\"L\""));
        assert_eq!(text_at("services[1].c").as_deref(), Some("':'"));
        assert_eq!(text_at("services[1].nope"), None);
        assert_eq!(text_at("services[7]"), None);
    }

    #[test]
    fn a_place_leads_back_to_its_path() {
        let tree = scan(TEXT, 0..TEXT.len());
        for path in [
            "services[0].name",
            "services[0].command[1]",
            "services[0].alive.probe",
            "services[1].ready[1]",
            "services[1].budget",
        ] {
            let (found, whole) = find(&tree, TEXT, path);
            assert!(whole, "{path}");
            assert_eq!(at(&tree, TEXT, found.range.start).path, path);
        }
        let key = TEXT.find("\"L\"").unwrap();
        assert_eq!(at(&tree, TEXT, key).path, "services[1].env[\"L\"]");
    }

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
