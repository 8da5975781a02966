//! ATA disks by SCSI / ATA Translation: ATA PASS-THROUGH(16) of SAT-3, the SMART commands of ACS-3.

use std::fs::File;

use super::{COMMAND_TIMEOUT, scsi, sentence};
use crate::engine::host::sample::SmartStat;
use crate::sys::scsi_generic::{self, Answer};

const PASS_THROUGH_16: u8 = 0x85;
const CHECK_POWER_MODE: u8 = 0xe5;
const SMART: u8 = 0xb0;
const SMART_READ_DATA: u8 = 0xd0;
const SMART_RETURN_STATUS: u8 = 0xda;
/// LBA bits 15:8 and 23:16 of every SMART command; RETURN STATUS leaves them so while the disk is well.
const SMART_KEY: (u8, u8) = (0x4f, 0xc2);
const SMART_KEY_FAILING: (u8, u8) = (0xf4, 0x2c);
/// The error bit of the status register.
const STATUS_ERROR: u8 = 1;

/// What SMART READ DATA returns.
const PAGE_BYTES: usize = 512;
const ATTRIBUTES_OFFSET: usize = 2;
const ATTRIBUTES_MAX: usize = 30;
const ATTRIBUTE_BYTES: usize = 12;

/// A command as it goes into the disk's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Command {
    command: u8,
    features: u8,
    lba_mid: u8,
    lba_high: u8,
}

/// The disk's registers after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registers {
    status: u8,
    count: u8,
    lba_mid: u8,
    lba_high: u8,
}

pub(super) fn ask(device: &File, stat: &mut SmartStat) -> Result<(), String> {
    let power = Command { command: CHECK_POWER_MODE, ..Command::default() };
    let registers = without_data(device, power).map_err(|error| format!("cannot ask whether it sleeps: {error}"))?;
    if is_asleep(registers) {
        stat.asleep = true;
        return Ok(());
    }
    let status = smart(SMART_RETURN_STATUS);
    let registers = without_data(device, status).map_err(|error| format!("cannot ask for its verdict: {error}"))?;
    if registers.status & STATUS_ERROR != 0 {
        return Err("its SMART is missing or switched off: smartctl -s on switches it on".to_owned());
    }
    stat.passed = verdict(registers);
    let mut page = [0; PAGE_BYTES];
    let command = pass_through(Protocol::DataIn, smart(SMART_READ_DATA));
    let answer = scsi_generic::command(device, &command, &mut page, COMMAND_TIMEOUT)
        .map_err(|error| sentence("read its attributes", &error))?;
    if answer.status == 0 && answer.data_bytes == PAGE_BYTES {
        attributes(&page, stat);
    }
    Ok(())
}

fn smart(features: u8) -> Command {
    Command { command: SMART, features, lba_mid: SMART_KEY.0, lba_high: SMART_KEY.1 }
}

fn without_data(device: &File, command: Command) -> Result<Registers, String> {
    let command = pass_through(Protocol::NoData, command);
    let answer = scsi_generic::command(device, &command, &mut [], COMMAND_TIMEOUT)
        .map_err(|error| sentence("send an ATA command", &error))?;
    registers_of(&answer).ok_or_else(|| "what it is connected by does not pass ATA commands on".to_owned())
}

#[derive(Clone, Copy)]
enum Protocol {
    NoData,
    /// One block, by PIO.
    DataIn,
}

/// The command block. Without data the registers are asked for (CK_COND).
fn pass_through(protocol: Protocol, command: Command) -> [u8; 16] {
    let (protocol, flags, count) = match protocol {
        Protocol::NoData => (3 << 1, 0x20, 0),
        // From the device, in blocks, as many as the count says.
        Protocol::DataIn => (4 << 1, 0x08 | 0x04 | 0x02, 1),
    };
    let Command { command, features, lba_mid, lba_high } = command;
    [PASS_THROUGH_16, protocol, flags, 0, features, 0, count, 0, 0, 0, lba_mid, 0, lba_high, 0, command, 0]
}

fn registers_of(answer: &Answer) -> Option<Registers> {
    registers(answer.sense())
}

