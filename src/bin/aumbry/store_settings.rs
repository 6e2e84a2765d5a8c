//! What the environment says about a store: accounts, keys, tokens, each under the names that its ecosystem has for them.

use std::collections::BTreeMap;

use aumbry::store::location::Place;
use zeroize::Zeroizing;

use crate::environment::Surroundings;
use crate::failure::Failure;

/// What begins so is handed to any service, by what follows: AUMBRY_STORE_PASSWORD is its `password`.
const PREFIX: &str = "AUMBRY_STORE_";

/// Where each setting is looked for; the first that is set counts.
fn variables(place: &Place) -> &'static [(&'static str, &'static [&'static str])] {
    match place {
        // OpenDAL reads the rest of AWS's places itself: variables, profiles, roles of machines.
        Place::S3 { endpoint: None, .. } => &[
            ("endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
            ("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
        ],
        Place::S3 { .. } => &[("region", &["AWS_REGION", "AWS_DEFAULT_REGION"])],
        Place::Azblob { .. } => &[
            ("account_name", &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]),
            ("account_key", &["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"]),
            ("sas_token", &["AZURE_STORAGE_SAS_TOKEN"]),
        ],
        // GOOGLE_APPLICATION_CREDENTIALS is read by OpenDAL, and so are the others of Google's places.
        Place::Gcs { .. } => &[],
        Place::B2 { .. } => &[
            ("application_key_id", &["B2_APPLICATION_KEY_ID", "B2_ACCOUNT_ID"]),
            ("application_key", &["B2_APPLICATION_KEY", "B2_ACCOUNT_KEY"]),
            ("bucket_id", &["B2_BUCKET_ID"]),
        ],
        Place::Webdav { .. } => &[
            ("username", &["WEBDAV_USERNAME"]),
            ("password", &["WEBDAV_PASSWORD"]),
            ("token", &["WEBDAV_TOKEN"]),
        ],
        Place::Local(_) | Place::Memory | Place::Sftp { .. } | Place::Opendal { .. } => &[],
    }
}

/// What the environment says about the store at a place.
pub fn store_settings(
    place: &Place,
    surroundings: &Surroundings,
) -> Result<BTreeMap<String, Zeroizing<String>>, Failure> {
    let mut settings = BTreeMap::new();
    for (key, names) in variables(place) {
        for name in *names {
            if let Some(value) = surroundings.text_variable(name)? {
                settings.insert(key.to_string(), Zeroizing::new(value));
                break;
            }
        }
    }
    for name in surroundings.variables_with(PREFIX) {
        if let Some(value) = surroundings.text_variable(&name)? {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            settings.insert(key, Zeroizing::new(value));
        }
    }
    Ok(settings)
}
