//! What single fields of a body do to the bound of a request: the server runs tools, answers again, or makes another prompt of the one
//! that was sent.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{disguised, names::is_word, unbounded::Unbounded};
use crate::read::resembles;

/// Fields whose values are the server's tools, or switch them on; the last three are Azure's, xAI's and Alibaba's.
const OF_TOOLS: [&str; 6] =
    ["mcp_servers", "web_search_options", "plugins", "data_sources", "search_parameters", "enable_search"];
/// Fields by which the server answers more than once: with other models (Anthropic's and LiteLLM's `fallbacks`), with agents of its own
/// (OpenAI), to make the history shorter, or to think longer than it says.
const OF_AGAIN: [&str; 5] = ["fallbacks", "multi_agent", "compaction", EDITS, REASONING];
/// Anthropic's edits of the history, and OpenAI's.
const EDITS: &str = "context_management";
/// OpenAI's, with a `mode` in which one answer may be made of several.
const REASONING: &str = "reasoning";
/// Fields whose elements are read one by one, each with everything else: rerankers' and scorers' documents (Cohere, Jina and vLLM; TEI;
/// vLLM's scores; SGLang; NIM).
const OF_DOCUMENTS: [&str; 6] = ["documents", "texts", "text_2", "data_2", "items", "passages"];
/// What the answer may be, as OpenAI's clients know it before. What does not come true is paid for as tokens of the answer
/// (<https://platform.openai.com/docs/guides/predicted-outputs>).
const PREDICTION: &str = "prediction";
/// Settings of the server's template.
const OF_TEMPLATE: &str = "chat_template_kwargs";

