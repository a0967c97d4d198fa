//! Tells the choice of servers what is known of them: which there are, and how busy they say they are, each second.
//!
//! Without a pool whose servers Modelgate chooses, no page is read.
//!
//! ```text
//! sharing.rs     what Modelgates with the same Redis tell each other
//! ```

mod sharing;

use std::{sync::Arc, time::Duration};

use discovery::metrics::{self, LoadReading};
use sharing::Heard;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::error;
use web::{ChoiceKeeper, Shared};

/// How often servers' pages are read, …
const EVERY: Duration = Duration::from_secs(1);
/// … and while requests wait for a server: who waits goes on when the server says that it has room.
const WHILE_WAITED_FOR: Duration = Duration::from_millis(200);
/// How soon a new catalogue is followed, if its change was missed.
const LOOK: Duration = Duration::from_millis(500);
/// Readings that may wait.
const READINGS_CAPACITY: usize = 256;
/// What others have told that may wait: at most 8 MB. More stays in Redis meanwhile.
const HEARD_CAPACITY: usize = 256;

/// Keeps it; never returns.
pub(super) async fn keep(shared: &Arc<Shared>) {
    let (sender, mut readings) = mpsc::channel(READINGS_CAPACITY);
    let keeper = shared.choice_keeper();
    let is_waited_for = keeper.is_waited_for();
    let every = move |server: Option<&_>| if is_waited_for(server) { WHILE_WAITED_FOR } else { EVERY };
    let reading = metrics::read_load(shared.catalogue().clone(), every, sender);
    let reading = async {
        if let Err(error) = reading.await {
            error!(?error, "how busy servers are cannot be read");
        }
        std::future::pending::<()>().await;
    };
    let (told, mut heard) = mpsc::channel(HEARD_CAPACITY);
    let sharing = sharing::share(shared, keeper.sharing(), told);
    tokio::join!(reading, sharing, follow(shared, keeper, &mut readings, &mut heard));
}

async fn follow(
    shared: &Arc<Shared>,
    mut keeper: ChoiceKeeper,
    readings: &mut mpsc::Receiver<LoadReading>,
    heard: &mut mpsc::Receiver<Heard>,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut generation, mut version) = (0, None);
    loop {
        let now = shared.settings().traefik.version;
        let catalogue = shared.catalogue().load().clone();
        if let Some(catalogue) =
            catalogue.filter(|known| known.generation() != generation || version != Some(now))
        {
            keeper.follow(&catalogue, now);
            (generation, version) = (catalogue.generation(), Some(now));
        }
        keeper.release(shared.hears_of_ends());
        tokio::select! {
            _ = shared.catalogue().changed_since(generation) => {}
            Some(LoadReading { url, asked, counters, adapters }) = readings.recv() => {
                keeper.heard(&url, (&counters, adapters.as_ref()), asked);
            }
            Some(heard) = heard.recv() => match heard {
                Heard::Note(from, note, age) => keeper.told(from, &note, age),
                Heard::Nobody => keeper.is_alone(),
            },
            () = keeper.freed() => {}
            _ = tick.tick() => keeper.pass(shared.hears_of_ends()),
        }
    }
}
