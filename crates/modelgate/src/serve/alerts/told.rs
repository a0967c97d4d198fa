//! What webhooks were told of budgets, in the store: over a restart nothing is told twice, and what is over is told.
//!
//! Only budgets: whatever else there is to tell is not known yet at the start, and would seem to be over. Nor are all budgets known:
//! of what was told of the others it is unknown whether it holds, until a request shows it or the period is over.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    future::pending,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use alerts::{Condition, ConditionId, Teller};
use jiff::{Timestamp, tz::TimeZone};
use limits::Period;
use store::{Registry, RegistryError, ToldAlert};
use tokio::{task::JoinHandle, time::timeout};
use tracing::debug;
use web::{BudgetUsed, LookedBudgets, RefusedBudget};

use super::budgets;

/// A later refusal of the same budget is written once it is so much later; at a stop, however late it is.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);
/// What was told so much later than is written was told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// How many of them are written, the newest: of the others a restart tells once more.
const MOST: usize = 2_000;
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// By receiver, code, and what it is about.
type ToldByKey = BTreeMap<[String; 3], ToldAlert>;

/// What the store has.
pub(super) struct ToldBefore {
    registry: Arc<Registry>,
    written: ToldByKey,
    is_read: bool,
    /// What the store is asked or told now.
    task: Option<JoinHandle<TaskEnd>>,
    /// What was told before the start, and of which it is unknown whether it holds.
    unknown: BTreeMap<ConditionId, ToldAlert>,
    /// By which look at the budgets that was found out.
    by: Option<Arc<LookedBudgets>>,
    /// The last refusals of budgets before the start that are not taken over yet, by what the alert is about, with its owner.
    refused_before: BTreeMap<String, (String, BudgetRefusal)>,
    /// The last refusals now, by what the alert is about.
    refused: BTreeMap<String, BudgetRefusal>,
}

/// When a budget has refused a request, and what was left then.
type BudgetRefusal = (SystemTime, u64);

/// What the store has answered.
enum TaskEnd {
    Read(Vec<ToldAlert>),
    Written { news: Vec<ToldAlert>, over: Vec<[String; 3]> },
    Failed,
}

