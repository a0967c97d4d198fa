//! The names of fields and the types of parts that tell text from media, for [`content`](super::content).

use std::{cmp::Ordering, sync::LazyLock};

use crate::read::FoldedName;

/// What a medium counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediumKind {
    Image,
    /// A sound, a video, a file, or anything.
    Other,
}

/// The meaning of a field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldRole {
    /// One medium or several. `true` if base64 in it is data, and no text.
    Medium(MediumKind, bool),
    /// It changes how many tokens media take.
    Resizes(&'static str),
    /// A prompt in another form than text: a file of a few bytes may hold any number of tokens.
    Embeddings(&'static str),
    Type,
    Uuid,
    Source,
    /// All of it is text, whatever its fields are called.
    Plain,
    /// The same within messages and items, where it tells what an agent has done, and with what.
    PlainInHistory,
    /// Tools: text, and some of them are run by the server.
    Tools,
    /// The arguments of a tool, if the part is the use of one.
    Arguments,
    /// Only some readers take it for one of the above.
    Disguised,
    Any,
}

/// OpenAI's, Anthropic's and Ollama's; then those of vLLM, SGLang and llama.cpp.
const MEDIA: [(&str, MediumKind, bool); 42] = [
    ("image_url", MediumKind::Image, true),
    ("image", MediumKind::Image, true),
    ("images", MediumKind::Image, true),
    ("image_data", MediumKind::Image, true),
    ("image_embeds", MediumKind::Image, true),
    ("image_pil", MediumKind::Image, true),
    ("image_file", MediumKind::Image, true),
    ("input_image", MediumKind::Image, true),
    ("image_urls", MediumKind::Image, true),
    ("init_image", MediumKind::Image, true),
    ("init_images", MediumKind::Image, true),
    ("input_audio", MediumKind::Other, true),
    ("audio", MediumKind::Other, true),
    ("audios", MediumKind::Other, true),
    ("audio_url", MediumKind::Other, true),
    ("audio_urls", MediumKind::Other, true),
    ("audio_data", MediumKind::Other, true),
    ("audio_embeds", MediumKind::Other, true),
    ("video", MediumKind::Other, true),
    ("videos", MediumKind::Other, true),
    ("video_url", MediumKind::Other, true),
    ("video_urls", MediumKind::Other, true),
    ("video_data", MediumKind::Other, true),
    ("video_embeds", MediumKind::Other, true),
    ("input_video", MediumKind::Other, true),
    ("multi_modal_data", MediumKind::Other, true),
    ("multimodal_data", MediumKind::Other, true),
    ("multi_modal_inputs", MediumKind::Other, true),
    ("multi_modal_uuids", MediumKind::Other, true),
    ("mm_data", MediumKind::Other, true),
    ("mm_items", MediumKind::Other, true),
    ("mm_inputs", MediumKind::Other, true),
    ("pixel_values", MediumKind::Other, true),
    ("file_data", MediumKind::Other, true),
    ("input_file", MediumKind::Other, true),
    ("file_url", MediumKind::Other, false),
    ("file_id", MediumKind::Other, false),
    ("file_ids", MediumKind::Other, false),
    ("file", MediumKind::Other, false),
    ("files", MediumKind::Other, false),
    ("document", MediumKind::Other, false),
    ("attachments", MediumKind::Other, false),
];

/// vLLM's and SGLang's, and those of the processors that they pass them to.
const RESIZES: [&str; 24] = [
    "mm_processor_kwargs",
    "media_io_kwargs",
    "image_processor_kwargs",
    "images_kwargs",
    "videos_kwargs",
    "audio_kwargs",
    "max_pixels",
    "min_pixels",
    "total_pixels",
    "resized_height",
    "resized_width",
    "fps",
    "nframes",
    "num_frames",
    "max_frames",
    "min_frames",
    "max_dynamic_patch",
    "min_dynamic_patch",
    "max_slice_nums",
    "max_crops",
    "num_crops",
    "image_min_tokens",
    "image_max_tokens",
    "do_resize",
];

const EMBEDDINGS: [&str; 4] = ["prompt_embeds", "input_embeds", "inputs_embeds", "precomputed_embeddings"];

const PLAIN: [&str; 25] = [
    "functions",
    "tool_calls",
    "function_call",
    "tool_choice",
    "response_format",
    "format",
    "metadata",
    "client_metadata",
    "json_schema",
    "guided_json",
    "guided_choice",
    "structured_outputs",
    "grammar",
    "schema",
    "logit_bias",
    "output_config",
    "context_management",
    "thinking",
    "reasoning",
    "cache_control",
    "citations",
    "annotations",
    "logprobs",
    "stop",
    "samplers",
];

/// Objects with a `type` of their own in what agents send back, none of which holds a medium (`openai/types/responses`,
/// `anthropic/types/beta` of the Python SDKs).
const PLAIN_IN_HISTORY: [&str; 9] = [
    "caller",
    "action",
    "actions",
    "operation",
    "outcome",
    "environment",
    "trigger",
    "pending_safety_checks",
    "acknowledged_safety_checks",
];

const OTHERS: [(&str, FieldRole); 5] = [
    ("tools", FieldRole::Tools),
    ("type", FieldRole::Type),
    ("uuid", FieldRole::Uuid),
    ("source", FieldRole::Source),
    ("input", FieldRole::Arguments),
];

/// A known name, by what [`FoldedName`] keeps of it.
struct KnownName {
    letters: Vec<u8>,
    name: &'static str,
    role: FieldRole,
}

impl KnownName {
    fn all() -> Vec<Self> {
        let media = MEDIA.iter().map(|(name, kind, is_data)| (*name, FieldRole::Medium(*kind, *is_data)));
        let resizes = RESIZES.iter().map(|name| (*name, FieldRole::Resizes(name)));
        let embeddings = EMBEDDINGS.iter().map(|name| (*name, FieldRole::Embeddings(name)));
        let plain = PLAIN.iter().map(|name| (*name, FieldRole::Plain));
        let in_history = PLAIN_IN_HISTORY.iter().map(|name| (*name, FieldRole::PlainInHistory));
        let others = OTHERS.iter().copied();
        let all = media.chain(resizes).chain(embeddings).chain(plain).chain(in_history).chain(others);
        let mut all: Vec<_> = all
            .map(|(name, role)| {
                let letters = FoldedName::of(name).forms().next().unwrap_or_default().to_vec();
                Self { letters, name, role }
            })
            .collect();
        all.sort_by(|one, other| order(&one.letters, &other.letters));
        all
    }
}

/// The known names, sorted: each field of a body is looked up here once.
static KNOWN: LazyLock<Vec<KnownName>> = LazyLock::new(KnownName::all);

/// Names of another length are told apart without a look at their letters.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

impl FieldRole {
    /// Whether a name that only some readers take for one with this role may bring in more than its bytes.
    fn hides(self) -> bool {
        !matches!(self, Self::Plain | Self::PlainInHistory)
    }
}

pub(super) fn role(name: &str) -> FieldRole {
    let mut role = FieldRole::Any;
    for letters in FoldedName::of(name).forms() {
        let first = KNOWN.partition_point(|known| order(&known.letters, letters).is_lt());
        // Two names may have the same letters.
        for known in KNOWN[first..].iter().take_while(|known| known.letters == letters) {
            if known.name == name {
                return known.role;
            }
            if known.role.hides() {
                role = FieldRole::Disguised;
            }
        }
    }
    role
}

/// The type of a part, or of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartType {
    /// It is text, or holds parts of its own.
    Text,
    /// The use of a tool: what it holds is text, whatever its fields are called.
    ToolUse,
    Image,
    Base64,
    /// It refers to what the server has stored.
    Reference,
    /// It brings in a tool, which may be one that the server runs.
    Tool,
    /// The server answers once more.
    Again,
    Other,
}

