//! API requests -> answers. What can be answered from the engine's view is answered at once; verbs become events and are
//! answered when the engine says so; streams are handed to the logs role.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::balancers;
use super::figures::{Figures, WantedFor};
use super::handoff;
use super::shell::Shell;
use super::streams::Streams;
use super::usage::Usages;
use crate::api::error::{ApiError, Code};
use crate::api::http::{CONTENT_METRICS, CONTENT_TEXT, Response};
use crate::api::render::{Applied, Stamp};
use crate::api::route::{EventsSince, LINKS, LogTarget, Request, Roles, Socket};
use crate::api::server::{ConnectionId, Incoming, Server};
use crate::api::{checks, copies, fences, host, metrics, proto, render};
use crate::config::Diagnostic;
use crate::engine::Engine;
use crate::engine::action::{Change, Outcome};
use crate::engine::balance::plan::Delivery;
use crate::engine::copies::event::CopyEvent;
use crate::engine::copies::order::Job;
use crate::engine::copies::restore_service::RestoreAsked;
use crate::engine::event::{Caller, Event, Target, Verb, Wait};
use crate::engine::types::{Now, RequestId, StateName};
use crate::engine::view::ServiceView;
use crate::logs::proto::{Serve, StreamFilter};
use crate::sys::packet::Peer;
use crate::sys::{clock, process};

/// Verbs that may wait for their outcome at once.
const WAITING_MAX: usize = 64;

/// What the answers need to know of the agent itself.
#[derive(Debug)]
pub(super) struct About {
    pub started: Now,
    pub config: Option<PathBuf>,
    /// The latest load of the configuration was accepted.
    pub config_loaded: bool,
    /// What cannot be promised on this host.
    pub limits: Vec<String>,
    pub facts: host::Facts,
}

/// A verb under way: whom to answer, and with what name.
#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    service: String,
    replica: Option<u16>,
    wait: Wait,
}

/// Verbs and reloads whose outcome somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Answers {
    next: u64,
    waiting: BTreeMap<RequestId, Waiting>,
    outcomes: Vec<(RequestId, Outcome)>,
}

impl Answers {
    /// An outcome from the engine; sent by [`Answers::send`] after the actions are performed.
    pub(super) fn answer(&mut self, request: RequestId, outcome: Outcome) {
        self.outcomes.push((request, outcome));
    }

    /// Sends the outcomes that have come. A client that has gone is no matter.
    pub(super) fn send(&mut self, server: &mut Server, stamp: &Stamp) {
        for (request, outcome) in self.outcomes.drain(..) {
            let Some(waiting) = self.waiting.remove(&request) else { continue };
            let Waiting { connection, service, replica, wait } = waiting;
            let response = render::outcome(&outcome, &service, replica, wait, stamp);
            server.respond(stamp.now.mono.0, connection, response);
        }
    }

    fn expect(&mut self, waiting: Waiting) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        self.waiting.insert(request, waiting);
        request
    }

    fn is_full(&mut self, server: &Server) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.retain(|_, waiting| server.is_open(waiting.connection));
        }
        self.waiting.len() >= WAITING_MAX
    }
}

/// A reload that was asked for; the loop starts the loader and answers.
#[derive(Debug)]
pub(super) struct ReloadAsked {
    pub connection: Option<ConnectionId>,
    pub caller: Caller,
    pub dry_run: bool,
}

/// Everything one turn of answering works with.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub shell: &'a mut Shell,
    pub engine: &'a Engine,
    pub server: &'a mut Server,
    pub answers: &'a mut Answers,
    pub streams: &'a mut Streams,
    pub usages: &'a mut Usages,
    pub about: &'a About,
    pub now: Now,
}

