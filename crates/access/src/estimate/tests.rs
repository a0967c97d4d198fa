use catalogue::Kind;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn chat(body: &str) -> u32 {
    at("/v1/chat/completions", body)
}

fn at(path: &str, body: &str) -> u32 {
    let tokens = tokens(path, Some(body.as_bytes()), None);
    // Bodies that can be counted while they are read must give the same count.
    if let Some(count) = crate::read::count(body.as_bytes()) {
        assert_eq!(count.sum(path, None).tokens(), tokens, "while it is read: {body}");
    }
    tokens
}

/// Otherwise bodies would be read twice, unnoticed.
#[test]
fn what_clients_send_is_counted_while_it_is_read() {
    let text = "x\\n\\u00e9".repeat(100);
    for body in [
        format!(r#"{{"model":"a","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":10,"n":2}}"#),
        format!(
            r#"{{"model":"a","prompt":"{text}","stream":true,"file_id":"f","conversation":{{"id":"1"}}}}"#
        ),
        format!(r#"{{"model":"a","prompt":["{text}","b"],"lora_path":["c"],"adapter_id":null}}"#),
        format!(r#"{{"model":"a","type":"document","source":{{"data":"{text}"}}}}"#),
        format!(r#"{{"model":"{}","name":"{text}"}}"#, "long".repeat(40)),
    ] {
        assert!(crate::read::count(body.as_bytes()).is_some(), "{body}");
        assert!(chat(&body) > 0);
    }
    for body in [r#"{"x":1e999}"#.to_owned(), format!(r#"{{"x":{}1{}}}"#, "[".repeat(200), "]".repeat(200))] {
        assert!(crate::read::count(body.as_bytes()).is_none(), "{body}");
    }
}

#[test]
fn prompt_and_answer_count() {
    for (body, expected) in [
        (r#"{"model":"a","messages":[{"role":"user","content":"12345678"}],"max_tokens":10}"#, 12),
        (r#"{"messages":[{"content":"123456789"}],"max_completion_tokens":10}"#, 13),
        (r#"{"messages":[{"content":"\u00e9\u00e8"}],"max_tokens":1}"#, 3),
        (r#"{"messages":[{"content":"1234"}],"max_tokens":10,"n":3}"#, 31),
        (r#"{"messages":[{"content":"1234"}],"max_tokens":10,"n":3,"best_of":5}"#, 51),
        (r#"{"messages":[{"content":"1234"}]}"#, 1001),
        (r#"{"prompt":[1,2,3],"max_tokens":1}"#, 4),
        (r#"{"prompt":["1234","1234","1234"],"max_tokens":10,"n":2}"#, 63),
        (r#"{"prompt":[[1,2],[3]],"max_tokens":10}"#, 23),
        (r#"{"prompt":"1234","max_tokens":10.0,"n":"8"}"#, 81),
        (r#"{"prompt":"1234","max_tokens":1,"n":1000}"#, 1001),
        (r#"{"messages":[{"content":"data:image/png;base64,AAAA"}],"max_tokens":1}"#, 8),
    ] {
        assert_eq!(chat(body), expected, "{body}");
    }
}

/// Ollama and llama.cpp then generate without end; clients send null for fields that they leave unset.
#[test]
fn an_answer_that_is_not_limited_counts_as_long_as_usual() {
    for max in ["0", "-1", "-1.0", "\"-1\"", "\"\"", "null", "true", "[]", "{}", "1,\"max_tokens\":null"] {
        assert_eq!(chat(&format!(r#"{{"prompt":"","max_tokens":{max},"user":"u"}}"#)), 1000, "{max}");
    }
    assert_eq!(chat(r#"{"max_tokens":null,"max_completion_tokens":5}"#), 5);
    assert_eq!(chat(r#"{"max_tokens":5,"max_completion_tokens":0}"#), 1000);
    assert_eq!(chat(r#"{"max_tokens":5000,"max_completion_tokens":0}"#), 5000);
}

#[test]
fn only_what_the_endpoint_looks_at_makes_an_answer_shorter() {
    for (path, own) in [
        ("/v1/chat/completions", "max_completion_tokens"),
        ("/v1/completions", "max_tokens"),
        ("/models/a/v1/responses?x=y", "max_output_tokens"),
        ("/v1/messages", "max_tokens"),
        ("/completion", "n_predict"),
        ("/somewhere/else", "n_predict"),
        ("/somewhere/else", "max_new_tokens"),
    ] {
        assert_eq!(at(path, &format!(r#"{{"{own}":7}}"#)), 7, "{path}");
    }
    assert_eq!(
        at("/api/chat", r#"{"options":{"num_predict":5},"messages":[{"images":["AAAA","BBBB"]}]}"#),
        2005
    );
    assert_eq!(at("/generate", r#"{"text":"1234","sampling_params":{"max_new_tokens":7}}"#), 8);
    assert_eq!(at("/generate", r#"{"inputs":"1234","parameters":{"max_new_tokens":7}}"#), 8);
    assert_eq!(
        at("/generate", r#"{"text":["1234","1234"],"sampling_params":[{"max_new_tokens":7},{"n":2}]}"#),
        30
    );
    assert_eq!(at("/generate", r#"{"input_ids":[[1,2],[3]],"sampling_params":{"max_new_tokens":7}}"#), 17);
    assert_eq!(at("/v1/completions", r#"{"prompt_embeds":["AAAA","BBBB"],"max_tokens":7}"#), 16);
    for (path, of_others) in [
        ("/v1/chat/completions", "n_predict"),
        ("/api/generate", "num_predict"),
        ("/generate", "max_new_tokens"),
        ("/v1/completions", "max_completion_tokens"),
        ("/v1/responses", "max_tokens"),
        ("/api/generate", "max_tokens"),
    ] {
        assert_eq!(at(path, &format!(r#"{{"{of_others}":7}}"#)), 1000, "{path}");
        assert_eq!(at(path, &format!(r#"{{"{of_others}":7000}}"#)), 7000, "{path}");
    }
}

/// llama.cpp answered each of these with thousands of tokens; they used to count as three.
#[test]
fn a_length_where_no_server_looks_is_none() {
    for (path, body) in [
        ("/v1/chat/completions", r#"{"max_tokens":1,"n_predict":-1}"#),
        ("/v1/completions", r#"{"max_tokens":1,"n_predict":-1}"#),
        ("/v1/responses", r#"{"max_output_tokens":1,"n_predict":-1}"#),
        ("/v1/messages", r#"{"n_predict":"-1","max_tokens":1}"#),
        ("/v1/chat/completions", r#"{"extra":{"max_tokens":1}}"#),
        ("/v1/chat/completions", r#"{"messages":[{"max_tokens":1}]}"#),
        ("/v1/chat/completions", r#"{"logit_bias":{"max_tokens":1}}"#),
        ("/v1/chat/completions", r#"{"options":{"max_tokens":1}}"#),
        ("/api/chat", r#"{"options":{"options":{"num_predict":1}}}"#),
    ] {
        // A text in place of a number counts as text of one token.
        assert!((1000..=1001).contains(&at(path, body)), "{path} {body}");
    }
    assert_eq!(chat(r#"{"max_tokens":50,"n_cmpl":2}"#), 100);
    assert_eq!(
        chat(r#"{"messages":[{"n":7}],"max_tokens":50}"#),
        51,
        "no choices, but a number that is read"
    );
}

#[test]
fn images_sounds_and_files_count_as_a_whole() {
    for (content, expected) in [
        (
            r#"{"type":"text","text":"1234"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#,
            1001,
        ),
        (r#"{"type":"input_image","image_url":"https://example.com/a-picture.png"}"#, 1000),
        (
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAAAAAAAAAA"}}"#,
            1000,
        ),
        (r#"{"source":{"type":"url","url":"https://example.com/a.pdf"},"type":"document"}"#, 2000),
        (
            r#"{"type":"document","source":{"media_type":"application/pdf","data":"AAAAAAAAAAAA","type":"base64"}}"#,
            2000,
        ),
        (
            r#"{"type":"document","title":"1234","source":{"data":"12345678","type":"text","media_type":"text/plain"}}"#,
            3,
        ),
        (
            r#"{"type":"document","source":{"type":"content","content":[{"type":"text","text":"12345678"},{"type":"image","source":{"type":"file","file_id":"f"}}]}}"#,
            1002,
        ),
        (
            r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"base64","data":"AAAA"}}]}"#,
            1001,
        ),
        (r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#, 2000),
        (r#"{"type":"video_url","video_url":{"url":"https://example.com/a.mp4"}}"#, 2000),
        (r#"{"type":"input_file","file_id":"file-1"}"#, 2000),
        (r#"{"type":"other","value":"data:video/mp4;base64,AAAA"}"#, 2000),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":[{content}]}}],"max_tokens":1}}"#);
        assert_eq!(at("/v1/messages", &body), expected + 1, "{content}");
    }
}

/// Otherwise a client whose prompt begins like this would pay for one file and have a whole book read.
#[test]
fn what_only_begins_like_data_is_text() {
    let long = "data:text/plain;base64,".to_owned() + &"tell me more ".repeat(2_000);
    assert_eq!(at("/v1/embeddings", &format!(r#"{{"input":"{long}"}}"#)), 6506);
    assert_eq!(at("/v1/embeddings", r#"{"input":["data:,1","data:image/png;base64,AAAA"]}"#), 1002);
}

/// In tools, their arguments and schemas `n` is not the number of answers, nor `file` a file.
#[test]
fn tools_and_their_arguments_are_text() {
    for (field, expected) in [
        (r#""tools":[{"function":{"name":"1234","description":"12345678"}}]"#, 9),
        (
            r#""tools":[{"input_schema":{"properties":{"n":{"default":50},"file":{"description":"12345678"}}}}]"#,
            15,
        ),
        (
            r#""messages":[{"content":[{"type":"tool_use","input":{"n":50,"max_tokens":900,"image":"12345678"}}]}]"#,
            8,
        ),
        (r#""messages":[{"tool_calls":[{"function":{"arguments":{"prompt":["1234","1234"]}}}]}]"#, 8),
        (r#""metadata":{"n":"9"}"#, 1),
    ] {
        assert_eq!(at("/v1/messages", &format!(r#"{{{field},"max_tokens":1}}"#)), expected + 1, "{field}");
    }
}

#[test]
fn what_has_no_answer_in_tokens_counts_its_prompt() {
    assert_eq!(tokens("/v1/embeddings", Some(br#"{"input":["1234","5678"]}"#), Some(9)), 2);
    assert_eq!(at("/models/a/v1/rerank?x=y", r#"{"query":"1234","documents":["1234"]}"#), 2);
    assert_eq!(at("/score", r#"{"text_1":"1234","text_2":["1234"]}"#), 2);
    assert_eq!(at("/v1/audio/speech", r#"{"input":"12345678","voice":"alloy"}"#), 4);
    assert_eq!(at("/v1/audio/transcriptions", "--boundary"), 2000);
    assert_eq!(at("/v1/realtime", ""), 1);
    // The endpoint decides, not the name of a model in the path.
    assert_eq!(at("/models/x/images/small/v1/chat/completions", "{}"), 1000);
}

/// Python's servers read UTF-16, and some decompress a body; if a model has its servers to itself, both reach them.
#[test]
fn a_prompt_in_another_encoding_is_not_free() {
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let body = utf_16(&format!(r#"{{"messages":[{{"content":"{}"}}]}}"#, "1234".repeat(10_000)));
    let counted = tokens("/v1/chat/completions", Some(&body), None);
    assert!((21_000..21_100).contains(&counted), "{counted}");
    assert_eq!(tokens("/a/form/of/somebody", Some(&body), None), 3000);
}

#[test]
fn a_body_that_was_not_handed_over_counts_as_a_file_and_an_answer() {
    assert_eq!(tokens("/v1/chat/completions", None, None), 3000);
    assert_eq!(tokens("/v1/chat/completions", None, Some(50)), 2050);
    assert_eq!(tokens("/v1/embeddings", None, None), 2000);
}

#[test]
fn a_model_may_have_a_default_of_its_own() {
    let of = |body: &str| tokens("/v1/chat/completions", Some(body.as_bytes()), Some(50));
    assert_eq!((of(r#"{"prompt":"1234"}"#), of(r#"{"prompt":"1234","max_tokens":2}"#)), (51, 3));
}

#[test]
fn numbers_beyond_all_measure_do_not_wrap() {
    assert_eq!(chat(r#"{"max_tokens":18446744073709551615,"n":9}"#), u32::MAX);
}

/// Python reads the digits of all scripts: vLLM takes the first for five tokens, and the second for two answers. Others ignore them, so
/// the answer is as long as usual, and there may be any number of them.
#[test]
fn a_number_that_only_some_readers_read_leaves_the_answer_open() {
    assert_eq!(chat(r#"{"prompt":"","max_tokens":"٥"}"#), 1000);
    assert_eq!(chat(r#"{"prompt":"","max_tokens":5,"n":"٢"}"#), u32::MAX);
}

/// An image counts 1000 tokens and a file 2000, but only in a field that a server may read: Ollama's reader ignores case, no reader
/// ignores what is between letters.
#[test]
fn media_in_a_field_of_another_case_count_as_media() {
    for (name, expected) in [
        ("images", 1000),
        ("Images", 1000),
        ("IMAGES", 1000),
        ("Image_URL", 1000),
        ("Input_Audio", 2000),
        ("VIDEO", 2000),
        ("imageurl", 1),
        ("i_mage", 1),
        ("Picture", 1),
    ] {
        let body = format!(r#"{{"messages":[{{"{name}":["AAAA"]}}],"max_tokens":5}}"#);
        assert_eq!(chat(&body), expected + 5, "{name}");
    }
}

/// A hard budget or a limit of tokens would take 7 tokens for an answer that the server does not bound. A number beside it counts as a token.
#[test]
fn only_another_case_disguises_the_length_of_an_answer() {
    for (name, expected) in
        [("max_tokens", 7), ("Max_Tokens", 7), ("maxtokens", 1001), ("m_a_x_tokens", 1001)]
    {
        assert_eq!(chat(&format!(r#"{{"prompt":"","{name}":7}}"#)), expected, "{name}");
    }
}

/// Of several objects of settings it is not known which one a server takes: none of them bounds the answer.
#[test]
fn only_one_object_of_settings_bounds_an_answer() {
    let sglang = Servers::of_test(Kind::Sglang);
    for (settings, is_open) in [
        (r#""sampling_params":{"max_new_tokens":5}"#, false),
        (r#""sampling_params":[{"max_new_tokens":5}]"#, true),
        (r#""sampling_params":{"max_new_tokens":5},"sampling_params":{"max_new_tokens":5}"#, true),
        (r#""sampling_params":[{"max_new_tokens":5}],"sampling_params":{"max_new_tokens":5}"#, true),
    ] {
        let count = Count::of(format!(r#"{{"text":"1234",{settings}}}"#).as_bytes()).expect("JSON");
        assert_eq!(count.is_open("/generate", sglang), is_open, "{settings}");
    }
}

/// Who only counts tokens takes none from limits and budgets, whatever the body is.
#[test]
fn a_request_that_generates_nothing_takes_nothing() {
    for path in ["/v1/messages/count_tokens", "/v1/messages/Count_Tokens/?beta=true", "/%74okenize"] {
        for body in [None, Some(&b""[..]), Some(br#"{"messages":[{"content":"12345678"}]}"#), Some(b"\xff")] {
            assert_eq!(sum(path, body, None), Sum { prompt: 0, answer: 0, open: None }, "{path} {body:?}");
        }
    }
}

/// The reader accepts these, as some servers do; they must not make a long request cheap.
#[test]
fn json_that_cannot_be_read_to_the_end_is_no_cheaper() {
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let content = "1234".repeat(10_000);
    for strange in [deep.as_str(), r#""\ud83d""#, "1e999"] {
        let body = format!(
            r#"{{"x":{strange},"messages":[{{"content":"{content}"}}],"max_tokens":5000,"n":2,"y":{strange}}}"#
        );
        let counted = chat(&body);
        assert!((20_000..21_100).contains(&counted), "{counted} for {:.20}", strange);
        let inside = format!(r#"{{"messages":[{{"x":{strange},"content":"{content}"}}],"max_tokens":5000}}"#);
        let counted = chat(&inside);
        assert!(counted >= 15_000, "{counted} for {:.20} inside", strange);
    }
}

/// Fields that mean something here, and others.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "text", "content", "input", "prompt", "tools", "type", "source", "data", "image", "images", "image_url",
            "file", "document", "audio", "format", "max_tokens", "max_output_tokens", "n", "user",
        ])
        .prop_map(str::to_owned),
        1 => "[a-z]{1,4}",
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0.0..1e20).prop_map(Value::from),
        prop::sample::select(vec!["document", "text", "content", "data:image/png;base64,AAAA", "1", "é"])
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any_name(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// A client can add anything beside its prompt.
    #[test]
    fn nothing_beside_a_prompt_makes_it_cheaper(name in any_name(), value in any_value(), letters in 0_usize..10_000) {
        let prompt = format!(r#""messages":[{{"role":"user","content":"{}"}}]"#, "x".repeat(letters));
        let alone = at("/v1/embeddings", &format!("{{{prompt}}}"));
        let with = at("/v1/embeddings", &format!(r#"{{"{name}":{value},{prompt}}}"#));
        prop_assert!(with >= alone, "{with} with it, {alone} without");
        for strange in ["1e999", r#""\ud83d""#] {
            let strange = at("/v1/embeddings", &format!(r#"{{"{name}":{value},"x":{strange},{prompt}}}"#));
            prop_assert!(strange >= with, "{strange} where it cannot be read to the end, {with} where it can");
        }
    }
}

/// Readers differ about everything else, and a whole answer has more tokens in a byte.
#[test]
fn an_answer_streams_only_if_each_reader_says_so() {
    let answers = |body: &str| Count::of(body.as_bytes()).expect("JSON").answers();
    for (body, streams) in [
        (r#"{"model":"m"}"#, None),
        (r#"{"model":"m","stream":true}"#, Some(true)),
        (r#"{"model":"m","stream":false}"#, Some(false)),
        (r#"{"model":"m","stream":true,"stream":null}"#, Some(false)),
        (r#"{"model":"m","stream":true,"stream":"false"}"#, Some(false)),
        (r#"{"model":"m","stream":true,"stream":true}"#, Some(false)),
        (r#"{"model":"m","stream":1}"#, Some(false)),
        (r#"{"model":"m","Stream":false}"#, Some(false)),
        ("{\"model\":\"m\",\"\u{17f}tream\":true}", Some(false)),
        (r#"{"model":"m","metadata":{"stream":false},"stream":true}"#, Some(true)),
    ] {
        assert_eq!(answers(body).streams, streams, "{body}");
        // Regression: a body that was counted while its model was read said nothing about streaming, and each stream was
        // measured as a whole answer, with forty times its tokens.
        let read = crate::read::count(body.as_bytes()).expect("it can be counted while it is read");
        assert_eq!(read.answers(), answers(body), "{body}");
    }
    assert_eq!(answers(r#"{"n":"1_0"}"#).choices, 10);
    assert_eq!(
        answers(r#"{"prompt":["a","b"],"n":2}"#),
        Answers { choices: 2, prompts: 2, ..Answers::default() }
    );
}

/// Bytes of an answer tell its tokens only if no field has changed how many bytes a token takes.
#[test]
fn a_field_that_is_not_known_to_leave_bytes_alone_shapes_the_answer() {
    let is_shaped = |body: &str| {
        let counted = Count::of(body.as_bytes()).expect("JSON").answers();
        let read = crate::read::count(body.as_bytes()).expect("it can be counted while it is read");
        assert_eq!(read.answers(), counted, "{body}");
        counted.is_shaped
    };
    for plain in [
        r#"{"model":"m","messages":[{"role":"user","content":"a","logprobs":1}],"max_tokens":5,"stream":true}"#,
        r#"{"model":"m","prompt":"a","options":{"num_predict":5,"temperature":0.5}}"#,
        r#"{"model":"m","prompt":"a","stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"model":"m","metadata":{"stream_interval":9},"tools":[{"logprobs":true}]}"#,
    ] {
        assert!(!is_shaped(plain), "{plain}");
    }
    for shaped in [
        r#"{"model":"m","prompt":"a","stream_interval":1000}"#,
        r#"{"model":"m","prompt":"a","response_fields":["content"]}"#,
        r#"{"model":"m","prompt":"a","logprobs":20}"#,
        r#"{"model":"m","prompt":"a","stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#,
        r#"{"model":"m","prompt":"a","thinking":{"type":"enabled","display":"omitted"}}"#,
        r#"{"model":"m","prompt":"a","Model":"m"}"#,
        r#"{"model":"m","text":"a","sampling_params":{"stream_interval":1000}}"#,
        r#"{"model":"m","prompt":"a","a field of tomorrow":null}"#,
        r#"{"model":"m","prompt":"a","x":"\ud800"}"#,
    ] {
        assert!(Count::of(shaped.as_bytes()).expect("JSON").answers().is_shaped, "{shaped}");
    }
}

/// Regression: vLLM takes 7.0 and true for token ids, and a prompt of 500 counted as one token.
#[test]
fn token_ids_count_however_they_are_written() {
    for ids in ["7", "7.0", "true", "-7", "7e0"] {
        let list = [ids; 500].join(",");
        for body in [format!(r#"{{"prompt":[{list}]}}"#), format!(r#"{{"prompt":[[{list}]]}}"#)] {
            let sum = sum("/v1/completions", Some(body.as_bytes()), Some(5));
            assert_eq!(sum.prompt, 500, "{ids}");
        }
    }
}

/// What is not counted is free; what is counted twice is refused too early.
#[test]
fn each_character_is_counted_once() {
    for (body, expected) in [
        // Four ASCII characters are a token, and each other one.
        ("{\"prompt\":\"\u{e9}\u{e8}1234\",\"max_tokens\":1}", 4),
        ("{\"messages\":[{\"content\":\"\u{e9}1234\"},{\"content\":\"\u{e8}1234\"}],\"max_tokens\":1}", 5),
        (
            "{\"messages\":[{\"content\":[{\"type\":\"document\",\"source\":{\"type\":\"text\",\"data\":\"\u{e9}1234\"}},\
             {\"type\":\"document\",\"source\":{\"type\":\"text\",\"data\":\"\u{e8}1234\"}}]}],\"max_tokens\":1}",
            5,
        ),
        // A short word beside the prompt is nothing that the model reads, nor is a number there; a long text may be one.
        (r#"{"prompt":"1234","user":"u","seed":7,"max_tokens":1}"#, 2),
        (r#"{"prompt":"1234","messages":[{"role":7}],"max_tokens":1}"#, 2),
        (&*format!(r#"{{"prompt":"1234","user":"{}","max_tokens":1}}"#, "u".repeat(64)), 2),
        (&*format!(r#"{{"prompt":"1234","user":"{}","max_tokens":1}}"#, "u".repeat(68)), 19),
        (&*format!(r#"{{"prompt":"1234","messages":[{{"role":"{}"}}],"max_tokens":1}}"#, "u".repeat(68)), 19),
    ] {
        assert_eq!(chat(body), expected, "{body}");
    }
}

/// The whole body may be a document, wherever its type stands in it.
#[test]
fn a_body_is_a_document_only_by_its_type() {
    let source = r#""source":{"type":"base64","data":"AAAA"}"#;
    for (fields, expected) in [
        (format!(r#""type":"document",{source}"#), FILE),
        (format!(r#"{source},"type":"document","user":"document""#), FILE),
        (format!(r#"{source},"user":"document""#), IMAGE),
        (format!(r#"{source},"type":"image""#), IMAGE),
        (format!(r#""type":"document",{source},"seed":1"#), FILE),
    ] {
        assert_eq!(u64::from(chat(&format!("{{{fields},\"max_tokens\":1}}"))), expected + 1, "{fields}");
    }
}

/// Of JSON that only some servers accept, the rest counts and streams as in any other body.
#[test]
fn odd_json_streams_and_is_shaped_as_it_says() {
    let answers = |fields: &str| {
        let body = format!(r#"{{"model":"m","prompt":"a","odd":1e999{fields}}}"#);
        Count::of(body.as_bytes()).expect("an object").answers()
    };
    assert_eq!(answers("").streams, None);
    assert_eq!(answers(r#","stream":true"#).streams, Some(true));
    assert_eq!(answers(r#","stream":true,"stream":true"#).streams, Some(false));
    let plain = Count::of(br#"{"model":"m","prompt":"\ud83d"}"#).expect("an object").answers();
    assert!(!plain.is_shaped && answers("").is_shaped, "a field that nobody knows");
}
