//! Real readers of servers, in processes of their own: Python's and Go's (`fuzz/readers`). They are started once and asked over
//! pipes.

use std::{
    env,
    io::{BufReader, Read as _, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

/// A program that reads requests.
pub(crate) struct Reader {
    name: &'static str,
    child: Child,
    answers: BufReader<ChildStdout>,
}

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Json,
    /// A form, after a line with its `Content-Type`.
    Multipart,
    /// The target of a request.
    Uri,
}

/// What one of a program's ways to read finds: the values in order, or `None` if it refuses.
pub(crate) type ValuesRead = Option<Vec<String>>;

/// Python's json, Starlette and python-multipart.
pub(crate) static PYTHON: LazyLock<Mutex<Reader>> = LazyLock::new(|| {
    let mut command = Command::new(variable("FUZZ_PYTHON"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/readers/readers.py"));
    Mutex::new(Reader::start("Python", command))
});

/// Go's encoding/json, mime/multipart and net/url, and gjson.
pub(crate) static GO: LazyLock<Mutex<Reader>> =
    LazyLock::new(|| Mutex::new(Reader::start("Go", Command::new(variable("FUZZ_GO")))));

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} must name a program; cargo xtask fuzz sets it"))
}

impl Reader {
    fn start(name: &'static str, mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { name, child, answers }
    }

    fn ask(&mut self, part: Part, text: &[u8]) -> Vec<ValuesRead> {
        let kind = match part {
            Part::Json => b'j',
            Part::Multipart => b'm',
            Part::Uri => b'u',
        };
        let length = u32::try_from(text.len()).expect("inputs are short");
        let question = [&[kind][..], &length.to_be_bytes(), text].concat();
        let gone = |error| panic!("{} has ended: {error}", self.name);
        self.child.stdin.as_mut().expect("a pipe").write_all(&question).unwrap_or_else(gone);
        let mut length = [0; 4];
        self.answers.read_exact(&mut length).unwrap_or_else(gone);
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("small")];
        self.answers.read_exact(&mut answer).unwrap_or_else(gone);
        serde_json::from_slice(&answer).expect("lists of texts")
    }
}

/// Asks a program.
pub(crate) fn ask(reader: &LazyLock<Mutex<Reader>>, part: Part, text: &[u8]) -> Vec<ValuesRead> {
    reader.lock().unwrap_or_else(PoisonError::into_inner).ask(part, text)
}
