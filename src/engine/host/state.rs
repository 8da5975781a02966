//! What the engine knows of the host, and how an event changes it: the devices, the checks that there are, what is read for them.
//!
//! Everything here is a function of the state, an event and the time. What follows is collected (changes, notes, lists of
//! what to read) and handed out by `host_event` at the end of the step.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alerts::Alerts;
use super::condition::{Condition, FLAP_WITHIN, Latch, Turn};
use super::feeds::{self, Feed, FeedKey};
use super::judge::{Bench, Said, Seen};
use super::kind::CheckKind;
use super::lane::Lane;
use super::note::HostNote;
use super::rules::{Rule, Wishes};
use super::sample::{Devices, Mount, NicKind, Sample};
use super::ties::Troubles;
use super::watch::{Helper, Missing, Order};
use super::watchdog::Dog;
use super::words::quoted;
use super::{Change, CheckKey, Health, HostMemory, pairs};
use crate::engine::action::Level;
use crate::engine::plan::Role;
use crate::engine::types::{Now, ServiceId, Time, human};

/// Checks whose targets the readings tell, at most: a host with more sensors is not helped by more.
const FOUND_MAX: usize = 512;

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Check {
    pub name: String,
    pub rule: Rule,
    /// Somebody names its target: a service that needs it or the configuration.
    pub asked: bool,
    pub value: Option<i64>,
    pub sampled: Option<Time>,
    /// The latest reading that counted for its confirmation.
    pub judged: Option<Time>,
    pub condition: Condition,
}

/// What the engine knows of the host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct HostState {
    pub devices: Devices,
    /// The devices were told, by the checks role or by an earlier agent.
    pub devices_known: bool,
    pub helpers: Vec<Helper>,
    /// Helpers that are not needed any more, until their service is gone.
    pub leaving: Vec<Helper>,
    /// It was said that there are more disks than helpers.
    pub beyond_told: bool,
    /// The state of every check with the reason, as `ties` reads it.
    #[serde(with = "pairs")]
    pub states: BTreeMap<CheckKey, (Health, String)>,
    /// Services whose disk or NIC fails.
    pub troubles: BTreeMap<ServiceId, Troubles>,
    pub alerts: Alerts,
    pub dog: Dog,
    /// What changed in this step and is not yet looked at.
    #[serde(skip)]
    pub changed: Vec<Change>,
    /// What an heir must know is not yet handed out.
    #[serde(skip)]
    pub unsaved: bool,
    pub(super) checks: BTreeMap<CheckKey, Check>,
    pub(super) seen: Seen,
    pub(super) feeds: Vec<Feed>,
    /// Roles whose connection stands.
    linked: Vec<Role>,
    /// What each role was told to read.
    told: Vec<(Role, Vec<Order>)>,
    /// `None`: it was not looked for yet.
    has_gateway: Option<bool>,
    /// Conditions of an earlier agent whose targets are not there (yet).
    #[serde(default)]
    restored: BTreeMap<CheckKey, Condition>,
    /// Two readings are all there will be (`mainstay checks --once`).
    pub(super) once: bool,
    #[serde(skip)]
    pub(super) out: Out,
}

/// What follows from a step.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Out {
    pub notes: Vec<(Level, HostNote)>,
    /// These roles are to be told anew what to read.
    pub watch: Vec<Role>,
}

impl HostState {
    /// For a look without an agent.
    pub(super) fn once(helpers: Vec<Helper>) -> Self {
        Self { once: true, helpers, ..Self::default() }
    }

    /// What an earlier agent of this boot knew, but for its helpers, which are known already. Its conditions hold until a reading says
    /// otherwise.
    pub(super) fn restore(&mut self, memory: HostMemory, wishes: Wishes<'_>, now: Now) {
        self.devices_known = memory.devices.is_some();
        self.devices = memory.devices.unwrap_or_default();
        self.seen.known = memory.known;
        self.restored = memory.checks;
        for condition in self.restored.values_mut() {
            condition.interrupt();
        }
        self.replanned(wishes, now);
    }

