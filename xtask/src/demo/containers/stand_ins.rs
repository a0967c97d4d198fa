//! Images that need no registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PROJECT, Setting};
use crate::image::{copy, libraries};
use crate::{Result, image, layout, run};

/// A stand-in: the variable with which deploy/ selects another image, and the contents of that image.
#[derive(Default)]
struct StandIn {
    variable: &'static str,
    /// Programs, each with its place in the image.
    programs: Vec<(PathBuf, PathBuf)>,
    /// Other files and folders, which keep their place.
    files: Vec<PathBuf>,
    /// Texts, each with its place.
    texts: &'static [(&'static str, &'static str)],
    /// Dockerfile instructions.
    instructions: &'static [&'static str],
    /// To whom all of it belongs.
    owner: u32,
}

/// Makes the database at the first start, as the image `postgres` does.
const POSTGRES: &str = r#"set -e
export PGDATA=/var/lib/postgresql/data
set -- /usr/lib/postgresql/*/bin
if [ ! -e $PGDATA/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" > /var/lib/postgresql/password
    "$1/initdb" --username "$POSTGRES_USER" --pwfile /var/lib/postgresql/password --auth scram-sha-256 --encoding UTF8
    echo 'host all all all scram-sha-256' >> $PGDATA/pg_hba.conf
    echo "CREATE DATABASE $POSTGRES_DB" | "$1/postgres" --single -D $PGDATA postgres
fi
exec "$1/postgres" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
"#;

/// The variables of deploy/compose.yaml, besides that of Modelgate's own image.
const OF_COMPOSE: [&str; 3] = ["TRAEFIK_IMAGE", "SOCKET_PROXY_IMAGE", "VLLM_IMAGE"];
const MODELGATE: &str = "MODELGATE_IMAGE";

/// Makes the images of deploy/compose.yaml, and returns the variables that name them.
pub(super) fn make(traefik: &Path, folder: &Path) -> Result<Vec<Setting>> {
    image::make(&layout::built("modelgate"), &image_of(MODELGATE), folder)?;
    for stand_in in stand_ins(traefik)? {
        import(&stand_in, folder)?;
    }
    Ok(made())
}

/// What [`make`] has returned.
pub(super) fn made() -> Vec<Setting> {
    [MODELGATE].into_iter().chain(OF_COMPOSE).map(|variable| (variable, image_of(variable))).collect()
}

/// The name of the image that a variable selects.
fn image_of(variable: &str) -> String {
    let name = variable.trim_end_matches("_IMAGE").to_lowercase().replace('_', "-");
    format!("{PROJECT}/{name}")
}

/// Makes the images of the other files of deploy/.
pub(super) fn make_others(folder: &Path) -> Result<Vec<Setting>> {
    let stand_ins = others()?.into_iter().chain([postgres()?]);
    stand_ins.map(|stand_in| Ok((stand_in.variable, import(&stand_in, folder)?))).collect()
}

fn system(name: &str) -> Result<PathBuf> {
    layout::find_program(name).ok_or_else(|| format!("{name} is missing").into())
}

fn stand_ins(traefik: &Path) -> Result<[StandIn; 3]> {
    Ok([
        StandIn {
            variable: OF_COMPOSE[0],
            programs: vec![(traefik.to_owned(), "traefik".into())],
            instructions: &["ENTRYPOINT [\"/traefik\"]"],
            ..StandIn::default()
        },
        StandIn {
            variable: OF_COMPOSE[1],
            programs: vec![(system("haproxy")?, "usr/local/sbin/haproxy".into())],
            instructions: &[
                "CMD [\"/usr/local/sbin/haproxy\", \"-f\", \"/usr/local/etc/haproxy/haproxy.cfg\"]",
            ],
            ..StandIn::default()
        },
        StandIn {
            variable: OF_COMPOSE[2],
            // curl, because the health check in deploy/compose.yaml calls it.
            programs: vec![
                (layout::built("sim-server"), "sim-server".into()),
                (system("curl")?, "bin/curl".into()),
            ],
            instructions: &[
                "ENTRYPOINT [\"/sim-server\"]",
                "ENV PATH=/bin",
                "ENV SIM_CHUNKS=20",
                "ENV SIM_CHUNK_DELAY_MS=80",
            ],
            ..StandIn::default()
        },
    ])
}

fn others() -> Result<[StandIn; 3]> {
    Ok([
        StandIn {
            variable: "VALKEY_IMAGE",
            programs: vec![(system("redis-server")?, "usr/bin/valkey-server".into())],
            instructions: &["ENV PATH=/usr/bin"],
            ..StandIn::default()
        },
        StandIn {
            variable: "PROMETHEUS_IMAGE",
            programs: vec![(system("prometheus")?, "bin/prometheus".into())],
            instructions: &["ENTRYPOINT [\"/bin/prometheus\"]"],
            ..StandIn::default()
        },
        // There is no Grafana in any package that can be had. What deploy/ gives it is read by a test.
        StandIn {
            variable: "GRAFANA_IMAGE",
            programs: vec![(system("busybox")?, "bin/busybox".into())],
            instructions: &["CMD [\"/bin/busybox\", \"sleep\", \"3600\"]"],
            ..StandIn::default()
        },
    ])
}

/// Debian's PostgreSQL. Its programs look for their files where they are installed.
fn postgres() -> Result<StandIn> {
    let bin = fs::canonicalize(system("initdb")?)?.parent().ok_or("no folder")?.to_owned();
    let release = bin.parent().ok_or("no folder")?;
    let share = Path::new("/usr/share/postgresql").join(release.file_name().ok_or("no release")?);
    let mut programs = vec![
        (bin.join("pg_isready"), "usr/bin/pg_isready".into()),
        (system("busybox")?, "bin/busybox".into()),
        (system("busybox")?, "bin/sh".into()),
    ];
    programs.extend(["postgres", "initdb"].map(|name| (bin.join(name), bin.join(name))));
    Ok(StandIn {
        variable: "POSTGRES_IMAGE",
        programs,
        files: vec![release.join("lib"), share, "/usr/share/zoneinfo".into()],
        texts: &[
            ("start", POSTGRES),
            ("etc/passwd", "postgres:x:999:999::/var/lib/postgresql:/bin/sh\n"),
            ("var/lib/postgresql/.keep", ""),
            ("var/run/postgresql/.keep", ""),
        ],
        instructions: &[
            "ENTRYPOINT [\"/bin/busybox\", \"sh\", \"/start\"]",
            "ENV PATH=/usr/bin:/bin",
            "USER 999:999",
        ],
        owner: 999,
    })
}

/// Makes the image and returns its name.
fn import(stand_in: &StandIn, folder: &Path) -> Result<String> {
    let image = image_of(stand_in.variable);
    let root = folder.join("images").join(&image);
    fs::create_dir_all(root.join("tmp"))?;
    for (program, place) in &stand_in.programs {
        copy(program, &root.join(place.strip_prefix("/").unwrap_or(place)))?;
        for library in libraries(program)? {
            copy(&library, &root.join(library.strip_prefix("/")?))?;
        }
    }
    for file in &stand_in.files {
        run::logged("demo-image", Command::new("cp").args(["--parents", "-rL"]).arg(file).arg(&root))?;
    }
    for (place, text) in stand_in.texts {
        let file = root.join(place);
        fs::create_dir_all(file.parent().ok_or("no folder")?)?;
        fs::write(file, text)?;
    }
    let archive = root.with_extension("tar");
    let mut tar = Command::new("tar");
    tar.args(["--owner", &stand_in.owner.to_string(), "--group", &stand_in.owner.to_string()]);
    run::logged("demo-image", tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
    let mut command = Command::new("docker");
    command.arg("import");
    for instruction in stand_in.instructions {
        command.args(["--change", instruction]);
    }
    run::logged("demo-image", command.arg(&archive).arg(&image))?;
    Ok(image)
}
