//! What real senders have sent (`testdata/README.md`), read from protobuf and JSON.

use metering::{Receipt, RecordReceipt, RequestId, SpanId, SpanReceipt, Trust};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use prost::Message as _;

use crate::{found::Found, json, protobuf};

pub(crate) const VLLM: &[u8] = include_bytes!("../testdata/vllm-0.32.0-requests.pb");
const VLLM_LOADING: &[u8] = include_bytes!("../testdata/vllm-0.32.0-loading.pb");
pub(crate) const TRAEFIK: &[u8] = include_bytes!("../testdata/traefik-3.7.15-records.pb");
const TRAEFIK_TRACEPARENT: &[u8] = include_bytes!("../testdata/traefik-3.7.15-traceparent.pb");
const TRAEFIK_TRACING: &[u8] = include_bytes!("../testdata/traefik-3.7.15-tracing.pb");
const TRAEFIK_JSON: &[u8] = include_bytes!("../testdata/traefik-3.7.15-json.pb");
const TRAEFIK_OLD: &[u8] = include_bytes!("../testdata/traefik-3.3.6-records.pb");

/// The spans of a body, whose JSON must mean the same.
fn spans(body: &[u8]) -> (Vec<SpanReceipt>, u64) {
    let found = protobuf::spans(body).expect("spans");
    let message = ExportTraceServiceRequest::decode(body).expect("spans");
    let text = serde_json::to_vec(&message).expect("JSON");
    assert_eq!(json::spans(&text).expect("JSON"), found);
    let others = found.others;
    let span = |receipt| match receipt {
        Receipt::Span(span) => span,
        Receipt::Record(record) => panic!("{record:?}"),
    };
    (found.receipts.into_iter().map(span).collect(), others)
}

/// The records of a body, whose JSON must mean the same.
fn records(body: &[u8]) -> (Vec<RecordReceipt>, u64) {
    let found = protobuf::records(body).expect("records");
    let message = ExportLogsServiceRequest::decode(body).expect("records");
    let text = serde_json::to_vec(&message).expect("JSON");
    assert_eq!(json::records(&text).expect("JSON"), found);
    let others = found.others;
    let record = |receipt| match receipt {
        Receipt::Record(record) => record,
        Receipt::Span(span) => panic!("{span:?}"),
    };
    (found.receipts.into_iter().map(record).collect(), others)
}

/// The requests to vLLM had the ids a…1, a…2 and so on, and the parents b…1, b…2 and so on.
fn nth(n: u8) -> (Option<RequestId>, Option<SpanId>) {
    (Some(RequestId(0xa << 124 | u128::from(n))), Some(SpanId(0xb << 60 | u64::from(n))))
}

#[test]
fn vllms_spans_tell_the_tokens_of_each_prompt_and_choice() {
    let (spans, others) = spans(VLLM);
    let told: Vec<_> = spans
        .iter()
        .map(|span| ((span.request, span.parent), &*span.part, span.prompt_tokens, span.completion_tokens))
        .collect();
    let response = (None, nth(4).1);
    let expected = [
        (nth(1), "", 8, 8),
        // Two choices.
        (nth(2), "", 7, 8),
        (nth(2), "", 7, 8),
        // Two prompts.
        (nth(3), "-0", 1, 5),
        (nth(3), "-1", 3, 5),
        // `/v1/responses` has an id of its own.
        (response, "", 7, 6),
        (nth(5), "", 6, 5),
        // Two prompts with two choices each.
        (nth(6), "-0", 1, 5),
        (nth(6), "-0", 1, 5),
        (nth(6), "-1", 3, 5),
        (nth(6), "-1", 3, 5),
    ];
    assert_eq!(told, expected);
    assert_eq!(others, 0);
    let first = &spans[0];
    assert_eq!((first.trust, first.choices, first.cached_tokens), (Trust::None, Some(1), None));
    assert_eq!(first.span, 0x17ef_6819_bf66_f364);
    assert_eq!(first.duration.map(|time| time.as_millis()), Some(146));
    assert_eq!(first.time_to_first_token.map(|time| time.as_millis()), Some(85));
}

#[test]
fn spans_of_loading_a_model_tell_nothing_about_a_request() {
    let (spans, others) = spans(VLLM_LOADING);
    assert_eq!((spans, others > 0), (vec![], true));
}

