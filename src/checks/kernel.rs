//! The kernel's log: records of facility 0, which no program can forge, and of these the few that mean something.

use std::io;
use std::path::{Path, PathBuf};

use super::devices::whole_disk;
use super::kernel_rules::{self, Known};
use crate::engine::host::sample::{KernelAbout, KernelLine};
use crate::sys::clock;
use crate::sys::kmsg::{From, Got, Kmsg, RECORD_BYTES_MAX};

/// Records taken in one turn of the loop; the rest waits in the kernel.
pub(super) const RECORDS_AT_ONCE: usize = 200;
/// What a line's text is cut to.
const TEXT_BYTES_MAX: usize = 200;
/// What was said so long before somebody asks is still of interest.
const LOOK_BACK_US: u64 = 5 * 60 * 1_000_000;
/// Lines about one machine check or oops are one: it is told in several.
const SAME_EVENT_US: u64 = 100_000;

/// Up to where the log has been read; kept while nobody asks, so that nothing is told twice and nothing is missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The sequence number of the next record.
    next: Option<u64>,
}

impl Position {
    /// Before the record with this number.
    pub(super) fn at(next: u64) -> Self {
        Self { next: Some(next) }
    }

    /// The number of the next record, once one has been read.
    pub(super) fn next(self) -> Option<u64> {
        self.next
    }
}

#[derive(Debug)]
pub(super) struct KernelReader {
    root: PathBuf,
    log: Kmsg,
    position: Position,
    /// Records before this time of CLOCK_MONOTONIC are passed over.
    from_us: u64,
    /// What is said of disks and file systems before this time is passed over: they may be others since, or mended. Their counters tell.
    disks_from_us: u64,
    buffer: Vec<u8>,
    /// The beginning of a line that a pipe has not given whole.
    partial: Vec<u8>,
    severe_us: Option<(KernelAbout, u64)>,
}

/// How a turn ended.
#[derive(Debug)]
pub(super) enum Turn {
    /// There may be more.
    More(Vec<KernelLine>),
    /// The log cannot be read further.
    Ended(Vec<KernelLine>),
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// The role has just been started for the first time in this boot.
    LookBack,
    /// Only what comes.
    Now,
    /// Where it was left.
    At(Position),
}

impl KernelReader {
    /// The sentence says why this host cannot tell.
    pub(super) fn new(root: &Path, path: &Path, begin: Begin) -> Result<Self, String> {
        let (from, position) = match begin {
            Begin::LookBack => (From::Oldest, Position::default()),
            Begin::At(position) if position.next.is_some() => (From::Oldest, position),
            Begin::At(_) | Begin::Now => (From::Now, Position::default()),
        };
        // Also where it was left: nobody may have asked for hours.
        let from_us = match from {
            From::Oldest => (clock::mono_ns() / 1000).saturating_sub(LOOK_BACK_US),
            From::Now => 0,
        };
        let disks_from_us = if begin == Begin::LookBack { clock::mono_ns() / 1000 } else { from_us };
        let log = Kmsg::open(path, from).map_err(|error| why(path, &error))?;
        Ok(Self {
            root: root.to_owned(),
            log,
            position,
            from_us,
            disks_from_us,
            buffer: vec![0; RECORD_BYTES_MAX],
            partial: Vec::new(),
            severe_us: None,
        })
    }

    pub(super) fn log(&self) -> &Kmsg {
        &self.log
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Reads what is there, at most [`RECORDS_AT_ONCE`] records.
    pub(super) fn read(&mut self) -> Turn {
        let mut lines = Vec::new();
        let mut records = 0;
        while records < RECORDS_AT_ONCE {
            match self.log.read(&mut self.buffer) {
                Ok(Got::Bytes(length)) => records += self.take(length, &mut lines),
                // The gap in the numbers says how many were lost.
                Ok(Got::Lost) => records += 1,
                Ok(Got::Nothing) => return Turn::More(lines),
                Ok(Got::End) | Err(_) => return Turn::Ended(lines),
            }
        }
        Turn::More(lines)
    }

    /// Takes the records in the buffer; the answer is how many.
    fn take(&mut self, length: usize, lines: &mut Vec<KernelLine>) -> usize {
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(&self.buffer[..length]);
        let mut records = 0;
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (record, after) = rest.split_at(end);
            rest = &after[1..];
            records += 1;
            if let Ok(text) = std::str::from_utf8(record) {
                self.take_record(text, lines);
            }
        }
        // A record of the kernel is always whole.
        if rest.len() < RECORD_BYTES_MAX {
            self.partial = rest.to_vec();
        }
        records.max(1)
    }

