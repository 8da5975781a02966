//! The API as bytes: what curl would send, what a browser might, and what the public socket must not answer.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Agent, As, SOON, head, sample};

fn agent() -> Agent {
    let agent = Agent::running(&sample("a", "", "env: {\"E2E_TAG\": \"$TAG\", \"SECRET\": \"swordfish\"}"));
    agent.wait_for("a", "ready");
    agent
}

#[test]
fn plain_request_is_answered_with_json() {
    let mut agent = agent();
    let answer =
        agent.raw("mainstay.sock", "GET /v1/services HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{}", answer.head);
    let document = answer.json();
    assert!(document["at"].as_str().unwrap().ends_with('Z'), "{document:#}");
    assert!(document["seq"].is_u64());
    assert_eq!(document["services"][0]["name"], "a");
    assert!(document["services"].as_array().unwrap().iter().all(|service| service["name"] != "@logs"));
    assert_eq!(agent.get("/healthz").status, 200);
    // The roles need not be ready before the services.
    agent.wait_until("all is ready", SOON, |agent| agent.get("/readyz").status == 200);
    assert_eq!(agent.get("/v1/services/a/why").json()["state"], "ready");
}

#[test]
fn errors_have_a_code_a_message_and_a_hint() {
    let agent = agent();
    let answer = agent.get("/v1/services/aa");
    assert_eq!(answer.status, 404);
    let error = answer.json()["error"].clone();
    assert_eq!(error["code"], "service.unknown");
    assert!(error["message"].as_str().unwrap().contains("aa"), "{error:#}");
    assert!(error["hint"].as_str().unwrap().contains('a'), "{error:#}");
    assert_eq!(agent.get("/v1/nothing").status, 404);
    assert_eq!(agent.raw("mainstay.sock", &head("DELETE", "/v1/services/a", "")).status, 405);
    assert_eq!(agent.raw("mainstay.sock", "hello\r\n\r\n").status, 400);
}

#[test]
fn verbs_are_posts() {
    let agent = agent();
    let before = agent.service_pid("a");
    let answer = agent.post("/v1/services/a/restart", "{}");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_ne!(agent.service_pid("a"), before);
    assert_eq!(agent.post("/v1/services/a/replicas/0/stop", "{}").status, 200);
    assert_eq!(agent.state("a"), "stopped");
    assert_eq!(agent.get("/v1/services/a/start").status, 405);
    assert_eq!(agent.post("/v1/services/a/replicas/9/stop", "{}").status, 404);
}

#[test]
fn what_a_browser_might_send_is_refused() {
    let agent = agent();
    let post = |more: &str| head("POST", "/v1/services/a/stop", &format!("Content-Length: 0\r\n{more}"));
    let json = "Content-Type: application/json\r\n";
    let status = |text: &str| agent.raw("mainstay.sock", text).status;
    assert_eq!(status(&post(&format!("{json}Origin: http://evil.example\r\n"))), 403);
    assert_eq!(status(&post("")), 400, "no content type");
    assert_eq!(status(&post("Content-Type: text/plain\r\n")), 400);
    let foreign_host = post(json).replace("Host: localhost", "Host: evil.example");
    assert_eq!(status(&foreign_host), 403);
    assert_eq!(status(&head("GET", "/v1", "Origin: http://evil.example\r\n")), 403);
    assert_eq!(status(&head("GET", "/v1", "").replace("localhost", "localhost:8080")), 200, "a forwarded port");
    assert_eq!(agent.state("a"), "ready");
}

#[test]
fn public_socket_shows_and_does_nothing() {
    let agent = agent();
    let status = |text: &str| agent.raw("read.sock", text).status;
    assert_eq!(status(&head("GET", "/v1/services", "")), 200);
    assert_eq!(status(&head("GET", "/v1/services/a", "")), 200);
    assert_eq!(status(&head("GET", "/metrics", "")), 200);
    let json = "Content-Type: application/json\r\nContent-Length: 2\r\n";
    for path in ["/v1/services/a/stop", "/v1/services/a/restart", "/v1/config/reload"] {
        assert_eq!(status(&format!("{}{{}}", head("POST", path, json))), 403, "{path}");
    }
    for path in ["/v1/config", "/v1/events", "/v1/services/a/logs", "/v1/services/a/logs?follow=1"] {
        assert_eq!(status(&head("GET", path, "")), 403, "{path}");
    }
    assert_eq!(agent.state("a"), "ready");
    let mode = |name: &str| std::fs::metadata(agent.run_dir().join(name)).unwrap().permissions().mode() & 0o777;
    // Without an admin group on the host it is its owner's alone.
    assert!([0o660, 0o600].contains(&mode("mainstay.sock")), "{:o}", mode("mainstay.sock"));
    assert_eq!(mode("read.sock"), 0o666);
    assert_eq!(mode("roles"), 0o700);
    assert_eq!(mode("."), 0o711);
}

#[test]
fn configuration_is_shown_without_its_secrets() {
    let agent = agent();
    let answer = agent.get("/v1/config");
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("swordfish"), "{}", answer.body);
    assert!(answer.body.contains("SECRET"), "the name of the variable is no secret: {}", answer.body);
}

#[test]
fn too_long_requests_are_cut_off_and_the_agent_goes_on() {
    let agent = agent();
    let long_head = head("GET", "/v1", &format!("X-Long: {}\r\n", "x".repeat(20_000)));
    assert_eq!(agent.raw("mainstay.sock", &long_head).status, 413);
    let more = "Content-Type: application/json\r\nContent-Length: 1000000\r\n";
    assert_eq!(agent.raw("mainstay.sock", &head("POST", "/v1/services/a/stop", more)).status, 413);
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(agent.raw("mainstay.sock", &head("POST", "/v1/services/a/stop", chunked)).status, 400);
    assert_eq!(agent.state("a"), "ready");
}

#[test]
fn silent_connections_do_not_lock_others_out() {
    let agent = agent();
    let silent: Vec<_> = (0..40)
        .filter_map(|_| std::os::unix::net::UnixStream::connect(agent.run_dir().join("read.sock")).ok())
        .collect();
    assert!(!silent.is_empty());
    assert_eq!(agent.get("/v1/services").status, 200);
    drop(silent);
}

#[test]
fn command_without_rights_may_look_and_not_touch() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let stranger = Agent::prepared(As::Unprivileged);
    stranger.configure("");
    let agent = agent();
    let socket = agent.socket();
    let socket = socket.to_str().unwrap();
    let look = stranger.cli(&["--socket", socket, "status"]);
    assert_eq!(look.code, 0, "{look:?}");
    let touch = stranger.cli(&["--socket", socket, "stop", "a"]);
    assert_eq!(touch.code, 6, "{touch:?}");
    assert_eq!(agent.state("a"), "ready");
}
