//! The count of requests under way against a plain model of what is really under way, whatever is told late, and in whatever order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use proptest::prelude::*;
use server_choice::{Counters, Prompt, SentRequest, Server, Watch, estimate};

const PROMPT: Prompt<'_> =
    Prompt { blocks: &[], tokens: 40, block_tokens: 128.0, answer_tokens: 10, adapter: None };

/// How often Modelgate looks for servers of which it has not heard, in ms.
const PASS: u64 = 10_000;
/// A request that waits looks for room so often, in ms.
const LOOK: u64 = 20;

/// What becomes of one request, in ms.
#[derive(Debug, Clone)]
struct Life {
    /// Until it is asked, after the one before.
    pause: u64,
    /// Until it has reached the server.
    travels: u64,
    /// Until the server has answered.
    works: u64,
    /// Until its client has read the answer.
    is_read: u64,
    /// Until Traefik's record of that has come; `None`: it never comes.
    told_after: Option<u64>,
    /// Whether the record says how long the server has worked on it.
    is_measured: bool,
}

/// A page of the server's metrics, in ms: when it is asked for after the one before, when it is made after that, and when it has come
/// after that.
type PageTimes = (u64, u64, u64);

/// What Modelgate hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeardSources {
    Pages,
    Records,
    Both,
    /// Pages for some seconds only.
    PagesAtFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ServerEvent {
    Asks(usize),
    Arrives(usize),
    IsAnswered(usize),
    IsTold(usize),
    PageIsAsked(usize),
    PageIsMade(usize, u64),
    PageComes(usize, u64, u32),
    Pass,
}

struct ModelledServer<'l> {
    lives: &'l [Life],
    pages: &'l [PageTimes],
    sources: HeardSources,
    /// Requests of others, from the beginning to the end.
    others: u32,
    server: Server,
    watch: Watch,
    due: BinaryHeap<Reverse<(u64, u64, ServerEvent)>>,
    planned: u64,
    /// Those that are on their way to the server or at it.
    open: BTreeMap<usize, bool>,
    sent: BTreeMap<usize, (SentRequest, u64)>,
    most_at_once: u32,
    heard_at: u64,
}

impl<'l> ModelledServer<'l> {
    fn new(
        lives: &'l [Life],
        pages: &'l [PageTimes],
        sources: HeardSources,
        (most, others): (u32, u32),
    ) -> Self {
        let server = Server::new(64);
        server.set_most(Some(most));
        let mut world = Self {
            lives,
            pages,
            sources,
            others,
            server,
            watch: Watch::new(128.0),
            due: BinaryHeap::new(),
            planned: 0,
            open: BTreeMap::new(),
            sent: BTreeMap::new(),
            most_at_once: 0,
            heard_at: 0,
        };
        if sources != HeardSources::Records {
            world.hear(0, 0, others);
            world.plan(1, ServerEvent::PageIsAsked(0));
        }
        world.plan(PASS, ServerEvent::Pass);
        let mut at = 500;
        for (number, life) in lives.iter().enumerate() {
            at += life.pause;
            world.plan(at, ServerEvent::Asks(number));
        }
        world
    }

    fn plan(&mut self, at: u64, event: ServerEvent) {
        self.planned += 1;
        self.due.push(Reverse((at, self.planned, event)));
    }

    fn are_ends_told(&self) -> bool {
        self.sources != HeardSources::Pages
    }

    fn hear(&mut self, asked: u64, now: u64, requests: u32) {
        let counters = Counters { running: Some(requests), waiting: Some(0), ..Counters::default() };
        self.watch.heard(&self.server, &counters, ms(asked), ms(now));
        self.heard_at = now;
    }

    /// The requests that are at the server.
    fn there(&self) -> u32 {
        self.open.values().filter(|is_there| **is_there).count() as u32 + self.others
    }

    fn has_pages(&self, now: u64) -> bool {
        self.sources != HeardSources::PagesAtFirst || now < 3_000
    }

    /// Until this moment.
    fn run(&mut self, until: u64) {
        while let Some(Reverse((now, _, event))) = self.due.peek().copied().filter(|next| next.0.0 <= until) {
            self.due.pop();
            self.happens(event, now);
        }
    }

