//! Readiness and liveness: addresses that need no name service, commands, descriptors.

use std::net::SocketAddr;

use super::super::report::Item;
use super::super::schema::{self, Service};
use super::process::{self, RunAs};
use super::{Scope, no_zero_byte, positive};
use crate::engine::plan::{Alive, Probe, Readiness, ServicePlan, expand};
use crate::engine::types::human;

/// The first descriptor after stdin, stdout and stderr.
const FD_MIN: i32 = 3;
/// Far below any limit of open files.
const FD_MAX: i32 = 255;
/// The text of `Log(..)`: the logs role looks for it in every line until the service is ready.
const LOG_TEXT_BYTES_MAX: usize = 1_024;

pub(super) fn ready(
    item: &Item,
    service: &Service,
    plan: &ServicePlan,
    user: &RunAs,
    scope: &mut Scope<'_>,
) -> Readiness {
    match &service.ready {
        schema::Ready::Started => Readiness::Started,
        schema::Ready::Notify => Readiness::Notify,
        schema::Ready::Fd(number) => Readiness::Fd(descriptor(item, *number, service.listen.len(), scope)),
        schema::Ready::Tcp(address) => Readiness::Probe(tcp(item, "ready", address, plan, scope)),
        schema::Ready::Http(url) => Readiness::Probe(http(item, "ready", url, plan, scope)),
        schema::Ready::Exec(words) => {
            Readiness::Probe(Probe::Exec(process::command(item, "ready", words, plan, &user.user, scope)))
        }
        schema::Ready::Log(text) => {
            if text.is_empty() {
                scope.report.error(item, "ready", "an empty text: every line would contain it");
            } else if text.contains('\n') || text.len() > LOG_TEXT_BYTES_MAX {
                let message = format!("the text must be part of one line, of at most {LOG_TEXT_BYTES_MAX} bytes");
                scope.report.error(item, "ready", message);
            }
            Readiness::Log(text.clone())
        }
    }
}

pub(super) fn alive(
    item: &Item,
    given: &schema::Alive,
    plan: &ServicePlan,
    user: &RunAs,
    scope: &mut Scope<'_>,
) -> Option<Alive> {
    let probe = match &given.probe {
        schema::Probe::Tcp(address) => tcp(item, "alive.probe", address, plan, scope),
        schema::Probe::Http(url) => http(item, "alive.probe", url, plan, scope),
        schema::Probe::Exec(words) => {
            Probe::Exec(process::command(item, "alive.probe", words, plan, &user.user, scope))
        }
    };
    for (key, count) in [("fall", given.fall), ("rise", given.rise)] {
        if count == 0 {
            scope.report.error(item, &format!("alive.{key}"), format!("`{key}` must be at least 1"));
        }
    }
    let every = positive(item, "alive.every", given.every, scope);
    let timeout = positive(item, "alive.timeout", given.timeout, scope);
    if timeout > every {
        let message = format!("a probe may take {}, longer than the {} between two", human(timeout), human(every));
        scope.report.warning(item, "alive.timeout", message).hint("the next probe waits for the answer");
    }
    Some(Alive { probe, every, timeout, fall: given.fall.max(1), rise: given.rise.max(1) })
}

fn descriptor(item: &Item, number: i32, sockets: usize, scope: &mut Scope<'_>) -> i32 {
    let handed_over = FD_MIN + i32::try_from(sockets).unwrap_or(0);
    if number < FD_MIN {
        let message = format!("descriptor {number} is stdin, stdout or stderr");
        scope.report.error(item, "ready", message).hint(format!("use Fd({handed_over}) or a higher one"));
    } else if number < handed_over && !item.is_broken("listen") {
        let message = format!("descriptor {number} is one of the sockets of `listen` (3 to {})", handed_over - 1);
        scope.report.error(item, "ready", message).hint(format!("use Fd({handed_over}) or a higher one"));
    } else if number > FD_MAX {
        scope.report.error(item, "ready", format!("descriptor {number} is too high: at most {FD_MAX}"));
    }
    number
}

fn tcp(item: &Item, path: &str, address: &str, plan: &ServicePlan, scope: &mut Scope<'_>) -> Probe {
    target(item, path, address, plan, scope);
    Probe::Tcp(address.to_owned())
}

/// Completes `http://host` to `http://host:80/`.
fn http(item: &Item, path: &str, url: &str, plan: &ServicePlan, scope: &mut Scope<'_>) -> Probe {
    let Some(rest) = url.strip_prefix("http://") else {
        let found = scope.report.error(item, path, format!("{url:?} does not start with http://"));
        found.maybe_hint(
            url.starts_with("https://").then(|| "TLS is not spoken: use Exec with a program such as curl".to_owned()),
        );
        return Probe::Http(url.to_owned());
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at(end);
    if tail.chars().any(|c| c.is_control() || c.is_whitespace() || !c.is_ascii() || c == '#') {
        scope
            .report
            .error(item, path, "the path may hold no space, fragment, control or non-ASCII character")
            .hint("write it %-encoded");
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.contains(']'));
    let host = if has_port || host.is_empty() { host.to_owned() } else { format!("{host}:80") };
    target(item, path, &host, plan, scope);
    let tail = if tail.starts_with('/') { tail.to_owned() } else { format!("/{tail}") };
    Probe::Http(format!("http://{host}{tail}"))
}

/// Checks `host:port` with the words of the first replica: numeric, or `localhost`.
fn target(item: &Item, path: &str, text: &str, plan: &ServicePlan, scope: &mut Scope<'_>) {
    // A missing `{port}` has been reported already.
    if item.is_broken("port")
        || !no_zero_byte(item, path, text, scope)
        || (plan.port.is_none() && text.contains("{port}"))
    {
        return;
    }
    let expanded = expand(text, &plan.words(0, scope.run_dir));
    let numeric = expanded.strip_prefix("localhost:").map_or(expanded.clone(), |port| format!("127.0.0.1:{port}"));
    match numeric.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            scope.report.error(item, path, format!("nothing can be reached at port 0 ({expanded:?})"));
        }
        Ok(_) => {}
        Err(_) => {
            let message = format!("{expanded:?} is not a numeric address (or localhost) with a port");
            let hint = match expanded.rsplit_once(':') {
                None => format!(
                    "write {:?}",
                    format!("127.0.0.1:{}", if expanded.parse::<u16>().is_ok() { &expanded } else { "8080" })
                ),
                Some((host, _)) if host.matches(':').count() > 0 && !host.starts_with('[') => {
                    "write IPv6 as [::1]:8080".to_owned()
                }
                Some(_) => {
                    "names are not looked up, so that a probe never waits for a name service: write 127.0.0.1:8080"
                        .to_owned()
                }
            };
            scope.report.error(item, path, message).hint(hint);
        }
    }
}
