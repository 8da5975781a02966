//! PROXY protocol: reading versions 1 and 2, writing version 2 (haproxy.org/download/3.0/doc/proxy-protocol.txt).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Peek;

/// The longest header of version 2 that is read, extensions (TLVs) included; they are passed over.
pub const PROXY_BYTES_MAX: usize = 4 << 10;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_BEGIN: &[u8] = b"PROXY ";
/// With both addresses in their longest form, and the end of the line.
const V1_BYTES_MAX: usize = 107;
const V2_FIXED_BYTES: usize = 16;

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// So many bytes are the header; the client's own follow.
    pub len: usize,
    /// The client, where the header names one: not of connections that the other proxy made itself (LOCAL), nor of Unix sockets.
    pub source: Option<SocketAddr>,
}

/// [`Peek::Absent`] when the bytes do not begin with a header.
///
/// # Errors
/// They do, and it breaks the protocol: whoever sends that must not be believed. The text says what is wrong.
pub fn proxy_header(bytes: &[u8]) -> Result<Peek<ProxyHeader>, &'static str> {
    let begins = |begin: &[u8]| bytes.iter().zip(begin).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        return if bytes.len() < SIGNATURE.len() { Ok(Peek::More) } else { version_2(bytes) };
    }
    if begins(V1_BEGIN) {
        return if bytes.len() < V1_BEGIN.len() { Ok(Peek::More) } else { version_1(bytes) };
    }
    Ok(Peek::Absent)
}

fn version_1(bytes: &[u8]) -> Result<Peek<ProxyHeader>, &'static str> {
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(Peek::More) } else { Err("PROXY header without an end") };
    };
    let text = std::str::from_utf8(&line[V1_BEGIN.len()..end]).map_err(|_| "PROXY header that is not text")?;
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    let source = match family {
        // Whatever follows is to be ignored.
        "UNKNOWN" => None,
        "TCP4" | "TCP6" => {
            let addresses = [words.next(), words.next()].map(|word| word.and_then(|word| address(word, family)));
            let ports = [words.next(), words.next()].map(|word| word.and_then(port));
            let ([Some(source), Some(_)], [Some(port), Some(_)], None) = (addresses, ports, words.next()) else {
                return Err("PROXY header with addresses that are none");
            };
            Some(SocketAddr::new(source, port))
        }
        _ => return Err("PROXY header of an unknown family"),
    };
    Ok(Peek::Found(ProxyHeader { len: end + 2, source }))
}

fn address(word: &str, family: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => word.parse().ok().map(IpAddr::V4),
        _ => word.parse().ok().map(IpAddr::V6),
    }
}

/// Digits alone: the parser of the standard library takes a sign.
fn port(word: &str) -> Option<u16> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

fn version_2(bytes: &[u8]) -> Result<Peek<ProxyHeader>, &'static str> {
    let Some(command) = bytes.get(12) else { return Ok(Peek::More) };
    if command >> 4 != 2 {
        return Err("PROXY header of an unknown version");
    }
    if command & 0xf > 1 {
        return Err("PROXY header with an unknown command");
    }
    let Some(family) = bytes.get(13) else { return Ok(Peek::More) };
    let address_bytes = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err("PROXY header of an unknown family"),
    };
    let Some(length) = bytes.get(14..16) else { return Ok(Peek::More) };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let is_local = command & 0xf == 0;
    if length < address_bytes && !is_local {
        return Err("PROXY header too short for its addresses");
    }
    let len = V2_FIXED_BYTES + length;
    if len > PROXY_BYTES_MAX {
        return Err("PROXY header too long");
    }
    let Some(content) = bytes.get(V2_FIXED_BYTES..len) else { return Ok(Peek::More) };
    let source = if is_local { None } else { source_of(*family, content) };
    Ok(Peek::Found(ProxyHeader { len, source }))
}

fn source_of(family: u8, content: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes(*content.get(at..)?.first_chunk()?));
    match family >> 4 {
        1 => Some(SocketAddr::new(Ipv4Addr::from(*content.first_chunk::<4>()?).into(), port(8)?)),
        2 => Some(SocketAddr::new(Ipv6Addr::from(*content.first_chunk::<16>()?).into(), port(32)?)),
        _ => None,
    }
}

