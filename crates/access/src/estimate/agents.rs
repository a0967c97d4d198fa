//! What agents send costs little more than its bytes, and nothing in it hides what a server does besides.

use serde_json::{Value, json};

use super::*;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";
const SERVERS: Servers = Servers::of_test(catalogue::Kind::Vllm);
const UUID: &str = "0e984725-c51c-4bf4-9960-e1c80e27aba0";

fn find(uri: &str, body: &Value, context: Option<u64>) -> Result<Bound, Unbounded> {
    let body = body.to_string();
    let media = Media::of(uri, Some(body.as_bytes()));
    BoundOf { uri, body: Some(body.as_bytes()), count: None, media, context, servers: SERVERS }.find()
}

/// The tokens of its prompt beyond the template's.
fn prompt(uri: &str, body: &Value) -> u64 {
    find(uri, body, None).unwrap_or_else(|error| panic!("{uri} {body}: {error}")).prompt - TEMPLATE
}

/// A body with these fields besides those that each one has.
fn with(uri: &str, fields: Value) -> Value {
    let user = json!([{"role": "user", "content": "hi"}]);
    let mut body = match uri {
        RESPONSES => json!({"model": "m", "max_output_tokens": 9, "input": user}),
        _ => json!({"model": "m", "max_tokens": 9, "messages": user}),
    };
    let Value::Object(fields) = fields else { panic!("{fields} is no object") };
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// What OpenAI's Agents and Codex send back.
fn items() -> Value {
    json!([
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "gAAAA".repeat(30)},
        {"type": "message", "role": "assistant", "id": "m", "phase": "commentary", "agent": {"agent_name": "/root"},
         "content": [{"type": "output_text", "text": "y", "annotations": [{"type": "url_citation", "url": "https://a", "title": "b"}]}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "caller": {"type": "direct"}},
        {"type": "function_call_output", "call_id": "c", "output": "o", "caller": {"type": "program", "caller_id": "p"}},
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin Patch", "caller": {"type": "direct"}},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
        {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "local_shell_call_output", "id": "c", "output": "o"},
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}, "environment": {"type": "local"}},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "o", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
        {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "update_file", "path": "a.rs", "diff": "+x"}},
        {"type": "apply_patch_call_output", "call_id": "c", "status": "completed", "output": "done"},
        {"type": "computer_call", "call_id": "c", "action": {"type": "click", "x": 1, "y": 2, "button": "left"},
         "actions": [{"type": "drag", "path": [{"x": 1, "y": 2}]}], "pending_safety_checks": [{"id": "a"}]},
        {"type": "web_search_call", "id": "w", "status": "completed",
         "action": {"type": "search", "query": "q", "sources": [{"type": "url", "url": "https://a"}]}},
        {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"query": "q"}},
        {"type": "tool_search_output", "call_id": "c", "execution": "client", "tools": [
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": {}}]}]},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "g", "parameters": {}}]},
        {"type": "code_interpreter_call", "id": "i", "code": "1", "container_id": "c", "outputs": [{"type": "logs", "logs": "1"}]},
        {"type": "mcp_list_tools", "server_label": "l", "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        {"type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "l", "error": {"type": "http_error", "code": 500}},
        {"type": "configuration_update", "reasoning": {"effort": "low"}},
        {"type": "program", "code": "1"}, {"type": "program_output", "result": "1"},
        {"type": "compaction", "id": "k", "encrypted_content": "gAAAA".repeat(30)},
    ])
}

