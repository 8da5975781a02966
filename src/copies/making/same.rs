//! When something counts as unchanged.

use std::io;

use super::scan::Found;
use crate::copies::format::entry::{Entry, Kind};

/// Reads the attributes of what was found, unless nobody has touched it since the older copy was made.
pub(in crate::copies) fn learn_attributes(found: &mut Found, before: &Entry) -> io::Result<()> {
    found.entry.attributes =
        if found.entry.is_untouched_since(before) { before.attributes.clone() } else { found.attributes()? };
    Ok(())
}

/// Whether the older copy was made of what is in the sources now, so that it need not be read. Size, mtime and inode alone will not do: programs set times
/// back. The ctime is the kernel's own.
pub(in crate::copies) fn untouched(now: &Entry, before: &Entry) -> bool {
    match now.kind {
        Kind::File { .. } => {
            now.is_untouched_since(before)
                && now.attributes == before.attributes
                && now.group.is_some() == before.group.is_some()
        }
        Kind::Dir | Kind::Link { .. } | Kind::Fifo | Kind::Socket | Kind::Char { .. } | Kind::Block { .. } => {
            alike(now, before)
        }
    }
}

/// Same metadata and, as far as a stat can tell, same content: with equal content one inode can stand for both.
pub(in crate::copies) fn alike(now: &Entry, before: &Entry) -> bool {
    now.kind.is_alike(&before.kind) && now.has_metadata_of(before)
}

/// For the directories above a source, of which nothing but the way through is copied: what happens beside it is not its business.
pub(in crate::copies) fn same_way(now: &Entry, before: &Entry) -> bool {
    now.kind.is_alike(&before.kind)
        && (now.mode, now.uid, now.gid) == (before.mode, before.uid, before.gid)
        && now.attributes == before.attributes
}
