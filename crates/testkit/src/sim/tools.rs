//! Answers that call a tool, as a model gives when the client insists on one:
//! [OpenAI's](https://platform.openai.com/docs/guides/function-calling) and
//! [Anthropic's](https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use).

use serde_json::{Map, Value, json};

/// Turns a chat's answer into a call of the tool that the request insists on; without one, the answer stays as it is.
pub(super) fn in_chat(request: &Value, mut answer: Value) -> Value {
    let choice = &request["tool_choice"];
    if choice == "required" || choice["type"] == "function" {
        let function = &request["tools"][0]["function"];
        let arguments = arguments(&function["parameters"]).to_string();
        let call = json!({
            "id": "call_sim", "type": "function", "function": {"name": function["name"], "arguments": arguments},
        });
        answer["choices"][0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        answer["choices"][0]["finish_reason"] = json!("tool_calls");
    }
    answer
}

/// The same for Anthropic's messages.
pub(super) fn in_message(request: &Value, mut answer: Value) -> Value {
    let choice = &request["tool_choice"]["type"];
    if choice == "any" || choice == "tool" {
        let tool = &request["tools"][0];
        let input = arguments(&tool["input_schema"]);
        answer["content"] =
            json!([{"type": "tool_use", "id": "toolu_sim", "name": tool["name"], "input": input}]);
        answer["stop_reason"] = json!("tool_use");
    }
    answer
}

/// Every property of the schema, each with the first of its allowed values.
fn arguments(schema: &Value) -> Value {
    let properties = schema["properties"].as_object();
    let first = |(name, property): (&String, &Value)| (name.clone(), property["enum"][0].clone());
    Value::Object(properties.into_iter().flatten().map(first).collect::<Map<_, _>>())
}
