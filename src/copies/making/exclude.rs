//! Which paths below a source are left out. A pattern without a `/` names matches at any depth; one with a `/` begins at the source; a `/` at its end is for
//! directories only. `*` and `?` stay within a name, `**` goes over any number of them; `cache/**` is all that is in `cache`, but not `cache` itself.

/// Names in one pattern.
const NAMES_MAX: usize = 60;
pub const PATTERN_BYTES_MAX: usize = 4096;
pub const PATTERNS_MAX: usize = 1000;

#[derive(Clone, Debug, Default)]
pub struct Exclude(Vec<Pattern>);

#[derive(Clone, Debug)]
struct Pattern {
    steps: Vec<Step>,
    directories_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(Vec<u8>),
    /// Any number of names, none too.
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExcludeError {
    #[error("{0:?} matches nothing: a pattern has names between its slashes, none of them `.` or `..`")]
    Empty(String),
    #[error("{0:?} has more than {NAMES_MAX} names or {PATTERN_BYTES_MAX} bytes")]
    Long(String),
    #[error("there are more than {PATTERNS_MAX} patterns")]
    Many,
}

impl Exclude {
    pub fn new(patterns: &[String]) -> Result<Self, ExcludeError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(ExcludeError::Many);
        }
        patterns.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<_, _>>().map(Self)
    }

    /// `path` is below the source, without a slash at either end. What is below an excluded directory is excluded with it and need not be asked for.
    #[must_use]
    pub fn is_excluded(&self, path: &[u8], is_dir: bool) -> bool {
        self.0.iter().any(|pattern| (is_dir || !pattern.directories_only) && pattern.matches(path))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ExcludeError> {
        let whole = text.strip_suffix('/').unwrap_or(text);
        let directories_only = whole.len() < text.len();
        let names = whole.strip_prefix('/').unwrap_or(whole);
        if names.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(ExcludeError::Empty(text.to_owned()));
        }
        let step = |name: &str| if name == "**" { Step::Any } else { Step::Name(name.as_bytes().to_vec()) };
        let mut steps: Vec<Step> = names.split('/').map(step).collect();
        if !whole.contains('/') {
            steps = vec![Step::Any, Step::Name(names.as_bytes().to_vec())];
        } else if steps.last() == Some(&Step::Any) {
            // What is in it, not itself.
            steps.push(Step::Name(b"*".to_vec()));
        }
        if steps.len() > NAMES_MAX || text.len() > PATTERN_BYTES_MAX {
            return Err(ExcludeError::Long(text.to_owned()));
        }
        Ok(Self { steps, directories_only })
    }

    /// Follows all ways at once: bit `n` says that the first `n` steps can have matched what was read of the path.
    fn matches(&self, path: &[u8]) -> bool {
        let mut reached = self.with_skips(1);
        for name in path.split(|byte| *byte == b'/') {
            let mut next = 0;
            for (index, step) in self.steps.iter().enumerate().filter(|(index, _)| reached >> index & 1 != 0) {
                match step {
                    Step::Any => next |= 1 << index,
                    Step::Name(pattern) if name_matches(pattern, name) => next |= 1 << (index + 1),
                    Step::Name(_) => {}
                }
            }
            reached = self.with_skips(next);
            if reached == 0 {
                return false;
            }
        }
        reached >> self.steps.len() & 1 != 0
    }

    fn with_skips(&self, mut reached: u64) -> u64 {
        for (index, step) in self.steps.iter().enumerate() {
            if *step == Step::Any && reached >> index & 1 != 0 {
                reached |= 1 << (index + 1);
            }
        }
        reached
    }
}

/// `*` and `?` within a name. Goes back to the last `*` only, which is enough.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while here < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(b'?') => {
                at += 1;
                here = after_character(name, here);
            }
            Some(byte) if *byte == name[here] => {
                at += 1;
                here += 1;
            }
            Some(_) | None => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, here) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// A character of UTF-8 is one; any other byte is one too.
fn after_character(name: &[u8], at: usize) -> usize {
    let more = if name[at] >= 0xc0 {
        name[at + 1..].iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count()
    } else {
        0
    };
    at + 1 + more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(pattern: &str, path: &[u8]) -> bool {
        Exclude::new(&[pattern.to_owned()]).unwrap().is_excluded(path, false)
    }

    #[test]
    fn patterns_match_what_they_say() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("*.tmp", &["a.tmp", "x/y/a.tmp", ".tmp"], &["a.tmpx", "a.tmp/x"]),
            ("cache/**", &["cache/a", "cache/a/b"], &["cache", "x/cache/a", "cachex/a"]),
            ("/cache", &["cache"], &["x/cache", "cache/a"]),
            ("**/cache", &["cache", "x/cache", "x/y/cache"], &["cache/x", "xcache"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/x", "b", "x/a/b"]),
            ("a/*/b", &["a/x/b"], &["a/b", "a/x/y/b"]),
            ("?", &["a", "x/b", "\u{e4}", "\u{1f600}"], &["ab", ""]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a"]),
            ("**", &["a", "a/b"], &[]),
            ("logs/*.[0-9]", &["logs/x.[0-9]"], &["logs/x.1"]),
        ];
        for (pattern, yes, no) in cases {
            for path in *yes {
                assert!(excluded(pattern, path.as_bytes()), "{pattern} {path}");
            }
            for path in *no {
                assert!(!excluded(pattern, path.as_bytes()), "{pattern} {path}");
            }
        }
        assert!(excluded("a*", b"a\xff\xfe") && excluded("?", b"\xff"));
    }

    #[test]
    fn slash_at_the_end_is_for_directories() {
        let exclude = Exclude::new(&["build/".to_owned()]).unwrap();
        assert!(exclude.is_excluded(b"x/build", true) && !exclude.is_excluded(b"x/build", false));
        let anchored = Exclude::new(&["x/build/".to_owned()]).unwrap();
        assert!(anchored.is_excluded(b"x/build", true) && !anchored.is_excluded(b"y/x/build", true));
        assert!(!Exclude::default().is_excluded(b"anything", true));
    }

    #[test]
    fn hard_patterns_take_no_time() {
        let path = vec![b'a'; 255];
        assert!(!excluded(&format!("{}b", "*a".repeat(100)), &path));
        let deep = vec!["a"; 500].join("/");
        assert!(!excluded(&format!("{}b", "**/".repeat(50)), deep.as_bytes()));
    }

    #[test]
    fn what_can_match_nothing_is_refused() {
        for pattern in ["", "/", "//", "a//b", "./a", "a/..", "a//"] {
            assert!(matches!(Exclude::new(&[pattern.to_owned()]), Err(ExcludeError::Empty(_))), "{pattern}");
        }
        assert!(matches!(Exclude::new(&["a/".repeat(70) + "b"]), Err(ExcludeError::Long(_))));
        assert!(matches!(Exclude::new(&vec!["a".to_owned(); 1001]), Err(ExcludeError::Many)));
    }
}
