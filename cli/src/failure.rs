//! What went wrong, as it is told to the user.

use std::error::Error;
use std::io;
use std::time::Duration;

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::host::Host;

/// Domain of the reasons in docs/api.md.
const DOMAIN: &str = "pontoon";

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// For programs: one of docs/api.md.
    pub(crate) reason: String,
    /// What was tried, on what, and why it failed.
    pub(crate) message: String,
    /// What to do; empty when there is nothing to say.
    pub(crate) hint: String,
}

/// Whether a request that got no answer may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It only reads.
    Read,
    /// It changes something.
    Write,
}

impl Effect {
    /// What to do when the answer is missing.
    fn hint(self) -> &'static str {
        match self {
            Self::Read => "see `pontoon status` and the daemon's log; --timeout waits longer",
            Self::Write => {
                "it is not known whether the request was carried out: look before trying again; --timeout waits longer"
            }
        }
    }
}

impl Failure {
    /// Something that went wrong on this side.
    pub(crate) fn local(reason: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), hint: hint.into() }
    }

    /// The daemon answered with an error, or the connection broke.
    pub(crate) fn from_status(status: &Status, host: &Host, effect: Effect) -> Self {
        if let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) {
            let hint = info.metadata.get("hint").cloned().unwrap_or_default();
            return Self { reason: info.reason, message: status.message().to_owned(), hint };
        }
        if status.source().is_some() {
            let message = format!("lost the connection to pontoond at {host}: {}", root(status));
            return Self::local("CONNECTION_LOST", message, effect.hint());
        }
        if let (Host::Elsewhere(context), Code::Unimplemented) = (host, status.code()) {
            // What strangers are answered.
            let message = format!("cluster {} does not know {} any more, or not yet", context.cluster, context.admin);
            let hint = "if it is no new certificate, ask for another: pontoon admin cert create";
            return Self::local("ADMIN_UNKNOWN", message, hint);
        }
        let hint = match status.code() {
            Code::Unimplemented => {
                "pontoon and pontoond are of different versions: compare `pontoon --version` with `pontoon status`"
            }
            _ => "see the daemon's log",
        };
        let message = match status.message() {
            "" => format!("pontoond at {host} answered: {}", status.code().description()),
            message => message.to_owned(),
        };
        Self::local(code_name(status.code()), message, hint)
    }

    /// There is no daemon to speak to.
    pub(crate) fn unreachable(host: &Host, error: &(dyn Error + 'static)) -> Self {
        let kind = io_error(error).map(io::Error::kind);
        let message = format!("cannot reach pontoond at {host}: {}", root(error));
        match kind {
            _ if matches!(host, Host::Elsewhere(_)) => {
                let hint = "is a node of the cluster there, and its port open? if it is another cluster by now, or its authority was exchanged \
                            twice, ask for another context: pontoon admin cert create";
                Self::local("DAEMON_UNREACHABLE", message, hint)
            }
            Some(io::ErrorKind::PermissionDenied) => {
                let hint = "run pontoon as root (sudo), or as a member of the socket's group";
                Self::local("DAEMON_DENIED", message, hint)
            }
            _ => {
                let hint = "start it with `systemctl start pontoond`, or `pontoond` as root; \
                            if it listens elsewhere, say where with --host or PONTOON_HOST";
                Self::local("DAEMON_UNREACHABLE", message, hint)
            }
        }
    }

    /// The daemon did not answer in time.
    pub(crate) fn timeout(host: &Host, after: Duration, effect: Effect) -> Self {
        let message = format!("pontoond at {host} did not answer within {after:?}");
        Self::local("TIMEOUT", message, effect.hint())
    }

    /// Lines for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        if !self.hint.is_empty() {
            text += &format!("hint: {}\n", self.hint);
        }
        text
    }

    /// One line for programs.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            error: &'a Failure,
        }
        let line = serde_json::to_string(&Line { error: self });
        format!("{}\n", line.expect("a struct of texts has a JSON form"))
    }
}

/// The I/O error that an error stems from.
fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// The innermost error's text, without the number that the standard library adds to it.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// The code's name in the gRPC specification.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests;
