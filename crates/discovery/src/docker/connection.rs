//! A connection to a host, over which everything on it is surveyed.

use std::{collections::BTreeSet, net::IpAddr};

use catalogue::Doors;

use super::{
    DockerOptions, Survey,
    api::{Api, ApiError},
    containers,
    doors::Surroundings,
    own,
    survey::{NetworkMember, network_view, place},
    swarm,
    wire::{self, Listed},
};

/// A connection to a host.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) api: Api,
}

impl Connection {
    pub(super) async fn open(options: &DockerOptions) -> Result<Self, ApiError> {
        Ok(Self { api: Api::connect(&options.endpoint).await? })
    }

    pub(super) async fn survey(
        &self,
        options: &DockerOptions,
        traefik_peers: &BTreeSet<IpAddr>,
    ) -> Result<Survey, ApiError> {
        let (all, odd) = wire::read_each::<Listed>(self.api.list("/containers/json?all=true").await?);
        let mut places: Vec<NetworkMember> = all.iter().map(place).collect();
        let (mut survey, services) = match options.swarm {
            false => (containers::look(&self.api, options, &all).await?, Vec::new()),
            true => swarm::look(&self.api, options, &mut places).await?,
        };
        let own_id = own::container_id();
        let own_id = own_id.as_deref();
        let surroundings = Surroundings {
            options,
            containers: &all,
            records: &survey.containers,
            services: &services,
            peers: traefik_peers,
            own_id,
        };
        let Doors { problems, undecided, blind, routers } = surroundings.doors(&self.api).await;
        survey.traefiks = surroundings.polling_traefiks();
        survey.problems.extend(problems);
        survey
            .problems
            .extend(odd.iter().filter_map(|(item, why)| containers::unreadable(item, why, options)));
        let network_view = network_view(&places, options, traefik_peers, own_id);
        Ok(Survey { network_view, undecided, blind, routers, ..survey })
    }
}
