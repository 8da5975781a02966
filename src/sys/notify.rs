//! sd_notify: the socket that services write to, and our own word to whoever started us.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};

use super::ancillary::{self, Descriptors, Taking};
use super::unix;

/// The longest message; what is longer is cut at its last whole line.
pub const DATAGRAM_BYTES_MAX: usize = 4096;

/// A datagram socket of one replica. Non-blocking; the kernel tells who sent. Descriptors that a service attaches are never received: the
/// kernel drops them when the message is consumed.
#[derive(Debug)]
pub struct NotifySocket(OwnedFd);

/// One message.
#[derive(Debug)]
pub struct Datagram {
    /// Lines `KEY=value`; at most [`DATAGRAM_BYTES_MAX`].
    pub text: Vec<u8>,
    /// As the kernel saw the sender; 0 when it is outside our pid namespace.
    pub pid: i32,
    pub uid: u32,
    /// It brings descriptors, so whoever receives it may have to wait for them ([`super::stranger`]): leave that to a child.
    pub attached: bool,
}

impl NotifySocket {
    /// Binds at `path` with mode 0600 for `owner` (`None`: us). Replaces the socket of a dead agent.
    pub fn bind(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let passing = |socket: &OwnedFd| Ok(socket::setsockopt(socket, sockopt::PassCred, &true)?);
        Ok(Self(unix::bind(SockType::Datagram, path, 0o600, owner, passing)?))
    }

    /// A socket that [`NotifySocket::bind`] made in the process image before.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Takes the first message; `None` when nothing waits.
    pub fn receive(&self) -> io::Result<Option<Datagram>> {
        self.first(Taking::Consume)
    }

    /// The first message, which stays first until it is received: whoever dies before it has acted on it leaves it to its successor.
    pub fn peek(&self) -> io::Result<Option<Datagram>> {
        self.first(Taking::Peek)
    }

    fn first(&self, taking: Taking) -> io::Result<Option<Datagram>> {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let Some(message) = ancillary::receive(self.0.as_fd(), &mut buffer, taking, Descriptors::Refused)? else {
            return Ok(None);
        };
        let mut text = &buffer[..message.length];
        if message.truncated {
            let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or_default();
            text = &text[..whole];
        }
        let (pid, uid) = message.sender.unwrap_or((0, NOBODY));
        Ok(Some(Datagram { text: text.to_vec(), pid, uid, attached: message.attached }))
    }
}

/// The kernel's overflow uid.
const NOBODY: u32 = 65534;

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `text` to the socket that NOTIFY_SOCKET names, a path or `@` and an abstract name. `false`: there is none. Never waits.
pub fn notify_parent(text: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(address) => notify(address.as_bytes(), text).map(|()| true),
        None => Ok(false),
    }
}

fn notify(address: &[u8], text: &str) -> io::Result<()> {
    let address = match address {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        [b'/', ..] => UnixAddr::new(address)?,
        _ => return Err(Errno::EAFNOSUPPORT.into()),
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let sender = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    socket::sendto(sender.as_raw_fd(), text.as_bytes(), &address, flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn datagram_names_its_sender_and_a_long_one_ends_with_a_whole_line() {
        let directory = TempDir::new();
        let path = directory.path().join("notify");
        let socket = NotifySocket::bind(&path, None).unwrap();
        assert!(socket.receive().unwrap().is_none());
        notify(path.as_os_str().as_bytes(), "READY=1\nSTATUS=up").unwrap();
        let peeked = socket.peek().unwrap().unwrap();
        assert_eq!((peeked.text.as_slice(), peeked.attached), (&b"READY=1\nSTATUS=up"[..], false));
        let datagram = socket.receive().unwrap().unwrap();
        assert_eq!(datagram.text, b"READY=1\nSTATUS=up");
        assert_eq!((datagram.pid.unsigned_abs(), datagram.uid), (std::process::id(), crate::sys::host::uid()));
        let long = format!("READY=1\nSTATUS={}", "x".repeat(5000));
        notify(path.as_os_str().as_bytes(), &long).unwrap();
        assert_eq!(socket.receive().unwrap().unwrap().text, b"READY=1");
        let endless = "x".repeat(5000);
        notify(path.as_os_str().as_bytes(), &endless).unwrap();
        assert_eq!(socket.receive().unwrap().unwrap().text, b"");
    }

    #[test]
    fn attached_descriptors_are_never_ours_and_are_gone_once_the_message_is_taken() {
        let directory = TempDir::new();
        let path = directory.path().join("notify");
        let socket = NotifySocket::bind(&path, None).unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let inode = nix::sys::stat::fstat(&writer).unwrap().st_ino;
        // Other tests of this process open descriptors too, but none of this pipe.
        let ours = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap();
            let named = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
            let pipe = std::path::PathBuf::from(format!("pipe:[{inode}]"));
            open.filter_map(|entry| named(entry.ok()?)).filter(|name| *name == pipe).count()
        };
        let sender = unix::connect(SockType::Datagram, &path).unwrap();
        for count in [1, ancillary::DESCRIPTORS_MAX] {
            assert!(ancillary::send(sender.as_fd(), b"FDSTORE=1", &vec![writer.as_fd(); count]).unwrap());
            assert_eq!(ours(), 2);
            let peeked = socket.peek().unwrap().unwrap();
            assert_eq!((peeked.text.as_slice(), peeked.pid.unsigned_abs()), (&b"FDSTORE=1"[..], std::process::id()));
            assert!(peeked.attached);
            assert_eq!(ours(), 2, "{count}");
            assert_eq!(socket.receive().unwrap().unwrap().text, b"FDSTORE=1");
            assert_eq!(ours(), 2, "{count}");
        }
        assert!(ancillary::send(sender.as_fd(), b"BARRIER=1", &[writer.as_fd()]).unwrap());
        drop(writer);
        assert_eq!(nix::unistd::read(&reader, &mut [0]), Err(Errno::EAGAIN));
        socket.receive().unwrap().unwrap();
        // The sender of a barrier sees its end.
        assert_eq!(nix::unistd::read(&reader, &mut [0]), Ok(0));
    }

    #[test]
    fn abstract_socket_is_reached_and_nonsense_is_refused() {
        let name = format!("mainstay-test-{}", std::process::id());
        let socket = socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
        notify(format!("@{name}").as_bytes(), "READY=1").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()), Ok(7));
        assert!(notify(b"vsock:2:1234", "READY=1").is_err());
    }
}
