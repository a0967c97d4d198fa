//! What one webhook has been told, and what it is to be told next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use crate::{Condition, ConditionId};

/// How many conditions one message lists; further ones are counted.
pub const MAX_ITEMS: usize = 20;

/// How soon and how often something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A condition is told once it has held for so long, and that it is over once it has been away for so long.
    pub after: Duration,
    /// What lasts is told again after so long; `None`: never.
    pub repeat: Option<Duration>,
}

/// What a message says about its conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// They hold.
    Firing,
    /// They are over.
    Resolved,
    /// Nothing; somebody tries whether messages arrive.
    Test,
}

impl MessageKind {
    /// In one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// One message. When it is sent again, it is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Unique; receivers may use it to recognise a message that was sent again.
    pub id: String,
    /// When it was made.
    pub at: SystemTime,
    /// What it says.
    pub kind: MessageKind,
    /// The first conditions, the bad ones first.
    pub items: Vec<Condition>,
    /// All of its conditions, which may be more.
    pub ids: Vec<ConditionId>,
}

impl Message {
    fn new(kind: MessageKind, mut conditions: Vec<Condition>, at: SystemTime) -> Self {
        conditions.sort_by(|a, b| b.is_bad.cmp(&a.is_bad).then_with(|| a.id.cmp(&b.id)));
        let ids = conditions.iter().map(|condition| condition.id.clone()).collect();
        conditions.truncate(MAX_ITEMS);
        // 128 random bits, as in the ids of requests.
        let id = format!("msg_{:032x}", rand::random::<u128>());
        Self { id, at, kind, items: conditions, ids }
    }

    /// A message with which an operator tries whether messages arrive.
    pub fn test(at: SystemTime) -> Self {
        Self::new(MessageKind::Test, vec![Condition::test()], at)
    }

    /// How many conditions are not listed.
    pub fn more(&self) -> usize {
        self.ids.len() - self.items.len()
    }
}

/// What is known of one condition.
#[derive(Debug)]
struct Known {
    condition: Condition,
    since: Instant,
    /// Since when it does not hold any more.
    gone: Option<Instant>,
    /// Whether it holds is not known; it was told by an earlier process.
    is_unknown: bool,
    /// When the webhook was told that it holds, if it was, or that a higher level of it does.
    told: Option<Instant>,
    /// A message about it was sent, and may have arrived although that is not known.
    is_tried: bool,
}

impl Known {
    /// Only a higher level of it was told. So it is not told any more, and neither is that it is over.
    fn is_told_by_higher(&self) -> bool {
        self.told.is_some() && !self.is_tried
    }
}

/// The memory of one webhook.
#[derive(Debug, Default)]
pub struct Teller {
    known: BTreeMap<ConditionId, Known>,
    /// The message that is being sent.
    pending: Option<Message>,
}

impl Teller {
    /// Remembers what an earlier process has told: it is not told again, and once it does not hold, that is told.
    pub fn remember(&mut self, condition: Condition, told: Instant) {
        self.remember_if(condition, told, true);
    }

    /// Remembers that an earlier process has told a higher level of it: it is not told, and neither is that it is over. To be called
    /// after [`remember`](Self::remember): what itself was told stays so.
    pub fn remember_below(&mut self, condition: Condition, told: Instant) {
        self.remember_if(condition, told, false);
    }

    fn remember_if(&mut self, condition: Condition, told: Instant, is_tried: bool) {
        let id = condition.id.clone();
        self.known.entry(id).or_insert(Known {
            condition,
            since: told,
            gone: None,
            is_unknown: true,
            told: Some(told),
            is_tried,
        });
    }

    /// What was told to hold, and when, and was not told to be over.
    pub fn told(&self) -> impl Iterator<Item = (&Condition, Instant)> {
        let told = self.known.values().filter(|known| !known.is_told_by_higher());
        told.filter_map(|known| Some((&known.condition, known.told?)))
    }

    /// Notes what holds now.
    pub fn see(&mut self, conditions: &[Condition], now: Instant) {
        self.see_but(conditions, &BTreeSet::new(), now);
    }

