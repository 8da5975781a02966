//! A replica that takes connections from the balancer: `delivery: HandOff`. It greets each client and echoes what it says.
#![allow(unsafe_code, missing_docs)]

use std::io::{IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::fd::{FromRawFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};

/// The next connection, acknowledged; `None` at the end.
fn next_connection(channel: RawFd) -> nix::Result<Option<TcpStream>> {
    let (mut number, mut control) = ([0; 8], nix::cmsg_space!(RawFd));
    let mut vector = [IoSliceMut::new(&mut number)];
    let message = recvmsg::<()>(channel, &mut vector, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs()?.next() else { return Ok(None) };
    // SAFETY: the kernel has just made this descriptor for us.
    let connection = unsafe { TcpStream::from_raw_fd(fds[0]) };
    send(channel, &number, MsgFlags::MSG_NOSIGNAL)?;
    Ok(Some(connection))
}

fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    connection.write_all(format!("hello from {}\n", std::process::id()).as_bytes())?;
    let mut buffer = vec![0; 65_536];
    while let count @ 1.. = connection.read(&mut buffer)? {
        connection.write_all(&buffer[..count])?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names = std::env::var("LISTEN_FDNAMES")?;
    let place = names.split(':').position(|name| name == "handoff").ok_or("no channel was inherited")?;
    let channel = 3 + RawFd::try_from(place)?;
    while let Some(connection) = next_connection(channel)? {
        std::thread::spawn(move || serve(connection));
    }
    Ok(())
}
