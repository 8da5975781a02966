//! What clients and backends say. A request is 64 bytes, of which the first is the kind and the next eight a length; the answer is that
//! many bytes of the pattern. A single `I` is answered by a single `I`; `GET ` is HTTP, for probes and for wrk.

pub(crate) const REQUEST_BYTES: usize = 64;
pub(crate) const ANSWER: u8 = b'R';
pub(crate) const DOWNLOAD: u8 = b'D';
pub(crate) const IDLE: u8 = b'I';
/// One period of what answers consist of: a prime beside powers of two, so that no block that is lost, doubled or moved goes unseen.
pub(crate) const PATTERN_BYTES: usize = 251 * 1_024;

pub(crate) const HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/plain\r\n\r\nHello, world!";

pub(crate) fn request(kind: u8, length: u64) -> [u8; REQUEST_BYTES] {
    let mut bytes = [b'.'; REQUEST_BYTES];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&length.to_le_bytes());
    bytes
}

pub(crate) fn length_of(request: &[u8; REQUEST_BYTES]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&request[1..9]);
    u64::from_le_bytes(bytes)
}

pub(crate) fn pattern() -> Vec<u8> {
    (0..251_u8).cycle().take(PATTERN_BYTES).collect()
}

/// Whether `bytes` are what stands at `offset` of an answer.
pub(crate) fn is_right(pattern: &[u8], offset: u64, bytes: &[u8]) -> bool {
    let mut at = usize::try_from(offset % PATTERN_BYTES as u64).unwrap_or(0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let part = rest.len().min(pattern.len() - at);
        if rest[..part] != pattern[at..at + part] {
            return false;
        }
        (rest, at) = (&rest[part..], 0);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_its_length() {
        assert_eq!(length_of(&request(ANSWER, 16_384)), 16_384);
    }

    #[test]
    fn a_moved_block_is_seen() {
        let pattern = pattern();
        let twice: Vec<u8> = pattern.iter().chain(&pattern).copied().collect();
        assert!(is_right(&pattern, 0, &twice));
        assert!(is_right(&pattern, 1_000, &twice[1_000..300_000]));
        for moved in [64, 4_096, 16_384, 65_536] {
            assert!(!is_right(&pattern, moved, &twice[..1_024]), "moved by {moved}");
        }
    }
}
