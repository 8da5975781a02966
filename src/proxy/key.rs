//! What of a client decides its backend, as bytes for the keyed hash. The bytes never change, or clients would move with an upgrade.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::engine::balance::pick::hash_key;
use crate::engine::balance::plan::Key;
use crate::sys::packet::Peer;

/// The hash of what is known of the client without a look at its bytes. `None`: nothing that tells clients apart, and for the
/// peeked keys, whose value [`hash_value`] takes. `peer` is asked for [`Key::PeerCred`] alone.
pub(super) fn hash_source(
    secret: [u64; 2],
    key: &Key,
    source: Option<SocketAddr>,
    peer: impl FnOnce() -> Option<Peer>,
) -> Option<u64> {
    let address = source.map(|source| source.ip().to_canonical());
    match key {
        Key::Auto => address.filter(|address| !address.is_loopback()).map(|address| hash_address(secret, address)),
        Key::SourceIp => address.map(|address| hash_address(secret, address)),
        Key::SourceIpPort => source.map(|source| {
            let [high, low] = source.port().to_be_bytes();
            match source.ip().to_canonical() {
                IpAddr::V4(address) => {
                    let [a, b, c, d] = address.octets();
                    hash_key(secret, &[a, b, c, d, high, low])
                }
                IpAddr::V6(address) => hash_key(secret, &[&address.octets()[..], &[high, low]].concat()),
            }
        }),
        Key::PeerCred => peer().map(|peer| {
            let [uid, pid] = [peer.uid.to_be_bytes(), peer.pid.to_be_bytes()];
            hash_key(secret, [uid, pid].as_flattened())
        }),
        Key::TlsSni | Key::HttpHeader(_) => None,
    }
}

/// The hash of a peeked server name or header value.
pub(super) fn hash_value(secret: [u64; 2], value: &[u8]) -> u64 {
    hash_key(secret, value)
}

/// An IPv6 client has a network of 64 bits and changes its address within it.
fn hash_address(secret: [u64; 2], address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash_key(secret, &address.octets()),
        IpAddr::V6(address) => hash_key(secret, &address.octets()[..8]),
    }
}

/// Who a client is, as far as limits and blame go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Of an IPv6 address its network of 64 bits.
    Address(IpAddr),
    /// The user at the other end of a Unix socket.
    User(u32),
}

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::Address(address.into()),
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Self::Address(Ipv6Addr::from(network).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = Peer { pid: 7, uid: 1_000, gid: 5 };

    fn of(key: &Key, source: &str) -> Option<u64> {
        hash_source([1, 2], key, source.parse().ok(), || Some(PEER))
    }

    #[test]
    fn address_is_the_key_and_the_port_only_where_it_is_asked_for() {
        assert_eq!(of(&Key::Auto, "10.0.0.1:80"), of(&Key::SourceIp, "10.0.0.1:81"));
        assert_ne!(of(&Key::Auto, "10.0.0.1:80"), of(&Key::Auto, "10.0.0.2:80"));
        assert_ne!(of(&Key::SourceIpPort, "10.0.0.1:80"), of(&Key::SourceIpPort, "10.0.0.1:81"));
        assert_eq!(of(&Key::SourceIpPort, "10.0.0.1:80"), of(&Key::SourceIpPort, "[::ffff:10.0.0.1]:80"));
        assert_eq!(of(&Key::Auto, "10.0.0.1:80"), of(&Key::Auto, "[::ffff:10.0.0.1]:9"));
        assert_eq!(of(&Key::Auto, "[2001:db8::1]:1"), of(&Key::Auto, "[2001:db8::2]:1"));
        assert_ne!(of(&Key::Auto, "[2001:db8::1]:1"), of(&Key::Auto, "[2001:db8:0:1::1]:1"));
        assert_ne!(of(&Key::SourceIpPort, "[2001:db8::1]:1"), of(&Key::SourceIpPort, "[2001:db8::2]:1"));
    }

    #[test]
    fn clients_on_this_host_have_no_address_to_tell_them_apart() {
        for loopback in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "a Unix socket"] {
            assert_eq!(of(&Key::Auto, loopback), None, "{loopback}");
        }
        assert!(of(&Key::SourceIp, "127.0.0.1:80").is_some());
        assert_eq!(of(&Key::SourceIp, "a Unix socket"), None);
        assert_eq!(of(&Key::PeerCred, "a Unix socket"), Some(hash_key([1, 2], &[0, 0, 3, 232, 0, 0, 0, 7])));
        assert_eq!(of(&Key::TlsSni, "10.0.0.1:80"), None);
    }
}
