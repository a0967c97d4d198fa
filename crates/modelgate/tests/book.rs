//! The book and the README are true: each command is run, each configuration and Compose file is read, each code is explained.
//!
//! How a block is treated depends on its language and on a comment before it; `docs/contributing.md` has the table.

#[path = "book/blocks.rs"]
mod blocks;
#[path = "book/codes.rs"]
mod codes;
mod common;
#[path = "book/documents.rs"]
mod documents;
#[path = "book/elsewhere.rs"]
mod elsewhere;
#[path = "book/programs.rs"]
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use blocks::{Block, BookPage, pages};
use common::{KEY, NEWEST, Stack, config_of, send};
use testkit::{
    modelgate::Modelgate,
    need,
    sim::Sim,
    traefik::{Traefik, traefik_binary},
};

const BINARY: &str = env!("CARGO_BIN_EXE_modelgate");
/// Before each command: an answer with an error is one, unless the command looks at the status itself.
const CURL: &str = r#"curl() { case " $* " in *" -w "*) command curl "$@" ;; *) command curl -sS --fail-with-body "$@" ;; esac; }"#;
/// What must be there before the commands of a page of `docs`, and is taken away after them.
const BESIDE: [(&str, &str, &str); 1] = [(
    "budgets.md",
    "modelgate keys create alice-laptop --consumer alice --limit budget_per_month=50 && \
     modelgate consumers set alice --limit budget_total=1000",
    "modelgate keys delete alice-laptop && modelgate consumers set alice --unset limit",
)];
/// At the end of a command: what it must print.
const PRINTS: &str = "# prints ";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What the commands meet.
struct ReaderStage {
    stack: Stack,
    _sims: Vec<Sim>,
    shell: tempfile::TempDir,
}

impl ReaderStage {
    async fn start() -> Option<Self> {
        let traefik = need(traefik_binary(NEWEST), &format!("Traefik {NEWEST}"))?;
        let sims = vec![
            Sim::start("gpu-1", &["llama", "Qwen/Qwen2.5-7B-Instruct"]),
            Sim::start("llama", &["gemma", "embeddings"]),
        ];
        let servers: Vec<(&Sim, &str)> = sims.iter().map(|sim| (sim, "")).collect();
        let prices =
            "prices: { currency: EUR, models: [{ match: \"llama*\", prompt: 0.15, completion: 0.60 }] }\n";
        let config = config_of(&servers, &format!("traefik: {{ version: {NEWEST:?} }}\n{prices}"));
        let mut modelgate = Modelgate::builder(BINARY, &config).keep_state().start().await;
        modelgate.wait_ready().await;
        let traefik = Traefik::builder(traefik).endpoint(modelgate.provider_endpoint()).start().await;
        traefik.wait_configured().await;
        let stack = Stack { traefik, modelgate, client: testkit::client() };
        stack.wait_for("llama").await;
        stack.wait_for("Qwen/Qwen2.5-7B-Instruct").await;
        Some(Self { stack, _sims: sims, shell: tempfile::tempdir().expect("a folder") })
    }

    /// A command with the addresses and the key of this stage.
    fn put_in(&self, command: &str) -> String {
        let (web, admin) = (self.stack.traefik.url(), self.stack.modelgate.admin_url());
        let command = command.replace("docker compose exec modelgate modelgate", "modelgate");
        let command =
            command.replace("http://127.0.0.1:8102", &admin).replace("http://localhost:8102", &admin);
        command.replace("http://localhost:8080", &web).replace("http://localhost", &web).replace("mg-…", KEY)
    }

    /// Runs it in a page's folder.
    fn run(&self, command: &str, folder: &Path, token: &str) -> Output {
        let (modelgate, ports) = (&self.stack.modelgate, self.stack.modelgate.ports());
        let programs = Path::new(BINARY).parent().expect("a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("timeout");
        shell
            .args(["--kill-after=5", "60", "bash", "-c"])
            .arg(format!("{CURL}\n{command}"))
            .current_dir(folder);
        shell.env_clear().env("PATH", format!("{programs}:{path}")).env("HOME", self.shell.path());
        shell.env("LANG", "C.UTF-8").env("TOKEN", token).env("MODELGATE_DOCKER_ENABLED", "false");
        shell.env("MODELGATE_CONFIG", modelgate.folder().join("modelgate.yaml"));
        shell.env("MODELGATE_STATE_DIR", modelgate.folder().join("state"));
        for (name, port) in
            [("PROVIDER", ports.provider), ("REQUESTS", ports.requests), ("ADMIN", ports.admin)]
        {
            shell.env(format!("MODELGATE_LISTEN_{name}"), format!("127.0.0.1:{port}"));
        }
        shell.output().expect("it runs")
    }

    /// A token for the API that is in force.
    async fn token(&self) -> String {
        let printed = self.run("modelgate admin token --new", self.shell.path(), "").stdout;
        let printed = String::from_utf8(printed).expect("text");
        let token =
            printed.split_whitespace().find(|word| word.starts_with("mgadmin-")).expect("a token").to_owned();
        let url = format!("{}/api/v1/audit", self.stack.modelgate.admin_url());
        testkit::eventually(Duration::from_secs(60), || async {
            let answer = send(self.stack.client.get(&url).bearer_auth(&token)).await;
            (answer.status() == 200).then_some(())
        })
        .await;
        token
    }

    /// What is wrong with the commands of a page.
    async fn faults(&self, page: &BookPage) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let needs_token = page.blocks.iter().any(|block| block.text.contains("$TOKEN"));
        let token = if needs_token { self.token().await } else { String::new() };
        let beside = BESIDE.iter().find(|(name, ..)| page.path.strip_prefix("docs/") == Some(name));
        let mut faults = Vec::new();
        faults.extend(beside.and_then(|(_, before, _)| self.fault(before, folder.path(), &token)));
        for block in &page.blocks {
            if let Some(name) = block.marked("file: ") {
                fs::write(folder.path().join(name), &block.text).expect("written");
            }
            if block.language == "sh" {
                faults.extend(self.faults_of(block, folder.path(), &token));
            }
        }
        faults.extend(beside.and_then(|(.., after)| self.fault(after, folder.path(), &token)));
        faults
    }

