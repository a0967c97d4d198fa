//! The tasks of a Swarm's labelled services, as plain records.
//!
//! A manager reports services and tasks; the containers of its own node supply what a manager does not know, such as addresses
//! on a node's bridge network.

mod task;

use std::collections::HashMap;

use catalogue::{DockerFinding, LabelFinding, OPT_IN, Problem, misspelt_opt_in, open_port};
use serde_json::Value;

use super::{
    DockerOptions, Survey,
    api::{Api, ApiError},
    event,
    service::{self, Node, Service, ServiceSpec},
    survey::NetworkMember,
    wire,
};
use task::Task;

/// `filters={"desired-state":["running"]}`: leaves out tasks that are replaced or should stop.
const TASKS: &str = "/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D";

/// Surveys services and tasks, and returns the services. Adds the tasks of other nodes to the places.
pub(super) async fn look(
    api: &Api,
    options: &DockerOptions,
    places: &mut Vec<NetworkMember>,
) -> Result<(Survey, Vec<Service>), ApiError> {
    let (services, odd_services) = wire::read_each::<Service>(api.list("/services").await?);
    let (tasks, odd_tasks) = wire::read_each::<Task>(api.list(TASKS).await?);
    let mut survey = Survey::default();
    let odd = odd_services.iter().filter(|(item, _)| may_be_ours(item)).chain(&odd_tasks);
    survey.problems.extend(odd.map(|(item, why)| unreadable(item, why, options)));
    let mut ours: HashMap<&str, &ServiceSpec> = HashMap::new();
    for service in services.iter().filter(|service| options.takes(&service.spec.labels)) {
        match service.spec.labels.contains_key(OPT_IN) {
            true => _ = ours.insert(&service.id, &service.spec),
            false => survey.problems.extend(mislabelled(&service.spec, options)),
        }
    }
    let nodes = match tasks.iter().any(|t| ours.contains_key(t.service_id.as_str()) && t.needs_its_node()) {
        true => nodes(api, options, &mut survey.problems).await?,
        false => HashMap::new(),
    };
    let local: HashMap<String, NetworkMember> =
        places.iter().map(|p| (p.container_id.clone(), p.clone())).collect();
    for task in &tasks {
        let here = task.container_id().and_then(|id| local.get(id));
        if here.is_none() {
            places.push(task.place());
        }
        let Some(spec) = ours.get(task.service_id.as_str()) else { continue };
        let record = task.record(spec, options, here, nodes.get(&task.node_id));
        let stop_signal = event::signal_number(&task.spec.container_spec.stop_signal);
        survey.stop_signals.extend(stop_signal.map(|signal| (record.id.clone(), signal)));
        survey.tasks.push(record);
    }
    survey.tasks.sort_by(|a, b| a.id.cmp(&b.id));
    survey.problems.extend(ours.values().filter_map(|spec| published_to_all(spec, options)));
    survey.problems.sort();
    Ok((survey, services))
}

/// The address of each node. If a manager does not report them, only the tasks that need one are lost.
async fn nodes(
    api: &Api,
    options: &DockerOptions,
    problems: &mut Vec<Problem>,
) -> Result<HashMap<String, String>, ApiError> {
    match api.list("/nodes").await {
        Ok(nodes) => Ok(service::node_addresses(&wire::read_each::<Node>(nodes).0)),
        Err(ApiError::Unreachable(why)) => Err(ApiError::Unreachable(why)),
        Err(error) => {
            let finding = DockerFinding::NodesUnknown { error: error.to_string() };
            problems.push(Problem::source(&super::source_name(&options.name), finding));
            Ok(HashMap::new())
        }
    }
}

/// Whether an unreadable service may have opted in.
fn may_be_ours(service: &Value) -> bool {
    let labels = service.pointer("/Spec/Labels");
    labels.is_some_and(|labels| labels.as_object().is_none_or(|labels| labels.contains_key(OPT_IN)))
}

/// The problem of an unreadable service or task.
fn unreadable(item: &Value, why: &str, options: &DockerOptions) -> Problem {
    let name = ["/Spec/Name", "/ID"].iter().find_map(|place| item.pointer(place)?.as_str());
    let finding = DockerFinding::ServiceUnreadable { why: why.to_owned() };
    Problem::container(&options.full_name(name.unwrap_or("without a name")), finding)
}

/// The problem of a label in the wrong place or spelling.
fn mislabelled(service: &ServiceSpec, options: &DockerOptions) -> Option<Problem> {
    let on_containers = service.task_template.container_spec.labels.contains_key(OPT_IN);
    let finding = match on_containers {
        true => LabelFinding::OnContainers,
        false => misspelt_opt_in(&service.labels)?,
    };
    Some(Problem::container(&options.full_name(&service.name), finding))
}

/// The problem of a port that every node of the Swarm publishes.
fn published_to_all(service: &ServiceSpec, options: &DockerOptions) -> Option<Problem> {
    let mut ports = service.endpoint_spec.ports.iter();
    let found = ports.find(|p| p.publish_mode != "host" && p.published_port != 0 && p.protocol != "udp")?;
    let name = options.full_name(&service.name);
    (!options.published).then(|| open_port(&name, found.published_port, found.target_port))
}
