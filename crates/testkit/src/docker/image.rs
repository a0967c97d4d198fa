//! Images made of the machine's own programs: a program, the libraries that `ldd` lists for it at the same absolute
//! paths, and nothing else. `docker import` makes them, so neither a registry nor a builder is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::Mutex;

use super::Engine;
use crate::{Failure, build_sim_server, process::run};

const HASH_LABEL: &str = "modelgate-test.hash";

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Image {
    tag: String,
    programs: BTreeMap<String, PathBuf>,
    files: BTreeMap<String, PathBuf>,
    texts: BTreeMap<String, String>,
    links: BTreeMap<String, String>,
    changes: Vec<String>,
}

impl Image {
    /// An image with `/tmp` and an `/etc/passwd`, and no program yet.
    pub fn new(tag: impl Into<String>) -> Self {
        let passwd = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n".to_owned();
        Self {
            tag: tag.into(),
            programs: BTreeMap::new(),
            files: BTreeMap::new(),
            texts: BTreeMap::from([("/etc/passwd".to_owned(), passwd)]),
            links: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// A program of this machine, with its libraries.
    #[must_use]
    pub fn program(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.programs.insert(to.to_owned(), from.into());
        self
    }

    /// A file of this machine.
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.files.insert(to.to_owned(), from.into());
        self
    }

    /// A file with this text.
    #[must_use]
    pub fn text(mut self, to: &str, text: &str) -> Self {
        self.texts.insert(to.to_owned(), text.to_owned());
        self
    }

    /// A second name for a file of the image.
    #[must_use]
    pub fn link(mut self, target: &str, to: &str) -> Self {
        self.links.insert(to.to_owned(), target.to_owned());
        self
    }

    /// `/usr/bin/curl`, which many health checks call.
    #[must_use]
    pub fn with_curl(self) -> Self {
        self.program("/usr/bin/curl", "/usr/bin/curl")
    }

    /// `/bin/sh` from Debian's busybox-static: health checks that are one string run in a shell.
    #[must_use]
    pub fn with_shell(self) -> Self {
        self.link("busybox", "/bin/sh").program("/bin/busybox", "/bin/busybox")
    }

    /// What a container runs.
    #[must_use]
    pub fn entrypoint(self, command: &[&str]) -> Self {
        let command = serde_json::json!(command);
        self.change(format!("ENTRYPOINT {command}"))
    }

    /// The image's own health check, a program without a shell.
    #[must_use]
    pub fn health(self, interval: Duration, command: &[&str]) -> Self {
        let command = serde_json::json!(command);
        self.change(format!("HEALTHCHECK --interval={}ms --timeout=5s CMD {command}", interval.as_millis()))
    }

    /// Any other instruction that `docker import --change` accepts: `ENV`, `EXPOSE`, `LABEL`, `USER`, `WORKDIR`, …
    #[must_use]
    pub fn change(mut self, instruction: impl Into<String>) -> Self {
        self.changes.push(instruction.into());
        self
    }

    /// Builds it in the local engine, unless it is there and nothing has changed. Returns the tag.
    ///
    /// # Errors
    /// A program or library is missing, or the engine refuses.
    pub async fn build(self) -> Result<String, Failure> {
        // Tests in one process often need the same image at the same time.
        static BUILDING: Mutex<()> = Mutex::const_new(());
        let _alone = BUILDING.lock().await;
        let engine = Engine::local();
        let files = self.all_files()?;
        let hash = self.hash(&files).map_err(|error| Failure::of(&self.tag, error))?;
        let format = format!("{{{{.Id}}}} {{{{index .Config.Labels \"{HASH_LABEL}\"}}}}");
        let present =
            engine.docker(&["image", "inspect", "--format", &format, &self.tag]).await.unwrap_or_default();
        let (old_id, old_hash) = present.split_once(' ').unwrap_or_default();
        if old_hash == hash {
            return Ok(self.tag);
        }
        self.import(&engine, &files, &hash).await?;
        if !old_id.is_empty() {
            // Refused while a container still uses it.
            let _ = engine.docker(&["image", "rm", old_id]).await;
        }
        Ok(self.tag)
    }

    /// All files to copy, by their path in the image.
    fn all_files(&self) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let mut files = self.files.clone();
        for (to, from) in &self.programs {
            files.insert(to.clone(), from.clone());
            for library in libraries(from)? {
                files.insert(library.to_string_lossy().into_owned(), library);
            }
        }
        Ok(files)
    }

