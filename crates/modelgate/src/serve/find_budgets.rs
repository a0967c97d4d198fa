//! Looks for budgets of which something was spent before the start, or by another Modelgate: metrics and alerts have them as well.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{sleep, timeout};
use web::Shared;

/// How long it waits for the first look at the servers, whose models may have budgets.
const SURVEY: Duration = Duration::from_secs(10);
/// How often it is looked whether the store has been read.
const AWAIT_STORE: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_secs(60);

/// Looks now and then; never returns.
pub(super) async fn keep(shared: &Arc<Shared>) {
    // The store's counts are taken over before its keys are: then none of them is missing.
    while shared.policy().is_incomplete() {
        sleep(AWAIT_STORE).await;
    }
    let _ = timeout(SURVEY, shared.catalogue().changed_since(0)).await;
    loop {
        let for_thread = Arc::clone(shared);
        // With very many keys it takes a while.
        let _ = tokio::task::spawn_blocking(move || for_thread.find_budgets(SystemTime::now())).await;
        sleep(AGAIN).await;
    }
}
