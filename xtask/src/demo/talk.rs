//! The demo's output: a streamed answer as it arrives, which servers answer, and what to try next.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Stack;
use crate::{Result, layout};

/// How many requests are sent to see that both servers answer.
const ROUNDS: usize = 6;
/// How much longer they are sent if only one has answered: the other may be healthy a moment later.
const WAIT_FOR_BOTH: Duration = Duration::from_secs(30);

/// Does what curl would, on machines without it: the URL, the key and the body come as arguments and on standard input.
const WITHOUT_CURL: &str = "
import sys, urllib.request
key, body = sys.stdin.read().split('\\n', 1)
headers = {'Authorization': 'Bearer ' + key, 'Content-Type': 'application/json'}
request = urllib.request.Request(sys.argv[1], body.encode(), headers)
for line in urllib.request.urlopen(request):
    sys.stdout.write(line.decode()); sys.stdout.flush()
";

/// Asks for a streamed chat answer and shows the events as they arrive.
pub(super) fn streamed_answer(stack: &Stack) -> Result {
    println!("\nPOST /v1/chat/completions with \"stream\": true, through Traefik:\n");
    let lines = ask(stack, true, |line| println!("{line}"))?;
    let events = lines.iter().filter(|line| line.starts_with("data: {")).count();
    if events < 2 || !lines.iter().any(|line| line == "data: [DONE]") {
        return Err("the streamed answer is not whole".into());
    }
    println!("A whole answer, in {events} events.");
    Ok(())
}

/// Asks several times for the model that several servers serve, and says which of them answered.
pub(super) fn who_answers(stack: &Stack) -> Result {
    let mut answers = BTreeSet::new();
    let (start, mut asked) = (Instant::now(), 0);
    while asked < ROUNDS || answers.len() < 2 && start.elapsed() < WAIT_FOR_BOTH {
        let lines = ask(stack, false, |_| ())?;
        answers.insert(text_of(&lines.join("\n")).ok_or("the answer has no text")?);
        asked += 1;
    }
    println!(
        "\n{asked} requests for {}, which more than one server serves, were answered by:",
        stack.models[0]
    );
    for answer in &answers {
        println!("  {answer}");
    }
    if answers.len() < 2 {
        return Err("only one server answered".into());
    }
    Ok(())
}

/// Says what to try next.
pub(super) fn instructions(stack: &Stack) {
    let Stack { web, key, models, pages, .. } = stack;
    println!("\nThe API key, good until this demo ends:\n\n  {key}\n");
    println!("With curl:\n\n  curl http://{web}/v1/models -H 'Authorization: Bearer {key}'");
    println!("  curl http://{web}/v1/chat/completions -H 'Authorization: Bearer {key}' \\");
    println!("    -H 'Content-Type: application/json' \\");
    println!(
        "    -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'\n",
        models[0]
    );
    println!("With the package openai of Python:\n");
    println!("  from openai import OpenAI");
    println!("  client = OpenAI(base_url=\"http://{web}/v1\", api_key=\"{key}\")");
    println!("  messages = [{{\"role\": \"user\", \"content\": \"Hello\"}}]");
    println!(
        "  for chunk in client.chat.completions.create(model=\"{}\", messages=messages, stream=True):",
        models[0]
    );
    println!("      print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)\n");
    for (place, what) in pages {
        println!("{place}  ({what})");
    }
    if let Some(token) = &stack.admin_token {
        println!("\nThe dashboard's token, good until this demo ends:\n\n  {token}");
    }
    println!("\nCtrl-C stops everything.");
}

/// Sends a chat request and passes on each line of the answer as it arrives. The key is not on any command line.
fn ask(stack: &Stack, stream: bool, mut show: impl FnMut(&str)) -> Result<Vec<String>> {
    let url = format!("http://{}/v1/chat/completions", stack.web);
    let body = format!(
        r#"{{"model": "{}", "stream": {stream}, "messages": [{{"role": "user", "content": "Hello"}}]}}"#,
        stack.models[0]
    );
    let (mut command, input) = match layout::find_program("curl") {
        Some(curl) => {
            let mut command = Command::new(curl);
            command.args(["-sS", "-N", "--fail-with-body", "-H", "Content-Type: application/json"]);
            command.args(["--data", &body, "--config", "-", &url]);
            (command, format!("header = \"Authorization: Bearer {}\"\n", stack.key))
        }
        None => {
            let mut command = Command::new("python3");
            command.args(["-c", WITHOUT_CURL, &url]);
            (command, format!("{}\n{body}", stack.key))
        }
    };
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no standard input")?.write_all(input.as_bytes())?;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no standard output")?).lines() {
        let line = line?;
        show(&line);
        lines.push(line);
    }
    if child.wait()?.success() {
        Ok(lines)
    } else {
        Err(format!("the request failed:\n{}", lines.join("\n")).into())
    }
}

/// The text of a chat answer. The simulated servers put nothing in it that JSON would escape.
fn text_of(answer: &str) -> Option<String> {
    let (_, rest) = answer.split_once("\"content\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}
