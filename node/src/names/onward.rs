//! What is passed on to Docker's resolver by UDP, until it has answered. It has one socket of ours for all questions of a
//! container, so each gets a number of its own.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

/// Questions under way at once: as many as Docker's resolver takes (moby: maxConcurrent of libnetwork's resolver).
pub(super) const MOST: usize = 1024;
/// How long an answer is waited for: longer than Docker's resolver asks its up to three servers, 4 s each.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes before the question.
const HEADER: usize = 12;

/// A question under way.
#[derive(Debug)]
pub(super) struct Waiting {
    /// As it came.
    pub(super) message: Vec<u8>,
    /// Who waits for the answer.
    pub(super) from: SocketAddrV4,
    /// Since when.
    pub(super) since: Instant,
}

/// Why a question was not passed on.
#[derive(Debug)]
pub(super) enum Unasked {
    /// More are under way than may be.
    TooMany(Waiting),
    /// It could not be sent.
    Unsent(Waiting),
}

/// The questions of one container that are under way.
#[derive(Debug)]
pub(super) struct Onward {
    /// Connected with Docker's resolver.
    socket: UdpSocket,
    waiting: Mutex<HashMap<u16, Waiting>>,
}

impl Onward {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u16, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a question on, or gives it back.
    pub(super) fn ask(&self, message: &[u8], from: SocketAddrV4) -> Result<(), Unasked> {
        let waiting = Waiting { message: message.to_owned(), from, since: Instant::now() };
        let Some(number) = self.number() else { return Err(Unasked::TooMany(waiting)) };
        let mut numbered = message.to_owned();
        numbered[..2].copy_from_slice(&number.to_be_bytes());
        self.waiting().insert(number, waiting);
        // A socket reports once that an earlier question met nobody, and sends after that.
        let sent = self.socket.try_send(&numbered).or_else(|_| self.socket.try_send(&numbered));
        match sent {
            Ok(_) => Ok(()),
            Err(_) => self.waiting().remove(&number).map_or(Ok(()), |waiting| Err(Unasked::Unsent(waiting))),
        }
    }

    /// A number that no question has; none: too many are under way.
    fn number(&self) -> Option<u16> {
        let mut waiting = self.waiting();
        if waiting.len() >= MOST {
            waiting.retain(|_, waiting| waiting.since.elapsed() < PATIENCE);
        }
        if waiting.len() >= MOST {
            return None;
        }
        // One in 64 is taken at most.
        std::iter::repeat_with(rand::random).find(|number| !waiting.contains_key(number))
    }

    /// Waits for the next answer, and gives it the number that its question came with. What answers no question is left
    /// out.
    ///
    /// # Errors
    ///
    /// Nobody is there: then these questions have no answer.
    pub(super) async fn answer(&self, buffer: &mut [u8]) -> Result<(usize, Waiting), Vec<Waiting>> {
        loop {
            let length = match self.socket.recv(buffer).await {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(self.waiting().drain().map(|(_, waiting)| waiting).collect());
                }
                Err(_) => continue,
            };
            if let Some(waiting) = self.asked(&buffer[..length]) {
                buffer[..2].copy_from_slice(&waiting.message[..2]);
                return Ok((length, waiting));
            }
        }
    }

    /// The question that this answers.
    fn asked(&self, answer: &[u8]) -> Option<Waiting> {
        let number = u16::from_be_bytes(*answer.first_chunk()?);
        let mut waiting = self.waiting();
        let question = question(&waiting.get(&number)?.message)?;
        let repeated = answer.get(HEADER..HEADER + question.len());
        // Some answers have no question: that something cannot be read.
        let is_bare = answer.get(4..6) == Some(&[0, 0]);
        if is_bare || repeated.is_some_and(|repeated| repeated.eq_ignore_ascii_case(question)) {
            waiting.remove(&number)
        } else {
            None
        }
    }
}

/// The question of a message: name, type and class.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    while *message.get(end)? != 0 {
        end += 1 + usize::from(*message.get(end)?);
    }
    message.get(HEADER..end + 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question of this number for `ab.`, IN A.
    fn asking(number: u16) -> Vec<u8> {
        let mut message = number.to_be_bytes().to_vec();
        message.extend(b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02ab\x00\x00\x01\x00\x01");
        message
    }

    async fn pair() -> (Onward, UdpSocket) {
        let docker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let ours = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        ours.connect(docker.local_addr().unwrap()).await.unwrap();
        docker.connect(ours.local_addr().unwrap()).await.unwrap();
        ours.writable().await.unwrap();
        (Onward::new(ours), docker)
    }

    const FROM: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 4711);

    #[tokio::test]
    async fn an_answer_gets_the_number_that_its_question_came_with() {
        let (onward, docker) = pair().await;
        onward.ask(&asking(7), FROM).unwrap();
        let mut buffer = [0; 512];
        let length = docker.recv(&mut buffer).await.unwrap();
        docker.send(&buffer[..length]).await.unwrap();
        let (length, waiting) = onward.answer(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], waiting.from), (&asking(7)[..], FROM));
        assert!(onward.waiting().is_empty());
    }

    #[tokio::test]
    async fn what_answers_no_question_is_left_out() {
        let (onward, docker) = pair().await;
        onward.ask(&asking(7), FROM).unwrap();
        let mut buffer = [0; 512];
        let length = docker.recv(&mut buffer).await.unwrap();
        let asked = buffer[..length].to_vec();
        let mut other_number = asked.clone();
        other_number[0] ^= 1;
        let mut other_name = asked.clone();
        other_name[13] = b'z';
        for spoofed in [&other_number, &other_name, &asked[..19].to_vec(), &asked[..1].to_vec()] {
            docker.send(spoofed).await.unwrap();
        }
        let mut upper_case = asked.clone();
        upper_case[HEADER..].make_ascii_uppercase();
        docker.send(&upper_case).await.unwrap();
        let (length, _) = onward.answer(&mut buffer).await.unwrap();
        assert_eq!(buffer[2..length], upper_case[2..]);
    }

    #[tokio::test]
    async fn there_is_a_bound_and_it_is_met_by_what_is_under_way_only() {
        let (onward, docker) = pair().await;
        for _ in 0..MOST {
            onward.ask(&asking(7), FROM).unwrap();
        }
        assert!(matches!(onward.ask(&asking(8), FROM), Err(Unasked::TooMany(_))));
        let mut buffer = [0; 512];
        let length = docker.recv(&mut buffer).await.unwrap();
        docker.send(&buffer[..length]).await.unwrap();
        onward.answer(&mut buffer).await.unwrap();
        onward.ask(&asking(8), FROM).unwrap();
    }

    #[tokio::test]
    async fn without_a_resolver_the_questions_come_back() {
        let (onward, docker) = pair().await;
        drop(docker);
        onward.ask(&asking(7), FROM).unwrap();
        let back = onward.answer(&mut [0; 512]).await.unwrap_err();
        assert_eq!(back[0].message, asking(7));
    }
}