/// What Claude Code sends back, and what Anthropic's own tools have left.
fn blocks() -> Value {
    json!([
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "AAAA".repeat(30)},
            {"type": "tool_use", "id": "t", "name": "Bash", "caller": {"type": "direct"},
             "input": {"command": "ls", "tools": [{"type": "web_search"}], "image_url": "https://a"}},
            {"type": "tool_use", "id": "u", "name": "f", "input": {}, "caller": {"type": "code_execution_20260120", "tool_id": "x"}},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [
                {"type": "web_search_result", "url": "https://a", "title": "b", "encrypted_content": "AAAA"}]},
            {"type": "bash_code_execution_tool_result", "tool_use_id": "s", "content": {
                "type": "bash_code_execution_result", "stdout": "o", "stderr": "", "return_code": 0, "content": []}},
            {"type": "text", "text": "y", "citations": [{"type": "char_location", "cited_text": "z"}]},
            {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": {"type": "refusal"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "n"}, {"type": "text", "text": "o"}]},
            {"type": "tool_result", "tool_use_id": "u", "toolset_name": "browser", "content": [
                {"type": "browser_state", "tabs": [{"tab_id": 1, "url": "https://a", "title": "b"}],
                 "state_changes": [{"type": "tab_opened", "tab_id": 1}]}]},
        ]},
    ])
}

/// Regression: each `caller`, shell call and patch, and each id of a trace, cost 65,536 tokens.
#[test]
fn what_agents_send_costs_no_more_than_a_few_times_its_bytes() {
    let function = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"file": {"type": "string"}}}}});
    for (uri, fields) in [
        (
            MESSAGES,
            json!({
                "messages": blocks(), "stream": true, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"},
                "system": [{"type": "text", "text": "You are Claude Code", "cache_control": {"type": "ephemeral"}}],
                "metadata": {"user_id": UUID}, "speed": "fast", "diagnostics": {"previous_message_id": "msg_01ABCDEFGHIJKLMNOPQRSTUVWX"},
                "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
                "tools": [{"name": "Bash", "description": "d", "input_schema": {"type": "object"}}, {"type": "browser_toolset_20260801"}],
            }),
        ),
        (
            RESPONSES,
            json!({
                "input": items(), "instructions": "i", "store": false, "stream": true, "include": ["reasoning.encrypted_content"],
                "prompt_cache_key": UUID, "prompt_cache_options": {"mode": "explicit"}, "client_metadata": {"x": "y"},
                "reasoning": {"effort": "high", "summary": "auto"}, "text": {"verbosity": "low"},
                "tools": [
                    {"type": "function", "name": "f", "parameters": {}},
                    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
                    {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "custom", "name": "g"}]},
                    {"type": "tool_search", "execution": "client", "parameters": {}},
                    {"type": "shell", "environment": {"type": "local"}}, {"type": "local_shell"}, {"type": "computer"},
                ],
            }),
        ),
        (
            CHAT,
            json!({"messages": [
            {"role": "assistant", "content": "x", "reasoning_content": "r", "reasoning_details": [
                {"type": "reasoning.text", "text": "t", "signature": "s"}, {"type": "reasoning.summary", "summary": "s"},
                {"type": "reasoning.encrypted", "data": "AAAA"}], "provider_specific_fields": {"refusal": null}},
            {"role": "assistant", "content": [{"type": "reasoning_content", "reasoning_content": {"text": "x"}}, {"type": "text", "text": "x"}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"image_url\":\"http://a\"}"}}]},
            {"role": "tool", "tool_call_id": "1", "name": "f", "content": "o"},
            {"role": "system", "content": "s", "tools": [function.clone()]},
        ], "tools": [function], "provider": {"order": ["a/b"]}, "usage": {"include": true}}),
        ),
        (
            CHAT,
            json!({
                "chat_id": UUID, "trace_id": UUID, "litellm_call_id": UUID, "my_own_id": UUID.replace('-', ""), "tomorrow": {"run_id": UUID},
                "chat_template_kwargs": {"enable_thinking": false, "thinking_budget": 512, "reasoning_effort": "low", "date_string": "26 Jul 2024"},
            }),
        ),
    ] {
        let body = with(uri, fields);
        let (bytes, found) = (body.to_string().len() as u64, prompt(uri, &body));
        assert!(found <= 4 * bytes, "{found} tokens of {bytes} bytes: {body}");
    }
    for odd in [
        json!({"my_image_id": UUID}),
        json!({"my_own_id": "msg_01ABCDEFGHIJKLMNOPQRSTUVWX"}),
        json!({"my_own_id": [UUID]}),
        json!({"my_own_id": UUID.replace('0', "x")}),
        json!({"my_own_id": "a".repeat(40)}),
        json!({"trace": UUID}),
        // Only in a history are they known to be text.
        json!({"action": {"a": "/data/a.png"}}),
        json!({"tomorrow": {"caller": "/data/a.png"}}),
    ] {
        assert!(prompt(CHAT, &with(CHAT, odd.clone())) >= MOST_OF_FILE, "{odd}");
    }
}