    pub(super) fn memory(&self) -> HostMemory {
        let checks = self.checks.iter().filter(|(_, check)| check.condition != Condition::default());
        let waiting = self.restored.iter().map(|(key, condition)| (key.clone(), condition.clone()));
        HostMemory {
            devices: self.devices_known.then(|| self.devices.clone()),
            helpers: self.helpers.iter().chain(&self.leaving).cloned().collect(),
            checks: waiting.chain(checks.map(|(key, check)| (key.clone(), check.condition.clone()))).collect(),
            known: self.seen.known.clone(),
            alerts: self.alerts.lanes.iter().map(Lane::for_heir).collect(),
        }
    }

    pub(super) fn devices_came(&mut self, mut devices: Devices, wishes: Wishes<'_>, now: Now) {
        self.keep_the_dead(&mut devices);
        let before = std::mem::replace(&mut self.devices, devices);
        if std::mem::replace(&mut self.devices_known, true) {
            self.tell_devices(&before);
        }
        if before != self.devices {
            self.unsaved = true;
        }
        self.replanned(wishes, now);
        self.release_replaced(now);
    }

    /// A disk that fell off its bus is gone from /sys while it is still mounted: it is as bad as before, not none of our business.
    fn keep_the_dead(&self, devices: &mut Devices) {
        let Devices { disks, mounts, .. } = devices;
        for mount in mounts.iter_mut().filter(|mount| mount.disk.is_none()) {
            let same = |old: &&Mount| old.point == mount.point && old.source == mount.source && old.disk.is_some();
            let Some(old) = self.devices.mounts.iter().find(same) else { continue };
            (mount.disk, mount.device) = (old.disk.clone(), old.device.clone());
            let lost = self.devices.disks.iter().find(|disk| Some(&disk.name) == old.disk.as_ref());
            if let Some(lost) = lost.filter(|lost| !disks.iter().any(|disk| disk.name == lost.name)) {
                disks.push(lost.clone());
                disks.sort_by(|one, other| one.name.cmp(&other.name));
            }
        }
    }

