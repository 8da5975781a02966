//! NVMe admin commands through the driver, of which one is needed: Get Log Page.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;

/// `_IOWR('N', 0x41, struct nvme_admin_cmd)`
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xC048_4E41_u32 as libc::Ioctl;
const GET_LOG_PAGE: u8 = 0x02;
/// The controller as a whole.
const ALL_NAMESPACES: u32 = 0xffff_ffff;
/// Of the log page SMART / Health Information.
pub const HEALTH_LOG_BYTES: usize = 512;
const HEALTH_LOG_PAGE: u32 = 0x02;

/// struct nvme_passthru_cmd of linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Debug, Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<AdminCommand>() == 0x48, "the size is part of the ioctl's number");

/// Reads log page 02h of the controller that the device belongs to. Waits for it, at most `timeout` unless the driver itself hangs.
#[expect(unsafe_code, reason = "NVME_IOCTL_ADMIN_CMD")]
pub fn health_log(device: &File, timeout: Duration) -> io::Result<[u8; HEALTH_LOG_BYTES]> {
    const DWORDS_LESS_ONE: u32 = 127;
    const { assert!(HEALTH_LOG_BYTES == 4 * (DWORDS_LESS_ONE as usize + 1)) };
    let mut page = [0_u8; HEALTH_LOG_BYTES];
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        nsid: ALL_NAMESPACES,
        address: page.as_mut_ptr().expose_provenance() as u64,
        data_bytes: 4 * (DWORDS_LESS_ONE + 1),
        cdw10: HEALTH_LOG_PAGE | DWORDS_LESS_ONE << 16,
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        ..AdminCommand::default()
    };
    // SAFETY: the command has the layout that the number of the ioctl tells, and `page` has room for the bytes that it asks for and
    // lives until the call returns.
    match unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) } {
        0 => Ok(page),
        -1 => Err(io::Error::last_os_error()),
        status => Err(io::Error::other(format!("NVMe status {status:#x}"))),
    }
}
