//! `mainstay man`: the manual page in troff, made from the table.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::help::sentence;
use super::output;
use super::table::{COMMANDS, ENVIRONMENT, EXIT_CODES, GLOBAL, Opt};

pub(super) fn run(_: &Invocation) -> Result<Exit, CliError> {
    output::print(&page())?;
    Ok(Exit::Well)
}

fn page() -> String {
    let mut out = format!(".TH MAINSTAY 8 \"\" \"mainstay {}\" \"System Administration\"\n", env!("CARGO_PKG_VERSION"));
    out.push_str(".SH NAME\nmainstay \\- keeps the services of one host alive\n");
    out.push_str(".SH SYNOPSIS\n.B mainstay\n[\\fIOPTION\\fR..] [\\fICOMMAND\\fR] [\\fIARGUMENT\\fR..]\n");
    out.push_str(
        ".SH DESCRIPTION\nOne agent runs the services that a file describes, restarts what fails, and can be killed at any moment \
         itself: the services go on and the next agent adopts them. The same program asks it what it does and tells it what to do.\n\
         .PP\nWithout a command a summary of one screen is shown.\n",
    );
    out.push_str(".SH COMMANDS\n");
    for command in &COMMANDS {
        out.push_str(&format!(".TP\n.B {}\n{}.\n", escape(command.usage), escape(&sentence(command.summary))));
        if !command.details.is_empty() {
            out.push_str(&format!("{}\n", escape(command.details)));
        }
        if !command.options.is_empty() {
            out.push_str(".RS\n");
            options(&mut out, command.options);
            out.push_str(".RE\n");
        }
    }
    out.push_str(".SH OPTIONS\nOptions may stand before or after the command.\n");
    options(&mut out, &GLOBAL);
    out.push_str(".SH \"EXIT STATUS\"\n");
    for (code, meaning) in EXIT_CODES {
        out.push_str(&format!(".TP\n.B {code}\n{}.\n", escape(&sentence(meaning))));
    }
    out.push_str(".SH ENVIRONMENT\n");
    for (name, meaning) in ENVIRONMENT {
        out.push_str(&format!(".TP\n.B {}\n{}.\n", escape(name), escape(&sentence(meaning))));
    }
    out.push_str(".SH FILES\n");
    for (path, meaning) in [
        ("/etc/mainstay/mainstay.ron", "the configuration"),
        ("/run/mainstay", "sockets, log pipes and the records by which the next agent adopts what runs"),
        ("/var/lib/mainstay", "the journal of events and the decisions of operators"),
        ("/var/log/mainstay", "the output of the services"),
    ] {
        out.push_str(&format!(".TP\n.I {}\n{}.\n", escape(path), escape(&sentence(meaning))));
    }
    out
}

fn options(out: &mut String, options: &[&Opt]) {
    for option in options {
        let short = option.short.map_or_else(String::new, |short| format!("\\-{short}\\fR, \\fB"));
        let value = option.value.map_or_else(String::new, |value| format!(" \\fI{value}\\fR"));
        let long = escape(option.long);
        out.push_str(&format!(".TP\n\\fB{short}\\-\\-{long}\\fR{value}\n{}.\n", escape(&sentence(option.help))));
    }
}

/// What troff would take for itself.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_in_the_page() {
        let page = page();
        for command in &COMMANDS {
            assert!(page.contains(&format!("\n.B {}\n", escape(command.usage))), "{}", command.name);
            for option in command.options.iter().chain(&GLOBAL) {
                assert!(page.contains(&format!("\\-\\-{}", escape(option.long))), "--{}", option.long);
                assert!(option.short.is_none_or(|short| page.contains(&format!("\\fB\\-{short}\\fR"))));
            }
        }
    }

    #[test]
    fn no_line_is_a_stray_request() {
        let known = [".TH", ".SH", ".TP", ".B", ".I", ".PP", ".RS", ".RE"];
        for line in page().lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(known.contains(&line.split(' ').next().unwrap()), "{line}");
        }
    }
}
