//! Jobs on a set: sent to the agent, which is asked meanwhile how far it is, or carried out here where there is none.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::super::args::{Format, Invocation};
use super::super::ask;
use super::super::exit::{CliError, Exit};
use super::super::output::{self, counted, size_in_words};
use super::super::status::line;
use super::super::table::{CONFIG, DRY_RUN, FORCE, NO_WAIT, SOCKET, TIMEOUT};
use super::offline::Offline;
use super::show;
use crate::api::client::{self, Access, Client, ClientError};
use crate::api::copies::{Detail, Done};
use crate::api::route::encode;
use crate::engine::copies::order::{Job, Outcome, Place as Where, ServiceCopy, Which};

/// How often the agent is asked how far a job is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Who answers.
pub(super) enum Place {
    Agent(Client),
    /// No agent runs, and `--config` says what the sets are.
    Here(Offline),
}

pub(super) fn ask(invocation: &Invocation) -> Result<Place, CliError> {
    find(invocation, Access::Read)
}

fn find(invocation: &Invocation, access: Access) -> Result<Place, CliError> {
    // Without a service in it, so that a rescue shell need not have their programs.
    let offline = match invocation.path(&CONFIG).filter(|_| invocation.path(&SOCKET).is_none()) {
        Some(file) => Some(Offline::load(&file)?),
        None => None,
    };
    match (ask::agent(invocation, access), offline) {
        (Ok(client), _) => Ok(Place::Agent(client)),
        (Err(CliError::Client(ClientError::Unreachable { .. } | ClientError::Connect { .. })), Some(offline)) => {
            Ok(Place::Here(offline))
        }
        (Err(error), _) => Err(error),
    }
}

pub(super) fn carry_out(invocation: &Invocation, set: &str, job: Job) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let done = match find(invocation, Access::Admin)? {
        Place::Here(offline) => offline.carry_out(set, job)?,
        Place::Agent(client) => match send(invocation, &client, set, &job)? {
            Some(done) => done,
            None => return Ok(Exit::Well),
        },
    };
    match format {
        Format::Json | Format::Ndjson => output::print(&line(&done)?)?,
        Format::Table => output::print(&tell(&done))?,
    }
    let is_bad = matches!(done.outcome, Outcome::Verified { bad, mended, .. } if bad > mended);
    Ok(if is_bad { Exit::NotWell } else { Exit::Well })
}

/// The data of a service. Only an agent can stop it, see it start and put back what was there.
pub(super) fn restore_service(invocation: &Invocation, service: &str, seq: Option<u64>) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let client = ask::agent(invocation, Access::Admin)?;
    let dry_run = invocation.is_set(&DRY_RUN);
    let wait = dry_run || !invocation.is_set(&NO_WAIT);
    let body = serde_json::json!({ "copy": seq, "dry_run": dry_run, "force": invocation.is_set(&FORCE), "wait": wait });
    let target = format!("/v1/services/{}/restore", encode(service));
    let body = client.post(&target, &body.to_string(), invocation.duration(&TIMEOUT)?)?.body()?;
    if !wait {
        output::message(&format!("the restore of {service} is taken up; `mainstay why {service}` tells how far it is"));
        return Ok(Exit::Well);
    }
    let done: Done = client::parse(&body)?;
    match format {
        Format::Json | Format::Ndjson => output::print(&line(&done)?)?,
        Format::Table => output::print(&tell_of(&format!("service {service}"), &done.outcome))?,
    }
    Ok(Exit::Well)
}

/// `None`: it was taken up, and nobody waits for it.
fn send(invocation: &Invocation, client: &Client, set: &str, job: &Job) -> Result<Option<Done>, CliError> {
    let wait = !invocation.is_set(&NO_WAIT);
    let (verb, mut body) = request(job);
    body["wait"] = wait.into();
    let target = format!("/v1/copies/{}/{verb}", encode(set));
    // A first copy may take a day: there is no limit but the one that is asked for.
    let pending = client.post(&target, &body.to_string(), invocation.duration(&TIMEOUT)?)?;
    let shows = wait && io::stderr().is_terminal();
    let (over, is_over) = channel::<()>();
    let body = std::thread::scope(|scope| {
        if shows {
            scope.spawn(move || follow(client, set, &is_over));
        }
        let body = pending.body();
        drop(over);
        body
    })?;
    if !wait {
        output::message(&format!("copies {set}: {verb} is taken up"));
        return Ok(None);
    }
    Ok(Some(client::parse(&body)?))
}

