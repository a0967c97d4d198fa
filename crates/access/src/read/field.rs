//! The fields by which servers choose a model.

use super::{
    NameField, Unreadable, Where,
    deep::Object,
    fold::{GivenName, fold, resembles},
};

/// The field that names the model.
pub(super) const MODEL: &str = "model";

/// The field that names it too, for Ollama's `/api/show`.
pub(super) const NAME: &str = "name";

/// A field other than `model` by which some server chooses one.
#[derive(Debug)]
pub(super) struct OtherField {
    pub(super) name: &'static str,
    /// How to do without it.
    pub(super) advice: &'static str,
}

/// Fields that are refused unless they are absent or null, because they would get past the check of `model`.
/// A new kind of server whose requests name a model elsewhere needs a line here.
const OTHER_FIELDS: &[OtherField] = &[
    // SGLang: the LoRA adapter of the request.
    // https://docs.sglang.ai/advanced_features/lora.html
    OtherField { name: "lora_path", advice: "put the adapter's name into \"model\"" },
    // mlx-lm's server: a LoRA adapter, and a second model for speculative decoding, either of them from
    // any path or repository; LM Studio has the latter as well.
    // https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/SERVER.md
    // https://lmstudio.ai/docs/app/advanced/speculative-decoding
    OtherField { name: "adapters", advice: "put the adapter's name into \"model\"" },
    // LoRAX and TGI, LMDeploy, TensorRT-LLM.
    // https://loraexchange.ai/reference/rest_api/
    // https://huggingface.co/docs/text-generation-inference/conceptual/lora
    // https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/serve/openai_protocol.py
    OtherField { name: "adapter_id", advice: "put the adapter's name into \"model\"" },
    OtherField { name: "adapter_name", advice: "put the adapter's name into \"model\"" },
    OtherField { name: "adapter_source", advice: "the server's operator chooses where adapters come from" },
    OtherField { name: "lora_id", advice: "put the adapter's name into \"model\"" },
    OtherField { name: "lora_name", advice: "put the adapter's name into \"model\"" },
    OtherField { name: "lora_request", advice: "put the adapter's name into \"model\"" },
    // LocalAI, Xinference, speaches.
    // https://localai.io/features/text-to-audio/, https://inference.readthedocs.io, https://speaches.ai
    OtherField { name: "model_id", advice: "put the model's name into \"model\"" },
    OtherField { name: "model_uid", advice: "put the model's name into \"model\"" },
    OtherField { name: "speech_model", advice: "put the model's name into \"model\"" },
    OtherField { name: "transcription_model", advice: "put the model's name into \"model\"" },
    OtherField { name: "draft_model", advice: "the server's operator chooses the draft model" },
    // OpenRouter and LiteLLM: models that answer if the first does not.
    // https://openrouter.ai/docs/features/model-routing
    // https://docs.litellm.ai/docs/proxy/reliability
    OtherField { name: "models", advice: "put one model's name into \"model\"" },
    OtherField { name: "fallbacks", advice: "put one model's name into \"model\"" },
];

/// A field that refers to what a server, or a provider for all who share an account, has stored.
#[derive(Debug)]
pub(super) struct StoredField {
    pub(super) name: &'static str,
    shape: Shape,
}

/// The form that a value must have to refer to something.
#[derive(Debug)]
enum Shape {
    /// Anything but null.
    Any,
    /// An object: a text means something else.
    Object,
    /// A text, or an object with an `id`.
    Id,
}

/// Documented names, which count in any case: Go's readers ignore it. <https://platform.openai.com/docs/api-reference>,
/// <https://docs.anthropic.com/en/api/messages>, SGLang's sessions: <https://docs.sglang.ai/basic_usage/native_api.html>.
const STORED_FIELDS: &[StoredField] = &[
    StoredField { name: "previous_response_id", shape: Shape::Any },
    StoredField { name: "conversation", shape: Shape::Any },
    StoredField { name: "prompt", shape: Shape::Object },
    StoredField { name: "container", shape: Shape::Id },
    StoredField { name: "file_id", shape: Shape::Any },
    StoredField { name: "file_ids", shape: Shape::Any },
    StoredField { name: "input_file_id", shape: Shape::Any },
    StoredField { name: "training_file", shape: Shape::Any },
    StoredField { name: "validation_file", shape: Shape::Any },
    StoredField { name: "vector_store_ids", shape: Shape::Any },
    StoredField { name: "assistant_id", shape: Shape::Any },
    StoredField { name: "thread_id", shape: Shape::Any },
    StoredField { name: "session_params", shape: Shape::Any },
    // Cohere, Jina; a voice that somebody has stored.
    StoredField { name: "conversation_id", shape: Shape::Any },
    StoredField { name: "classifier_id", shape: Shape::Any },
    StoredField { name: "voice", shape: Shape::Object },
];