    /// Notes what holds now, all but `unknown`: of that it is not known whether it does. What was told of it stands, and is not told
    /// again.
    pub fn see_but(&mut self, conditions: &[Condition], unknown: &BTreeSet<ConditionId>, now: Instant) {
        for (id, known) in &mut self.known {
            known.is_unknown = known.gone.is_none() && unknown.contains(id);
            if !known.is_unknown {
                known.gone = known.gone.or(Some(now));
            }
        }
        for condition in conditions {
            let known = self.known.entry(condition.id.clone()).or_insert_with(|| Known {
                condition: condition.clone(),
                since: now,
                gone: None,
                is_unknown: false,
                told: None,
                is_tried: false,
            });
            (known.gone, known.is_unknown) = (None, false);
            known.condition.clone_from(condition);
        }
        self.known.retain(|_, known| known.gone.is_none() || known.is_tried || known.is_told_by_higher());
        self.note_told_by_higher();
        if self.pending.as_ref().is_some_and(|pending| !self.is_true(pending)) {
            self.pending = None;
        }
    }

    /// Who was told a level knows the lower ones.
    fn note_told_by_higher(&mut self) {
        let told = |known: &Known| self.holding_above(known).filter_map(|higher| higher.told).max();
        let told: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| known.gone.is_none())
            .filter_map(|(id, known)| Some((id.clone(), told(known)?)))
            .collect();
        for (id, at) in told {
            if let Some(known) = self.known.get_mut(&id) {
                known.told = known.told.max(Some(at));
            }
        }
    }

    /// The higher levels that hold.
    fn holding_above<'k>(&'k self, known: &'k Known) -> impl Iterator<Item = &'k Known> {
        let higher = known.condition.higher.iter().filter_map(|id| self.known.get(id));
        higher.filter(|higher| higher.gone.is_none())
    }

    /// Whether a message still says something that is so.
    fn is_true(&self, message: &Message) -> bool {
        let known = message.ids.iter().filter_map(|id| self.known.get(id));
        match message.kind {
            MessageKind::Firing => known.into_iter().any(|known| known.gone.is_none()),
            MessageKind::Resolved => known.into_iter().any(|known| known.gone.is_some()),
            MessageKind::Test => true,
        }
    }

    /// The message to send now, if any. Until [`done`](Self::done) is called it stays the same, as long as it is true.
    pub fn next(&mut self, patience: Patience, now: Instant, at: SystemTime) -> Option<Message> {
        self.known.retain(|_, known| !(known.is_told_by_higher() && is_over(known, patience, now)));
        if self.pending.is_none() {
            self.pending = self.make(patience, now, at);
        }
        let pending = self.pending.clone()?;
        for id in &pending.ids {
            self.known.get_mut(id).into_iter().for_each(|known| known.is_tried = true);
        }
        Some(pending)
    }

    fn make(&self, patience: Patience, now: Instant, at: SystemTime) -> Option<Message> {
        let passed = |since: Instant, time: Duration| has_passed(since, time, now);
        let is_due = |known: &&Known| match (known.gone, known.told) {
            (Some(_), _) => false,
            _ if known.is_unknown || self.holding_above(known).next().is_some() => false,
            (None, None) => passed(known.since, patience.after),
            (None, Some(told)) => patience.repeat.is_some_and(|repeat| passed(told, repeat)),
        };
        let is_over = |known: &&Known| is_over(known, patience, now);
        let conditions = |which: &dyn Fn(&&Known) -> bool| -> Vec<Condition> {
            self.known.values().filter(which).map(|known| known.condition.clone()).collect()
        };
        let (due, over) = (conditions(&is_due), conditions(&is_over));
        match (due.is_empty(), over.is_empty()) {
            (false, _) => Some(Message::new(MessageKind::Firing, due, at)),
            (true, false) => Some(Message::new(MessageKind::Resolved, over, at)),
            (true, true) => None,
        }
    }

    /// The message has arrived, or its receiver does not want it.
    pub fn done(&mut self, now: Instant) {
        let Some(pending) = self.pending.take() else { return };
        for id in pending.ids {
            match pending.kind {
                MessageKind::Firing => {
                    self.known.get_mut(&id).into_iter().for_each(|known| known.told = Some(now));
                }
                // It may hold again by now.
                MessageKind::Resolved if self.known.get(&id).is_some_and(|known| known.gone.is_some()) => {
                    self.known.remove(&id);
                }
                MessageKind::Resolved | MessageKind::Test => {}
            }
        }
        self.note_told_by_higher();
    }
}

fn has_passed(since: Instant, time: Duration, now: Instant) -> bool {
    now.saturating_duration_since(since) >= time
}

