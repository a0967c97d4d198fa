//! What webhooks are told about.

/// Something that needs an operator. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is.
    pub id: ConditionId,
    /// Whether requests fail or a server is lost; otherwise something is only not as intended.
    pub is_bad: bool,
    /// What is wrong, in words that may change while it lasts.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// The path of its page on the dashboard.
    pub page: Option<String>,
    /// Whose name it has, if somebody's: `key alice`.
    pub owner: Option<String>,
    /// Higher levels of the same that hold as well. Of levels that are reached at once only the highest is told.
    pub higher: Vec<ConditionId>,
}

/// Two conditions with the same id are one, whatever their words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConditionId {
    /// The code, such as `model_lost`.
    pub code: &'static str,
    /// What it is about, such as `model llama`.
    pub about: String,
}

impl Condition {
    /// What a test message says.
    pub fn test() -> Self {
        Self {
            id: ConditionId { code: "test", about: "Modelgate".into() },
            is_bad: false,
            what: "this is a test: alerts reach you here".into(),
            advice: None,
            page: None,
            owner: None,
            higher: Vec::new(),
        }
    }
}
