//! The server name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), which may come in several records.

use std::borrow::Cow;

use super::{Cursor, Peek, Short};

const HANDSHAKE: usize = 22;
/// RFC 8446 section 5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
const CLIENT_HELLO: usize = 1;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
/// The longest name in the DNS.
const NAME_BYTES_MAX: usize = 255;

/// In lower case, as names are compared. Decided as soon as the name has come, even if the rest of the message has not.
/// With Encrypted Client Hello it is the outer name.
#[must_use]
pub fn tls_sni(bytes: &[u8]) -> Peek<Vec<u8>> {
    handshake(bytes).and_then(|handshake| server_name(&handshake)).into()
}

/// What the records hold, as far as it has come. It is not known to be complete: reading beyond its end awaits more.
fn handshake(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Short> {
    let mut records = Cursor::awaiting(bytes);
    let first = record(&mut records)?;
    let mut whole = Cow::Borrowed(first);
    while !records.bytes.is_empty() && !is_complete(&whole) {
        match record(&mut records) {
            Ok(next) => whole.to_mut().extend_from_slice(next),
            Err(Short::Awaited) => break,
            Err(Short::Malformed) => return Err(Short::Malformed),
        }
    }
    Ok(whole)
}

/// Beyond its end, records may be of another kind.
fn is_complete(handshake: &[u8]) -> bool {
    let mut cursor = Cursor::awaiting(handshake);
    cursor.take(1).is_ok() && cursor.number(3).is_ok_and(|length| cursor.bytes.len() >= length)
}

fn record<'a>(records: &mut Cursor<'a>) -> Result<&'a [u8], Short> {
    if records.number(1)? != HANDSHAKE || records.number(1)? != 3 {
        return Err(Short::Malformed);
    }
    records.take(1)?;
    let mut length = *records;
    if !(1..=RECORD_BYTES_MAX).contains(&length.number(2)?) {
        return Err(Short::Malformed);
    }
    Ok(records.part(2)?.bytes)
}

fn server_name(handshake: &[u8]) -> Result<Option<Vec<u8>>, Short> {
    let mut cursor = Cursor::awaiting(handshake);
    if cursor.number(1)? != CLIENT_HELLO {
        return Ok(None);
    }
    let mut hello = cursor.part(3)?;
    // The legacy version and the random.
    hello.take(2 + 32)?;
    for length_bytes in [1, 2, 1] {
        // Session, cipher suites, compression methods.
        let length = hello.number(length_bytes)?;
        hello.take(length)?;
    }
    if hello.bytes.is_empty() && hello.at_end == Short::Malformed {
        // A hello without extensions.
        return Ok(None);
    }
    let mut extensions = hello.part(2)?;
    while !(extensions.bytes.is_empty() && extensions.at_end == Short::Malformed) {
        let kind = extensions.number(2)?;
        let mut extension = extensions.part(2)?;
        if kind == SERVER_NAME {
            return name(&mut extension);
        }
        if extension.at_end == Short::Awaited {
            return Err(Short::Awaited);
        }
    }
    Ok(None)
}

