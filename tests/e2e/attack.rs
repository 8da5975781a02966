//! What a user without rights, or a service that means harm, can send.

use std::io::IoSlice;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

use crate::support::{Agent, SOON, sample};

/// A connection whose last holder waits for half a minute when it closes it: bytes that nobody takes, and SO_LINGER.
fn lingering() -> (TcpListener, TcpStream, TcpStream) {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    while client.write(&[0; 65_536]).is_ok() {}
    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 30 }).unwrap();
    (listener, other, client)
}

fn attach(socket: &impl AsRawFd, text: &str, descriptor: TcpStream) {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], &rights, MsgFlags::empty(), None).unwrap();
}

fn answers_soon(agent: &Agent) {
    let began = Instant::now();
    assert_eq!(agent.get("/v1/services").status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "the agent was held for {:?}", began.elapsed());
}

#[test]
fn descriptor_that_lingers_does_not_hold_the_agent_when_a_client_attaches_it() {
    let agent = Agent::running(&sample("a", "", ""));
    for name in ["read.sock", "mainstay.sock"] {
        let client = UnixStream::connect(agent.run_dir().join(name)).unwrap();
        let (_listener, _other, attached) = lingering();
        attach(&client, "GET /v1/services HTTP/1.1\r\n", attached);
        answers_soon(&agent);
        drop(client);
        answers_soon(&agent);
    }
}

#[test]
fn descriptor_that_lingers_does_not_hold_the_agent_when_a_service_attaches_it() {
    let mut agent = Agent::running(&sample("a", "", "ready: Notify"));
    let path = agent.run_dir().join("svc/a/notify.0");
    agent.wait_until("the notify socket is there", SOON, |_| path.exists());
    let service = UnixDatagram::unbound().unwrap();
    service.connect(&path).unwrap();
    let (_listener, _other, attached) = lingering();
    attach(&service, "STATUS=held\nBARRIER=1", attached);
    answers_soon(&agent);
    // Nobody waits for the one that is held either, for longer than its child is given.
    service.send(b"READY=1").unwrap();
    agent.wait_for("a", "ready");
    answers_soon(&agent);
}
