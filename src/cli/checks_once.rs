//! `mainstay checks --once`: all checks without an agent. What cannot wait for a device is read here, twice, since rates need two readings;
//! whatever may wait is read in processes of their own with a deadline ([`super::apart`]), one for each disk. Nothing is written: a canary
//! needs an agent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::apart;
use super::args::Invocation;
use super::check::{FILE_DEFAULT, invalid};
use super::checks::show;
use super::exit::{CliError, Exit};
use super::table::CONFIG;
use crate::api::checks::checks as as_answer;
use crate::api::render::Stamp;
use crate::checks;
use crate::engine::host::Health;
use crate::engine::host::kind::CheckKind;
use crate::engine::host::once::{judge_once, orders_once};
use crate::engine::host::plan::CheckPlan;
use crate::engine::host::sample::{Devices, Sample};
use crate::engine::host::view::CheckView;
use crate::engine::host::watch::Source;
use crate::engine::types::{Now, Time, human};
use crate::runtime::load::{self, Accepted, Refused};
use crate::sys::clock;

/// The hidden command of a process that reads what it is told, and prints each sample as a line of JSON.
pub(super) const READ: &str = "read-host";

/// A disk, driver or network file system that takes longer does not answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Between the two readings.
const APART: Duration = Duration::from_secs(1);

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let plans = configured(invocation.path(&CONFIG))?;
    let (devices, mut once) = checks::read_once(Path::new("/"));
    let first = once.read();
    let began = Instant::now();
    let groups = groups(&devices, orders_once(&devices, &plans).into_iter().map(|order| order.source));
    let readings = read_apart(&groups, WITHIN)?;
    std::thread::sleep(APART.saturating_sub(began.elapsed()));
    let apart = began.elapsed();
    let second = [once.read(), readings.samples].concat();
    let mut views = judge_once(&devices, &first, &second, apart, &plans);
    for missing in once.missing() {
        explain(&mut views, &missing.source, Health::Absent, &missing.why);
    }
    let silence = format!("no answer within {}", human(WITHIN));
    for source in &readings.silent {
        explain(&mut views, source, Health::Unknown, &silence);
    }
    let clocks = clock::clocks();
    let (mono, boot, wall) = (Time(clocks.mono_ns), Time(clocks.boot_ns), Time(clocks.wall_ns));
    for view in &mut views {
        // It was looked at for the first time, and will not be again.
        (view.since, view.since_wall, view.next) = (mono, wall, None);
    }
    let now = Now { mono, boot, wall, wall_synchronised: clocks.synchronised };
    show(invocation, as_answer(&views, &Stamp { now, seq: 0 }), None)
}

/// The checks of the configuration: of the file that is named, or of the usual one if there is one. The paths in it may lie on a disk that
/// does not answer, so it is looked at elsewhere.
fn configured(named: Option<PathBuf>) -> Result<Vec<CheckPlan>, CliError> {
    let Some(file) = named.or_else(|| Some(PathBuf::from(FILE_DEFAULT)).filter(|file| file.exists())) else {
        return Ok(Vec::new());
    };
    let command = vec![OsString::from(load::COMMAND), file.clone().into_os_string()];
    let answer = apart::run(&[command], WITHIN).pop().filter(|answer| answer.complete);
    let answer = answer.and_then(|answer| serde_json::from_slice(&answer.text).ok());
    match answer {
        Some(load::Answer::Accepted(accepted)) => {
            let Accepted { plan, .. } = *accepted;
            Ok(plan.checks)
        }
        Some(load::Answer::Refused(Refused { diagnostics, .. })) => Err(invalid(&file, &diagnostics)),
        None => {
            let (file, within) = (file.display(), human(WITHIN));
            Err(CliError::Other(
                format!("{file}: not read within {within}; does a disk that it names not answer?").into(),
            ))
        }
    }
}

/// What the processes that may wait have read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Readings {
    samples: Vec<Sample>,
    /// Those that did not answer in time.
    silent: Vec<Source>,
}

/// What is read by one process each, as one that waits keeps back only what lies on the same disk.
fn groups(devices: &Devices, sources: impl Iterator<Item = Source>) -> Vec<Vec<Source>> {
    let disk_of = |point: &str| {
        let mount = devices.mounts.iter().find(|mount| mount.point == point);
        mount.and_then(|mount| mount.disk.clone()).unwrap_or_else(|| point.to_owned())
    };
    let mut groups: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    for source in sources {
        let whose = match &source {
            Source::Space { mount } => disk_of(mount),
            Source::Smart { disk, .. } => disk.clone(),
            Source::Sensors => "sensors".to_owned(),
            Source::LinkModes(_) => "link modes".to_owned(),
            Source::System
            | Source::Disks(_)
            | Source::Filesystems(_)
            | Source::Nics(_)
            | Source::Gateway
            | Source::Hardware
            | Source::Kernel
            | Source::Canary { .. }
            | Source::FilesystemErrors { .. } => continue,
        };
        groups.entry(whose).or_default().push(source);
    }
    groups.into_values().collect()
}