/// Regression: each of these fields had a request with an image refused.
#[test]
fn usual_fields_beside_an_image_change_nothing() {
    let url = format!("data:image/png;base64,{}", "iVBOR".repeat(40));
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}}]}]);
    let item = json!([{"role": "user", "content": [
        {"type": "input_image", "image_url": url, "detail": "auto", "prompt_cache_breakpoint": {"mode": "explicit"}}]}]);
    let block = json!([{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A".repeat(400)}, "transformations": {"oversized_image": "error"}}]}]);
    for (uri, fields) in [
        (
            CHAT,
            json!({"messages": image, "prompt_cache_options": {"mode": "explicit"}, "chat_id": UUID, "user_id": "u"}),
        ),
        (
            CHAT,
            json!({"messages": image, "reasoning_format": "auto", "return_progress": true, "backend_sampling": false}),
        ),
        (
            CHAT,
            json!({"messages": image, "enable_thinking": false, "chat_template_kwargs": {"enable_thinking": false}}),
        ),
        (
            RESPONSES,
            json!({"input": item, "access_programs": {"cyber": "standard"}, "moderation": {"model": "o"}}),
        ),
        (
            MESSAGES,
            json!({"messages": block, "speed": "fast", "diagnostics": {"previous_message_id": null}, "inference_geo": "eu"}),
        ),
    ] {
        let body = with(uri, fields);
        let found = prompt(uri, &body);
        assert!((MOST_OF_IMAGE..MOST_OF_IMAGE + 1_000).contains(&found), "{found}: {body}");
    }
    let larger = with(CHAT, json!({"messages": image, "use_audio_in_video": true}));
    assert_eq!(find(CHAT, &larger, None), Err(Unbounded::beside("use_audio_in_video")));
}

/// Regression: tools of the server's passed among the items and messages.
#[test]
fn tools_of_the_server_are_refused_wherever_they_stand() {
    let search = json!([{"type": "web_search"}]);
    let refused = |uri: &str, fields: Value| find(uri, &with(uri, fields), Some(4_096)).err();
    for (uri, fields) in [
        (RESPONSES, json!({"input": [{"type": "additional_tools", "role": "developer", "tools": search}]})),
        (RESPONSES, json!({"input": [{"type": "tool_search_output", "tools": search}]})),
        (RESPONSES, json!({"input": {"type": "tool_search_output", "tools": search}})),
        (MESSAGES, json!({"system": [{"type": "text", "text": "a", "tools": search}]})),
        (CHAT, json!({"messages": [{"role": "system", "content": "a", "tools": search}]})),
        (RESPONSES, json!({"tools": [{"type": "namespace", "tools": search}]})),
        (
            RESPONSES,
            json!({"tools": [{"type": "namespace", "tools": [{"type": "namespace", "tools": search}]}]}),
        ),
        (RESPONSES, json!({"tools": [{"type": "tool_search"}]})),
        (RESPONSES, json!({"tools": [{"type": "tool_search", "execution": "server"}]})),
        (
            RESPONSES,
            json!({"tools": [{"type": "tool_search", "execution": "client", "Execution": "server"}]}),
        ),
        (RESPONSES, json!({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]})),
        (CHAT, json!({"tools": [{"google_search": {}}]})),
        (CHAT, json!({"tools": [{"Type": "function", "name": "f"}]})),
    ] {
        assert_eq!(refused(uri, fields.clone()), Some(Unbounded::Tools("tools")), "{fields}");
    }
    let twice = r#"{"max_tokens":9,"tools":[{"type":"web_search","type":"function","name":"f"}]}"#;
    let twice = BoundOf {
        uri: CHAT,
        body: Some(twice.as_bytes()),
        count: None,
        media: Media::default(),
        context: None,
        servers: SERVERS,
    };
    assert_eq!(twice.find(), Err(Unbounded::Tools("tools")), "readers differ about which counts");
    let disguised = json!({"input": [{"type": "additional_tools", "Tools": search}]});
    assert_eq!(refused(RESPONSES, disguised), Some(Unbounded::Name));
    let added = json!({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"type": "web_search_20250305"}}});
    let compacted = json!({"messages": [{"role": "assistant", "content": [{"type": "compaction", "tool_changes": [added]}]}]});
    assert_eq!(refused(MESSAGES, compacted), Some(Unbounded::Tools("tool_definition")));
}