#[test]
fn traefiks_records_tell_how_a_request_ended() {
    let (records, others) = records(TRAEFIK);
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            let times = (record.duration.as_millis() as u64, record.server_duration.as_millis() as u64);
            let last = record.request.0 as u8;
            (last, record.status, record.server_status, record.request_bytes, record.answer_bytes, times)
        })
        .collect();
    let expected = [
        (0x00, 200, 200, 13, 5, (6, 1)),
        (0x01, 429, 429, 13, 5, (45, 44)),
        // The server closed the connection: Traefik's own 502 counts as the server's.
        (0x02, 502, 502, 13, 11, (1, 0)),
        // A stream that its client broke off.
        (0x03, 200, 0, 13, 50, (1000, 0)),
        // Broken off before the answer: Traefik's own 499.
        (0x04, 499, 499, 13, 21, (998, 997)),
        // A whole stream.
        (0x05, 200, 200, 13, 250, (5056, 5055)),
    ];
    for (told, expected) in told.iter().zip(&expected) {
        assert_eq!(
            (told.0, told.1, told.2, told.3, told.4),
            (expected.0, expected.1, expected.2, expected.3, expected.4)
        );
        assert!(told.5.0.abs_diff(expected.5.0) < 50 && told.5.1.abs_diff(expected.5.1) < 50, "{told:?}");
    }
    assert_eq!((told.len(), others), (6, 0));
    assert_eq!(records[0].server.as_deref(), Some("http://127.0.0.1:18501/"));
    assert_eq!((records[0].compute_tokens, records[3].compute_tokens), (Some(17), None));
    assert!(records.iter().all(|record| record.parent.is_none() && record.retries == 0));
}

/// A client may send an id that is another's. `/auth` refused the second request, so its record has the client's headers.
#[test]
fn a_record_has_the_secret_parent_and_none_of_a_refused_request_counts() {
    let secret = Some(SpanId(0xb7ad_6b71_6920_3331));
    // With Traefik's own tracing the server gets another parent; the record still has the one that `/auth` has set.
    for (body, ids) in [(TRAEFIK_TRACEPARENT, [0, 2]), (TRAEFIK_TRACING, [3, 5])] {
        let (records, others) = records(body);
        let told: Vec<_> = records.iter().map(|record| (record.request.0 as u8, record.parent)).collect();
        assert_eq!((told, others), (ids.map(|id| (id, secret)).to_vec(), 1));
    }
}

#[test]
fn other_versions_and_formats_send_the_same_attributes() {
    for body in [TRAEFIK_JSON, TRAEFIK_OLD] {
        let (records, others) = records(body);
        let told: Vec<_> = records.iter().map(|record| (record.status, record.server_status)).collect();
        assert_eq!((told, others), (vec![(200, 200), (499, 499), (502, 502)], 0));
    }
}

/// The reader keeps what it knows, whatever else a span has.
#[test]
fn prompts_are_dropped() {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
    let mut message = ExportTraceServiceRequest::decode(VLLM).expect("spans");
    let secret = |value| KeyValue {
        key: "gen_ai.prompt".into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let text = || Value::StringValue("my secret \"prompt\"".into());
    let list = Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(text()) }] });
    message.resource_spans[0].scope_spans[0].spans[0].attributes.extend([secret(text()), secret(list)]);
    for found in [
        protobuf::spans(&message.encode_to_vec()).expect("spans"),
        json::spans(&serde_json::to_vec(&message).expect("JSON")).expect("spans"),
    ] {
        assert!(!format!("{found:?}").contains("secret"));
        assert_eq!(found, protobuf::spans(VLLM).expect("spans"));
    }
}

