//! What lies in a copy: entries, the manifest, the COMMIT, the names of files and directories, and the hash of contents.

pub mod codec;
pub mod commit;
pub mod entry;
pub mod hash;
pub mod layout;
pub mod manifest;
