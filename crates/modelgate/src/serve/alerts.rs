//! Alerts (`alerts:`): looks now and then at what needs attention, and has the webhooks told.
//!
//! ```text
//! revoked.rs  keys that are used after they were revoked
//! books.rs    servers whose counters differ too much from what was settled
//! ```
//!
//! Without webhooks nothing is looked at. Each webhook has a message under way at most, and a pause of its own after a failure,
//! so one that hangs keeps no other waiting.

mod books;
mod revoked;

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use admin::{Admin, TestedWebhook, WebhookRow};
use alerts::{Condition, ConditionId, DeliveryError, Form, Message, Teller, Webhook, Webhooks};
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};
use web::{Family, Shared};

use self::revoked::RevokedKeys;
use crate::config::{AlertsConfig, Config};

/// How often it is looked at what needs attention.
const LOOK: Duration = Duration::from_secs(2);
/// How often messages that are due are sent.
const SEND: Duration = Duration::from_millis(500);
/// The pause after the first failure; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Watches and tells; never returns.
pub(super) async fn keep(admin: &Admin, shared: &Arc<Shared>, mut configs: watch::Receiver<Arc<Config>>) {
    let mut alerts: Option<Alerts<'_>> = None;
    loop {
        let config = Arc::clone(&configs.borrow_and_update());
        let tells = async {
            if config.alerts.webhooks.is_empty() {
                return pending().await;
            }
            let alerts = alerts.get_or_insert_with(|| Alerts::new(admin, shared));
            if let Err(error) = alerts.tell(&config).await {
                error!(%error, "alerts cannot be sent");
            }
            pending::<()>().await;
        };
        tokio::select! {
            changed = configs.changed() => if changed.is_err() { return pending().await },
            () = tells => {}
        }
    }
}

/// What is told to whom.
struct Alerts<'a> {
    admin: &'a Admin,
    shared: &'a Arc<Shared>,
    counts: Arc<DeliveryCounts>,
    /// By the webhook's name; kept across reloads, so that nothing is told twice.
    receivers: HashMap<String, Receiver>,
    revoked: RevokedKeys,
    under_way: JoinSet<Sent>,
}

#[derive(Default)]
struct Receiver {
    teller: Teller,
    is_busy: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// What became of an attempt.
struct Sent {
    name: String,
    message: Message,
    result: Result<(), DeliveryError>,
}

impl<'a> Alerts<'a> {
    fn new(admin: &'a Admin, shared: &'a Arc<Shared>) -> Self {
        let counts = Arc::<DeliveryCounts>::default();
        let told = Arc::clone(&counts);
        shared.add_metrics(move || told.families());
        let (receivers, revoked, under_way) = (HashMap::new(), RevokedKeys::default(), JoinSet::new());
        Self { admin, shared, counts, receivers, revoked, under_way }
    }

    /// Tells the webhooks of a configuration; returns only if it cannot.
    async fn tell(&mut self, config: &Config) -> Result<(), DeliveryError> {
        self.receivers.retain(|name, _| config.alerts.webhooks.iter().any(|webhook| webhook.name == *name));
        let webhooks = Webhooks::new()?;
        let mut decisions = self.shared.telemetry().subscribe();
        let (mut look, mut send) = (interval(LOOK), interval(SEND));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        send.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => self.look(&config.alerts),
                _ = send.tick() => self.send(&webhooks, config),
                Some(Ok(sent)) = self.under_way.join_next() => self.sent(sent),
                batch = decisions.recv() => match batch {
                    Ok(batch) => self.revoked.note(&batch, Instant::now()),
                    // Some decisions were missed; who goes on with a revoked key is seen next time.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return pending().await,
                },
            }
        }
    }

    fn look(&mut self, config: &AlertsConfig) {
        let now = Instant::now();
        let conditions = self.conditions(config, now);
        let bad: Vec<Condition> = conditions.iter().filter(|condition| condition.is_bad).cloned().collect();
        for webhook in &config.webhooks {
            let receiver = self.receivers.entry(webhook.name.clone()).or_default();
            receiver.teller.see(if webhook.wants_warnings { &conditions } else { &bad }, now);
        }
    }

    /// All that there is to tell. Further kinds of conditions, such as budgets that are nearly used up, belong here.
    fn conditions(&mut self, config: &AlertsConfig, now: Instant) -> Vec<Condition> {
        let attention = self.admin.attention(SystemTime::now()).into_iter().map(|issue| Condition {
            id: ConditionId { code: issue.code, about: issue.about },
            is_bad: issue.is_bad,
            what: issue.what,
            advice: issue.advice.map(Into::into),
            page: Some(issue.page),
        });
        let mut conditions: Vec<Condition> = attention.collect();
        // Two findings of one kind about one thing are one condition.
        conditions.dedup_by(|a, b| a.id == b.id);
        conditions.extend(self.revoked.conditions(now));
        conditions.extend(books::conditions(self.shared, config.books_difference, SystemTime::now()));
        conditions
    }

    /// Sends what is due.
    fn send(&mut self, webhooks: &Webhooks, config: &Config) {
        let (now, at) = (Instant::now(), SystemTime::now());
        for webhook in &config.alerts.webhooks {
            let Some(receiver) = self.receivers.get_mut(&webhook.name) else { continue };
            let must_wait = receiver.is_busy || receiver.not_before.is_some_and(|from| now < from);
            let is_quiet = webhook.quiet.is_some_and(|quiet| quiet.contains(at, &config.time_zone));
            if must_wait || is_quiet {
                continue;
            }
            if let Some(message) = receiver.teller.next(config.alerts.patience, now, at) {
                receiver.is_busy = true;
                let (webhooks, webhook) = (webhooks.clone(), webhook.clone());
                let dashboard = config.alerts.dashboard.clone();
                self.under_way.spawn(async move {
                    let result = webhooks.send(&webhook, &message, dashboard.as_deref()).await;
                    Sent { name: webhook.name, message, result }
                });
            }
        }
    }

    fn sent(&mut self, Sent { name, message, result }: Sent) {
        self.counts.count(&name, &result);
        let Some(receiver) = self.receivers.get_mut(&name) else { return };
        receiver.is_busy = false;
        let (kind, conditions) = (message.kind.name(), message.ids.len());
        match result {
            Ok(()) => {
                info!(webhook = name, message = message.id, kind, conditions, "an alert was sent");
                (receiver.failures, receiver.not_before) = (0, None);
                receiver.teller.done(Instant::now());
            }
            Err(error) if error.is_final() => {
                error!(webhook = name, message = message.id, kind, %error, "an alert is given up");
                receiver.teller.done(Instant::now());
            }
            Err(error) => {
                let pause = error.retry_after().unwrap_or_default().max(pause(receiver.failures));
                warn!(webhook = name, message = message.id, kind, %error, ?pause, "an alert could not be sent");
                receiver.failures = receiver.failures.saturating_add(1);
                receiver.not_before = Some(Instant::now() + pause);
            }
        }
    }
}

