//! Alerts (`alerts:`): looks now and then at what needs attention, and has the webhooks told.
//!
//! ```text
//! revoked.rs  keys that are used after they were revoked
//! budgets.rs  budgets that are spent to 50, 80 or 100 %
//! networks.rs keys that are used from a network from which they were not used before
//! told.rs     what was told of budgets before a restart
//! books.rs    servers whose counters differ too much from what was settled
//! ```
//!
//! Without webhooks nothing is looked at. Each webhook has a message under way at most, and a pause of its own after a failure,
//! so one that hangs keeps no other waiting.

mod books;
mod budgets;
mod networks;
mod revoked;
mod told;

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use admin::{Admin, Attention, TestedWebhook, WebhookRow};
use alerts::{Condition, ConditionId, DeliveryError, Form, Message, Teller, Way, Webhook, Webhooks};
use store::Registry;
use telemetry::Batch;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    task::JoinSet,
    time::{Instant as TokioInstant, MissedTickBehavior, interval, timeout_at},
};
use tracing::{error, info, warn};
use web::{BudgetUsed, Family, Shared};

use self::{networks::KnownNetworks, revoked::RevokedKeys, told::ToldBefore};
use crate::config::{AlertsConfig, Config};

/// How often it is looked at what needs attention.
const LOOK: Duration = Duration::from_secs(2);
/// How often messages that are due are sent.
const SEND: Duration = Duration::from_millis(500);
/// How long sending, and then writing, may take at a stop.
const LAST: Duration = Duration::from_secs(1);
/// The pause after the first failure; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

fn notes_networks(config: &Config) -> bool {
    config.alerts.new_networks && !config.alerts.webhooks.is_empty()
}

/// Watches and tells.
pub(super) struct AlertKeeper<'a> {
    admin: &'a Admin,
    shared: &'a Arc<Shared>,
    registry: &'a Arc<Registry>,
    /// Whether the networks of keys are watched.
    notes_networks: bool,
    /// `None` while nobody is to be told: decisions that nobody reads would be kept in memory.
    decisions: Option<broadcast::Receiver<Batch>>,
    alerts: Option<Alerts<'a>>,
}

impl<'a> AlertKeeper<'a> {
    /// To be called before requests are answered: the first ones count, too.
    pub(super) fn new(
        admin: &'a Admin,
        (shared, registry): (&'a Arc<Shared>, &'a Arc<Registry>),
        config: &Config,
    ) -> Self {
        let notes_networks = notes_networks(config);
        shared.telemetry().note_networks(notes_networks);
        let decisions = (!config.alerts.webhooks.is_empty()).then(|| shared.telemetry().subscribe());
        Self { admin, shared, registry, notes_networks, decisions, alerts: None }
    }

