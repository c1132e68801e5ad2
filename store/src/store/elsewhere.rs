//! What an observer has not itself, from a member: everything that does not concern it.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use pontoon_proto::v1;
use pontoon_proto::v1::watch_response::Event;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::observe::Coming;
use crate::model::state::State;
use crate::raft::channel::PeerClient;
use crate::rt::{now, sleep, timeout, timeout_at};
use crate::watch::{Following, WatchError, Watcher, Watching};

/// How long it waits before it asks again.
const AGAIN: Duration = Duration::from_millis(25);

/// How soon a member must begin to send everything, before the next one is asked.
const BEGINS: Duration = Duration::from_millis(500);

/// What a watcher is sent, until it ends. After a failure there is nothing.
pub type Watched = BoxStream<'static, Result<v1::WatchResponse, WatchError>>;

impl Store {
    /// Follows the cluster's objects, until the store ends or `end` is cancelled. An observer passes on what a member sends.
    ///
    /// # Errors
    ///
    /// What was asked for is not there, or not any more, or not yet.
    pub async fn watch(
        &self,
        request: v1::WatchRequest,
        end: CancellationToken,
        watching: Watching,
    ) -> Result<Watched, WatchError> {
        if !self.observes() {
            return Ok(Watcher::follow(self.clone(), end, watching, request).await?.stream().boxed());
        }
        let mut failed = WatchError::Ended;
        for (id, peer) in self.candidates() {
            let Ok(client) = self.0.channels.watch(id, &peer) else { continue };
            match self.watch_at(id, client, request.clone()).await {
                Ok(told) => {
                    let ending = self.ending();
                    let ended = async move { end.run_until_cancelled(ending.cancelled()).await }.map(drop);
                    return Ok(told.take_until(ended.boxed()).boxed());
                }
                Err(error) => failed = error,
            }
            if !failed.is_of_one_node() {
                break;
            }
        }
        Err(failed)
    }

    async fn watch_at(
        &self,
        member: u64,
        mut client: PeerClient,
        request: v1::WatchRequest,
    ) -> Result<Watched, WatchError> {
        let answer = client.watch(self.0.channels.request(member, request)).await;
        self.0.channels.note(&answer);
        let told = answer.map_err(|status| WatchError::of(&status))?;
        Ok(told.into_inner().map(|event| event.map_err(|status| WatchError::of(&status))).boxed())
    }

    /// Everything, as new as what is here or newer; none: no member has sent it by the deadline.
    pub async fn whole(&self, deadline: Duration) -> Option<State> {
        let (end, least) = (now() + deadline, *self.applied().borrow());
        let found = async {
            loop {
                if let Some(state) = self.fetch().await.filter(|state| state.applied_index >= least) {
                    return state;
                }
                sleep(AGAIN).await;
            }
        };
        timeout_at(end, found).await.ok()
    }

    async fn fetch(&self) -> Option<State> {
        for (id, peer) in self.candidates() {
            // Beside what it follows, and not behind what its watchers do not take.
            let Ok(client) = self.0.channels.follow(id, &peer) else { continue };
            let told = timeout(BEGINS, self.watch_at(id, client, v1::WatchRequest::default())).await;
            if let Ok(Ok(told)) = told {
                return whole_of(told).await;
            }
        }
        None
    }
}

async fn whole_of(mut told: Watched) -> Option<State> {
    let mut coming = Coming::default();
    loop {
        let event = told.next().await?.ok()?.event?;
        if let Some(Event::Snapshot(all)) = coming.whole(event) {
            return State::of_watched(all.objects, all.index, all.time_ms).ok();
        }
    }
}
