//! `pontoond`: Pontoon's daemon.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use pontoon_node::config::{self, CommandLine, Config, LogFormat};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The log may not exist yet, and whoever started the daemon looks here first.
            eprintln!("pontoond: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let config = config::load(CommandLine::parse()).map_err(|error| error.to_string())?;
    start_log(&config)?;
    end_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the threads: {error}"))?;
    let result = runtime.block_on(pontoon_node::run(config)).map_err(|error| error.to_string());
    // What still blocks a thread now has had its time to end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

fn start_log(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| {
        format!("log-level {:?} cannot be understood: {error}; give one such as info", config.log_level)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// A panic in a task would leave the rest running in a state that nobody thought of: the
/// process ends, and its supervisor starts it anew.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// In the child: what it is started with.
    const CHILD: &str = "PONTOON_TEST_PANICS";
    /// How long it may go on.
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

    #[test]
    fn a_panic_in_a_task_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            super::end_on_panic();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(async { panic!("a task has had enough") });
                tokio::time::sleep(DEADLINE).await;
            });
            // Not ended: it must not stay, nor start a child of its own.
            std::process::exit(0);
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "tests::a_panic_in_a_task_ends_the_process", "--nocapture"]).env(CHILD, "");
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "not SIGABRT but {}: {text}", output.status);
        assert!(text.contains("a task has had enough") && text.contains("main.rs"), "{text}");
    }
}