/// Regression: Anthropic's server read the prompt again to make it shorter.
#[test]
fn what_lets_the_server_answer_again_is_refused() {
    let refused = |uri: &str, fields: Value| find(uri, &with(uri, fields), Some(4_096)).err();
    for (uri, field, value) in [
        (
            MESSAGES,
            "context_management",
            json!({"edits": [{"type": "clear_thinking_20251015"}, {"type": "compact_20260112"}]}),
        ),
        (MESSAGES, "context_management", json!({"edits": [{"type": "tomorrow"}]})),
        (RESPONSES, "context_management", json!([{"type": "compaction", "compact_threshold": 1}])),
        (MESSAGES, "compaction", json!({"type": "summarize"})),
        (MESSAGES, "fallbacks", json!([{"model": "b", "max_tokens": 90_000}])),
        (RESPONSES, "multi_agent", json!({"enabled": true})),
        (RESPONSES, "reasoning", json!({"mode": "pro", "effort": "low"})),
        (CHAT, "data_sources", json!([{"type": "azure_search", "parameters": {}}])),
        (CHAT, "search_parameters", json!({"mode": "auto"})),
        (CHAT, "enable_search", json!(true)),
    ] {
        let fields = json!({field: value});
        assert_eq!(refused(uri, fields.clone()).and_then(|error| error.param()), Some(field), "{fields}");
        assert_eq!(refused(uri, json!({field: null})), None, "{field}");
    }
    assert_eq!(refused(CHAT, json!({"enable_search": false, "reasoning": {"mode": "standard"}})), None);
    let trigger = json!({"input": [{"type": "compaction_trigger"}]});
    assert_eq!(refused(RESPONSES, trigger), Some(Unbounded::Again("compaction_trigger")));
    for (uri, field) in
        [(CHAT, "session_id"), (MESSAGES, "thread"), (CHAT, "cached_content"), (CHAT, "agent_id")]
    {
        assert_eq!(find(uri, &with(uri, json!({field: "x"})), None), Err(Unbounded::History(field)));
    }
}

