//! What the tests of several modules need.

use catalogue::{
    Catalogue, Kind, ModelCard, ModelName, ServerRecord, ServerSpec, ServerState, ServerUrl, Setting,
};

/// A ready vLLM at `http://NAME:8000`.
pub(crate) fn server(name: &str, models: &[&str]) -> ServerRecord {
    let card = |model: &&str| ModelCard::named(ModelName::new(model).expect("a model's name"));
    ServerRecord {
        spec: ServerSpec::configured(name, ServerUrl::http(name, 8000)),
        state: ServerState::Ready,
        listed_as: Kind::Vllm,
        has_others: false,
        models: models.iter().map(card).collect(),
    }
}

/// The same with settings, each with its key: `strategy`.
pub(crate) fn set_up(mut server: ServerRecord, settings: &[(&str, &str)]) -> ServerRecord {
    let spec = &mut server.spec;
    for (key, text) in settings {
        let setting = Setting::find(key).expect(key);
        setting.read(text, &mut spec.settings, &mut spec.model_settings).expect(text);
    }
    server
}

/// A catalogue of servers, without problems.
pub(crate) fn catalogue_of<const N: usize>(servers: [ServerRecord; N]) -> Catalogue {
    Catalogue::assemble(servers, Vec::new())
}
