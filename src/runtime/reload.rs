//! `reload`: a loader child looks at the configuration; the engine applies it, or nothing changes.

use super::key::Key;
use super::load::{self, Accepted, Answer, Loader, Refused};
use super::roles;
use super::saved_plan;
use super::serve::{self, ReloadAsked};
use super::{Agent, now};
use crate::api::error::{ApiError, Code};
use crate::config::Diagnostic;
use crate::engine::action::{Change, Level};
use crate::engine::event::Event;
use crate::engine::plan::{AgentPlan, Plan, Role};
use crate::engine::types::Time;
use crate::sys::epoll::Interest;
use crate::sys::host;

/// A reload whose loader is at work.
#[derive(Debug)]
pub(super) struct Reloading {
    loader: Loader,
    asked: ReloadAsked,
    deadline: Time,
}

impl Reloading {
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }
}

impl Agent {
    /// Starts the loader; one at a time.
    pub(super) fn start_reload(&mut self, asked: ReloadAsked) {
        if self.reloading.is_some() {
            return self.refuse(&asked, "another reload is being looked at");
        }
        match Loader::start(self.about.config.as_deref()) {
            Ok(loader) => {
                self.systemd.reloading();
                self.shell.listen_to(loader.descriptor(), Key::Loader, Interest::READ);
                let deadline = now().mono.after(load::DEADLINE);
                self.reloading = Some(Reloading { loader, asked, deadline });
            }
            Err(error) => self.refuse(&asked, &format!("cannot start the loader: {error}")),
        }
    }

    /// The loader's answer is coming.
    pub(super) fn loader_ready(&mut self) {
        let Some(reloading) = &mut self.reloading else { return };
        let Some(answer) = reloading.loader.turn() else { return };
        let Some(asked) = self.end_loader() else { return };
        match answer {
            Ok(Answer::Accepted(accepted)) => self.accept(asked, *accepted),
            Ok(Answer::Refused(Refused { diagnostics, .. })) => {
                self.remark_refusal(&format!("{} errors, the first: {}", diagnostics.len(), first_line(&diagnostics)));
                self.respond_reload(&asked, Err(&diagnostics));
            }
            Err(error) => self.refuse(&asked, &error),
        }
    }

    /// A loader that does not answer is left to its fate (it may not even be killable) and the old configuration stays.
    pub(super) fn expire_reload(&mut self) {
        let due = self.reloading.as_ref().is_some_and(|reloading| reloading.deadline <= now().mono);
        if !due {
            return;
        }
        let sentence = load::timed_out(self.about.config.as_deref());
        if let Some(asked) = self.end_loader() {
            self.refuse(&asked, &sentence);
        }
    }

    fn end_loader(&mut self) -> Option<ReloadAsked> {
        let Reloading { loader, asked, .. } = self.reloading.take()?;
        self.shell.forget(loader.descriptor());
        loader.into_helper().end();
        // It may be reaped as an orphan.
        self.orphans_wait = true;
        self.systemd.reloaded();
        self.settling.again();
        Some(asked)
    }

    fn accept(&mut self, asked: ReloadAsked, accepted: Accepted) {
        let Accepted { mut plan, warnings, .. } = accepted;
        for warning in warnings {
            log::warn!("{}", warning.to_string().trim_end());
        }
        if plan.agent.starting_max.is_none() {
            plan.agent.starting_max = u32::try_from(2 * host::cpus()).ok();
        }
        let plan = roles::with_roles(plan, host::uid() == 0);
        // Also before it is kept for the next agent.
        if let Some(why) = self.engine.refusal(&plan) {
            return self.refuse_as(&asked, Code::ServiceConflict, &why);
        }
        if asked.dry_run {
            let changes = self.engine.preview(&plan);
            return self.respond_reload(&asked, Ok(&changes));
        }
        let plan = self.keep_fixed_settings(plan);
        self.tell_what_the_proxy_is_not(&plan);
        saved_plan::save(&self.shell.directories.run, &self.shell.boot_id, &roles::without_roles(&plan));
        self.about.config_loaded = true;
        let request = asked.connection.map(|connection| serve::expect_reload(&mut self.answers, connection));
        self.shell.events.push_back(Event::Reload { request, caller: asked.caller, plan: Box::new(plan) });
    }

    /// Directories and groups are fixed for the life of an agent: a change is told and takes effect at its next start.
    fn keep_fixed_settings(&mut self, mut plan: Plan) -> Plan {
        let old = &self.engine.plan().agent;
        let new = &plan.agent;
        let fixed = [
            ("run_dir", old.run_dir != new.run_dir),
            ("state_dir", old.state_dir != new.state_dir),
            ("log_dir", old.log_dir != new.log_dir),
            ("admin_group", old.admin_gid != new.admin_gid),
            ("cgroup", old.cgroup != new.cgroup),
        ];
        let changed: Vec<&str> = fixed.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        if !changed.is_empty() {
            let text =
                format!("reload: agent.{} changes at the next start of the agent only", changed.join(", agent."));
            self.shell.events.push_back(Event::Remark { level: Level::Warn, text });
        }
        plan.agent = AgentPlan {
            run_dir: old.run_dir.clone(),
            state_dir: old.state_dir.clone(),
            log_dir: old.log_dir.clone(),
            admin_gid: old.admin_gid,
            cgroup: old.cgroup.clone(),
            ..plan.agent
        };
        plan
    }

    /// A process cannot become another user, or enter a group, once it has given up root: the proxy stays who it was at its start.
    fn tell_what_the_proxy_is_not(&mut self, plan: &Plan) {
        let runs = self.engine.service(Role::Proxy.service_name(), now()).is_some();
        if !runs || host::uid() != 0 {
            return;
        }
        let user = |plan: &Plan| plan.agent.proxy_user.as_ref().map(|user| (user.uid, user.gid));
        if user(self.engine.plan()) != user(plan) {
            let text =
                "reload: the proxy runs as its old user until `mainstay restart @proxy`, which resets its connections";
            self.shell.events.push_back(Event::Remark { level: Level::Warn, text: text.to_owned() });
        }
        let missing = roles::groups_missing(self.engine.plan(), plan);
        if !missing.is_empty() {
            let groups = missing.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            let text = format!(
                "reload: the proxy runs without group {groups}, which it needs for the Unix sockets of a service; \
                 `mainstay restart @proxy` starts it with it, and resets its connections"
            );
            self.shell.events.push_back(Event::Remark { level: Level::Warn, text });
        }
    }

    fn refuse(&mut self, asked: &ReloadAsked, why: &str) {
        self.refuse_as(asked, Code::AgentUnavailable, why);
    }

    fn refuse_as(&mut self, asked: &ReloadAsked, code: Code, why: &str) {
        self.remark_refusal(why);
        if let Some(connection) = asked.connection {
            let error = ApiError::new(code, why).hint("nothing was changed");
            self.server.respond(now().mono.0, connection, error.response());
        }
    }

    fn respond_reload(&mut self, asked: &ReloadAsked, result: Result<&[Change], &[Diagnostic]>) {
        let Some(connection) = asked.connection else { return };
        let response = serve::reload_response(result, &self.stamp());
        self.server.respond(now().mono.0, connection, response);
    }

    fn remark_refusal(&mut self, why: &str) {
        self.about.config_loaded = false;
        self.shell.events.push_back(Event::ReloadRefused { why: why.to_owned() });
    }
}

fn first_line(diagnostics: &[Diagnostic]) -> String {
    let text = diagnostics.first().map(ToString::to_string).unwrap_or_default();
    text.lines().take(2).map(str::trim).collect::<Vec<_>>().join(" ")
}
