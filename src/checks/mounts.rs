//! /proc/self/mountinfo: what is mounted where, without touching a mounted path (proc_pid_mountinfo(5)).

/// One line of it, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountLine<'a> {
    /// Of the mount; free for another once it is unmounted.
    pub(super) id: &'a str,
    /// `8:1`
    pub(super) number: &'a str,
    /// Still escaped.
    pub(super) point: &'a str,
    /// Mounted read-only: somebody wanted it so. The kernel that forces it on a file system leaves it as it was.
    pub(super) read_only: bool,
    pub(super) fs_type: &'a str,
    /// Still escaped.
    pub(super) source: &'a str,
    /// Of the file system itself, by comma.
    pub(super) options: &'a str,
}

/// The lines that are whole.
pub(super) fn lines(text: &str) -> impl Iterator<Item = MountLine<'_>> {
    text.lines().filter_map(parse)
}

fn parse(line: &str) -> Option<MountLine<'_>> {
    let (mount, of_the_file_system) = line.split_once(" - ")?;
    let mut words = mount.split(' ');
    let id = words.next()?;
    let number = words.nth(1)?;
    let point = words.nth(1)?;
    let read_only = has_option(words.next()?, "ro");
    let mut words = of_the_file_system.split(' ');
    let (fs_type, source) = (words.next()?, words.next()?);
    let options = words.next().unwrap_or_default();
    Some(MountLine { id, number, point, read_only, fs_type, source, options })
}

pub(super) fn has_option(options: &str, wanted: &str) -> bool {
    options.split(',').any(|option| option == wanted)
}

impl MountLine<'_> {
    /// The file system takes no writes although it is mounted for writing. `ro`: btrfs, f2fs and others switch themselves so, and so
    /// does an operator's remount, which however shows in the mount too. `emergency_ro`: ext4 since 6.15. `shutdown`: XFS and ext4.
    pub(super) fn forced_read_only(&self) -> bool {
        let forced = ["ro", "emergency_ro", "shutdown"].into_iter().any(|option| has_option(self.options, option));
        forced && !self.read_only
    }
}

/// The kernel writes space, tab, newline, backslash and `#` as three octal digits.
pub(super) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        let byte = octal.and_then(|digits| {
            digits.iter().try_fold(0_u8, |value, digit| value.checked_mul(8)?.checked_add(digit - b'0'))
        });
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::garbage;
    use super::*;

    const LINE: &str =
        r"36 35 98:0 /mnt1 /mnt/with\040space rw,noatime master:1 - ext4 /dev/root\134x rw,errors=continue";

    #[test]
    fn line_is_split_and_its_names_are_decoded() {
        let line = lines(LINE).next().unwrap();
        assert_eq!(unescape(line.point), "/mnt/with space");
        assert_eq!(unescape(line.source), r"/dev/root\x");
        let read = (line.id, line.number, line.fs_type, line.options);
        assert_eq!(read, ("36", "98:0", "ext4", "rw,errors=continue"));
        assert!(!line.read_only && !line.forced_read_only());
    }

    #[test]
    fn read_only_by_force_is_told_from_read_only_on_purpose() {
        let forced = |mount: &str, options: &str| {
            let text = format!("36 35 98:0 / /x {mount} - ext4 /dev/sda1 {options}\n");
            lines(&text).next().unwrap().forced_read_only()
        };
        assert!(forced("rw,relatime", "rw,emergency_ro"));
        assert!(forced("rw", "ro,space_cache=v2"));
        assert!(forced("rw shared:3 master:1", "rw,shutdown"));
        assert!(!forced("ro,relatime", "ro"));
        assert!(!forced("rw", "rw,errors=remount-ro"));
    }

    #[test]
    fn octal_that_is_none_stays_as_it_is() {
        for (escaped, plain) in
            [(r"a\0", r"a\0"), (r"\999", r"\999"), (r"\777", r"\777"), (r"\", r"\"), (r"\011", "\t"), ("é", "é")]
        {
            assert_eq!(unescape(escaped), plain);
        }
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        for seed in 0..2_000 {
            let bytes = garbage(seed, &[LINE, " - ", r"\04", "ext4 /dev/sda"]);
            for line in lines(&String::from_utf8_lossy(&bytes)) {
                unescape(line.point);
                line.forced_read_only();
            }
        }
    }
}
