//! What services say over their NOTIFY_SOCKET: the text of one datagram becomes fields.
//!
//! The protocol is that of sd_notify(3): `KEY=value` lines, unknown keys are ignored. A field that cannot be read is ignored by
//! itself, the others still count. Who may send, whether MAINPID belongs to the service and what becomes of attached
//! descriptors is decided elsewhere.

use std::time::Duration;

use crate::engine::event::NotifyMessage;

/// A longer datagram is not read at all (PIPE_BUF, the limit that systemd has too).
pub const DATAGRAM_BYTES_MAX: usize = 4096;
/// A longer STATUS is cut.
pub const STATUS_BYTES_MAX: usize = 256;
/// The longest interval or extension that a service can ask for; more is cut to it.
pub const INTERVAL_MAX: Duration = Duration::from_hours(24);

/// One thing that a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// For the engine.
    Message(NotifyMessage),
    /// `BARRIER=1`: close the attached descriptor once everything before it is handled; the sender waits for that.
    Barrier,
    /// `FDSTORE=1`: the sender would like the attached descriptors to be kept for its next run.
    StoreDescriptors,
}

/// The fields of one datagram: MAINPID first, because the others speak of that process, and the barrier last, whatever the
/// order in the text. Of a key given twice the first counts, as with systemd. A datagram with a NUL inside says nothing.
#[must_use]
pub fn parse(datagram: &[u8]) -> Vec<Field> {
    let text = datagram.strip_suffix(b"\0").unwrap_or(datagram);
    if text.len() > DATAGRAM_BYTES_MAX || text.contains(&0) {
        return Vec::new();
    }
    let mut seen: Vec<(&[u8], Field)> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else { continue };
        let (key, value) = (&line[..equals], &line[equals + 1..]);
        if seen.iter().any(|(earlier, _)| *earlier == key) {
            continue;
        }
        if let Some(field) = field(key, value) {
            seen.push((key, field));
        }
    }
    seen.sort_by_key(|(_, field)| rank(field));
    seen.into_iter().map(|(_, field)| field).collect()
}

fn rank(field: &Field) -> u8 {
    match field {
        Field::Message(NotifyMessage::MainPid(_)) => 0,
        Field::Message(_) | Field::StoreDescriptors => 1,
        Field::Barrier => 2,
    }
}

fn field(key: &[u8], value: &[u8]) -> Option<Field> {
    let message = match key {
        b"READY" => yes(value, NotifyMessage::Ready)?,
        b"RELOADING" => yes(value, NotifyMessage::Reloading)?,
        b"STOPPING" => yes(value, NotifyMessage::Stopping)?,
        b"STATUS" => NotifyMessage::Status(status(value)?),
        b"ERRNO" => NotifyMessage::Errno(i32::try_from(number(value)?).ok()?),
        b"WATCHDOG" if value == b"trigger" => NotifyMessage::WatchdogTrigger,
        b"WATCHDOG" => yes(value, NotifyMessage::Watchdog)?,
        b"WATCHDOG_USEC" => NotifyMessage::WatchdogInterval(interval(value)?),
        b"EXTEND_TIMEOUT_USEC" => NotifyMessage::ExtendTimeout(interval(value)?),
        b"MAINPID" => NotifyMessage::MainPid(i32::try_from(number(value)?).ok().filter(|pid| *pid > 0)?),
        b"BARRIER" => return yes(value, Field::Barrier),
        b"FDSTORE" => return yes(value, Field::StoreDescriptors),
        _ => return None,
    };
    Some(Field::Message(message))
}

fn yes<T>(value: &[u8], meaning: T) -> Option<T> {
    (value == b"1").then_some(meaning)
}

/// Decimal digits only: what `parse` of the standard library accepts beyond that (a plus sign) no sender means.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Zero is no interval: a service cannot switch off the watchdog that its operator asked for.
fn interval(value: &[u8]) -> Option<Duration> {
    let microseconds = number(value).filter(|microseconds| *microseconds > 0)?;
    Some(Duration::from_micros(microseconds).min(INTERVAL_MAX))
}

