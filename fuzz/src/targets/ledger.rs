//! The ledger: each request is settled once, nothing that proves nothing changes anything, and what is exact is what was told.
//! (`metering/src/ledger/tests/model.rs` compares it with a model of when and how each request is closed.)

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use metering::{
    Ledger, LedgerOptions, MeteredEndpoint, Receipt, RecordReceipt, RequestId, RequestReservation,
    RequestSettlement, RequestShape, ReservedTokens, SpanId, SpanReceipt, Trust, UsageKind,
};

/// What happens to the ledger.
#[derive(Debug, Clone)]
enum LedgerEvent {
    Open(RequestReservation<u8>),
    Tell(Receipt),
    /// So many seconds pass.
    Pass(u8),
}

/// Reads bytes one after another; after the last one, zeros.
struct Bytes<'d>(&'d [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let capacity = usize::from(bytes.next() % 8) + 1;
    let mut opened = HashSet::new();
    let mut events = Vec::new();
    while !bytes.0.is_empty() && events.len() < 200 {
        let event = event(&mut bytes);
        // Ids are random, so none comes twice.
        if !matches!(&event, LedgerEvent::Open(reservation) if !opened.insert(reservation.held)) {
            events.push(event);
        }
    }
    let (settled, told) = play(&events, capacity);
    let ids: HashSet<u8> = settled.iter().map(|one| one.held).collect();
    assert_eq!(ids, opened, "each is settled");
    assert_eq!(ids.len(), settled.len(), "and once");
    for one in settled.iter().filter(|one| one.kind == UsageKind::Exact) {
        assert_told(one, &told);
    }
    // Without those who have proven nothing.
    let proven: Vec<LedgerEvent> = events.iter().filter(|event| proves(event)).cloned().collect();
    let (again, _) = play(&proven, capacity);
    assert_eq!(again, settled, "a stranger's word has changed something");
}

/// The tokens of a settlement come from its own spans, or from the record of an embedding.
fn assert_told(one: &RequestSettlement<u8>, told: &HashMap<RequestId, Vec<Receipt>>) {
    let mut completions: HashMap<u64, u64> = HashMap::new();
    let mut prompts = 0_u64;
    let mut counted = 0;
    for receipt in told.get(&one.request).into_iter().flatten() {
        match receipt {
            Receipt::Span(span) => {
                // Told twice, it counts once; which of the two was heard does not matter here.
                let most = completions.entry(span.span).or_default();
                *most = span.completion_tokens.max(*most);
                prompts += span.prompt_tokens;
            }
            Receipt::Record(record) => counted += record.compute_tokens.unwrap_or(0),
        }
    }
    let most: u64 = completions.values().sum();
    assert!(one.used.completion <= most, "{one:?}: {told:?}");
    assert!(one.used.prompt <= prompts.max(counted), "{one:?}: {told:?}");
}

/// Returns all settlements, and what was told about each request by whom it could be.
fn play(
    events: &[LedgerEvent],
    capacity: usize,
) -> (Vec<RequestSettlement<u8>>, HashMap<RequestId, Vec<Receipt>>) {
    let second = Duration::from_secs(1);
    let (wait, grace, early_wait) = (30 * second, 5 * second, 10 * second);
    let mut ledger = Ledger::new(LedgerOptions { wait, grace, capacity, early_wait, early_capacity: 1_000 });
    let (mut now, mut settled, mut told) = (Duration::ZERO, Vec::new(), HashMap::new());
    for event in events {
        match event {
            LedgerEvent::Open(reservation) => ledger.open(reservation.clone(), now),
            LedgerEvent::Tell(receipt) => {
                let about = match receipt {
                    Receipt::Span(span) => span.request,
                    Receipt::Record(record) => Some(record.request),
                };
                if let Some(request) = about {
                    told.entry(request).or_insert_with(Vec::new).push(receipt.clone());
                }
                ledger.tell(receipt.clone(), now);
            }
            LedgerEvent::Pass(seconds) => now += u32::from(*seconds) * second,
        }
        ledger.advance(now);
        assert!(ledger.len() <= capacity, "{} of {capacity}", ledger.len());
        settled.extend(ledger.take_settled());
    }
    ledger.close_all();
    assert!(ledger.is_empty());
    settled.extend(ledger.take_settled());
    let counts = ledger.counts();
    assert_eq!(counts.exact + counts.measured + counts.estimated, settled.len() as u64);
    (settled, told)
}