impl ToldBefore {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let (written, unknown) = (ToldByKey::new(), BTreeMap::new());
        let (refused_before, refused) = (BTreeMap::new(), BTreeMap::new());
        Self { registry, written, is_read: false, task: None, unknown, by: None, refused_before, refused }
    }

    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Reads once what was told before; to be called until it is read. Without a store that is nothing.
    pub(super) fn read(&mut self) {
        if self.is_read || self.task.is_some() {
            return;
        }
        match self.registry.store() {
            Err(RegistryError::NoStore) => self.is_read = true,
            Err(_) => {}
            Ok(store) => {
                self.task = Some(tokio::spawn(async move {
                    match timeout(PATIENCE, store.told_alerts()).await {
                        Ok(Ok(told)) => return TaskEnd::Read(told),
                        Ok(Err(error)) => debug!(%error, "what was told of budgets cannot be read"),
                        Err(_) => debug!("what was told of budgets cannot be read in time"),
                    }
                    TaskEnd::Failed
                }));
            }
        }
    }

    /// Waits until the store has answered; returns whether it was read now. Nothing is lost if this is dropped.
    pub(super) async fn answered(&mut self) -> bool {
        let Some(task) = &mut self.task else { return pending().await };
        let end = task.await;
        self.task = None;
        match end {
            Ok(TaskEnd::Read(told)) => {
                let id = |told: &ToldAlert| condition(told).map(|condition| condition.id);
                self.unknown = told.iter().filter_map(|told| Some((id(told)?, told.clone()))).collect();
                self.refused_before = refusals(&told);
                self.written = told.into_iter().map(|told| (key(&told), told)).collect();
                self.is_read = true;
                return true;
            }
            Ok(TaskEnd::Written { news, over }) => {
                over.iter().for_each(|key| drop(self.written.remove(key)));
                self.written.extend(news.into_iter().map(|told| (key(&told), told)));
            }
            // The same is tried again at the next look.
            Ok(TaskEnd::Failed) | Err(_) => {}
        }
        false
    }

    /// Reminds a webhook of what it was told before.
    pub(super) fn remind(&self, receiver: &str, teller: &mut Teller) {
        let now = (Instant::now(), SystemTime::now());
        let told = || self.written.values().filter(|told| told.receiver == receiver);
        let at = |told: &ToldAlert| {
            let ago = now.1.duration_since(told.at).unwrap_or_default();
            now.0.checked_sub(ago).unwrap_or(now.0)
        };
        for told in told() {
            condition(told).into_iter().for_each(|condition| teller.remember(condition, at(told)));
        }
        for told in told() {
            below(told).for_each(|condition| teller.remember_below(condition, at(told)));
        }
    }

    /// Calls `take` with the refusals of before the start that it has not taken over yet.
    pub(super) fn take_over_refusals(&mut self, take: impl FnOnce(&[RefusedBudget<'_>]) -> Vec<bool>) {
        if self.refused_before.is_empty() {
            return;
        }
        let all = self.refused_before.iter().filter_map(|(about, (owner, (at, remaining)))| {
            let (per, budget) = budgets::named(about, owner)?;
            Some(RefusedBudget { budget, per, at: *at, remaining: *remaining })
        });
        let all: Vec<RefusedBudget<'_>> = all.collect();
        let mut taken = take(&all).into_iter();
        self.refused_before.retain(|about, (owner, _)| {
            budgets::named(about, owner).is_some() && taken.next() == Some(false)
        });
    }

    /// Notes which budgets count as spent since they have refused a request.
    pub(super) fn note_refusals(&mut self, used: &[BudgetUsed]) {
        let refused = used.iter().filter_map(|used| Some((budgets::about(used), used.refused?)));
        self.refused = refused.collect();
    }

    /// Of what it is unknown whether it holds. The look must be older than what is `used`: what it has found is in there.
    pub(super) fn unknown(
        &mut self,
        (looked, used): (Option<Arc<LookedBudgets>>, &[BudgetUsed]),
        (now, zone): (SystemTime, &TimeZone),
    ) -> BTreeSet<ConditionId> {
        if self.unknown.is_empty() {
            return BTreeSet::new();
        }
        let known: HashSet<String> = used.iter().map(budgets::about).collect();
        self.unknown.retain(|_, told| !known.contains(&told.about) && !is_over(told, now, zone));
        if let Some(looked) =
            looked.filter(|looked| self.by.as_ref().is_none_or(|by| !Arc::ptr_eq(by, looked)))
        {
            let all = self.unknown.values().filter_map(|told| budgets::named(&told.about, &told.owner));
            let mut left_out = looked.leaves_out(all.map(|(_, budget)| budget)).into_iter();
            self.unknown.retain(|_, told| {
                budgets::named(&told.about, &told.owner).is_some() && left_out.next() == Some(true)
            });
            self.by = Some(looked);
        }
        let below = self.unknown.values().flat_map(below).map(|condition| condition.id);
        self.unknown.keys().cloned().chain(below).collect()
    }

    /// Writes what has changed, in the background; what could not be written is tried again.
    pub(super) fn write<'t>(&mut self, tellers: impl Iterator<Item = (&'t String, &'t Teller)>) {
        self.write_since(REFUSALS_EVERY, tellers);
    }

    /// The same; later refusals only if they are so much later.
    fn write_since<'t>(&mut self, later: Duration, tellers: impl Iterator<Item = (&'t String, &'t Teller)>) {
        if !self.is_read || self.task.is_some() {
            return;
        }
        let Ok(store) = self.registry.store() else { return };
        let told = tellers.flat_map(|(receiver, teller)| told_by(receiver, teller));
        let told: ToldByKey = told.map(|told| (key(&told), self.with_refusal(told))).collect();
        let told = self.newest(told, MOST);
        let is_news = |key: &[String; 3], told: &ToldAlert| {
            self.written.get(key).is_none_or(|written| {
                // It was told again (`repeat`): both times are computed from two clocks, and differ a little.
                let is_told_again = told.at.duration_since(written.at).is_ok_and(|since| since >= TOLD_AGAIN);
                is_told_again || is_later(told.refused, written.refused, later)
            })
        };
        let news: Vec<ToldAlert> =
            told.iter().filter(|(key, told)| is_news(key, told)).map(|(_, told)| told.clone()).collect();
        let over: Vec<[String; 3]> =
            self.written.keys().filter(|key| !told.contains_key(*key)).cloned().collect();
        if news.is_empty() && over.is_empty() {
            return;
        }
        self.task = Some(tokio::spawn(async move {
            match timeout(PATIENCE, store.note_told_alerts(&news, &over)).await {
                Ok(Ok(())) => return TaskEnd::Written { news, over },
                Ok(Err(error)) => debug!(%error, "what was told of budgets cannot be written"),
                Err(_) => debug!("what was told of budgets cannot be written in time"),
            }
            TaskEnd::Failed
        }));
    }

    /// The alerts that were told last.
    fn newest(&self, mut told: ToldByKey, most: usize) -> ToldByKey {
        if told.len() > most {
            // The times of those that are written are as they were: those of the tellers are computed, and differ a little each time.
            let at = |(key, told): (&[String; 3], &ToldAlert)| {
                let written = self.written.get(key).map(|written| written.at);
                let is_told_again =
                    |at: SystemTime| told.at.duration_since(at).is_ok_and(|since| since >= TOLD_AGAIN);
                let at = written.filter(|at| !is_told_again(*at)).unwrap_or(told.at);
                (Reverse(at), key.clone())
            };
            let mut order: Vec<_> = told.iter().map(at).collect();
            order.sort_unstable();
            for (_, key) in order.drain(most..) {
                told.remove(&key);
            }
        }
        told
    }

    /// The alert with the last refusal of its budget. One of before the start stands until there is another.
    fn with_refusal(&self, told: ToldAlert) -> ToldAlert {
        if budgets::level_of(&told.code) != Some(100) {
            return told;
        }
        let before = || self.written.get(&key(&told)).and_then(|written| written.refused);
        let refused = self.refused.get(&told.about).copied().or_else(before);
        ToldAlert { refused, ..told }
    }

    /// Writes what is not written yet, and waits until it is.
    pub(super) async fn close<'t>(&mut self, tellers: impl Iterator<Item = (&'t String, &'t Teller)>) {
        // What was read only now the tellers do not know: it would seem to be over.
        if self.task.is_some() && self.answered().await {
            return;
        }
        self.write_since(Duration::ZERO, tellers);
        if self.task.is_some() {
            self.answered().await;
        }
    }
}

