//! What a container engine does at a daemon's plugin socket: HTTP and JSON.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long an answer may take: the daemon promises one within 10 s.
const ANSWER: Duration = Duration::from_secs(11);

/// A daemon's plugin socket.
#[derive(Debug, Clone)]
pub struct Plugin {
    socket: PathBuf,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Value,
}

impl Answer {
    /// Why the call failed, in the field that an engine reads for this half of the driver.
    pub fn error(&self, method: &str) -> Option<&str> {
        self.body[if method.starts_with("IpamDriver.") { "Error" } else { "Err" }].as_str()
    }
}

impl Plugin {
    /// The plugin socket at this path.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.socket
    }

    /// Calls a method, such as `NetworkDriver.Join`.
    ///
    /// # Errors
    ///
    /// As [`Plugin::post`].
    pub fn call(&self, method: &str, request: &Value) -> Result<Answer> {
        self.post(method, request.to_string().as_bytes())
    }

    /// Calls a method and returns what it answers.
    ///
    /// # Errors
    ///
    /// It failed.
    pub fn ask(&self, method: &str, request: &Value) -> Result<Value> {
        let answer = self.call(method, request)?;
        ensure!(answer.status == 200 && answer.error(method).is_none(), "{method} {request}: {answer:?}");
        Ok(answer.body)
    }

    /// Calls a method and returns why it failed: with all these words in what it says.
    ///
    /// # Errors
    ///
    /// It did not fail, or did not say so.
    pub fn refuses(&self, method: &str, request: &Value, words: &[&str]) -> Result<String> {
        let answer = self.call(method, request)?;
        let Some(error) = answer.error(method) else { bail!("{method} {request} was not refused: {answer:?}") };
        ensure!(answer.status == 200, "{method} {request}: {answer:?}");
        for word in words {
            ensure!(error.contains(word), "{method} {request}: does not say {word:?}: {error}");
        }
        Ok(error.to_owned())
    }

    /// Sends a body, whatever it is, and returns the answer.
    ///
    /// # Errors
    ///
    /// There is none within 11 s, or it is not HTTP with JSON.
    pub fn post(&self, method: &str, body: &[u8]) -> Result<Answer> {
        let head = format!("POST /{method} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        self.exchange(&head, body)
    }

    /// Sends the first lines of a request, to which those that any has are added, and a body. Returns the answer.
    ///
    /// # Errors
    ///
    /// As [`Plugin::post`].
    pub fn exchange(&self, head: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = self.open(head)?;
        // It may have answered, and gone, before it has read all of it.
        let sent = stream.write_all(body);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let context = || format!("{head:?} was answered {answer:?} (sent: {sent:?}, read: {read:?})");
        parse(&answer).with_context(context)
    }

    /// Sends the first lines of a request, and leaves the body to the caller, who may hang up.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub fn open(&self, head: &str) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(format!("{head}Host: plugin\r\nConnection: close\r\n\r\n").as_bytes())?;
        Ok(stream)
    }
}

fn parse(answer: &str) -> Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split_whitespace().nth(1).context("no status")?.parse()?;
    Ok(Answer { status, body: serde_json::from_str(body).context("not JSON")? })
}
