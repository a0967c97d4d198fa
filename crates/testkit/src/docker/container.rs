//! Containers and networks that are removed when their value is dropped.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;

use super::{Engine, OWNER_LABEL, owner, unique_name};
use crate::{Failure, within};

/// A `docker run`, see [`Container::run`].
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    engine: Engine,
    image: String,
    name: String,
    flags: Vec<String>,
    command: Vec<String>,
}

/// A container, removed on drop whatever its state.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    id: String,
    name: String,
}

/// A network, removed on drop; declare it before its containers, so that it is dropped after them.
#[derive(Debug)]
pub struct Network {
    engine: Engine,
    name: String,
}

impl RunOptions {
    /// A container of an image, on the engine's default network.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), name: "container".to_owned(), ..Self::default() }
    }

    /// Uses another engine than the local one.
    #[must_use]
    pub fn engine(mut self, engine: &Engine) -> Self {
        self.engine = engine.clone();
        self
    }

    /// The last part of its name; the whole name is unique.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.flag("--label").flag(format!("{key}={value}"))
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.flag("--env").flag(format!("{name}={value}"))
    }

    /// Joins a network instead of the default one.
    #[must_use]
    pub fn network(self, network: &Network) -> Self {
        self.flag("--network").flag(network.name())
    }

    /// A name by which the other containers of its network reach it.
    #[must_use]
    pub fn alias(self, alias: &str) -> Self {
        self.flag("--network-alias").flag(alias)
    }

    /// A health check, run by `/bin/sh` of the image; the first failure counts.
    #[must_use]
    pub fn health(self, command: &str, interval: Duration) -> Self {
        let interval = format!("{}ms", interval.as_millis());
        self.flag("--health-cmd")
            .flag(command)
            .flag("--health-interval")
            .flag(interval)
            .flag("--health-retries")
            .flag("1")
    }

    /// Publishes a port on a free port of this machine's loopback address; see [`Container::published_port`].
    #[must_use]
    pub fn publish(self, port: u16) -> Self {
        self.flag("--publish").flag(format!("127.0.0.1::{port}"))
    }

    /// Any other flag of `docker run`; one with a value takes two calls.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// One more argument for the image's program.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.command.push(arg.into());
        self
    }
}

impl Container {
    /// Starts a container.
    ///
    /// # Errors
    /// The engine refuses, or the program cannot be started.
    pub async fn run(options: RunOptions) -> Result<Self, Failure> {
        let RunOptions { engine, image, name, flags, command } = options;
        let name = unique_name(&name);
        let label = format!("{OWNER_LABEL}={}", owner());
        let mut args: Vec<String> =
            ["run", "--detach", "--name", &name, "--label", &label].map(str::to_owned).to_vec();
        args.extend(flags);
        args.push(image);
        args.extend(command);
        // The value exists before the command runs, so that a container that was created but could not be started is removed.
        let mut container = Self { engine, id: String::new(), name };
        container.id = container.engine.docker(&args).await?;
        Ok(container)
    }

    /// The long id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `docker inspect`.
    ///
    /// # Errors
    /// The container is gone.
    pub async fn inspect(&self) -> Result<Value, Failure> {
        let text =
            self.engine.docker(&["container", "inspect", "--format", "{{json .}}", &self.name]).await?;
        serde_json::from_str(&text).map_err(Failure::from)
    }

    /// Its address in the first network in which it has one.
    ///
    /// # Errors
    /// It is not running, or has no network of its own.
    pub async fn ip(&self) -> Result<IpAddr, Failure> {
        let networks = self.inspect().await?["NetworkSettings"]["Networks"].take();
        let addresses = networks.as_object().into_iter().flat_map(|networks| networks.values());
        let mut addresses = addresses.filter_map(|network| network["IPAddress"].as_str()?.parse().ok());
        addresses.next().ok_or_else(|| Failure::unexpected(format!("{} has no address", self.name)))
    }

    /// Its address in a network.
    ///
    /// # Errors
    /// It is not in the network.
    pub async fn ip_in(&self, network: &Network) -> Result<IpAddr, Failure> {
        let inspected = self.inspect().await?;
        let address = inspected["NetworkSettings"]["Networks"][network.name()]["IPAddress"].as_str();
        let address = address.and_then(|address| address.parse().ok());
        address
            .ok_or_else(|| Failure::unexpected(format!("{} has no address in {}", self.name, network.name)))
    }

