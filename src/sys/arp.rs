//! Asking who has an IPv4 address on one link: an AF_PACKET socket that sends ARP requests and hears only the answers of that address.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

/// An ARP packet for Ethernet and IPv4.
const PACKET_BYTES: usize = 28;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Answers taken at once; the rest is of the same address and says the same.
const ANSWERS_AT_ONCE: usize = 16;

/// Non-blocking; readable when the address has answered somebody on the link.
#[derive(Debug)]
pub struct Asker {
    fd: OwnedFd,
    link: libc::sockaddr_ll,
    request: [u8; PACKET_BYTES],
}

impl Asker {
    /// For `address` on the link with this index, asked in the name of the address that would be used towards it. EPERM without
    /// CAP_NET_RAW; EAFNOSUPPORT where the link has no Ethernet addresses.
    pub fn new(address: Ipv4Addr, index: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // No protocol yet: it would hear every link before it is bound to this one.
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, None::<SockProtocol>)?;
        attach_filter(&fd, address)?;
        let mut link = link_address(index)?;
        bind(&fd, &link)?;
        let hardware = hardware_address(&fd)?;
        link.sll_halen = 6;
        link.sll_addr[..6].fill(0xff);
        Ok(Self { fd, link, request: request(hardware, source_towards(address)?, address) })
    }

    /// Sends one request to the whole link.
    #[expect(unsafe_code, reason = "sendto with a sockaddr_ll, which nix cannot make")]
    pub fn ask(&self) -> io::Result<()> {
        // SAFETY: packet and address live on `self` for the call and are as long as said.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                self.request.as_ptr().cast(),
                self.request.len(),
                libc::MSG_DONTWAIT,
                (&raw const self.link).cast(),
                LINK_BYTES,
            )
        };
        Errno::result(sent).map(drop).map_err(io::Error::from)
    }

    /// Whether the address has answered since the last call. ENETDOWN while the link is down.
    pub fn answered(&self) -> io::Result<bool> {
        let mut buffer = [0; 64];
        let mut answered = false;
        for _ in 0..ANSWERS_AT_ONCE {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => answered = true,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(answered)
    }
}

impl AsFd for Asker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const LINK_BYTES: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

#[expect(unsafe_code, reason = "an all-zero sockaddr_ll")]
fn link_address(index: u32) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: a sockaddr_ll is numbers only, for which zero is valid.
    let mut link: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    link.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| Errno::EAFNOSUPPORT)?;
    link.sll_protocol = u16::try_from(libc::ETH_P_ARP).map_err(|_| Errno::EAFNOSUPPORT)?.to_be();
    link.sll_ifindex = i32::try_from(index).map_err(|_| Errno::ENODEV)?;
    Ok(link)
}

#[expect(unsafe_code, reason = "bind with a sockaddr_ll, which nix cannot make")]
fn bind(fd: &OwnedFd, link: &libc::sockaddr_ll) -> io::Result<()> {
    // SAFETY: `link` is borrowed for the call and as long as said.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(link).cast(), LINK_BYTES) };
    Errno::result(bound).map(drop).map_err(io::Error::from)
}

/// The Ethernet address of the link that the socket is bound to.
#[expect(unsafe_code, reason = "getsockname; nix refuses the short address that packet(7) gives")]
fn hardware_address(fd: &OwnedFd) -> io::Result<[u8; 6]> {
    let mut own = link_address(0)?;
    let mut length = LINK_BYTES;
    // SAFETY: both live on this frame, and `length` is that of `own`.
    let asked = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut own).cast(), &raw mut length) };
    Errno::result(asked)?;
    if own.sll_hatype != libc::ARPHRD_ETHER || own.sll_halen != 6 {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    let [a, b, c, d, e, f, ..] = own.sll_addr;
    Ok([a, b, c, d, e, f])
}

/// Keeps ARP of others from waking us: a reply (bytes 6 and 7) whose sender (bytes 14 to 17) is `address`.
#[expect(unsafe_code, reason = "SO_ATTACH_FILTER")]
fn attach_filter(fd: &OwnedFd, address: Ipv4Addr) -> io::Result<()> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(LOAD_HALF, 6, 0),
        step(JUMP_EQUAL, u32::from(REPLY), 3),
        step(LOAD_WORD, 14, 0),
        step(JUMP_EQUAL, address.to_bits(), 1),
        step(RETURN, 64, 0),
        step(RETURN, 0, 0),
    ];
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    #[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel copies the program, whose steps live on this frame and are as many as said.
    let attached = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
    Errno::result(attached).map(drop).map_err(io::Error::from)
}

/// Our own address towards `address`, as the routes have it: a connected UDP socket sends nothing.
fn source_towards(address: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddrV4::new(address, 9))?;
    match socket.local_addr()? {
        std::net::SocketAddr::V4(local) => Ok(*local.ip()),
        std::net::SocketAddr::V6(_) => Err(Errno::EAFNOSUPPORT.into()),
    }
}

fn request(hardware: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    // Ethernet, IPv4, and the length of their addresses.
    packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    packet[6..8].copy_from_slice(&REQUEST.to_be_bytes());
    packet[8..14].copy_from_slice(&hardware);
    packet[14..18].copy_from_slice(&source.octets());
    packet[24..28].copy_from_slice(&target.octets());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_as_rfc_826_has_it() {
        let packet = request([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
        let expected = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1];
        assert_eq!(packet, expected);
    }

    #[test]
    fn link_without_ethernet_addresses_is_refused() {
        match Asker::new(Ipv4Addr::LOCALHOST, 1) {
            Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
                eprintln!("skipped: no CAP_NET_RAW");
            }
            other => {
                let error = other.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(Errno::EAFNOSUPPORT as i32), "{error}");
            }
        }
    }
}
