//! The head of an HTTP answer, read as it comes, without keeping it: of the status line the first bytes, of the rest only how
//! near its end is.

/// Bytes of a head that are looked at. A head that is longer is judged by its status line.
pub(super) const HEAD_BYTES_MAX: usize = 4096;
/// `HTTP/1.1 200` and the byte after it.
const STATUS_BYTES: usize = 13;

/// What the bytes so far mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The head is not complete yet.
    More,
    /// It is, and this is what the probe answers.
    Done(Result<(), String>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    first: [u8; STATUS_BYTES],
    /// Bytes seen; the first ones of them are in `first`.
    seen: usize,
    /// Line feeds at the end of what has been seen, carriage returns not counted: two end the head.
    line_feeds: u8,
}

impl Head {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Verdict {
        for byte in bytes {
            if let Some(place) = self.first.get_mut(self.seen) {
                *place = *byte;
            }
            self.seen += 1;
            match byte {
                b'\n' => self.line_feeds += 1,
                b'\r' => {}
                _ => self.line_feeds = 0,
            }
            if self.line_feeds == 2 || self.seen >= HEAD_BYTES_MAX {
                return Verdict::Done(self.judge());
            }
        }
        if could_be_http(&self.first[..self.seen.min(STATUS_BYTES)]) {
            Verdict::More
        } else {
            Verdict::Done(self.judge())
        }
    }

    /// The answer when nothing more comes.
    pub(super) fn closed(&self) -> Result<(), String> {
        match self.seen {
            0 => Err("closed without an answer".to_owned()),
            STATUS_BYTES.. => self.judge(),
            _ => Err("closed in the middle of its answer".to_owned()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen == 0
    }

    fn judge(&self) -> Result<(), String> {
        if self.seen < STATUS_BYTES || !could_be_http(&self.first) {
            return Err("the answer is not HTTP".to_owned());
        }
        let status = self.first[9..12].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
        if (200..400).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
    }
}

/// Whether the bytes so far may begin `HTTP/1.x nnn`, followed by a space or the end of the line.
fn could_be_http(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| match at {
        0..7 => *byte == b"HTTP/1."[at],
        8 => *byte == b' ',
        7 | 9..12 => byte.is_ascii_digit(),
        _ => matches!(byte, b' ' | b'\r' | b'\n'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &[u8]) -> Verdict {
        Head::default().push(text)
    }

    fn failed(text: &str) -> Verdict {
        Verdict::Done(Err(text.to_owned()))
    }

    #[test]
    fn status_decides() {
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody"), Verdict::Done(Ok(())));
        assert_eq!(whole(b"HTTP/1.0 399 \r\n\r\n"), Verdict::Done(Ok(())));
        assert_eq!(whole(b"HTTP/1.1 204\r\n\r\n"), Verdict::Done(Ok(())));
        assert_eq!(whole(b"HTTP/1.1 204\n\n"), Verdict::Done(Ok(())));
        assert_eq!(whole(b"HTTP/1.1 199 x\r\n\r\n"), failed("status 199"));
        assert_eq!(whole(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), failed("status 503"));
    }

    #[test]
    fn head_may_come_byte_by_byte() {
        let text = b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n";
        let mut head = Head::default();
        for byte in &text[..text.len() - 1] {
            assert_eq!(head.push(&[*byte]), Verdict::More);
        }
        assert_eq!(head.push(b"\n"), Verdict::Done(Ok(())));
    }

    #[test]
    fn what_is_not_http_is_known_from_its_first_wrong_byte() {
        assert_eq!(whole(b"SSH-2.0-x\r\n"), failed("the answer is not HTTP"));
        assert_eq!(whole(b"HTTP/2"), failed("the answer is not HTTP"));
        assert_eq!(whole(b"HTTP/1.1 2x0 OK\r\n\r\n"), failed("the answer is not HTTP"));
        assert_eq!(whole(b"HTTP/1.1 2000\r\n\r\n"), failed("the answer is not HTTP"));
        assert_eq!(whole(b"\n\n"), failed("the answer is not HTTP"));
    }

    #[test]
    fn close_is_an_answer_only_after_the_status() {
        let closed = |text: &[u8]| {
            let mut head = Head::default();
            assert_eq!(head.push(text), Verdict::More);
            head.closed()
        };
        assert_eq!(closed(b""), Err("closed without an answer".to_owned()));
        assert_eq!(closed(b"HTTP/1.1 20"), Err("closed in the middle of its answer".to_owned()));
        assert_eq!(closed(b"HTTP/1.1 200 OK\r\nA:"), Ok(()));
        assert_eq!(closed(b"HTTP/1.1 500 \r\n"), Err("status 500".to_owned()));
    }

    #[test]
    fn endless_head_is_judged_at_the_limit() {
        let mut text = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
        text.resize(HEAD_BYTES_MAX - 1, b'a');
        let mut head = Head::default();
        assert_eq!(head.push(&text), Verdict::More);
        assert_eq!(head.push(b"a"), Verdict::Done(Ok(())));
    }
}
