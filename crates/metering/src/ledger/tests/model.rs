//! The ledger against a plain model, which knows the whole story of each request and goes through it from the start, without
//! maps, queues and shortcuts.
//!
//! Each request has a truth (what its servers generated, how it ended) and deliveries: its spans and its record in any order,
//! some twice, some late, some never, some from strangers.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use super::*;

/// Times are whole seconds; `wait` is shorter than usual, so that stories end before it and after it.
const WAIT: u64 = 30;
const GRACE: u64 = 5;
const EARLY: u64 = 10;

/// One request.
#[derive(Debug, Clone)]
struct Story {
    opened: u64,
    choices: u16,
    prompts: u16,
    reserved: (u32, u32),
    retries: u32,
    end: End,
    /// What each span says of its prompt and its answer; one for each answer and each time that it was worked on.
    spans: Vec<(u64, u64)>,
    deliveries: Vec<Delivery>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Refused,
    Embedded(u64),
}

#[derive(Debug, Clone, Copy)]
struct Delivery {
    at: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// One of the spans, by its index.
    Span(usize),
    Record,
    /// A span with the right id and no proof.
    Forgery,
}

fn story() -> impl Strategy<Value = Story> {
    let shape = (0..20_u64, 1..3_u16, 1..3_u16, (1..2_000_u32, 1..2_000_u32), 0..2_u32);
    let end = prop_oneof![
        6 => Just(End::Answered),
        2 => Just(End::Refused),
        1 => (1..5_000_u64).prop_map(End::Embedded),
    ];
    (shape, end).prop_flat_map(|((opened, choices, prompts, reserved, retries), end)| {
        let most = usize::from(choices * prompts) * (1 + usize::try_from(retries).expect("small"));
        let what = prop_oneof![
            6 => (0..most).prop_map(What::Span),
            3 => Just(What::Record),
            1 => Just(What::Forgery),
        ];
        let delivery =
            (opened.saturating_sub(3)..opened + 45, what).prop_map(|(at, what)| Delivery { at, what });
        (vec((1..3_000_u64, 0..3_000_u64), most), vec(delivery, 0..14)).prop_map(
            move |(spans, deliveries)| Story {
                opened,
                choices,
                prompts,
                reserved,
                retries,
                end,
                spans,
                deliveries,
            },
        )
    })
}

impl Story {
    fn shape(&self) -> RequestShape {
        RequestShape { choices: self.choices, prompts: self.prompts, ..SHAPE }
    }

    fn reservation(&self, id: u128) -> RequestReservation<u32> {
        let (prompt, completion) = self.reserved;
        let reserved = ReservedTokens { prompt, completion, is_open: false };
        RequestReservation { shape: self.shape(), reserved, ..reservation(id) }
    }

    fn receipt(&self, id: u128, what: What) -> Receipt {
        match what {
            What::Span(index) => {
                let (prompt, completion) = self.spans[index];
                let number = u64::try_from(index).expect("small");
                let choices = Some(self.choices.into());
                Receipt::Span(SpanReceipt { choices, ..span(id, number, prompt, completion) })
            }
            What::Forgery => Receipt::Span(SpanReceipt { parent: Some(SpanId(0)), ..span(id, 999, 1, 1) }),
            What::Record => Receipt::Record(match self.end {
                // Without a byte, so that what the calibration knows does not matter.
                End::Answered => RecordReceipt { retries: self.retries, ..record(id, 0) },
                End::Refused => RecordReceipt { retries: self.retries, ..refused(id, 502) },
                End::Embedded(tokens) => RecordReceipt { compute_tokens: Some(tokens), ..record(id, 9) },
            }),
        }
    }

    /// When it is closed and how. The deliveries are those that came in time, in order.
    fn expected(&self, heard_at: &[(u64, What)]) -> (u64, UsageKind, Option<(u64, u64)>) {
        let answers = usize::from(self.choices * self.prompts);
        let most = answers * (1 + usize::try_from(self.retries).expect("small"));
        let end_of_wait = self.opened + WAIT;
        let (mut told, mut record_at, mut due) = (Vec::<usize>::new(), None, end_of_wait);
        let mut closed_at = end_of_wait;
        for (at, what) in heard_at {
            if *at >= due {
                closed_at = due;
                break;
            }
            match what {
                What::Span(index) if !told.contains(index) => told.push(*index),
                What::Record if record_at.is_none() => record_at = Some(*at),
                _ => continue,
            }
            let is_embedded = matches!(self.end, End::Embedded(_));
            let is_all = match record_at {
                // Records are heard all the time, so one is waited for.
                None => false,
                Some(_) if is_embedded || told.len() >= most => true,
                Some(_) => self.end == End::Refused && self.retries == 0 && told.is_empty(),
            };
            if is_all {
                closed_at = *at;
                break;
            }
            let part_at = match (record_at, told.len() >= answers) {
                (Some(record_at), _) => Some(record_at),
                (None, true) if due == end_of_wait => Some(*at),
                (None, _) => None,
            };
            due = part_at.map_or(due, |part_at| end_of_wait.min(part_at + GRACE));
            closed_at = due;
        }
        let (kind, used) = self.tokens(&told, record_at.is_some());
        (closed_at, kind, used)
    }

