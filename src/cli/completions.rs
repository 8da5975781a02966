//! `mainstay completions SHELL`, made from the table. Names of services are asked from the running agent when they are completed.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::output;
use super::table::{self, COMMANDS, Command, GLOBAL, Offer, Opt};

/// Prints the names of the services, one a line; silent without an agent.
const SERVICES: &str = "mainstay status -o ndjson 2>/dev/null | sed -n 's/^{\"name\":\"\\([^\"]*\\)\".*/\\1/p'";

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let names = invocation.names()?;
    let text = match names.first().copied() {
        Some("bash") => bash(),
        Some("zsh") => zsh(),
        Some("fish") => fish(),
        other => return Err(CliError::UnknownShell(other.unwrap_or_default().to_owned())),
    };
    output::print(&text)?;
    Ok(Exit::Well)
}

fn spellings(option: &Opt) -> Vec<String> {
    let mut all = vec![format!("--{}", option.long)];
    all.extend(option.short.map(|short| format!("-{short}")));
    all
}

fn options_of(command: &Command) -> impl Iterator<Item = &'static Opt> {
    command.options.iter().copied().chain(GLOBAL)
}

fn bash_offer(offer: Offer) -> String {
    match offer {
        Offer::Nothing => "COMPREPLY=()".to_owned(),
        Offer::Files => "COMPREPLY=($(compgen -f -- \"$word\"))".to_owned(),
        Offer::Services => "COMPREPLY=($(compgen -W \"$(_mainstay_services)\" -- \"$word\"))".to_owned(),
        Offer::Commands => "COMPREPLY=($(compgen -W \"$commands\" -- \"$word\"))".to_owned(),
        Offer::Words(words) => format!("COMPREPLY=($(compgen -W \"{}\" -- \"$word\"))", words.join(" ")),
    }
}

fn bash() -> String {
    let commands = COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>().join(" ");
    let valued: Vec<&Opt> = table::options().filter(|option| option.value.is_some()).collect();
    let mut out = format!(
        "# bash completion of mainstay\n_mainstay_services() {{\n    {SERVICES}\n}}\n\n_mainstay() {{\n    local word=${{COMP_WORDS[COMP_CWORD]}} \
         before=${{COMP_WORDS[COMP_CWORD-1]}} command= i\n    local commands=\"{commands}\"\n    case $before in\n"
    );
    for option in &valued {
        out.push_str(&format!("        {}) {}; return ;;\n", spellings(option).join("|"), bash_offer(option.offer)));
    }
    let skip = valued.iter().flat_map(|option| spellings(option)).collect::<Vec<_>>().join("|");
    out.push_str(&format!(
        "    esac\n    for ((i = 1; i < COMP_CWORD; i++)); do\n        case ${{COMP_WORDS[i]}} in\n            {skip}) ((i++)) ;;\n            \
         -*) ;;\n            *) command=${{COMP_WORDS[i]}}; break ;;\n        esac\n    done\n    case $command in\n"
    ));
    for command in &COMMANDS {
        let options = options_of(command).flat_map(spellings).collect::<Vec<_>>().join(" ");
        out.push_str(&format!(
            "        {}) if [[ $word == -* ]]; then COMPREPLY=($(compgen -W \"{options}\" -- \"$word\")); else {}; fi ;;\n",
            command.name,
            bash_offer(command.offer)
        ));
    }
    let global = GLOBAL.iter().flat_map(|option| spellings(option)).collect::<Vec<_>>().join(" ");
    out.push_str(&format!(
        "        '') COMPREPLY=($(compgen -W \"$commands {global}\" -- \"$word\")) ;;\n    esac\n}}\ncomplete -F _mainstay mainstay\n"
    ));
    out
}