    fn faults_of(&self, block: &Block, folder: &Path, token: &str) -> Vec<String> {
        if let Some(who) = block.marked("run by: ") {
            return (!elsewhere::is_allowed(who))
                .then(|| format!("{}: {who}", block.place))
                .into_iter()
                .collect();
        }
        let commands = block.commands();
        let here = commands.iter().filter(|command| !elsewhere::is_run(command));
        here.filter_map(|command| {
            self.fault(command, folder, token).map(|fault| format!("{}: {fault}", block.place))
        })
        .collect()
    }

    fn fault(&self, command: &str, folder: &Path, token: &str) -> Option<String> {
        let whole = self.put_in(command);
        if whole.contains('…') {
            return Some(format!("{command}: nobody can run this"));
        }
        let output = self.run(&whole, folder, token);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr);
        let expected = command.split_once(PRINTS).map_or("", |(_, expected)| expected);
        (!output.status.success() || !printed.contains(expected))
            .then(|| format!("{command}: {}\n{printed}{told}", output.status))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_does_what_the_book_says() {
    assert_eq!(elsewhere::false_rows(&root()), []);
    let Some(stage) = ReaderStage::start().await else { return };
    let mut faults = Vec::new();
    let mut commands = 0;
    let others = |page: &&BookPage| page.is_of_client() || page.path == programs::PAGE;
    for page in pages(&root()).iter().filter(|page| !others(page)) {
        faults.extend(stage.faults(page).await);
        let of_shell = page.blocks.iter().filter(|block| block.language == "sh");
        commands += of_shell.map(|block| block.commands().len()).sum::<usize>();
    }
    assert!(faults.is_empty(), "{} of {commands}:\n{}", faults.len(), faults.join("\n"));
    assert!(commands > 80, "{commands}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_without_containers_leads_to_an_answer() {
    let Some(traefik) = need(traefik_binary(NEWEST), &format!("Traefik {NEWEST}")) else { return };
    let all = pages(&root());
    let page = all.iter().find(|page| page.path == programs::PAGE).expect("the page");
    let commands = programs::follow(page, &traefik).await;
    assert!(commands >= 11, "{commands}");
}

/// Lines of clients are run by `sdks.rs`.
#[test]
fn each_page_of_a_client_is_run_by_the_test_of_clients() {
    let expected =
        fs::read_to_string(root().join("crates/modelgate/tests/sdks/expected.rs")).expect("a file");
    for page in pages(&root()).iter().filter(|page| page.is_of_client() && !page.blocks.is_empty()) {
        let name = page.path.trim_start_matches("docs/clients/");
        assert!(expected.contains(&format!("page: {name:?}")), "{name}: nobody runs its lines");
    }
}

#[test]
fn each_document_is_one_that_its_reader_takes() {
    let mut faults = Vec::new();
    let mut read = 0;
    for block in pages(&root()).iter().flat_map(|page| &page.blocks) {
        faults.extend(documents::fault(block).map(|fault| format!("{}: {fault}", block.place)));
        read += usize::from(block.language == "yaml");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(read > 30, "{read}");
}

#[test]
fn each_code_is_explained_and_no_other() {
    let (known, explained) = (codes::of_the_program(&root()), codes::of_the_book(&root()));
    let missing: Vec<_> = known.difference(&explained).collect();
    let invented: Vec<_> = explained.difference(&known).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "docs/codes.md: missing {missing:?}, invented {invented:?}"
    );
    assert!(known.len() > 150, "{}", known.len());
    assert_eq!(codes::wrongly_marked(&root()), [""; 0], "docs/codes.md: marked hint or danger");
}
