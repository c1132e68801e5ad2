//! `tokio::sync::watch`, as far as it is used here. tokio's own wakes those who wait in an order that chance decides.

use std::ops::Deref;

use openraft::async_runtime::watch::{RecvError, Watch, WatchReceiver, WatchSender};
use openraft_rt_sim::{SimWatch, SimWatchReceiver, SimWatchSender};

/// Sends values.
pub struct Sender<T>(SimWatchSender<T>);

/// Sees the latest value.
pub struct Receiver<T>(SimWatchReceiver<T>);

/// A sender, and a receiver that has seen the first value.
pub fn channel<T: Send + Sync>(first: T) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = SimWatch::channel(first);
    (Sender(sender), Receiver(receiver))
}

impl<T: Send + Sync> Sender<T> {
    /// Another receiver.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.subscribe())
    }

    /// Changes the value, whoever looks.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.0.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Replaces the value, whoever looks.
    pub fn send_replace(&self, value: T) {
        self.send_modify(|old| *old = value);
    }
}

impl<T: Send + Sync> Receiver<T> {
    /// The value.
    pub fn borrow(&self) -> impl Deref<Target = T> + '_ {
        self.0.borrow_watched()
    }

    /// The value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> impl Deref<Target = T> + '_ {
        self.0.borrow_and_update()
    }

    /// Waits for a value that was not seen.
    ///
    /// # Errors
    ///
    /// There is no sender any more.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await
    }

    /// Waits for such a value.
    ///
    /// # Errors
    ///
    /// There is no sender any more.
    pub async fn wait_for(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Result<(), RecvError> {
        while !is_it(&self.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receiver")
    }
}
