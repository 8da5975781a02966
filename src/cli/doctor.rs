//! `mainstay doctor`: what this host lacks. The host is looked at from here, so that it works before the first agent; what only the agent
//! knows is asked from it.

use serde::Serialize;

use super::args::{Format, Invocation};
use super::exit::{CliError, Exit};
use super::output::{self, Look, clean};
use super::status::line;

mod agent;
mod copies;
mod directories;
mod health;
mod isolation;
mod kernel;
mod proxy;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    object: &'static str,
    verdict: Verdict,
    text: String,
    /// What to do, unless it is well.
    remedy: Option<String>,
}

fn ok(object: &'static str, text: impl Into<String>) -> Finding {
    Finding { object, verdict: Verdict::Ok, text: text.into(), remedy: None }
}

fn warn(object: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { object, verdict: Verdict::Warn, text: text.into(), remedy: Some(remedy.into()) }
}

fn fail(object: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { object, verdict: Verdict::Fail, text: text.into(), remedy: Some(remedy.into()) }
}

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let mut findings = kernel::findings();
    findings.extend(isolation::findings());
    findings.extend(directories::findings(invocation)?);
    findings.extend(agent::findings(invocation));
    findings.extend(health::findings(invocation));
    findings.extend(copies::findings(invocation));
    match format {
        Format::Table => output::print(&tell(&findings, &Look::stdout()))?,
        Format::Json => output::print(&line(&serde_json::json!({ "findings": findings }))?)?,
        Format::Ndjson => output::print(&findings.iter().map(line).collect::<Result<String, CliError>>()?)?,
    }
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { Exit::NotWell } else { Exit::Well })
}

fn tell(findings: &[Finding], look: &Look) -> String {
    let mut out = String::new();
    for finding in findings {
        let word = finding.verdict.word();
        let painted = look.paint(word, &format!("{word:4}"));
        out.push_str(&format!("{painted}  {:12} {}\n", finding.object, clean(&finding.text)));
        if let Some(remedy) = &finding.remedy {
            out.push_str(&format!("{:19}-> {}\n", "", clean(remedy)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_comes_with_its_remedy() {
        let findings = [
            ok("kernel", "6.1.0"),
            warn("clock", "not synchronised", "run chrony or systemd-timesyncd"),
            fail("run_dir", "/run/mainstay belongs to uid 1000", "chown root /run/mainstay"),
        ];
        expect_test::expect![[r#"
            ok    kernel       6.1.0
            warn  clock        not synchronised
                               -> run chrony or systemd-timesyncd
            fail  run_dir      /run/mainstay belongs to uid 1000
                               -> chown root /run/mainstay
        "#]]
        .assert_eq(&tell(&findings, &Look::plain()));
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let findings = kernel::findings();
        assert!(findings.iter().any(|finding| finding.object == "kernel"));
        assert!(findings.iter().all(|finding| (finding.verdict == Verdict::Ok) == finding.remedy.is_none()));
    }
}
