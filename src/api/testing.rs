//! A small world of services for the tests of what is shown.

use std::collections::VecDeque;
use std::time::Duration;

use super::balancers::{Backend, BackendCounters, Balancer, BalancerCounters, Latency, Listener};
use super::render::{Stamp, Usage};
use crate::engine::event::{Remaining, Wanted};
use crate::engine::fence::plan::FenceLevel;
use crate::engine::fence::record::{Record, Standing, StepTaken, Trigger};
use crate::engine::fence::view::{FencesView, LimitsView, ReplicaFence};
use crate::engine::host::Health;
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::Band;
use crate::engine::host::readings::Readings;
use crate::engine::host::sample::{
    CanaryStat, Devices, Disk, DiskStat, FilesystemStat, GatewayStat, Hardware, LinkMode, Mount, Nic, NicStat,
    Pressure, ScsiStat, SensorStat, SmartBy, SmartStat, SpaceStat, System,
};
use crate::engine::host::view::CheckView;
use crate::engine::memory::{Cause, LastExit, Memory};
use crate::engine::plan::{Launch, Role, ServicePlan};
use crate::engine::types::{Exit, Now, ReplicaId, RunId, ServiceId, StateName, Time};
use crate::engine::view::{EdgeKind, EdgeView, ReplicaView, ServiceView};

/// 2026-11-22T08:00:00Z
pub(crate) const WALL: Time = Time(1_795_334_400_000_000_000);

pub(crate) fn stamp() -> Stamp {
    let mono = Time(100_000_000_000);
    Stamp { now: Now { mono, boot: mono, wall: WALL, wall_synchronised: true }, seq: 812 }
}

pub(crate) fn usage(replica: ReplicaId) -> Usage {
    let index = u64::from(replica.index);
    Usage { cpu_percent: Some(1.54), cpu_usec: Some(2_500_000 + index), memory_bytes: Some(5 << 20) }
}

fn memory(state: StateName, ago_s: u64) -> Memory {
    Memory {
        wanted: Wanted::Up,
        state,
        run: RunId(3),
        since_wall: Time(WALL.0 - ago_s * 1_000_000_000),
        ready_since: None,
        started_mono: Time(0),
        started_boot: Time(0),
        restarts: 2,
        failures: 0,
        budget_marks: VecDeque::new(),
        hold: None,
        last_exit: None,
        drained: false,
        frozen: false,
        draining_since: None,
        sockets: std::collections::BTreeMap::new(),
        port: None,
        requested: false,
        causes: VecDeque::new(),
        spec_hash: 0,
        status_text: None,
        changes: VecDeque::new(),
        ..Memory::unknown()
    }
}

/// What the views borrow from.
pub(crate) struct World {
    plans: Vec<ServicePlan>,
    memories: Vec<Vec<Memory>>,
    lines: Vec<String>,
}

impl World {
    /// `api` (two replicas, the second crashing) waits for nobody, `web` waits for `db`, which is in back-off; `job` is stopped; `@logs` is a role.
    pub(crate) fn new() -> Self {
        let mut api = ServicePlan::with_defaults("api", &["/usr/bin/api", "--port", "{port}"]);
        (api.replicas, api.port) = (2, Some(9_001));
        api.process.env.insert("TOKEN".to_owned(), "secret".to_owned());
        let mut web = ServicePlan::with_defaults("web", &["/usr/bin/web"]);
        web.requires = vec!["db".to_owned()];
        let db = ServicePlan::with_defaults("db", &["/usr/bin/db"]);
        let job = ServicePlan::with_defaults("job", &["/usr/bin/job"]);
        let mut logs = ServicePlan::with_defaults("@logs", &[]);
        logs.launch = Launch::Role(Role::Logs);
        let mut crashed = memory(StateName::Backoff, 2);
        crashed.last_exit =
            Some(LastExit { exit: Exit::Signal { signal: 11, core: true }, oom: false, run: RunId(2), at_wall: WALL });
        let mut spent = memory(StateName::Backoff, 12);
        spent.last_exit = Some(LastExit { exit: Exit::Code(1), oom: true, run: RunId(2), at_wall: WALL });
        let cause =
            |ago_s: u64, text: &str| Cause { at_wall: Time(WALL.0 - ago_s * 1_000_000_000), text: text.to_owned() };
        spent.causes = [cause(14, "started as pid 4711"), cause(12, "exited with code 1 after 2s")].into();
        let mut stopped = memory(StateName::Stopped, 86_400);
        stopped.wanted = Wanted::Down;
        Self {
            plans: vec![api, web, db, job, logs],
            memories: vec![
                vec![memory(StateName::Ready, 81), crashed],
                vec![memory(StateName::Waiting, 14)],
                vec![spent],
                vec![stopped],
                vec![memory(StateName::Ready, 90)],
            ],
            lines: vec!["cannot open the data file".to_owned()],
        }
    }