/// One line on the terminal, until the job is over.
fn follow(client: &Client, set: &str, is_over: &Receiver<()>) {
    let mut bar = Bar::default();
    while is_over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let detail: Result<Detail, ClientError> = client.get_json(&format!("/v1/copies/{}", encode(set)));
        if let Ok(Detail { set, .. }) = detail
            && let Some(running) = &set.running
        {
            let share =
                share(running.bytes, running.bytes_in_all).or_else(|| share(running.files, running.files_in_all));
            bar.draw(share, &show::progress_text(running));
        }
    }
    bar.clear();
}

/// In thousandths.
pub(super) fn share(done: u64, all: Option<u64>) -> Option<u32> {
    let all = all.filter(|all| *all > 0)?;
    u32::try_from(u128::from(done.min(all)) * 1_000 / u128::from(all)).ok()
}

/// A line of the terminal that is drawn again and again.
#[derive(Debug, Default)]
pub(super) struct Bar {
    drawn: bool,
}

impl Bar {
    pub(super) fn draw(&mut self, share: Option<u32>, text: &str) {
        let columns = crate::sys::terminal::columns(&io::stderr()).map_or(80, usize::from);
        let line = bar_text(share, text);
        self.put(&format!("\r\x1b[K{}", output::cut(&line, Some(columns.saturating_sub(1)))));
        self.drawn = true;
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.put("\r\x1b[K");
        }
    }

    fn put(&self, text: &str) {
        // Nobody is left to be shown anything when it is closed.
        let _ = write!(io::stderr(), "{text}").and_then(|()| io::stderr().flush());
    }
}

fn bar_text(share: Option<u32>, text: &str) -> String {
    const CELLS: u32 = 20;
    let Some(share) = share else { return text.to_owned() };
    let full = (share * CELLS / 1_000).min(CELLS);
    let bar: String = (0..CELLS).map(|cell| if cell < full { '#' } else { '.' }).collect();
    format!("[{bar}] {:>3}% {text}", share / 10)
}

/// The verb of the API and its body.
fn request(job: &Job) -> (&'static str, serde_json::Value) {
    use serde_json::json;
    match job {
        Job::Take { .. } => ("run", json!({})),
        Job::Scrub => ("scrub", json!({})),
        Job::RestoreTest => ("test", json!({})),
        Job::Verify { which: Which::Newest } => ("verify", json!({ "copy": "newest" })),
        Job::Verify { which: Which::All } => ("verify", json!({ "copy": "all" })),
        Job::Verify { which: Which::One(seq) } => ("verify", json!({ "copy": seq })),
        Job::Prune { copies } if copies.is_empty() => ("prune", json!({})),
        Job::Prune { copies } => ("prune", json!({ "copies": copies })),
        Job::Pin { seq, pinned } => (if *pinned { "pin" } else { "unpin" }, json!({ "copy": seq })),
        Job::Accept { seq } => ("accept", json!({ "copy": seq })),
        Job::Failback { dry_run, force } => ("failback", json!({ "dry_run": dry_run, "force": force })),
        // Parts of a failover, which only the agent orders.
        Job::Materialise(_) | Job::Gather { .. } | Job::Dismiss { .. } => (job.word(), json!({})),
        Job::Init { claim } => ("init", json!({ "claim": claim })),
        // Of the agent's own; no command asks for it.
        Job::Exchange(_) => ("exchange", json!({})),
        Job::Restore(restore) => {
            let mut body = json!({ "paths": restore.paths, "dry_run": restore.dry_run, "force": restore.force });
            if let Some(seq) = restore.seq {
                body["copy"] = seq.into();
            }
            match &restore.place {
                Where::Into(into) => body["into"] = json!(into),
                Where::Replace | Where::Beside => body["replace"] = true.into(),
            }
            ("restore", body)
        }
    }
}

/// What a job has come to, for people.
fn tell(done: &Done) -> String {
    tell_of(&format!("copies {}", done.set), &done.outcome)
}