fn zsh_quote(text: &str) -> String {
    text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

fn zsh_offer(offer: Offer) -> String {
    match offer {
        Offer::Nothing => " ".to_owned(),
        Offer::Files => "_files".to_owned(),
        Offer::Services => "_mainstay_services".to_owned(),
        Offer::Commands => format!("({})", COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>().join(" ")),
        Offer::Words(words) => format!("({})", words.join(" ")),
    }
}

fn zsh_option(option: &Opt) -> String {
    let help = zsh_quote(option.help);
    let value = option.value.map_or_else(String::new, |value| format!(":{value}:{}", zsh_offer(option.offer)));
    let equals = if option.value.is_some() { "=" } else { "" };
    match option.short {
        None => format!("'--{}{equals}[{help}]{value}'", option.long),
        Some(short) => {
            let plus = if option.value.is_some() { "+" } else { "" };
            format!("'(-{short} --{0})'{{-{short}{plus},--{0}{equals}}}'[{help}]{value}'", option.long)
        }
    }
}

fn zsh() -> String {
    let mut out = format!(
        "#compdef mainstay\n# zsh completion of mainstay\n_mainstay_services() {{\n    local -a names\n    names=(${{(f)\"$({SERVICES})\"}})\n    \
         compadd -a names\n}}\n\n_mainstay() {{\n    local -a commands\n    local state line\n    commands=(\n"
    );
    for command in &COMMANDS {
        out.push_str(&format!("        '{}:{}'\n", command.name, zsh_quote(command.summary)));
    }
    let global = GLOBAL.iter().map(|option| zsh_option(option)).collect::<Vec<_>>().join(" \\\n        ");
    out.push_str(&format!(
        "    )\n    _arguments -C \\\n        {global} \\\n        '1:command:->command' '*::argument:->argument'\n    case $state in\n        \
         command) _describe command commands ;;\n        argument)\n            case $words[1] in\n"
    ));
    for command in &COMMANDS {
        let options = options_of(command).map(zsh_option).collect::<Vec<_>>().join(" ");
        out.push_str(&format!(
            "                {}) _arguments {options} '*:argument:{}' ;;\n",
            command.name,
            zsh_offer(command.offer)
        ));
    }
    out.push_str("            esac ;;\n    esac\n}\n\nif [ \"$funcstack[1]\" = _mainstay ]; then _mainstay \"$@\"; else compdef _mainstay mainstay; fi\n");
    out
}

fn fish_quote(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn fish_offer(offer: Offer) -> Option<String> {
    match offer {
        Offer::Nothing => None,
        Offer::Files => Some(String::from("-F")),
        Offer::Services => Some("-a '(__mainstay_services)'".to_owned()),
        Offer::Commands => {
            Some(format!("-a '{}'", COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>().join(" ")))
        }
        Offer::Words(words) => Some(format!("-a '{}'", words.join(" "))),
    }
}

fn fish_option(option: &Opt) -> String {
    let short = option.short.map_or_else(String::new, |short| format!(" -s {short}"));
    let value = match (option.value, fish_offer(option.offer)) {
        (None, _) => String::new(),
        (Some(_), Some(offer)) if option.offer == Offer::Files => format!(" -r {offer}"),
        (Some(_), Some(offer)) => format!(" -x {offer}"),
        (Some(_), None) => " -x".to_owned(),
    };
    format!("-l {}{short}{value} -d '{}'", option.long, fish_quote(option.help))
}

fn fish() -> String {
    let mut out = format!(
        "# fish completion of mainstay\nfunction __mainstay_services\n    {SERVICES}\nend\n\ncomplete -c mainstay -f\n"
    );
    for option in GLOBAL {
        out.push_str(&format!("complete -c mainstay {}\n", fish_option(option)));
    }
    for command in &COMMANDS {
        let name = command.name;
        out.push_str(&format!(
            "complete -c mainstay -n __fish_use_subcommand -a {name} -d '{}'\n",
            fish_quote(command.summary)
        ));
        let seen = format!("complete -c mainstay -n '__fish_seen_subcommand_from {name}'");
        for option in command.options {
            out.push_str(&format!("{seen} {}\n", fish_option(option)));
        }
        if let Some(offer) = fish_offer(command.offer) {
            out.push_str(&format!("{seen} {offer}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_command_and_option() {
        for (shell, text) in [("bash", bash()), ("zsh", zsh()), ("fish", fish())] {
            for command in &COMMANDS {
                assert!(text.contains(command.name), "{shell}: {}", command.name);
                for option in options_of(command) {
                    let long =
                        if shell == "fish" { format!("-l {}", option.long) } else { format!("--{}", option.long) };
                    assert!(text.contains(&long), "{shell}: {} {long}", command.name);
                }
            }
        }
    }

    /// Run where the shell is there; says so where it is not.
    #[test]
    fn the_shells_accept_their_scripts() {
        for (shell, text) in [("bash", bash()), ("zsh", zsh()), ("fish", fish())] {
            let path = std::env::temp_dir().join(format!("mainstay-completion-{}-{shell}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            let checked = std::process::Command::new(shell).arg("-n").arg(&path).output();
            std::fs::remove_file(&path).unwrap();
            match checked {
                Ok(output) => assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => println!("skipped for {shell}: {error}"),
            }
        }
    }
}
