//! Where answers and errors go.

use std::cell::Cell;
use std::io::{self, Write};

use pontoon_proto::v1::Freshness;
use serde::Serialize;

use crate::args::Format;
use crate::failure::Failure;
use crate::render;

/// Standard output and standard error, in the format that was asked for.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    failed: Cell<bool>,
}

impl Output {
    /// Prints in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, failed: Cell::new(false) }
    }

    /// Prints a message: as JSON, or as the text that `text` makes of it.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn message<M: Serialize>(&self, message: &M, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.bytes(text().as_bytes()),
            Format::Json => self.json(message, serde_json::to_vec_pretty),
        }
    }

    /// Prints one message of many: as JSON in one line, or as the text that `text` makes of it.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn one_of_many<M: Serialize>(&self, message: &M, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.bytes(text().as_bytes()),
            Format::Json => self.json(message, serde_json::to_vec),
        }
    }

    fn json<M: Serialize>(
        &self,
        message: &M,
        encode: impl FnOnce(&M) -> serde_json::Result<Vec<u8>>,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::local("LOCAL", format!("cannot write the answer as JSON: {error}"), "");
        let mut json = encode(message).map_err(failed)?;
        json.push(b'\n');
        self.bytes(&json)
    }

    /// Prints as it is.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written. That nobody reads it (`pontoon … | head`) is none.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::local("LOCAL", format!("cannot write to standard output: {error}"), ""))
            }
            _ => Ok(()),
        }
    }

    /// Says on standard error what an answer is worth, unless it is as good as can be.
    pub(crate) fn freshness(&self, freshness: Option<&Freshness>) {
        if let Some(banner) = freshness.and_then(render::banner) {
            stderr(&banner);
        }
    }

    /// Prints warnings on standard error.
    pub(crate) fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            stderr(&format!("warning: {warning}\n"));
        }
    }

    /// Prints a failure on standard error; the command goes on, and ends with exit code 1.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.failed.set(true);
        stderr(&match self.format {
            Format::Table => failure.text(),
            Format::Json => failure.json(),
        });
    }

    /// What was printed is an answer that tells of a failure: the command ends with exit code 1.
    pub(crate) fn bad_news(&self) {
        self.failed.set(true);
    }

    /// Whether a failure was printed.
    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }
}

/// Nothing can be done when standard error cannot be written.
fn stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