    /// The plan, the devices or the helpers are others: checks come and go.
    pub(super) fn replanned(&mut self, wishes: Wishes<'_>, now: Now) {
        self.seen.known.only_with_helper(&self.helpers);
        let mut wanted = BTreeMap::new();
        for (kind, target, name, rule) in wishes.checks(&self.devices) {
            wanted.insert(CheckKey { kind, target }, (name, rule));
        }
        // Those whose targets the readings told stay while they are wanted.
        for key in self.checks.keys().filter(|key| key.kind.is_found()) {
            if let Some(found) = wishes.found(key.kind, &key.target) {
                wanted.insert(key.clone(), found);
            }
        }
        let gone: Vec<CheckKey> = self.checks.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            self.drop_check(&key, "it is not checked any more");
        }
        for (key, (name, rule)) in wanted {
            self.put_check(key, name, rule, wishes);
        }
        self.seen.keep_only(&self.devices, &self.checks, &self.restored);
        self.refresh_feeds(wishes, now);
    }

    fn put_check(&mut self, key: CheckKey, name: String, rule: Rule, wishes: Wishes<'_>) {
        let asked = wishes.needs_nic(&key.target)
            || wishes.plans.iter().any(|plan| plan.kind == key.kind && plan.target.as_deref() == Some(&key.target));
        let rule = if self.once { rule.unconfirmed() } else { rule };
        if let Some(check) = self.checks.get_mut(&key) {
            // The bands of a sensor are its own, and told with its readings.
            let keep = (check.rule.degraded, check.rule.failing);
            (check.name, check.rule, check.asked) = (name, rule, asked);
            if key.kind == CheckKind::Temperature {
                check.rule.degraded = check.rule.degraded.or(keep.0);
                check.rule.failing = check.rule.failing.or(keep.1);
            }
            return;
        }
        let condition = self.restored.remove(&key).unwrap_or_default();
        self.states.insert(key.clone(), (condition.state, condition.why.clone()));
        self.checks.insert(key, Check { name, rule, asked, value: None, sampled: None, judged: None, condition });
    }

    /// A check whose target is gone says nothing more; whoever was concerned by it has to know.
    fn drop_check(&mut self, key: &CheckKey, why: &str) {
        let Some(check) = self.checks.remove(key) else {
            return;
        };
        self.states.remove(key);
        self.unsaved |= check.condition.known;
        if check.condition.is_bad() {
            let (name, from) = (check.name, check.condition.state);
            self.tell_change(key.clone(), name, (from, Health::Absent, false), why.to_owned());
        }
    }

    pub(super) fn sampled(&mut self, role: Role, sample: &Sample, wishes: Wishes<'_>, now: Now) {
        self.discover(sample, wishes, now);
        if let Some(key) = FeedKey::of_sample(sample)
            && let Some(feed) = self.feeds.iter_mut().find(|feed| feed.key == key)
        {
            feed.answer(now.mono);
            self.heard(role);
        }
        let said = self.bench(now, |bench| bench.judge(sample));
        self.take(said, now);
        if let Sample::Gateway(gateway) = sample
            && self.has_gateway != Some(gateway.address.is_some())
        {
            self.has_gateway = Some(gateway.address.is_some());
            self.refresh_feeds(wishes, now);
        }
    }

    /// Seen by one of ours, where the kernel may have said nothing.
    pub(super) fn read_failed(&mut self, disk: &str, text: &str, now: Now) {
        let said = self.bench(now, |bench| bench.disk_error(disk, quoted(text)));
        self.take(said, now);
    }

    pub(super) fn bench(&mut self, now: Now, judge: impl FnOnce(&mut Bench<'_>)) -> Vec<Said> {
        let mut bench = Bench {
            checks: &self.checks,
            devices: &self.devices,
            seen: &mut self.seen,
            now: now.mono,
            once: self.once,
            said: Vec::new(),
        };
        judge(&mut bench);
        let said = bench.said;
        self.unsaved |= self.seen.take_changed();
        said
    }

    /// The helper of a disk answers: it is not hung, unless another of its answers is still due.
    fn heard(&mut self, role: Role) {
        let Role::Disk(slot) = role else {
            return;
        };
        let waits = self.feeds.iter().any(|feed| feed.role == role && feed.overdue);
        let disk = self.helpers.iter().find(|helper| helper.slot == slot).and_then(|helper| helper.disk.clone());
        if let Some(disk) = disk.filter(|_| !waits) {
            self.seen.known.disk_answers(&disk);
            self.unsaved |= self.seen.take_changed();
        }
    }

    pub(super) fn take(&mut self, said: Vec<Said>, now: Now) {
        for said in said {
            match said {
                Said::Verdict(key, verdict) => {
                    let Some(check) = self.checks.get_mut(&key) else {
                        continue;
                    };
                    check.value = verdict.value;
                    check.sampled = Some(now.mono);
                    // A source is read for the most eager of its checks, and also when something happens: the others keep their own time.
                    let early = check.judged.is_some_and(|at| now.mono.since(at) < check.rule.every * 3 / 4);
                    if early && verdict.enter >= Health::Ok && !check.condition.turns_at_once(&check.rule, &verdict) {
                        continue;
                    }
                    check.judged = Some(now.mono);
                    let turn = check.condition.judge(&check.rule, verdict, now);
                    self.turned(&key, turn);
                }
                Said::Latch(key, latch) => {
                    if let Some(check) = self.checks.get_mut(&key) {
                        let turn = check.condition.latch(latch, now);
                        self.turned(&key, turn);
                    }
                }
                Said::Release(key) => {
                    if let Some(check) = self.checks.get_mut(&key) {
                        let turn = check.condition.release();
                        self.turned(&key, turn);
                    }
                }
                Said::Bands(key, degraded, failing) => {
                    if let Some(check) = self.checks.get_mut(&key) {
                        (check.rule.degraded, check.rule.failing) = (degraded, failing);
                    }
                }
                Said::Happened(text) => self.out.notes.push((Level::Warn, HostNote::Happened { text })),
                Said::Carrier => {
                    if self.feeds.iter().any(|feed| feed.key == FeedKey::LinkModes) {
                        self.out.watch.push(Role::Sensors);
                    }
                }
            }
        }
    }

    /// Whether the latest reading of a check was as bad as what is shown of it.
    pub(in crate::engine) fn is_as_shown(&self, key: &CheckKey) -> bool {
        self.checks.get(key).is_none_or(|check| check.condition.is_as_shown())
    }

    /// Tells what a turn of a check's condition means.
    pub(super) fn turned(&mut self, key: &CheckKey, turn: Turn) {
        let Some(check) = self.checks.get(key) else {
            return;
        };
        let (name, kind, target) = (check.name.clone(), key.kind, key.target.clone());
        let (state, why) = (check.condition.state, check.condition.why.clone());
        self.unsaved |= turn.kept;
        if let Some(changes) = turn.flapping {
            let (name, target) = (name.clone(), target.clone());
            let note = HostNote::Flapping { name, kind, target, changes, within: FLAP_WITHIN };
            self.out.notes.push((Level::Warn, note));
        }
        if turn.calmed {
            let (name, target) = (name.clone(), target.clone());
            self.out.notes.push((Level::Info, HostNote::Settled { name, kind, target }));
        }
        if turn.absent {
            let (name, target, why) = (name.clone(), target.clone(), why.clone());
            self.out.notes.push((Level::Info, HostNote::Absent { name, kind, target, why }));
        }
        if let Some((from, to)) = turn.changed {
            self.tell_change(key.clone(), name, (from, to, turn.first), why.clone());
        }
        if state != Health::Ok || turn.changed.is_some() {
            self.states.insert(key.clone(), (state, why));
        }
    }

    fn tell_change(&mut self, key: CheckKey, name: String, turn: (Health, Health, bool), why: String) {
        let (from, to, first) = turn;
        let level = match (from, to) {
            (_, Health::Failing) => Level::Error,
            (_, Health::Degraded) | (Health::Ok, Health::Unknown) => Level::Warn,
            (Health::Degraded | Health::Failing, _) | (Health::Unknown | Health::Absent, Health::Ok) => Level::Info,
            (_, Health::Absent | Health::Unknown | Health::Ok) => Level::Debug,
        };
        // The first good reading of a check is no news, and its absence is told in words of its own.
        let is_said_elsewhere = match to {
            Health::Ok => first,
            Health::Absent => from < Health::Degraded,
            Health::Unknown | Health::Degraded | Health::Failing => false,
        };
        if !is_said_elsewhere {
            let (kind, target) = (key.kind, key.target.clone());
            let note = HostNote::Check { name: name.clone(), kind, target, from, to, why: why.clone() };
            self.out.notes.push((level, note));
        }
        self.changed.push(Change { key, name, from, to, why });
    }

    /// A role has said that it cannot read something here.
    pub(super) fn missing(&mut self, missing: Missing, now: Now) {
        let key = FeedKey::of_source(&missing.source);
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.key == key) else {
            return;
        };
        feed.missing = Some(missing.why.clone());
        (feed.deadline, feed.overdue) = (None, false);
        for key in self.paced_by(&key) {
            if let Some(check) = self.checks.get_mut(&key) {
                let turn = check.condition.become_absent(missing.why.clone(), now);
                self.turned(&key, turn);
            }
        }
    }

    /// A connection came or went: what was asked is asked again, so deadlines begin anew; what was hung is hung until it answers.
    pub(super) fn linked(&mut self, role: Role, connected: bool, now: Now) {
        self.linked.retain(|linked| *linked != role);
        if !connected {
            return;
        }
        self.linked.push(role);
        for feed in self.feeds.iter_mut().filter(|feed| feed.role == role && !feed.overdue) {
            feed.missing = None;
            feed.expect(now.mono);
        }
    }

    pub(in crate::engine) fn deadline(&self) -> Option<Time> {
        self.feeds.iter().filter(|feed| !feed.overdue).filter_map(|feed| feed.deadline).min()
    }

    /// Answers that did not come.
    pub(super) fn look_at_deadlines(&mut self, now: Now) {
        let late = |feed: &&mut Feed| !feed.overdue && feed.deadline.is_some_and(|at| at <= now.mono);
        let mut overdue = Vec::new();
        for feed in self.feeds.iter_mut().filter(late) {
            feed.overdue = true;
            let waited = feed.answered.map_or(feed.every + feeds::GRACE, |at| now.mono.since(at));
            overdue.push((feed.key.clone(), feed.role, waited));
        }
        for (feed, role, waited) in overdue {
            let is_there = self.linked.contains(&role);
            let who = if is_there { "no answer" } else { "nobody has read it" };
            let why = format!("{who} for {}", human(waited));
            for key in self.paced_by(&feed) {
                if let Some(check) = self.checks.get_mut(&key) {
                    let turn = check.condition.overdue(&why, now);
                    self.turned(&key, turn);
                }
            }
            if is_there {
                self.helper_is_silent(&feed, role, waited, now);
            }
        }
    }

    /// A helper that has its orders and gives no answer waits for its disk. It does one thing at a time: with any answer that came in the
    /// meantime it does not wait.
    fn helper_is_silent(&mut self, feed: &FeedKey, role: Role, waited: Duration, now: Now) {
        let touches = |one: &&Feed| one.role == role && matches!(one.key, FeedKey::Space(_) | FeedKey::Canary(_));
        let heard = self.feeds.iter().filter(touches).filter_map(|one| one.answered).max();
        let patience = self.feeds.iter().filter(touches).map(|one| one.every + feeds::GRACE).min().unwrap_or_default();
        if heard.is_some_and(|heard| now.mono.since(heard) < patience) {
            return;
        }
        let (FeedKey::Space(mount) | FeedKey::Canary(mount)) = feed else {
            return;
        };
        let Role::Disk(slot) = role else {
            return;
        };
        let what = if matches!(feed, FeedKey::Canary(_)) { "a write" } else { "statvfs" };
        let why = format!("hung: {what} on {mount} has not been answered for {}", human(waited));
        let disk = self.helpers.iter().find(|helper| helper.slot == slot).and_then(|helper| helper.disk.clone());
        let said = match disk {
            Some(disk) => {
                self.seen.known.disk_is_silent(&disk, why);
                self.bench(now, |bench| bench.hung(&disk, None))
            }
            None => {
                self.seen.mounts.entry(mount.clone()).or_default();
                self.seen.known.mount_is_silent(mount, why.clone());
                self.room_is_hung(mount, why, now);
                self.bench(now, |bench| bench.filesystem_verdict(mount))
            }
        };
        self.take(said, now);
    }

    /// Where nothing but the room of a mount is watched, nothing else would tell.
    fn room_is_hung(&mut self, mount: &str, why: String, now: Now) {
        let [room, filesystem] =
            [CheckKind::DiskSpace, CheckKind::Filesystem].map(|kind| CheckKey { kind, target: mount.to_owned() });
        if self.checks.contains_key(&filesystem) {
            return;
        }
        if let Some(check) = self.checks.get_mut(&room) {
            // Until the next reading.
            let latch = Latch { level: Health::Failing, until: Some(now.mono), why };
            let turn = check.condition.latch(latch, now);
            self.turned(&room, turn);
        }
    }

    /// Our own loop stood still, or the host slept: nobody could have been heard, and what was counted meanwhile has no rate.
    pub(super) fn stalled(&mut self, by: Duration, suspended: bool, grace_max: Duration, now: Time) {
        for feed in &mut self.feeds {
            feed.deadline = feed.deadline.map(|at| match suspended {
                true if at <= now => now.after(by.min(grace_max)),
                true => at,
                false => at.after(by),
            });
        }
        self.seen.forget_rates();
    }

    fn paced_by(&self, feed: &FeedKey) -> Vec<CheckKey> {
        self.checks.keys().filter(|key| FeedKey::pace(key) == *feed).cloned().collect()
    }

    /// Sensors, controllers and devices are known from their readings: a check for each, and none for those that are gone.
    fn discover(&mut self, sample: &Sample, wishes: Wishes<'_>, now: Now) {
        let (kinds, targets): (&[CheckKind], Vec<(CheckKind, &str)>) = match sample {
            Sample::Sensors(sensors) => (
                &[CheckKind::Temperature, CheckKind::Fan, CheckKind::Power],
                sensors.iter().map(|one| (super::judge::kind_of(one.what), one.name.as_str())).collect(),
            ),
            Sample::Hardware(hardware) => {
                let ecc = hardware.ecc.keys().map(|name| (CheckKind::Ecc, name.as_str()));
                let pcie = hardware.pcie.keys().map(|name| (CheckKind::Pcie, name.as_str()));
                (&[CheckKind::Ecc, CheckKind::Pcie], ecc.chain(pcie).collect())
            }
            Sample::System(_)
            | Sample::Disks(_)
            | Sample::Filesystems(_)
            | Sample::Nics(_)
            | Sample::Gateway(_)
            | Sample::Kernel(_)
            | Sample::ClockSet { .. }
            | Sample::LinkModes(_)
            | Sample::Space(_)
            | Sample::Canary(_)
            | Sample::Smart(_)
            | Sample::FilesystemError { .. } => return,
        };
        let mut changed = false;
        let own = self.checks.keys().filter(|key| kinds.contains(&key.kind));
        let gone = own.filter(|key| !targets.contains(&(key.kind, key.target.as_str()))).cloned().collect::<Vec<_>>();
        for key in gone {
            self.drop_check(&key, "it is gone");
            changed = true;
        }
        for (kind, target) in targets.into_iter().take(FOUND_MAX) {
            let key = CheckKey { kind, target: target.to_owned() };
            if !self.checks.contains_key(&key)
                && let Some((name, rule)) = wishes.found(kind, target)
            {
                self.put_check(key, name, rule, wishes);
                changed = true;
            }
        }
        if changed {
            self.refresh_feeds(wishes, now);
        }
    }

    /// Brings what is read to what the checks need, and notes who is to be told.
    pub(super) fn refresh_feeds(&mut self, wishes: Wishes<'_>, now: Now) {
        let has_gateway = self.has_gateway.unwrap_or(true);
        let wanted = feeds::wanted(&self.checks, &self.devices, &self.helpers, wishes, has_gateway);
        feeds::bring(&mut self.feeds, wanted, now.mono);
        let mut roles: Vec<Role> = self.feeds.iter().map(|feed| feed.role).collect();
        roles.extend(self.told.iter().map(|(role, _)| *role));
        roles.sort();
        roles.dedup();
        let mut told = Vec::new();
        for role in roles {
            let orders = self.orders(role);
            let before = self.told.iter().find(|(of, _)| *of == role).map(|(_, orders)| orders);
            if before.is_none_or(|before| *before != orders) && !(before.is_none() && orders.is_empty()) {
                self.out.watch.push(role);
            }
            if !orders.is_empty() {
                told.push((role, orders));
            }
        }
        self.told = told;
        self.look_for_readers(now);
    }

    /// A check that nobody reads is not known, and one that this host cannot tell is absent.
    fn look_for_readers(&mut self, now: Now) {
        for key in self.checks.keys().cloned().collect::<Vec<_>>() {
            let pace = FeedKey::pace(&key);
            let feed = self.feeds.iter().find(|feed| feed.key == pace);
            let Some(check) = self.checks.get_mut(&key) else {
                continue;
            };
            let turn = match feed {
                None if feeds::is_covered(&self.devices, &key.target) => {
                    check.condition.overdue("another file system is mounted over it", now)
                }
                None => check.condition.overdue("no process of ours reads it", now),
                Some(Feed { missing: Some(why), .. }) => check.condition.become_absent(why.clone(), now),
                Some(Feed { missing: None, .. }) => continue,
            };
            self.turned(&key, turn);
        }
    }

    pub(super) fn orders(&self, role: Role) -> Vec<Order> {
        feeds::orders(role, &self.feeds, &self.checks, &self.devices)
    }

    fn tell_devices(&mut self, before: &Devices) {
        let list = |devices: &Devices| {
            let disks = devices.disks.iter().map(|disk| format!("disk {}", disk.name));
            let nics = devices.nics.iter().filter(|nic| nic.kind != NicKind::Virtual);
            let nics = nics.map(|nic| format!("network interface {}", nic.name));
            let mounts = devices.mounts.iter().filter(|mount| mount.disk.is_some());
            let mounts = mounts.map(|mount| format!("mount {}", mount.point));
            disks.chain(nics).chain(mounts).collect::<Vec<String>>()
        };
        let (before, now) = (list(before), list(&self.devices));
        for what in before.iter().filter(|what| !now.contains(what)) {
            self.out.notes.push((Level::Info, HostNote::DeviceWent { what: what.clone() }));
        }
        for what in now.into_iter().filter(|what| !before.contains(what)) {
            self.out.notes.push((Level::Info, HostNote::DeviceCame { what }));
        }
    }
}