impl PartType {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "tool_use" | "server_tool_use" | "mcp_tool_use" => Self::ToolUse,
            "image"
            | "image_url"
            | "input_image"
            | "image_pil"
            | "image_embeds"
            | "image_file"
            | "computer_screenshot"
            | "image_generation_call" => Self::Image,
            "base64" => Self::Base64,
            "item_reference" => Self::Reference,
            "tool_definition" => Self::Tool,
            "compaction_trigger" => Self::Again,
            _ if is_text_part(text) || is_text_item(text) || is_text_block(text) => Self::Text,
            _ => Self::Other,
        }
    }
}

/// Parts of messages that are text, and values of a `type` in settings beside them.
fn is_text_part(kind: &str) -> bool {
    matches!(
        kind,
        "text" | "input_text" | "output_text" | "refusal" | "summary_text" | "reasoning_text" | "thinking" | "redacted_thinking"
            | "reasoning" | "search_result" | "content" | "function"
            // OpenRouter's `reasoning_details`, and LangChain's part.
            | "reasoning.text" | "reasoning.summary" | "reasoning.encrypted" | "reasoning_content"
            // Settings.
            | "enabled" | "disabled" | "adaptive" | "auto" | "any" | "none" | "tool" | "allowed_tools" | "custom"
            | "json_object" | "json_schema" | "structural_tag" | "regex" | "ephemeral"
    )
}

