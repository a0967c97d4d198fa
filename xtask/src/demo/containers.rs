//! The demo in containers: `deploy/compose.yaml` as it is, with stand-in images that need no registry.
//!
//! Each stand-in is an otherwise empty image with one real program in it; only the inference server is simulated.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;

use super::{GeneratedKey, Stack};
use crate::service::AtExit;
use crate::tools::{self, TRAEFIK_NEWEST};
use crate::{Result, engine, http, layout, run};

const PROJECT: &str = "modelgate-demo";

/// A stand-in: the variable with which `deploy/compose.yaml` selects another image, and the contents of that image.
struct StandIn {
    variable: &'static str,
    /// Programs, each with its place in the image.
    programs: Vec<(PathBuf, &'static str)>,
    /// Dockerfile instructions.
    instructions: &'static [&'static str],
}

/// Starts everything with Compose.
pub(super) fn start(folder: &Path) -> Result<Stack> {
    let traefik = tools::traefik(TRAEFIK_NEWEST);
    let compose = tools::compose();
    for tool in [&traefik, &compose] {
        tools::install(slice::from_ref(tool))?;
    }
    tools::install(&tools::for_containers())?;
    if !engine::answers() {
        return Err("the Docker Engine is not running; start it, as root: dockerd".into());
    }
    let key = GeneratedKey::generate()?;
    let web = http::free_address(8080)?;
    let dashboard = http::free_address(8102)?;
    let mut settings = vec![
        ("API_KEY", key.clear.clone()),
        ("HTTP_PORT", web.to_string()),
        ("DASHBOARD_PORT", dashboard.port().to_string()),
        ("MODEL", "llama-3.1-8b".to_owned()),
    ];
    for stand_in in stand_ins(&traefik.path().ok_or("Traefik is missing")?)? {
        settings.push((stand_in.variable, import(&stand_in, folder)?));
    }
    let compose = |arguments: &str| {
        let mut command = Command::new(tools::compose().path().unwrap_or_default());
        command.args(["--project-name", PROJECT, "--file", "deploy/compose.yaml"]);
        command.args(["--file", "xtask/src/demo/compose.yaml"]).args(arguments.split(' '));
        command.envs(settings.iter().map(|(name, value)| (name, value))).current_dir(layout::root());
        command
    };
    let cleanup = AtExit::new(&compose("down --volumes --timeout 5"))?;
    run::shown(&mut compose("up --detach --no-build --quiet-pull --scale vllm=2"))?;
    Ok(Stack {
        services: Vec::new(),
        logs: Some(compose("logs --tail 20 modelgate traefik")),
        _cleanup: Some(cleanup),
        web,
        key: key.clear,
        models: &["llama-3.1-8b", "qwen2.5-7b"],
        admin_token: None,
        pages: vec![(
            format!("docker ps --filter label=com.docker.compose.project={PROJECT}"),
            "the containers; stop one, or start one, and see the model list follow",
        )],
    })
}

fn stand_ins(traefik: &Path) -> Result<[StandIn; 4]> {
    let system = |name: &str| layout::find_program(name).ok_or_else(|| format!("{name} is missing"));
    Ok([
        StandIn {
            variable: "TRAEFIK_IMAGE",
            programs: vec![(traefik.to_owned(), "traefik")],
            instructions: &["ENTRYPOINT [\"/traefik\"]"],
        },
        StandIn {
            variable: "MODELGATE_IMAGE",
            programs: vec![(layout::built("modelgate"), "usr/local/bin/modelgate")],
            instructions: &[
                "ENTRYPOINT [\"/usr/local/bin/modelgate\"]",
                "ENV MODELGATE_STATE_DIR=/var/lib/modelgate",
            ],
        },
        StandIn {
            variable: "SOCKET_PROXY_IMAGE",
            programs: vec![(system("haproxy")?, "usr/local/sbin/haproxy")],
            instructions: &[
                "CMD [\"/usr/local/sbin/haproxy\", \"-f\", \"/usr/local/etc/haproxy/haproxy.cfg\"]",
            ],
        },
        StandIn {
            variable: "VLLM_IMAGE",
            // curl, because the health check in deploy/compose.yaml calls it.
            programs: vec![(layout::built("sim-server"), "sim-server"), (system("curl")?, "bin/curl")],
            instructions: &[
                "ENTRYPOINT [\"/sim-server\"]",
                "ENV PATH=/bin",
                "ENV SIM_CHUNKS=20",
                "ENV SIM_CHUNK_DELAY_MS=80",
            ],
        },
    ])
}

/// Makes the image and returns its name.
fn import(stand_in: &StandIn, folder: &Path) -> Result<String> {
    let name = stand_in.variable.trim_end_matches("_IMAGE").to_lowercase().replace('_', "-");
    let root = folder.join("images").join(&name);
    for (program, place) in &stand_in.programs {
        copy(program, &root.join(place))?;
        for library in libraries(program)? {
            copy(&library, &root.join(library.strip_prefix("/")?))?;
        }
    }
    let archive = root.with_extension("tar");
    run::logged("demo-image", Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
    let image = format!("{PROJECT}/{name}");
    let mut command = Command::new("docker");
    command.arg("import");
    for instruction in stand_in.instructions {
        command.args(["--change", instruction]);
    }
    run::logged("demo-image", command.arg(&archive).arg(&image))?;
    Ok(image)
}

/// The shared libraries that a program loads, including the loader; none if it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn copy(from: &Path, to: &Path) -> Result {
    fs::create_dir_all(to.parent().ok_or("no folder")?)?;
    fs::copy(from, to)?;
    Ok(())
}
