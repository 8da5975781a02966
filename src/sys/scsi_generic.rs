//! SG_IO: one SCSI command to a block device, with its sense data.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use nix::libc;

const SG_IO: libc::Ioctl = 0x2285;
const INTERFACE_ID: i32 = b'S' as i32;
const DXFER_NONE: i32 = -1;
const DXFER_FROM_DEVICE: i32 = -3;
/// The longest command that is sent.
pub const COMMAND_BYTES_MAX: usize = 16;
/// Room for sense data; what a target says beyond is cut.
pub const SENSE_BYTES: usize = 64;

/// struct sg_io_hdr of scsi/sg.h.
#[repr(C)]
#[derive(Debug)]
struct Header {
    interface_id: i32,
    direction: i32,
    command_bytes: u8,
    sense_bytes_max: u8,
    iovec_count: u16,
    data_bytes: u32,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    user: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_bytes: u8,
    host_status: u16,
    driver_status: u16,
    residual: i32,
    duration_ms: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Header>() == 88);
#[cfg(target_pointer_width = "32")]
const _: () = assert!(size_of::<Header>() == 64);

/// What the target answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// SCSI status: 0 is good, 2 is CHECK CONDITION.
    pub status: u8,
    /// Bytes of the data that are valid.
    pub data_bytes: usize,
    pub sense: [u8; SENSE_BYTES],
    pub sense_bytes: usize,
}

impl Answer {
    #[must_use]
    pub fn sense(&self) -> &[u8] {
        &self.sense[..self.sense_bytes.min(SENSE_BYTES)]
    }
}

/// Sends a command of at most [`COMMAND_BYTES_MAX`] bytes that fills `data` (none: it moves no data) and waits for the answer; the kernel's error
/// handling may take several times `timeout`. An error is one of the way there: a target that refuses is an answer. Needs CAP_SYS_RAWIO
/// for what the kernel does not know as harmless.
#[expect(unsafe_code, reason = "SG_IO")]
pub fn command(device: &File, command: &[u8], data: &mut [u8], timeout: Duration) -> io::Result<Answer> {
    let mut sense = [0_u8; SENSE_BYTES];
    let too_long = || io::Error::from(io::ErrorKind::InvalidInput);
    if command.len() > COMMAND_BYTES_MAX {
        return Err(too_long());
    }
    let mut header = Header {
        interface_id: INTERFACE_ID,
        direction: if data.is_empty() { DXFER_NONE } else { DXFER_FROM_DEVICE },
        command_bytes: u8::try_from(command.len()).map_err(|_| too_long())?,
        sense_bytes_max: u8::try_from(SENSE_BYTES).map_err(|_| too_long())?,
        iovec_count: 0,
        data_bytes: u32::try_from(data.len()).map_err(|_| too_long())?,
        data: data.as_mut_ptr(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        pack_id: 0,
        user: ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_bytes: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the header has the kernel's layout; command, data and sense are as long as it says and live until the call returns.
    if unsafe { libc::ioctl(device.as_raw_fd(), SG_IO, &raw mut header) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if header.host_status != 0 {
        return Err(io::Error::other(format!("the host adapter says {:#x}", header.host_status)));
    }
    let residual = usize::try_from(header.residual).unwrap_or(0);
    Ok(Answer {
        status: header.status,
        data_bytes: data.len().saturating_sub(residual),
        sense,
        sense_bytes: usize::from(header.sense_bytes),
    })
}
