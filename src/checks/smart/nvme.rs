//! NVMe's log page 02h, SMART / Health Information (NVM Express Base Specification 2.0, 5.16.1.3).

use std::fs::File;

use super::{COMMAND_TIMEOUT, sentence};
use crate::engine::host::sample::SmartStat;
use crate::sys::nvme::{self, HEALTH_LOG_BYTES};

/// Of the critical warnings the one that is none of a dying disk: the temperature.
const WARNING_TEMPERATURE: u8 = 1 << 1;
const KELVIN: i32 = 273;

pub(super) fn ask(device: &File, stat: &mut SmartStat) -> Result<(), String> {
    let page =
        nvme::health_log(device, COMMAND_TIMEOUT).map_err(|error| sentence("read the NVMe health log", &error))?;
    fill(&page, stat);
    Ok(())
}

fn fill(page: &[u8; HEALTH_LOG_BYTES], stat: &mut SmartStat) {
    let warning = page[0];
    stat.critical_warning = Some(warning);
    stat.passed = Some(warning & !WARNING_TEMPERATURE == 0);
    // 0: it does not measure.
    let kelvin = i32::from(u16::from_le_bytes([page[1], page[2]]));
    stat.temperature = (kelvin != 0).then_some(kelvin - KELVIN);
    stat.spare = Some((page[3], page[4]));
    stat.used = Some(u32::from(page[5]));
    stat.power_on_hours = Some(counter(page, 128));
    stat.media_errors = Some(counter(page, 160));
}

/// Counters are 128 bits wide; one beyond 64 stays at the end.
fn counter(page: &[u8; HEALTH_LOG_BYTES], offset: usize) -> u64 {
    let bytes = page.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    u64::try_from(u128::from_le_bytes(bytes)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> [u8; HEALTH_LOG_BYTES] {
        let mut page = [0; HEALTH_LOG_BYTES];
        page[1..3].copy_from_slice(&311_u16.to_le_bytes());
        page[3..6].copy_from_slice(&[100, 10, 3]);
        page[128..144].copy_from_slice(&12_345_u128.to_le_bytes());
        page[160..176].copy_from_slice(&7_u128.to_le_bytes());
        // Entries of the error log, which are no errors of the medium.
        page[176..192].copy_from_slice(&900_u128.to_le_bytes());
        page
    }

    fn read(page: &[u8; HEALTH_LOG_BYTES]) -> SmartStat {
        let mut stat = SmartStat::default();
        fill(page, &mut stat);
        stat
    }

    #[test]
    fn healthy_log_is_read_field_by_field() {
        let expected = SmartStat {
            passed: Some(true),
            critical_warning: Some(0),
            spare: Some((100, 10)),
            used: Some(3),
            media_errors: Some(7),
            temperature: Some(38),
            power_on_hours: Some(12_345),
            ..SmartStat::default()
        };
        assert_eq!(read(&page()), expected);
    }

    #[test]
    fn every_warning_but_the_temperature_predicts_failure() {
        let mut page = page();
        for (warning, passed) in [(1, false), (2, true), (4, false), (8, false), (0x10, false), (6, false)] {
            page[0] = warning;
            assert_eq!(read(&page).passed, Some(passed), "{warning:#x}");
            assert_eq!(read(&page).critical_warning, Some(warning));
        }
    }

    #[test]
    fn absurd_numbers_stay_at_the_end() {
        let stat = read(&[0xff; HEALTH_LOG_BYTES]);
        assert_eq!(stat.media_errors, Some(u64::MAX));
        assert_eq!(stat.used, Some(255));
        assert_eq!(read(&[0; HEALTH_LOG_BYTES]).temperature, None);
    }
}
