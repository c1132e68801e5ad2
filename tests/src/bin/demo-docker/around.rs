//! The way into the hosts: for the demo's own commands, and for whoever looks around.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use pontoon_tests::lab::{Cluster, IMAGE, program};

use super::screen::Screen;

/// Where a host finds what the distribution has installed.
const DIRECTORIES: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A shell on a host, where `docker` and `pontoon` speak to the host's own.
pub(super) fn on_host(cluster: &Cluster, host: usize) -> Result<Command> {
    let bin = program("pontoon")?.parent().context("pontoon is in no folder")?.display().to_string();
    let socket = cluster.file(&cluster.hosts()[host].name).join("pontoon.sock");
    let mut command = cluster.engine(host).command("sh");
    command.env("PATH", format!("{bin}:{DIRECTORIES}")).env("PONTOON_HOST", format!("unix://{}", socket.display()));
    Ok(command)
}

/// Says how to look around, and makes what is needed for it.
pub(super) fn show(screen: &Screen, cluster: &Cluster) -> Result<()> {
    let first = enter(cluster, 0)?;
    let second = enter(cluster, 1)?;
    let overlay = cluster.overlay(0).name();
    screen.say(&format!(
        "
The hosts stay until you press Ctrl-C here. Look around from another terminal:
  {first}                              # a shell on h1, with its docker, pontoon and ip
  {second} docker ps                    # or one command, here on h2
Some commands to try on h1:
  docker exec -it centos1 sh               # in the container
  docker run -it --rm --net my-overlay {IMAGE} sh
  pontoon status
  pontoon lease ls
  nsenter --net=/run/netns/{overlay} ip -d link    # the overlay's own namespace
What they log: {dir}/h1/log (pontoond), {dir}/engine-h1/log (dockerd)",
        first = first.display(),
        second = second.display(),
        dir = cluster.dir().display(),
    ))
}

/// Makes a program that runs a command on a host, or a shell.
fn enter(cluster: &Cluster, host: usize) -> Result<PathBuf> {
    let command = on_host(cluster, host)?;
    let path = cluster.file(&format!("on-{}", cluster.hosts()[host].name));
    fs::write(&path, script(&command)).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A script that does what a command does, with its own arguments for a command in that shell.
fn script(command: &Command) -> String {
    let mut words = vec!["exec".to_owned(), "env".to_owned()];
    for (name, value) in command.get_envs() {
        let name = name.to_string_lossy();
        match value {
            Some(value) => words.push(quoted(&format!("{name}={}", value.to_string_lossy()))),
            None => words.splice(2..2, ["-u".to_owned(), name.into_owned()]).for_each(drop),
        }
    }
    words.push(quoted(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|argument| quoted(&argument.to_string_lossy())));
    format!("#!/bin/sh\n[ $# -gt 0 ] || set -- sh\n{} -c 'exec \"$@\"' sh \"$@\"\n", words.join(" "))
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_runs_its_arguments_in_the_same_shell() {
        let mut command = Command::new("env");
        command.args(["A=it's\n1", "sh"]).env("SET", "x y").env_remove("GONE");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enter");
        fs::write(&path, script(&command)).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = Command::new("sh");
            command.arg(&path).args(arguments).env("GONE", "1");
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert_eq!(run(&["printf", "%s|", "a b", "c"]), "a b|c|");
        let environment = run(&["env"]);
        assert!(environment.contains("A=it's\n1\n") && environment.contains("SET=x y\n"), "{environment}");
        assert!(!environment.contains("GONE"), "{environment}");
    }
}