    /// `None` for the tokens: some of several spans, and nothing else; tested apart.
    fn tokens(&self, told: &[usize], has_record: bool) -> (UsageKind, Option<(u64, u64)>) {
        let answers = usize::from(self.choices * self.prompts);
        let sum = |of: fn(&(u64, u64)) -> u64| told.iter().map(|index| of(&self.spans[*index])).sum::<u64>();
        let (prompts, completions) = (sum(|span| span.0), sum(|span| span.1));
        match (told.len(), self.end) {
            (told, _) if told >= answers => {
                (UsageKind::Exact, Some((prompts.div_ceil(self.choices.into()), completions)))
            }
            (0, _) if !has_record => {
                (UsageKind::Estimated, Some((self.reserved.0.into(), self.reserved.1.into())))
            }
            (_, _) if !has_record => (UsageKind::Estimated, None),
            (0, End::Embedded(tokens)) => (UsageKind::Exact, Some((tokens, 0))),
            (0, End::Refused) => (UsageKind::Measured, Some((0, 0))),
            (0, End::Answered) => (UsageKind::Measured, None),
            _ => (UsageKind::Measured, None),
        }
    }
}

/// Runs all stories at once, second by second; returns each request's settlement and when it came.
fn run(stories: &[Story], capacity: usize) -> Vec<(u64, RequestSettlement<u32>)> {
    let mut ledger = Ledger::new(LedgerOptions {
        wait: at(WAIT),
        grace: at(GRACE),
        capacity,
        early_wait: at(EARLY),
        early_capacity: 10_000,
    });
    let mut settled = Vec::new();
    for second in 0..120 {
        let now = at(second);
        // Traefik tells about other requests all the time, and servers export spans.
        ledger.record(record(999_999, 0), now);
        ledger.advance(now);
        for (id, story) in (0..).zip(stories) {
            if story.opened == second {
                ledger.sources.span_came(&Arc::from("llama"));
                ledger.open(story.reservation(id), now);
            }
        }
        for (id, story) in (0..).zip(stories) {
            for delivery in story.deliveries.iter().filter(|delivery| delivery.at == second) {
                ledger.sources.span_came(&Arc::from("llama"));
                ledger.tell(story.receipt(id, delivery.what), now);
            }
        }
        settled.extend(ledger.take_settled().into_iter().map(|one| (second, one)));
    }
    assert!(ledger.is_empty() && ledger.by_parent.is_empty());
    settled
}

/// What is delivered, in the order in which it is heard: what came before the reservation is heard when that opens, what a
/// trusted sender told first.
fn heard(story: &Story) -> Vec<(u64, What)> {
    let mut heard: Vec<_> =
        story.deliveries.iter().map(|one| (one.at.max(story.opened), one.at, one.what)).collect();
    let is_early = |at: u64| at < story.opened;
    heard.sort_by_key(|(hears, came, what)| {
        (*hears, !is_early(*came), is_early(*came) && *what != What::Record, *came)
    });
    heard.into_iter().map(|(hears, _, what)| (hears, what)).collect()
}

proptest! {
    #[test]
    fn each_request_is_settled_once_as_the_model_says(stories in vec(story(), 1..40)) {
        let settled = run(&stories, 100_000);
        prop_assert_eq!(settled.len(), stories.len(), "each once");
        let (mut sum, mut model_sum) = (0, 0);
        for (second, one) in settled {
            let story = &stories[usize::try_from(one.held).expect("small")];
            let (at, kind, tokens) = story.expected(&heard(story));
            prop_assert_eq!((second, one.kind), (at, kind), "{:?}", story);
            if let Some(tokens) = tokens {
                prop_assert_eq!((one.used.prompt, one.used.completion), tokens, "{:?}", story);
                sum += one.used.total();
                model_sum += tokens.0 + tokens.1;
            }
        }
        prop_assert_eq!(sum, model_sum);
    }

    #[test]
    fn a_small_ledger_settles_each_request_once_too(stories in vec(story(), 1..40), capacity in 1..5_usize) {
        let settled = run(&stories, capacity);
        let mut ids: Vec<_> = settled.iter().map(|(_, one)| one.held).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..u32::try_from(stories.len()).expect("small")).collect::<Vec<_>>());
        for (_, one) in settled {
            let story = &stories[usize::try_from(one.held).expect("small")];
            if one.kind == UsageKind::Exact && !matches!(story.end, End::Embedded(_)) {
                let all: u64 = story.spans.iter().map(|span| span.0 + span.1).sum();
                prop_assert!(one.used.total() <= all);
            }
        }
    }
}
