//! What is told of connections: drains, and backends that a balancer keeps out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::types::human;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceNote {
    /// It gets no new connection; those that it has in these balancers may end.
    Draining { balancers: Vec<String>, at_most: Duration },
    /// No connection is left.
    Drained { after: Duration },
    /// Connections in these balancers have not ended in time.
    NotDrained { balancers: Vec<String>, after: Duration, fate: Fate },
    /// An operator's `drain` is over.
    Undrained,
    /// Connections to it fail, so the balancer keeps it out for some time. `backend` names what is no replica of ours.
    Ejected { balancer: String, backend: Option<String>, why: String, for_: Duration },
    /// It has answered again.
    Restored { balancer: String, backend: Option<String> },
}

/// What becomes of connections that outlive a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The stop goes on.
    Cut,
    /// The replica runs on, and they with it.
    Left,
}

impl BalanceNote {
    /// The journal's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Draining { .. } => "draining",
            Self::Drained { .. } => "drained",
            Self::NotDrained { .. } => "not_drained",
            Self::Undrained => "undrained",
            Self::Ejected { .. } => "ejected",
            Self::Restored { .. } => "restored",
        }
    }

    /// The sentence without its object.
    #[must_use]
    pub fn text(&self) -> String {
        let who = |backend: &Option<String>| backend.as_ref().map(|name| format!("{name} is ")).unwrap_or_default();
        match self {
            Self::Draining { balancers, at_most } => {
                format!("draining: its connections from {} may end within {}", balancers.join(", "), human(*at_most))
            }
            Self::Drained { after } => format!("drained, its last connection ended after {}", human(*after)),
            Self::NotDrained { balancers, after, fate } => {
                let fate = match fate {
                    Fate::Cut => "they are cut by its stop",
                    Fate::Left => "they go on while it runs",
                };
                let balancers = balancers.join(", ");
                format!("not drained: connections from {balancers} have not ended within {}; {fate}", human(*after))
            }
            Self::Undrained => "back in its balancers".to_owned(),
            Self::Ejected { balancer, backend, why, for_ } => {
                format!("{}kept out of balancer {balancer} for {}: {why}", who(backend), human(*for_))
            }
            Self::Restored { balancer, backend } => {
                format!("{}back in balancer {balancer}, it answers again", who(backend))
            }
        }
    }
}
