//! Byte for byte, before anything is measured: what comes out of a balancer is what went in. Blocking sockets, one connection at a time.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use crate::Result;
use crate::args::Args;
use crate::protocol;
use crate::tally;

const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS: u64 = 20;
const LARGE_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Options {
    to: SocketAddrV4,
}

impl Options {
    pub(crate) fn parse(args: &mut Args) -> Result<Self> {
        let options = Self { to: args.to()? };
        args.done()?;
        Ok(options)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let pattern = protocol::pattern();
    let mut scratch = vec![0; 256 << 10];
    let mut bytes = 0;
    // An odd multiplier: sizes from one byte to 400 KiB, none of them round.
    for number in 0..CONNECTIONS {
        let sizes: Vec<u64> = (1..=8).map(|step| (number * 8 + step) * 2_654_435_761 % 409_600 + 1).collect();
        bytes += transfer(options.to, &sizes, &pattern, &mut scratch)?;
    }
    bytes += transfer(options.to, &[LARGE_BYTES], &pattern, &mut scratch)?;
    tally::line_out(&format!("{{\"bytes\":{bytes}}}"))
}

/// Answers of these sizes over one connection.
fn transfer(to: SocketAddrV4, sizes: &[u64], pattern: &[u8], scratch: &mut [u8]) -> Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut total = 0;
    for size in sizes {
        stream.write_all(&protocol::request(protocol::ANSWER, *size))?;
        let mut got = 0;
        while got < *size {
            let count = stream.read(scratch).map_err(|error| format!("at byte {got} of {size}: {error}"))?;
            if count == 0 {
                return Err(format!("closed at byte {got} of {size}").into());
            }
            if got + count as u64 > *size || !protocol::is_right(pattern, got, &scratch[..count]) {
                return Err(format!("wrong bytes between {got} and {} of {size}", got + count as u64).into());
            }
            got += count as u64;
        }
        total += size;
    }
    Ok(total)
}