/// The last refusals of the budgets of alerts.
fn refusals(told: &[ToldAlert]) -> BTreeMap<String, (String, BudgetRefusal)> {
    let mut refusals = BTreeMap::new();
    for ToldAlert { about, owner, refused, .. } in told {
        let Some(refused) = *refused else { continue };
        let (_, last) = refusals.entry(about.clone()).or_insert_with(|| (owner.clone(), refused));
        *last = refused.max(*last);
    }
    refusals
}

/// Whether a refusal is so much later than the one that was written.
fn is_later(refused: Option<BudgetRefusal>, written: Option<BudgetRefusal>, later: Duration) -> bool {
    let Some((at, _)) = refused else { return false };
    let is_later = |before| at > before && at.duration_since(before).is_ok_and(|since| since >= later);
    written.is_none_or(|(before, _)| is_later(before))
}

/// Whether the period in which it was told is over.
fn is_over(told: &ToldAlert, now: SystemTime, zone: &TimeZone) -> bool {
    let end = || {
        let (per, _) = budgets::named(&told.about, &told.owner)?;
        let at = Timestamp::try_from(told.at).ok()?.to_zoned(zone.clone());
        Period::of(per, &at).end(zone)
    };
    end().is_some_and(|end| end <= now)
}

fn told_by(receiver: &str, teller: &Teller) -> Vec<ToldAlert> {
    let now = (Instant::now(), SystemTime::now());
    let of = |(condition, at): (&Condition, Instant)| {
        let Condition { id, what, page, owner, .. } = condition;
        budgets::level_of(id.code)?;
        Some(ToldAlert {
            receiver: receiver.to_owned(),
            code: id.code.to_owned(),
            about: id.about.clone(),
            owner: owner.clone()?,
            what: what.clone(),
            page: page.clone().unwrap_or_default(),
            at: now.1.checked_sub(now.0.saturating_duration_since(at)).unwrap_or(now.1),
            refused: None,
        })
    };
    teller.told().filter_map(of).collect()
}

