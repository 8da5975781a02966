use super::*;
use crate::engine::fence::plan::FenceLevel;

fn ask(method: &str, target: &str, body: &str, socket: Socket) -> Result<Request, ApiError> {
    let head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        json: true,
        keep_alive: true,
        head_bytes: 0,
        body_bytes: body.len(),
    };
    route(&head, body.as_bytes(), socket)
}

fn get(target: &str) -> Request {
    ask("GET", target, "", Socket::Admin).unwrap()
}

fn refused(method: &str, target: &str, body: &str) -> Code {
    ask(method, target, body, Socket::Admin).unwrap_err().code
}

#[test]
fn every_path_of_the_interface_is_found() {
    let name = || "api".to_owned();
    assert_eq!(get("/v1"), Request::Index);
    assert_eq!(get("/v1/services"), Request::Services { roles: Roles::Hidden });
    assert_eq!(get("/v1/services?roles=1"), Request::Services { roles: Roles::Shown });
    assert_eq!(get("/v1/services/api"), Request::Service { name: name() });
    assert_eq!(get("/v1/services/api/why"), Request::Why { name: name() });
    assert_eq!(get("/v1/config"), Request::Config);
    assert_eq!(get("/v1/balancers"), Request::Balancers);
    assert_eq!(get("/v1/checks"), Request::Checks);
    assert_eq!(get("/v1/fences"), Request::Fences);
    assert_eq!(get("/v1/fences/records/7"), Request::FenceRecord { id: 7 });
    assert_eq!(get("/v1/host"), Request::Host);
    assert_eq!(get("/metrics"), Request::Metrics);
    assert_eq!(get("/healthz"), Request::Healthz);
    assert_eq!(get("/readyz"), Request::Readyz);
    let reload = |dry_run| Request::Reload { dry_run };
    assert_eq!(ask("POST", "/v1/config/reload?dry_run=1", "{}", Socket::Admin), Ok(reload(true)));
    assert_eq!(ask("POST", "/v1/config/reload", "", Socket::Admin), Ok(reload(false)));
}

#[test]
fn verbs_carry_replica_and_options() {
    let verb = |target: &str, body: &str| ask("POST", target, body, Socket::Admin).unwrap();
    let request = |replica, verb, wait| Request::Verb { service: "api".to_owned(), replica, verb, wait, why: None };
    assert_eq!(verb("/v1/services/api/start", "{}"), request(None, Verb::Start, Wait::Outcome));
    assert_eq!(verb("/v1/services/api/stop", ""), request(None, Verb::Stop, Wait::Outcome));
    assert_eq!(
        verb("/v1/services/api/restart", "{\"wait\":false}"),
        request(None, Verb::RestartRolling, Wait::Decision)
    );
    assert_eq!(
        verb("/v1/services/api/replicas/2/restart", "{\"all_at_once\":true, \"wait\":true}"),
        request(Some(2), Verb::RestartAtOnce, Wait::Outcome)
    );
    assert_eq!(verb("/v1/services/api/drain", "{}"), request(None, Verb::Drain, Wait::Outcome));
    assert_eq!(
        verb("/v1/services/api/replicas/1/undrain", "{\"wait\":false}"),
        request(Some(1), Verb::Undrain, Wait::Decision)
    );
    assert_eq!(refused("POST", "/v1/services/api/drain", "{\"all_at_once\":true}"), Code::RequestInvalid);
    assert_eq!(refused("POST", "/v1/services/api/start", "{\"all_at_once\":true}"), Code::RequestInvalid);
    assert_eq!(refused("POST", "/v1/services/api/start", "{\"wiat\":true}"), Code::RequestInvalid);
    assert_eq!(refused("POST", "/v1/services/api/start", "[]"), Code::RequestInvalid);
    assert_eq!(refused("POST", "/v1/services/api/explode", "{}"), Code::PathUnknown);
    assert_eq!(refused("POST", "/v1/services/api/replicas/70000/stop", "{}"), Code::RequestInvalid);
}