fn tell_of(whose: &str, outcome: &Outcome) -> String {
    let numbers = |copies: &[u64]| copies.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let text = match outcome {
        Outcome::Taken { seq, files, written_bytes, linked } => {
            format!(
                "copy {seq} of {}: {} written, {} shared with the copy before",
                counted(*files, "file"),
                size_in_words(*written_bytes),
                counted(*linked, "file")
            )
        }
        Outcome::Unchanged { seq } => format!("nothing has changed since copy {seq}"),
        Outcome::Verified { copies, files, bytes, bad: 0, .. } => {
            format!(
                "copy {} verified: {}, {}, all as written",
                numbers(copies),
                counted(*files, "file"),
                size_in_words(*bytes)
            )
        }
        Outcome::Verified { copies, files, bytes, bad, mended } => format!(
            "copy {} verified: {}, {}; {bad} not as written, {mended} of these mended",
            numbers(copies),
            counted(*files, "file"),
            size_in_words(*bytes)
        ),
        Outcome::Scrubbed => "scrubbed".to_owned(),
        Outcome::Pruned { copies } if copies.is_empty() => {
            "nothing to remove: every copy is kept for a reason".to_owned()
        }
        Outcome::Pruned { copies } => format!("removed copy {}", numbers(copies)),
        Outcome::Restored { seq, files, bytes, kept } => {
            let kept: String = kept.iter().map(|path| format!("\nkept what was there: {}", path.display())).collect();
            format!("restored {}, {}, of copy {seq}{kept}", counted(*files, "file"), size_in_words(*bytes))
        }
        Outcome::Built { seq, .. } => format!("copy {seq} is brought beside"),
        Outcome::Swapped { .. } => "exchanged".to_owned(),
        Outcome::ServiceRestored { copies, kept, ready, remark } => {
            restored_text(copies, kept, *ready, remark.as_deref())
        }
        Outcome::WouldRestore { seq, lines, more } => {
            let more = if *more > 0 { format!("\nand {more} more") } else { String::new() };
            format!("of copy {seq} would be restored:\n{}{more}", lines.join("\n"))
        }
        Outcome::Tested { seq, files } => format!("restored and compared: {} of copy {seq}", counted(*files, "file")),
        Outcome::Pinned => "done".to_owned(),
        Outcome::Accepted => "accepted: it counts as good from now on".to_owned(),
        Outcome::Initialised { uuid } => format!("the target is marked: write uuid: {uuid:?} into the configuration"),
        Outcome::Materialised { seq, .. } => format!("copy {seq} is there to go on from"),
        Outcome::Dismissed => "removed".to_owned(),
        Outcome::Failed(failure) => failure.what.clone(),
    };
    format!("{whose}: {text}\n")
}

fn restored_text(copies: &[ServiceCopy], kept: &[PathBuf], ready: bool, remark: Option<&str>) -> String {
    let one = |copy: &ServiceCopy| {
        let verified = if copy.verified { "" } else { " (which nobody has verified)" };
        format!("copy {} of {}{verified}", copy.seq, copy.set)
    };
    let copies: Vec<String> = copies.iter().map(one).collect();
    let then = if ready { "it is ready" } else { remark.unwrap_or("whether it goes well with them is not known") };
    let kept: String = kept.iter().map(|path| format!("\nkept what was there: {}", path.display())).collect();
    format!("its data are those of {}; {then}{kept}", copies.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_one_sentence() {
        let told = |outcome| tell(&Done { at: String::new(), seq: 0, set: "data".to_owned(), outcome });
        let kept = vec!["/srv/.x".into()];
        let lines: String = [
            told(Outcome::Taken { seq: 3, files: 10, written_bytes: 2_048, linked: 7 }),
            told(Outcome::Verified { copies: vec![1, 2], files: 5, bytes: 1_024, bad: 2, mended: 1 }),
            told(Outcome::Restored { seq: 2, files: 1, bytes: 10, kept }),
            told(Outcome::WouldRestore { seq: 2, lines: vec!["/a".to_owned(), "/b".to_owned()], more: 3 }),
        ]
        .concat();
        expect_test::expect![[r#"
            copies data: copy 3 of 10 files: 2.0K written, 7 files shared with the copy before
            copies data: copy 1, 2 verified: 5 files, 1.0K; 2 not as written, 1 of these mended
            copies data: restored 1 file, 10 bytes, of copy 2
            kept what was there: /srv/.x
            copies data: of copy 2 would be restored:
            /a
            /b
            and 3 more
        "#]]
        .assert_eq(&lines);
    }

    #[test]
    fn a_bar_is_as_long_as_what_is_done() {
        assert_eq!(bar_text(share(5, Some(10)), "x"), "[##########..........]  50% x");
        assert_eq!(bar_text(share(50, Some(10)), "x"), "[####################] 100% x");
        assert_eq!(bar_text(share(5, None), "x"), "x");
    }
}
