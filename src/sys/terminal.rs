//! The terminal behind a descriptor.

use std::os::fd::{AsFd, AsRawFd};

/// How many columns it has; `None` when it is no terminal or does not tell.
#[expect(unsafe_code, reason = "TIOCGWINSZ has no safe wrapper")]
pub fn columns(terminal: &impl AsFd) -> Option<u16> {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for the call, and TIOCGWINSZ writes one winsize, which `size` is.
    let result = unsafe { nix::libc::ioctl(terminal.as_fd().as_raw_fd(), nix::libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_columns() {
        assert_eq!(columns(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