fn name(extension: &mut Cursor<'_>) -> Result<Option<Vec<u8>>, Short> {
    let mut list = extension.part(2)?;
    if list.number(1)? != HOST_NAME {
        return Ok(None);
    }
    let length = list.number(2)?;
    if !(1..=NAME_BYTES_MAX).contains(&length) {
        return Ok(None);
    }
    Ok(Some(list.take(length)?.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decided_at, mangled};
    use super::*;

    fn sized(length_bytes: usize, content: &[u8]) -> Vec<u8> {
        let length = content.len().to_be_bytes();
        [&length[8 - length_bytes..], content].concat()
    }

    fn extension(kind: u8, content: &[u8]) -> Vec<u8> {
        [&[0, kind][..], &sized(2, content)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &sized(2, &[&[0][..], &sized(2, name)].concat()))
    }

    fn hello(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(sized(1, &[9; 32]));
        body.extend(sized(2, &[0x13, 0x01, 0x13, 0x02]));
        body.extend(sized(1, &[0]));
        if let Some(extensions) = extensions {
            body.extend(sized(2, extensions));
        }
        [&[1][..], &sized(3, &body)].concat()
    }

    fn record(content: &[u8]) -> Vec<u8> {
        [&[22, 3, 1][..], &sized(2, content)].concat()
    }

    /// `hello` in records of so many bytes each.
    fn records(hello: &[u8], size: usize) -> Vec<u8> {
        hello.chunks(size).flat_map(record).collect()
    }

    /// What `openssl s_client -servername api.example -tls1_2` of OpenSSL 3.0 sends.
    const GOLDEN: &str = "1603010097010000930303790ac2b4a11fb4b628fce11c743369e1b1b547822134456e52565b581f2f15e2000004c02f00ff0100\
        006600000010000e00000b6170692e6578616d706c65000b000403000102000a000c000a001d0017001e00190018002300000016\
        000000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602";

    fn golden() -> Vec<u8> {
        let digits: Vec<u8> = GOLDEN.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn name_is_found_once_it_has_come() {
        let bytes = golden();
        let end = bytes.windows(11).position(|window| window == b"api.example").unwrap() + 11;
        assert_eq!(decided_at(&bytes, end, tls_sni), Peek::Found(b"api.example".to_vec()));
    }

    #[test]
    fn name_is_compared_in_lower_case() {
        let bytes = record(&hello(Some(&sni(b"Api.EXAMPLE"))));
        assert_eq!(tls_sni(&bytes), Peek::Found(b"api.example".to_vec()));
    }

    #[test]
    fn hello_in_many_records_is_put_together() {
        let extensions = [extension(10, &[0, 2, 0, 29]), extension(51, &[5; 1_200]), sni(b"db.example")].concat();
        let hello = hello(Some(&extensions));
        for size in [1, 2, 3, 5, 40, 100, 1_000] {
            let bytes = records(&hello, size);
            assert_eq!(decided_at(&bytes, bytes.len(), tls_sni), Peek::Found(b"db.example".to_vec()), "{size}");
        }
    }

    #[test]
    fn hello_without_a_name_is_absent_when_it_is_complete() {
        for extensions in [None, Some(&[][..]), Some(&extension(10, &[0, 2, 0, 29])[..])] {
            let bytes = record(&hello(extensions));
            assert_eq!(decided_at(&bytes, bytes.len(), tls_sni), Peek::Absent, "{extensions:?}");
        }
    }

    #[test]
    fn what_is_no_hello_is_absent_at_its_first_wrong_byte() {
        assert_eq!(decided_at(b"GET / HTTP/1.1\r\n", 1, tls_sni), Peek::Absent);
        // SSL 2, an alert, another handshake message, an empty record and one that is too long.
        assert_eq!(tls_sni(&[0x80]), Peek::Absent);
        assert_eq!(tls_sni(&[21]), Peek::Absent);
        assert_eq!(tls_sni(&[22, 2]), Peek::Absent);
        assert_eq!(decided_at(&record(&[2, 0, 0, 0]), 6, tls_sni), Peek::Absent);
        assert_eq!(tls_sni(&[22, 3, 1, 0, 0]), Peek::Absent);
        assert_eq!(tls_sni(&[22, 3, 1, 0x40, 1]), Peek::Absent);
        assert_eq!(tls_sni(&[22, 3, 1, 0x40, 0]), Peek::More);
    }

    #[test]
    fn lengths_that_contradict_each_other_are_absent() {
        for broken in
            [&[0, 9, 0, 0, 3, b'a'][..], &[0, 3, 0, 0, 9, b'a'], &[0, 4, 0, 0, 0, b'a'], &[0, 4, 7, 0, 1, b'a']]
        {
            let bytes = record(&hello(Some(&[extension(0, broken), extension(10, &[])].concat())));
            assert_eq!(tls_sni(&bytes), Peek::Absent, "{broken:?}");
        }
        let bytes = record(&hello(Some(&sni(&[b'a'; 256]))));
        assert_eq!(tls_sni(&bytes), Peek::Absent, "too long a name");
        let bytes = record(&hello(Some(&sni(&[b'a'; 255]))));
        assert_eq!(tls_sni(&bytes), Peek::Found(vec![b'a'; 255]));
    }

    #[test]
    fn mangled_hellos_are_answered_and_a_name_lies_in_the_bytes() {
        let seeds = [golden(), records(&hello(Some(&sni(b"x.example"))), 7), record(&hello(None))];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        let mut found = 0;
        mangled(&seeds, 60_000, |bytes| match tls_sni(bytes) {
            Peek::Found(name) => {
                found += 1;
                assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX && name.len() < bytes.len());
            }
            Peek::More | Peek::Absent => {}
        });
        assert!(found > 1_000, "{found}");
    }
}