    /// Never returns.
    pub(super) async fn keep(&mut self, mut configs: watch::Receiver<Arc<Config>>) {
        let Self { admin, shared, registry, notes_networks: notes, decisions, alerts } = self;
        loop {
            let config = Arc::clone(&configs.borrow_and_update());
            *notes = notes_networks(&config);
            shared.telemetry().note_networks(*notes);
            let tells = async {
                if config.alerts.webhooks.is_empty() {
                    *decisions = None;
                    admin.show_alerts(Vec::new());
                    return pending().await;
                }
                let decisions = decisions.get_or_insert_with(|| shared.telemetry().subscribe());
                let alerts = alerts.get_or_insert_with(|| Alerts::new(admin, shared, registry));
                if let Err(error) = alerts.tell(&config, decisions).await {
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

    /// Waits for what is being sent, so that it is not sent again after a restart, and writes what was told and seen in the last
    /// moment. To be called last, once [`keep`](Self::keep) has ended.
    pub(super) async fn close(&mut self, deadline: TokioInstant) {
        let Self { notes_networks, decisions: Some(decisions), alerts: Some(alerts), .. } = self else {
            return;
        };
        let end = deadline.min(TokioInstant::now() + 2 * LAST);
        let _ = timeout_at(end - LAST, alerts.sent_last()).await;
        if timeout_at(end, alerts.write_last(*notes_networks, decisions)).await.is_err() {
            warn!("the latest alerts may not be in the store: webhooks may be told them again");
        }
    }
}

/// What is told to whom.
struct Alerts<'a> {
    admin: &'a Admin,
    shared: &'a Arc<Shared>,
    registry: &'a Arc<Registry>,
    counts: Arc<DeliveryCounts>,
    /// By the webhook's name; kept across reloads, so that nothing is told twice.
    receivers: HashMap<String, Receiver>,
    revoked: RevokedKeys,
    networks: KnownNetworks,
    before: ToldBefore,
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
    /// `webhook` or `mail`.
    way: &'static str,
    message: Message,
    result: Result<(), DeliveryError>,
}

impl<'a> Alerts<'a> {
    fn new(admin: &'a Admin, shared: &'a Arc<Shared>, registry: &'a Arc<Registry>) -> Self {
        let counts = Arc::<DeliveryCounts>::default();
        let told = Arc::clone(&counts);
        shared.add_metrics(move || told.families());
        let (receivers, revoked, under_way) = (HashMap::new(), RevokedKeys::default(), JoinSet::new());
        let (networks, before) = (KnownNetworks::default(), ToldBefore::new(Arc::clone(registry)));
        Self { admin, shared, registry, counts, receivers, revoked, networks, before, under_way }
    }

    /// Tells the webhooks of a configuration; returns only if it cannot.
    async fn tell(
        &mut self,
        config: &Config,
        decisions: &mut broadcast::Receiver<Batch>,
    ) -> Result<(), DeliveryError> {
        self.receivers.retain(|name, _| config.alerts.webhooks.iter().any(|webhook| webhook.name == *name));
        let webhooks = Webhooks::new()?;
        let (mut look, mut send) = (interval(LOOK), interval(SEND));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        send.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if self.shared.budgets_looked_at().is_some() {
                        self.before.read();
                    }
                    if config.alerts.new_networks {
                        self.networks.follow(&self.shared.policy());
                        self.networks.decide(self.registry, SystemTime::now()).await;
                    }
                    self.look(&config.alerts);
                }
                _ = send.tick() => self.send(&webhooks, config),
                Some(Ok(sent)) = self.under_way.join_next() => self.sent(sent),
                is_read = self.before.answered() => if is_read {
                    self.remind(&config.alerts);
                },
                batch = decisions.recv() => match batch {
                    Ok(batch) => self.note(&batch),
                    // Some decisions were missed; who goes on with a revoked key is seen next time.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return pending().await,
                },
            }
        }
    }

    fn note(&mut self, batch: &Batch) {
        self.revoked.note(batch, Instant::now());
        self.networks.note(batch, SystemTime::now());
    }

    /// Waits until nothing is being sent any more.
    async fn sent_last(&mut self) {
        while let Some(sent) = self.under_way.join_next().await {
            sent.into_iter().for_each(|sent| self.sent(sent));
        }
    }

    /// Writes what was told, and with `networks` those that were seen since the last look.
    async fn write_last(&mut self, networks: bool, decisions: &mut broadcast::Receiver<Batch>) {
        telemetry::take_waiting(decisions, |batch| self.note(batch));
        if self.before.is_read() {
            self.budgets_used(SystemTime::now());
        }
        let Self { registry, networks: seen, before, receivers, .. } = self;
        let of_networks = async {
            if networks {
                seen.decide(registry, SystemTime::now()).await;
            }
        };
        let told = before.close(receivers.iter().map(|(name, receiver)| (name, &receiver.teller)));
        tokio::join!(of_networks, told);
    }

    /// Reminds the webhooks of what they were told before the start.
    fn remind(&mut self, config: &AlertsConfig) {
        for webhook in &config.webhooks {
            let receiver = self.receivers.entry(webhook.name.clone()).or_default();
            self.before.remind(&webhook.name, &mut receiver.teller);
        }
    }

