//! /etc/passwd and /etc/group, without the name service switch, whose libraries a static binary cannot load. Users that only a directory
//! service knows are given by number.

use std::fs;
use std::io;
use std::path::Path;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

/// The user of this name, or of this number if no user has it as a name.
pub fn user(name_or_uid: &str) -> io::Result<Option<UserEntry>> {
    Ok(find_user(&read(PASSWD.as_ref())?, name_or_uid))
}

/// The id of the group of this name; a number is an id, whether it is in the file or not.
pub fn group(name_or_gid: &str) -> io::Result<Option<u32>> {
    Ok(find_group(&read(GROUP.as_ref())?, name_or_gid))
}

/// The supplementary groups of a user, its primary group `gid` first.
pub fn groups_of(name: &str, gid: u32) -> io::Result<Vec<u32>> {
    Ok(find_groups(&read(GROUP.as_ref())?, name, gid))
}

/// A host without the file has nobody in it.
fn read(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn find_user(passwd: &str, name_or_uid: &str) -> Option<UserEntry> {
    let entries = || passwd.lines().filter_map(user_of_line);
    let by_number = || {
        let uid = name_or_uid.parse::<u32>().ok()?;
        entries().find(|entry| entry.uid == uid)
    };
    entries().find(|entry| entry.name == name_or_uid).or_else(by_number)
}

/// Comments, blank lines and those of the NIS (`+::::`) have no number and are passed over.
fn user_of_line(line: &str) -> Option<UserEntry> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (_comment, home, shell) = (fields.next()?, fields.next()?, fields.next().unwrap_or_default());
    Some(UserEntry { name: name.to_owned(), uid, gid, home: home.to_owned(), shell: shell.trim().to_owned() })
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_lines(group: &str) -> impl Iterator<Item = GroupLine<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        Some(GroupLine { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn find_group(group: &str, name_or_gid: &str) -> Option<u32> {
    let by_name = group_lines(group).find(|line| line.name == name_or_gid).map(|line| line.gid);
    by_name.or_else(|| name_or_gid.parse().ok())
}

fn find_groups(group: &str, name: &str, gid: u32) -> Vec<u32> {
    let mut gids = vec![gid];
    for line in group_lines(group) {
        let member = line.members.split(',').any(|member| member.trim() == name);
        if member && !gids.contains(&line.gid) {
            gids.push(line.gid);
        }
    }
    gids
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n+::::::\napi:x:998:997:,,:/srv/api:/usr/sbin/nologin\n\
                          0:x:5:5::/:\nbroken:x:abc:1::/:\n";
    const GROUP: &str = "root:x:0:\napi:x:997:\nadm:x:4:syslog,api\nssl:x:113: api,web\nold\n";

    #[test]
    fn user_is_found_by_name_before_number() {
        let api = find_user(PASSWD, "api").unwrap();
        assert_eq!(
            (api.uid, api.gid, api.home.as_str(), api.shell.as_str()),
            (998, 997, "/srv/api", "/usr/sbin/nologin")
        );
        assert_eq!(find_user(PASSWD, "998"), Some(api));
        assert_eq!(find_user(PASSWD, "0").unwrap().uid, 5);
        assert_eq!(find_user(PASSWD, "broken"), None);
        assert_eq!(find_user(PASSWD, "nobody"), None);
    }

    #[test]
    fn groups_of_a_user_start_with_the_primary_one() {
        assert_eq!(find_groups(GROUP, "api", 997), [997, 4, 113]);
        assert_eq!(find_groups(GROUP, "pi", 7), [7]);
        assert_eq!(find_group(GROUP, "adm"), Some(4));
        assert_eq!(find_group(GROUP, "1234"), Some(1234));
        assert_eq!(find_group(GROUP, "old"), None);
    }

    #[test]
    fn this_host_has_a_root() {
        assert_eq!(user("root").unwrap().unwrap().uid, 0);
        assert_eq!(group("root").unwrap(), Some(0));
        assert!(groups_of("root", 0).unwrap().contains(&0));
    }
}
