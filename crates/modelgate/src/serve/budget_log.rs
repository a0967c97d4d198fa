//! Writes into the log when a budget is spent to a level.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::info;
use web::{BudgetEvent, Shared};

/// Events beyond this are dropped until some are written.
const CAPACITY: usize = 1_000;

/// Writes from now on.
pub(super) fn write(shared: &Arc<Shared>) {
    let (sender, mut events) = mpsc::channel(CAPACITY);
    shared.tell_of_budgets(&sender);
    tokio::spawn(async move {
        let mut last: Option<BudgetEvent> = None;
        while let Some(event) = events.recv().await {
            // A client that goes on asking is refused each time.
            if last.as_ref() == Some(&event) {
                continue;
            }
            let BudgetEvent { scope, key, consumer, model, budget, percent } = &event;
            info!(key, consumer, model, percent, "the budget of {budget} {scope} has come to {percent} %");
            last = Some(event);
        }
    });
}