fn event(bytes: &mut Bytes<'_>) -> LedgerEvent {
    match bytes.next() % 8 {
        0 | 1 => LedgerEvent::Open(reservation(bytes.next() % 32, bytes.next())),
        2 => LedgerEvent::Pass(bytes.next() % 40),
        3..=5 => LedgerEvent::Tell(Receipt::Span(span(bytes))),
        _ => LedgerEvent::Tell(Receipt::Record(record(bytes))),
    }
}

fn request(number: u8) -> RequestId {
    RequestId(u128::from(number) + 1)
}

/// The secret of a request.
fn parent(number: u8) -> SpanId {
    SpanId(0x5eed_0000 + u64::from(number))
}

fn reservation(number: u8, shape: u8) -> RequestReservation<u8> {
    let endpoint = if shape & 1 == 0 { MeteredEndpoint::ChatCompletions } else { MeteredEndpoint::Other };
    let (choices, prompts) = (u16::from(shape >> 1 & 1) + 1, u16::from(shape >> 2 & 1) + 1);
    RequestReservation {
        request: request(number),
        parent: parent(number),
        model: Arc::from(if shape & 8 == 0 { "llama" } else { "mistral" }),
        shape: RequestShape {
            endpoint,
            streams: shape & 16 == 0,
            traces: shape & 32 == 0,
            is_shaped: shape & 128 != 0,
            is_mirrored: shape & 192 == 192,
            has_beams: shape & 144 == 144,
            choices,
            prompts,
        },
        reserved: ReservedTokens { prompt: 10, completion: 1_000, is_open: shape & 64 == 0 },
        waited: Duration::ZERO,
        held: number,
    }
}

/// Who speaks: the parent that is told, and whether the sender is trusted.
fn speaker(bytes: &mut Bytes<'_>) -> (u8, Option<SpanId>, Trust) {
    let (number, who) = (bytes.next() % 32, bytes.next());
    let parent = match who & 3 {
        0 | 1 => Some(parent(number)),
        2 => Some(SpanId(7)),
        _ => None,
    };
    (number, parent, if who & 4 == 0 { Trust::None } else { Trust::Proven })
}

fn span(bytes: &mut Bytes<'_>) -> SpanReceipt {
    let (number, parent, trust) = speaker(bytes);
    SpanReceipt {
        trust,
        span: u64::from(bytes.next() % 8),
        parent,
        request: Some(request(number)),
        part: if bytes.next() & 1 == 0 { "-0".to_owned() } else { "-1".to_owned() },
        prompt_tokens: bytes.next().into(),
        cached_tokens: None,
        completion_tokens: bytes.next().into(),
        choices: Some(u32::from(bytes.next() % 3)),
        time_to_first_token: None,
        duration: None,
    }
}

fn record(bytes: &mut Bytes<'_>) -> RecordReceipt {
    let (number, parent, trust) = speaker(bytes);
    let how = bytes.next();
    let status = if how & 1 == 0 { 200 } else { 502 };
    RecordReceipt {
        trust,
        request: request(number),
        parent,
        status,
        server_status: if how & 2 == 0 { status } else { 0 },
        request_bytes: 200,
        answer_bytes: u64::from(bytes.next()) * 100,
        duration: Duration::from_millis(400),
        server_duration: Duration::from_millis(390),
        retries: u32::from(how >> 2 & 1),
        server: None,
        compute_tokens: (how & 8 != 0).then_some(9),
    }
}

/// Whether its speaker has proven something: who it is, or that it knows the secret of a request.
fn proves(event: &LedgerEvent) -> bool {
    let is_secret = |id: RequestId, given: Option<SpanId>| {
        given.is_some_and(|given| u128::from(given.0) == id.0 - 1 + 0x5eed_0000)
    };
    match event {
        LedgerEvent::Tell(Receipt::Span(span)) => {
            span.trust == Trust::Proven || span.request.is_some_and(|id| is_secret(id, span.parent))
        }
        // Traefik's word about any request shows that it tells of requests.
        LedgerEvent::Tell(Receipt::Record(record)) => {
            record.trust == Trust::Proven || is_secret(record.request, record.parent)
        }
        LedgerEvent::Open(_) | LedgerEvent::Pass(_) => true,
    }
}