/// Regression: each of these passed as the id of a trace, or as a short word, and a server may put what it names before the prompt.
#[test]
fn what_may_name_something_stored_has_no_bound() {
    for name in [
        "context_id",
        "cache_id",
        "memory_id",
        "knowledge_id",
        "knowledge_base_ids",
        "prompt_id",
        "parent_message_id",
        "tomorrow_id",
    ] {
        for value in [json!(UUID), json!("handbook"), json!(7), json!([UUID])] {
            for fields in [json!({name: value}), json!({"extra_body": {"a": [{name: value}]}})] {
                let body = with(CHAT, fields);
                assert_eq!(find(CHAT, &body, None), Err(Unbounded::stored(name)), "{body}");
                assert_eq!(find(CHAT, &body, Some(4_096)).map(|found| found.prompt), Ok(4_096), "{body}");
            }
        }
        let unset = json!({name: null, "tomorrow": {name: null}});
        assert!(find(CHAT, &with(CHAT, unset), None).is_ok(), "{name}");
    }
    let gemini = json!({"extra_body": {"google": {"cached_content": "cachedContents/0000"}}});
    assert_eq!(find(CHAT, &with(CHAT, gemini), None), Err(Unbounded::History("cached_content")));
    for value in [json!("cat"), json!(7), json!("/data/a.png")] {
        let body = with(CHAT, json!({"my_image_id": value}));
        assert_eq!(prompt(CHAT, &body), body.to_string().len() as u64 + MOST_OF_FILE, "{value}");
    }
    for name in ["team_id", "customer_id", "my_trace_id", "litellm_request_id"] {
        let body = with(CHAT, json!({name: UUID, "tomorrow": {name: UUID}}));
        assert!(prompt(CHAT, &body) <= 2 * body.to_string().len() as u64, "{body}");
    }
}

/// Regression: OpenAI has the tokens of a prediction that do not come true paid for as tokens of the answer, beside those of the answer.
#[test]
fn a_prediction_may_be_paid_for_with_each_answer() {
    let completion =
        |fields: Value, context| find(CHAT, &with(CHAT, fields), context).map(|found| found.completion);
    for (content, added) in [
        (json!("x".repeat(500)), 0),
        (json!([{"type": "text", "text": "x".repeat(500)}]), 0),
        // Its normal form is a byte longer.
        (json!("é".repeat(500)), 500),
    ] {
        let prediction = json!({"type": "content", "content": content});
        let bytes = prediction.to_string().len() as u64 + added;
        assert_eq!(completion(json!({"prediction": prediction}), None), Ok(9 + bytes));
        assert_eq!(completion(json!({"prediction": prediction, "n": 3}), None), Ok(3 * (9 + bytes)));
        assert_eq!(completion(json!({"prediction": prediction}), Some(4)), Ok(4 + bytes));
    }
    assert_eq!(completion(json!({"prediction": null}), None), Ok(9));
    assert_eq!(completion(json!({"Prediction": "a"}), None), Err(Unbounded::Name));
}

/// Regression: SGLang hands these settings to `apply_chat_template`, which takes a template and a prompt among them.
#[test]
fn settings_of_a_template_are_no_other_prompt() {
    for settings in [
        json!({"chat_template": "{% for i in range(5000) %}hello {% endfor %}"}),
        json!({"chat_template": "rag"}),
        json!({"messages": [{"role": "user", "content": "a"}]}),
        json!({"functions": true}),
        json!({"Documents": 1}),
        json!({"padding": "max_length", "max_length": 100_000}),
        json!({"fps": 9}),
        json!({"images": 1}),
        json!({"a": {"b": 1}}),
        // Regression: names that were on no list passed.
        json!({"tomorrow": true}),
        json!({"enable_thinking": false, "repeat_prompt": 9}),
        json!({"Enable_Thinking": false}),
        json!({"enable_thinking": {"b": 1}}),
        json!({"a": "All of this is prose, and may be read."}),
        json!({"thinking_mode": "All of this is prose, and may be read."}),
        json!("{\"enable_thinking\": false}"),
        json!([1]),
    ] {
        let body = with(CHAT, json!({"chat_template_kwargs": settings}));
        assert_eq!(find(CHAT, &body, None), Err(Unbounded::Template("chat_template_kwargs")), "{body}");
        assert_eq!(find(CHAT, &body, Some(4_096)).map(|found| found.prompt), Ok(4_096), "{body}");
    }
    assert!(find(CHAT, &with(CHAT, json!({"chat_template_kwargs": null})), None).is_ok());
}