impl Desk<'_> {
    /// Handles one request; a reload is returned to the loop.
    pub(super) fn handle(&mut self, incoming: Incoming) -> Option<ReloadAsked> {
        let Incoming { connection, request, peer, socket } = incoming;
        let response = match request {
            Request::Index => Ok(self.index()),
            Request::Services { roles } => Ok(self.services(roles, socket)),
            Request::Service { name } => self.service(&name, socket),
            Request::Why { name } => self.why(&name, socket),
            Request::Config => Ok(self.config()),
            Request::Balancers => return self.ask_proxy(connection, WantedFor::Balancers),
            Request::Checks => Ok(Response::json(200, &checks::checks(&self.engine.checks(self.now), &self.stamp()))),
            Request::Host => Ok(self.host()),
            Request::Metrics => return self.ask_proxy(connection, WantedFor::Metrics),
            Request::Healthz => Ok(Response::text(200, CONTENT_TEXT, "ok\n".to_owned())),
            Request::Readyz => Ok(self.readyz()),
            Request::Logs { targets, tail, since_unix_ms, follow } => match self.log_filters(targets) {
                Ok(streams) => {
                    return self.stream(connection, Serve::Logs { streams, tail, since_unix_ms, follow });
                }
                Err(error) => Err(error),
            },
            Request::Events { since, tail, follow } => {
                let (since_seq, since_unix_ms) = match since {
                    EventsSince::Beginning => (None, None),
                    EventsSince::Seq(seq) => (Some(seq), None),
                    EventsSince::UnixMs(ms) => (None, Some(ms)),
                };
                return self.stream(connection, Serve::Events { since_seq, since_unix_ms, tail, follow });
            }
            Request::Copies => Ok(Response::json(200, &copies::copies(&self.engine.copies(self.now), &self.stamp()))),
            Request::CopySet { name } => self.copy_set(&name),
            Request::CopyVerb { set, job, wait } => return self.copy_verb(connection, set, job, wait, &peer),
            Request::RestoreService { service, asked } => {
                return self.restore_service(connection, service, asked, &peer);
            }
            Request::Fences => Ok(Response::json(200, &fences::fences(&self.engine.fences(self.now), &self.stamp()))),
            Request::FenceRecord { id } => self.fence_record(id),
            Request::Verb { service, replica, verb, wait, why } => {
                let target = Target { service, replica, wait, why };
                return self.verb(connection, verb, target, &peer);
            }
            Request::Reload { dry_run } => {
                return Some(ReloadAsked { connection: Some(connection), caller: caller(&peer), dry_run });
            }
        };
        self.respond(connection, response.unwrap_or_else(|error| error.response()));
        None
    }

    /// Answers that need the proxy's counters: at once where there are none, else when they have come ([`Desk::answer_inquiry`]).
    fn ask_proxy(&mut self, connection: ConnectionId, wanted: WantedFor) -> Option<ReloadAsked> {
        let needed = self.engine.plan().balancers.iter().any(|balancer| balancer.delivery != Delivery::Shared);
        let figures = match (needed, self.shell.proxy.is_connected()) {
            (false, _) => Figures::NotNeeded,
            (true, false) => Figures::NotConnected,
            (true, true) => {
                self.shell.inquiry.ask(&mut self.shell.proxy, connection, wanted, self.now.mono);
                return None;
            }
        };
        self.answer_with(&[(connection, wanted)], &figures);
        None
    }

    /// Answers those who wait for the proxy's counters, if these have come or will not come.
    pub(super) fn answer_inquiry(&mut self) {
        let connected = self.shell.proxy.is_connected();
        if let Some((waiting, figures)) = self.shell.inquiry.take(connected, self.now.mono) {
            for (connection, wanted) in waiting {
                let (is_reader, before_ns) = (self.server.is_reader(connection), clock::thread_cpu_ns());
                self.answer_with(&[(connection, wanted)], &figures);
                if is_reader {
                    self.server.charge_readers(self.now.mono.0, clock::thread_cpu_ns().saturating_sub(before_ns));
                }
            }
        }
    }

    fn answer_with(&mut self, waiting: &[(ConnectionId, WantedFor)], figures: &Figures) {
        for (connection, wanted) in waiting {
            let response = match wanted {
                WantedFor::Balancers => Response::json(200, &self.balancers(figures).list()),
                WantedFor::Metrics => self.metrics(figures),
            };
            self.respond(*connection, response);
        }
    }

    fn balancers<'a>(&'a self, figures: &'a Figures) -> balancers::Known<'a> {
        balancers::Known {
            engine: self.engine,
            listeners: &self.shell.listeners,
            ejections: &self.shell.ejections,
            without_channel: handoff::missing(self.shell, self.engine.plan()),
            figures,
            stamp: self.stamp(),
        }
    }

    fn respond(&mut self, connection: ConnectionId, response: Response) {
        self.server.respond(self.now.mono.0, connection, response);
    }

    fn stamp(&self) -> Stamp {
        Stamp { now: self.now, seq: self.shell.journal.seq() }
    }

    fn index(&self) -> Response {
        let stamp = self.stamp();
        Response::json(
            200,
            &proto::Index {
                at: stamp.at(),
                seq: stamp.seq,
                name: "mainstay".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_at: Stamp { now: self.about.started, seq: 0 }.at(),
                config: config_name(self.about),
                limits: self.about.limits.clone(),
                links: LINKS.iter().map(|link| (*link).to_owned()).collect(),
            },
        )
    }

    fn host(&self) -> Response {
        let checks = self.engine.checks(self.now);
        Response::json(200, &host::host(&self.about.facts, self.engine.readings(), &checks, &self.stamp()))
    }

    fn services(&mut self, roles: Roles, socket: Socket) -> Response {
        let views = self.engine.services(self.now);
        self.usages.sample(
            self.shell,
            views.iter().flat_map(|view| &view.replicas).map(|replica| replica.id),
            self.now,
        );
        let usages = &*self.usages;
        let mut services = render::services(&views, roles, &|replica| usages.of(replica), &self.stamp());
        if socket == Socket::Read {
            services.services.iter_mut().for_each(render::conceal);
        }
        Response::json(200, &services)
    }

    fn service(&mut self, name: &str, socket: Socket) -> Result<Response, ApiError> {
        let view = self.engine.service(name, self.now).ok_or_else(|| self.unknown(name))?;
        self.usages.sample(self.shell, view.replicas.iter().map(|replica| replica.id), self.now);
        let usages = &*self.usages;
        let mut detail = render::service_detail(&view, &|replica| usages.of(replica), &self.stamp());
        if socket == Socket::Read {
            render::conceal(&mut detail.service);
        }
        Ok(Response::json(200, &detail))
    }

    fn why(&self, name: &str, socket: Socket) -> Result<Response, ApiError> {
        let views = self.engine.services(self.now);
        let view = views.iter().find(|view| view.plan.name == name).ok_or_else(|| self.unknown(name))?;
        let mut why = render::why(view, &views, &self.stamp());
        if socket == Socket::Read {
            render::conceal_story(&mut why.story);
        }
        Ok(Response::json(200, &why))
    }

    fn fence_record(&self, id: u64) -> Result<Response, ApiError> {
        let unknown = || {
            let error = ApiError::new(Code::FenceUnknown, format!("no record of a fence {id}"));
            error.hint("mainstay fences lists them; older ones are in mainstay events")
        };
        let record = self.engine.fence_record(id).ok_or_else(unknown)?;
        Ok(Response::json(200, &fences::evidence(record, &self.stamp())))
    }

    fn config(&self) -> Response {
        Response::json(200, &render::config(self.engine.plan(), &config_name(self.about), &self.stamp()))
    }

    fn metrics(&mut self, figures: &Figures) -> Response {
        let views = self.engine.services(self.now);
        self.usages.sample(
            self.shell,
            views.iter().flat_map(|view| &view.replicas).map(|replica| replica.id),
            self.now,
        );
        let agent = metrics::Agent {
            version: env!("CARGO_PKG_VERSION"),
            started_unix_s: self.about.started.wall.0 / 1_000_000_000,
            counters: self.engine.counters(),
            seq: self.shell.journal.seq(),
            config_loaded: self.about.config_loaded,
        };
        let balancers = self.balancers(figures).all();
        let checks = self.engine.checks(self.now);
        let fences = self.engine.fences(self.now);
        let copies = self.engine.copies(self.now);
        let host =
            metrics::Host { checks: &checks, copies: &copies, fences: &fences, readings: self.engine.readings() };
        let usages = &*self.usages;
        let tally = self.shell.journal.tally();
        let text = metrics::text(&views, tally, &|replica| usages.of(replica), &agent, &balancers, &host);
        Response::text(200, CONTENT_METRICS, text)
    }

    /// Ready when everything that is wanted is well.
    fn readyz(&self) -> Response {
        let views = self.engine.services(self.now);
        let waiting: Vec<&str> =
            views.iter().filter(|view| view.wanted && !is_well(view)).map(|view| view.plan.name.as_str()).collect();
        match waiting.is_empty() {
            true => Response::text(200, CONTENT_TEXT, "ready\n".to_owned()),
            false => Response::text(503, CONTENT_TEXT, format!("not ready: {}\n", waiting.join(" "))),
        }
    }

    fn unknown(&self, name: &str) -> ApiError {
        render::unknown_service(name, &self.engine.services(self.now))
    }

    fn log_filters(&self, targets: Vec<LogTarget>) -> Result<Vec<StreamFilter>, ApiError> {
        for target in &targets {
            if self.engine.service(&target.service, self.now).is_none() {
                return Err(self.unknown(&target.service));
            }
        }
        Ok(targets.into_iter().map(|target| StreamFilter { service: target.service, index: target.replica }).collect())
    }

    fn stream(&mut self, connection: ConnectionId, request: Serve) -> Option<ReloadAsked> {
        self.streams.ask(connection, request, self.now.mono);
        None
    }

    fn copy_set(&self, name: &str) -> Result<Response, ApiError> {
        let views = self.engine.copies(self.now);
        let view = views.iter().find(|view| view.plan.name == name);
        let view = view.ok_or_else(|| copies::unknown_set(name, views.iter().map(|view| view.plan.name.as_str())))?;
        Ok(Response::json(200, &copies::detail(view, &self.stamp())))
    }

    fn copy_verb(
        &mut self,
        connection: ConnectionId,
        set: String,
        job: Job,
        wait: Wait,
        peer: &Peer,
    ) -> Option<ReloadAsked> {
        let job = match self.whole_job(&set, job) {
            Ok(job) => job,
            Err(error) => {
                self.respond(connection, error.response());
                return None;
            }
        };
        let waiting = Waiting { connection, service: set.clone(), replica: None, wait };
        let request = self.admit(waiting)?;
        let event = CopyEvent::Command { request, caller: caller(peer), set, job, wait };
        self.shell.events.push_back(Event::Copies(Box::new(event)));
        None
    }

    fn restore_service(
        &mut self,
        connection: ConnectionId,
        service: String,
        asked: RestoreAsked,
        peer: &Peer,
    ) -> Option<ReloadAsked> {
        let waiting = Waiting { connection, service: service.clone(), replica: None, wait: asked.wait };
        let request = self.admit(waiting)?;
        let event = CopyEvent::RestoreService { request, caller: caller(peer), service, asked };
        self.shell.events.push_back(Event::Copies(Box::new(event)));
        None
    }

    /// A prune that names no copies is of those that nothing keeps.
    fn whole_job(&self, set: &str, job: Job) -> Result<Job, ApiError> {
        let views = self.engine.copies(self.now);
        let Some(view) = views.iter().find(|view| view.plan.name == set) else {
            return Err(copies::unknown_set(set, views.iter().map(|view| view.plan.name.as_str())));
        };
        match job {
            Job::Prune { copies } if copies.is_empty() => {
                let unkept = view.kept.iter().filter(|kept| kept.reasons.is_empty());
                Ok(Job::Prune { copies: unkept.map(|kept| kept.seq).collect() })
            }
            job => Ok(job),
        }
    }

    /// A place among those who wait; the client is refused when there is none.
    fn admit(&mut self, waiting: Waiting) -> Option<RequestId> {
        if self.answers.is_full(self.server) {
            let error = ApiError::new(Code::AgentUnavailable, format!("{WAITING_MAX} verbs are waiting already"));
            self.respond(waiting.connection, error.response());
            return None;
        }
        Some(self.answers.expect(waiting))
    }

    fn verb(&mut self, connection: ConnectionId, verb: Verb, target: Target, peer: &Peer) -> Option<ReloadAsked> {
        let (service, replica, wait) = (target.service.clone(), target.replica, target.wait);
        let request = self.admit(Waiting { connection, service, replica, wait })?;
        self.shell.events.push_back(Event::Command { request, caller: caller(peer), verb, target });
        None
    }
}

