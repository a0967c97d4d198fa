//! The JSON that an inference server answers, one function per endpoint. Shapes from the API references of
//! [OpenAI](https://platform.openai.com/docs/api-reference) and
//! [Anthropic](https://docs.anthropic.com/en/api/messages); errors and the listing as vLLM writes them.

use serde_json::{Value, json};

use super::{Options, state::State, work::Work};

/// A fixed time, so that the same request gets the same bytes.
const CREATED: u64 = 1_700_000_000;

/// `GET /v1/models`.
pub(super) fn listing(state: &State) -> Value {
    let adapters = &state.options.adapters;
    let card = |model: &String| {
        let parent = adapters.contains(model).then(|| state.options.models.first());
        json!({
            "id": model, "object": "model", "created": CREATED, "owned_by": state.options.owned_by, "root": model, "parent": parent,
            "max_model_len": state.options.max_model_len, "permission": [],
        })
    };
    let data: Vec<Value> = state.switches().models.iter().map(card).collect();
    json!({"object": "list", "data": data})
}

/// An error in vLLM's shape.
pub(super) fn error(status: u16, kind: &str, message: &str, param: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": status}})
}

/// The pieces of text of an answer; a whole answer is their concatenation.
pub(super) fn pieces(state: &State, model: &str) -> Vec<String> {
    let first = format!("Answer from {} for {model}.", state.options.name);
    let more = (1..state.options.chunks).map(|number| format!(" word{number}"));
    std::iter::once(first).chain(more).collect()
}

pub(super) fn chat(state: &State, model: &str) -> Value {
    let message = json!({"role": "assistant", "content": pieces(state, model).concat()});
    json!({
        "id": "chatcmpl-sim", "object": "chat.completion", "created": CREATED, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
    })
}

/// As long as a real one: chunks are told apart by their length.
const STREAM_ID: &str = "chatcmpl-0af7651916cd43dd8448eb211c80319c";

/// One chunk of a streamed chat.
pub(super) fn chat_chunk(model: &str, delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": STREAM_ID, "object": "chat.completion.chunk", "created": CREATED, "model": model,
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish, "token_ids": null}],
    })
}

/// The last chunk of a stream whose client set `stream_options.include_usage`: no choices, only the usage.
pub(super) fn usage_chunk(model: &str, object: &str, usage: &Value) -> Value {
    json!({
        "id": STREAM_ID, "object": object, "created": CREATED, "model": model, "choices": [], "usage": usage,
    })
}

/// A chat or completion for all its prompts and choices, under the id that vLLM gives it.
pub(super) fn of_all(mut answer: Value, state: &State, work: &Work) -> Value {
    let choice = answer["choices"][0].clone();
    let numbered = |index| {
        let mut choice = choice.clone();
        choice["index"] = json!(index);
        choice
    };
    answer["id"] = json!(work.id);
    answer["choices"] = (0..work.answers()).map(numbered).collect();
    answer["usage"] = work.usage(state.options.chunks);
    answer
}

pub(super) fn completion(state: &State, model: &str) -> Value {
    completion_chunk(model, &pieces(state, model).concat(), Some("stop"))
}

/// One chunk of a streamed completion; a whole answer has the same shape.
pub(super) fn completion_chunk(model: &str, text: &str, finish: Option<&str>) -> Value {
    json!({
        "id": "cmpl-sim", "object": "text_completion", "created": CREATED, "model": model,
        "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}],
    })
}

/// `POST /v1/embeddings`: one vector per input.
pub(super) fn embeddings(model: &str, request: &Value) -> Value {
    let inputs = request["input"].as_array().map_or(1, Vec::len);
    let data: Vec<Value> = (0..inputs)
        .map(|index| json!({"object": "embedding", "index": index, "embedding": [0.25, -0.5, 0.125, 1.0]}))
        .collect();
    json!({
        "id": "embd-sim", "object": "list", "created": CREATED, "model": model, "data": data,
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    })
}

/// `POST /v1/responses`.
pub(super) fn response(state: &State, model: &str) -> Value {
    let text = json!({"type": "output_text", "text": pieces(state, model).concat(), "annotations": []});
    let output = json!({
        "id": "msg-sim", "type": "message", "role": "assistant", "status": "completed", "content": [text],
    });
    json!({
        "id": "resp-sim", "object": "response", "created_at": CREATED, "status": "completed", "model": model,
        "output": [output], "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": state.options.chunks,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 7 + state.options.chunks,
        },
    })
}

