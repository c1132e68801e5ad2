//! What is passed on to Docker's resolver by UDP, until it has answered. It has one socket of ours for all questions of a
//! container, so each gets a number of its own.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use super::answer::{HEADER, question};

/// How long to wait after an error that is none of a question's.
const AGAIN: Duration = Duration::from_millis(100);

/// Questions under way at once. Docker's resolver takes a quarter of it (moby: maxConcurrent of libnetwork's resolver), and in
/// version 20.10 does not answer what its servers have not answered: such questions stay here for [`PATIENCE`].
pub(super) const MOST: usize = 4096;
/// How long an answer is waited for: longer than Docker's resolver asks its up to three servers, 4 s each.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// A question under way.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its header and its question, as they came.
    pub(super) asked: Vec<u8>,
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

    /// Waits until something can be sent: a socket is not ready at once.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Passes a question on, or gives it back.
    pub(super) fn ask(&self, message: &[u8], from: SocketAddrV4) -> Result<(), Unasked> {
        let length = HEADER + question(message).map_or(0, <[u8]>::len);
        let asked = message.get(..length).unwrap_or(message).to_owned();
        let waiting = Waiting { asked, from, since: Instant::now() };
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
        let waiting = self.waiting();
        // One in 16 is taken at most.
        let free = || std::iter::repeat_with(rand::random).find(|number| !waiting.contains_key(number));
        if waiting.len() < MOST { free() } else { None }
    }

    /// The questions that were not answered for so long, which nobody waits for any more.
    pub(super) fn expire(&self, patience: Duration) -> Vec<Waiting> {
        self.waiting()
            .extract_if(|_, waiting| waiting.since.elapsed() >= patience)
            .map(|(_, waiting)| waiting)
            .collect()
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
                Err(_) => {
                    sleep(AGAIN).await;
                    continue;
                }
            };
            if let Some(waiting) = self.asked(&buffer[..length]) {
                buffer[..2].copy_from_slice(&waiting.asked[..2]);
                return Ok((length, waiting));
            }
        }
    }

    /// The question that this answers.
    fn asked(&self, answer: &[u8]) -> Option<Waiting> {
        let number = u16::from_be_bytes(*answer.first_chunk()?);
        let mut waiting = self.waiting();
        let question = waiting.get(&number)?.asked.get(HEADER..)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        let onward = Onward::new(ours);
        onward.ready().await.unwrap();
        (onward, docker)
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
        assert_eq!(back[0].asked, asking(7));
    }

    #[tokio::test]
    async fn what_is_not_answered_in_time_is_given_up() {
        let (onward, _docker) = pair().await;
        onward.ask(&asking(7), FROM).unwrap();
        assert!(onward.expire(PATIENCE).is_empty());
        assert_eq!(onward.expire(Duration::ZERO)[0].asked, asking(7));
        assert!(onward.expire(Duration::ZERO).is_empty());
    }

    proptest! {
        #[test]
        fn any_answer_is_met(answer in proptest::collection::vec(any::<u8>(), 0..64), number in any::<u16>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (onward, _docker) = runtime.block_on(pair());
            let waiting = Waiting { asked: asking(7), from: FROM, since: Instant::now() };
            onward.waiting().insert(number, waiting);
            let mut answer = answer;
            if answer.len() > 1 {
                answer[..2].copy_from_slice(&number.to_be_bytes());
            }
            let repeats = answer.get(HEADER..20).is_some_and(|text| text.eq_ignore_ascii_case(&asking(7)[HEADER..]));
            let is_bare = answer.get(4..6) == Some(&[0, 0]);
            prop_assert_eq!(onward.asked(&answer).is_some(), repeats || is_bare);
        }
    }
}
