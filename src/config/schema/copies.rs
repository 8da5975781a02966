//! One item of `copies`. The defaults of `keep` are those of the engine.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::super::values::{Clock, Dur, Share, Size, parse_duration};
use super::seconds;
use crate::engine::copies::plan as engine;

const DAY_S: u64 = 86_400;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Copy {
    /// Required.
    pub(in crate::config) name: String,
    /// Required.
    pub(in crate::config) from: Vec<String>,
    pub(in crate::config) exclude: Vec<String>,
    /// Required.
    pub(in crate::config) to: String,
    pub(in crate::config) same_disk: bool,
    pub(in crate::config) uuid: Option<String>,
    pub(in crate::config) every: Option<Dur>,
    pub(in crate::config) at: Option<Times>,
    pub(in crate::config) on_change: Option<OnChange>,
    pub(in crate::config) keep: Keep,
    pub(in crate::config) quiesce: Quiesce,
    pub(in crate::config) scrub_every: Option<Dur>,
    pub(in crate::config) restore_test: Option<Dur>,
    pub(in crate::config) max_age: MaxAge,
    pub(in crate::config) max_shrink: Share,
    pub(in crate::config) bandwidth: Option<Size>,
    pub(in crate::config) space: Space,
    pub(in crate::config) read_back: ReadBack,
    /// `None`: what the services' `on_disk_failing` say.
    pub(in crate::config) on_source_failing: Option<OnSourceFailing>,
    pub(in crate::config) failover: Failover,
}

/// `"02:30"` or `["02:30", "14:30"]`, UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Times(pub(in crate::config) Vec<Clock>);

/// `"30s"` or `(quiet: "30s", max_wait: "5m")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct OnChange {
    pub(in crate::config) quiet: Dur,
    /// `None`: ten times `quiet`.
    pub(in crate::config) max_wait: Option<Dur>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "on_change", deny_unknown_fields)]
pub(super) struct Quiet {
    quiet: Dur,
    #[serde(default)]
    max_wait: Option<Dur>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Keep {
    pub(in crate::config) last: u32,
    pub(in crate::config) hourly: u32,
    pub(in crate::config) daily: u32,
    pub(in crate::config) weekly: u32,
    pub(in crate::config) monthly: u32,
    pub(in crate::config) yearly: u32,
    pub(in crate::config) min_keep: u32,
}

/// `None | Freeze("api", max: "2s") | Stop("api") | Exec(pre: [..], post: [..])`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Quiesce {
    None,
    Freeze { service: String, max: Option<Dur> },
    Stop(String),
    Exec(Hooks),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "Exec", default, deny_unknown_fields)]
pub(in crate::config) struct Hooks {
    pub(in crate::config) pre: Vec<String>,
    pub(in crate::config) post: Vec<String>,
    pub(in crate::config) timeout: Dur,
}

/// A key whose default depends on others, while `None` means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum MaxAge {
    ThreePeriods,
    Given(Option<Dur>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Space {
    pub(in crate::config) reserve: Share,
    pub(in crate::config) reserve_min: Size,
    pub(in crate::config) on_full: OnFull,
    pub(in crate::config) large: Option<Large>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "large", deny_unknown_fields)]
pub(in crate::config) struct Large {
    pub(in crate::config) over: Size,
    pub(in crate::config) keep: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "on_full")]
pub(in crate::config) enum OnFull {
    Stop,
    PruneOldest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "read_back")]
pub(in crate::config) enum ReadBack {
    Written,
    All,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "on_source_failing")]
pub(in crate::config) enum OnSourceFailing {
    Hold,
    Restore,
}

/// How `Restore` is done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename = "failover", default, deny_unknown_fields)]
pub(in crate::config) struct Failover {
    pub(in crate::config) after: Dur,
    pub(in crate::config) link: Option<String>,
}