fn key(ToldAlert { receiver, code, about, .. }: &ToldAlert) -> [String; 3] {
    [receiver.clone(), code.clone(), about.clone()]
}

fn condition(ToldAlert { code, about, owner, what, page, .. }: &ToldAlert) -> Option<Condition> {
    let level = budgets::level_of(code)?;
    Some(Condition {
        id: ConditionId { code: budgets::code(level), about: about.clone() },
        is_bad: level == 100,
        what: what.clone(),
        advice: None,
        page: Some(page.clone()).filter(|page| !page.is_empty()),
        owner: Some(owner.clone()),
        higher: Vec::new(),
    })
}

/// The lower levels of the same budget: they hold as well, whether or not they were told.
fn below(told: &ToldAlert) -> impl Iterator<Item = Condition> {
    let levels = budgets::level_of(&told.code).into_iter().flat_map(budgets::below);
    levels.filter_map(|level| condition(&ToldAlert { code: budgets::code(level).to_owned(), ..told.clone() }))
}

#[cfg(test)]
mod tests {
    use accounts::Accounts;
    use limits::{Calendar, Quota, Reserve, Scope};
    use store::{State, Store, StoreUrl};
    use web::NamedBudget;

    use super::*;

    /// A stop just after the start took for over what no webhook had been reminded of yet, and it was told again after the next start.
    #[tokio::test]
    async fn a_stop_writes_what_was_told_and_forgets_nothing_that_was_only_just_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(StoreUrl::in_folder(folder.path())).await.expect("a store");
        let registry = Arc::new(Registry::new(Accounts::default()));
        registry.set_store(store.clone());
        registry.set_state(State::Up);
        let told = |level: u8| ToldAlert {
            receiver: "ops".into(),
            code: budgets::code(level).into(),
            about: "budget of key alice".into(),
            owner: "key alice".into(),
            what: "spent".into(),
            page: "/keys/alice".into(),
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            refused: None,
        };
        let stored = async || -> Vec<String> {
            store.told_alerts().await.expect("an answer").into_iter().map(|told| told.code).collect()
        };
        store.note_told_alerts(&[told(50)], &[]).await.expect("written");
        let (name, mut teller) = ("ops".to_owned(), Teller::default());
        let mut stopped_early = ToldBefore::new(Arc::clone(&registry));
        stopped_early.read();
        stopped_early.close([(&name, &teller)].into_iter()).await;
        assert_eq!(stored().await, ["budget_50"]);
        let mut before = ToldBefore::new(registry);
        before.read();
        assert!(before.answered().await && before.is_read());
        before.remind("ops", &mut teller);
        teller.remember(condition(&told(80)).expect("a budget's"), Instant::now());
        before.close([(&name, &teller)].into_iter()).await;
        assert_eq!(stored().await, ["budget_50", "budget_80"]);
        // Regression: what was told again a day later stood as told a day ago, so a restart told it once more.
        let mut a_day_later = Teller::default();
        for level in [50, 80] {
            a_day_later.remember(condition(&told(level)).expect("a budget's"), Instant::now());
        }
        before.close([(&name, &a_day_later)].into_iter()).await;
        for told in store.told_alerts().await.expect("an answer") {
            assert!(told.at.elapsed().is_ok_and(|since| since < Duration::from_secs(3_600)), "{told:?}");
        }
    }

    #[tokio::test]
    async fn of_very_many_alerts_the_newest_are_written() {
        let mut before = ToldBefore::new(Arc::new(Registry::new(Accounts::default())));
        let told = |name: &str, second: u64| {
            let told = ToldAlert {
                receiver: "ops".into(),
                code: "budget_50".into(),
                about: format!("budget of key {name}"),
                owner: format!("key {name}"),
                what: "spent".into(),
                page: "/keys".into(),
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second),
                refused: None,
            };
            (key(&told), told)
        };
        let names = |told: ToldByKey| -> Vec<String> { told.into_values().map(|told| told.owner).collect() };
        let all = ToldByKey::from([told("a", 3), told("b", 1), told("c", 2)]);
        assert_eq!(names(before.newest(all.clone(), 3)), ["key a", "key b", "key c"]);
        assert_eq!(names(before.newest(all.clone(), 2)), ["key a", "key c"]);
        // What is written keeps its time, unless it was told again.
        before.written = ToldByKey::from([told("b", 4), told("c", 0)]);
        assert_eq!(names(before.newest(all, 2)), ["key a", "key b"]);
        let again = ToldByKey::from([told("a", 3), told("b", 5), told("c", 60)]);
        assert_eq!(names(before.newest(again, 2)), ["key b", "key c"]);
    }

    /// Regression: a budget that had refused a request was told to be spent, and a restart within the ten minutes after that told that
    /// it was over.
    #[tokio::test]
    async fn refusals_are_kept_with_what_was_told_of_their_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(StoreUrl::in_folder(folder.path())).await.expect("a store");
        let registry = Arc::new(Registry::new(Accounts::default()));
        registry.set_store(store.clone());
        registry.set_state(State::Up);
        let at = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
        let used = |second: u64| BudgetUsed {
            scope: Scope::Key,
            key: "alice".into(),
            consumer: "team".into(),
            model: None,
            budget: Quota::budget(100, Calendar::Ever, Reserve::Usual).expect("a budget"),
            allowed: 100,
            spent: 93,
            level: 100,
            refused: Some((at(second), 7)),
        };
        let condition = |level: u8| Condition {
            id: ConditionId { code: budgets::code(level), about: budgets::about(&used(0)) },
            owner: Some("key alice".into()),
            ..Condition::test()
        };
        let stored = async || -> Vec<Option<BudgetRefusal>> {
            store.told_alerts().await.expect("an answer").into_iter().map(|told| told.refused).collect()
        };
        let read = async || {
            let mut before = ToldBefore::new(Arc::clone(&registry));
            before.read();
            assert!(before.answered().await);
            before
        };
        let (name, mut teller) = ("ops".to_owned(), Teller::default());
        [100, 50].into_iter().for_each(|level| teller.remember(condition(level), Instant::now()));
        let mut before = read().await;
        for (second, kept) in [(1, 1), (10, 1), (11, 11)] {
            before.note_refusals(&[used(second)]);
            before.write([(&name, &teller)].into_iter());
            assert_eq!(before.task.is_some(), second == kept, "{second}");
            if before.task.is_some() {
                before.answered().await;
            }
            assert_eq!(stored().await, [Some((at(kept), 7)), None], "{second}");
        }
        before.note_refusals(&[used(12)]);
        before.close([(&name, &teller)].into_iter()).await;
        assert_eq!(stored().await[0], Some((at(12), 7)), "a stop writes the last one");
        let (mut restarted, mut seen) = (read().await, 0);
        for is_known in [false, true, true] {
            restarted.take_over_refusals(|refused| {
                let [RefusedBudget { budget, per, at: when, remaining }] = *refused else {
                    panic!("{refused:?}")
                };
                assert_eq!(
                    (per, budget),
                    (Calendar::Ever, NamedBudget { kind: "key", name: "alice", of_model: None })
                );
                assert_eq!((when, remaining), (at(12), 7));
                seen += 1;
                vec![is_known]
            });
        }
        assert_eq!(seen, 2, "until the budget is known");
        // Before the budget is looked at, nothing is known of its refusals, and what is written stands.
        restarted.close([(&name, &teller)].into_iter()).await;
        assert_eq!(stored().await[0], Some((at(12), 7)));
    }
}