    fn take_record(&mut self, text: &str, lines: &mut Vec<KernelLine>) {
        let Some(record) = Record::parse(text) else { return };
        if self.position.next.is_some_and(|next| record.sequence < next) {
            return;
        }
        let lost = self.position.next.map_or(0, |next| record.sequence - next);
        if lost > 0 {
            let text = format!("{lost} records of the kernel's log were overwritten before they were read");
            lines.push(KernelLine { about: KernelAbout::Lost, target: None, text });
        }
        self.position.next = record.sequence.checked_add(1);
        if record.facility != 0 || record.time_us < self.from_us {
            return;
        }
        let Some(known) = kernel_rules::judge(record.text) else { return };
        let of_a_disk = matches!(known.about, KernelAbout::IoError | KernelAbout::FilesystemError);
        if of_a_disk && record.time_us < self.disks_from_us {
            return;
        }
        if self.is_same_event(known.about, record.time_us) {
            return;
        }
        let target = self.target(&known);
        lines.push(KernelLine { about: known.about, target, text: cut(record.text) });
    }

    fn is_same_event(&mut self, about: KernelAbout, time_us: u64) -> bool {
        if !matches!(about, KernelAbout::MachineCheck | KernelAbout::MachineCheckCorrected | KernelAbout::Oops) {
            return false;
        }
        let before = self.severe_us.replace((about, time_us));
        before.is_some_and(|(other, at)| other == about && time_us.saturating_sub(at) < SAME_EVENT_US)
    }

    /// Errors of I/O are of the disk, also where the kernel names the partition.
    fn target(&self, known: &Known<'_>) -> Option<String> {
        let device = known.device?;
        let disk = match known.about {
            KernelAbout::IoError => whole_disk(&self.root, device),
            KernelAbout::FilesystemError
            | KernelAbout::MachineCheckCorrected
            | KernelAbout::MachineCheck
            | KernelAbout::Oops
            | KernelAbout::HungTask
            | KernelAbout::OutOfMemory
            | KernelAbout::Lost => None,
        };
        Some(disk.unwrap_or_else(|| device.to_owned()))
    }
}

fn why(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => ": run the agent as root, or with CAP_SYSLOG",
        io::ErrorKind::NotFound => ": a container has it when it is started with --device /dev/kmsg",
        _ => "",
    };
    format!("cannot open {}: {error}{remedy}", path.display())
}

/// `6,339,5140900,-,more;text`: priority with facility, sequence number, microseconds since boot.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    facility: u32,
    sequence: u64,
    time_us: u64,
    text: &'a str,
}