    fn happens(&mut self, event: ServerEvent, now: u64) {
        match event {
            ServerEvent::Asks(number) if self.server.room(ms(now), self.are_ends_told()) == Some(0) => {
                self.plan(now + LOOK, ServerEvent::Asks(number));
            }
            ServerEvent::Asks(number) => {
                let sent =
                    self.server.sent(&PROMPT, &estimate(&self.server, &PROMPT, ms(now), None), ms(now));
                self.sent.insert(number, (sent, now));
                self.open.insert(number, false);
                self.most_at_once = self.most_at_once.max(self.open.len() as u32 + self.others);
                self.plan(now + self.lives[number].travels, ServerEvent::Arrives(number));
            }
            ServerEvent::Arrives(number) => {
                self.open.insert(number, true);
                self.plan(now + self.lives[number].works, ServerEvent::IsAnswered(number));
            }
            ServerEvent::IsAnswered(number) => {
                self.open.remove(&number);
                let life = &self.lives[number];
                if let (Some(told_after), true) = (life.told_after, self.are_ends_told()) {
                    self.plan(now + life.is_read + told_after, ServerEvent::IsTold(number));
                }
            }
            ServerEvent::IsTold(number) => {
                let Life { travels, works, is_read, is_measured, .. } = self.lives[number];
                let (sent, _) = self.sent.remove(&number).expect("it is told once");
                let lasted = if is_measured { travels + works + is_read } else { 0 };
                self.server.finished(sent, ms(lasted));
            }
            ServerEvent::PageIsAsked(number) if self.has_pages(now) => {
                let (_, made, _) = self.pages[number % self.pages.len()];
                self.plan(now + made, ServerEvent::PageIsMade(number, now));
            }
            ServerEvent::PageIsAsked(_) => {}
            ServerEvent::PageIsMade(number, asked) => {
                let (_, _, comes) = self.pages[number % self.pages.len()];
                self.plan(now + comes, ServerEvent::PageComes(number, asked, self.there()));
            }
            ServerEvent::PageComes(number, asked, requests) => {
                self.hear(asked, now, requests);
                let (pause, _, _) = self.pages[(number + 1) % self.pages.len()];
                self.plan(now + pause, ServerEvent::PageIsAsked(number + 1));
            }
            ServerEvent::Pass => {
                if now - self.heard_at >= PASS {
                    self.watch.unheard(&self.server, self.are_ends_told());
                }
                self.plan(now + PASS, ServerEvent::Pass);
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_of_request = |event: &ServerEvent| {
            matches!(
                event,
                ServerEvent::Asks(_)
                    | ServerEvent::Arrives(_)
                    | ServerEvent::IsAnswered(_)
                    | ServerEvent::IsTold(_)
            )
        };
        !self.due.iter().any(|Reverse((_, _, event))| is_of_request(event))
    }
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn life() -> impl Strategy<Value = Life> {
    let works = prop_oneof![1..300_u64, 300..6_000_u64];
    let told_after = prop::option::weighted(0.9, prop_oneof![0..100_u64, 0..1_500_u64]);
    (0..150_u64, 0..60_u64, works, 0..990_u64, told_after, any::<bool>()).prop_map(
        |(pause, travels, works, is_read, told_after, is_measured)| Life {
            pause,
            travels,
            works,
            is_read,
            told_after,
            is_measured,
        },
    )
}

fn pages() -> impl Strategy<Value = Vec<PageTimes>> {
    let late = || prop_oneof![4 => 0..20_u64, 1 => 0..1_400_u64];
    prop::collection::vec((prop_oneof![Just(200_u64), Just(1_000_u64)], late(), late()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A server never has more than it is to have, whichever sources there are. All requests are sent in the end. At rest nothing is
    /// under way, and there is room for as many as before.
    #[test]
    fn never_more_than_the_maximum_and_nothing_at_rest(
        lives in prop::collection::vec(life(), 1..50),
        pages in pages(),
        sources in prop_oneof![
            Just(HeardSources::Pages),
            Just(HeardSources::Records),
            Just(HeardSources::Both),
            Just(HeardSources::PagesAtFirst)
        ],
        most in 1..6_u32,
        others in 0..3_u32,
    ) {
        let has_pages = matches!(sources, HeardSources::Pages | HeardSources::Both);
        // Without pages nobody knows of others, and not of what nobody tells.
        let others = if has_pages { others } else { 0 };
        let lives: Vec<Life> = lives
            .into_iter()
            .map(|life| Life { told_after: life.told_after.or((!has_pages).then_some(1_000)), ..life })
            .collect();
        let most = most + others;
        let mut world = ModelledServer::new(&lives, &pages, sources, (most, others));
        let mut now = 0;
        while !world.is_over() {
            now += 1_000;
            world.run(now);
            prop_assert!(now < 2_000_000, "not all were sent");
        }
        prop_assert!(world.most_at_once <= most, "{} of {most} at once", world.most_at_once);
        prop_assert_eq!(world.there(), others);
        // Those of which nobody has told are given up.
        let untold: Vec<SentRequest> = world.sent.values().map(|(sent, _)| *sent).collect();
        if world.are_ends_told() {
            untold.iter().for_each(|sent| world.server.given_up(*sent));
        }
        // Some pages more, or some passes.
        now += 6 * PASS;
        world.run(now);
        prop_assert_eq!(world.server.under_way(), others);
        prop_assert_eq!(world.server.room(ms(now), world.are_ends_told()), Some(most - others));
    }
}

/// Regression: a server that was to have one request had up to three at once, and one that was to have four had eight, where its page
/// was read and Traefik told ends, too: the page had left an ended request out, and the record subtracted it again.
#[test]
fn a_request_that_the_page_has_left_out_is_not_subtracted_again() {
    let (server, mut watch) = (Server::new(64), Watch::new(128.0));
    let mut hear = |running, at| {
        let counters = Counters { running: Some(running), waiting: Some(0), ..Counters::default() };
        watch.heard(&server, &counters, ms(at), ms(at));
    };
    let send = |at| server.sent(&PROMPT, &estimate(&server, &PROMPT, ms(at), None), ms(at));
    server.set_most(Some(1));
    hear(0, 1_000);
    let first = send(1_100);
    assert_eq!(server.room(ms(1_100), true), Some(0));
    hear(1, 2_000);
    assert_eq!(server.room(ms(2_000), true), Some(0));
    // It ends at 2.5 s.
    hear(0, 3_000);
    let second = send(3_100);
    server.finished(first, ms(1_400));
    assert_eq!((server.room(ms(3_200), true), server.under_way()), (Some(0), 1), "the second is there");
    hear(1, 4_000);
    // One that was sent after the page and ends before the next is known by its record alone.
    server.set_most(Some(2));
    let third = send(4_100);
    assert_eq!(server.room(ms(4_100), true), Some(0));
    server.finished(third, ms(50));
    assert_eq!((server.room(ms(4_200), true), server.under_way()), (Some(1), 1));
    // No page comes for a while: what has surely ended after the last one is taken out.
    let long = send(4_300);
    hear(2, 5_000);
    assert_eq!(server.room(ms(5_000), true), Some(0));
    server.finished(long, ms(1_650));
    assert_eq!(
        server.room(ms(6_000), true),
        Some(0),
        "its answer may have been read after its end: at 5 s it may have been left out"
    );
    server.finished(second, ms(2_950));
    assert_eq!((server.room(ms(6_100), true), server.under_way()), (Some(1), 1));
}

/// A page that comes late lacks what was sent meanwhile, and one that was asked for before another one says nothing new.
#[test]
fn a_late_page_does_not_hide_what_was_sent_while_it_was_made() {
    let (server, mut watch) = (Server::new(64), Watch::new(128.0));
    let mut hear = |running, asked, now| {
        let counters = Counters { running: Some(running), waiting: Some(0), ..Counters::default() };
        watch.heard(&server, &counters, ms(asked), ms(now));
    };
    let send = |at| server.sent(&PROMPT, &estimate(&server, &PROMPT, ms(at), None), ms(at));
    server.set_most(Some(4));
    send(1_000);
    send(2_100);
    send(3_500);
    hear(1, 2_000, 4_000);
    assert_eq!(server.room(ms(4_000), true), Some(1), "one is in it, two were sent later");
    hear(4, 1_500, 4_100);
    assert_eq!(server.room(ms(4_100), true), Some(1), "an older page");
    hear(3, 4_200, 4_210);
    assert_eq!((server.room(ms(4_300), true), server.under_way()), (Some(1), 3));
    hear(0, 5_000, 15_000);
    assert_eq!(server.under_way(), 3, "a page that has taken ten seconds says nothing of now");
}
