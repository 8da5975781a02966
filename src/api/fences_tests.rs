use super::*;
use crate::api::testing::{fence_records, fences_view, stamp};
use crate::engine::fence::plan::IoMax as PlanIoMax;

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn fences_that_stand_and_those_that_are_over() {
    let records = fence_records();
    let all = fences(&fences_view(&records), &stamp());
    expect_test::expect![[r#"
        {
          "at": "2026-11-22T08:00:00Z",
          "seq": 812,
          "fences": [
            {
              "service": "api",
              "replica": 1,
              "id": 7,
              "level": "hold",
              "state": "incomplete",
              "trigger": "pressure",
              "why": "it stalls for memory",
              "since": "2026-11-22T07:59:40Z",
              "next": null
            },
            {
              "service": "web",
              "replica": 0,
              "id": 6,
              "level": null,
              "state": "probation",
              "trigger": "restarts",
              "why": "its restart budget was spent",
              "since": "2026-11-22T07:59:40Z",
              "next": {
                "what": "probation ends",
                "at": "2026-11-22T08:01:00Z",
                "in_ms": 60000
              }
            }
          ],
          "records": [
            {
              "id": 5,
              "service": "job",
              "replica": 0,
              "trigger": "cpu",
              "level": null,
              "state": "observed",
              "why": "throttled in 98 % of the periods for 1m; not done: cpu is a dry run",
              "fault_seen": "2026-11-22T07:59:30Z",
              "ended": null
            },
            {
              "id": 4,
              "service": "api",
              "replica": 1,
              "trigger": "operator",
              "level": "freeze",
              "state": "released",
              "why": "root (pid 99, mainstay): it eats the cake",
              "fault_seen": "2026-11-22T07:59:30Z",
              "ended": {
                "at": "2026-11-22T07:10:00Z",
                "why": "by an operator"
              }
            }
          ],
          "automatic": {
            "used": 1,
            "max": 3,
            "within_ms": 600000
          }
        }"#]]
    .assert_eq(&pretty(&all));
    assert_eq!(serde_json::from_str::<Fences>(&pretty(&all)).unwrap(), all);
}

#[test]
fn evidence_has_the_times_between_fault_and_proof() {
    let records = fence_records();
    let told = evidence(&records[0], &stamp());
    expect_test::expect![[r#"
        {
          "at": "2026-11-22T08:00:00Z",
          "seq": 812,
          "id": 7,
          "service": "api",
          "replica": 1,
          "run": 3,
          "trigger": "pressure",
          "evidence": [
            "memory full avg10 62.1 %, 51.0 %",
            "812 pages scanned in 10s"
          ],
          "fault_seen": "2026-11-22T07:59:30Z",
          "state": "incomplete",
          "observed_because": null,
          "steps": [
            {
              "level": "kill",
              "decided": "2026-11-22T07:59:40Z",
              "written": "2026-11-22T07:59:40Z",
              "written_after_us": 180,
              "proven": "2026-11-22T07:59:40.004Z",
              "proven_after_us": 4300,
              "method": "cgroup.kill",
              "proof": "populated 0",
              "processes_before": 12,
              "processes_after": 0
            },
            {
              "level": "hold",
              "decided": "2026-11-22T07:59:55Z",
              "written": "2026-11-22T07:59:55Z",
              "written_after_us": 90,
              "proven": null,
              "proven_after_us": null,
              "method": "no start",
              "proof": "1 process is left",
              "processes_before": 12,
              "processes_after": null
            }
          ],
          "left": [
            "front"
          ],
          "left_at": "2026-11-22T07:59:39.999Z",
          "remaining": [
            {
              "pid": 812,
              "comm": "api",
              "state": "D",
              "wchan": "folio_wait_bit_common",
              "devices": [
                "dm-0"
              ]
            }
          ],
          "ended": null
        }"#]]
    .assert_eq(&pretty(&told));
    assert_eq!(serde_json::from_str::<Evidence>(&pretty(&told)).unwrap(), told);
}

#[test]
fn limits_are_in_natural_units_and_null_where_there_are_none() {
    assert_eq!(limits(&LimitsView::default()), None);
    let path = PlanIoMax { path: "/var/lib/api".into(), write_bytes: Some(1_000), ..PlanIoMax::default() };
    let wanted = plan::Limits {
        cpu_max_permille: Some(1_255),
        memory_max_bytes: Some(1 << 29),
        io_max: vec![path],
        ..plan::Limits::default()
    };
    let refused = ["io_max: no controller".to_owned()];
    let told = limits(&LimitsView { wanted, refused: &refused }).unwrap();
    assert_eq!(
        serde_json::to_string(&told).unwrap(),
        "{\"cpu_max_percent\":125.5,\"cpu_weight\":null,\"memory_max_bytes\":536870912,\"pids_max\":null,\"io_weight\":null,\
         \"io_max\":[{\"path\":\"/var/lib/api\",\"read_bytes\":null,\"write_bytes\":1000,\"read_operations\":null,\"write_operations\":null}],\
         \"refused\":[\"io_max: no controller\"]}"
    );
}
