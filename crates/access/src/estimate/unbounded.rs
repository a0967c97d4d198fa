//! Why the most that a request can use is not known, in words for whoever sent it.

/// Why the most tokens that a request can use are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unbounded {
    /// It does not say how long the answer may be, and the length of the model's context is not known either.
    #[error("nothing says how long the answer may be: send {0}, a number above 0")]
    Answer(&'static str),
    /// The prompt is continued from what the server holds.
    #[error(
        "the server would add to the prompt what it holds already ({0:?}), and the model's context length is not known: send the whole prompt instead"
    )]
    History(&'static str),
    /// A field that is not known and may name what the server holds.
    #[error(
        "the field {0:?} is not known: it may name what the server holds and would add to the prompt. The model's context length is not \
         known either: leave it out"
    )]
    Stored(Box<str>),
    /// A template of the request's own makes the prompt: it may repeat any part of it.
    #[error(
        "the prompt would be made by a template of the request's own ({0:?}), and the model's context length is not known: leave it out"
    )]
    Template(&'static str),
    /// Its body does not pass through here: it may ask for any number of answers, and for tools.
    #[error("the gateway does not see the request's body, which says how much is asked for")]
    Body,
    /// A part of it cannot be read here, and some servers can.
    #[error(
        "a part of the request's body cannot be read: use valid Unicode escapes, numbers that fit into 64 bits, and less nesting"
    )]
    Partly,
    /// A field's name is written in another way than APIs have them, and some servers take it for another field.
    #[error(
        "a field's name has other characters than small letters, digits, \"_\", \"-\" and \".\", and some servers ignore case: write names as the API has them"
    )]
    Name,
    /// A field by which an image, a sound or a file takes more tokens than the stated maximum, or any prompt more than its bytes.
    #[error(
        "the request's field {0:?} may make it longer than its bytes show, and the model's context length is not known: leave it out"
    )]
    Medium(&'static str),
    /// A field that is not known, beside an image, a sound or a file, or with the address of one.
    #[error(
        "the field {0:?} is not known: it may hold an image, a sound or a file, or make one longer. The model's context length is not \
         known either: leave it out"
    )]
    Beside(Box<str>),
    /// A script that makes any number of images.
    #[error("a script of the server's ({0:?}) may make any number of images: leave it out")]
    Script(&'static str),
    /// The server searches with several beams, and reads the prompt again for each token of each.
    #[error(
        "the server would search with several beams ({0:?}) and read the prompt again for each token of each: leave it out"
    )]
    Beams(&'static str),
    /// The model's price is for something else than what the path's requests use.
    #[error(
        "nothing that the model has a price for is counted on this path: use a path that is paid by it, or have the model priced by \
         request"
    )]
    Unpriced,
    /// The sound is elsewhere.
    #[error("the sound is not in the request: send it as a file")]
    Elsewhere,
    /// Its body is not a JSON object, nor what else the path takes.
    #[error(
        "the request's body is not a JSON object: send one, with a field that says how long the answer may be"
    )]
    Unread,
    /// It is for a path whose answers have lengths that no field is known to limit.
    #[error("nothing is known of how long answers of this path may be, nor is the model's context length")]
    Path,
    /// The server runs tools, each of which makes the prompt longer and leads to another answer.
    #[error(
        "the server itself would run tools ({0:?}), as often as it likes: send only tools that the client runs"
    )]
    Tools(&'static str),
    /// The server answers more than once, and reads the prompt again each time.
    #[error("{0:?} would make the server read the prompt and answer more than once: leave it out")]
    Again(&'static str),
    /// A WebSocket, over which any number of requests can be sent.
    #[error("over a WebSocket any number of requests can be sent: send single requests over HTTP")]
    WebSocket,
}

impl Unbounded {
    /// The field of the request that it is about.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::Answer(field)
            | Self::History(field)
            | Self::Template(field)
            | Self::Tools(field)
            | Self::Again(field)
            | Self::Medium(field)
            | Self::Beams(field)
            | Self::Script(field) => Some(field),
            Self::Name
            | Self::Beside(_)
            | Self::Stored(_)
            | Self::Unpriced
            | Self::Body
            | Self::Partly
            | Self::Elsewhere
            | Self::Unread
            | Self::Path
            | Self::WebSocket => None,
        }
    }

    /// A field with this name, as far as it is short.
    pub(super) fn beside(name: &str) -> Self {
        Self::Beside(shortened(name))
    }

    pub(super) fn stored(name: &str) -> Self {
        Self::Stored(shortened(name))
    }
}

fn shortened(name: &str) -> Box<str> {
    const LONGEST: usize = 64;
    name.chars().take(LONGEST).collect()
}
