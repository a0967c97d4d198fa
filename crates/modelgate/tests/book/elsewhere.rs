//! Commands of the book that its test does not run, and who runs them.

use std::{fs, path::Path};

/// How a command begins, the file that runs it, and what stands there.
type Row = (&'static str, &'static str, &'static str);

const CI: &str = ".ci/run";
const XTASK: &str = "xtask/src/main.rs";
const DEMO: &str = "xtask/src/demo/containers.rs";
const UPGRADE: &str = "crates/modelgate/tests/upgrade.rs";
const PACKAGE: &str = "xtask/src/package.rs";
const INSTALLED: &str = "xtask/src/package/installed.sh";
const ACCOUNTS: &str = "crates/modelgate/tests/accounts.rs";

/// Whoever adds a row says who runs the command.
const ELSEWHERE: &[Row] = &[
    ("cargo xtask demo", CI, "cargo xtask demo --once"),
    ("cargo xtask test", CI, "cargo xtask test --install"),
    ("cargo xtask lint", CI, "cargo xtask lint --install"),
    ("cargo xtask book", "xtask/src/lint.rs", "book::book(install)"),
    ("cargo xtask package", CI, "cargo xtask package --install"),
    ("cargo xtask fuzz", CI, "cargo xtask fuzz --install"),
    ("RUST_BACKTRACE=1 cargo xtask fuzz", CI, "cargo xtask fuzz --install"),
    ("cargo xtask mutants", CI, "cargo xtask mutants --of-change --install"),
    ("just fuzz", "justfile", "cargo xtask fuzz {{ TARGET }}"),
    ("cargo test --no-fail-fast -p catalogue --lib", CI, "cargo xtask test --install"),
    ("cargo test -p modelgate --test explain", CI, "cargo xtask test --install"),
    ("MODELGATE_TEST_PYTHON=", "crates/modelgate/tests/sdks/client.rs", "MODELGATE_TEST_PYTHON"),
    // They measure for minutes or hours.
    ("cargo xtask bench", XTASK, "Command::Bench"),
    ("MODELGATE_BENCHMARK_TRACE=", XTASK, "Measurement::Pick"),
    ("cargo xtask shipped", XTASK, "Command::Shipped"),
    ("just mutants-of-change", "justfile", "cargo xtask mutants --of-change --install"),
    ("just mutants", "justfile", "cargo xtask mutants --install {{ CRATE }}"),
    (
        "UPDATE_EXPECT=1 cargo test -p modelgate --test reference",
        "crates/modelgate/tests/reference.rs",
        "UPDATE_EXPECT",
    ),
    (
        "UPDATE_EXPECT=1 cargo test -p modelgate --test config",
        "crates/modelgate/tests/config.rs",
        "UPDATE_EXPECT",
    ),
    (
        "INSTA_UPDATE=always cargo test -p traefik-config",
        "crates/traefik-config/src/tests/golden.rs",
        "insta::assert_snapshot",
    ),
    // They fetch images and crates from registries. What they build, the demo in containers and the package have from elsewhere.
    ("cargo install --path crates/modelgate", "deploy/Dockerfile", "cargo build --release"),
    ("docker compose build", "deploy/Dockerfile", "cargo build --release"),
    ("docker build -f deploy/Dockerfile", "deploy/Dockerfile", "cargo build --release"),
    // A Docker Engine and deploy/compose.yaml.
    ("cd deploy", DEMO, "compose"),
    ("docker compose up -d", DEMO, "[\"up\", "),
    ("docker compose -f compose.yaml -f second.yaml up -d", DEMO, "[\"up\", "),
    ("docker compose down", DEMO, "[\"down\", "),
    ("docker compose logs modelgate", DEMO, "[\"logs\", "),
    // Two Modelgates, one after the other.
    ("old=$(docker compose ps -q modelgate)", UPGRADE, "while_each_of_two_is_replaced"),
    ("docker inspect --format", UPGRADE, "while_each_of_two_is_replaced"),
    ("docker stop $old", UPGRADE, "while_each_of_two_is_replaced"),
    // They change the machine.
    ("apt install", INSTALLED, "dpkg --force-unsafe-io --install"),
    ("apt purge", INSTALLED, "dpkg --purge modelgate"),
    ("systemctl", PACKAGE, "systemd-analyze"),
    ("journalctl -u modelgate", PACKAGE, "systemd-analyze"),
    // Another store than the page's.
    ("modelgate backup /backup/", ACCOUNTS, "a_backup_is_made_and_restored_while_the_server_runs"),
    ("modelgate restore /backup/", ACCOUNTS, "a_backup_is_made_and_restored_while_the_server_runs"),
    ("MODELGATE_STORE_URL=postgres:", ACCOUNTS, "a_backup_is_made_and_restored_while_the_server_runs"),
];

/// Whether others run a command.
pub(crate) fn is_run(command: &str) -> bool {
    ELSEWHERE.iter().any(|(start, ..)| command.starts_with(start))
}

/// Whether a block's mark `run by:` is one that is allowed.
pub(crate) fn is_allowed(mark: &str) -> bool {
    mark == "an administrator; it deletes what cannot be brought back"
}

/// Rows whose file does not have what they say.
pub(crate) fn false_rows(root: &Path) -> Vec<Row> {
    let holds =
        |file: &str, text: &str| fs::read_to_string(root.join(file)).is_ok_and(|all| all.contains(text));
    ELSEWHERE.iter().filter(|(_, file, text)| !holds(file, text)).copied().collect()
}
