//! Gathers what Traefik's own provider makes of the containers, or services, of a host, for [`catalogue::doors`] to judge.

use std::{collections::BTreeSet, net::IpAddr};

use catalogue::{
    ContainerRecord, Doors, Exposable, OPT_IN, ProviderKind, Role, Sight, StaticConfiguration, TraefikSeen,
    doors,
};
use futures_util::future::join_all;

use super::{
    DockerOptions,
    api::Api,
    containers,
    service::Service,
    wire::{self, Inspected, Listed},
};

/// The label by which Docker marks the containers of a Swarm.
const TASK: &str = "com.docker.swarm.task.id";
/// The label with an image's version (<https://specs.opencontainers.org/image-spec/annotations/>), which Traefik's own images have.
const IMAGE_VERSION: &str = "org.opencontainers.image.version";
const SERVICE: &str = "com.docker.swarm.service.id";

/// Everything that runs on a host.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) options: &'a DockerOptions,
    pub(super) containers: &'a [Listed],
    /// The inspected containers.
    pub(super) records: &'a [ContainerRecord],
    /// The services of a Swarm; there their labels count instead of the containers'.
    pub(super) services: &'a [Service],
    /// The addresses from which Traefik polls.
    pub(super) peers: &'a BTreeSet<IpAddr>,
    /// Modelgate's own container.
    pub(super) own_id: Option<&'a str>,
}

impl Surroundings<'_> {
    /// Inspects the Traefiks among the containers, and finds the doors.
    pub(super) async fn doors(&self, api: &Api) -> Doors {
        let mut traefiks = self.containers_of_traefik(api).await;
        let exposables: Vec<Exposable> = match self.options.swarm {
            false => {
                let containers = self.containers.iter().filter(|listed| containers::may_run(listed));
                containers.map(|listed| self.container(listed)).collect()
            }
            true => {
                traefiks.extend(self.services.iter().filter_map(|service| self.traefik_service(service)));
                self.services.iter().map(|service| self.service(service)).collect()
            }
        };
        doors(&exposables, &traefiks)
    }

    fn kind(&self) -> ProviderKind {
        if self.options.swarm { ProviderKind::Swarm } else { ProviderKind::Docker }
    }

    /// The Traefiks that run as containers, with what their command lines say.
    async fn containers_of_traefik(&self, api: &Api) -> Vec<(String, Sight)> {
        let is_one = |it: &&Listed| {
            // The Traefiks of a Swarm's services are found among the services.
            it.state == "running"
                && !(self.options.swarm && it.labels.contains_key(TASK))
                && (is_traefik(&it.image, it.command.split(' ')) || self.polls_us(it))
        };
        let sight = async |it: &Listed| {
            let inspected = containers::inspect(api, &it.id).await;
            let sight =
                inspected.map_or(Sight::Hidden, |inspected| configuration(inspected).sight(self.kind()));
            (self.options.full_name(it.name()), sight)
        };
        let found: Vec<Listed> = self.containers.iter().filter(is_one).cloned().collect();
        join_all(found.iter().map(sight)).await
    }

    /// The Traefiks that poll Modelgate, with the version in their image's label. One whose poll names a version gets the document
    /// for that one.
    pub(super) fn polling_traefiks(&self) -> Vec<TraefikSeen> {
        let polling = self.containers.iter().filter(|it| it.state == "running" && self.polls_us(it));
        let versionless = polling.filter(|it| !it.command.contains("version="));
        let seen = |it: &Listed| {
            let version = it.labels.get(IMAGE_VERSION)?.clone();
            let is_it = is_traefik(&it.image, it.command.split(' '));
            is_it.then(|| TraefikSeen { container: self.options.full_name(it.name()), version })
        };
        versionless.filter_map(seen).collect()
    }

    fn polls_us(&self, container: &Listed) -> bool {
        let addresses = wire::addresses(&container.network_settings.networks);
        addresses.values().any(|a| a.parse().is_ok_and(|a: IpAddr| self.peers.contains(&a)))
    }

    fn traefik_service(&self, service: &Service) -> Option<(String, Sight)> {
        let template = &service.spec.task_template.container_spec;
        let args: Vec<String> = template.command.iter().chain(&template.args).cloned().collect();
        if !is_traefik(&template.image, args.iter().map(String::as_str)) {
            return None;
        }
        let mounts = template.mounts.iter().map(|mount| mount.target.clone());
        let files: Vec<String> = mounts.chain(template.configs.iter().map(|c| c.file.name.clone())).collect();
        let sight = StaticConfiguration::new(args, &template.env, &files).sight(self.kind());
        Some((self.options.full_name(&service.spec.name), sight))
    }

    fn container(&self, it: &Listed) -> Exposable {
        let is_tcp = |kind: &str| kind.is_empty() || kind == "tcp";
        let listed = it.ports.iter().filter(|port| is_tcp(&port.r#type)).map(|port| port.private_port);
        // Podman's list has only published ports.
        let inspected =
            self.records.iter().filter(|record| record.id == it.id).flat_map(|r| &r.exposed_ports);
        Exposable {
            name: self.options.full_name(it.name()),
            docker_name: it.name().to_owned(),
            labels: it.labels.clone(),
            ports: listed.chain(inspected.copied()).collect(),
            role: match self.own_id == Some(it.id.as_str()) {
                true => Role::Modelgate(self.options.own_ports.clone()),
                false => role(it.labels.get(OPT_IN)),
            },
        }
    }

    fn service(&self, it: &Service) -> Exposable {
        let own = self.containers.iter().find(|container| self.own_id == Some(container.id.as_str()));
        Exposable {
            name: self.options.full_name(&it.spec.name),
            docker_name: it.spec.name.clone(),
            labels: it.spec.labels.clone(),
            // Traefik finds a service's port only by a label.
            ports: BTreeSet::new(),
            role: match own.and_then(|own| own.labels.get(SERVICE)) == Some(&it.id) {
                true => Role::Modelgate(self.options.own_ports.clone()),
                false => role(it.spec.labels.get(OPT_IN)),
            },
        }
    }
}

/// A container that is not enabled, or whose label cannot be parsed, is the operator's own.
fn role(opt_in: Option<&String>) -> Role {
    match opt_in.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        true => Role::Server,
        false => Role::Other,
    }
}

