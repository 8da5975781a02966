//! `mainstay reload`: what the changed file brings.

use std::time::Duration;

use super::args::{Format, Invocation};
use super::exit::{CliError, Exit};
use super::output::Look;
use super::status::line;
use super::table::{DRY_RUN, TIMEOUT};
use super::{ask, output};
use crate::api::client::{self, Access, Pending};
use crate::api::proto::Reloaded;

/// The file is checked by a process of its own, with a deadline; that takes its time on a slow disk.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let timeout = invocation.duration(&TIMEOUT)?.unwrap_or(TIMEOUT_DEFAULT);
    let target = if invocation.is_set(&DRY_RUN) { "/v1/config/reload?dry_run=1" } else { "/v1/config/reload" };
    let client = ask::agent(invocation, Access::Admin)?;
    let body = client.post(target, "{}", Some(timeout)).and_then(Pending::body)?;
    let answer: Reloaded = client::parse(&body)?;
    match format {
        Format::Json => output::print(&String::from_utf8_lossy(&body))?,
        Format::Ndjson => output::print(&answer.changes.iter().map(line).collect::<Result<String, CliError>>()?)?,
        Format::Table => output::print(&tell(&answer, &Look::stdout()))?,
    }
    Ok(Exit::Well)
}

fn tell(answer: &Reloaded, look: &Look) -> String {
    let changed: Vec<Vec<String>> = (answer.changes.iter())
        .filter(|change| change.effect != "unchanged")
        .map(|change| vec![change.effect.to_string(), change.service.clone(), change.why.clone()])
        .collect();
    let unchanged = answer.changes.len() - changed.len();
    let mut out = String::new();
    if !changed.is_empty() {
        out.push_str(&output::table(&["EFFECT", "SERVICE", "WHY"], &changed, &[0], look));
    }
    let verb = if answer.dry_run { "would change" } else { "changed" };
    out.push_str(&format!("{} {verb}, {unchanged} unchanged\n", changed.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::Change;

    #[test]
    fn the_plan_names_what_changes_and_counts_the_rest() {
        let change = |service: &str, effect: &'static str, why: &str| Change {
            service: service.to_owned(),
            effect: effect.into(),
            why: why.to_owned(),
        };
        let changes = vec![
            change("api", "restart", "command"),
            change("db", "unchanged", ""),
            change("web", "live", "logs.keep"),
        ];
        let answer = Reloaded { at: String::new(), seq: 1, dry_run: true, changes };
        expect_test::expect![[r#"
            EFFECT   SERVICE  WHY
            restart  api      command
            live     web      logs.keep
            2 would change, 1 unchanged
        "#]]
        .assert_eq(&tell(&answer, &Look::plain()));
    }
}
