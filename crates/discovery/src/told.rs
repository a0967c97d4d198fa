//! Logs each problem once when it appears, and once when it is gone.

use std::collections::{BTreeMap, BTreeSet};

use catalogue::{Catalogue, Finding, Problem, ProblemSubject};
use tracing::{debug, info, warn};

/// The maximum number of problems logged at once; further ones are only counted.
const MOST_LINES: usize = 20;

/// The problems and hints that have been logged and still exist.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<ProblemId, Problem>);

/// The identity of a problem. Where it has no finding, the text may change while the problem lasts.
type ProblemId = (ProblemSubject, &'static str, Option<Finding>);

/// The changes since the last catalogue.
#[derive(Debug, PartialEq, Eq)]
struct News {
    appeared: Vec<Problem>,
    gone: Vec<Problem>,
}

impl Told {
    /// Logs what a catalogue adds and what has gone.
    pub(crate) fn tell(&mut self, catalogue: &Catalogue) {
        let News { appeared, gone } = self.compare(catalogue.problems().iter().chain(catalogue.hints()));
        let (hints, problems): (Vec<&Problem>, Vec<&Problem>) =
            appeared.iter().partition(|problem| problem.is_hint());
        each(
            &problems,
            |LoggedProblem { about, code, words }| warn!(%about, code, "problem: {words}"),
            |more| {
                warn!(more, "more problems; the dashboard and modelgate check --servers list them all");
            },
        );
        each(
            &hints,
            |LoggedProblem { about, code, words }| info!(%about, code, "hint: {words}"),
            |more| {
                info!(more, "more hints; the dashboard and modelgate check --servers list them all");
            },
        );
        let gone: Vec<&Problem> = gone.iter().collect();
        each(
            &gone,
            |LoggedProblem { about, code, words }| info!(%about, code, "no longer: {words}"),
            |more| {
                info!(more, "more problems and hints are gone");
            },
        );
    }

    /// Replaces the known problems by the current ones.
    fn compare<'a>(&mut self, now: impl Iterator<Item = &'a Problem>) -> News {
        let now: BTreeMap<ProblemId, Problem> = now.map(|problem| (key(problem), problem.clone())).collect();
        let not_in =
            |these: &BTreeMap<ProblemId, Problem>, others: &BTreeMap<ProblemId, Problem>| -> Vec<Problem> {
                let only_here = these.iter().filter(|(key, _)| !others.contains_key(*key));
                // Sorted like the catalogue's problems.
                let sorted: BTreeSet<&Problem> = only_here.map(|(_, problem)| problem).collect();
                sorted.into_iter().cloned().collect()
            };
        let news = News { appeared: not_in(&now, &self.0), gone: not_in(&self.0, &now) };
        for (key, problem) in &now {
            if self.0.get(key).is_some_and(|before| before != problem) {
                debug!(%problem, "problem, in other words");
            }
        }
        self.0 = now;
        news
    }
}

/// A problem as it is logged.
struct LoggedProblem<'a> {
    about: &'a ProblemSubject,
    code: &'static str,
    /// The text without the list of allowed values.
    words: String,
}