#[test]
fn logs_and_events_understand_their_queries() {
    let targets = vec![
        LogTarget { service: "a".to_owned(), replica: Some(1) },
        LogTarget { service: "b".to_owned(), replica: None },
        LogTarget { service: "c".to_owned(), replica: Some(0) },
    ];
    assert_eq!(
        get("/v1/services/a/logs?replica=1&also=b,c%2F0&tail=5&follow=1&since=2026-11-22T09:00:00+01:00"),
        Request::Logs { targets, tail: Some(5), since_unix_ms: Some(1_795_334_400_000), follow: true }
    );
    let events = |since, tail, follow| Request::Events { since, tail, follow };
    assert_eq!(get("/v1/events"), events(EventsSince::Beginning, None, false));
    assert_eq!(get("/v1/events?since=812&follow"), events(EventsSince::Seq(812), None, true));
    assert_eq!(
        get("/v1/events?since=1970-01-01T00:00:01Z&tail=10"),
        events(EventsSince::UnixMs(1_000), Some(10), false)
    );
    for target in [
        "/v1/events?since=soon",
        "/v1/events?follow=yes",
        "/v1/events?tail=-1",
        "/v1/events?tail=1&tail=2",
        "/v1/events?color=1",
    ] {
        assert_eq!(refused("GET", target, ""), Code::RequestInvalid, "{target}");
    }
}

#[test]
fn wrong_methods_say_which_is_right() {
    for (method, target, allow) in [
        ("POST", "/v1/services", "GET"),
        ("DELETE", "/v1/services/api", "GET"),
        ("HEAD", "/metrics", "GET"),
        ("GET", "/v1/services/api/stop", "POST"),
        ("GET", "/v1/config/reload", "POST"),
        ("POST", "/v1/fences", "GET"),
        ("DELETE", "/v1/fences/records/1", "GET"),
        ("GET", "/v1/fences/api", "POST, DELETE"),
        ("PUT", "/v1/fences/api/replicas/1", "POST, DELETE"),
        ("DELETE", "/v1/services/api/stop", "POST"),
    ] {
        let error = ask(method, target, "", Socket::Admin).unwrap_err();
        assert_eq!((error.code, error.allow), (Code::MethodNotAllowed, Some(allow)), "{method} {target}");
    }
    for target in ["/", "/v2", "/v1/", "//v1", "/v1/services/", "/v1/services/a/b/c", "/v1/services//stop"] {
        if target == "/v1/" {
            assert_eq!(get(target), Request::Index);
        } else {
            assert_eq!(refused("GET", target, ""), Code::PathUnknown, "{target}");
        }
    }
}

#[test]
fn fences_are_set_and_lifted() {
    let ok = |method: &str, target: &str, body: &str| ask(method, target, body, Socket::Admin).unwrap();
    let request = |service: &str, replica, verb, wait, why: Option<&str>| Request::Verb {
        service: service.to_owned(),
        replica,
        verb,
        wait,
        why: why.map(str::to_owned),
    };
    let hold = Verb::Fence(FenceLevel::Hold);
    assert_eq!(ok("POST", "/v1/fences/api", ""), request("api", None, hold, Wait::Outcome, None));
    assert_eq!(ok("POST", "/v1/fences/records", "{}"), request("records", None, hold, Wait::Outcome, None));
    for level in FenceLevel::ALL {
        let body = format!("{{\"level\":\"{}\",\"why\":\" it eats \",\"wait\":false}}", level.word());
        let asked = request("api", Some(2), Verb::Fence(level), Wait::Decision, Some("it eats"));
        assert_eq!(ok("POST", "/v1/fences/api/replicas/2", &body), asked);
    }
    assert_eq!(ok("DELETE", "/v1/fences/api", ""), request("api", None, Verb::Unfence, Wait::Outcome, None));
    assert_eq!(
        ok("DELETE", "/v1/fences/api/replicas/0", "{\"wait\":false, \"why\": \"\"}"),
        request("api", Some(0), Verb::Unfence, Wait::Decision, None)
    );
    let long = format!("{{\"why\":\"{}\"}}", "x".repeat(WHY_BYTES_MAX + 1));
    for (method, target, body) in [
        ("POST", "/v1/fences/api", "{\"level\":\"Hold\"}"),
        ("POST", "/v1/fences/api", "{\"why\":\"two\\nlines\"}"),
        ("POST", "/v1/fences/api", long.as_str()),
        ("POST", "/v1/fences/api", "{\"leve\":\"hold\"}"),
        ("DELETE", "/v1/fences/api", "{\"level\":\"hold\"}"),
        ("POST", "/v1/fences/api/replicas/x", ""),
        ("GET", "/v1/fences/records/x", ""),
    ] {
        assert_eq!(refused(method, target, body), Code::RequestInvalid, "{method} {target} {body}");
    }
    assert_eq!(refused("POST", "/v1/fences/", ""), Code::PathUnknown);
}

