//! What a child becomes between clone and exec: user, command, directory, limits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::look::{COMMAND_PATH, Command};
use super::super::report::Item;
use super::super::schema::Service;
use super::super::suggest;
use super::{Scope, access, env, no_zero_byte, sockets, words};
use crate::engine::plan::{ProcessPlan, ServicePlan, User, expand};

/// Strings of one command.
const COMMAND_WORDS_MAX: usize = 4_096;

/// In the order of their numbers (capability.h).
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Whom the service runs as: for the checks below always, for the plan only when it differs from the agent's own user.
pub(super) struct RunAs {
    pub(super) user: User,
    pub(super) plan: Option<User>,
}

/// The name of a capability, as it is written in the file.
pub(in crate::config) fn capability_name(number: u8) -> Option<&'static str> {
    CAPABILITIES.get(usize::from(number)).copied()
}

/// Whom the agent runs as.
pub(super) fn own_user(scope: &Scope<'_>) -> User {
    let uid = scope.context.uid;
    scope.context.look.user(&uid.to_string()).unwrap_or_else(|| User {
        name: uid.to_string(),
        uid,
        gid: uid,
        groups: vec![uid],
        home: "/".to_owned(),
        shell: "/bin/sh".to_owned(),
    })
}

/// Looks up `user` and `group`.
pub(super) fn user(item: &Item, service: &Service, scope: &mut Scope<'_>) -> RunAs {
    let look = &scope.context.look;
    let own = own_user(scope);
    let mut user = own.clone();
    if let Some(name) = &service.user {
        match look.user(name) {
            Some(known) => user = known,
            None => {
                let hint = suggest::did_you_mean(name, look.user_names())
                    .unwrap_or_else(|| format!("adduser --system --group {name}"));
                scope.report.error(item, "user", format!("there is no user {name:?} in /etc/passwd")).hint(hint);
                return RunAs { user: own, plan: None };
            }
        }
    }
    if let Some(name) = &service.group {
        match look.group(name) {
            Some(gid) => {
                user.gid = gid;
                if !user.groups.contains(&gid) {
                    user.groups.push(gid);
                    user.groups.sort_unstable();
                }
            }
            None => {
                let hint = suggest::did_you_mean(name, look.group_names())
                    .unwrap_or_else(|| format!("addgroup --system {name}"));
                scope.report.error(item, "group", format!("there is no group {name:?} in /etc/group")).hint(hint);
            }
        }
    }
    if scope.context.uid == 0 {
        let plan = (service.user.is_some() || service.group.is_some()).then(|| user.clone());
        return RunAs { user, plan };
    }
    for (key, differs) in [("user", user.uid != own.uid), ("group", user.uid == own.uid && user.gid != own.gid)] {
        if differs {
            let message = format!("the agent runs as {} and cannot start a service as another {key}", own.name);
            scope.report.error(item, key, message).hint(format!("remove `{key}`, or run the agent as root"));
        }
    }
    RunAs { user: own, plan: None }
}

/// Everything of [`ProcessPlan`]; `plan` gives the words.
pub(super) fn process(
    item: &Item,
    service: &Service,
    plan: &ServicePlan,
    run_as: &RunAs,
    scope: &mut Scope<'_>,
) -> ProcessPlan {
    ranges(item, service, scope);
    ProcessPlan {
        access: access::access(item, service, plan, scope).map(Box::new),
        command: command(item, "command", &service.command, plan, &run_as.user, scope),
        cwd: service.cwd.as_ref().map(|cwd| directory(item, cwd, plan, scope)),
        env: env::env(item, service, &run_as.user, scope),
        user: run_as.plan.clone().map(Box::new),
        umask: service.umask,
        rlimits: rlimits(item, service, scope),
        nice: service.nice,
        oom_score_adj: service.oom_score_adj,
        no_new_privileges: service.no_new_privileges,
        capabilities: service.capabilities.as_ref().map(|names| capabilities(item, names, scope)),
        listen: sockets::listen(item, service, plan, scope),
    }
}

fn ranges(item: &Item, service: &Service, scope: &mut Scope<'_>) {
    if service.umask > 0o777 {
        let found = scope.report.error(item, "umask", format!("{:#o} is no umask: 0o000 to 0o777", service.umask));
        found.hint("write it in octal, such as 0o027");
    }
    if !(-20..=19).contains(&service.nice) {
        scope.report.error(item, "nice", format!("{} is no nice value: -20 (first) to 19 (last)", service.nice));
    }
    if !(-1_000..=1_000).contains(&service.oom_score_adj) {
        scope.report.error(
            item,
            "oom_score_adj",
            format!("{} is out of range: -1000 (never) to 1000 (first)", service.oom_score_adj),
        );
    }
    if scope.context.uid != 0 {
        for (key, value) in [("nice", service.nice), ("oom_score_adj", service.oom_score_adj)] {
            if value < 0 {
                scope.report.warning(item, key, format!("a negative `{key}` needs root: the start may fail"));
            }
        }
    }
}

/// Looks a command up and returns it with an absolute path; also for the probes' commands.
pub(super) fn command(
    item: &Item,
    path: &str,
    command: &[String],
    plan: &ServicePlan,
    user: &User,
    scope: &mut Scope<'_>,
) -> Vec<String> {
    if command.is_empty() {
        let message = if path == "command" { "the key `command` is missing or empty" } else { "an empty command" };
        let hint = "write a list such as [\"/usr/bin/api\", \"--port\", \"{port}\"]";
        scope.report.error(item, path, message).hint(hint);
        return Vec::new();
    }
    let words = plan.words(0, scope.run_dir);
    let cwd = plan.process.cwd.as_ref().filter(|_| !item.is_broken("cwd"));
    let cwd = cwd.map(|cwd| expand(&cwd.to_string_lossy(), &words));
    let program = expand(&command[0], &words);
    let mut resolved = command.to_vec();
    if let Some(absolute) = program_of(item, path, command, &program, cwd.as_deref(), user, scope)
        && !words::any(&command[0])
    {
        resolved[0] = absolute;
    }
    resolved
}

