//! The fields by which servers choose a model.

use super::{NameField, Unreadable, Where, fold::resembles};

/// The field that names the model.
pub(super) const MODEL: &str = "model";

/// The field that names it too, for Ollama's `/api/show`.
pub(super) const NAME: &str = "name";

/// A field other than `model` by which some server chooses one.
#[derive(Debug)]
pub(super) struct OtherField {
    pub(super) name: &'static str,
    /// What to do without it.
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
    OtherField { name: "draft_model", advice: "the server's operator chooses the draft model" },
    // OpenRouter and LiteLLM: models that answer if the first does not.
    // https://openrouter.ai/docs/features/model-routing
    // https://docs.litellm.ai/docs/proxy/reliability
    OtherField { name: "models", advice: "put one model's name into \"model\"" },
    OtherField { name: "fallbacks", advice: "put one model's name into \"model\"" },
];

/// What a field's name stands for.
#[derive(Debug)]
pub(super) enum Field {
    /// The model.
    Model,
    /// The model, for Ollama's own API.
    Name,
    /// Another choice of a model.
    Other(&'static OtherField),
    /// Nothing that matters here.
    Any,
}

impl Field {
    /// Looks a name up.
    ///
    /// # Errors
    /// If it is not one of the names that matter, but some reader could take it for one.
    pub(super) fn of(name: &str, place: Where) -> Result<Self, Unreadable> {
        if name == MODEL {
            return Ok(Self::Model);
        }
        if resembles(name, MODEL) {
            return Err(Unreadable::Disguised { field: MODEL, place });
        }
        match OTHER_FIELDS.iter().find(|other| resembles(name, other.name)) {
            Some(other) if other.name == name => Ok(Self::Other(other)),
            Some(other) => Err(Unreadable::Disguised { field: other.name, place }),
            None => Ok(Self::Any),
        }
    }
}

impl Field {
    /// Looks the name of a JSON field up.
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
            assert!(matches!(Field::of(name, Where::Json), Ok(Field::Any)), "{name}");
        }
    }
}
