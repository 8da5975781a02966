//! The hashes that choose a backend. They never change: a change would move every client to another backend with an upgrade.
//! Not those of the standard library, whose output may differ from one release to the next.

use std::time::Duration;

/// SipHash-1-3 (Aumasson, Bernstein 2012; one round a word, three at the end) with 64 bits of output: keyed, so that a client cannot pick
/// addresses that all fall on one backend. The same secret and bytes give the same hash in every release.
#[must_use]
pub fn hash_key(secret: [u64; 2], bytes: &[u8]) -> u64 {
    let mut state = [
        secret[0] ^ 0x736f_6d65_7073_6575,
        secret[1] ^ 0x646f_7261_6e64_6f6d,
        secret[0] ^ 0x6c79_6765_6e65_7261,
        secret[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb(&mut state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The top byte is the length modulo 256.
    last[7] = bytes.len().to_le_bytes()[0];
    absorb(&mut state, u64::from_le_bytes(last));
    state[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut state));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    state[0] ^= word;
}

fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

/// 2^64 over the golden ratio: its multiples modulo 2^64 are spread as evenly as can be, however many of them.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection whose output bits all depend on all input bits.
pub(super) fn mix(value: u64) -> u64 {
    let mixed = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// `-log2(value / 2^64)` in units of 2^-32: exponentially distributed where `value` is uniform, so that the least of several, each
/// divided by a weight, falls on each with a probability proportional to its weight. The error is below 2^-28.
pub(super) fn rarity(value: u64) -> u64 {
    (64_u64 << 32).saturating_sub(log2(value.max(1)))
}

const TABLE_BITS: u32 = 7;
/// log2(e) in units of 2^-31.
const LOG2_E: u64 = 3_098_164_009;

/// In units of 2^-32, for `value` above 0: exponent, the table's logarithm of the leading bits, and three terms of the series of what is left.
fn log2(value: u64) -> u64 {
    let shift = value.leading_zeros();
    let mantissa = value << shift;
    let leading = mantissa >> (63 - TABLE_BITS);
    let rest = (mantissa & ((1 << (63 - TABLE_BITS)) - 1)) / leading;
    // `rest` was in units of 2^-56 and below 2^-7.
    let term = rest >> 18;
    let square = (term * term) >> 38;
    let cube = (square * term) >> 38;
    let natural = term - square / 2 + cube / 3;
    let index = usize::try_from(leading & ((1 << TABLE_BITS) - 1)).unwrap_or_default();
    (u64::from(63 - shift) << 32) + u64::from(TABLE[index]) + ((natural * LOG2_E) >> (31 + 6))
}

/// `log2(1 + i / 128)` in units of 2^-32.
static TABLE: [u32; 1 << TABLE_BITS] = table();

const fn table() -> [u32; 1 << TABLE_BITS] {
    let mut table = [0; 1 << TABLE_BITS];
    let mut index = 0;
    while index < table.len() {
        // Between 1 and 2 in units of 2^-63: each squaring gives one bit more of the logarithm.
        let mut value = ((1 << TABLE_BITS) + index as u128) << (63 - TABLE_BITS);
        let mut bits = 0_u32;
        let mut left = 32;
        while left > 0 {
            value = (value * value) >> 63;
            bits <<= 1;
            if value >> 64 != 0 {
                value >>= 1;
                bits |= 1;
            }
            left -= 1;
        }
        table[index] = bits;
        index += 1;
    }
    table
}

/// `delay`, up to a fifth shorter or longer, as `draw` says.
pub(super) fn jitter(delay: Duration, draw: u64) -> Duration {
    crate::engine::rng::scale(delay, 800 + mix(draw) % 401)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_siphash_1_3() {
        // The published vectors: key 00 01 .. 0f, messages of 0, 1, 2, .. bytes 00 01 02 ..
        let secret = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let bytes: Vec<u8> = (0..64).collect();
        let hashes = [0, 1, 7, 8, 9, 15, 16, 63].map(|length: usize| hash_key(secret, &bytes[..length]));
        expect_test::expect![[r#"
            [
                "abac0158050fc4dc",
                "c9f49bf37d57ca93",
                "d3927d989bb11140",
                "369095118d299a8e",
                "25a48eb36c063de4",
                "d320d86d2a519956",
                "cc4fdd1a7d908b66",
                "9d199062b7bbb3a8",
            ]
        "#]]
        .assert_debug_eq(&hashes.map(|hash| format!("{hash:016x}")));
    }

    #[test]
    fn hash_agrees_with_another_implementation_of_the_same_function() {
        use std::hash::Hasher;
        let mut bytes = Vec::new();
        for length in 0..300_u64 {
            // What the standard library uses today, with a key of zero.
            let mut other = std::hash::DefaultHasher::new();
            other.write(&bytes);
            assert_eq!(hash_key([0, 0], &bytes), other.finish(), "{length} bytes");
            bytes.push(mix(length).to_le_bytes()[0]);
        }
    }

    #[test]
    fn logarithm_is_exact_at_powers_of_two_and_monotonic_between() {
        for exponent in 0..64_u32 {
            assert_eq!(log2(1 << exponent), u64::from(exponent) << 32);
        }
        // log2(3), log2(10) and log2(1.0001 * 2^63), by a calculator.
        assert!(log2(3).abs_diff(6_807_362_105) < 16, "{}", log2(3));
        assert!(log2(10).abs_diff(14_267_572_527) < 16, "{}", log2(10));
        let mut last = u64::MAX;
        for step in 0..200_000_u64 {
            let rarity = rarity(step.wrapping_mul(u64::MAX / 200_000));
            assert!(rarity <= last.saturating_add(16), "{step}: {last} {rarity}");
            last = rarity;
        }
        assert!(rarity(u64::MAX) < 16);
        assert_eq!(rarity(0), 64 << 32);
    }
}
