//! SCSI and SAS disks: REQUEST SENSE and the log pages of SPC-4 and SBC-3.

use std::fs::File;

use super::{COMMAND_TIMEOUT, sentence};
use crate::engine::host::sample::SmartStat;
use crate::sys::scsi_generic;

const REQUEST_SENSE: u8 = 0x03;
const LOG_SENSE: u8 = 0x4d;
/// Longer pages are cut: what is asked for stands at their beginning.
const PAGE_BYTES: usize = 512;
/// Sense data is at most this long.
const SENSE_BYTES: u8 = 252;

const PAGE_SUPPORTED: u8 = 0x00;
const PAGE_WRITE_ERRORS: u8 = 0x02;
const PAGE_READ_ERRORS: u8 = 0x03;
const PAGE_VERIFY_ERRORS: u8 = 0x05;
const PAGE_TEMPERATURE: u8 = 0x0d;
const PAGE_INFORMATIONAL_EXCEPTIONS: u8 = 0x2f;

/// Additional sense codes: a failure is predicted; a warning, of which the first is the temperature.
const FAILURE_PREDICTED: u8 = 0x5d;
const WARNING: u8 = 0x0b;
/// What NVMe calls the same: the bit of the temperature.
const WARNING_BIT: u8 = 1 << 1;

/// Sense key and additional sense code with its qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes {
    key: u8,
    code: u8,
    qualifier: u8,
}

impl Codes {
    pub(super) fn is(self, code: u8, qualifier: u8) -> bool {
        (self.code, self.qualifier) == (code, qualifier)
    }

    /// Standby, or stopped.
    fn means_asleep(self) -> bool {
        let standby = self.code == 0x5e && matches!(self.qualifier, 0x02 | 0x04 | 0x09 | 0x0a);
        standby || self.key == 0x02 && self.is(0x04, 0x02)
    }
}

/// From sense data of either format.
pub(super) fn codes(sense: &[u8]) -> Option<Codes> {
    match sense.first()? & 0x7f {
        0x70 | 0x71 => Some(Codes { key: sense.get(2)? & 0x0f, code: *sense.get(12)?, qualifier: *sense.get(13)? }),
        0x72 | 0x73 => Some(Codes { key: sense.get(1)? & 0x0f, code: *sense.get(2)?, qualifier: *sense.get(3)? }),
        _ => None,
    }
}

pub(super) fn ask(device: &File, stat: &mut SmartStat) -> Result<(), String> {
    let sense = receive(device, &[REQUEST_SENSE, 0, 0, 0, SENSE_BYTES, 0], usize::from(SENSE_BYTES))?
        .ok_or_else(|| "it refuses REQUEST SENSE".to_owned())?;
    let codes = codes(&sense);
    if codes.is_some_and(Codes::means_asleep) {
        stat.asleep = true;
        return Ok(());
    }
    // That it has nothing to say here is no verdict: a disk without such a page has nothing to say either.
    if let Some(codes) = codes.filter(|codes| matches!(codes.code, FAILURE_PREDICTED | WARNING)) {
        judge(codes.code, stat);
    }
    let supported = log_page(device, PAGE_SUPPORTED)?.unwrap_or_default();
    for page in supported_of(&supported) {
        if let Some(bytes) = log_page(device, page)? {
            fill(page, &bytes, stat);
        }
    }
    if stat.passed.is_none() && stat.temperature.is_none() && stat.media_errors.is_none() {
        return Err("it has no log pages of health".to_owned());
    }
    Ok(())
}

/// The pages that are read, of those that the disk has: some bridges do not survive being asked for others.
fn supported_of(page: &[u8]) -> Vec<u8> {
    let wanted =
        [PAGE_INFORMATIONAL_EXCEPTIONS, PAGE_TEMPERATURE, PAGE_WRITE_ERRORS, PAGE_READ_ERRORS, PAGE_VERIFY_ERRORS];
    let listed = body(PAGE_SUPPORTED, page).unwrap_or_default();
    wanted.into_iter().filter(|wanted| listed.contains(wanted)).collect()
}

/// `None`: the disk refuses it.
fn log_page(device: &File, page: u8) -> Result<Option<Vec<u8>>, String> {
    const CUMULATIVE: u8 = 0x40;
    let length = u16::try_from(PAGE_BYTES).unwrap_or(u16::MAX).to_be_bytes();
    receive(device, &[LOG_SENSE, 0, CUMULATIVE | page, 0, 0, 0, 0, length[0], length[1], 0], PAGE_BYTES)
}

fn receive(device: &File, command: &[u8], bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
    let mut data = vec![0; bytes_max];
    let answer = scsi_generic::command(device, command, &mut data, COMMAND_TIMEOUT)
        .map_err(|error| sentence("send a SCSI command", &error))?;
    data.truncate(answer.data_bytes);
    Ok((answer.status == 0).then_some(data))
}

fn fill(page: u8, bytes: &[u8], stat: &mut SmartStat) {
    /// "Total uncorrected errors" of the pages of error counters.
    const UNCORRECTED: u16 = 0x0006;
    for (parameter, value) in parameters(page, bytes) {
        match (page, parameter) {
            (PAGE_INFORMATIONAL_EXCEPTIONS, 0) => {
                if let Some(code) = value.first() {
                    judge(*code, stat);
                }
                stat.temperature = stat.temperature.or(degrees(value.get(2)));
            }
            (PAGE_TEMPERATURE, 0) => stat.temperature = degrees(value.get(1)).or(stat.temperature),
            (PAGE_WRITE_ERRORS | PAGE_READ_ERRORS | PAGE_VERIFY_ERRORS, UNCORRECTED) => {
                let errors = stat.media_errors.unwrap_or(0);
                stat.media_errors = Some(errors.saturating_add(number(value)));
            }
            _ => {}
        }
    }
}