    fn look(&mut self, config: &AlertsConfig) {
        let (now, at) = (Instant::now(), SystemTime::now());
        let looked = self.shared.budgets_looked_at();
        // Until it is known what was told before the start, it would be told again.
        let budgets = if self.before.is_read() { self.budgets_used(at) } else { Vec::new() };
        let unknown = self.before.unknown((looked, &budgets), (at, self.shared.policy().time_zone()));
        let conditions = self.conditions(config, (&budgets, now));
        let bad: Vec<Condition> = conditions.iter().filter(|condition| condition.is_bad).cloned().collect();
        for webhook in &config.webhooks {
            let receiver = self.receivers.entry(webhook.name.clone()).or_default();
            let conditions = if webhook.wants_warnings { &conditions } else { &bad };
            receiver.teller.see_but(conditions, &unknown, now);
        }
        self.keep_told();
    }

    /// The budgets of which something is spent, as they are with the refusals of before the start.
    fn budgets_used(&mut self, now: SystemTime) -> Vec<BudgetUsed> {
        let shared = self.shared;
        self.before.take_over_refusals(|refused| shared.budgets_were_refused(refused, now));
        let used = shared.budgets_used(now);
        self.before.note_refusals(&used);
        used
    }

    /// Has what was told, and what is over, written.
    fn keep_told(&mut self) {
        self.before.write(self.receivers.iter().map(|(name, receiver)| (name, &receiver.teller)));
    }

    /// All that there is to tell.
    fn conditions(
        &mut self,
        config: &AlertsConfig,
        (budgets, now): (&[BudgetUsed], Instant),
    ) -> Vec<Condition> {
        let attention = self.admin.attention(SystemTime::now()).into_iter().map(|issue| Condition {
            id: ConditionId { code: issue.code, about: issue.about },
            is_bad: issue.is_bad,
            what: issue.what,
            advice: issue.advice.map(Into::into),
            page: Some(issue.page),
            owner: None,
            higher: Vec::new(),
        });
        let mut conditions: Vec<Condition> = attention.collect();
        // Two findings of one kind about one thing are one condition.
        conditions.dedup_by(|a, b| a.id == b.id);
        let others = self.others(config, (budgets, now));
        let wants_warnings = config.webhooks.iter().any(|webhook| webhook.wants_warnings);
        self.admin.show_alerts(on_overview(&others, wants_warnings));
        conditions.extend(others);
        conditions
    }

    /// What the dashboard does not find by itself. Further kinds of conditions belong here.
    fn others(&mut self, config: &AlertsConfig, (budgets, now): (&[BudgetUsed], Instant)) -> Vec<Condition> {
        let mut others = self.revoked.conditions(now);
        others.extend(budgets::conditions(self.shared, budgets));
        others.extend(self.networks.conditions(SystemTime::now()));
        others.extend(books::conditions(self.shared, config.books_difference, SystemTime::now()));
        others
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
                    let way = match webhook.way {
                        Way::Web { .. } => "webhook",
                        Way::Mail(_) => "mail",
                    };
                    Sent { name: webhook.name, way, message, result }
                });
            }
        }
    }

    fn sent(&mut self, Sent { name, way, message, result }: Sent) {
        self.counts.count(&name, &result);
        let Some(receiver) = self.receivers.get_mut(&name) else { return };
        receiver.is_busy = false;
        let (kind, conditions) = (message.kind.name(), message.ids.len());
        match result {
            Ok(()) => {
                info!(receiver = name, by = way, message = message.id, kind, conditions, "an alert was sent");
                (receiver.failures, receiver.not_before) = (0, None);
                receiver.teller.done(Instant::now());
            }
            Err(error) if error.is_final() => {
                error!(receiver = name, by = way, message = message.id, kind, %error, "an alert is given up");
                receiver.teller.done(Instant::now());
            }
            Err(error) => {
                let pause = error.retry_after().unwrap_or_default().max(pause(receiver.failures));
                warn!(receiver = name, by = way, message = message.id, kind, %error, ?pause, "an alert could not be sent");
                receiver.failures = receiver.failures.saturating_add(1);
                receiver.not_before = Some(Instant::now() + pause);
            }
        }
        // At once: Modelgate may be stopped before the next look.
        self.keep_told();
    }
}

