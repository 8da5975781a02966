//! From a path such as `requires[0]` to a place in the text, and back.

use std::ops::Range;

use super::scan::{self, Kind, Node};

/// A place and its path as it is shown, such as `ready` or `env["HOME"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) range: Range<usize>,
    pub(super) path: String,
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
        let end = scan::after_comma(text, field.value.range.end);
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

#[cfg(test)]
mod tests {
    use super::super::scan::scan;
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
}