/// An additional sense code of 0 says that all is well; one that was bad stays so.
fn judge(code: u8, stat: &mut SmartStat) {
    if code == WARNING {
        stat.critical_warning = Some(WARNING_BIT);
    }
    stat.passed = Some(stat.passed.unwrap_or(true) && code != FAILURE_PREDICTED);
}

/// 0: it does not say; 255: not known.
fn degrees(byte: Option<&u8>) -> Option<i32> {
    byte.filter(|byte| !matches!(byte, 0 | 0xff)).map(|byte| i32::from(*byte))
}

/// Counters are of any length; what does not fit stays at the end.
fn number(value: &[u8]) -> u64 {
    value.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte))).unwrap_or(u64::MAX)
}

/// What follows the header of a log page, if it is that page.
fn body(page: u8, bytes: &[u8]) -> Option<&[u8]> {
    let header: &[u8; 4] = bytes.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let rest = &bytes[4..];
    (header[0] & 0x3f == page).then(|| &rest[..length.min(rest.len())])
}

/// Code and value of each whole parameter.
fn parameters(page: u8, bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body(page, bytes).unwrap_or_default();
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let value = rest.get(4..4 + usize::from(header[3]))?;
        rest = &rest[4 + value.len()..];
        Some((u16::from_be_bytes([header[0], header[1]]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(code: u8, parameters: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (parameter, value) in parameters {
            body.extend(parameter.to_be_bytes());
            body.extend([0x03, u8::try_from(value.len()).unwrap()]);
            body.extend(*value);
        }
        let mut page = vec![code, 0];
        page.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        page.extend(body);
        page
    }

    fn read(pages: &[(u8, Vec<u8>)]) -> SmartStat {
        let mut stat = SmartStat::default();
        for (code, bytes) in pages {
            fill(*code, bytes, &mut stat);
        }
        stat
    }

    #[test]
    fn healthy_disk_is_read_page_by_page() {
        let stat = read(&[
            (0x2f, page(0x2f, &[(0, &[0, 0, 31, 0])])),
            (0x0d, page(0x0d, &[(0, &[0, 33]), (1, &[0, 60])])),
            (0x02, page(0x02, &[(5, &[0, 1, 2]), (6, &[0, 0, 0, 2])])),
            (0x03, page(0x03, &[(3, &[9, 9]), (6, &[0, 0, 0, 0, 0, 0, 1, 1])])),
            (0x05, page(0x05, &[(6, &[])])),
        ]);
        let expected =
            SmartStat { passed: Some(true), media_errors: Some(259), temperature: Some(33), ..SmartStat::default() };
        assert_eq!(stat, expected);
    }

    #[test]
    fn prediction_of_failure_and_warning_are_told_apart() {
        let failing = read(&[(0x2f, page(0x2f, &[(0, &[0x5d, 0xff, 0xff, 0])]))]);
        assert_eq!((failing.passed, failing.critical_warning, failing.temperature), (Some(false), None, None));
        let warm = read(&[(0x2f, page(0x2f, &[(0, &[0x0b, 0x01, 66, 0])]))]);
        assert_eq!((warm.passed, warm.critical_warning, warm.temperature), (Some(true), Some(2), Some(66)));
        let mut both = SmartStat::default();
        judge(FAILURE_PREDICTED, &mut both);
        judge(0, &mut both);
        assert_eq!(both.passed, Some(false));
    }

    #[test]
    fn sense_data_of_both_formats_is_understood() {
        let fixed = [0x70, 0, 0x06, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x5d, 0xff, 0, 0, 0, 0];
        assert_eq!(codes(&fixed), Some(Codes { key: 6, code: 0x5d, qualifier: 0xff }));
        assert_eq!(codes(&[0x72, 0x02, 0x04, 0x02, 0, 0, 0, 0]).map(Codes::means_asleep), Some(true));
        assert_eq!(codes(&[0x72, 0x00, 0x5e, 0x04, 0, 0, 0, 0]).map(Codes::means_asleep), Some(true));
        assert_eq!(codes(&[0x72, 0x00, 0x5e, 0x03, 0, 0, 0, 0]).map(Codes::means_asleep), Some(false));
        assert_eq!(codes(&[0x70, 0]), None);
        assert_eq!(codes(&[]), None);
    }

    #[test]
    fn only_pages_that_the_disk_lists_are_asked_for() {
        assert_eq!(supported_of(&[0, 0, 0, 6, 0x00, 0x02, 0x03, 0x0e, 0x2f, 0x30]), [0x2f, 0x02, 0x03]);
        assert_eq!(supported_of(&[0, 0, 0, 6, 0x00, 0x0d]), [0x0d]);
        assert!(supported_of(&[]).is_empty());
    }

    #[test]
    fn garbage_says_nothing() {
        let whole = page(0x2f, &[(0, &[0, 0, 31, 0]), (6, &[1; 20])]);
        for place in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = byte;
                for code in [0x02, 0x0d, 0x2f] {
                    read(&[(code, bytes.clone()), (code, bytes[..place].to_vec())]);
                }
            }
        }
        assert_eq!(read(&[(0x2f, page(0x0d, &[(0, &[0x5d, 0, 0, 0])]))]), SmartStat::default(), "another page");
        assert_eq!(number(&[0xff; 9]), u64::MAX);
    }
}