/// Appends a header for a connection from `source` to `destination`: 28 bytes for IPv4, 52 for IPv6. Where an address is missing (a Unix socket)
/// it says LOCAL with 16 bytes: UNSPEC with the command PROXY is rejected by some readers.
pub fn proxy_v2(source: Option<SocketAddr>, destination: Option<SocketAddr>, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    let (Some(source), Some(destination)) = (source, destination) else {
        return out.extend_from_slice(&[0x20, 0, 0, 0]);
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&as_v6(from).octets());
            out.extend_from_slice(&as_v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decided_at, mangled};
    use super::*;

    fn socket(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn found(len: usize, source: &str) -> Peek<ProxyHeader> {
        Peek::Found(ProxyHeader { len, source: socket(source) })
    }

    /// What is decided once the whole of `bytes` has come.
    fn whole(bytes: &[u8]) -> Peek<ProxyHeader> {
        decided_at(bytes, bytes.len(), |bytes| proxy_header(bytes).unwrap())
    }

    fn version_2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, content].concat()
    }

    #[test]
    fn version_1_is_read() {
        assert_eq!(whole(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"), found(45, "192.0.2.1:56324"));
        assert_eq!(whole(b"PROXY TCP6 2001:db8::1 ::1 4124 443\r\n"), found(37, "[2001:db8::1]:4124"));
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Peek::Found(ProxyHeader { len: 15, source: None }));
        assert_eq!(whole(b"PROXY UNKNOWN ::1 ::1 1 2 3\r\n"), Peek::Found(ProxyHeader { len: 29, source: None }));
        let f = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY UNKNOWN {f} {f} 65535 65535\r\n");
        assert_eq!(longest.len(), V1_BYTES_MAX);
        assert_eq!(whole(longest.as_bytes()), Peek::Found(ProxyHeader { len: 107, source: None }));
    }

    #[test]
    fn broken_version_1_is_told() {
        for broken in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +80 443\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 80 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 80 443\r\n",
            "PROXY \r\n",
        ] {
            assert!(proxy_header(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(proxy_header(&[b"PROXY UNKNOWN ".as_slice(), &[b' '; 93]].concat()).is_err());
        assert_eq!(proxy_header(&[b"PROXY UNKNOWN ".as_slice(), &[b' '; 92]].concat()), Ok(Peek::More));
    }

    #[test]
    fn version_2_is_read_and_its_extensions_are_passed_over() {
        let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
        assert_eq!(whole(&version_2(0x21, 0x11, &four)), found(28, "192.0.2.1:56324"));
        let extended = [&four[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(whole(&version_2(0x21, 0x11, &extended)), found(34, "192.0.2.1:56324"));
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[33]) = (0x20, 0x01, 1, 80);
        assert_eq!(whole(&version_2(0x21, 0x21, &six)), found(52, "[2001::1]:80"));
        assert_eq!(whole(&version_2(0x21, 0x31, &[b'/'; 216])), Peek::Found(ProxyHeader { len: 232, source: None }));
    }

    #[test]
    fn local_and_unspecified_name_nobody() {
        let nobody = |len| Peek::Found(ProxyHeader { len, source: None });
        assert_eq!(whole(&version_2(0x20, 0, &[])), nobody(16));
        assert_eq!(whole(&version_2(0x20, 0x11, &[9; 12])), nobody(28));
        assert_eq!(whole(&version_2(0x20, 0x11, &[9; 3])), nobody(19));
        assert_eq!(whole(&version_2(0x21, 0, &[9; 5])), nobody(21));
    }

    #[test]
    fn broken_version_2_is_told_as_soon_as_it_is_seen() {
        assert!(proxy_header(&version_2(0x11, 0x11, &[0; 12])[..13]).is_err());
        assert!(proxy_header(&version_2(0x22, 0x11, &[0; 12])[..13]).is_err());
        assert!(proxy_header(&version_2(0x21, 0x41, &[0; 12])[..14]).is_err());
        assert!(proxy_header(&version_2(0x21, 0x11, &[0; 11])[..16]).is_err());
        assert!(proxy_header(&version_2(0x21, 0x21, &[0; 35])[..16]).is_err());
        assert!(proxy_header(&version_2(0x21, 0x11, &vec![0; PROXY_BYTES_MAX - 15])[..16]).is_err());
        assert_eq!(
            whole(&version_2(0x20, 0, &vec![0; PROXY_BYTES_MAX - 16])),
            Peek::Found(ProxyHeader { len: 4_096, source: None })
        );
    }

    #[test]
    fn what_is_no_header_is_absent_at_its_first_wrong_byte() {
        let absent =
            |bytes: &[u8], at| assert_eq!(decided_at(bytes, at, |bytes| proxy_header(bytes).unwrap()), Peek::Absent);
        absent(b"GET / HTTP/1.1\r\n", 1);
        absent(b"PROXX TCP4", 5);
        absent(b"\r\n\r\n\0\r\nQUIT\r", 12);
    }

    #[test]
    fn version_2_is_written_byte_by_byte_as_the_specification_says() {
        let write = |source: &str, destination: &str| {
            let mut out = b"before".to_vec();
            proxy_v2(socket(source), socket(destination), &mut out);
            out.drain(..6);
            out
        };
        let signature = [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10];
        let four = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
        assert_eq!(write("192.0.2.1:56324", "198.51.100.2:443"), [&signature[..], &four].concat());
        assert_eq!(write("[::ffff:192.0.2.1]:56324", "[::ffff:198.51.100.2]:443"), [&signature[..], &four].concat());
        let six = write("[2001:db8::1]:1", "[::1]:258");
        assert_eq!((six.len(), &six[12..16], &six[48..]), (52, &[0x21, 0x21, 0, 36][..], &[0, 1, 1, 2][..]));
        for pair in
            [("192.0.2.1:56324", "198.51.100.2:443"), ("[2001:db8::1]:1", "[::1]:258"), ("1.2.3.4:5", "[::1]:6")]
        {
            let Peek::Found(header) = whole(&write(pair.0, pair.1)) else { panic!("{pair:?}") };
            let source = header.source.unwrap();
            assert_eq!(
                (source.ip().to_canonical(), source.port()),
                socket(pair.0).map(|s| (s.ip(), s.port())).unwrap()
            );
        }
        for missing in [(None, socket("1.2.3.4:5")), (socket("1.2.3.4:5"), None), (None, None)] {
            let mut out = Vec::new();
            proxy_v2(missing.0, missing.1, &mut out);
            assert_eq!(out, [&signature[..], &[0x20, 0, 0, 0]].concat());
        }
    }

    #[test]
    fn mangled_headers_are_answered_and_none_is_longer_than_what_came() {
        let four = version_2(0x21, 0x11, &[1; 19]);
        let six = version_2(0x21, 0x21, &[1; 36]);
        let seeds: [&[u8]; 4] = [&four, &six, b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", b"PROXY UNKNOWN\r\n"];
        let mut count = 0;
        mangled(&seeds, 60_000, |bytes| {
            if let Ok(Peek::Found(header)) = proxy_header(bytes) {
                count += 1;
                assert!(header.len <= bytes.len() && header.len <= PROXY_BYTES_MAX);
            }
        });
        assert!(count > 1_000, "{count}");
    }
}
