//! `mainstay`: parses the words, carries out one command, maps an error to one line and an exit code.

use std::process::ExitCode;

use mainstay::cli;

fn main() -> ExitCode {
    match cli::main(std::env::args_os().skip(1).collect()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            cli::report(&error);
            error.exit().into()
        }
    }
}