impl StoredField {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        // Most names are in lower case.
        if name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')) {
            return STORED_FIELDS.iter().find(|field| field.name == name);
        }
        STORED_FIELDS.iter().find(|field| name.chars().map(fold).eq(field.name.chars()))
    }

    /// Whether a value, in JSON, refers to something.
    pub(super) fn refers(&self, json: &str) -> bool {
        let json = json.trim_ascii();
        match self.shape {
            Shape::Any => json != "null",
            Shape::Object => json.starts_with('{'),
            Shape::Id => {
                json.starts_with('"') || Object::read(json).is_some_and(|object| object.get("id").is_some())
            }
        }
    }

    /// Whether a form's part refers to something: its value is a text.
    pub(super) fn counts_in_forms(&self) -> bool {
        match self.shape {
            Shape::Any | Shape::Id => true,
            Shape::Object => false,
        }
    }
}

/// The meaning of a field's name.
#[derive(Debug)]
pub(super) enum Field {
    /// The model.
    Model,
    /// The model, for Ollama's own API.
    Name,
    /// Another field that chooses a model.
    Other(&'static OtherField),
    /// A reference to stored data.
    Stored(&'static StoredField),
    /// Any other field.
    Any,
}

impl Field {
    /// Finds the meaning of a name.
    ///
    /// # Errors
    /// If it is not one of the names that matter, but some reader could take it for one.
    pub(super) fn of(name: &str, place: Where) -> Result<Self, Unreadable> {
        if name == MODEL {
            return Ok(Self::Model);
        }
        let given = GivenName::new(name);
        if given.resembles(MODEL) {
            return Err(Unreadable::Disguised { field: MODEL, place });
        }
        match OTHER_FIELDS.iter().find(|other| given.resembles(other.name)) {
            Some(other) if other.name == name => Ok(Self::Other(other)),
            Some(other) => Err(Unreadable::Disguised { field: other.name, place }),
            None => Ok(StoredField::find(name).map_or(Self::Any, Self::Stored)),
        }
    }
}

impl Field {
    /// Finds the meaning of a JSON field's name.
    pub(super) fn in_json(name: &str, rule: NameField) -> Result<Self, Unreadable> {
        let matters = rule != NameField::Ignored;
        match Self::of(name, Where::Json)? {
            Self::Any if matters && name == NAME => Ok(Self::Name),
            Self::Any if matters && resembles(name, NAME) => {
                Err(Unreadable::Disguised { field: NAME, place: Where::Json })
            }
            other => Ok(other),
        }
    }
}

impl OtherField {
    pub(super) fn refusal(&self) -> Unreadable {
        Unreadable::OtherField { field: self.name, advice: self.advice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One too few and a key reads what another has stored; one too many and a plain prompt is refused.
    #[test]
    fn a_value_refers_to_something_stored_by_its_shape() {
        for (name, json, refers) in [
            ("prompt", r#""a text""#, false),
            ("prompt", r#" {"id":"p"}"#, true),
            ("conversation", r#""c""#, true),
            ("conversation", "null", false),
            ("container", r#""c""#, true),
            ("container", r#"{"id":"c"}"#, true),
            ("container", r#"{"other":"c"}"#, false),
            ("container", "7", false),
            ("file_ids", "[]", true),
            ("file_ids", " null ", false),
        ] {
            assert_eq!(StoredField::find(name).expect(name).refers(json), refers, "{name}: {json}");
        }
        assert!(StoredField::find("messages").is_none());
        // Go's readers ignore case.
        for name in ["Conversation", "FILE_ID", "file_id\u{17f}"] {
            assert!(StoredField::find(name).is_some(), "{name}");
        }
        // In a form each value is a text: an id there, but never an object.
        let in_forms = ["container", "file_ids", "prompt"].map(|name| StoredField::find(name).expect(name));
        assert_eq!(in_forms.map(StoredField::counts_in_forms), [true, true, false]);
    }

    #[test]
    fn names_that_matter_must_be_exact() {
        assert!(matches!(Field::of("model", Where::Json), Ok(Field::Model)));
        assert!(matches!(Field::of("lora_path", Where::Json), Ok(Field::Other(_))));
        assert!(matches!(Field::of("messages", Where::Json), Ok(Field::Any)));
        for (name, field) in [("Model", "model"), ("loraPath", "lora_path"), ("ADAPTERS", "adapters")] {
            let refused = Field::of(name, Where::Query).expect_err(name);
            assert_eq!(refused, Unreadable::Disguised { field, place: Where::Query });
        }
    }

    #[test]
    fn common_fields_resemble_none_that_matters() {
        for name in [
            "messages",
            "prompt",
            "input",
            "stream",
            "tools",
            "temperature",
            "max_tokens",
            "metadata",
            "user",
            "n",
            "response_format",
            "reasoning",
            "file",
            "language",
            "adapter",
            "modalities",
            "mode",
            "lora",
        ] {
            assert!(matches!(Field::of(name, Where::Json), Ok(Field::Any | Field::Stored(_))), "{name}");
        }
    }
}