fn read_apart(groups: &[Vec<Source>], within: Duration) -> Result<Readings, CliError> {
    let mut commands = Vec::new();
    for group in groups {
        let mut words = vec![OsString::from(READ)];
        for source in group {
            words.push(serde_json::to_string(source).map_err(other)?.into());
        }
        commands.push(words);
    }
    let mut readings = Readings::default();
    for (group, answer) in groups.iter().zip(apart::run(&commands, within)) {
        let samples = samples_in(&answer.text);
        // They come in the order of the sources.
        readings.silent.extend(group.iter().skip(samples.len()).cloned());
        readings.samples.extend(samples);
    }
    Ok(readings)
}

/// Those whose line is whole.
fn samples_in(text: &[u8]) -> Vec<Sample> {
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    lines.map_while(|line| serde_json::from_slice(line).ok()).collect()
}

/// What the process does.
pub(super) fn read(sources: &[OsString]) -> Result<Exit, CliError> {
    let mut out = std::io::stdout().lock();
    for source in sources {
        let source: Source = serde_json::from_slice(source.as_encoded_bytes()).map_err(other)?;
        let Some(sample) = checks::read_blocking(Path::new("/"), &source) else { continue };
        let mut line = serde_json::to_vec(&sample).map_err(other)?;
        line.push(b'\n');
        // At once: what comes next may never be read.
        out.write_all(&line).and_then(|()| out.flush()).map_err(CliError::Output)?;
    }
    Ok(Exit::Well)
}

fn other<E: std::error::Error + Send + Sync + 'static>(error: E) -> CliError {
    CliError::Other(Box::new(error))
}

/// Why checks that nothing is known of have no state.
fn explain(views: &mut [CheckView], source: &Source, state: Health, why: &str) {
    for view in views.iter_mut().filter(|view| view.state == Health::Unknown && tells(source, view)) {
        view.state = state;
        view.why = Some(why.to_owned());
    }
}

/// Whether this check lives on this source.
fn tells(source: &Source, view: &CheckView) -> bool {
    use CheckKind as Kind;
    let (kind, target) = (view.kind, &view.target);
    match source {
        Source::Space { mount } => {
            matches!(kind, Kind::DiskSpace | Kind::DiskInodes | Kind::DiskFill) && target == mount
        }
        Source::Smart { disk, .. } => matches!(kind, Kind::Smart | Kind::DiskWear) && target == disk,
        Source::Sensors => matches!(kind, Kind::Temperature | Kind::Fan | Kind::Power),
        Source::LinkModes(nics) => kind == Kind::NicSpeed && nics.contains(target),
        Source::System => matches!(
            kind,
            Kind::PressureMemory
                | Kind::PressureCpu
                | Kind::PressureIo
                | Kind::Memory
                | Kind::MemoryPoison
                | Kind::Swap
                | Kind::BlockedTasks
                | Kind::Files
                | Kind::Pids
                | Kind::Conntrack
                | Kind::Clock
        ),
        Source::Hardware => matches!(kind, Kind::Throttling | Kind::Ecc | Kind::Pcie),
        Source::Kernel => matches!(kind, Kind::MachineCheck | Kind::Kernel),
        Source::Gateway => kind == Kind::Gateway,
        Source::Canary { .. }
        | Source::FilesystemErrors { .. }
        | Source::Disks(_)
        | Source::Filesystems(_)
        | Source::Nics(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::host::sample::{Disk, Mount, SmartBy, SpaceStat};

    #[test]
    fn each_disk_is_read_by_a_process_of_its_own_and_nothing_is_written() {
        let disk = |name: &str| Disk { name: name.to_owned(), ..Disk::default() };
        let mount = |point: &str, disk: Option<&str>| Mount {
            point: point.to_owned(),
            disk: disk.map(str::to_owned),
            ..Mount::default()
        };
        let mounts = vec![mount("/", Some("sda")), mount("/var", Some("sda")), mount("/nfs", None)];
        let devices = Devices { disks: vec![disk("sda"), disk("sdb")], mounts, nics: Vec::new() };
        let space = |mount: &str| Source::Space { mount: mount.to_owned() };
        let smart = |disk: &str| Source::Smart { disk: disk.to_owned(), by: SmartBy::Ata };
        let canary = Source::Canary { mount: "/".to_owned() };
        let all = [Source::System, space("/"), canary, smart("sda"), space("/nfs"), space("/var"), smart("sdb")];
        let groups = groups(&devices, all.into_iter());
        let expected = [vec![space("/nfs")], vec![space("/"), smart("sda"), space("/var")], vec![smart("sdb")]];
        assert_eq!(groups, expected);
    }

    #[test]
    fn what_was_read_before_the_silence_counts() {
        let sample = Sample::Space(SpaceStat { mount: "/".to_owned(), ..SpaceStat::default() });
        let line = serde_json::to_string(&sample).unwrap() + "\n";
        assert_eq!(samples_in(line.as_bytes()), std::slice::from_ref(&sample));
        assert_eq!(samples_in(format!("{line}{{\"space\":{{\"mou").as_bytes()), [sample]);
        assert!(samples_in(b"").is_empty());
    }
}