    pub(crate) fn views(&self) -> Vec<ServiceView<'_>> {
        let states = [StateName::Ready, StateName::Waiting, StateName::Backoff, StateName::Stopped, StateName::Ready];
        let whys = [None, Some("waits for db"), Some("exited with code 1"), Some("stopped by an operator"), None];
        let mut views = Vec::new();
        for (id, plan) in (0_u32..).zip(&self.plans) {
            let index = views.len();
            let edges = plan.requires.iter().map(|to| EdgeView { to, kind: EdgeKind::Requires, blocking: true });
            views.push(ServiceView {
                plan,
                wanted: states[index] != StateName::Stopped,
                state: states[index],
                word: states[index].word(),
                why: whys[index].map(str::to_owned),
                replicas: (0_u16..)
                    .zip(&self.memories[index])
                    .map(|(one, memory)| self.replica(id, one, memory))
                    .collect(),
                edges: edges.collect(),
                impaired: None,
            });
        }
        views
    }

    fn replica<'a>(&'a self, service: u32, index: u16, memory: &'a Memory) -> ReplicaView<'a> {
        let in_backoff = memory.state == StateName::Backoff;
        ReplicaView {
            id: ReplicaId { service: ServiceId(service), index },
            memory,
            state: memory.state,
            pid: (memory.state == StateName::Ready).then_some(4_711),
            flapping: in_backoff && index > 0,
            pending_restart: false,
            drained: false,
            frozen: false,
            fence: None,
            limits: LimitsView::default(),
            why: in_backoff.then(|| "exited with code 1".to_owned()),
            next: in_backoff.then(|| ("restart 3 of 10".to_owned(), Time(100_800_000_000))),
            last_lines: if in_backoff { &self.lines } else { &[] },
        }
    }
}

/// `front` goes to `api`, whose second replica is out and whose second address is taken.
pub(crate) fn balancers() -> Vec<Balancer> {
    let mut buckets = vec![0; 32];
    (buckets[6], buckets[7]) = (100, 20);
    let latency = Latency { count: 120, p50_us: Some(64), p99_us: Some(128), sum_us: 6_000, buckets };
    let busy = BackendCounters {
        active: 3,
        connections: 120,
        bytes_in: 1_000,
        bytes_out: 3_000_000,
        connect: latency.clone(),
        first_byte: latency,
        ..BackendCounters::default()
    };
    let broken =
        BackendCounters { connect_failed: [("refused".to_owned(), 7)].into(), failed: 1, ..BackendCounters::default() };
    let backend = |index: u32, standing: &'static str, why: Option<&str>, counters| Backend {
        name: format!("api/{index}"),
        address: format!("tcp:127.0.0.1:{}", 9_001 + index),
        standing: standing.into(),
        weight: 1,
        why: why.map(str::to_owned),
        counters: Some(counters),
    };
    let listener = |address: &str, state: &'static str, error: Option<&str>| Listener {
        address: address.to_owned(),
        state: state.into(),
        error: error.map(str::to_owned),
    };
    vec![Balancer {
        name: "front".to_owned(),
        to: Some("api".to_owned()),
        delivery: "proxy".into(),
        algorithm: "rendezvous".into(),
        listen: vec![
            listener("tcp:0.0.0.0:8080", "open", None),
            listener("tcp:0.0.0.0:8081", "failed", Some("Address already in use")),
        ],
        counters: Some(BalancerCounters {
            accepted: 124,
            active: 3,
            queued: 1,
            queued_total: 9,
            refused: [("queue_full".to_owned(), 2)].into(),
            redispatched: 4,
            replayed: 5,
            ..BalancerCounters::default()
        }),
        backends: vec![
            backend(0, "up", None, busy),
            backend(1, "out", Some("exited with code 1; restart 3 of 10 in 800ms"), broken),
        ],
    }]
}