/// Whether it has been away for long enough.
fn is_over(known: &Known, patience: Patience, now: Instant) -> bool {
    known.gone.is_some_and(|gone| has_passed(gone, patience.after, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { after: Duration::from_secs(30), repeat: Some(Duration::from_secs(3600)) };

    fn condition(about: &str) -> Condition {
        let id = ConditionId { code: "model_lost", about: about.into() };
        Condition { id, is_bad: about != "minor", ..Condition::test() }
    }

    struct Story {
        teller: Teller,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self { teller: Teller::default(), start: Instant::now() }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn see(&mut self, second: u64, about: &[&str]) {
            let conditions: Vec<_> = about.iter().map(|about| condition(about)).collect();
            self.teller.see(&conditions, self.at(second));
        }

        fn next(&mut self, second: u64) -> Option<Message> {
            self.teller.next(PATIENCE, self.at(second), SystemTime::UNIX_EPOCH)
        }

        /// What is sent, and arrives.
        fn sent(&mut self, second: u64) -> Vec<String> {
            let Some(message) = self.next(second) else { return Vec::new() };
            self.teller.done(self.at(second));
            let about = message.ids.iter().map(|id| id.about.clone());
            [message.kind.name().to_owned()].into_iter().chain(about).collect()
        }
    }

    #[test]
    fn a_condition_is_told_once_and_then_that_it_is_over() {
        let mut story = Story::new();
        story.see(0, &["minor", "llama"]);
        assert_eq!(story.sent(29), Vec::<String>::new(), "it may pass");
        assert_eq!(story.sent(30), ["firing", "llama", "minor"], "the bad ones first");
        story.see(60, &["minor", "llama", "qwen"]);
        assert_eq!(story.sent(60), Vec::<String>::new());
        assert_eq!(story.sent(90), ["firing", "qwen"]);
        story.see(100, &["llama"]);
        assert_eq!(story.sent(129), Vec::<String>::new(), "it may come back");
        assert_eq!(story.sent(130), ["resolved", "qwen", "minor"]);
        story.see(140, &["llama"]);
        assert_eq!(story.sent(3_629), Vec::<String>::new());
        assert_eq!(story.sent(3_630), ["firing", "llama"], "it lasts");
        story.see(3_640, &[]);
        assert_eq!(story.sent(3_670), ["resolved", "llama"]);
        assert!(story.teller.known.is_empty());
    }

    #[test]
    fn what_flaps_is_not_told_twice_and_what_passes_is_not_told() {
        let mut story = Story::new();
        story.see(0, &["llama"]);
        story.see(10, &[]);
        story.see(20, &["llama"]);
        assert_eq!(story.sent(49), Vec::<String>::new(), "it began at 20");
        assert_eq!(story.sent(50), ["firing", "llama"]);
        for second in (60..600).step_by(20) {
            story.see(second, &[]);
            assert_eq!(story.sent(second), Vec::<String>::new());
            story.see(second + 10, &["llama"]);
            assert_eq!(story.sent(second + 10), Vec::<String>::new());
        }
    }

    /// Another process told it: neither is it told twice, nor is it forgotten that it is over.
    #[test]
    fn what_was_told_before_a_restart_is_not_told_again_and_its_end_is() {
        let mut story = Story::new();
        story.see(0, &["llama", "qwen"]);
        assert_eq!(story.sent(30), ["firing", "llama", "qwen"]);
        let told: Vec<Condition> = story.teller.told().map(|(condition, _)| condition.clone()).collect();
        let mut restarted = Story::new();
        told.into_iter().for_each(|condition| restarted.teller.remember(condition, restarted.start));
        restarted.see(1, &["qwen", "new"]);
        assert_eq!(restarted.sent(31), ["firing", "new"]);
        assert_eq!(restarted.sent(32), ["resolved", "llama"]);
        assert_eq!(restarted.teller.told().count(), 2);
    }

    #[test]
    fn what_is_not_known_after_a_restart_is_neither_over_nor_told_again() {
        let mut story = Story::new();
        story.teller.remember(condition("llama"), story.start);
        let unknown = BTreeSet::from([condition("llama").id]);
        for second in [1, 4_000] {
            story.teller.see_but(&[], &unknown, story.at(second));
            assert_eq!(story.sent(second + 40), Vec::<String>::new());
        }
        let mut over = Story::new();
        over.teller.remember(condition("llama"), over.start);
        over.teller.see_but(&[], &unknown, over.at(1));
        over.see(50, &[]);
        assert_eq!(over.sent(80), ["resolved", "llama"], "by then it is known");
        story.see(4_100, &["llama"]);
        assert_eq!(story.sent(4_100), ["firing", "llama"], "it lasts");
    }

    /// A message that fails is the same when it is sent again. Whether it arrived is not known, so that it is over is told.
    #[test]
    fn a_message_that_fails_is_sent_again_as_long_as_it_is_true() {
        let mut story = Story::new();
        story.see(0, &["llama"]);
        let first = story.next(30).expect("a message");
        story.see(40, &["llama", "qwen"]);
        assert_eq!(story.next(80).expect("a message"), first);
        story.see(90, &["qwen"]);
        assert_eq!(story.sent(91), ["firing", "qwen"], "another one, since the first is not true any more");
        assert_eq!(story.sent(120), ["resolved", "llama"]);
        // Nothing was ever sent about this one.
        story.see(130, &["qwen", "late"]);
        story.see(140, &["qwen"]);
        assert_eq!(story.sent(1_000), Vec::<String>::new());
    }

    impl Story {
        /// `levels` of three hold.
        fn see_levels(&mut self, second: u64, levels: usize) {
            let all = ["1", "2", "3"].map(condition);
            let conditions: Vec<_> = (0..levels)
                .map(|level| {
                    let higher = all[level + 1..levels].iter().map(|higher| higher.id.clone()).collect();
                    Condition { higher, ..all[level].clone() }
                })
                .collect();
            self.teller.see(&conditions, self.at(second));
        }
    }

    /// Regression: one large request took a budget past 50, 80 and 100 % at once, and three alerts told of it.
    #[test]
    fn of_levels_that_are_reached_at_once_only_the_highest_is_told() {
        let nothing = Vec::<String>::new();
        let mut story = Story::new();
        story.see_levels(0, 2);
        story.see_levels(20, 3);
        assert_eq!(
            story.sent(30),
            nothing,
            "the third may pass, and the second need not be told if it stays"
        );
        assert_eq!(story.sent(50), ["firing", "3"]);
        assert_eq!(story.teller.told().count(), 1);
        story.see_levels(60, 2);
        assert_eq!(story.sent(90), ["resolved", "3"]);
        story.see_levels(100, 1);
        assert_eq!(story.sent(1_000), nothing, "neither the lower ones, nor that what was not told is over");
        story.see_levels(1_010, 0);
        story.see_levels(1_020, 1);
        assert_eq!(story.sent(1_060), nothing, "it was away for a moment only");
        // A period later each level is told that is reached after the others.
        story.see_levels(2_000, 0);
        assert_eq!(story.sent(2_030), nothing);
        assert!(story.teller.known.is_empty());
        story.see_levels(3_000, 1);
        assert_eq!(story.sent(3_030), ["firing", "1"]);
        story.see_levels(3_040, 3);
        assert_eq!(story.sent(3_070), ["firing", "3"]);
        assert_eq!(story.sent(6_669), nothing);
        assert_eq!(story.sent(6_670), ["firing", "3"], "it lasts, and the highest says all");
        story.see_levels(6_680, 0);
        assert_eq!(story.sent(6_710), ["resolved", "1", "3"], "what was told to begin is told to end");
        assert!(story.teller.known.is_empty());
    }

    #[test]
    fn a_higher_level_that_passes_before_it_is_told_leaves_the_lower_one_to_be_told() {
        let mut story = Story::new();
        story.see_levels(0, 2);
        story.see_levels(20, 1);
        assert_eq!(story.sent(30), ["firing", "1"]);
        assert_eq!(story.sent(60), Vec::<String>::new());
    }

    #[test]
    fn lower_levels_of_what_was_told_before_a_restart_are_not_told() {
        for told_itself in [false, true] {
            let mut story = Story::new();
            if told_itself {
                story.teller.remember(condition("1"), story.start);
            }
            story.teller.remember(condition("2"), story.start);
            story.teller.remember_below(condition("1"), story.start);
            story.see_levels(1, 1);
            assert_eq!(story.sent(31), ["resolved", "2"]);
            story.see_levels(40, 0);
            let end: &[&str] = if told_itself { &["resolved", "1"] } else { &[] };
            assert_eq!(story.sent(70), end);
            assert!(story.teller.known.is_empty());
        }
    }

    #[test]
    fn a_message_lists_some_and_counts_all() {
        let mut story = Story::new();
        let names: Vec<String> = (0..100).map(|i| format!("model {i:03}")).collect();
        story.see(0, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let message = story.next(30).expect("a message");
        assert_eq!((message.items.len(), message.more()), (MAX_ITEMS, 80));
        story.teller.done(story.at(30));
        assert_eq!(story.next(31), None);
    }
}