/// `POST /v1/messages`; with no text yet and no reason to stop it is the start of a stream.
pub(super) fn message(state: &State, model: &str, text: Option<&str>) -> Value {
    let content: Vec<Value> = text.iter().map(|text| json!({"type": "text", "text": text})).collect();
    let output = if text.is_some() { state.options.chunks } else { 0 };
    json!({
        "id": "msg_sim", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": text.map(|_| "end_turn"), "stop_sequence": null,
        "usage": {"input_tokens": 7, "output_tokens": output},
    })
}

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcription(state: &State, model: &str, file_size: usize) -> Value {
    json!({"text": format!("{} heard {file_size} bytes for {model}", state.options.name)})
}

/// `/predict`, a FastAPI endpoint whose requests name no model.
pub(super) fn prediction(state: &State, path: &str, request: &Value) -> Value {
    let model = state.switches().models.first().cloned();
    json!({"server": state.options.name, "path": path, "model_type": model, "prediction": 0.5, "input": request})
}

/// `POST /v1/rerank`, as Jina and vLLM have it: one score for each document.
pub(super) fn rerank(model: &str, request: &Value) -> Value {
    let count = request["documents"].as_array().map_or(0, Vec::len);
    let results: Vec<Value> =
        (0..count).map(|index| json!({"index": index, "relevance_score": 0.5})).collect();
    json!({"id": "rerank-sim", "model": model, "results": results})
}

/// `POST /v1/moderations`.
pub(super) fn moderation(model: &str) -> Value {
    json!({"id": "modr-sim", "model": model, "results": [{"flagged": false, "categories": {}, "category_scores": {}}]})
}

/// `POST /v1/images/generations`.
pub(super) fn image() -> Value {
    json!({"created": CREATED, "data": [{"b64_json": "aVZCT1J3MEtHZ28="}]})
}

/// `GET /metrics`: the gauges of [vLLM](https://docs.vllm.ai/en/stable/usage/metrics.html) that tell how busy it is, and its
/// counters of tokens, which include those of answers that were broken off.
pub(super) fn metrics(state: &State) -> String {
    let counts = state.counts();
    let family = |kind: &str, name: &str, help: &str, value: &dyn Fn(&super::state::ModelCounts) -> usize| {
        let mut text = format!("# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}\n");
        for (model, counts) in &counts {
            let label = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!(
                "vllm:{name}{{engine=\"0\",model_name=\"{label}\"}} {}.0\n",
                value(counts)
            ));
        }
        text
    };
    [
        family(
            "gauge",
            "num_requests_running",
            "Number of requests in model execution batches.",
            &|counts| counts.running,
        ),
        family("gauge", "num_requests_waiting", "Number of requests waiting to be processed.", &|counts| {
            counts.waiting
        }),
        family("counter", "prompt_tokens_total", "Number of prefill tokens processed.", &|counts| {
            counts.prompt
        }),
        family("counter", "generation_tokens_total", "Number of generation tokens processed.", &|counts| {
            counts.generated
        }),
        adapters(state),
    ]
    .concat()
}

/// `vllm:lora_requests_info`, as vLLM writes it: a new series whenever other adapters are in use. The old ones stay, and the newest is not
/// the first.
fn adapters(state: &State) -> String {
    let Options { adapters, max_adapters, .. } = &state.options;
    let Some(first) = adapters.first() else { return String::new() };
    let counts = state.counts();
    let names = |of: &dyn Fn(&super::state::ModelCounts) -> usize| {
        let in_use = adapters.iter().filter(|name| counts.get(*name).is_some_and(|counts| of(counts) > 0));
        in_use.map(String::as_str).collect::<Vec<_>>().join(",")
    };
    let series = |running: &str, waiting: &str, at: f64| {
        format!(
            "vllm:lora_requests_info{{max_lora=\"{max_adapters}\",running_lora_adapters=\"{running}\",\
             waiting_lora_adapters=\"{waiting}\"}} {at}\n"
        )
    };
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0.0, |now| now.as_secs_f64());
    let old = series(first, first, 1.5);
    let new = series(&names(&|counts| counts.running), &names(&|counts| counts.waiting), now);
    format!(
        "# HELP vllm:lora_requests_info Running stats on lora requests.\n# TYPE vllm:lora_requests_info gauge\n{new}{old}"
    )
}
