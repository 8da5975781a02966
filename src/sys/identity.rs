//! Becoming somebody with fewer rights, for good.

use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Who a process is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// Becomes `who`, without a way back: no capability is left (unless `who` is root), and no program that is executed gets any. To be called
/// before threads are made. EPERM without CAP_SETUID and CAP_SETGID.
pub fn assume(who: &Identity) -> io::Result<()> {
    let groups: Vec<Gid> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    if !uid.is_root() && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(Errno::EPERM.into());
    }
    Ok(())
}

/// No program that this process executes gains rights, and no other process of its user reads its memory or takes it over.
pub fn renounce() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    Ok(prctl::set_dumpable(false)?)
}
