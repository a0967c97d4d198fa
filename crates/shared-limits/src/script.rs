//! The scripts, their calls and their answers.
//!
//! A script is called by its SHA-1 (`EVALSHA`), so only the arguments are sent; it is loaded when connecting. A server that was
//! restarted or has flushed its scripts gets the text once more (`EVAL`).

use std::{fmt::Write, num::NonZeroU32, sync::LazyLock, time::Duration};

use redis::{Cmd, Script};

use limits::{LimitId, QuotaId};

use crate::{BudgetDemand, Demand, Epoch, InvalidOptions, Left, Outcome, ServerTime, Settled, Spent};

const SECOND: u64 = 1_000_000_000;

const ADMIT_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/admit.lua"));
const SETTLE_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/settle.lua"));
const ANNOUNCE_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/announce.lua"));
const LEFT_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/left.lua"));
const SPEND_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/spend.lua"));
const SPENT_TEXT: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/spent.lua"));

static ADMIT: LazyLock<Text> = LazyLock::new(|| Text::new(ADMIT_TEXT));
static SETTLE: LazyLock<Text> = LazyLock::new(|| Text::new(SETTLE_TEXT));
static ANNOUNCE: LazyLock<Text> = LazyLock::new(|| Text::new(ANNOUNCE_TEXT));
static LEFT: LazyLock<Text> = LazyLock::new(|| Text::new(LEFT_TEXT));
static SPEND: LazyLock<Text> = LazyLock::new(|| Text::new(SPEND_TEXT));
static SPENT: LazyLock<Text> = LazyLock::new(|| Text::new(SPENT_TEXT));

/// A script, and its SHA-1.
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

/// The names of the limits' keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// With the hash tag that puts all keys into one slot of a cluster:
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
        // Writing to a string cannot fail.
        let _ = write!(key, "{}{:032x}:{:032x}:{}", self.prefix, id.who, id.model, id.window);
        key
    }

    fn of_budget(&self, id: &QuotaId) -> String {
        format!("{}budget:{}:{}", self.prefix, id.subject(), id.period())
    }

    /// Says in which epoch the count of a budget was begun.
    fn epoch_of_budget(&self, id: &QuotaId) -> String {
        format!("{}budget-epoch:{}:{}", self.prefix, id.subject(), id.period())
    }

    fn of_all(&self, demands: &[Demand]) -> Vec<String> {
        demands.iter().map(|demand| self.of(&demand.id)).collect()
    }

    /// An admission that tests whether the server makes decisions: it must run scripts, have the time and write. Its key
    /// expires after some milliseconds.
    pub(crate) fn probe(&self) -> Call {
        let times = [0; 4].into_iter().chain(split(1)).chain(split(SECOND)).collect();
        Call { text: &ADMIT, keys: vec![format!("{}probe", self.prefix)], times }
    }
}

/// The time, in whole seconds, for which a Modelgate counts after it was last heard of.
pub(crate) const REPLICA_COUNTS: Duration = Duration::from_secs(5);

impl Keys {
    /// What is not a limit: a stream, or a secret.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn epoch(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    /// Announces a Modelgate whose last answer was `last`. `next` is the next epoch, if one begins.
    pub(crate) fn announce(&self, id: u64, last: ServerTime, next: u64) -> Call {
        let [last_s, last_ns] = split(last.0);
        Call {
            text: &ANNOUNCE,
            keys: vec![format!("{}replicas", self.prefix), self.epoch()],
            times: vec![id, REPLICA_COUNTS.as_secs(), last_s, last_ns, next],
        }
    }
}

impl Call {
    /// The call by SHA-1.
    pub(crate) fn by_sha1(&self) -> Cmd {
        self.with("EVALSHA", &self.text.sha1)
    }

    /// The call with the script's text, for a server that does not know the script.
    pub(crate) fn by_text(&self) -> Cmd {
        self.with("EVAL", self.text.code)
    }

    fn with(&self, command: &str, script: &str) -> Cmd {
        let mut cmd = redis::cmd(command);
        cmd.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.times);
        cmd
    }
}

/// The commands that load the scripts into a server.
pub(crate) fn load_all() -> redis::Pipeline {
    let mut load = redis::pipe();
    for text in [&ADMIT, &ANNOUNCE, &SETTLE, &LEFT, &SPEND, &SPENT] {
        load.cmd("SCRIPT").arg("LOAD").arg(text.code);
    }
    load
}

/// An admission that takes nothing after `deadline`.
pub(crate) fn admit(
    keys: &Keys,
    demands: &[Demand],
    budgets: &[BudgetDemand],
    deadline: Option<ServerTime>,
) -> Call {
    let [late_s, late_ns] = split(deadline.map_or(0, ServerTime::as_nanos));
    let epoch = budgets.first().map_or(0, |budget| budget.epoch.0);
    let times = demands.iter().flat_map(|demand| [demand.time(), demand.burst_time()]).flat_map(split);
    let amounts = budgets.iter().flat_map(|budget| {
        let BudgetDemand { allowed, cost, used, ends_after, .. } = *budget;
        [allowed, cost, used, life_ms(ends_after)]
    });
    let times = [budgets.len() as u64, late_s, late_ns, epoch].into_iter().chain(times).chain(amounts);
    let mut names = keys.of_all(demands);
    names.extend(budgets.iter().map(|budget| keys.of_budget(&budget.id)));
    names.extend(budgets.iter().map(|budget| keys.epoch_of_budget(&budget.id)));
    names.extend(budgets.first().map(|_| keys.epoch()));
    Call { text: &ADMIT, keys: names, times: times.collect() }
}