/// A field of a body whose value is looked at as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WholeField {
    /// It may let the server run tools.
    Tools(&'static str),
    /// It may let the server answer again.
    Again(&'static str),
    /// It has settings for the template.
    Template,
    /// Each element is read with the rest of the body.
    Documents,
    /// It may be paid for with each answer.
    Prediction,
}

impl WholeField {
    pub(super) fn of(name: &str) -> Option<Self> {
        let of_tools = OF_TOOLS.into_iter().chain(["tools"]).find(|field| *field == name);
        let of_again = || OF_AGAIN.into_iter().find(|field| *field == name).map(Self::Again);
        let of_template = || (name == OF_TEMPLATE).then_some(Self::Template);
        let of_documents = || OF_DOCUMENTS.contains(&name).then_some(Self::Documents);
        let of_prediction = || (name == PREDICTION).then_some(Self::Prediction);
        let of_others = || of_documents().or_else(of_prediction);
        of_tools.map(Self::Tools).or_else(of_again).or_else(of_template).or_else(of_others)
    }

    /// What its value does to the bound of the request, if it is not one of the values that are known to do nothing.
    pub(super) fn fault(self, value: &RawValue) -> Option<Unbounded> {
        match self {
            Self::Tools(name) => runs_tools(name, value).then_some(Unbounded::Tools(name)),
            Self::Again(name) => answers_again(name, value).then_some(Unbounded::Again(name)),
            Self::Template => (!has_only_settings(value)).then_some(Unbounded::Template(OF_TEMPLATE)),
            Self::Documents | Self::Prediction => None,
        }
    }
}

/// Whether a field's name is written as all APIs write theirs, or is counted in any case. Go's readers take any case of a name for the
/// same.
pub(super) fn is_usual(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'))
        || disguised(name).is_some()
}

/// Whether the server itself runs tools by this value of a field for [`WholeField::Tools`]: it searches, fetches or computes, reads what
/// it has found, and answers again.
fn runs_tools(field: &str, value: &RawValue) -> bool {
    // An empty object switches a search on.
    if matches!(value.get(), "null" | "[]" | "false") {
        return false;
    }
    OF_TOOLS.contains(&field) || !ObjectFields::all(value, ObjectFields::is_tool_of_client)
}

/// Whether the server answers more than once by this value of a field for [`WholeField::Again`].
fn answers_again(field: &str, value: &RawValue) -> bool {
    // To clear away old uses of tools or thoughts takes no answer; to sum up what has been said does.
    let only_clears = || {
        ObjectFields::of(value).is_some_and(|fields| {
            fields
                .0
                .iter()
                .all(|(name, edits)| name == "edits" && ObjectFields::all(edits, ObjectFields::clears))
        })
    };
    let is_standard = || {
        ObjectFields::of(value).is_none_or(|fields| {
            fields.text("mode").is_ok_and(|mode| mode.is_none_or(|mode| mode == "standard"))
        })
    };
    let does_nothing = match field {
        EDITS => only_clears(),
        REASONING => is_standard(),
        _ => false,
    };
    !does_nothing && !matches!(value.get(), "null" | "[]")
}

/// Settings of templates that make a prompt no longer than by a few words: how the model thinks, and in which form it answers. SGLang hands all
/// settings to `apply_chat_template` of Hugging Face, which takes another prompt and its length among them, and llama.cpp to the template.
const SETTINGS: [&str; 15] = [
    "enable_thinking",
    "thinking",
    "thinking_mode",
    "thinking_budget",
    "reasoning",
    "reasoning_effort",
    "low_effort",
    "clear_thinking",
    "preserve_thinking",
    "truncate_history_thinking",
    "skip_think",
    "add_generation_prompt",
    "continue_final_message",
    "tools_in_user_message",
    "date_string",
];

/// Whether settings of a template are all known not to make another prompt, and scalars or short words.
fn has_only_settings(value: &RawValue) -> bool {
    let is_scalar = |value: &str| match value.as_bytes() {
        [b'"', ..] => serde_json::from_str::<Cow<'_, str>>(value).is_ok_and(|text| is_word(&text)),
        [b'{' | b'[', ..] => false,
        _ => true,
    };
    let is_setting = |name: &str, value: &str| SETTINGS.contains(&name) && is_scalar(value);
    value.get() == "null"
        || ObjectFields::of(value)
            .is_some_and(|fields| fields.0.iter().all(|(name, value)| is_setting(name, value.get())))
}

/// The fields of an object, also those that are given twice.
pub(super) struct ObjectFields<'v>(Vec<(Cow<'v, str>, &'v RawValue)>);

/// A field that is given twice, that is not text, or whose name only some readers take for it.
pub(super) struct Unclear;

impl<'v> ObjectFields<'v> {
    pub(super) fn of(value: &'v RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    /// Whether a value is a list of objects, and this holds for each of them.
    pub(super) fn all(value: &'v RawValue, holds: impl Fn(&Self) -> bool) -> bool {
        serde_json::from_str::<Vec<Self>>(value.get()).is_ok_and(|list| list.iter().all(holds))
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<&'v RawValue>, Unclear> {
        let mut found = self.0.iter().filter(|(given, _)| resembles(given, name));
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((given, value)), None) if given == name => {
                Ok(Some(*value).filter(|value| value.get() != "null"))
            }
            _ => Err(Unclear),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'v, str>>, Unclear> {
        let read = |value: &'v RawValue| serde_json::from_str::<Cow<'v, str>>(value.get());
        self.get(name)?.map(read).transpose().map_err(|_| Unclear)
    }

    /// Whether it is an edit of the history that takes parts away.
    fn clears(&self) -> bool {
        self.text("type").is_ok_and(|kind| kind.is_some_and(|kind| kind.starts_with("clear_")))
    }

    /// Whether it is a tool that the client runs
    /// (<https://platform.openai.com/docs/guides/tools>, <https://docs.anthropic.com/en/docs/agents-and-tools/tool-use>).
    fn is_tool_of_client(&self) -> bool {
        /// Their types, and how those of others begin.
        const OF_CLIENTS: [&str; 3] = ["local_shell", "apply_patch", "computer"];
        const BEGIN: [&str; 5] = ["bash_", "text_editor_", "computer_", "memory_", "browser_toolset_"];
        let is = |name: &str, expected: &str| {
            self.text(name).is_ok_and(|text| text.is_some_and(|text| text == expected))
        };
        match self.text("type").as_ref().map(Option::as_deref) {
            Err(Unclear) => false,
            Ok(Some("namespace")) => self
                .get("tools")
                .is_ok_and(|tools| tools.is_none_or(|tools| Self::all(tools, Self::is_function))),
            // Who searches, and where the shell is.
            Ok(Some("tool_search")) => is("execution", "client"),
            Ok(Some("shell")) => self.get("environment").is_ok_and(|environment| {
                let local =
                    |fields: Self| fields.text("type").is_ok_and(|kind| kind.as_deref() == Some("local"));
                environment.and_then(Self::of).is_some_and(local)
            }),
            Ok(Some(kind)) if OF_CLIENTS.contains(&kind) => true,
            Ok(Some(kind)) if BEGIN.iter().any(|begin| kind.starts_with(begin)) => true,
            Ok(_) => self.is_function(),
        }
    }

    fn is_function(&self) -> bool {
        match self.text("type").as_ref().map(Option::as_deref) {
            Ok(Some("function" | "custom")) => true,
            Ok(None) => self.0.iter().any(|(name, _)| matches!(&**name, "name" | "function")),
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for ObjectFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EachObjectField)
    }
}

struct EachObjectField;

impl<'de> Visitor<'de> for EachObjectField {
    type Value = ObjectFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ObjectFields<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(ObjectFields(fields))
    }
}

/// Why the server adds to the prompt, or makes another one of it, if it does by this field.
pub(super) fn adds_to_prompt(name: &str) -> Option<Unbounded> {
    // The last four: SGLang's, and Anthropic's, Gemini's and Mistral's.
    const HISTORY: [&str; 10] = [
        "previous_response_id",
        "conversation",
        "conversation_id",
        "session_params",
        "thread_id",
        "assistant_id",
        "session_id",
        "thread",
        "cached_content",
        "agent_id",
    ];
    // Ollama's, and vLLM's and SGLang's if they trust those of requests.
    const TEMPLATES: [&str; 2] = ["template", "chat_template"];
    let find = |fields: &[&'static str]| fields.iter().find(|field| **field == name).copied();
    find(&HISTORY).map(Unbounded::History).or_else(|| find(&TEMPLATES).map(Unbounded::Template))
}