/// Items of OpenAI's responses that are text but for the parts in them (`ResponseInputItemParam` and `BetaResponseInputItemParam` of the
/// Python SDK).
fn is_text_item(kind: &str) -> bool {
    matches!(
        kind,
        "message" | "function_call" | "function_call_output" | "custom_tool_call" | "custom_tool_call_output" | "computer_call"
            | "computer_call_output" | "local_shell_call" | "local_shell_call_output" | "shell_call" | "shell_call_output"
            | "apply_patch_call" | "apply_patch_call_output" | "tool_search_call" | "tool_search_output" | "additional_tools"
            | "configuration_update" | "compaction" | "program" | "program_output" | "agent_message" | "encrypted_content"
            | "multi_agent_call" | "multi_agent_call_output"
            // What the server's tools have left in the history.
            | "web_search_call" | "file_search_call" | "code_interpreter_call" | "logs" | "mcp_list_tools" | "mcp_call"
            | "mcp_approval_request" | "mcp_approval_response" | "mcp_protocol_error" | "mcp_tool_execution_error" | "http_error"
    )
}

/// Blocks of Anthropic's messages that are text but for the blocks in them (`BetaContentBlockParam` of the Python SDK).
fn is_text_block(kind: &str) -> bool {
    matches!(
        kind,
        "tool_result" | "tool_reference" | "fallback" | "tool_addition" | "tool_removal" | "mcp_tool_reference"
            | "mcp_toolset_reference" | "mcp_tool_listing" | "browser_state" | "tab_opened" | "download_started"
            | "download_completed" | "download_failed"
            // What the server's tools have left in the history.
            | "mcp_tool_result" | "web_search_tool_result" | "web_search_result" | "web_search_tool_result_error"
            | "web_fetch_tool_result" | "web_fetch_result" | "web_fetch_tool_result_error" | "advisor_tool_result" | "advisor_result"
            | "advisor_redacted_result" | "advisor_tool_result_error" | "code_execution_tool_result" | "code_execution_result"
            | "code_execution_tool_result_error" | "encrypted_code_execution_result" | "bash_code_execution_tool_result"
            | "bash_code_execution_result" | "bash_code_execution_tool_result_error" | "text_editor_code_execution_tool_result"
            | "text_editor_code_execution_view_result" | "text_editor_code_execution_create_result"
            | "text_editor_code_execution_str_replace_result" | "text_editor_code_execution_tool_result_error"
            | "tool_search_tool_result" | "tool_search_tool_search_result" | "tool_search_tool_result_error"
    )
}

/// Whether a field of a medium's own object is known not to change its size beyond the stated maximum.
pub(super) fn is_of_medium(name: &str) -> bool {
    matches!(
        name,
        "url"
            | "data"
            | "type"
            | "format"
            | "detail"
            | "media_type"
            | "mime_type"
            | "id"
            | "uuid"
            | "name"
            | "filename"
            | "text"
            | "title"
            | "voice"
            | "tools"
            | "context_compression"
    )
}

/// The same of a field beside a medium, in its part or message.
pub(super) fn is_beside_medium(name: &str) -> bool {
    is_of_medium(name)
        || matches!(
            name,
            "role"
                | "content"
                | "cache_control"
                | "source"
                | "context"
                | "citations"
                | "tool_calls"
                | "tool_call_id"
                | "tool_use_id"
                | "tool_name"
                | "is_error"
                | "status"
                | "call_id"
                | "output"
                | "input"
                | "thinking"
                | "reasoning"
                | "reasoning_content"
                | "refusal"
                | "annotations"
                | "function_call"
                | "index"
                | "phase"
                | "prompt_string"
                | "metadata"
                | "transcript"
                | "prompt_cache_breakpoint"
                | "transformations"
                | "toolset_name"
                | "reasoning_details"
                | "provider_specific_fields"
                | "acknowledged_safety_checks"
        )
}