/// The alerts that the overview shows: those that a webhook is told, and of a budget only the highest level that it has come to.
fn on_overview(conditions: &[Condition], wants_warnings: bool) -> Vec<Attention> {
    let mut shown: Vec<&Condition> = conditions.iter().collect();
    // The levels of a budget are neighbours, the highest last. Of two neighbours the earlier one is kept.
    shown.dedup_by(|later, earlier| {
        let is_higher = budgets::level_of(later.id.code).is_some() && later.id.about == earlier.id.about;
        if is_higher {
            std::mem::swap(later, earlier);
        }
        is_higher
    });
    let attention = |condition: &Condition| {
        let Condition { id, is_bad, what, advice, page, .. } = condition.clone();
        let page = page.unwrap_or_else(|| "/about".into());
        Attention { code: id.code, is_bad, about: id.about, what, advice: advice.map(Into::into), page }
    };
    shown.into_iter().filter(|condition| wants_warnings || condition.is_bad).map(attention).collect()
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
        let way = match &webhook.way {
            Way::Web { form, secrets, .. } => web(*form, secrets.len()),
            Way::Mail(route) => format!("e-mail to {}", count(route.to.len())),
        };
        let what = if webhook.wants_warnings { "what is bad, and warnings" } else { "what is bad" };
        let quiet = if webhook.quiet.is_some() { "; not in quiet hours" } else { "" };
        WebhookRow { name: webhook.name.clone(), note: format!("{way}: {what}{quiet}") }
    };
    config.webhooks.iter().map(row).collect()
}

fn web(form: Form, secrets: usize) -> String {
    let form = Form::WORDS.iter().find(|(_, other)| *other == form).map_or("", |(word, _)| word);
    let signed = match secrets {
        0 => "not signed",
        1 => "signed",
        _ => "signed by two secrets",
    };
    format!("{form}, {signed}")
}

fn count(receivers: usize) -> String {
    if receivers == 1 { "one receiver".into() } else { format!("{receivers} receivers") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let pauses: Vec<u64> = [0, 1, 2, 8, 9, 40].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn the_overview_shows_what_is_told_and_of_a_budget_its_highest_level() {
        let condition = |code, about: &str, is_bad| Condition {
            id: ConditionId { code, about: about.into() },
            is_bad,
            ..Condition::test()
        };
        let all = [
            condition("revoked_key_used", "key alice", true),
            condition("budget_50", "monthly budget of key alice", false),
            condition("budget_80", "monthly budget of key alice", false),
            condition("budget_50", "monthly budget of key bob", false),
            condition("budget_80", "monthly budget of key bob", false),
            condition("budget_100", "monthly budget of key bob", true),
            condition("key_from_new_network", "key bob", true),
            condition("books_differ", "key bob", false),
        ];
        let shown = |wants_warnings| -> Vec<(&str, String)> {
            on_overview(&all, wants_warnings).into_iter().map(|shown| (shown.code, shown.about)).collect()
        };
        let expected = [
            ("revoked_key_used", "key alice"),
            ("budget_80", "monthly budget of key alice"),
            ("budget_100", "monthly budget of key bob"),
            ("key_from_new_network", "key bob"),
            ("books_differ", "key bob"),
        ];
        assert_eq!(shown(true), expected.map(|(code, about)| (code, about.to_owned())));
        let bad = [expected[0], expected[2], expected[3]];
        assert_eq!(shown(false), bad.map(|(code, about)| (code, about.to_owned())));
    }
}
