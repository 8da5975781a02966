//! The load generator of `benches/balance`, and the backends behind the balancers.
//!
//!     load backend --listen tcp:127.0.0.1:9101 [--service-time 50ms] [--graceful]
//!     load churn   --to 127.0.0.1:8000 --clients 32 --for 2s       a connection, one request, one answer, close: again and again
//!     load keep    --to 127.0.0.1:8000 --clients 64 --answer 64 --for 2s           one connection a client, request after request
//!     load rate    --to 127.0.0.1:8000 --rate 400 --sources 200 --for 8s --timeout 5s     a fixed rate, whatever the answers do
//!     load bulk    --to 127.0.0.1:8000 --streams 16 --for 2s       downloads
//!     load idle    --to 127.0.0.1:8000 --count 10000 --hold 2s     connections that are held
//!     load verify  --to 127.0.0.1:8000                             every byte of many answers is compared
//!
//! Each prints one line of JSON (idle: two). One thread and one epoll each. A latency is the time from the moment at which the request
//! was meant to be sent to the last byte of its answer; with `rate` that moment does not wait for anything, so a stall counts in full.

mod args;
mod backend;
mod bulk;
mod closed;
mod histogram;
mod idle;
mod net;
mod protocol;
mod rate;
mod tally;
mod verify;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = args::Args::new(std::env::args().skip(1))?;
    net::raise_descriptor_limit()?;
    match args.command().as_str() {
        "backend" => backend::run(&backend::Options::parse(&mut args)?),
        "churn" => closed::run(&closed::Options::churn(&mut args)?),
        "keep" => closed::run(&closed::Options::keep(&mut args)?),
        "rate" => rate::run(&rate::Options::parse(&mut args)?),
        "bulk" => bulk::run(&bulk::Options::parse(&mut args)?),
        "idle" => idle::run(&idle::Options::parse(&mut args)?),
        "verify" => verify::run(&verify::Options::parse(&mut args)?),
        other => Err(format!("no command {other}; there are: backend churn keep rate bulk idle verify").into()),
    }
}