fn each(problems: &[&Problem], tell: impl Fn(LoggedProblem<'_>), tell_more: impl Fn(usize)) {
    for Problem { subject, finding } in problems.iter().take(MOST_LINES) {
        tell(LoggedProblem {
            about: subject,
            code: finding.code(),
            words: on_one_line(&format!("{finding:#}")),
        });
    }
    if let Some(more) = problems.len().checked_sub(MOST_LINES).filter(|more| *more > 0) {
        tell_more(more);
    }
}

/// Prevents external text, such as labels and answers, from starting a line of its own in the log.
fn on_one_line(words: &str) -> String {
    let mut line = String::with_capacity(words.len());
    for c in words.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

fn key(problem: &Problem) -> ProblemId {
    let finding = &problem.finding;
    let whole = match finding {
        // The wording of a server, an Engine or the system varies for one and the same fault, and containers come and go while
        // Traefik cannot be seen.
        Finding::Probe(_) | Finding::Docker(_) => None,
        Finding::Door(catalogue::DoorFinding::TraefikUnseen { .. }) => None,
        Finding::Label(_)
        | Finding::Address(_)
        | Finding::Lifecycle(_)
        | Finding::Listing(_)
        | Finding::Setting(_)
        | Finding::Door(_) => Some(finding.clone()),
    };
    (problem.subject.clone(), finding.code(), whole)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex, PoisonError},
    };

    use catalogue::{
        LabelFinding, NoConnection, Origin, ProbeFault, ProbeFinding, ProbedServer, ServerUrl, Silence,
    };
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// The captured log.
    #[derive(Debug, Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn unknown(container: &str, label: &str) -> Problem {
        Problem::container(container, LabelFinding::Unknown { label: label.into() })
    }

    fn refused(cause: &str) -> Problem {
        let url = ServerUrl::http("10.0.0.1", 8000);
        let asked = ProbedServer {
            url,
            origin: Origin::Docker,
            has_credential: false,
            is_healthy: true,
            silence: Silence::New,
        };
        Problem::container(
            "vllm",
            ProbeFinding {
                asked,
                fault: ProbeFault::CannotConnect { why: NoConnection::Other, cause: cause.into() },
            },
        )
    }

    /// The lines that a catalogue with these problems adds to the log.
    fn lines(told: &mut Told, problems: &[Problem]) -> Vec<String> {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).without_time();
        tracing::subscriber::with_default(subscriber.finish(), || {
            told.tell(&Catalogue::assemble([], problems.to_vec()));
        });
        let text = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(text).expect("text").lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn a_problem_is_logged_when_it_appears_and_when_it_is_gone() {
        let mut told = Told::default();
        let hint = catalogue::open_port("vllm", 32768, 8000);
        let all = [unknown("vllm", "inference.prot"), hint];
        let [problem, hint] = &lines(&mut told, &all)[..] else { panic!("two lines") };
        assert!(
            problem.starts_with("WARN") && problem.contains("label inference.prot is not known"),
            "{problem}"
        );
        assert!(problem.contains("container vllm") && problem.contains("label_unknown"), "{problem}");
        assert!(!problem.contains("inference.health"), "not all labels that there are: {problem}");
        assert!(hint.starts_with("INFO") && hint.contains("hint: "), "{hint}");
        assert!(lines(&mut told, &all).is_empty(), "it lasts");
        let gone = lines(&mut told, &all[..1]);
        assert!(
            gone.len() == 1 && gone[0].starts_with("INFO") && gone[0].contains("no longer: "),
            "{gone:?}"
        );
        let other = lines(&mut told, &[unknown("vllm", "inference.modles")]);
        assert_eq!(other.iter().map(|line| &line[..4]).collect::<Vec<_>>(), ["WARN", "INFO"], "{other:?}");
        assert!(lines(&mut told, &[]).len() == 1);
        assert_eq!(lines(&mut told, &all).len(), 2, "it is back");
    }

    #[test]
    fn a_fault_that_is_told_in_other_words_is_the_same() {
        let mut told = Told::default();
        assert_eq!(lines(&mut told, &[refused("connection refused")]).len(), 1);
        assert!(lines(&mut told, &[refused("no route to host")]).is_empty());
        let gone = lines(&mut told, &[]);
        assert!(gone.len() == 1 && gone[0].contains("no route to host"), "{gone:?}");
    }

    #[test]
    fn what_others_have_written_begins_no_line() {
        let mut told = Told::default();
        assert_eq!(
            lines(&mut told, &[refused("reset\nERROR forged"), unknown("a", "inference.\nERROR")]).len(),
            2
        );
    }

    #[test]
    fn a_thousand_problems_are_counted() {
        let mut told = Told::default();
        let all: Vec<Problem> = (0..1000).map(|i| unknown(&format!("c{i:03}"), "inference.prot")).collect();
        let logged = lines(&mut told, &all);
        assert_eq!(logged.len(), 21);
        assert!(logged[19].contains("container c019") && logged[20].contains("980"), "{}", logged[20]);
        let gone = lines(&mut told, &[]);
        assert!(gone.len() == 21 && gone[20].contains("980"), "{}", gone[20]);
    }
}
