//! Speed and duplex of NICs: the driver is asked, under a lock that all of networking shares.

use std::path::Path;

use super::attribute;
use crate::engine::host::sample::LinkMode;

/// NICs that are gone are left out.
#[must_use]
pub fn read_link_modes(root: &Path, nics: &[String]) -> Vec<LinkMode> {
    let class = root.join("sys/class/net");
    let there = nics.iter().filter(|nic| class.join(nic).exists());
    there.map(|nic| read(&class.join(nic), nic)).collect()
}

/// While it is down, the attributes cannot be read or say -1 and `unknown`.
fn read(directory: &Path, nic: &str) -> LinkMode {
    let speed = attribute::number(&directory.join("speed")).ok().and_then(|speed| u32::try_from(speed).ok());
    let full_duplex = match attribute::word(&directory.join("duplex")).as_deref() {
        Some("full") => Some(true),
        Some("half") => Some(false),
        Some(_) | None => None,
    };
    LinkMode { nic: nic.to_owned(), speed: speed.filter(|speed| *speed > 0), full_duplex }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn speed_and_duplex_are_read_where_the_driver_tells() {
        let root = TempDir::new();
        for (nic, speed, duplex) in
            [("eth0", "1000\n", "full\n"), ("eth1", "-1\n", "unknown\n"), ("eth2", "10", "half")]
        {
            let directory = root.path().join("sys/class/net").join(nic);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("speed"), speed).unwrap();
            fs::write(directory.join("duplex"), duplex).unwrap();
        }
        fs::create_dir_all(root.path().join("sys/class/net/wlan0")).unwrap();
        let mode = |nic: &str, speed, full_duplex| LinkMode { nic: nic.to_owned(), speed, full_duplex };
        let expected = [
            mode("eth0", Some(1000), Some(true)),
            mode("eth1", None, None),
            mode("eth2", Some(10), Some(false)),
            mode("wlan0", None, None),
        ];
        let nics = ["eth0", "eth1", "eth2", "wlan0", "gone"].map(str::to_owned);
        assert_eq!(read_link_modes(root.path(), &nics), expected);
    }
}
