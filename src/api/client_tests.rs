use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::super::http::{CONTENT_TEXT, Response, STREAM_HEAD};
use super::super::route::Request;
use super::super::server::{Incoming, Server};
use super::super::testing::{World, stamp, usage};
use super::*;
use crate::api::proto::Services;
use crate::api::render;
use crate::api::route::Roles;
use crate::engine::action::Outcome;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::testing::TempDir;

/// An agent with a real server and a small world, in a thread of its own.
struct Agent {
    directory: TempDir,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn new() -> Self {
        let directory = TempDir::new();
        let mut server = Server::bind(directory.path(), None).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let outer = Epoll::new().unwrap();
            outer.add(std::os::fd::AsFd::as_fd(&server), 0, Interest::READ).unwrap();
            let mut ready = Vec::with_capacity(1);
            let begun = Instant::now();
            while !flag.load(Ordering::Relaxed) {
                outer.wait(&mut ready, Some(Duration::from_millis(20))).unwrap();
                let now_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
                for incoming in server.turn(now_ns) {
                    answer(&mut server, now_ns, &incoming);
                }
            }
        });
        Self { directory, over, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::find(&[self.directory.path().to_path_buf()], Access::Admin).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn answer(server: &mut Server, now_ns: u64, incoming: &Incoming) {
    let world = World::new();
    let response = match &incoming.request {
        Request::Services { .. } => {
            Response::json(200, &render::services(&world.views(), Roles::Hidden, &usage, &stamp()))
        }
        Request::Metrics => Response::text(200, CONTENT_TEXT, "m".repeat(2 << 20)),
        Request::Verb { service, .. } if service == "slow" => return,
        Request::Verb { service, replica, wait, .. } => {
            let outcome = Outcome::Failed { why: "exited with code 1".to_owned() };
            render::outcome(&outcome, service, *replica, *wait, &stamp())
        }
        Request::Events { .. } => {
            let Some(descriptor) = server.hand_over(incoming.connection, STREAM_HEAD) else { return };
            UnixStream::from(descriptor).write_all(b"{\"seq\":1}\n{\"seq\":2}\n\xff\n").unwrap();
            return;
        }
        _ => render::unknown_service("nobody", &world.views()).response(),
    };
    server.respond(now_ns, incoming.connection, response);
}

#[test]
fn answers_are_read_whole_and_typed() {
    let agent = Agent::new();
    let client = agent.client();
    let services: Services = client.get_json("/v1/services").unwrap();
    assert_eq!(services.services.len(), 4);
    assert_eq!(client.get("/metrics").unwrap().len(), 2 << 20);
    assert!(!client.is_read_only() && client.path().ends_with(ADMIN_SOCKET));
}

#[test]
fn refusals_carry_their_code_and_hint() {
    let agent = Agent::new();
    let client = agent.client();
    let error = client.post("/v1/services/api/start", "{}", Some(ANSWER_TIMEOUT)).unwrap().body().unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (Some(Code::ServiceFailed), "exited with code 1"));
    assert_eq!(client.get("/v1/services/nobody").unwrap_err().code(), Some(Code::ServiceUnknown));
    assert_eq!(client.get("/v2").unwrap_err().code(), Some(Code::PathUnknown));
    assert!(matches!(client.lines("/v1/services/nobody/logs", None).unwrap_err(), ClientError::Refused(_)));
}

#[test]
fn an_outcome_that_does_not_come_is_a_timeout() {
    let agent = Agent::new();
    let pending = agent.client().post("/v1/services/slow/stop", "{}", Some(Duration::from_millis(50))).unwrap();
    assert!(matches!(pending.body().unwrap_err(), ClientError::TimedOut { .. }));
}

#[test]
fn a_stream_is_read_to_its_end() {
    let agent = Agent::new();
    let mut lines = agent.client().lines("/v1/events", Some(ANSWER_TIMEOUT)).unwrap();
    let mut texts = Vec::new();
    while let Some(text) = lines.read_line().unwrap() {
        texts.push(text);
    }
    assert_eq!(texts, ["{\"seq\":1}", "{\"seq\":2}", "\u{fffd}"]);
}

#[test]
fn an_agent_that_dies_while_it_is_asked_is_lost() {
    let agent = Agent::new();
    let pending = agent.client().post("/v1/services/slow/stop", "{}", Some(ANSWER_TIMEOUT)).unwrap();
    drop(agent);
    assert!(matches!(pending.body().unwrap_err(), ClientError::Lost(_)));
}

#[test]
fn the_first_place_with_an_agent_is_taken_and_none_is_told() {
    let agent = Agent::new();
    let empty = TempDir::new();
    let places = [empty.path().to_path_buf(), empty.path().join("missing"), agent.directory.path().to_path_buf()];
    assert_eq!(Client::find(&places, Access::Read).unwrap().path(), agent.directory.path().join(ADMIN_SOCKET));
    let error = Client::find(&places[..2], Access::Read).unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { tried } if tried.len() == 2), "{error}");
    let direct = Client::find(&[agent.directory.path().join(READ_SOCKET)], Access::Admin).unwrap();
    assert!(direct.is_read_only());
    assert_eq!(direct.get("/v1/events").unwrap_err().code(), Some(Code::SocketReadOnly));
}