fn configuration(inspected: Inspected) -> StaticConfiguration {
    let files: Vec<String> = inspected.mounts.into_iter().map(|mount| mount.destination).collect();
    let args = [vec![inspected.path], inspected.args].concat();
    StaticConfiguration::new(args, &inspected.config.env, &files)
}

/// Whether it is a Traefik, by its image's name (`ghcr.io/any/traefik:v3.7@sha256:…`) or its command line.
fn is_traefik<'a>(image: &str, mut command: impl Iterator<Item = &'a str>) -> bool {
    let last = |path: &'a str| path.rsplit('/').next().unwrap_or_default();
    let image = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let is_program =
        |(at, word): (usize, &'a str)| at < 2 && last(word) == "traefik" || word.starts_with("--providers.");
    image.split(':').next() == Some("traefik") || command.by_ref().enumerate().any(is_program)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DockerEndpoint;

    #[test]
    fn a_traefik_is_known_by_its_image_or_its_command() {
        let is = |image: &str, command: &str| is_traefik(image, command.split(' '));
        for image in
            ["traefik", "traefik:v3.7", "ghcr.io/any/traefik:v3@sha256:0123", "localhost:5000/traefik"]
        {
            assert!(is(image, "/entrypoint.sh --log.level=INFO"), "{image}");
        }
        assert!(is("sha256:0123", "/entrypoint.sh traefik"));
        assert!(is("edge:1", "/usr/local/bin/traefik --api"));
        assert!(is("edge:1", "/start --providers.docker=true"));
        for (image, command) in [("traefik/whoami", "/whoami"), ("vllm", "python serve.py traefik"), ("", "")]
        {
            assert!(!is(image, command), "{image}");
        }
    }

    /// The answer of `GET /services`, shortened.
    #[test]
    fn a_swarms_services_say_who_is_exposed() {
        let service = |id: &str, spec: serde_json::Value| -> Service {
            serde_json::from_value(json!({ "ID": id, "Spec": spec })).expect("a service")
        };
        let port = "traefik.http.services.vllm.loadbalancer.server.port";
        let services = [
            service("s1", json!({ "Name": "vllm", "Labels": { "inference.enable": "true", port: "8000" } })),
            service(
                "s2",
                json!({ "Name": "other", "Labels": { "inference.enable": "true" }, "TaskTemplate": null }),
            ),
            service(
                "s3",
                json!({ "Name": "traefik", "Labels": null, "TaskTemplate": { "ContainerSpec": {
                "Image": "traefik:v3.7", "Args": ["--providers.swarm.endpoint=tcp://proxy:2375"] } } }),
            ),
        ];
        let options = DockerOptions {
            swarm: true,
            ..DockerOptions::new("docker", DockerEndpoint::Unix("/run/docker.sock".into()))
        };
        let all = Surroundings {
            options: &options,
            containers: &[],
            records: &[],
            services: &services,
            peers: &BTreeSet::new(),
            own_id: None,
        };
        let traefiks: Vec<_> = services.iter().filter_map(|service| all.traefik_service(service)).collect();
        let exposables: Vec<_> = services.iter().map(|service| all.service(service)).collect();
        let found = doors(&exposables, &traefiks);
        let told: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        assert!(
            told.len() == 1 && told[0].starts_with("container vllm: Traefik's provider exposes it"),
            "{told:?}"
        );
        assert_eq!(found.blind, None);
    }

    /// The answer of `GET /containers/json`, shortened.
    #[test]
    fn a_traefik_that_polls_says_its_version() {
        let listed = |name: &str,
                      image: &str,
                      command: &str,
                      address: &str,
                      version: Option<&str>|
         -> Listed {
            serde_json::from_value(json!({
                "Id": name, "Names": [format!("/{name}")], "Image": image, "Command": command, "State": "running",
                "Labels": version.map(|version| json!({ "org.opencontainers.image.version": version })),
                "NetworkSettings": { "Networks": { "ai": { "IPAddress": address } } },
            }))
            .expect("a container")
        };
        let program = "/entrypoint.sh --providers.http.endpoint=http://modelgate:8100/traefik";
        let for_other = format!("{program}?version=3.3.6");
        let containers = [
            listed("edge", "traefik:v3.5", program, "10.0.0.1", Some("v3.5.3")),
            listed("told", "traefik:v3.3", &for_other, "10.0.0.1", Some("v3.3.6")),
            listed("elsewhere", "traefik:v2.11", program, "10.0.0.2", Some("v2.11.0")),
            listed("silent", "traefik:v3.5", program, "10.0.0.1", None),
            listed("client", "ubuntu:24.04", "sleep 1", "10.0.0.1", Some("24.04")),
        ];
        let options = DockerOptions::new("docker", DockerEndpoint::Unix("/run/docker.sock".into()));
        let all = Surroundings {
            options: &options,
            containers: &containers,
            records: &[],
            services: &[],
            peers: &["10.0.0.1".parse().expect("an address")].into(),
            own_id: None,
        };
        let seen = all.polling_traefiks();
        assert_eq!(seen, [TraefikSeen { container: "edge".into(), version: "v3.5.3".into() }]);
    }
}
