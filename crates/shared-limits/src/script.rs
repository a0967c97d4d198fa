//! The scripts: how they are called, and what their answers mean.
//!
//! A script is called by its SHA-1 (`EVALSHA`), which costs no more than its arguments; the connection has loaded it
//! before. A server that was restarted or told to forget its scripts gets the text once more (`EVAL`).

use std::{fmt::Write, sync::LazyLock, time::Duration};

use redis::{Cmd, Script};

use limits::LimitId;

use crate::{Demand, InvalidOptions, Left, Outcome, ServerTime};

const SECOND: u64 = 1_000_000_000;

const ADMIT_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/admit.lua"));
const GIVE_BACK_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/give_back.lua"));
const ANNOUNCE_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/announce.lua"));
const LEFT_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/left.lua"));

static ADMIT: LazyLock<Text> = LazyLock::new(|| Text::new(ADMIT_TEXT));
static GIVE_BACK: LazyLock<Text> = LazyLock::new(|| Text::new(GIVE_BACK_TEXT));
static ANNOUNCE: LazyLock<Text> = LazyLock::new(|| Text::new(ANNOUNCE_TEXT));
static LEFT: LazyLock<Text> = LazyLock::new(|| Text::new(LEFT_TEXT));

/// A script, and the name that servers give it.
#[derive(Debug)]
struct Text {
    code: &'static str,
    sha1: String,
}

/// One call of a script.
#[derive(Debug)]
pub(crate) struct Call {
    text: &'static Text,
    keys: Vec<String>,
    /// Times, as seconds and nanoseconds, and other numbers.
    times: Vec<u64>,
}

/// Where limits are kept.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// With the hash tag that puts all of them into one slot of a cluster:
    /// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>.
    prefix: String,
}

impl Text {
    fn new(code: &'static str) -> Self {
        Self { code, sha1: Script::new(code).get_hash().to_owned() }
    }
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Result<Self, InvalidOptions> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if (1..=64).contains(&namespace.len()) && namespace.chars().all(is_plain) {
            Ok(Self { prefix: format!("{{{namespace}}}:") })
        } else {
            Err(InvalidOptions::Namespace(namespace.to_owned()))
        }
    }

    fn of(&self, id: &LimitId) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 70);
        // A string takes whatever is written to it.
        let _ = write!(key, "{}{:032x}:{:032x}:{}", self.prefix, id.who, id.model, id.window);
        key
    }

    fn of_all(&self, demands: &[Demand]) -> Vec<String> {
        demands.iter().map(|demand| self.of(&demand.id)).collect()
    }

    /// An admission that shows whether the server decides: that it runs scripts, tells the time and writes. Nothing is
    /// left of it after some milliseconds.
    pub(crate) fn probe(&self) -> Call {
        let times = split(1).into_iter().chain(split(SECOND)).collect();
        Call { text: &ADMIT, keys: vec![format!("{}probe", self.prefix)], times }
    }
}

/// For how long, in whole seconds, a Modelgate counts that is not heard of any more.
pub(crate) const REPLICA_COUNTS: Duration = Duration::from_secs(5);

impl Keys {
    /// Tells that one of the Modelgates is there; the answer is how many are.
    pub(crate) fn announce(&self, id: u64) -> Call {
        Call {
            text: &ANNOUNCE,
            keys: vec![format!("{}replicas", self.prefix)],
            times: vec![id, REPLICA_COUNTS.as_secs()],
        }
    }
}

impl Call {
    /// By name.
    pub(crate) fn by_sha1(&self) -> Cmd {
        self.with("EVALSHA", &self.text.sha1)
    }

    /// With the script's text, for a server that does not know it.
    pub(crate) fn by_text(&self) -> Cmd {
        self.with("EVAL", self.text.code)
    }

    fn with(&self, command: &str, script: &str) -> Cmd {
        let mut cmd = redis::cmd(command);
        cmd.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.times);
        cmd
    }
}

/// The commands that make the scripts known to a server.
pub(crate) fn load_all() -> redis::Pipeline {
    let mut load = redis::pipe();
    for text in [&ADMIT, &ANNOUNCE, &GIVE_BACK, &LEFT] {
        load.cmd("SCRIPT").arg("LOAD").arg(text.code);
    }
    load
}

pub(crate) fn admit(keys: &Keys, demands: &[Demand]) -> Call {
    let times = demands.iter().flat_map(|demand| [demand.time(), demand.burst_time()]).flat_map(split);
    Call { text: &ADMIT, keys: keys.of_all(demands), times: times.collect() }
}

pub(crate) fn give_back(keys: &Keys, demands: &[Demand], taken_at: ServerTime) -> Call {
    let times = [taken_at.0].into_iter().chain(demands.iter().map(Demand::time)).flat_map(split);
    Call { text: &GIVE_BACK, keys: keys.of_all(demands), times: times.collect() }
}

pub(crate) fn left(keys: &Keys, demands: &[Demand]) -> Call {
    let times = demands.iter().map(Demand::burst_time).flat_map(split);
    Call { text: &LEFT, keys: keys.of_all(demands), times: times.collect() }
}

/// What the script says of an admission; nothing, if that makes no sense.
pub(crate) fn outcome(answer: &[u64], demands: usize) -> Option<Outcome> {
    match *answer {
        [0, s, ns] => Some(Outcome::Admitted { at: ServerTime(s.checked_mul(SECOND)?.checked_add(ns)?) }),
        [number, retry_s, retry_ns, reset_s, reset_ns] => Some(Outcome::Refused {
            index: usize::try_from(number).ok()?.checked_sub(1).filter(|&index| index < demands)?,
            retry_after: duration(retry_s, retry_ns)?,
            reset_after: duration(reset_s, reset_ns)?,
        }),
        _ => None,
    }
}

pub(crate) fn lefts(answer: &[u64], demands: &[Demand]) -> Option<Vec<Left>> {
    let (busy, rest) = answer.as_chunks::<2>();
    if busy.len() != demands.len() || !rest.is_empty() {
        return None;
    }
    let left = demands.iter().zip(busy);
    left.map(|(demand, &[s, ns])| Some(Left::of(demand, duration(s, ns)?))).collect()
}

fn duration(s: u64, ns: u64) -> Option<Duration> {
    Some(Duration::new(s, u32::try_from(ns).ok().filter(|&ns| u64::from(ns) < SECOND)?))
}

fn split(ns: u64) -> [u64; 2] {
    [ns / SECOND, ns % SECOND]
}

#[cfg(test)]
mod tests;
