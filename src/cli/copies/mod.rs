//! `mainstay copies ..`: sets of copies and what is done with them, by the agent, or, with `--config` and where no agent runs, by this process.

mod offline;
mod show;
mod verbs;

use std::ffi::OsString;
use std::path::PathBuf;

use super::args::{Invocation, UsageError};
use super::exit::{CliError, Exit};
use super::table::{CLAIM, DRY_RUN, FORCE, INTO, REPLACE, SERVICE};
use crate::api::client::Client;
use crate::api::copies::{Copies, Set};
use crate::engine::copies::catalog::Cause;
use crate::engine::copies::order::{Job, Place, Restore, Which};

/// What is wanted.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// Every set.
    Table,
    /// The copies of one.
    List {
        set: String,
    },
    Job {
        set: String,
        job: Job,
    },
    /// The data of a service, from the sets that have it.
    RestoreService {
        service: String,
        seq: Option<u64>,
    },
    /// What a prune would remove.
    WouldPrune {
        set: String,
    },
}

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    match wanted(invocation)? {
        Wanted::Table => show::table(invocation),
        Wanted::List { set } => show::list(invocation, &set),
        Wanted::WouldPrune { set } => show::would_prune(invocation, &set),
        Wanted::RestoreService { service, seq } => verbs::restore_service(invocation, &service, seq),
        Wanted::Job { set, job } => verbs::carry_out(invocation, &set, job),
    }
}

/// One line for each set that is not well, as `status` and the summary tell it. An older agent knows no copies.
pub(super) fn not_well(client: &Client) -> Vec<String> {
    let all: Copies = match client.get_json("/v1/copies") {
        Ok(all) => all,
        Err(_) => return Vec::new(),
    };
    let line = |set: &Set| {
        let why = set.why.clone().or_else(|| set.target.why.clone()).unwrap_or_default();
        format!("copies {}: {}: {why}", set.name, set.state)
    };
    all.copies.iter().filter(|set| !set.is_well()).map(line).collect()
}

const VERBS: &str = "list, run, verify, scrub, restore, test, pin, unpin, prune, accept, init, failback";

fn wanted(invocation: &Invocation) -> Result<Wanted, UsageError> {
    let words = invocation.words();
    let text = |index: usize| words.get(index).map(|word| word.to_string_lossy().into_owned());
    let Some(verb) = text(0) else { return options_fit(invocation, "").map(|()| Wanted::Table) };
    if !VERBS.split(", ").any(|known| known == verb) {
        return Err(UsageError::of(format!("copies knows no \"{verb}\"; there are {VERBS}")));
    }
    if let Some(service) = invocation.text(&SERVICE)?.filter(|_| verb == "restore") {
        options_fit(invocation, &verb)?;
        return restore_of_service(invocation, service.to_owned(), &words[1..]);
    }
    let set = text(1).ok_or_else(|| UsageError::of(format!("copies {verb} needs the name of a set")))?;
    options_fit(invocation, &verb)?;
    let rest = &words[2..];
    let at_most = match verb.as_str() {
        "verify" | "pin" | "unpin" | "accept" => 1,
        "restore" => usize::MAX,
        _ => 0,
    };
    if rest.len() > at_most {
        return Err(UsageError::of(format!(
            "copies {verb} takes nothing after {:?}",
            text(1 + at_most).unwrap_or_default()
        )));
    }
    let number = || match text(2).map(|word| word.parse::<u64>()) {
        Some(Ok(seq)) => Ok(seq),
        Some(Err(_)) => Err(UsageError::of(format!("{:?} is no number of a copy", text(2).unwrap_or_default()))),
        None => Err(UsageError::of(format!("copies {verb} needs the number of a copy; copies list {set} shows them"))),
    };
    let job = match verb.as_str() {
        "list" => return Ok(Wanted::List { set }),
        "prune" if invocation.is_set(&DRY_RUN) => return Ok(Wanted::WouldPrune { set }),
        "run" => Job::Take { cause: Cause::ByHand },
        "verify" => Job::Verify { which: which(text(2).as_deref())? },
        "scrub" => Job::Scrub,
        "test" => Job::RestoreTest,
        "pin" => Job::Pin { seq: number()?, pinned: true },
        "unpin" => Job::Pin { seq: number()?, pinned: false },
        "accept" => Job::Accept { seq: number()? },
        "prune" => Job::Prune { copies: Vec::new() },
        "init" => Job::Init { claim: invocation.is_set(&CLAIM) },
        "failback" => Job::Failback { dry_run: invocation.is_set(&DRY_RUN), force: invocation.is_set(&FORCE) },
        _ => restore(invocation, rest)?,
    };
    Ok(Wanted::Job { set, job })
}

/// An option that the verb does not know would look as if it was heeded.
fn options_fit(invocation: &Invocation, verb: &str) -> Result<(), UsageError> {
    let knows: [(&super::table::Opt, &[&str]); 6] = [
        (&SERVICE, &["restore"]),
        (&DRY_RUN, &["restore", "prune", "failback"]),
        (&INTO, &["restore"]),
        (&REPLACE, &["restore"]),
        (&FORCE, &["restore", "failback"]),
        (&CLAIM, &["init"]),
    ];
    match knows.iter().find(|(option, verbs)| invocation.is_set(option) && !verbs.contains(&verb)) {
        Some((option, verbs)) => {
            Err(UsageError::of(format!("--{} is for copies {} only", option.long, verbs.join(" and "))))
        }
        None => Ok(()),
    }
}

