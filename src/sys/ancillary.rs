//! sendmsg and recvmsg with descriptors and credentials. Not nix's: when the peer sends more descriptors than fit, its reader fails
//! and those that were received stay open for ever.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

/// Descriptors taken with one message; the kernel closes those beyond.
pub(super) const DESCRIPTORS_MAX: usize = 16;

/// Room for [`DESCRIPTORS_MAX`] descriptors and the sender's credentials, each with its header, aligned as the kernel needs it.
type Control = [u64; 16];

/// A received message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) length: usize,
    /// Cut off: the message was longer than the buffer.
    pub(super) truncated: bool,
    pub(super) fds: Vec<OwnedFd>,
    /// Descriptors came that were not taken.
    pub(super) attached: bool,
    /// With SO_PASSCRED: pid and uid of the sender, as the kernel saw them.
    pub(super) sender: Option<(i32, u32)>,
}

/// Whether a message stays in the queue of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    Consume,
    /// It is there again at the next receive.
    Peek,
}

/// What becomes of descriptors that come with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descriptors {
    Taken,
    /// Dropped by the kernel. To be used with whoever is not trusted: closing a descriptor asks its file system, and the one that the
    /// sender brought may never answer.
    Refused,
}

/// Room for the sender's credentials with their header, and for not one descriptor.
const CREDENTIALS_BYTES: usize = 32;

/// Receives without waiting into the whole of `buffer`; `None` when there is nothing.
#[expect(unsafe_code, reason = "recvmsg")]
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    taking: Taking,
    descriptors: Descriptors,
) -> io::Result<Option<Message>> {
    let mut control: MaybeUninit<Control> = MaybeUninit::zeroed();
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = match descriptors {
        Descriptors::Taken => size_of::<Control>() as _,
        Descriptors::Refused => CREDENTIALS_BYTES as _,
    };
    let peek = match taking {
        Taking::Consume => 0,
        Taking::Peek => libc::MSG_PEEK,
    };
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | peek;
    let length = loop {
        // SAFETY: the header points to `buffer` and `control`, both alive and of the lengths given.
        match Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) }) {
            Ok(length) => break length.unsigned_abs(),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let (fds, sender) = read_control(&header);
    let flagged = |flag| header.msg_flags & flag != 0;
    let (truncated, attached) = (flagged(libc::MSG_TRUNC), flagged(libc::MSG_CTRUNC));
    Ok(Some(Message { length, truncated, fds, attached, sender }))
}

/// What waits in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Nothing,
    /// So many bytes, copied and still there, none of which brings descriptors; 0 at the end.
    Bytes(usize),
    /// Descriptors come with the first bytes.
    Descriptors,
}

/// Looks without taking anything.
#[expect(unsafe_code, reason = "recvmsg")]
pub(super) fn look(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Look> {
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a valid msghdr. Without room for control data the kernel only says that there was some.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    loop {
        // SAFETY: the header points to `buffer`, alive and of the length given.
        let looked = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
        match Errno::result(looked) {
            Ok(_) if header.msg_flags & libc::MSG_CTRUNC != 0 => return Ok(Look::Descriptors),
            Ok(length) => return Ok(Look::Bytes(length.unsigned_abs())),
            Err(Errno::EAGAIN) => return Ok(Look::Nothing),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[expect(unsafe_code, reason = "the CMSG macros")]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "the control buffer is aligned as cmsghdr, and each CMSG_DATA as cmsghdr's words"
)]
fn read_control(header: &libc::msghdr) -> (Vec<OwnedFd>, Option<(i32, u32)>) {
    let (mut fds, mut sender) = (Vec::new(), None);
    // SAFETY: the kernel has filled the control buffer that the header points to.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie within the buffer.
        let (level, kind, bytes, data) =
            unsafe { ((*next).cmsg_level, (*next).cmsg_type, (*next).cmsg_len as usize, libc::CMSG_DATA(next)) };
        // SAFETY: an arithmetic macro.
        let payload = bytes.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..payload / size_of::<RawFd>() {
                    // SAFETY: within the payload. Each number is a descriptor that the kernel has just given to us.
                    fds.push(unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned()) });
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if payload >= size_of::<libc::ucred>() => {
                // SAFETY: within the payload.
                let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                sender = Some((credentials.pid, credentials.uid));
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    (fds, sender)
}

/// Sends without waiting; `false` when the socket is full. At most [`DESCRIPTORS_MAX`] descriptors.
#[expect(unsafe_code, reason = "sendmsg")]
#[expect(clippy::cast_ptr_alignment, reason = "written unaligned")]
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
    if fds.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {DESCRIPTORS_MAX} descriptors")));
    }
    let mut control: MaybeUninit<Control> = MaybeUninit::zeroed();
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = u32::try_from(size_of_val(fds) / size_of::<BorrowedFd<'_>>() * size_of::<RawFd>())
            .map_err(|_| Errno::EINVAL)?;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic macros; `Control` has room for the largest payload.
        let (space, length) = unsafe { (libc::CMSG_SPACE(payload), libc::CMSG_LEN(payload)) };
        header.msg_controllen = space as _;
        // SAFETY: the control buffer holds at least one header, and `Control` has room for the payload behind it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = length as _;
            for (index, fd) in fds.iter().enumerate() {
                ptr::write_unaligned(libc::CMSG_DATA(first).cast::<RawFd>().add(index), fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the header points to `bytes` and `control`, both alive and of the lengths given; neither is written to.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        match Errno::result(sent) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