/// How long to wait after so many earlier failures.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST_PAUSE)
}

/// What became of messages, by webhook.
#[derive(Debug, Default)]
struct DeliveryCounts(Mutex<HashMap<String, [AtomicU64; 3]>>);

impl DeliveryCounts {
    const OUTCOMES: [&'static str; 3] = ["delivered", "given_up", "failed"];

    fn count(&self, name: &str, result: &Result<(), DeliveryError>) {
        let outcome = match result {
            Ok(()) => 0,
            Err(error) if error.is_final() => 1,
            Err(_) => 2,
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_webhook = counts.entry(name.to_owned()).or_default();
        of_webhook.get(outcome).into_iter().for_each(|count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }

    fn families(&self) -> Vec<Family> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.is_empty() {
            return Vec::new();
        }
        let help =
            "Attempts to send an alert: delivered, given up because the receiver does not want it, or failed";
        let family =
            counts.iter().fold(Family::counter("modelgate_alerts", help), |family, (name, counts)| {
                Self::OUTCOMES.iter().zip(counts).fold(family, |family, (outcome, count)| {
                    family.with(
                        &[("webhook", name), ("outcome", outcome)],
                        count.load(Ordering::Relaxed) as f64,
                    )
                })
            });
        vec![family]
    }
}

/// Sends a test message to each of some webhooks, all at once.
pub(crate) async fn send_tests(config: &AlertsConfig, chosen: &[&Webhook]) -> Vec<TestedWebhook> {
    let fault = |error: DeliveryError| Some(error.to_string());
    let webhooks = match Webhooks::new() {
        Ok(webhooks) => webhooks,
        Err(error) => {
            let failed = |webhook: &&Webhook| TestedWebhook {
                name: webhook.name.clone(),
                fault: fault(error.clone()),
            };
            return chosen.iter().map(failed).collect();
        }
    };
    let send = |webhook: &&Webhook| {
        let (webhooks, webhook, dashboard) = (webhooks.clone(), (*webhook).clone(), config.dashboard.clone());
        tokio::spawn(async move {
            let message = Message::test(SystemTime::now());
            webhooks.send(&webhook, &message, dashboard.as_deref()).await
        })
    };
    let sending: Vec<_> = chosen.iter().map(send).collect();
    let mut tested = Vec::with_capacity(chosen.len());
    for (webhook, sent) in chosen.iter().zip(sending) {
        let fault = match sent.await {
            Ok(result) => result.err().and_then(fault),
            Err(error) => Some(error.to_string()),
        };
        tested.push(TestedWebhook { name: webhook.name.clone(), fault });
    }
    tested
}

/// Sends a test message to each webhook.
pub(super) async fn test_all(config: &AlertsConfig) -> Vec<TestedWebhook> {
    send_tests(config, &config.webhooks.iter().collect::<Vec<_>>()).await
}

/// The webhooks, as the dashboard shows them.
pub(super) fn rows(config: &AlertsConfig) -> Vec<WebhookRow> {
    let row = |webhook: &Webhook| {
        let form = Form::WORDS.iter().find(|(_, form)| *form == webhook.form).map_or("", |(word, _)| word);
        let what = if webhook.wants_warnings { "what is bad, and warnings" } else { "what is bad" };
        let signed = match webhook.secrets.len() {
            0 => "not signed",
            1 => "signed",
            _ => "signed by two secrets",
        };
        let quiet = if webhook.quiet.is_some() { "; not in quiet hours" } else { "" };
        WebhookRow { name: webhook.name.clone(), note: format!("{form}, {signed}: {what}{quiet}") }
    };
    config.webhooks.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = [0, 1, 2, 8, 9, 40].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300]);
    }
}