/// The absolute path of the program of a command that is not empty; `program` is its first word with the words replaced.
/// `None`: it is refused, and the report says why.
pub(super) fn program_of(
    item: &Item,
    path: &str,
    command: &[String],
    program: &str,
    cwd: Option<&str>,
    user: &User,
    scope: &mut Scope<'_>,
) -> Option<String> {
    let first = format!("{path}[0]");
    if program.is_empty() {
        scope.report.error(item, &first, "an empty command");
        return None;
    }
    if command.len() > COMMAND_WORDS_MAX {
        scope.report.error(item, path, format!("a command has at most {COMMAND_WORDS_MAX} words"));
    }
    let whole =
        command.iter().enumerate().all(|(index, word)| no_zero_byte(item, &format!("{path}[{index}]"), word, scope));
    if !whole {
        return None;
    }
    if program == "mainstay"
        && let Some(own) = &scope.context.own_binary
    {
        return Some(own.to_string_lossy().into_owned());
    }
    if program.contains('/') && !program.starts_with('/') {
        let hint = match cwd {
            Some(cwd) => format!("write {:?}", Path::new(cwd).join(program.trim_start_matches("./"))),
            None => "it must start with /, or be a bare name".to_owned(),
        };
        scope.report.error(item, &first, format!("{program:?} is not an absolute path")).hint(hint);
        return None;
    }
    match scope.context.look.command(program, user) {
        Command::Found(absolute) => Some(absolute.to_string_lossy().into_owned()),
        other => {
            refuse(item, &first, command, program, &other, user, scope);
            None
        }
    }
}

fn refuse(
    item: &Item,
    path: &str,
    command: &[String],
    program: &str,
    found: &Command,
    user: &User,
    scope: &mut Scope<'_>,
) {
    let who = &user.name;
    let (message, hint) = match found {
        Command::Found(_) => return,
        Command::NotFound if program.contains('/') => (format!("{program} does not exist"), None),
        Command::NotFound => {
            let message = format!("there is no command {program:?} in {}", COMMAND_PATH.join(":"));
            let split = program.contains(' ') && command.len() == 1;
            let words: Vec<String> = program.split_whitespace().map(|word| format!("{word:?}")).collect();
            (
                message,
                Some(if split {
                    format!("write each word by itself: [{}]", words.join(", "))
                } else {
                    "write its absolute path".to_owned()
                }),
            )
        }
        Command::Directory(at) => (format!("{} is a directory", at.display()), None),
        Command::NotExecutable(at) => {
            (format!("{} is not executable for {who}", at.display()), Some(format!("chmod +x {}", at.display())))
        }
        Command::NoEntry(at, directory) => {
            (format!("{who} cannot reach {}: no permission to enter {}", at.display(), directory.display()), None)
        }
        Command::NoInterpreter(at, interpreter) => {
            (format!("{} is a script for {interpreter}, which does not exist", at.display()), None)
        }
        Command::Unreadable(at, error) => (format!("cannot look at {}: {error}", at.display()), None),
    };
    scope.report.error(item, path, message).maybe_hint(hint);
}

fn directory(item: &Item, cwd: &str, plan: &ServicePlan, scope: &mut Scope<'_>) -> PathBuf {
    let expanded = expand(cwd, &plan.words(0, scope.run_dir));
    if !no_zero_byte(item, "cwd", cwd, scope) {
        return PathBuf::new();
    }
    if !expanded.starts_with('/') {
        scope.report.error(item, "cwd", format!("{cwd:?} is not an absolute path")).hint("it must start with /");
    } else if !Path::new(&expanded).starts_with(scope.run_dir) && !scope.context.look.is_directory(Path::new(&expanded))
    {
        // Perhaps it is mounted later: then the start succeeds, so this is no error.
        scope.report.warning(
            item,
            "cwd",
            format!("there is no directory {expanded}: the service cannot start until there is"),
        );
    }
    PathBuf::from(cwd)
}

fn rlimits(item: &Item, service: &Service, scope: &mut Scope<'_>) -> BTreeMap<String, (u64, u64)> {
    let mut limits = BTreeMap::new();
    for (name, limit) in service.rlimits.given() {
        if limit.0 > limit.1 {
            let message = format!("the soft limit {} is above the hard limit {}", limit.0, limit.1);
            scope.report.error(item, &format!("rlimits.{name}"), message);
        }
        limits.insert(name.to_owned(), (limit.0, limit.1));
    }
    limits
}

fn capabilities(item: &Item, names: &[String], scope: &mut Scope<'_>) -> Vec<u8> {
    if scope.context.uid != 0 && !names.is_empty() {
        scope.report.error(item, "capabilities", "only an agent that runs as root can give capabilities");
    }
    let mut numbers = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        match CAPABILITIES.iter().position(|known| *known == bare).and_then(|number| u8::try_from(number).ok()) {
            Some(number) => numbers.push(number),
            None => {
                let found = scope.report.error(
                    item,
                    &format!("capabilities[{index}]"),
                    format!("there is no capability {name:?}"),
                );
                found.maybe_hint(suggest::did_you_mean(bare, CAPABILITIES));
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