/// A reload's request id, so that the engine's outcome finds its client.
pub(super) fn expect_reload(answers: &mut Answers, connection: ConnectionId) -> RequestId {
    answers.expect(Waiting { connection, service: String::new(), replica: None, wait: Wait::Decision })
}

/// The answer to a reload that never reached the engine (422 with every diagnostic as text), or to a dry run.
#[must_use]
pub(super) fn reload_response(result: Result<&[Change], &[Diagnostic]>, stamp: &Stamp) -> Response {
    match result {
        Ok(changes) => Response::json(200, &render::reloaded(changes, Applied::DryRun, stamp)),
        Err(diagnostics) => {
            let text: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
            ApiError::new(Code::ConfigInvalid, text.join("\n")).hint("nothing was changed").response()
        }
    }
}

/// Fenced as it may be, it does what it is there for.
fn is_well(view: &ServiceView<'_>) -> bool {
    matches!(view.state, StateName::Ready | StateName::Done) && !matches!(view.word, "frozen" | "held")
}

fn config_name(about: &About) -> String {
    match &about.config {
        Some(path) => path.display().to_string(),
        None => "the built-in demo".to_owned(),
    }
}

/// Who asked, for the journal.
fn caller(peer: &Peer) -> Caller {
    let comm = process::process(peer.pid).map(|info| info.comm).unwrap_or_default();
    Caller::Api { uid: peer.uid, pid: peer.pid, comm }
}