#[test]
fn verbs_need_the_json_content_type() {
    let head = Head {
        method: "POST".to_owned(),
        target: "/v1/services/api/stop".to_owned(),
        json: false,
        keep_alive: true,
        head_bytes: 0,
        body_bytes: 0,
    };
    assert_eq!(route(&head, b"", Socket::Admin).unwrap_err().code, Code::RequestInvalid);
    let fence = Head { target: "/v1/fences/api".to_owned(), ..head };
    assert_eq!(route(&fence, b"", Socket::Admin).unwrap_err().code, Code::RequestInvalid);
    // No web page can send this without being asked about first.
    let lift = Head { method: "DELETE".to_owned(), ..fence };
    assert!(route(&lift, b"", Socket::Admin).is_ok());
    assert_eq!(route(&lift, b"{}", Socket::Admin).unwrap_err().code, Code::RequestInvalid);
}

#[test]
fn the_read_socket_shows_services_and_metrics_only() {
    for target in [
        "/v1/services",
        "/v1/services/api",
        "/v1/services/api/why",
        "/v1/balancers",
        "/v1/checks",
        "/v1/fences",
        "/v1/fences/records/1",
        "/v1/host",
        "/metrics",
    ] {
        assert!(ask("GET", target, "", Socket::Read).is_ok(), "{target}");
    }
    for (method, target) in [
        ("GET", "/v1"),
        ("GET", "/v1/events"),
        ("GET", "/v1/services/api/logs"),
        ("GET", "/v1/config"),
        ("GET", "/healthz"),
        ("POST", "/v1/services/api/stop"),
        ("POST", "/v1/config/reload"),
        ("DELETE", "/v1/services"),
        ("POST", "/v1/fences/api"),
        ("DELETE", "/v1/fences/api"),
    ] {
        assert_eq!(
            ask(method, target, "{}", Socket::Read).unwrap_err().code,
            Code::SocketReadOnly,
            "{method} {target}"
        );
    }
}

#[test]
fn percent_signs_are_decoded_or_refused() {
    assert_eq!(get("/v1/services/%40logs"), Request::Service { name: "@logs".to_owned() });
    for target in ["/v1/services/%", "/v1/services/%4", "/v1/services/%zz", "/v1/services/%ff", "/v1/services/%+1"] {
        assert_eq!(refused("GET", target, ""), Code::RequestInvalid, "{target}");
    }
    for text in ["api-1", "2026-11-22T09:00:00+01:00", "a b&c=d", "é%"] {
        assert_eq!(decode(&encode(text)).unwrap(), text);
    }
}

#[test]
fn seeded_garbage_never_panics() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = [
        "/v1",
        "/services",
        "/",
        "?",
        "&",
        "=",
        "%",
        "%2",
        "follow",
        "since=",
        "tail=9",
        "/logs",
        "/replicas/",
        "é",
        "\u{0}",
        "a,b/1",
    ];
    for _ in 0..20_000 {
        let length = next() % 8;
        let target: String = (0..length).map(|_| words[usize::try_from(next() % 16).unwrap()]).collect();
        let socket = if next() % 2 == 0 { Socket::Admin } else { Socket::Read };
        let method = if next() % 2 == 0 { "GET" } else { "POST" };
        // Whatever comes out is fine; a panic is not.
        let _ = ask(method, &target, "{\"wait\":0", socket);
    }
}
