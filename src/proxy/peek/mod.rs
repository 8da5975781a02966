//! The first bytes of a client, looked at before a backend is chosen: the server name of a TLS ClientHello, a header of an HTTP/1
//! request, a PROXY header. Pure functions of the bytes that have come so far; the caller asks again when more have come, up to its
//! limit and its deadline. Nothing is taken away from the bytes but a PROXY header, by the caller.
//!
//! None of this is a check of the protocol: what is looked for decides which backend gets the connection, and the backend judges the rest.

mod http;
mod proxy;
mod tls;

pub use http::http_header;
pub use proxy::{PROXY_BYTES_MAX, ProxyHeader, proxy_header, proxy_v2};
pub use tls::tls_sni;

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek<T> {
    /// Not decided: ask again with more bytes.
    More,
    Found(T),
    /// It is not there, whatever follows.
    Absent,
}

/// A cursor over bytes of which the rest may not have come yet. The error is what that means for the caller: [`Peek::More`] or
/// [`Peek::Absent`].
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    /// What it means that the bytes end: more may come, or this was a part whose length was given.
    at_end: Short,
}

/// Why a part could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    /// It may still come.
    Awaited,
    /// It does not fit into what surrounds it.
    Malformed,
}

impl<'a> Cursor<'a> {
    fn awaiting(bytes: &'a [u8]) -> Self {
        Self { bytes, at_end: Short::Awaited }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(self.at_end)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A big-endian number of so many bytes, at most 3.
    fn number(&mut self, bytes: usize) -> Result<usize, Short> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// The part behind a length of `bytes` bytes, as far as it has come.
    fn part(&mut self, bytes: usize) -> Result<Self, Short> {
        let length = self.number(bytes)?;
        match self.bytes.split_at_checked(length) {
            Some((part, rest)) => {
                self.bytes = rest;
                Ok(Self { bytes: part, at_end: Short::Malformed })
            }
            None => {
                let part = Self { bytes: self.bytes, at_end: self.at_end };
                self.bytes = &[];
                Ok(part)
            }
        }
    }
}

impl<T> From<Result<Option<T>, Short>> for Peek<T> {
    fn from(result: Result<Option<T>, Short>) -> Self {
        match result {
            Ok(Some(found)) => Self::Found(found),
            Ok(None) | Err(Short::Malformed) => Self::Absent,
            Err(Short::Awaited) => Self::More,
        }
    }
}

#[cfg(test)]
mod testing {
    use super::Peek;

    /// Each shorter part of `bytes` is undecided until `decided` bytes are there, and what follows changes nothing.
    pub(super) fn decided_at<T: PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        decided: usize,
        peek: impl Fn(&[u8]) -> Peek<T>,
    ) -> Peek<T> {
        for length in 0..decided {
            assert_eq!(peek(&bytes[..length]), Peek::More, "{length} of {decided}");
        }
        let answer = peek(&bytes[..decided]);
        assert_ne!(answer, Peek::More);
        for length in decided..=bytes.len() {
            assert_eq!(peek(&bytes[..length]), answer, "{length}");
        }
        let mut longer = bytes.to_vec();
        longer.extend([0xff; 40]);
        assert_eq!(peek(&longer), answer);
        answer
    }

    /// Calls `look` with what becomes of `seeds` when bytes are changed, cut out, doubled and put together, the same in every run.
    pub(super) fn mangled(seeds: &[&[u8]], rounds: u64, mut look: impl FnMut(&[u8])) {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % limit.max(1)
        };
        for _ in 0..rounds {
            let mut bytes = seeds[below(seeds.len())].to_vec();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                match below(5) {
                    0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
                    1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0xff][below(4)],
                    2 => bytes.truncate(at),
                    3 => drop(bytes.drain(at..(at + below(9)).min(bytes.len()))),
                    _ => {
                        let other = seeds[below(seeds.len())];
                        let piece = &other[below(other.len())..];
                        bytes.splice(at..at, piece[..below(piece.len())].iter().copied());
                    }
                }
            }
            look(&bytes);
        }
    }
}