fn which(word: Option<&str>) -> Result<Which, UsageError> {
    match word {
        None | Some("newest") => Ok(Which::Newest),
        Some("all") => Ok(Which::All),
        Some(word) => word
            .parse()
            .map(Which::One)
            .map_err(|_| UsageError::of(format!("{word:?} is neither a number of a copy, nor newest, nor all"))),
    }
}

/// `restore NAME [COPY] [PATH..] --into DIR | --replace`
fn restore(invocation: &Invocation, words: &[OsString]) -> Result<Job, UsageError> {
    let seq = words.first().and_then(|word| word.to_str()?.parse::<u64>().ok());
    let paths: Vec<PathBuf> = words[usize::from(seq.is_some())..].iter().map(PathBuf::from).collect();
    if let Some(relative) = paths.iter().find(|path| !path.is_absolute()) {
        let message = format!("{} is not an absolute path; write where it was when it was copied", relative.display());
        return Err(UsageError::of(message));
    }
    let place = match (invocation.path(&INTO), invocation.is_set(&REPLACE)) {
        (Some(into), false) => Place::Into(absolute(into)?),
        (None, true) => Place::Replace,
        (Some(_), true) => return Err(UsageError::of("either --into or --replace")),
        (None, false) => {
            return Err(UsageError::of("where to: --into DIR, or --replace what is there (it is kept beside)"));
        }
    };
    let (dry_run, force) = (invocation.is_set(&DRY_RUN), invocation.is_set(&FORCE));
    Ok(Job::Restore(Box::new(Restore { seq, paths, place, dry_run, force })))
}

/// `restore --service NAME [COPY]`
fn restore_of_service(invocation: &Invocation, service: String, words: &[OsString]) -> Result<Wanted, UsageError> {
    if invocation.is_set(&INTO) || invocation.is_set(&REPLACE) {
        return Err(UsageError::of("--service says where to: the data of the service comes into its place"));
    }
    let number = |word: &OsString| {
        let seq = word.to_str().and_then(|word| word.parse::<u64>().ok());
        seq.ok_or_else(|| {
            UsageError::of(format!(
                "{word:?} is no number of a copy; with --service the sets and the paths follow from the data of the service"
            ))
        })
    };
    match words {
        [] => Ok(Wanted::RestoreService { service, seq: None }),
        [seq] => Ok(Wanted::RestoreService { service, seq: Some(number(seq)?) }),
        [_, more, ..] => Err(UsageError::of(format!("copies restore --service takes nothing after {more:?}"))),
    }
}

/// The agent has another working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, UsageError> {
    std::path::absolute(&path).map_err(|error| UsageError::of(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    fn of(line: &str) -> Result<Wanted, String> {
        let words = std::iter::once("copies").chain(line.split_whitespace()).map(Into::into);
        args::parse(words).and_then(|invocation| wanted(&invocation)).map_err(|error| error.to_string())
    }

    fn job(line: &str) -> Job {
        match of(line) {
            Ok(Wanted::Job { set, job }) if set == "data" => job,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_become_jobs() {
        let set = || "data".to_owned();
        assert_eq!(of(""), Ok(Wanted::Table));
        assert_eq!(of("list data"), Ok(Wanted::List { set: set() }));
        assert_eq!(of("prune data --dry-run"), Ok(Wanted::WouldPrune { set: set() }));
        assert_eq!(job("prune data"), Job::Prune { copies: Vec::new() });
        assert_eq!(job("run data"), Job::Take { cause: Cause::ByHand });
        assert_eq!(job("verify data"), Job::Verify { which: Which::Newest });
        assert_eq!(job("verify data all"), Job::Verify { which: Which::All });
        assert_eq!(job("verify data 7"), Job::Verify { which: Which::One(7) });
        assert_eq!(job("unpin data 7"), Job::Pin { seq: 7, pinned: false });
        assert_eq!(job("init data --claim"), Job::Init { claim: true });
        let restore = |seq, paths: &[&str], place| {
            let paths = paths.iter().map(PathBuf::from).collect();
            Job::Restore(Box::new(Restore { seq, paths, place, dry_run: false, force: false }))
        };
        assert_eq!(
            job("restore data 12 /etc/fstab /srv --into /tmp/x"),
            restore(Some(12), &["/etc/fstab", "/srv"], Place::Into("/tmp/x".into()))
        );
        assert_eq!(job("restore data --replace"), restore(None, &[], Place::Replace));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, said) in [
            ("data", "copies knows no \"data\""),
            ("run", "copies run needs the name of a set"),
            ("run data 3", "takes nothing after \"data\""),
            ("pin data", "copies list data shows them"),
            ("pin data x", "\"x\" is no number of a copy"),
            ("verify data x", "neither a number of a copy"),
            ("restore data", "where to: --into DIR"),
            ("restore data --into /x --replace", "either --into or --replace"),
            ("restore data etc --replace", "etc is not an absolute path"),
            ("run data --dry-run", "--dry-run is for copies restore and prune and failback only"),
            ("--claim", "--claim is for copies init only"),
        ] {
            let error = of(line).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