impl<'a> Record<'a> {
    /// `None` for what follows a record in lines that begin with a space, and for what is none.
    fn parse(line: &'a str) -> Option<Self> {
        let (head, text) = line.split_once(';')?;
        let mut words = head.split(',');
        let priority: u32 = words.next()?.parse().ok()?;
        let sequence = words.next()?.parse().ok()?;
        Some(Self { facility: priority >> 3, sequence, time_us: words.next()?.parse().ok()?, text })
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::reading::testing::{TempDir, garbage, link, put, root};
    use super::*;

    /// A root with the disk sda and its partition, and a log that is a pipe.
    struct Log {
        root: TempDir,
        writer: std::fs::File,
        reader: KernelReader,
    }

    impl Log {
        fn new() -> Self {
            let root = root(&[("sys/devices/x/block/sda/sda1/partition", "1\n")]);
            link(root.path(), "sys/block/sda", "../devices/x/block/sda");
            link(root.path(), "sys/class/block/sda1", "../../devices/x/block/sda/sda1");
            let path = root.path().join("kmsg");
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let reader = KernelReader::new(root.path(), &path, Begin::Now).unwrap();
            let writer = std::fs::File::options().write(true).open(&path).unwrap();
            Self { root, writer, reader }
        }

        fn say(&mut self, text: impl AsRef<[u8]>) -> Vec<(KernelAbout, Option<String>, String)> {
            self.writer.write_all(text.as_ref()).unwrap();
            match self.reader.read() {
                Turn::More(lines) => lines.into_iter().map(|line| (line.about, line.target, line.text)).collect(),
                Turn::Ended(_) => panic!("the writer is there"),
            }
        }
    }

    #[test]
    fn records_that_are_known_are_told_with_their_device() {
        let mut log = Log::new();
        let said = log.say(
            "3,10,100,-;blk_update_request: I/O error, dev sda, sector 8 op 0x0:(READ) flags 0x0\n SUBSYSTEM=scsi\n DEVICE=b8:0\n\
             6,11,101,-;EXT4-fs (sda1): mounted filesystem\n\
             3,12,102,-,caller=T1;Buffer I/O error on dev sda1, logical block 1, async page read\n\
             2,13,103,-;EXT4-fs error (device sda1): trigger_test_error:130: comm sh: x\n",
        );
        let told: Vec<_> = said.iter().map(|(about, target, _)| (*about, target.as_deref())).collect();
        assert_eq!(
            told,
            [
                (KernelAbout::IoError, Some("sda")),
                (KernelAbout::IoError, Some("sda")),
                (KernelAbout::FilesystemError, Some("sda1")),
            ]
        );
        assert_eq!(said[2].2, "EXT4-fs error (device sda1): trigger_test_error:130: comm sh: x");
    }

    #[test]
    fn what_a_program_wrote_is_no_word_of_the_kernel() {
        let mut log = Log::new();
        assert_eq!(log.say("12,10,100,-;I/O error, dev sda, sector 8\n4,11,100,-;usb 1-1: new device\n"), []);
    }

    #[test]
    fn lost_records_are_counted_and_nothing_is_told_twice() {
        let mut log = Log::new();
        log.say("6,10,1,-;x\n");
        let said = log.say("6,15,2,-;y\n6,12,1,-;Oops: 0000 [#1] SMP\n");
        assert_eq!(
            said,
            [(
                KernelAbout::Lost,
                None,
                "4 records of the kernel's log were overwritten before they were read".to_owned()
            )]
        );
        assert_eq!(log.reader.position(), Position { next: Some(16) });
    }

    #[test]
    fn line_that_a_pipe_gives_in_two_parts_is_one() {
        let mut log = Log::new();
        assert_eq!(log.say("2,1,1,-;Oops: 00"), []);
        assert_eq!(log.say("00 [#1]\n"), [(KernelAbout::Oops, None, "Oops: 0000 [#1]".to_owned())]);
    }

    #[test]
    fn several_lines_about_one_machine_check_or_oops_are_one() {
        let mut log = Log::new();
        let said = log.say(
            "2,1,1000,-;[Hardware Error]: Corrected error, no action required.\n\
             2,2,2000,-;mce: [Hardware Error]: Machine check events logged\n\
             2,3,900000,-;[Hardware Error]: Corrected error, no action required.\n\
             2,4,900001,-;BUG: kernel NULL pointer dereference, address: 0\n\
             2,5,900009,-;Oops: 0000 [#1] SMP\n",
        );
        assert_eq!(said.len(), 3);
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_a_turn_at_its_records() {
        let mut log = Log::new();
        let said = log.say(format!("2,1,1,-;Oops: {}\n", "é".repeat(200)));
        assert_eq!(said[0].2.len(), 200);
        let mut many = String::new();
        for sequence in 2..402 {
            many += &format!("2,{sequence},1,-;Out of memory: Killed process {sequence} (x)\n");
        }
        let first = log.say(&many).len();
        assert!((RECORDS_AT_ONCE..=400).contains(&first), "{first}");
        let rest: usize = (0..4).map(|_| log.say("").len()).sum();
        assert_eq!(first + rest, 400);
    }

    #[test]
    fn records_before_the_look_back_are_passed_over() {
        let mut log = Log::new();
        log.reader.from_us = 1000;
        let said = log.say("2,1,999,-;Oops: old\n2,2,1000,-;Oops: new\n");
        assert_eq!(said, [(KernelAbout::Oops, None, "Oops: new".to_owned())]);
    }

    #[test]
    fn what_was_said_of_a_disk_before_anybody_watched_it_is_passed_over() {
        let mut log = Log::new();
        log.reader.disks_from_us = 1000;
        let error = "I/O error, dev sda, sector 1 op 0x0:(READ)";
        let said = log.say(format!("3,1,999,-;{error}\n2,2,999,-;Oops: x\n3,3,1000,-;{error}\n"));
        assert_eq!(
            said.iter().map(|(about, ..)| *about).collect::<Vec<_>>(),
            [KernelAbout::Oops, KernelAbout::IoError]
        );
    }

    #[test]
    fn log_that_ends_says_so() {
        let root = root(&[]);
        put(root.path(), "log", format!("2,1,{},-;Oops: x\n", clock::mono_ns() / 1000));
        let mut reader =
            KernelReader::new(root.path(), &root.path().join("log"), Begin::At(Position { next: Some(0) })).unwrap();
        assert!(matches!(reader.read(), Turn::Ended(lines) if lines.len() == 2), "one is lost and one is told");
        let error = KernelReader::new(root.path(), &root.path().join("none"), Begin::Now).unwrap_err();
        assert!(error.contains("cannot open") && error.contains("--device /dev/kmsg"), "{error}");
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        let mut log = Log::new();
        let pieces = [
            "6,339,5140900,-;",
            "EXT4-fs error (device sda1)",
            "I/O error, dev ",
            "18446744073709551615,",
            "Machine Check: 0 Bank 4: b2",
        ];
        for seed in 0..3_000 {
            log.say(garbage(seed, &pieces));
        }
        assert!(log.root.path().exists());
    }

    #[test]
    fn log_of_this_host_is_read_from_where_it_was_left() {
        let begin = |begin| KernelReader::new(Path::new("/"), Path::new("/dev/kmsg"), begin);
        let mut reader = match begin(Begin::LookBack) {
            Ok(reader) => reader,
            Err(why) => return eprintln!("skipped: {why}"),
        };
        while let Turn::More(_) = reader.read() {
            let before = reader.position();
            let Turn::More(_) = reader.read() else { break };
            if reader.position() == before {
                break;
            }
        }
        let mut again = begin(Begin::At(reader.position())).unwrap();
        for _ in 0..100 {
            let Turn::More(lines) = again.read() else { panic!("the kernel's log does not end") };
            assert!(lines.iter().all(|line| line.about != KernelAbout::Lost), "{lines:?}");
        }
    }
}
