//! A header of the first HTTP/1 request.

use super::Peek;

/// The longest that a method may be before the bytes are taken for something else.
const METHOD_BYTES_MAX: usize = 32;

/// The value of the first header of this name (compared without regard to case), without the blanks around it. Decided as soon as its
/// line has come. An empty value, an HTTP/2 preface and whatever is not HTTP/1 is [`Peek::Absent`].
#[must_use]
pub fn http_header(bytes: &[u8], name: &str) -> Peek<Vec<u8>> {
    // Empty lines before the request are passed over (RFC 9112 section 2.2).
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let mut rest = &bytes[begin..];
    let Some(request) = take_line(&mut rest) else {
        return if may_become_request(rest) { Peek::More } else { Peek::Absent };
    };
    if !is_request(request) {
        return Peek::Absent;
    }
    while let Some(line) = take_line(&mut rest) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Peek::Absent };
        let (header, value) = (&line[..colon], &line[colon + 1..]);
        // A folded line begins with a blank; it is forbidden (RFC 9112 section 5.2).
        if !is_token(header) {
            return Peek::Absent;
        }
        if header.eq_ignore_ascii_case(name.as_bytes()) {
            let value = value.trim_ascii();
            return if value.is_empty() { Peek::Absent } else { Peek::Found(value.to_vec()) };
        }
    }
    Peek::More
}

/// Up to the next line feed, without the end of the line.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// `METHOD target HTTP/1.x`
fn is_request(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    method.is_some_and(|method| is_token(method) && method.len() <= METHOD_BYTES_MAX)
        && target.is_some_and(|target| !target.is_empty() && !target.iter().any(u8::is_ascii_control))
        && version.is_some_and(|version| matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9']))
        && words.next().is_none()
}

/// The begin of a line of a request, as far as it has come.
fn may_become_request(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    (line.is_empty() || is_token(method)) && method.len() <= METHOD_BYTES_MAX && !line.iter().any(u8::is_ascii_control)
}

/// RFC 9110 section 5.6.2.
fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decided_at, mangled};
    use super::*;

    const REQUEST: &[u8] =
        b"GET /a?b=c HTTP/1.1\r\nHost: api.example\r\nx-user: \t Jane Doe \r\nX-User: other\r\nCookie: d\r\n\r\nbody";

    fn user(bytes: &[u8]) -> Peek<Vec<u8>> {
        http_header(bytes, "X-User")
    }

    #[test]
    fn first_header_of_the_name_is_found_once_its_line_has_come() {
        let end = REQUEST.windows(8).position(|window| window == b"X-User: ").unwrap();
        assert_eq!(decided_at(REQUEST, end, user), Peek::Found(b"Jane Doe".to_vec()));
        let host = |bytes: &[u8]| http_header(bytes, "HOST");
        assert_eq!(decided_at(REQUEST, 40, host), Peek::Found(b"api.example".to_vec()));
    }

    #[test]
    fn bare_line_feeds_and_empty_lines_before_are_taken() {
        assert_eq!(user(b"\r\n\nPOST /x HTTP/1.0\nX-User:u\n\n"), Peek::Found(b"u".to_vec()));
    }

    #[test]
    fn header_that_is_not_there_is_absent_at_the_end_of_the_head_and_not_before() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nX-User: in the body\r\n";
        assert_eq!(decided_at(request, 27, user), Peek::Absent);
        assert_eq!(user(b"GET / HTTP/1.1\r\nX-User:  \r\n\r\n"), Peek::Absent);
        assert_eq!(user(b"GET / HTTP/1.1\r\nX-Users: 1\r\nAX-User: 1\r\n\r\n"), Peek::Absent);
    }

    #[test]
    fn what_is_no_http_1_is_absent_as_soon_as_that_is_seen() {
        assert_eq!(decided_at(b"\x16\x03\x01\x02\x00", 1, user), Peek::Absent);
        assert_eq!(decided_at(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16, user), Peek::Absent);
        assert_eq!(user(b"SSH-2.0-OpenSSH_9.2\r\n"), Peek::Absent);
        assert_eq!(user(&[b'a'; 33]), Peek::Absent);
        assert_eq!(user(b"GET / HTTP/1.1\r\nnot a header\r\n"), Peek::Absent);
        assert_eq!(user(b"GET / HTTP/1.1\r\nA: b\r\n X-User: folded\r\n"), Peek::Absent);
        assert_eq!(user(b"GET  / HTTP/1.1\r\n"), Peek::Absent);
    }

    #[test]
    fn mangled_requests_are_answered_and_a_value_lies_in_the_bytes() {
        let mut found = 0;
        mangled(&[REQUEST, b"POST / HTTP/1.1\nX-User: 1\n\n"], 60_000, |bytes| match user(bytes) {
            Peek::Found(value) => {
                found += 1;
                assert!(bytes.windows(value.len()).any(|window| window == value));
            }
            Peek::More | Peek::Absent => {}
        });
        assert!(found > 1_000, "{found}");
    }
}
