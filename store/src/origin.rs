//! Whose wish it is what a task does. What it writes has that for its origin.

use crate::model::admin::Origin;

tokio::task_local! {
    static ORIGIN: Option<Origin>;
}

/// Does something because somebody has asked for it; none: nobody has.
pub async fn on_behalf_of<T>(origin: Option<Origin>, work: impl Future<Output = T>) -> T {
    ORIGIN.scope(origin, work).await
}

/// Who has asked for what is done now; none: nobody.
pub fn asked_by() -> Option<Origin> {
    ORIGIN.try_with(Clone::clone).ok().flatten()
}