pub(crate) fn spend(keys: &Keys, spent: &[Spent]) -> Call {
    let times = spent.iter().flat_map(|one| {
        let by = one.by.unsigned_abs();
        let (more, less) = if one.by < 0 { (0, by) } else { (by, 0) };
        [more, less, life_ms(one.ends_after), one.epoch.0]
    });
    let names = spent.iter().flat_map(|one| [keys.of_budget(&one.id), keys.epoch_of_budget(&one.id)]);
    Call { text: &SPEND, keys: names.collect(), times: times.collect() }
}

pub(crate) fn spent(keys: &Keys, budgets: &[QuotaId]) -> Call {
    let names = budgets.iter().flat_map(|id| [keys.of_budget(id), keys.epoch_of_budget(id)]);
    Call { text: &SPENT, keys: [keys.epoch()].into_iter().chain(names).collect(), times: Vec::new() }
}

/// How long the count of a budget is kept, in milliseconds; 0: for ever. A request that began before midnight is settled the next
/// day.
fn life_ms(ends_after: Option<Duration>) -> u64 {
    const DAY: Duration = Duration::from_secs(86_400);
    ends_after.map_or(0, |left| u64::try_from((left + DAY).as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn settle(keys: &Keys, settled: &[Settled]) -> Call {
    let times = settled.iter().flat_map(|one| {
        let Settled { demand, recovers_from, used } = *one;
        let time = |cost| Demand { cost, ..demand }.time();
        // What was used recovers before what was not.
        let from = recovers_from.0.saturating_add(time(used));
        [from, time(demand.cost.saturating_sub(used)), time(used.saturating_sub(demand.cost))]
    });
    let keys = settled.iter().map(|one| keys.of(&one.demand.id)).collect();
    Call { text: &SETTLE, keys, times: times.flat_map(split).collect() }
}

pub(crate) fn left(keys: &Keys, demands: &[Demand]) -> Call {
    let times = demands.iter().map(Demand::burst_time).flat_map(split);
    Call { text: &LEFT, keys: keys.of_all(demands), times: times.collect() }
}

pub(crate) fn amounts(answer: &[u64], budgets: usize) -> Option<Vec<Option<u64>>> {
    let (spent, rest) = answer.as_chunks::<2>();
    let is_whole = spent.len() == budgets && rest.is_empty();
    is_whole.then(|| spent.iter().map(|[is_known, amount]| (*is_known == 1).then_some(*amount)).collect())
}

/// The answer to an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) replicas: NonZeroU32,
    /// The time.
    pub(crate) at: ServerTime,
    /// What the next announcement says of this one.
    pub(crate) last: ServerTime,
    pub(crate) epoch: Epoch,
}

pub(crate) fn announced(answer: &[u64]) -> Option<Announced> {
    let &[replicas, now_s, now_ns, last_s, last_ns, epoch] = answer else { return None };
    let replicas = NonZeroU32::new(u32::try_from(replicas).ok()?).unwrap_or(NonZeroU32::MIN);
    let (at, last) = (time(now_s, now_ns)?, time(last_s, last_ns)?);
    Some(Announced { replicas, at, last, epoch: Epoch(epoch) })
}

/// The server's time, if the answer to an admission says it.
pub(crate) fn time_of_admission(answer: &[u64]) -> Option<ServerTime> {
    match *answer {
        [0, now_s, now_ns, ..] => time(now_s, now_ns),
        _ => None,
    }
}

/// The result of an admission with demands on so many rates and budgets; `None` if the answer is invalid.
pub(crate) fn outcome(answer: &[u64], (demands, budgets): (usize, usize)) -> Option<Outcome> {
    match *answer {
        [number, remaining] => {
            let index = usize::try_from(number).ok()?.checked_sub(demands + 1)?;
            (index < budgets).then_some(Outcome::Overspent { index, remaining })
        }
        [0, ref times @ ..] => {
            let (times, []) = times.as_chunks::<2>() else { return None };
            let times: Option<Vec<_>> = times.iter().map(|&[s, ns]| time(s, ns)).collect();
            let (at, recovers_from) =
                times.as_deref()?.split_first().map(|(at, from)| (*at, from.to_vec()))?;
            (recovers_from.len() == demands).then_some(Outcome::Admitted { at, recovers_from })
        }
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

fn time(s: u64, ns: u64) -> Option<ServerTime> {
    Some(ServerTime(s.checked_mul(SECOND)?.checked_add(ns)?))
}

fn duration(s: u64, ns: u64) -> Option<Duration> {
    Some(Duration::new(s, u32::try_from(ns).ok().filter(|&ns| u64::from(ns) < SECOND)?))
}

fn split(ns: u64) -> [u64; 2] {
    [ns / SECOND, ns % SECOND]
}

#[cfg(test)]
mod tests;