/// From sense data: the ATA Status Return descriptor, or where old translations put the registers in the fixed format.
fn registers(sense: &[u8]) -> Option<Registers> {
    const DESCRIPTOR: u8 = 0x09;
    match sense.first()? & 0x7f {
        0x72 | 0x73 => {
            let mut rest = sense.get(8..)?;
            while rest.first()? != &DESCRIPTOR {
                rest = rest.get(2 + usize::from(*rest.get(1)?)..)?;
            }
            let found: &[u8; 14] = rest.first_chunk()?;
            Some(Registers { status: found[13], count: found[5], lba_mid: found[9], lba_high: found[11] })
        }
        0x70 | 0x71 if scsi::codes(sense)?.is(0x00, 0x1d) => {
            let found: &[u8; 12] = sense.first_chunk()?;
            Some(Registers { status: found[4], count: found[6], lba_mid: found[10], lba_high: found[11] })
        }
        _ => None,
    }
}

/// Standby, or spun down with its cache awake. A disk that refuses the command has no such states.
fn is_asleep(registers: Registers) -> bool {
    registers.status & STATUS_ERROR == 0 && matches!(registers.count, 0x00 | 0x01 | 0x40)
}

fn verdict(registers: Registers) -> Option<bool> {
    match (registers.lba_mid, registers.lba_high) {
        SMART_KEY => Some(true),
        SMART_KEY_FAILING => Some(false),
        _ => None,
    }
}