/// Regression: a whole prompt was taken from budgets for each, and a hard one never got it back.
#[test]
fn what_no_model_reads_costs_nothing() {
    let body = with(MESSAGES, json!({"prompt": "x".repeat(9_000)}));
    for path in [
        "/v1/messages/count_tokens",
        "/v1/responses/input_tokens",
        "/tokenize",
        "/v1/detokenize",
        "/apply-template",
        "/v1/chat/completions/render?x=y",
        "/a/v1/completions/derender/",
        "/api/show",
    ] {
        let found = find(path, &body, None).expect("a bound");
        assert_eq!((found.prompt, found.completion), (0, 0), "{path}");
        assert_eq!(PaidBy::of(path, Some(b"{}")), PaidBy::Nothing, "{path}");
        let bytes = body.to_string();
        let counted = crate::read::count(bytes.as_bytes()).expect("it can be counted while it is read");
        for sum in [counted.sum(path, None), sum(path, Some(bytes.as_bytes()), None), sum(path, None, None)] {
            assert_eq!((sum.prompt, sum.answer, sum.tokens()), (0, 0, 1), "{path}");
        }
    }
    assert_eq!(PaidBy::of("/render", Some(b"{}")), PaidBy::Prompt, "it may make images");
    assert!(tokens("/v1/embeddings", Some(body.to_string().as_bytes()), None) > 2_000);
}

/// Regression: Python reads the digits of all scripts, and such a number counted as one.
#[test]
fn digits_that_only_some_readers_read_have_no_bound() {
    for (uri, field) in
        [(CHAT, "n"), (CHAT, "max_tokens"), (RESPONSES, "max_output_tokens"), ("/completion", "n_cmpl")]
    {
        for digits in ["５０", "\u{661}", "5\u{2060}0", "－1"] {
            let body = with(uri, json!({field: digits}));
            assert_eq!(find(uri, &body, Some(4_096)), Err(Unbounded::Partly), "{body}");
        }
        assert!(
            find(uri, &with(uri, json!({field: "\u{a0}5 "})), Some(4_096)).is_ok(),
            "Python takes spaces away"
        );
    }
    let settings = json!({"prompt": "a", "options": {"num_predict": "５０"}});
    assert_eq!(find("/api/generate", &settings, None), Err(Unbounded::Partly));
    assert_eq!(tokens(CHAT, Some(with(CHAT, json!({"n": "５０"})).to_string().as_bytes()), None), u32::MAX);
}

/// Regression: each counted as one image.
#[test]
fn a_list_of_prompts_and_arguments_in_one_make_more_images() {
    const IMAGES: &str = "/v1/images/generations";
    let images = |fields: Value| find(IMAGES, &fields, None).map(|found| found.media.images);
    assert_eq!(images(json!({"prompt": ["a", "b", "c"], "n": 2})), Ok(6));
    assert_eq!(images(json!({"prompt": [], "n": 2})), Ok(2));
    assert_eq!(images(json!({"prompt": "a \"cat\"\n"})), Ok(1), "other escapes are no arguments");
    let marked = "a <sd_cpp_extra_args>{\"batch_count\":99}</sd_cpp_extra_args>";
    assert_eq!(images(json!({"prompt": marked})), Err(Unbounded::Script("sd_cpp_extra_args")));
    let escaped = json!({"prompt": marked}).to_string().replace("sd_cpp", r"\u0073d_cpp");
    let form = format!("--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\n{marked}\r\n--x--\r\n");
    for (uri, body) in [(IMAGES, &escaped), ("/v1/images/edits", &form), ("/sdapi/v1/txt2img", &escaped)] {
        let bound = BoundOf {
            uri,
            body: Some(body.as_bytes()),
            count: None,
            media: Media::default(),
            context: Some(9),
            servers: SERVERS,
        };
        assert_eq!(bound.find(), Err(Unbounded::Script("sd_cpp_extra_args")), "{body}");
    }
    let chat = with(CHAT, json!({"messages": [{"role": "user", "content": marked}]}));
    assert!(find(CHAT, &chat, None).is_ok(), "there it is text");
}
