//! The `{words}` that are replaced for each replica. Every other brace stays as written, so that JSON and shell need no escapes;
//! a word that is nearly one of ours is pointed out.

use super::super::report::{Item, Report};
use super::super::schema::{Probe, Ready, Service};
use super::super::suggest;

const WORDS: [&str; 6] = ["port", "replica", "name", "release", "run_dir", "service_dir"];

/// Checks every text of a service in which words are replaced.
pub(super) fn service(item: &Item, service: &Service, report: &mut Report) {
    let texts = texts(service);
    for (path, text) in &texts {
        for word in braced(text) {
            match word {
                "port" if service.port.is_none() && !item.is_broken("port") => {
                    let found = report.error(item, path, "`{port}` stands here, but the service has no `port`");
                    found.hint("add the key `port`, such as port: 9001");
                }
                "release" => {
                    report.warning(item, path, "`{release}` is empty: releases are not built yet");
                }
                known if WORDS.contains(&known) => {}
                other => {
                    if let Some(meant) = suggest::closest(other, WORDS) {
                        let message = format!("`{{{other}}}` is none of our words and stays as written");
                        report.warning(item, path, message).hint(format!("did you mean `{{{meant}}}`?"));
                    }
                }
            }
        }
    }
    let tells_apart =
        texts.iter().any(|(_, text)| braced(text).any(|word| matches!(word, "port" | "replica" | "service_dir")));
    if service.replicas > 1 && service.port.is_some() && !tells_apart && item.broken.is_empty() {
        let message =
            format!("{} replicas have ports, but nothing tells them: `{{port}}` stands nowhere", service.replicas);
        report.warning(item, "port", message).hint("pass it in `command` or `env`, such as \"--port\", \"{port}\"");
    }
}

/// The texts between braces, as `expand` in `engine::plan` sees them.
pub(super) fn braced(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('{').filter_map(|(at, _)| {
        let inside = &text[at + 1..];
        let word = &inside[..inside.find('}')?];
        let plain = !word.is_empty() && word.len() <= 16 && word.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
        plain.then_some(word)
    })
}

/// Whether this is one of our words.
pub(super) fn is_known(word: &str) -> bool {
    WORDS.contains(&word)
}

/// Whether any of our words stands in a text.
pub(super) fn any(text: &str) -> bool {
    braced(text).any(|word| WORDS.contains(&word))
}

fn texts(service: &Service) -> Vec<(String, &str)> {
    let mut texts: Vec<(String, &str)> = Vec::new();
    let list = |key: &str, values: &'_ [String]| -> Vec<String> {
        (0..values.len()).map(|at| format!("{key}[{at}]")).collect()
    };
    texts.extend(list("command", &service.command).into_iter().zip(service.command.iter().map(String::as_str)));
    texts.extend(service.env.0.iter().enumerate().map(|(at, (_, value))| (format!("env{{{at}}}"), value.as_str())));
    texts.extend(service.cwd.iter().map(|cwd| ("cwd".to_owned(), cwd.as_str())));
    for (key, paths) in [("can_read", &service.can_read), ("can_write", &service.can_write)] {
        let paths = paths.as_deref().unwrap_or_default();
        texts.extend(list(key, paths).into_iter().zip(paths.iter().map(String::as_str)));
    }
    texts.extend(list("listen", &service.listen).into_iter().zip(service.listen.iter().map(String::as_str)));
    match &service.ready {
        Ready::Tcp(text) | Ready::Http(text) | Ready::Log(text) => texts.push(("ready".to_owned(), text)),
        Ready::Exec(words) => texts.extend(list("ready", words).into_iter().zip(words.iter().map(String::as_str))),
        Ready::Started | Ready::Notify | Ready::Fd(_) => {}
    }
    match service.alive.as_ref().map(|alive| &alive.probe) {
        Some(Probe::Tcp(text) | Probe::Http(text)) => texts.push(("alive.probe".to_owned(), text)),
        Some(Probe::Exec(words)) => {
            texts.extend(list("alive.probe", words).into_iter().zip(words.iter().map(String::as_str)))
        }
        None => {}
    }
    texts
}