/// Of the attributes those whose meaning all makers share. A page that does not add up says nothing.
fn attributes(page: &[u8; PAGE_BYTES], stat: &mut SmartStat) {
    if page.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return;
    }
    for attribute in page[ATTRIBUTES_OFFSET..].chunks_exact(ATTRIBUTE_BYTES).take(ATTRIBUTES_MAX) {
        // id, flags (2), value, worst, raw (6), reserved
        let raw = |bytes: usize| attribute[5..5 + bytes].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match attribute[0] {
            // The upper bytes of these hold other things with some makers.
            5 => stat.reallocated = Some(raw(2)),
            9 => stat.power_on_hours = Some(raw(3)),
            // The upper bytes hold the lowest and the highest temperature. 190 is of the air and only stands in.
            190 => stat.temperature = stat.temperature.or(Some(i32::from(attribute[5].cast_signed()))),
            194 => stat.temperature = Some(i32::from(attribute[5].cast_signed())),
            197 => stat.pending = Some(raw(4)),
            198 => stat.uncorrectable = Some(raw(4)),
            199 => stat.interface_errors = Some(raw(4)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sense data of a command with CK_COND, descriptor format: recovered error, "ATA pass through information available".
    fn descriptor(status: u8, count: u8, mid: u8, high: u8) -> Vec<u8> {
        let mut sense = vec![0x72, 0x01, 0x00, 0x1d, 0, 0, 0, 14];
        sense.extend([0x09, 0x0c, 0, 0, 0, count, 0, 0, 0, mid, 0, high, 0xa0, status]);
        sense
    }

    fn page(attributes: &[(u8, [u8; 6])]) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[0] = 0x10;
        for (place, (id, raw)) in attributes.iter().enumerate() {
            let begin = ATTRIBUTES_OFFSET + place * ATTRIBUTE_BYTES;
            page[begin] = *id;
            page[begin + 3..begin + 5].copy_from_slice(&[100, 99]);
            page[begin + 5..begin + 11].copy_from_slice(raw);
        }
        let sum = page.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        page[PAGE_BYTES - 1] = sum.wrapping_neg();
        page
    }

    #[test]
    fn commands_are_laid_out_as_the_standard_says() {
        let power = pass_through(Protocol::NoData, Command { command: CHECK_POWER_MODE, ..Command::default() });
        assert_eq!(power, [0x85, 0x06, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe5, 0]);
        let status = pass_through(Protocol::NoData, smart(SMART_RETURN_STATUS));
        assert_eq!(status, [0x85, 0x06, 0x20, 0, 0xda, 0, 0, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0]);
        let data = pass_through(Protocol::DataIn, smart(SMART_READ_DATA));
        assert_eq!(data, [0x85, 0x08, 0x0e, 0, 0xd0, 0, 1, 0, 0, 0, 0x4f, 0, 0xc2, 0, 0xb0, 0]);
    }

    #[test]
    fn registers_are_found_in_both_formats_of_sense_data() {
        let expected = Registers { status: 0x50, count: 0xff, lba_mid: 0x4f, lba_high: 0xc2 };
        assert_eq!(registers(&descriptor(0x50, 0xff, 0x4f, 0xc2)), Some(expected));
        let mut after_another = vec![0x72, 0x01, 0x00, 0x1d, 0, 0, 0, 26];
        after_another.extend([0x00, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        after_another.extend(&descriptor(0x50, 0xff, 0x4f, 0xc2)[8..]);
        assert_eq!(registers(&after_another), Some(expected));
        let fixed = [0x70, 0, 0x01, 0, 0x50, 0xa0, 0xff, 10, 0, 0, 0x4f, 0xc2, 0x00, 0x1d, 0, 0, 0, 0];
        assert_eq!(registers(&fixed), Some(expected));
        let illegal_request = [0x70, 0, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0x00, 0, 0, 0, 0];
        assert_eq!(registers(&illegal_request), None);
        assert_eq!(registers(&[]), None);
    }

    #[test]
    fn sleeping_disk_is_told_from_one_that_cannot_say() {
        let asleep = |status, count| is_asleep(registers(&descriptor(status, count, 0, 0)).unwrap());
        assert!(asleep(0x50, 0x00) && asleep(0x50, 0x01) && asleep(0x50, 0x40));
        assert!(!asleep(0x50, 0xff) && !asleep(0x50, 0x80) && !asleep(0x50, 0x82));
        assert!(!asleep(0x51, 0x00), "the command is unknown to it");
    }

    #[test]
    fn verdict_is_in_the_registers() {
        let verdict = |mid, high| verdict(registers(&descriptor(0x50, 0, mid, high)).unwrap());
        assert_eq!(verdict(0x4f, 0xc2), Some(true));
        assert_eq!(verdict(0xf4, 0x2c), Some(false));
        assert_eq!(verdict(0, 0), None);
    }

    #[test]
    fn attributes_are_read_without_what_makers_put_beside_them() {
        let page = page(&[
            (1, [0xff; 6]),
            (5, [8, 0, 9, 9, 0, 0]),
            (9, [0x39, 0x30, 0, 0x55, 0, 0]),
            (190, [30, 0, 20, 40, 0, 0]),
            (194, [38, 0, 20, 45, 0, 0]),
            (197, [3, 1, 0, 0, 0, 0]),
            (198, [2, 0, 0, 0, 0, 0]),
            (199, [1, 0, 0, 0, 0, 0]),
        ]);
        let mut stat = SmartStat::default();
        attributes(&page, &mut stat);
        let expected = SmartStat {
            reallocated: Some(8),
            pending: Some(259),
            uncorrectable: Some(2),
            interface_errors: Some(1),
            temperature: Some(38),
            power_on_hours: Some(12_345),
            ..SmartStat::default()
        };
        assert_eq!(stat, expected);
    }

    #[test]
    fn temperature_below_zero_and_of_the_air_alone_is_read() {
        let mut stat = SmartStat::default();
        attributes(&page(&[(190, [0xf6, 0, 0, 0, 0, 0])]), &mut stat);
        assert_eq!(stat.temperature, Some(-10));
    }

    #[test]
    fn garbage_says_nothing() {
        let mut stat = SmartStat::default();
        let mut page = page(&[(5, [8, 0, 0, 0, 0, 0])]);
        page[100] = 1;
        attributes(&page, &mut stat);
        assert_eq!(stat, SmartStat::default(), "the sum is wrong");
        attributes(&[0; PAGE_BYTES], &mut stat);
        assert_eq!(stat, SmartStat::default());
        let whole = descriptor(0x50, 0xff, 0x4f, 0xc2);
        for length in 0..whole.len() {
            assert_eq!(registers(&whole[..length]), None, "cut at {length}");
        }
        for byte in 0..=u8::MAX {
            registers(&[byte; 32]);
            registers(&[&[0x72][..], &[byte; 30]].concat());
        }
    }
}