    /// Changes whenever the image would: it covers the instructions, and the size and time of each file.
    fn hash(&self, files: &BTreeMap<String, PathBuf>) -> io::Result<String> {
        let mut hasher = DefaultHasher::new();
        (&self.texts, &self.links, &self.changes).hash(&mut hasher);
        for (to, from) in files {
            let metadata = fs::metadata(from)?;
            (to, from, metadata.len(), metadata.modified()?).hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    async fn import(
        &self,
        engine: &Engine,
        files: &BTreeMap<String, PathBuf>,
        hash: &str,
    ) -> Result<(), Failure> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("root");
        self.lay_out(&root, files).map_err(|error| Failure::of(&self.tag, error))?;
        let archive = folder.path().join("image.tar").to_string_lossy().into_owned();
        run("tar", &["--owner=0", "--group=0", "-C", &root.to_string_lossy(), "-cf", &archive, "."])?;
        let directories: BTreeSet<&Path> = files.keys().filter_map(|path| Path::new(path).parent()).collect();
        let directories: Vec<String> = directories
            .into_iter()
            .filter(|directory| directory.to_string_lossy().contains("lib"))
            .map(|directory| directory.to_string_lossy().into_owned())
            .collect();
        let mut args = vec!["import".to_owned()];
        // A library that was found through a search path of this machine must be found in the image as well.
        let mut changes = vec![
            format!("LABEL {HASH_LABEL}={hash}"),
            format!("ENV LD_LIBRARY_PATH={}", directories.join(":")),
            "ENV PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        ];
        changes.extend(self.changes.clone());
        for change in changes {
            args.extend(["--change".to_owned(), change]);
        }
        args.extend([archive, self.tag.clone()]);
        engine.docker(&args).await.map(|_| ())
    }

    fn lay_out(&self, root: &Path, files: &BTreeMap<String, PathBuf>) -> io::Result<()> {
        let place = |to: &str| {
            let path = root.join(to.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(root))?;
            io::Result::Ok(path)
        };
        for (to, from) in files {
            fs::copy(from, place(to)?)?;
        }
        for (to, text) in &self.texts {
            fs::write(place(to)?, text)?;
        }
        for (to, target) in &self.links {
            symlink(target, place(to)?)?;
        }
        fs::create_dir_all(root.join("tmp"))?;
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
    }
}

/// The simulated server as an image: `/sim-server`, curl and a shell, configured by `SIM_*` variables.
///
/// # Errors
/// The program cannot be built, or the image.
pub async fn sim_image() -> Result<String, Failure> {
    let program = tokio::task::spawn_blocking(build_sim_server).await??;
    let image =
        Image::new("modelgate-test/sim:local").program(program, "/sim-server").entrypoint(&["/sim-server"]);
    image.with_curl().with_shell().change("EXPOSE 8000").build().await
}

/// The libraries of a program and its loader, as [`ldd`](https://man7.org/linux/man-pages/man1/ldd.1.html) lists them;
/// none for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !program.is_file() {
        return Err(Failure::missing(format!("{} is not there", program.display())));
    }
    match run("ldd", &[program]) {
        Ok(text) => parse_ldd(&text),
        Err(Failure::Failed { why, .. }) if why.contains("not a dynamic executable") => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

/// Lines are `name => /path (0x…)`, `/path (0x…)` for the loader, `name (0x…)` for the kernel's own, or
/// `statically linked`.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let found = line.split_once(" => ").map_or(line, |(_, path)| path);
        if found.starts_with("not found") {
            return Err(Failure::of("ldd", line));
        }
        if found.starts_with('/') {
            paths.extend(found.split(" (").next().map(PathBuf::from));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_lists() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), Ok(paths.to_vec()));
        assert_eq!(parse_ldd("\tstatically linked\n"), Ok(Vec::new()));
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
    }
}
