//! For the tests of the judges: a desk with the checks of some devices, and what is said in short words.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::condition::{Condition, Verdict};
use super::super::rules::Wishes;
use super::super::sample::{Disk, Mount, Nic, NicKind, SmartBy};
use super::*;

pub(in crate::engine::host) struct Desk {
    pub(super) checks: BTreeMap<CheckKey, Check>,
    devices: Devices,
    pub(super) seen: Seen,
    pub(super) now: Time,
}

impl Desk {
    pub(super) fn new(devices: Devices) -> Self {
        let wishes = Wishes { plans: &[], defaults: true, services: &[] };
        let checks = wishes.checks(&devices).into_iter().map(|(kind, target, name, rule)| {
            let check = Check { name, rule, ..Check::default() };
            (CheckKey { kind, target }, check)
        });
        Self { checks: checks.collect(), devices, seen: Seen::default(), now: Time(1_000_000_000_000) }
    }

    pub(super) fn host() -> Self {
        Self::new(Devices::default())
    }

    pub(super) fn with_mount(point: &str, fs_type: &str, disk: &str) -> Self {
        let mount = Mount {
            point: point.into(),
            source: format!("/dev/{disk}1"),
            fs_type: fs_type.into(),
            disk: Some(disk.into()),
            device: Some(format!("{disk}1")),
            ..Mount::default()
        };
        let kind = disk.starts_with("nvme").then_some(SmartBy::Nvme).or(Some(SmartBy::Ata));
        let disk = Disk { name: disk.into(), smart: kind, ..Disk::default() };
        Self::new(Devices { disks: vec![disk], mounts: vec![mount], nics: Vec::new() })
    }

    pub(super) fn with_nic(name: &str, kind: NicKind) -> Self {
        let nic = Nic { name: name.into(), kind, ..Nic::default() };
        Self::new(Devices { nics: vec![nic], ..Devices::default() })
    }

    /// With a check whose target only readings tell.
    pub(super) fn and(mut self, kind: CheckKind, target: &str) -> Self {
        let plans = [super::super::plan::CheckPlan {
            name: "x".into(),
            kind,
            target: None,
            enabled: true,
            every: None,
            degraded: None,
            failing: None,
            fall: None,
            rise: None,
        }];
        let wishes = Wishes { plans: &plans, defaults: true, services: &[] };
        let (name, rule) = wishes.found(kind, target).expect("it is asked for");
        self.checks.insert(CheckKey { kind, target: target.into() }, Check { name, rule, ..Check::default() });
        self
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    pub(super) fn judge(&mut self, sample: &Sample) -> Vec<Said> {
        let mut bench = Bench {
            checks: &self.checks,
            devices: &self.devices,
            seen: &mut self.seen,
            now: self.now,
            once: false,
            said: Vec::new(),
        };
        bench.judge(sample);
        bench.said
    }

    /// What is said of one check: its verdict, and latches before it.
    pub(super) fn says(&mut self, kind: CheckKind, target: &str, sample: &Sample) -> String {
        let key = CheckKey { kind, target: target.into() };
        let words = self.judge(sample).into_iter().filter_map(|said| match said {
            Said::Verdict(of, verdict) if of == key => Some(short(&verdict)),
            Said::Latch(of, latch) if of == key => {
                let until = latch.until.map(|until| crate::engine::types::human(until.since(self.now)));
                Some(format!("{} for {}: {}", latch.level.word(), until.unwrap_or("ever".into()), latch.why))
            }
            Said::Release(of) if of == key => Some("released".to_owned()),
            Said::Happened(text) => Some(text),
            Said::Verdict(..) | Said::Latch(..) | Said::Release(_) | Said::Bands(..) | Said::Carrier => None,
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

fn short(verdict: &Verdict) -> String {
    let held = if verdict.hold > verdict.enter { format!(", held {}", verdict.hold.word()) } else { String::new() };
    format!("{}{held}: {}", verdict.enter.word(), verdict.why)
}

impl Default for Check {
    fn default() -> Self {
        let wishes = Wishes { plans: &[], defaults: true, services: &[] };
        let (name, rule) = wishes.found(CheckKind::Ecc, "").expect("a rule");
        Self { name, rule, asked: false, value: None, sampled: None, judged: None, condition: Condition::default() }
    }
}