/// Whether a field of a message, of a part of one or of an item is known: each template prints it as text, if at all.
pub(super) fn is_known_in_message(name: &str) -> bool {
    const OTHERS: [&str; 28] = [
        "agent",
        "cited_text",
        "code",
        "container_id",
        "diff",
        "encrypted_content",
        "end_index",
        "error",
        "execution",
        "file_path",
        "from",
        "logs",
        "outputs",
        "path",
        "prefix",
        "result",
        "server_label",
        "signature",
        "start_index",
        "stderr",
        "stdout",
        "summary",
        "tab_id",
        "tabs",
        "to",
        "tool_plan",
        "ttl",
        "weight",
    ];
    !matches!(role(name), FieldRole::Any | FieldRole::Disguised)
        || is_beside_medium(name)
        || OTHERS.contains(&name)
}

/// Whether a field of the body that is not named like a medium is known not to change the size of one.
pub(super) fn is_known_in_body(name: &str) -> bool {
    super::leaves_bytes_alone(name)
        || matches!(
            name,
            // What the model reads.
            "query" | "queries" | "items" | "text" | "texts" | "text_1" | "text_2" | "data_1" | "data_2" | "inputs" | "prediction"
                | "content" | "passages" | "name"
                | "instruction" | "title" | "voice" | "language" | "modalities" | "negative_prompt" | "raw" | "input_ids"
                | "add_generation_prompt" | "continue_final_message" | "add_special_tokens" | "truncate_prompt_tokens"
                | "truncate" | "echo" | "cache_salt" | "reasoning" | "thinking" | "context_management"
                // How tokens are chosen.
                | "bad_words" | "length_penalty" | "use_beam_search" | "allowed_token_ids" | "regex" | "ebnf" | "dynatemp_range"
                | "dynatemp_exponent" | "dry_multiplier" | "dry_base" | "dry_allowed_length" | "dry_penalty_last_n"
                | "dry_sequence_breakers" | "xtc_probability" | "xtc_threshold" | "min_keep" | "penalize_nl" | "no_stop_trim"
                // The form of the answer.
                | "logprobs" | "top_logprobs" | "prompt_logprobs" | "skip_special_tokens" | "spaces_between_special_tokens"
                | "include_stop_str_in_output" | "separate_reasoning" | "stream_reasoning" | "include_reasoning" | "include"
                | "return_token_ids" | "return_tokens" | "return_tokens_as_token_ids" | "return_progress" | "n_probs"
                | "post_sampling_probs" | "timings_per_token" | "response_fields" | "encoding_format" | "dimensions"
                | "embedding_types" | "input_type" | "normalize" | "top_n" | "return_documents" | "activation"
                | "use_activation" | "apply_softmax" | "item_first" | "label_token_ids" | "size" | "quality" | "style"
                | "background" | "output_format" | "output_compression" | "input_fidelity" | "moderation" | "partial_images"
                // How the request is treated.
                | "betas" | "max_tool_calls" | "prompt_cache_retention" | "client_metadata" | "extra_headers" | "container"
                | "rid" | "extra_key" | "task" | "prompt_cache_options" | "speed" | "diagnostics" | "access_programs" | "billing_policy"
                | "fallback_credit_token" | "inference_geo" | "personality" | "provider" | "route" | "transforms" | "usage"
                // Of the reasoning and its form.
                | "enable_thinking" | "reasoning_format" | "reasoning_budget" | "thinking_budget" | "thinking_budget_tokens"
                | "thinking_token_budget" | "thinking_forced_open"
                // Of llama.cpp's own page, and its samplers.
                | "backend_sampling" | "parse_tool_calls" | "top_n_sigma" | "adaptive_target" | "adaptive_decay" | "t_max_predict_ms"
        )
        || OF_TRACES.contains(&name)
}

/// Ids by which clients and gateways find requests again.
const OF_TRACES: [&str; 17] = [
    "chat_id",
    "message_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "run_id",
    "generation_id",
    "correlation_id",
    "client_request_id",
    "litellm_call_id",
    "litellm_trace_id",
    "user_id",
    "user_profile_id",
    "project_id",
    "workspace_id",
    "organization_id",
    "tenant_id",
];