impl Default for Copy {
    fn default() -> Self {
        Self {
            name: String::new(),
            from: Vec::new(),
            exclude: Vec::new(),
            to: String::new(),
            same_disk: false,
            uuid: None,
            every: None,
            at: None,
            on_change: None,
            keep: Keep::default(),
            quiesce: Quiesce::None,
            scrub_every: Some(seconds(30 * DAY_S)),
            restore_test: Some(seconds(7 * DAY_S)),
            max_age: MaxAge::ThreePeriods,
            max_shrink: Share(500),
            bandwidth: None,
            space: Space::default(),
            read_back: ReadBack::Written,
            on_source_failing: None,
            failover: Failover::default(),
        }
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self { after: Dur(engine::FailoverPlan::default().after), link: None }
    }
}

impl Default for Keep {
    fn default() -> Self {
        let engine::Keep { last, hourly, daily, weekly, monthly, yearly, min_keep } = engine::Keep::default();
        Self { last, hourly, daily, weekly, monthly, yearly, min_keep }
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self { pre: Vec::new(), post: Vec::new(), timeout: seconds(60) }
    }
}

impl Default for Space {
    fn default() -> Self {
        let engine::Space { reserve_permille, reserve_bytes, .. } = engine::Space::default();
        Self { reserve: Share(reserve_permille), reserve_min: Size(reserve_bytes), on_full: OnFull::Stop, large: None }
    }
}

struct TimesVisitor;

impl<'de> Visitor<'de> for TimesVisitor {
    type Value = Times;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a time such as \"02:30\", or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Times, E> {
        Ok(Times(vec![Clock::parse(text).map_err(E::custom)?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Times, A::Error> {
        let mut times = Vec::new();
        while let Some(time) = values.next_element()? {
            times.push(time);
        }
        Ok(Times(times))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(TimesVisitor)
    }
}

struct OnChangeVisitor;

impl<'de> Visitor<'de> for OnChangeVisitor {
    type Value = OnChange;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a duration such as \"30s\", or (quiet: \"30s\", max_wait: \"5m\")")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<OnChange, E> {
        Ok(OnChange { quiet: Dur(parse_duration(text).map_err(E::custom)?), max_wait: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnChange, A::Error> {
        let Quiet { quiet, max_wait } = Quiet::deserialize(MapAccessDeserializer::new(map))?;
        Ok(OnChange { quiet, max_wait })
    }
}

impl<'de> Deserialize<'de> for OnChange {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(OnChangeVisitor)
    }
}

impl<'de> Deserialize<'de> for MaxAge {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Option::deserialize(input).map(Self::Given)
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(variant_identifier)]
enum Word {
    None,
    Freeze,
    Stop,
    Exec,
}

struct QuiesceVisitor;

impl<'de> Visitor<'de> for QuiesceVisitor {
    type Value = Quiesce;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("None, Freeze(\"api\", max: \"2s\"), Stop(\"api\") or Exec(pre: [..], post: [..])")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Quiesce, A::Error> {
        match data.variant::<Word>()? {
            (Word::None, unit) => unit.unit_variant().map(|()| Quiesce::None),
            (Word::Freeze, pair) => pair.tuple_variant(2, FreezeVisitor),
            (Word::Stop, name) => name.newtype_variant().map(Quiesce::Stop),
            (Word::Exec, hooks) => hooks.newtype_variant().map(Quiesce::Exec),
        }
    }
}

/// The name of a service and, perhaps, how long. The file's `max:` in front of the second is taken away before it is read.
struct FreezeVisitor;

impl<'de> Visitor<'de> for FreezeVisitor {
    type Value = Quiesce;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a service such as Freeze(\"api\", max: \"2s\")")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Quiesce, A::Error> {
        match (values.next_element()?, values.next_element()?) {
            (Some(service), max) => Ok(Quiesce::Freeze { service, max }),
            (None, _) => Err(de::Error::custom("write a service, such as Freeze(\"api\", max: \"2s\")")),
        }
    }
}

impl<'de> Deserialize<'de> for Quiesce {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_enum("quiesce", &["None", "Freeze", "Stop", "Exec"], QuiesceVisitor)
    }
}
