use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(line.split(' '))?;
    cli.check()?;
    Ok(cli)
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn these_lines_are_understood() {
    let lines = [
        "pontoon init --advertise 192.168.140.200",
        "pontoon init --advertise [fd00::1]:7300 --data-addr 10.1.0.1 --name h1 --pool 10.0.0.0/8 --pool-prefix 24",
        "pontoon init --advertise h1 --pool 10.0.0.0/8 --pool 172.20.0.0/14",
        "pontoon join -",
        "pontoon join - 192.168.140.200",
        "pontoon init --advertise h1 --token-uses 2",
        "pontoon backup /tmp/b",
        "pontoon backup - --stale",
        "pontoon restore /tmp/b --advertise 192.168.140.200 --name h1 --data-addr 10.0.0.1 --voter-only --token-uses 2",
        "pontoon recover",
        "pontoon recover --force",
        "pontoon token create",
        "pontoon token create --uses 3 --expires 10m --role observer -q --no-addresses",
        "pontoon token ls -q --stale",
        "pontoon token rm 0011 0022",
        "pontoon token rotate 0011 --quiet",
        "pontoon join - 192.168.140.200,192.168.140.201:7300 --advertise 192.168.140.202 --data-addr 10.1.0.3 --name h3",
        "pontoon init --advertise h1 --voter-only",
        "pontoon join - h1 --voter-only",
        "pontoon cluster set voters=3 replace-after=10m",
        "pontoon cluster set voters=auto",
        "pontoon cluster rotate-authority",
        "pontoon cluster set replace-after=default",
        "pontoon node promote h1 h2",
        "pontoon node demote h1",
        "pontoon node auto h1",
        "pontoon node drain h1 h2",
        "pontoon upgrade check",
        "pontoon leave",
        "pontoon leave --force",
        "pontoon status -o json",
        "pontoon doctor",
        "pontoon watch",
        "pontoon watch --network a --network b --kind node --kind engine-network --from 12 -o json",
        "pontoon doctor -o json --timeout 2m",
        "pontoon --host unix:///tmp/x status --timeout 2m",
        "pontoon -H unix:///tmp/x node ls -q --stale",
        "pontoon node list",
        "pontoon node inspect h1 2 --stale",
        "pontoon node rm h1 h2 --force",
        "pontoon node label h1 rack=a old- zone=",
        "pontoon node label h1 --rm old --rm older",
        "pontoon network create my-overlay",
        "pontoon network create n --subnet 10.1.0.0/24 --subnet fd00::/64 --gateway 10.1.0.1 --ip-range 10.1.0.128/25",
        "pontoon network create n --reserve db=10.0.0.9 --reserve web=10.0.0.10 --mtu 1400 --vni 70000 --internal",
        "pontoon network create n --label a=b --label c= --ipv6 --force",
        "pontoon network ls --quiet",
        "pontoon network inspect a b",
        "pontoon network remove a b",
        "pontoon lease ls --network n --node h1 --state cooling --stale",
        "pontoon lease inspect 10.0.0.2 fd00::2",
        "pontoon dns query centos2 --network my-overlay",
        "pontoon attach --network n --netns /run/netns/c1 --name c1 --ip 10.0.0.7 --ip fd00::7 --mac 02:42:0a:00:00:07",
        "pontoon attach --network n --pid 4711 --ifname eth0 --alias db --alias sql",
        "pontoon detach --netns /run/netns/c1",
        "pontoon detach --network n --pid 4711",
        "pontoon detach --name c1",
        "pontoon completion zsh",
        "pontoon man /usr/share/man/man1",
    ];
    for line in lines {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn these_lines_are_usage_errors() {
    use ErrorKind::{
        ArgumentConflict, InvalidSubcommand, InvalidValue, MissingRequiredArgument, UnknownArgument, ValueValidation,
    };
    let lines = [
        ("pontoon --host tcp://10.0.0.1:7300 status", ValueValidation),
        ("pontoon --host unix://relative status", ValueValidation),
        ("pontoon --timeout 0 status", ValueValidation),
        ("pontoon --timeout -1s status", UnknownArgument),
        ("pontoon --timeout soon status", ValueValidation),
        ("pontoon -o yaml status", InvalidValue),
        ("pontoon init", MissingRequiredArgument),
        ("pontoon init --advertise a --pool-prefix 24", MissingRequiredArgument),
        ("pontoon join", MissingRequiredArgument),
        ("pontoon join 192.168.140.200", ValueValidation),
        ("pontoon join - a,,b", ValueValidation),
        ("pontoon token create --uses 0", ValueValidation),
        ("pontoon token create --uses 1001", ValueValidation),
        ("pontoon token create --role king", InvalidValue),
        ("pontoon backup", MissingRequiredArgument),
        ("pontoon restore /tmp/b", MissingRequiredArgument),
        ("pontoon recover h1", UnknownArgument),
        ("pontoon token rotate", MissingRequiredArgument),
        ("pontoon status --stale", UnknownArgument),
        ("pontoon doctor h1", UnknownArgument),
        ("pontoon cluster set", MissingRequiredArgument),
        ("pontoon cluster set voters=2", ValueValidation),
        ("pontoon cluster set voters", ValueValidation),
        ("pontoon cluster set replace-after=soon", ValueValidation),
        ("pontoon cluster set replace-after=0s", ValueValidation),
        ("pontoon cluster set pools=10.0.0.0/8", ValueValidation),
        ("pontoon cluster set voters=1 voters=3", ValueValidation),
        ("pontoon node promote", MissingRequiredArgument),
        ("pontoon node demote h1 --force", UnknownArgument),
        ("pontoon node rm", MissingRequiredArgument),
        ("pontoon node label h1", MissingRequiredArgument),
        ("pontoon node label h1 rack", ValueValidation),
        ("pontoon node label h1 =a", ValueValidation),
        ("pontoon node label h1 a=1 a-", ValueValidation),
        ("pontoon network create", MissingRequiredArgument),
        ("pontoon network create n --reserve db", ValueValidation),
        ("pontoon network create n --reserve =10.0.0.9", ValueValidation),
        ("pontoon network create n --label a=1 --label a=2", ValueValidation),
        ("pontoon network create n --mtu 0", ValueValidation),
        ("pontoon network create n --vni many", ValueValidation),
        ("pontoon network rm n --stale", UnknownArgument),
        ("pontoon network make n", InvalidSubcommand),
        ("pontoon lease ls --state gone", InvalidValue),
        ("pontoon lease inspect", MissingRequiredArgument),
        ("pontoon attach --network n", MissingRequiredArgument),
        ("pontoon attach --netns /x", MissingRequiredArgument),
        ("pontoon attach --network n --netns /x --pid 1", ArgumentConflict),
        ("pontoon attach --network n --pid 0", ValueValidation),
        ("pontoon detach --network n", MissingRequiredArgument),
        ("pontoon detach --netns /x --name c", ArgumentConflict),
        ("pontoon completion csh", InvalidValue),
    ];
    for (line, kind) in lines {
        match parse(line) {
            Ok(_) => panic!("{line}: accepted"),
            Err(error) => {
                assert_eq!(error.kind(), kind, "{line}: {error}");
                assert_eq!(error.exit_code(), 2, "{line}");
            }
        }
    }
}

#[test]
fn bad_values_are_not_this_programs_to_judge() {
    // The daemon refuses them, with a reason and a hint.
    for line in [
        "pontoon network create UPPER..case --subnet 10.0.0.0/99 --gateway nowhere --ip-range x --reserve db=nine",
        "pontoon lease inspect ten.zero.zero.two",
        "pontoon attach --network n --pid 1 --ip x --mac y",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn labels_are_set_and_removed() {
    let cases = [
        ("a=b", LabelChange::Set(Pair { key: "a".into(), value: "b".into() })),
        ("a=", LabelChange::Set(Pair { key: "a".into(), value: String::new() })),
        ("a=b=c-", LabelChange::Set(Pair { key: "a".into(), value: "b=c-".into() })),
        ("a-", LabelChange::Remove("a".into())),
        ("a-b-", LabelChange::Remove("a-b".into())),
    ];
    for (text, change) in cases {
        assert_eq!(text.parse::<LabelChange>(), Ok(change), "{text}");
    }
    for text in ["a", "-", "=", "=b", ""] {
        assert!(text.parse::<LabelChange>().is_err(), "{text}");
    }
}

#[test]
fn durations() {
    let cases = [("3", 3_000), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h30m", 5_400_000), ("1.5s", 1_500)];
    for (text, ms) in cases {
        assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "0", "0s", "-1s", "5 parsecs", "4294967296"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

/// What docs/cli.md shows.
const DOCS: &str = include_str!("../../../docs/cli.md");

#[test]
fn every_documented_line_is_understood() {
    let lines: Vec<_> = DOCS.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(lines.len() > 20, "{lines:?}");
    for line in lines {
        let line = line.split(['|', '>']).next().unwrap_or_default().trim_end();
        match parse(line) {
            Err(error) if error.exit_code() != 0 => panic!("{line}: {error}"),
            _ => {}
        }
    }
}

#[test]
fn every_command_and_option_is_documented() {
    let (mut commands, mut missing) = (vec![(String::new(), Cli::command())], Vec::new());
    while let Some((parents, command)) = commands.pop() {
        let path = format!("{parents}{}", command.get_name());
        if !DOCS.contains(&path) {
            missing.push(path.clone());
        }
        let options = command.get_arguments().filter_map(clap::Arg::get_long);
        missing.extend(
            options.filter(|option| !DOCS.contains(&format!("--{option}"))).map(|option| format!("{path} --{option}")),
        );
        commands.extend(command.get_subcommands().map(|sub| (format!("{path} "), sub.clone())));
    }
    assert!(missing.is_empty(), "not in docs/cli.md: {missing:?}");
}