/// What is known of a field that is named like an id, and is not known itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdName {
    /// It tells whose request it is, or by what it is found again.
    Trace,
    /// It may be an image, a sound or a file that the server holds.
    Medium,
    /// Anything that the server holds.
    Stored,
}

/// Whether a field is named like an id, and of what.
pub(super) fn id(name: &str) -> Option<IdName> {
    const OF_MEDIA: [&str; 18] = [
        "image",
        "img",
        "picture",
        "photo",
        "audio",
        "sound",
        "voice",
        "video",
        "clip",
        "media",
        "file",
        "doc",
        "asset",
        "upload",
        "attachment",
        "blob",
        "object",
        "content",
    ];
    /// The words of which names of other ids are made.
    const OF_TRACES: [&str; 49] = [
        "account",
        "activity",
        "anonymous",
        "api",
        "call",
        "chat",
        "client",
        "company",
        "correlation",
        "customer",
        "device",
        "event",
        "external",
        "feedback",
        "generation",
        "group",
        "idempotency",
        "install",
        "installation",
        "internal",
        "invocation",
        "job",
        "key",
        "litellm",
        "message",
        "msg",
        "my",
        "observation",
        "org",
        "organization",
        "own",
        "profile",
        "project",
        "req",
        "request",
        "root",
        "run",
        "span",
        "step",
        "task",
        "team",
        "tenant",
        "ticket",
        "trace",
        "tracking",
        "transaction",
        "turn",
        "user",
        "workspace",
    ];
    let stem = name.strip_suffix("_id").or_else(|| name.strip_suffix("_ids"))?;
    Some(match () {
        () if stem.split('_').all(|word| OF_TRACES.contains(&word)) => IdName::Trace,
        () if OF_MEDIA.iter().any(|word| stem.contains(word)) => IdName::Medium,
        () => IdName::Stored,
    })
}

/// Whether a text is like the values of settings, and not like an address, a file's name, an id or prose.
pub(super) fn is_word(text: &str) -> bool {
    /// Servers' ids of files are longer.
    const LONGEST: usize = 24;
    let is_of_words = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'_' | b'-' | b'+');
    text.len() <= LONGEST && text.bytes().all(is_of_words)
}

/// Whether a text is a UUID (RFC 9562), with its hyphens or without.
pub(super) fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    (lengths.clone().eq([8, 4, 4, 4, 12]) || lengths.eq([32]))
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::read::resembles;

    /// As each known name was once compared with each field.
    fn role_one_by_one(name: &str) -> FieldRole {
        if let Some(known) = KNOWN.iter().find(|known| known.name == name) {
            return known.role;
        }
        let hides = |known: &KnownName| known.role.hides() && resembles(name, known.name);
        if KNOWN.iter().any(hides) { FieldRole::Disguised } else { FieldRole::Any }
    }

    #[test]
    fn each_known_name_is_found() {
        for known in KNOWN.iter() {
            assert_eq!(role(known.name), known.role, "{}", known.name);
            // Some readers cut a name at its first NUL.
            let longer = format!("{}\0x", known.name);
            assert_eq!(role(&longer), role_one_by_one(&longer), "{longer:?}");
            assert_eq!(role(&longer) == FieldRole::Disguised, known.role.hides(), "{longer:?}");
        }
    }

    proptest! {
        #[test]
        fn one_look_finds_what_comparing_with_each_name_finds(
            known in prop::sample::select(KNOWN.iter().map(|known| known.name).collect::<Vec<_>>()),
            upper in any::<bool>(),
            changes in prop::collection::vec(
                (any::<prop::sample::Index>(), prop_oneof!["[_ \u{17f}\u{212a}\u{130}\\-0a-z\u{0}]", any::<char>().prop_map(String::from)]),
                0..3,
            ),
        ) {
            let mut name: Vec<char> = known.chars().collect();
            if upper {
                name[0] = name[0].to_ascii_uppercase();
            }
            for (at, more) in changes {
                let tail = name.split_off(at.index(name.len() + 1));
                name.extend(more.chars().chain(tail));
            }
            let name: String = name.into_iter().collect();
            prop_assert_eq!(role(&name), role_one_by_one(&name), "{:?}", name);
        }
    }
}
