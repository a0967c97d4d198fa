//! Files that people write, or that other gateways have written.

use std::time::{Duration, SystemTime};

use modelgate::readers::{Gateway, configuration, keys_of};

use crate::world::NOW;

/// Configuration files: each error is one line that names its key; what is accepted is the same when it is read again.
pub(crate) fn configuration_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match configuration(text) {
        Ok(shown) => assert_eq!(configuration(text).expect("the same"), shown),
        Err(errors) => {
            let told = errors.to_string();
            assert!(!told.is_empty());
            let is_plain = |c: char| !c.is_control() || c == '\n';
            assert!(told.chars().all(is_plain), "{told:?}");
        }
    }
}

/// Kong's declarative configuration.
pub(crate) fn kong(data: &[u8]) {
    import(Gateway::Kong, data);
}

/// LiteLLM's lists.
pub(crate) fn litellm(data: &[u8]) {
    import(Gateway::Litellm, data);
}

/// Whatever is imported is lines that the configuration's reader accepts, without a key in clear.
fn import(gateway: Gateway, data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let imported = match keys_of(gateway, text, written) {
        Ok(imported) => imported,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    assert!(imported.messages.iter().all(|line| !line.chars().any(char::is_control)));
    if let Err(errors) = configuration(&imported.yaml) {
        panic!("{errors}\nin what was imported:\n{}", imported.yaml);
    }
}
