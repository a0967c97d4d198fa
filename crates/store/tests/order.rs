//! A PostgreSQL whose own order is that of a language: pages follow each other by bytes all the same.

use accounts::{Accounts, KeySpec};
use serde_json::json;
use store::{Filter, Registry, Store};
use testkit::{
    need,
    postgres::{Postgres, postgres_binary},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_sorted_as_those_of_the_file_are() {
    let Some(binary) = need(postgres_binary(), "PostgreSQL") else { return };
    let server = Postgres::shared(&binary).await;
    let create = "CREATE DATABASE english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    server.ask(&server.url(), create).await;
    let url = server.url().replace("/postgres", "/english");
    assert_eq!(server.ask(&url, "SELECT 'a' < 'B'").await, "t", "the order of the language");
    let store = Store::open(url.parse().expect("a URL")).await.expect("a store");
    let declared =
        ["b", "D"].map(|name| KeySpec::new(name, "team", access::KeyDigest::of(&format!("mg-{name}"))));
    let registry = Registry::new(Accounts { keys: declared.into(), ..Accounts::default() });
    registry.set_store(store.clone());
    for name in ["a", "B", "c", "C", "_", "d-1", "d.1"] {
        registry.create_key(&json!({ "name": name }), &"a test".into()).await.expect("created");
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let filter = Filter { after: after.clone(), limit: 2, ..Filter::default() };
        let page = registry.list::<KeySpec>(&filter).await.expect("a page");
        names.extend(page.items.into_iter().map(|item| item.account.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(names, ["B", "C", "D", "_", "a", "b", "c", "d-1", "d.1"]);
    store.close().await;
}