    /// The port of this machine at which a port is published.
    ///
    /// # Errors
    /// It is not published.
    pub async fn published_port(&self, port: u16) -> Result<u16, Failure> {
        let inspected = self.inspect().await?;
        let text = inspected["NetworkSettings"]["Ports"][format!("{port}/tcp")][0]["HostPort"].as_str();
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| Failure::unexpected(format!("{port} of {} is not published", self.name)))
    }

    /// `starting`, `healthy` or `unhealthy`; `None` without a health check.
    ///
    /// # Errors
    /// The container is gone.
    pub async fn health(&self) -> Result<Option<String>, Failure> {
        Ok(self.inspect().await?["State"]["Health"]["Status"].as_str().map(str::to_owned))
    }

    /// Waits until the engine reports it as `healthy` (or `unhealthy`).
    ///
    /// # Errors
    /// It took longer than the timeout; the text has the output of the last checks.
    pub async fn wait_health(&self, wanted: &str, timeout: Duration) -> Result<(), Failure> {
        let probe = || async { (self.health().await.ok()??.as_str() == wanted).then_some(()) };
        match within(timeout, probe).await {
            Some(()) => Ok(()),
            None => {
                let health = self.inspect().await?["State"]["Health"].take();
                Err(Failure::unexpected(format!("{} is not {wanted}: {health}", self.name)))
            }
        }
    }

    /// What it printed, standard error included.
    ///
    /// # Errors
    /// The container is gone.
    pub async fn logs(&self) -> Result<String, Failure> {
        let script = format!("docker {} logs {} 2>&1", self.engine.host_args().join(" "), self.name);
        let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await;
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).map_err(Failure::from)
    }

    /// Runs a program in it and returns what it prints.
    ///
    /// # Errors
    /// The program fails.
    pub async fn exec(&self, command: &[&str]) -> Result<String, Failure> {
        self.engine.docker(&[&["exec", self.name.as_str()], command].concat()).await
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&self) -> Result<(), Failure> {
        self.act("kill").await
    }

    /// SIGTERM, and SIGKILL 10 seconds later.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn stop(&self) -> Result<(), Failure> {
        self.act("stop").await
    }

    /// Starts it again; its address may be another.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn start(&self) -> Result<(), Failure> {
        self.act("start").await
    }

    /// [`Container::stop`] and [`Container::start`].
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn restart(&self) -> Result<(), Failure> {
        self.act("restart").await
    }

    /// Freezes it: its port still accepts connections, but nothing answers.
    pub async fn pause(&self) -> Result<(), Failure> {
        self.act("pause").await
    }

    /// Goes on after [`Container::pause`].
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn unpause(&self) -> Result<(), Failure> {
        self.act("unpause").await
    }

    /// Joins a network.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn connect(&self, network: &Network) -> Result<(), Failure> {
        self.engine.docker(&["network", "connect", &network.name, &self.name]).await.map(|_| ())
    }

    /// Leaves a network.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn disconnect(&self, network: &Network) -> Result<(), Failure> {
        self.engine.docker(&["network", "disconnect", &network.name, &self.name]).await.map(|_| ())
    }

    /// Removes it now.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn remove(self) -> Result<(), Failure> {
        self.engine.docker(&["rm", "--force", "--volumes", &self.name]).await.map(|_| ())
    }

    async fn act(&self, action: &str) -> Result<(), Failure> {
        self.engine.docker(&[action, &self.name]).await.map(|_| ())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.engine.docker_in_drop(&["rm", "--force", "--volumes", &self.name]);
    }
}

impl Network {
    /// Makes a bridge network in the local engine.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn create(name: &str) -> Result<Self, Failure> {
        Self::create_in(&Engine::local(), name, &[]).await
    }

    /// Makes a network, with more flags of `docker network create`.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn create_in(engine: &Engine, name: &str, flags: &[&str]) -> Result<Self, Failure> {
        let network = Self { engine: engine.clone(), name: unique_name(name) };
        let label = format!("{OWNER_LABEL}={}", owner());
        let args = [&["network", "create", "--label", &label], flags, &[network.name.as_str()]].concat();
        network.engine.docker(&args).await?;
        Ok(network)
    }

    /// The unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.engine.docker_in_drop(&["network", "rm", &self.name]);
    }
}
