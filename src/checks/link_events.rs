//! What the kernel says over netlink, as far as it tells that something is to be read anew: the names of links, and whether a device
//! is a disk. Layouts: netlink(7), rtnetlink(7), `lib/kobject_uevent.c`.

const HEADER_BYTES: usize = 16;
/// `struct ifinfomsg`
const LINK_BYTES: usize = 16;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
/// Messages of one datagram that are looked at.
const MESSAGES_MAX: usize = 64;
/// Attributes of one message that are looked at; the name is among the first.
const ATTRIBUTES_MAX: usize = 64;

/// The names of the links that a datagram is about.
pub(super) fn link_names(datagram: &[u8]) -> impl Iterator<Item = &str> {
    Pieces { rest: datagram, length_bytes: 4 }
        .take(MESSAGES_MAX)
        .filter(|message| matches!(number_at(message, 4), Some(RTM_NEWLINK | RTM_DELLINK)))
        .filter_map(|message| message.get(HEADER_BYTES + LINK_BYTES..))
        .filter_map(|attributes| {
            let mut attributes = Pieces { rest: attributes, length_bytes: 2 }.take(ATTRIBUTES_MAX);
            let name = attributes.find(|attribute| number_at(attribute, 2) == Some(IFLA_IFNAME))?;
            let name = name.get(4..)?;
            std::str::from_utf8(name.split(|byte| *byte == 0).next()?).ok()
        })
}

/// Whether a uevent is about a block device.
pub(super) fn is_about_disks(uevent: &[u8]) -> bool {
    uevent.split(|byte| *byte == 0).any(|field| field == b"SUBSYSTEM=block")
}

/// Netlink's pieces: each begins with its own length, in the order of the host's bytes, and is padded to four. Messages and attributes
/// differ in how wide that length is. Ends where a length is impossible.
struct Pieces<'a> {
    rest: &'a [u8],
    length_bytes: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = match self.length_bytes {
            2 => usize::from(number_at(self.rest, 0)?),
            _ => usize::try_from(u32::from_ne_bytes(self.rest.get(..4)?.try_into().ok()?)).ok()?,
        };
        if length < 4 {
            return None;
        }
        let piece = self.rest.get(..length)?;
        self.rest = self.rest.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some(piece)
    }
}

fn number_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::garbage;
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + payload.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body: Vec<u8> = [vec![0; LINK_BYTES], attributes.concat()].concat();
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.resize(HEADER_BYTES, 0);
        [bytes, body].concat()
    }

    fn datagram() -> Vec<u8> {
        [
            message(RTM_NEWLINK, &[attribute(1, &[1; 6]), attribute(IFLA_IFNAME, b"eth0\0"), attribute(4, &[0; 4])]),
            message(20, &[attribute(IFLA_IFNAME, b"addr\0")]),
            message(RTM_DELLINK, &[attribute(IFLA_IFNAME, b"veth1\0")]),
            message(RTM_NEWLINK, &[]),
        ]
        .concat()
    }

    #[test]
    fn names_of_new_and_gone_links_are_found() {
        assert_eq!(link_names(&datagram()).collect::<Vec<_>>(), ["eth0", "veth1"]);
    }

    #[test]
    fn uevent_of_a_disk_is_known() {
        assert!(is_about_disks(b"add@/devices/x/block/sda\0ACTION=add\0SUBSYSTEM=block\0DEVTYPE=disk\0"));
        assert!(!is_about_disks(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0X=SUBSYSTEM=block\0"));
        assert!(!is_about_disks(b""));
    }

    #[test]
    fn what_is_cut_or_forged_is_read_without_a_panic() {
        let whole = datagram();
        for length in 0..whole.len() {
            assert!(link_names(&whole[..length]).count() <= 2);
        }
        // Any one byte wrong, and bytes that no kernel sent.
        for at in 0..whole.len() {
            for value in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                link_names(&bytes).count();
            }
        }
        for seed in 0..5_000 {
            let bytes = garbage(seed, &["\x14\0\0\0\x10\0eth0", "\x24\0\0\0\x10\0\0\0"]);
            link_names(&bytes).count();
            is_about_disks(&bytes);
        }
    }
}
