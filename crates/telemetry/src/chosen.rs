//! The server that was chosen for a request, and why.

use std::{fmt, sync::Arc, time::Duration};

/// The server that was chosen for a request, and why. What is expected is an estimate, by what is known of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenServer {
    /// Its name.
    pub name: Arc<str>,
    /// Among how many servers, itself included.
    pub among: usize,
    /// The estimated tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those that are expected to be in the server's cache; `None` if caches were not looked at.
    pub cached_tokens: Option<u32>,
    /// Whether the request's adapter was believed to be loaded there; `None` if it is for no adapter, or if that is not known.
    pub has_adapter: Option<bool>,
    /// The requests that waited or were being answered there.
    pub under_way: u32,
    /// The expected time to the first token.
    pub first_token: Duration,
    /// For how long the request would wait first, because all servers are full; `None` if it would not, or if that was not asked for.
    pub would_wait: Option<Duration>,
    /// The server that would have been chosen without it, and its expected time, if that was asked for.
    pub next: Option<(Arc<str>, Duration)>,
}

impl ChosenServer {
    /// The share of the prompt that is expected to be in the server's cache, in percent; `None` if caches were not looked at.
    pub fn cached_percent(&self) -> Option<u32> {
        let cached = u64::from(self.cached_tokens?) * 100 / u64::from(self.prompt_tokens.max(1));
        Some(u32::try_from(cached).unwrap_or(100).min(100))
    }
}

impl fmt::Display for ChosenServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            among,
            prompt_tokens,
            cached_tokens,
            has_adapter,
            under_way,
            first_token,
            would_wait,
            next,
        } = self;
        write!(f, "server {name} is chosen among {among}: ")?;
        if let Some(cached) = cached_tokens {
            write!(
                f,
                "about {cached} of the prompt's {prompt_tokens} tokens are expected to be in its cache, "
            )?;
        }
        match has_adapter {
            Some(true) => write!(f, "the adapter is loaded there, ")?,
            Some(false) => write!(f, "the adapter has to be loaded there first, ")?,
            None => {}
        }
        let plural = if *under_way == 1 { "request is" } else { "requests are" };
        write!(
            f,
            "{under_way} {plural} under way there, and the first token is expected after {}",
            Seconds(*first_token)
        )?;
        if let Some((name, time)) = next {
            write!(f, "; from the next best, {name}, after {}", Seconds(*time))?;
        }
        match would_wait {
            Some(longest) => {
                write!(f, "; but all servers are full now, so it waits first, for at most {longest:?}")
            }
            None => Ok(()),
        }
    }
}

/// In seconds with three decimals.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_why() {
        let mut chosen = ChosenServer {
            name: "gpu-1".into(),
            among: 3,
            prompt_tokens: 1_000,
            cached_tokens: Some(870),
            has_adapter: None,
            under_way: 1,
            first_token: Duration::from_micros(26_400),
            would_wait: Some(Duration::from_secs(20)),
            next: Some(("gpu-2".into(), Duration::from_millis(200))),
        };
        assert_eq!(chosen.cached_percent(), Some(87));
        assert_eq!(
            chosen.to_string(),
            "server gpu-1 is chosen among 3: about 870 of the prompt's 1000 tokens are expected to be in its cache, 1 request is \
             under way there, and the first token is expected after 0.026 s; from the next best, gpu-2, after 0.200 s; but \
             all servers are full now, so it waits first, for at most 20s"
        );
        (chosen.cached_tokens, chosen.next, chosen.would_wait, chosen.under_way) = (None, None, None, 2);
        assert_eq!(
            chosen.to_string(),
            "server gpu-1 is chosen among 3: 2 requests are under way there, and the first token is expected after 0.026 s"
        );
        assert_eq!(chosen.cached_percent(), None);
        for (has_adapter, words) in
            [(true, "the adapter is loaded there"), (false, "the adapter has to be loaded there first")]
        {
            chosen.has_adapter = Some(has_adapter);
            assert_eq!(
                chosen.to_string(),
                format!(
                    "server gpu-1 is chosen among 3: {words}, 2 requests are under way there, and the first token is expected after \
                     0.026 s"
                )
            );
        }
    }
}