/// A degraded file system that concerns `api`, a hung disk, a well NIC, a wordless temperature and pressure that the kernel does not tell.
pub(crate) fn check_views() -> Vec<CheckView> {
    let check = |name: &str, kind: CheckKind, target: &str, state, value, why: Option<&str>| CheckView {
        name: name.to_owned(),
        kind,
        target: target.to_owned(),
        state,
        value,
        unit: kind.unit(),
        degraded: None,
        failing: None,
        since_wall: Time(WALL.0 - 5_000_000_000),
        since: Time(95_000_000_000),
        sampled: Some(Time(99_000_000_000)),
        next: Some(Time(102_500_000_000)),
        every: Duration::from_secs(30),
        flapping: false,
        why: why.map(str::to_owned),
        services: Vec::new(),
    };
    let mut root =
        check("root", CheckKind::DiskSpace, "/", Health::Degraded, Some(911), Some("91.1 % used, 1.3 GiB left"));
    root.degraded = Some(Band { enter: 900, leave: 850 });
    root.failing = Some(Band { enter: 970, leave: 950 });
    root.services = vec!["api".to_owned()];
    let mut hung = check(
        "disk_hung sda",
        CheckKind::DiskHung,
        "sda",
        Health::Failing,
        Some(12_000),
        Some("2 requests stand still for 12s"),
    );
    hung.flapping = true;
    hung.services = vec!["api".to_owned(), "db".to_owned()];
    let absent = Some("no /proc/pressure: boot with psi=1");
    vec![
        root,
        hung,
        check("nic_link eth0", CheckKind::NicLink, "eth0", Health::Ok, None, None),
        check("temperature coretemp/temp1", CheckKind::Temperature, "coretemp/temp1", Health::Ok, Some(42_500), None),
        check("smart sda", CheckKind::Smart, "sda", Health::Unknown, None, Some("no answer within 10s")),
        check("pressure_memory", CheckKind::PressureMemory, "", Health::Absent, None, absent),
    ]
}

/// One of everything.
#[expect(clippy::too_many_lines, reason = "a list of values")]
pub(crate) fn readings() -> Readings {
    let mut readings = Readings::default();
    let disk = Disk {
        name: "sda".to_owned(),
        number: "8:0".to_owned(),
        rotating: true,
        smart: Some(SmartBy::Ata),
        ..Disk::default()
    };
    let mount = |point: &str, source: &str, fs_type: &str, disk: Option<&str>| Mount {
        point: point.to_owned(),
        source: source.to_owned(),
        fs_type: fs_type.to_owned(),
        disk: disk.map(str::to_owned),
        remote: disk.is_none(),
        ..Mount::default()
    };
    readings.devices = Devices {
        disks: vec![disk],
        mounts: vec![mount("/", "/dev/sda1", "ext4", Some("sda")), mount("/mnt/nfs", "nas:/export", "nfs4", None)],
        nics: vec![Nic { name: "eth0".to_owned(), ..Nic::default() }],
    };
    let pressure =
        Pressure { some_avg10: 1_234, some_avg60: 50, some_total_us: 1_500_000, full_avg10: Some(7), full_avg60: None };
    readings.system = Some(Box::new(System {
        memory_total_bytes: 2 << 30,
        memory_available_bytes: 1 << 30,
        pressure_io: Some(pressure),
        load_permille: [100, 1_500, 20],
        cpus: 2,
        cpu_ticks: 12_345,
        cpu_idle_ticks: 10_000,
        conntrack: Some((3, 65_536)),
        clock_synchronised: true,
        clock_error_us: 1_500,
        uptime_ms: 100_000,
        ..System::default()
    }));
    readings.cpu_busy_permille = Some(125);
    let stat = DiskStat {
        name: "sda".to_owned(),
        completed: 100,
        spent_ms: 250,
        in_flight: 2,
        busy_ms: 200,
        read_bytes: 4_096,
        written_bytes: 8_192,
        scsi: Some(ScsiStat { errors: 1, timeouts: 0 }),
        ..DiskStat::default()
    };
    readings.disks.insert("sda".to_owned(), stat);
    let smart = SmartStat {
        disk: "sda".to_owned(),
        model: Some("ST1000".to_owned()),
        passed: Some(true),
        used: Some(7),
        temperature: Some(38),
        power_on_hours: Some(2),
        ..SmartStat::default()
    };
    readings.smarts.insert("sda".to_owned(), smart);
    let space = SpaceStat {
        mount: "/".to_owned(),
        size_bytes: 16_000,
        available_bytes: 1_424,
        free_bytes: 2_000,
        inodes: 100,
        inodes_available: 60,
        error: None,
    };
    readings.spaces.insert("/".to_owned(), space);
    let space =
        SpaceStat { mount: "/mnt/nfs".to_owned(), error: Some("Stale file handle".to_owned()), ..SpaceStat::default() };
    readings.spaces.insert("/mnt/nfs".to_owned(), space);
    let canary = CanaryStat { mount: "/".to_owned(), took_us: 800, ..CanaryStat::default() };
    readings.canaries.insert("/".to_owned(), canary);
    let filesystem = FilesystemStat { mount: "/".to_owned(), errors: Some(3), ..FilesystemStat::default() };
    readings.filesystems.insert("/".to_owned(), filesystem);
    let nic = NicStat {
        name: "eth0".to_owned(),
        admin_up: true,
        carrier: true,
        received_bytes: 1_000,
        sent_bytes: 2_000,
        drops: 4,
        ..NicStat::default()
    };
    readings.nics.insert("eth0".to_owned(), nic);
    let mode = LinkMode { nic: "eth0".to_owned(), speed: Some(1_000), full_duplex: Some(true) };
    readings.link_modes.insert("eth0".to_owned(), mode);
    readings.gateway =
        Some(GatewayStat { address: Some("10.0.0.1".to_owned()), nic: Some("eth0".to_owned()), answered: true });
    let sensor = SensorStat {
        name: "coretemp/temp1".to_owned(),
        label: Some("Package id 0".to_owned()),
        value: Some(42_500),
        max: Some(80_000),
        ..SensorStat::default()
    };
    readings.sensors.insert(sensor.name.clone(), sensor);
    readings.hardware = Some(Box::new(Hardware {
        ecc: [("mc0".to_owned(), (5, 0))].into(),
        pcie: [("0000:00:1c.0".to_owned(), (1, 2, 3))].into(),
        throttled: Some(9),
    }));
    readings
}