#[test]
fn numbers_that_cannot_be_are_no_numbers() {
    let span = |attributes: &str| {
        let text = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"name":"llm_request","spanId":"00000000000000aa",
            "parentSpanId":"00000000000000bb","attributes":[{attributes}]}}]}}]}}]}}"#
        );
        json::spans(text.as_bytes()).expect("JSON").receipts
    };
    let prompt = |value: &str| span(&format!(r#"{{"key":"gen_ai.usage.prompt_tokens","value":{value}}}"#));
    assert_eq!(prompt(r#"{"intValue":"12"}"#).len(), 1);
    assert_eq!(prompt(r#"{"intValue":12}"#).len(), 1);
    for bad in [
        r#"{"intValue":"-1"}"#,
        r#"{"intValue":"x"}"#,
        r#"{"doubleValue":1e3}"#,
        r#"{"boolValue":true}"#,
        "{}",
    ] {
        assert_eq!(prompt(bad), [], "{bad}");
    }
    let tokens = r#"{"key":"gen_ai.usage.prompt_tokens","value":{"intValue":"1"}}"#;
    for bad in ["1e300", "-1.0", "1e30"] {
        let latency = format!(r#"{{"key":"gen_ai.latency.e2e","value":{{"doubleValue":{bad}}}}}"#);
        let receipts = span(&format!("{tokens},{latency}"));
        let [Receipt::Span(span)] = &receipts[..] else { panic!("{receipts:?}") };
        assert_eq!(span.duration, None, "{bad}");
    }
}

/// Found by the fuzz target `otlp_json`: in JSON a value of another kind was an empty text, and so the name of a server.
#[test]
fn a_value_of_another_kind_is_none_however_it_is_written() {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
    let mut message = ExportLogsServiceRequest::decode(TRAEFIK_TRACEPARENT).expect("records");
    for kind in [None, Some(Value::BoolValue(true)), Some(Value::BytesValue(b"x".to_vec()))] {
        for record in message.resource_logs.iter_mut().flat_map(|logs| &mut logs.scope_logs) {
            let attributes = record.log_records.iter_mut().flat_map(|record| &mut record.attributes);
            for server in attributes.filter(|attribute| attribute.key == "ServiceURL") {
                server.value = Some(AnyValue { value: kind.clone() });
            }
        }
        let (records, _) = records(&message.encode_to_vec());
        assert!(records.iter().all(|record| record.server.is_none()), "{kind:?}");
    }
}

/// Found by the fuzz target `otlp_protobuf`: a field that only newer versions know took the value away.
#[test]
fn fields_of_newer_versions_are_skipped_and_a_message_in_two_parts_is_one() {
    let attribute = |value: &[&[u8]]| {
        let key = b"\x0a\x0eOriginDuration".to_vec();
        value.iter().fold(key, |all, part| [&all[..], &[0x12, part.len() as u8], part].concat())
    };
    let message = ExportLogsServiceRequest::decode(TRAEFIK).expect("records");
    let record = &message.resource_logs[0].scope_logs[0].log_records[0];
    let duration = |attribute: Vec<u8>| {
        let mut record = record.clone();
        record.attributes.retain(|attribute| attribute.key != "OriginDuration");
        let mut record = record.encode_to_vec();
        record.extend([&[0x32, attribute.len() as u8], &attribute[..]].concat());
        let within = |field: u8, message: Vec<u8>| {
            let mut all = vec![field];
            prost::encode_length_delimiter(message.len(), &mut all).expect("room");
            all.extend(message);
            all
        };
        let (records, _) = records(&within(0x0a, within(0x12, within(0x12, record))));
        records[0].server_duration.as_nanos()
    };
    let (int, bool, unknown): (&[u8], &[u8], &[u8]) = (b"\x18\x07", b"\x10\x01", b"\x48\x01");
    assert_eq!(duration(attribute(&[int])), 7);
    assert_eq!(duration(attribute(&[&[int, unknown].concat()])), 7);
    assert_eq!(duration(attribute(&[int, unknown])), 7);
    assert_eq!(duration(attribute(&[int, b""])), 7);
    assert_eq!(duration(attribute(&[&[int, bool].concat()])), 0);
    assert_eq!(duration(attribute(&[int, bool])), 0);
}

/// Found by the fuzz target `otlp_protobuf`: in protobuf a time of 2^63 and more made an answer last for centuries, in JSON it was
/// no time.
#[test]
fn a_time_that_cannot_be_is_none_however_it_is_written() {
    const MOST: u64 = i64::MAX as u64;
    let mut message = ExportTraceServiceRequest::decode(VLLM).expect("spans");
    for (start, end, expected) in [
        (1, 2, Some(1)),
        (MOST - 1, MOST, Some(1)),
        (1, MOST + 1, None),
        (MOST + 1, MOST + 2, None),
        (2, 1, None),
        (0, 1, None),
    ] {
        let span = &mut message.resource_spans[0].scope_spans[0].spans[0];
        (span.start_time_unix_nano, span.end_time_unix_nano) = (start, end);
        span.attributes.retain(|attribute| attribute.key != "gen_ai.latency.e2e");
        let (spans, _) = spans(&message.encode_to_vec());
        let lasted = spans[0].duration.map(|time| time.as_nanos());
        assert_eq!(lasted, expected, "from {start} to {end}");
    }
}

#[test]
fn a_body_that_cannot_be_read_is_a_fault_at_whatever_byte_it_breaks_off() {
    let whole = protobuf::spans(VLLM).expect("spans");
    for end in 1..VLLM.len() {
        assert!(protobuf::spans(&VLLM[..end]).is_err(), "{end}");
    }
    assert_eq!(protobuf::spans(&[]), Ok(Found::default()));
    assert!(!whole.receipts.is_empty());
    for broken in
        ["", "7", "{", r#"{"resourceSpans":{}}"#, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[7]}]}]}"#]
    {
        assert!(json::spans(broken.as_bytes()).is_err(), "{broken}");
    }
    assert_eq!(json::spans(b"{}").expect("nothing"), Found::default());
}