/// Text for a terminal: invalid UTF-8 and control characters are replaced, so that a service cannot move an operator's cursor.
fn status(value: &[u8]) -> Option<String> {
    let mut text = String::new();
    for character in String::from_utf8_lossy(value).trim().chars() {
        let character = if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        if text.len() + character.len_utf8() > STATUS_BYTES_MAX {
            break;
        }
        text.push(character);
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(datagram: &[u8]) -> Vec<NotifyMessage> {
        parse(datagram)
            .into_iter()
            .filter_map(|field| match field {
                Field::Message(message) => Some(message),
                Field::Barrier | Field::StoreDescriptors => None,
            })
            .collect()
    }

    #[test]
    fn every_known_field_is_read() {
        use NotifyMessage as M;
        for (text, expected) in [
            ("READY=1", M::Ready),
            ("RELOADING=1", M::Reloading),
            ("STOPPING=1", M::Stopping),
            ("STATUS=loading 3 of 5", M::Status("loading 3 of 5".to_owned())),
            ("ERRNO=2", M::Errno(2)),
            ("WATCHDOG=1", M::Watchdog),
            ("WATCHDOG=trigger", M::WatchdogTrigger),
            ("WATCHDOG_USEC=20000000", M::WatchdogInterval(Duration::from_secs(20))),
            ("EXTEND_TIMEOUT_USEC=1500000", M::ExtendTimeout(Duration::from_millis(1500))),
            ("MAINPID=4711", M::MainPid(4711)),
        ] {
            assert_eq!(messages(text.as_bytes()), [expected], "{text}");
        }
        assert_eq!(parse(b"BARRIER=1"), [Field::Barrier]);
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=cache"), [Field::StoreDescriptors]);
    }

    #[test]
    fn several_fields_in_one_datagram_are_all_read_whatever_ends_it() {
        let expected = [NotifyMessage::Ready, NotifyMessage::Status("up".to_owned())];
        for text in ["READY=1\nSTATUS=up", "READY=1\nSTATUS=up\n", "\nREADY=1\n\nSTATUS=up\n\0"] {
            assert_eq!(messages(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn main_pid_comes_first_and_the_barrier_last() {
        let fields = parse(b"BARRIER=1\nREADY=1\nMAINPID=7");
        assert_eq!(
            fields,
            [Field::Message(NotifyMessage::MainPid(7)), Field::Message(NotifyMessage::Ready), Field::Barrier]
        );
    }

    #[test]
    fn unreadable_field_does_not_cost_the_others() {
        let text = b"READY=yes\nERRNO=-1\nMAINPID=0\nMAINPID=99999999999\nWATCHDOG_USEC=\nWATCHDOG=2\nready=1\nX_FOO=1\nnoise\n=1\nSTOPPING=1";
        assert_eq!(messages(text), [NotifyMessage::Stopping]);
    }

    #[test]
    fn first_of_two_equal_keys_counts_and_an_unreadable_one_does_not_hide_the_next() {
        assert_eq!(messages(b"STATUS=a\nSTATUS=b"), [NotifyMessage::Status("a".to_owned())]);
        assert_eq!(messages(b"MAINPID=x\nMAINPID=8"), [NotifyMessage::MainPid(8)]);
    }

    #[test]
    fn intervals_have_a_limit_and_zero_is_none() {
        assert_eq!(messages(b"EXTEND_TIMEOUT_USEC=18446744073709551615"), [NotifyMessage::ExtendTimeout(INTERVAL_MAX)]);
        assert_eq!(messages(b"WATCHDOG_USEC=18446744073709551616"), []);
        assert_eq!(messages(b"WATCHDOG_USEC=0"), []);
        assert_eq!(messages(b"WATCHDOG_USEC=+5"), []);
    }

    #[test]
    fn status_is_cut_at_a_character_and_cannot_carry_control_characters() {
        let long = format!("STATUS=a{}", "ü".repeat(400));
        let [NotifyMessage::Status(text)] = &messages(long.as_bytes())[..] else { panic!("one status") };
        assert_eq!(text.len(), 255);
        assert_eq!(
            messages(b"STATUS= red \x1b[31m \xff "),
            [NotifyMessage::Status("red \u{fffd}[31m \u{fffd}".to_owned())]
        );
        assert_eq!(messages(b"STATUS=  "), []);
    }

    #[test]
    fn oversized_datagram_and_one_with_nul_inside_say_nothing() {
        let mut text = b"READY=1\nX=".to_vec();
        text.resize(DATAGRAM_BYTES_MAX, b'x');
        assert_eq!(messages(&text), [NotifyMessage::Ready]);
        text.push(b'x');
        assert_eq!(parse(&text), []);
        assert_eq!(parse(b"READY=1\0STATUS=x"), []);
        assert_eq!(parse(b""), []);
    }

    /// xorshift64*, so that a failing seed can be named.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn garbage(seed: u64) -> Vec<u8> {
        const PIECES: [&[u8]; 19] = [
            b"READY",
            b"=",
            b"1",
            b"\n",
            b"MAINPID",
            b"STATUS=",
            b"WATCHDOG",
            b"trigger",
            b"_USEC",
            b"EXTEND_TIMEOUT",
            b"99999999999999999999",
            b"\0",
            b"\xff\xfe",
            b"BARRIER=1\n",
            b"FDSTORE=1\n",
            b"-",
            b"ERRNO=",
            b"\x1b[",
            b"0",
        ];
        let mut state = seed * 2 + 1;
        let mut out = Vec::new();
        for _ in 0..next(&mut state) % 60 {
            let draw = next(&mut state);
            match usize::try_from(draw % 24).unwrap() {
                piece if piece < PIECES.len() => out.extend_from_slice(PIECES[piece]),
                _ => out.push(u8::try_from(draw >> 56).unwrap()),
            }
        }
        out
    }

    #[test]
    fn garbage_never_panics_and_never_passes_a_limit() {
        for seed in 0..20_000 {
            let datagram = garbage(seed);
            let fields = parse(&datagram);
            assert!(fields.len() <= 12, "seed {seed}");
            if let Some(at) = fields.iter().position(|field| *field == Field::Barrier) {
                assert_eq!(at, fields.len() - 1, "seed {seed}");
            }
            for field in fields {
                match field {
                    Field::Message(NotifyMessage::Status(text)) => {
                        assert!(text.len() <= STATUS_BYTES_MAX && !text.chars().any(char::is_control), "seed {seed}");
                    }
                    Field::Message(NotifyMessage::MainPid(pid)) => assert!(pid > 0, "seed {seed}"),
                    Field::Message(
                        NotifyMessage::WatchdogInterval(interval) | NotifyMessage::ExtendTimeout(interval),
                    ) => {
                        assert!(!interval.is_zero() && interval <= INTERVAL_MAX, "seed {seed}");
                    }
                    Field::Message(_) | Field::Barrier | Field::StoreDescriptors => {}
                }
            }
        }
    }
}