/// `api/1` is held and incomplete, `web/0` is on probation, `job/0` was observed only.
pub(crate) fn fence_records() -> Vec<Record> {
    let at = |ago_ms: u64| Time(WALL.0 - ago_ms * 1_000_000);
    let step = |level, ago_ms: u64, written_us: u64, proven_us: Option<u64>, method: &str, proof: &str| StepTaken {
        level,
        decided: at(ago_ms),
        written: Some(Time(at(ago_ms).0 + written_us * 1_000)),
        written_after_us: Some(written_us),
        proven: proven_us.map(|us| Time(at(ago_ms).0 + us * 1_000)),
        proven_after_us: proven_us,
        method: method.to_owned(),
        proof: proof.to_owned(),
        processes_before: 12,
        processes_after: proven_us.map(|_| 0),
    };
    let held = Record {
        id: 7,
        service: "api".to_owned(),
        replica: 1,
        run: RunId(3),
        trigger: Trigger::Pressure,
        evidence: vec!["memory full avg10 62.1 %, 51.0 %".to_owned(), "812 pages scanned in 10s".to_owned()],
        fault_seen: at(30_000),
        standing: Standing::Incomplete,
        observed_because: None,
        steps: vec![
            step(FenceLevel::Kill, 20_000, 180, Some(4_300), "cgroup.kill", "populated 0"),
            step(FenceLevel::Hold, 5_000, 90, None, "no start", "1 process is left"),
        ],
        left: vec!["front".to_owned()],
        left_at: Some(at(20_001)),
        remaining: vec![Remaining {
            pid: 812,
            comm: "api".to_owned(),
            state: 'D',
            wchan: "folio_wait_bit_common".to_owned(),
            devices: vec!["dm-0".to_owned()],
        }],
        ended: None,
    };
    let quiet = Record { steps: Vec::new(), left: Vec::new(), left_at: None, remaining: Vec::new(), ..held.clone() };
    let probation = Record {
        id: 6,
        service: "web".to_owned(),
        replica: 0,
        trigger: Trigger::Restarts,
        evidence: vec!["10 restarts within 10m".to_owned()],
        standing: Standing::Probation,
        steps: vec![step(FenceLevel::Hold, 600_000, 0, Some(0), "no start", "no start")],
        ..quiet.clone()
    };
    let observed = Record {
        id: 5,
        service: "job".to_owned(),
        replica: 0,
        trigger: Trigger::Cpu,
        evidence: vec!["throttled in 98 % of the periods for 1m".to_owned()],
        standing: Standing::Observed,
        observed_because: Some("cpu is a dry run".to_owned()),
        ..quiet.clone()
    };
    let released = Record {
        id: 4,
        trigger: Trigger::Operator,
        evidence: vec!["root (pid 99, mainstay): it eats the cake".to_owned()],
        standing: Standing::Released,
        steps: vec![step(FenceLevel::Freeze, 3_600_000, 50, Some(7_000), "cgroup.freeze", "frozen 1")],
        ended: Some((at(3_000_000), "by an operator".to_owned())),
        ..quiet
    };
    vec![held, probation, observed, released]
}

pub(crate) fn fences_view(records: &[Record]) -> FencesView<'_> {
    let [held, probation, past @ ..] = records else { panic!("the records of this file") };
    let fence = |record: &'static str, id, level, standing, trigger, next| ReplicaFence {
        id,
        level,
        standing,
        trigger,
        why: record,
        since_wall: Time(WALL.0 - 20_000_000_000),
        next,
    };
    let next = Some(("probation ends", Time(160_000_000_000)));
    FencesView {
        active: vec![
            (
                held,
                fence("it stalls for memory", 7, Some(FenceLevel::Hold), Standing::Incomplete, Trigger::Pressure, None),
            ),
            (probation, fence("its restart budget was spent", 6, None, Standing::Probation, Trigger::Restarts, next)),
        ],
        past: past.iter().collect(),
        automatic_used: 1,
        automatic_max: 3,
        automatic_within: Duration::from_secs(600),
    }
}
