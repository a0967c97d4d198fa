//! The page without containers, followed step by step: its files, its programs and its commands, with other ports and a simulated
//! server in place of the reader's.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use testkit::{eventually, free_port, sim::Sim};

use crate::{
    BINARY, PRINTS,
    blocks::{Block, BookPage},
    elsewhere,
};

/// Its page.
pub(crate) const PAGE: &str = "docs/without-containers.md";
/// How the commands begin that do not end, and the port on which each listens then; the reader's inference server is simulated.
const PROGRAMS: [(&str, Option<u16>); 3] =
    [("llama-server ", None), ("modelgate", Some(8100)), ("traefik ", Some(8080))];

/// A reader's folder and machine.
pub(crate) struct LocalReader {
    folder: tempfile::TempDir,
    path: String,
    /// The ports of the page, and those that are used in their place.
    ports: Vec<(u16, u16)>,
    running: Vec<Child>,
    key: String,
    /// Serves the model that the page calls NAME.
    _sim: Sim,
}

impl LocalReader {
    pub(crate) fn new(traefik: &Path) -> Self {
        let sim = Sim::start("gpu-1", &["NAME"]);
        let mut ports: Vec<_> = [8080, 8100, 8101, 8102].map(|port| (port, free_port())).into();
        ports.push((8000, sim.addr().port()));
        let folders =
            [Path::new(BINARY), traefik].map(|program| program.parent().expect("a folder").display());
        let path = format!("{}:{}:{}", folders[0], folders[1], std::env::var("PATH").unwrap_or_default());
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, path, ports, running: Vec::new(), key: "mg-…".into(), _sim: sim }
    }

    fn port(&self, of_page: u16) -> u16 {
        self.ports.iter().find(|(from, _)| *from == of_page).expect("a port of the page").1
    }

    fn put_in(&self, text: &str) -> String {
        let replace =
            |text: String, (from, to): &(u16, u16)| text.replace(&format!(":{from}"), &format!(":{to}"));
        self.ports.iter().fold(text.replace("mg-…", &self.key), replace)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("PATH", &self.path).env("HOME", self.folder.path());
        // The default, which the page does not set.
        command.env("MODELGATE_LISTEN_ADMIN", format!("127.0.0.1:{}", self.port(8102)));
        command
    }

    /// Does what a block says, and returns how many commands that were.
    pub(crate) async fn follow(&mut self, block: &Block) -> usize {
        if let Some(name) = block.marked("file: ") {
            let file: PathBuf = self.folder.path().join(name);
            fs::write(file, self.put_in(&block.text)).expect("written");
        }
        if block.language != "sh" {
            return 0;
        }
        if let Some(who) = block.marked("run by: ") {
            assert!(elsewhere::is_allowed(who), "{}: {who}", block.place);
            return 0;
        }
        let commands = block.commands();
        let here: Vec<&String> = commands.iter().filter(|command| !elsewhere::is_run(command)).collect();
        for &command in &here {
            let starts = |(start, _): &&(&str, Option<u16>)| {
                command.as_str() == *start || command.starts_with(start) && start.ends_with(' ')
            };
            match PROGRAMS.iter().find(starts) {
                Some((_, Some(port))) => self.start(command, self.port(*port)).await,
                Some((_, None)) => {}
                None => self.run(command).await,
            }
        }
        here.len()
    }

    async fn start(&mut self, command: &str, port: u16) {
        let whole = format!("exec {}", self.put_in(command));
        let program =
            self.command("bash", &["-c", &whole]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.running.push(program.expect("it starts"));
        let listens = async || TcpStream::connect(("127.0.0.1", port)).ok().map(drop);
        eventually(Duration::from_secs(60), listens).await;
    }

    /// Runs it until it does what the page says: a program that was started a moment ago may not have heard of all others.
    async fn run(&mut self, command: &str) {
        let whole = self.put_in(command);
        let whole = whole.replace("curl ", "curl -sS --fail-with-body ");
        let expected = command.split_once(PRINTS).map_or("", |(_, expected)| expected.trim());
        let printed = eventually(Duration::from_secs(20), async || {
            let output = self.command("bash", &["-c", &whole]).output().expect("it runs");
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success() && printed.contains(expected)).then_some(printed)
        });
        let printed = printed.await;
        let key = printed.split_whitespace().find(|word| word.starts_with("mg-"));
        if let Some(key) = key.filter(|_| whole.contains("keys create")) {
            key.clone_into(&mut self.key);
        }
    }
}

impl Drop for LocalReader {
    fn drop(&mut self) {
        for program in &mut self.running {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// All blocks of its page, one after the other.
pub(crate) async fn follow(page: &BookPage, traefik: &Path) -> usize {
    let mut reader = LocalReader::new(traefik);
    let mut commands = 0;
    for block in &page.blocks {
        commands += reader.follow(block).await;
    }
    assert!(reader.key.len() > 20, "the page's key was used: {}", reader.key);
    commands
}
