//! `mainstay help`, `mainstay version`, made from the table.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::output;
use super::table::{COMMANDS, Command, EXIT_CODES, GLOBAL, Opt};

const WIDTH: usize = 80;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let names = invocation.names()?;
    match names.first() {
        None => of(None),
        Some(name) => match super::table::find(name) {
            Some(command) => of(Some(command)),
            None => Err(CliError::UnknownCommand((*name).to_owned())),
        },
    }
}

pub(super) fn version(_: &Invocation) -> Result<Exit, CliError> {
    output::print(&format!("mainstay {}\n", env!("CARGO_PKG_VERSION")))?;
    Ok(Exit::Well)
}

/// Help for one command, or for all.
pub(super) fn of(command: Option<&Command>) -> Result<Exit, CliError> {
    output::print(&command.map_or_else(overview, detail))?;
    Ok(Exit::Well)
}

fn overview() -> String {
    let mut out = String::from(
        "mainstay keeps the services of this host alive.\n\nUsage: mainstay [OPTION..] [COMMAND] [ARGUMENT..]\n\
         Without a command: a summary of one screen.\n\nCommands:\n",
    );
    for command in &COMMANDS {
        out.push_str(&format!("  {:12}  {}\n", command.name, command.summary));
    }
    out.push_str("\nOptions of every command:\n");
    options(&mut out, &GLOBAL);
    out.push_str("\nExit codes: ");
    let codes = EXIT_CODES.map(|(code, meaning)| format!("{code} {meaning}")).join(", ");
    out.push_str(&wrap(&codes, 12, WIDTH));
    out.push_str("\n`mainstay help COMMAND` tells more.\n");
    out
}

fn detail(command: &Command) -> String {
    let mut out = format!("Usage: mainstay {}\n\n{}.\n", command.usage, sentence(command.summary));
    if !command.details.is_empty() {
        out.push_str(&wrap(command.details, 0, WIDTH));
    }
    if !command.options.is_empty() {
        out.push_str("\nOptions:\n");
        options(&mut out, command.options);
    }
    out.push_str("\nOptions of every command:\n");
    options(&mut out, &GLOBAL);
    out
}

fn options(out: &mut String, options: &[&Opt]) {
    for option in options {
        out.push_str(&format!("  {:22}  {}", spelling(option), wrap(option.help, 26, WIDTH)));
    }
}

/// `-n, --tail N`
pub(super) fn spelling(option: &Opt) -> String {
    let short = option.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    let value = option.value.map_or_else(String::new, |value| format!(" {value}"));
    format!("{short}--{}{value}", option.long)
}

/// With a capital letter in front.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Lines of at most `width`, all but the first indented. Ends with a newline.
fn wrap(text: &str, indent: usize, width: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        if column > indent && column + 1 + word.len() > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_80_columns_and_names_everything() {
        let overview = overview();
        for command in &COMMANDS {
            assert!(overview.contains(&format!("\n  {:12}  ", command.name)), "{}", command.name);
            let text = detail(command);
            for option in command.options {
                assert!(text.contains(&format!("--{}", option.long)), "{} --{}", command.name, option.long);
            }
            assert!(text.lines().chain(overview.lines()).all(|line| line.chars().count() <= WIDTH), "{text}");
        }
    }

    #[test]
    fn the_help_of_a_command_reads_well() {
        expect_test::expect![[r#"
            Usage: mainstay logs [-f] [-n N] [--since TIME] NAME[/replica]..

            Show the output of services.
            Without -n or --since the last 100 lines; with -f the last 10. Several services
            or replicas are merged in the order of time, each line with its origin in front.

            Options:
              -f, --follow            go on with what comes, until interrupted
              -n, --tail N            only the last N lines
                  --since TIME        not older than this: 10m, 1h 30m, or
                                      2026-11-22T08:00:00Z
                  --no-prefix         do not name the service on each line
              -o, --output FORMAT     table (for people), json (as the API answers) or
                                      ndjson (one object a line)

            Options of every command:
                  --socket PATH       ask the agent at this socket
                  --config FILE       the configuration: run uses it, other commands find
                                      the agent by its run_dir
              -h, --help              show help for the command
              -V, --version           show the version
        "#]]
        .assert_eq(&detail(super::super::table::find("logs").unwrap()));
    }
}
