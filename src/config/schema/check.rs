//! One item of `checks`. A kind is a word in CamelCase, alone or with its target in brackets: `Smart`, `DiskSpace(path: "/")`.

use std::fmt;

use ron::value::RawValue;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::super::values::Dur;
use crate::engine::host::kind::CheckKind;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Check {
    /// Required.
    pub(in crate::config) name: String,
    /// Required.
    pub(in crate::config) check: Option<What>,
    pub(in crate::config) every: Option<Dur>,
    pub(in crate::config) degraded: Option<Band>,
    pub(in crate::config) failing: Option<Band>,
    pub(in crate::config) fall: Option<u32>,
    pub(in crate::config) rise: Option<u32>,
    pub(in crate::config) enabled: bool,
}

/// A kind with what stands in its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct What {
    pub(in crate::config) kind: CheckKind,
    pub(in crate::config) target: Target,
}

/// At most one of them has a meaning, by the scope of the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Target {
    pub(in crate::config) path: Option<String>,
    pub(in crate::config) device: Option<String>,
    pub(in crate::config) nic: Option<String>,
    pub(in crate::config) sensor: Option<String>,
}

/// Where a state begins and ends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Band {
    pub(in crate::config) enter: Level,
    #[serde(default)]
    pub(in crate::config) leave: Option<Level>,
}

/// A value whose unit is the kind's, so that it is read when the kind is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Level {
    Text(String),
    Number(i64),
}

/// The words of the file, in the order of [`CheckKind::ALL`].
#[rustfmt::skip]
const NAMES: [&str; CheckKind::ALL.len()] = [
    "DiskSpace",
    "DiskInodes",
    "DiskFill",
    "Filesystem",
    "DiskHung",
    "DiskLatency",
    "DiskErrors",
    "Smart",
    "DiskWear",
    "Raid",
    "Btrfs",
    "NicLink",
    "NicSpeed",
    "NicErrors",
    "NicDrops",
    "Bond",
    "Gateway",
    "Temperature",
    "Throttling",
    "Fan",
    "Power",
    "Ecc",
    "MemoryPoison",
    "MachineCheck",
    "Pcie",
    "PressureMemory",
    "PressureCpu",
    "PressureIo",
    "Memory",
    "Swap",
    "BlockedTasks",
    "Files",
    "Pids",
    "Conntrack",
    "Clock",
    "Kernel",
];

/// The word of the file for a kind.
pub(in crate::config) fn kind_name(kind: CheckKind) -> &'static str {
    let known = CheckKind::ALL.iter().zip(NAMES).find(|(known, _)| **known == kind);
    known.map_or(kind.word(), |(_, name)| name)
}

impl Default for Check {
    fn default() -> Self {
        Self {
            name: String::new(),
            check: None,
            every: None,
            degraded: None,
            failing: None,
            fall: None,
            rise: None,
            enabled: true,
        }
    }
}

impl<'de> Deserialize<'de> for What {
    /// From the text itself, since only that tells whether brackets follow the word.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(input)?;
        let text = raw.get_ron().trim();
        let (word, brackets) =
            text.split_at(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()));
        if word.is_empty() {
            return Err(de::Error::custom("expected a kind of check, such as DiskSpace(path: \"/\")"));
        }
        let Some((kind, name)) = CheckKind::ALL.into_iter().zip(NAMES).find(|(_, name)| *name == word) else {
            return Err(de::Error::unknown_variant(word, &NAMES));
        };
        let brackets = brackets.trim();
        if brackets.is_empty() {
            return Ok(Self { kind, target: Target::default() });
        }
        let extensions = ron::extensions::Extensions::IMPLICIT_SOME;
        let target = ron::Options::default().with_default_extension(extensions).from_str(brackets);
        let target = target.map_err(|error: ron::error::SpannedError| match error.code {
            ron::Error::NoSuchStructField { expected, found, .. } => de::Error::unknown_field(&found, expected),
            ron::Error::ExpectedString => de::Error::custom(format!("the target of `{name}` is a text in quotes")),
            _ => {
                de::Error::custom(format!("what stands in the brackets of `{name}` is a target, such as (path: \"/\")"))
            }
        })?;
        Ok(Self { kind, target })
    }
}

struct LevelVisitor;

impl Visitor<'_> for LevelVisitor {
    type Value = Level;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value with its unit such as \"90%\", or a count")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Level, E> {
        Ok(Level::Text(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Level, E> {
        Ok(Level::Number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Level, E> {
        i64::try_from(number).map(Level::Number).map_err(|_| E::custom("the number is out of range"))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Level, E> {
        Err(E::custom(format!("{number} lacks a unit; write a text such as \"{number}%\"")))
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(LevelVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_file_are_those_of_the_api_in_camel_case() {
        for (kind, name) in CheckKind::ALL.into_iter().zip(NAMES) {
            let camel: String = kind.word().split('_').map(|part| part[..1].to_uppercase() + &part[1..]).collect();
            assert_eq!(name, camel);
            assert_eq!(kind_name(kind), name);
        }
    }
}
