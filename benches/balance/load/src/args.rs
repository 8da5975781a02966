//! `COMMAND --name value --flag`.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::str::FromStr;
use std::time::Duration;

use crate::Result;

#[derive(Debug)]
pub(crate) struct Args {
    command: String,
    values: BTreeMap<String, String>,
    flags: Vec<String>,
}

impl Args {
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut words = words.peekable();
        let command = words.next().ok_or("no command")?;
        let (mut values, mut flags) = (BTreeMap::new(), Vec::new());
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("{word}: not an option"))?.to_owned();
            match words.next_if(|next| !next.starts_with("--")) {
                Some(value) => drop(values.insert(name, value)),
                None => flags.push(name),
            }
        }
        Ok(Self { command, values, flags })
    }

    pub(crate) fn command(&self) -> String {
        self.command.clone()
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<String> {
        self.values.remove(name).ok_or_else(|| format!("--{name} is missing").into())
    }

    pub(crate) fn number<T: FromStr>(&mut self, name: &str, default: Option<T>) -> Result<T> {
        match (self.values.remove(name), default) {
            (Some(text), _) => text.parse().map_err(|_| format!("--{name} {text}: not a number").into()),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(format!("--{name} is missing").into()),
        }
    }

    /// `50ms` or `2s`.
    pub(crate) fn time(&mut self, name: &str, default: Option<Duration>) -> Result<Duration> {
        let Some(text) = self.values.remove(name) else {
            return default.ok_or_else(|| format!("--{name} is missing").into());
        };
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s').ok_or_else(|| format!("--{name} {text}: neither ms nor s"))?, 1_000),
        };
        Ok(Duration::from_millis(number.parse::<u64>()? * unit))
    }

    pub(crate) fn to(&mut self) -> Result<SocketAddrV4> {
        let text = self.text("to")?;
        text.parse().map_err(|_| format!("--to {text}: not an IPv4 address with a port").into())
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.flags.len();
        self.flags.retain(|flag| flag != name);
        self.flags.len() < before
    }

    /// After the last option was asked for.
    pub(crate) fn done(&self) -> Result<()> {
        match self.values.keys().chain(&self.flags).next() {
            Some(name) => Err(format!("--{name} is unknown to {}, or lacks its value", self.command).into()),
            None => Ok(()),
        }
    }
}
