//! From a location to a store: which service, with which settings.

use std::collections::BTreeMap;
use std::path::Path;
#[cfg(feature = "http")]
use std::sync::Arc;

#[cfg(feature = "http")]
use opendal::{Builder, Configurator, OperationContext, Operator};

#[cfg(feature = "http")]
use super::Inner;
#[cfg(feature = "s3")]
use super::LockKit;
use super::access::Access;
use super::error::{Kind, StoreError};
#[cfg(feature = "http")]
use super::handle::{Handle, Make};
use super::local::LocalService;
use super::location::{Location, Place};
use super::{LocalMode, Store};

type Settings = BTreeMap<String, String>;

/// Where OpenDAL's service for B2 asks first.
#[cfg(feature = "http")]
const B2: &str = "https://api.backblazeb2.com";

impl Store {
    /// Opens the store at a location. Nothing is asked of a server yet, but for the region of a bucket of AWS's that
    /// nobody named. `mode` counts for directories.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for what this build or the service cannot do; for a directory as [`Store::local`].
    pub fn open(
        location: &Location,
        access: &Access,
        mode: LocalMode,
    ) -> Result<Store, StoreError> {
        let shown = location.to_string();
        let place = match &location.place {
            Place::Local(path) => return open_local(path, access, mode),
            Place::Memory => return Ok(Store::memory()),
            place => place,
        };
        let mut settings = Settings::new();
        for (key, value) in &access.settings {
            settings.insert(key.clone(), value.to_string());
        }
        settings.extend(location.options.clone());
        if let Place::Sftp { .. } = place {
            return open_sftp(place, &settings, access, &shown);
        }
        open_remote(place, settings, access, &shown)
    }
}

pub(super) fn open_local(
    path: &Path,
    access: &Access,
    mode: LocalMode,
) -> Result<Store, StoreError> {
    let location = path.display().to_string();
    let service = LocalService::open(path, mode)
        .map_err(|error| StoreError::from_opendal(&location, &error))?;
    Ok(Store::over_local(service, access.line(location, false)))
}

#[cfg(feature = "sftp")]
fn open_sftp(
    place: &Place,
    settings: &Settings,
    access: &Access,
    shown: &str,
) -> Result<Store, StoreError> {
    use super::{SftpAddress, SftpOptions};

    let Place::Sftp { user, host, port, path } = place else {
        return Err(not_built(shown, "sftp"));
    };
    let (host, user, port) = (host.clone(), user.clone(), *port);
    let address = SftpAddress { host, user, port, path: path.clone() };
    let defaults = SftpOptions::default();
    let options = SftpOptions {
        connections: access.connections.unwrap_or(defaults.connections),
        ssh_command: settings.get("ssh_command").cloned(),
        unsynced: settings.get("unsynced").is_some_and(|value| value == "true"),
    };
    // What the server's file system and protocol can do, a probe has to find out.
    Ok(Store::sftp_with(address, options, access)?.unproven().identified_as(shown))
}

#[cfg(not(feature = "sftp"))]
fn open_sftp(place: &Place, _: &Settings, _: &Access, shown: &str) -> Result<Store, StoreError> {
    Err(not_built(shown, place.sort()))
}

#[cfg(not(feature = "http"))]
fn open_remote(place: &Place, _: Settings, _: &Access, shown: &str) -> Result<Store, StoreError> {
    Err(not_built(shown, place.sort()))
}

/// Of what only some builds can do.
fn not_built(shown: &str, feature: &str) -> StoreError {
    let reason = format!(
        "this aumbry was built without {feature} storage; build it with the feature `{feature}`"
    );
    StoreError::new(Kind::Invalid, shown, reason)
}

#[cfg(feature = "http")]
fn open_remote(
    place: &Place,
    mut settings: Settings,
    access: &Access,
    shown: &str,
) -> Result<Store, StoreError> {
    use super::listing::PAGE_MOST;
    use super::location::LISTS_IN_ORDER;
    use super::wire::Wire;

    let is_said_to_list_in_order =
        settings.remove(LISTS_IN_ORDER).is_some_and(|value| value == "true");
    let lock_mode = take_lock_mode(&mut settings, shown)?;
    let mut line = access.line(shown.to_string(), true);
    line.is_wired = true;
    let line = Arc::new(line);
    let unavailable = |reason: String| StoreError::new(Kind::Unavailable, shown, reason);
    let mut wire = Wire::new(line.clone()).map_err(unavailable)?;
    let mut moves = false;
    let mut set = |key: &str, value: &str| settings.insert(key.to_string(), value.to_string());
    match place {
        Place::S3 { endpoint, bucket, prefix } => {
            set("root", prefix);
            set("bucket", bucket);
            if let Some(endpoint) = endpoint {
                set("endpoint", endpoint);
            }
        }
        Place::Azblob { endpoint, container, prefix } => {
            set("root", prefix);
            set("container", container);
            if let Some((endpoint, account)) = endpoint {
                set("endpoint", &format!("{endpoint}/{account}"));
                set("account_name", account);
            }
        }
        Place::Gcs { endpoint, bucket, prefix } => {
            set("root", prefix);
            set("bucket", bucket);
            if let Some(endpoint) = endpoint {
                set("endpoint", endpoint);
            }
        }
        Place::B2 { endpoint, bucket, prefix } => {
            set("root", prefix);
            set("bucket", bucket);
            if let Some(endpoint) = endpoint {
                // OpenDAL's service does not ask where it is; the rest of its addresses it is told there.
                wire.ask_instead(B2, endpoint);
                set("endpoint", endpoint);
            }
        }
        Place::Webdav { endpoint, prefix } => {
            set("root", prefix);
            set("endpoint", endpoint);
            // A server may show an upload while it lasts, and keep half of one that broke off.
            moves = true;
        }
        Place::Opendal { root, .. } => {
            set("root", root);
        }
        Place::Local(_) | Place::Memory | Place::Sftp { .. } => {
            return Err(StoreError::new(Kind::Invalid, shown, "is no remote place"));
        }
    }
    let identity = identity(shown, &settings);
    let lists_in_order = is_said_to_list_in_order || is_known_to_list_in_order(place, &settings);
    let runtime = super::calls::start_runtime(shown)?;
    #[cfg_attr(not(feature = "s3"), allow(unused_mut, reason = "only S3 has locks"))]
    let mut lock_kit = None;
    #[cfg_attr(not(feature = "b2"), allow(unused_mut, reason = "only B2's is made anew"))]
    let mut make: Option<Make> = None;
    let operator = {
        // Some services look for a runtime when they are built.
        let _entered = runtime.enter();
        match place {
            #[cfg(feature = "s3")]
            Place::S3 { endpoint, bucket, .. } => {
                if !settings.contains_key("region") {
                    let region = match (endpoint, settings.contains_key("endpoint")) {
                        // Those who are not AWS have one region, and most call it so.
                        (Some(_), _) | (None, true) => None,
                        (None, false) => {
                            runtime.block_on(wire.region_of(bucket)).map_err(|reason| {
                                unavailable(format!(
                                    "cannot ask AWS where the bucket is: {reason}; try again, or \
                                     say it by AWS_REGION or -o region=eu-west-1"
                                ))
                            })?
                        }
                    };
                    let region = region.unwrap_or_else(|| "us-east-1".to_string());
                    settings.insert("region".to_string(), region);
                }
                settings
                    .entry("endpoint".to_string())
                    .or_insert_with(|| "https://s3.amazonaws.com".to_string());
                LockKit::new(settings.clone(), wire.clone()).and_then(|kit| {
                    lock_kit = kit.map(Arc::new);
                    build::<opendal::services::S3>(settings)
                })
            }
            #[cfg(feature = "azblob")]
            Place::Azblob { endpoint, .. } => {
                if endpoint.is_none()
                    && !settings.contains_key("endpoint")
                    && let Some(account) = settings.get("account_name")
                {
                    let address = format!("https://{account}.blob.core.windows.net");
                    settings.insert("endpoint".to_string(), address);
                }
                if !settings.contains_key("endpoint") {
                    let reason = "nobody says which account it belongs to: set \
                                  AZURE_STORAGE_ACCOUNT_NAME, or -o account=NAME";
                    return Err(StoreError::new(Kind::Invalid, shown, reason));
                }
                build::<opendal::services::Azblob>(settings)
            }
            #[cfg(feature = "gcs")]
            Place::Gcs { .. } => build::<opendal::services::Gcs>(settings),
            #[cfg(feature = "b2")]
            Place::B2 { .. } => {
                if !settings.contains_key("bucket_id") {
                    let reason =
                        "B2 wants the bucket's id, too: set B2_BUCKET_ID, or -o bucket-id=ID";
                    return Err(StoreError::new(Kind::Invalid, shown, reason));
                }
                settings.remove("endpoint");
                let again = settings.clone();
                // It keeps a token for 20 hours, and never asks for another one before.
                make = Some(Box::new(move || build::<opendal::services::B2>(again.clone())));
                build::<opendal::services::B2>(settings)
            }
            #[cfg(feature = "webdav")]
            Place::Webdav { .. } => build::<opendal::services::Webdav>(settings),
            Place::Opendal { scheme, .. } => match build_other(scheme, settings) {
                Some(built) => built,
                None => return Err(not_built(shown, &format!("{scheme} (all-stores)"))),
            },
            #[allow(unreachable_patterns, reason = "unless a feature is off")]
            place => return Err(not_built(shown, place.sort())),
        }
    };
    let operator = operator.map_err(|error| {
        let mut error = StoreError::from_opendal(shown, &error);
        error.kind = Kind::Invalid;
        error
    })?;
    let transport = opendal::HttpTransporter::new(wire);
    let context = OperationContext::default().with_http_transport(transport);
    let capability = operator.info().capability();
    if let Place::Opendal { .. } = place {
        // What renames is a tree of files, and those may be seen half written.
        moves = !capability.write_with_if_not_exists && capability.rename;
    }
    let is_b2 = matches!(place, Place::B2 { .. });
    let make = make.map(|make| -> Make {
        let context = context.clone();
        Box::new(move || Ok(make()?.with_context(context.clone())))
    });
    let handle = Handle::new(operator.with_context(context), make);
    let inner = Inner {
        identity,
        lists_in_order,
        looks_loosely: is_b2,
        // Where nobody says how many, B2 gives a hundred.
        page: is_b2.then_some(PAGE_MOST),
        is_conditional: capability.write_with_if_not_exists && !moves,
        moves,
        is_unproven: true,
        lock_kit,
        lock_mode,
        runtime: Arc::new(std::sync::OnceLock::from(runtime)),
        ..Inner::sharing(handle, line)
    };
    Ok(Store::of(inner))
}

/// The mode that object locks shall have, if anybody says so.
#[cfg(feature = "http")]
fn take_lock_mode(
    settings: &mut Settings,
    shown: &str,
) -> Result<Option<super::LockMode>, StoreError> {
    let Some(mode) = settings.remove(super::location::OBJECT_LOCK_MODE) else { return Ok(None) };
    mode.parse().map(Some).map_err(|()| {
        let reason = "-o object-lock-mode is governance or compliance";
        StoreError::new(Kind::Invalid, shown, reason)
    })
}

/// Settings that say which store it is, whoever gave them. None of them is a secret.
#[cfg(feature = "http")]
const IDENTIFYING: [&str; 9] = [
    "account_name",
    "bucket",
    "bucket_id",
    "container",
    "endpoint",
    "filesystem",
    "root",
    "share_name",
    "username",
];

/// The location, and what tells two stores apart that have the same one.
#[cfg(feature = "http")]
fn identity(shown: &str, settings: &Settings) -> String {
    let mut identity = shown.to_string();
    for key in IDENTIFYING {
        let Some(value) = settings.get(key) else { continue };
        let value = match key {
            // Nobody keeps the environment from having a password there.
            "endpoint" => value.rsplit('@').next().unwrap_or_default(),
            _ => value.as_str(),
        };
        identity.push_str(&format!(" {key}={value}"));
    }
    identity
}

/// Whether whoever runs the service says that its listings are sorted by name, folders and all. Other servers speak the
/// same languages and promise less; what is listed by S3's directory buckets (whose names end so) is not sorted.
#[cfg(feature = "http")]
fn is_known_to_list_in_order(place: &Place, settings: &Settings) -> bool {
    let host = settings.get("endpoint").map(|endpoint| host_of(endpoint));
    let is_in = |domains: &[&str]| {
        host.is_none_or(|host| domains.iter().any(|domain| host.ends_with(domain)))
    };
    match place {
        Place::S3 { bucket, .. } => {
            is_in(&[".amazonaws.com", ".amazonaws.com.cn"]) && !bucket.ends_with("--x-s3")
        }
        Place::Azblob { .. } => is_in(&[".blob.core.windows.net"]),
        Place::Gcs { .. } => is_in(&[".googleapis.com"]),
        Place::B2 { .. } => is_in(&[".backblazeb2.com"]),
        _ => false,
    }
}

#[cfg(feature = "http")]
fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.split(':').next().unwrap_or_default()
}

#[cfg(feature = "http")]
fn build<B: Builder>(settings: Settings) -> opendal::Result<Operator> {
    Operator::new(B::Config::from_iter(settings)?.into_builder())
}

/// Services that only their OpenDAL name says; `None`: not in this build.
#[cfg(all(feature = "http", feature = "all-stores"))]
fn build_other(scheme: &str, settings: Settings) -> Option<opendal::Result<Operator>> {
    use opendal::services;
    Some(match scheme {
        "azdls" => build::<services::Azdls>(settings),
        "azfile" => build::<services::Azfile>(settings),
        "cos" => build::<services::Cos>(settings),
        "dropbox" => build::<services::Dropbox>(settings),
        "gdrive" => build::<services::Gdrive>(settings),
        "obs" => build::<services::Obs>(settings),
        "onedrive" => build::<services::Onedrive>(settings),
        "oss" => build::<services::Oss>(settings),
        "pcloud" => build::<services::Pcloud>(settings),
        "swift" => build::<services::Swift>(settings),
        "webhdfs" => build::<services::Webhdfs>(settings),
        "yandex-disk" => build::<services::YandexDisk>(settings),
        _ => return None,
    })
}

#[cfg(all(feature = "http", not(feature = "all-stores")))]
fn build_other(_: &str, _: Settings) -> Option<opendal::Result<Operator>> {
    None
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn only_those_who_promise_it_are_known_to_list_in_order() {
        for (place, endpoint, is_known) in [
            ("s3://bucket", None, true),
            ("s3://bucket", Some("https://s3.eu-west-1.amazonaws.com"), true),
            ("s3://bucket", Some("https://s3.cn-north-1.amazonaws.com.cn:443/"), true),
            ("s3://bucket--x-s3", None, false),
            ("s3://bucket", Some("http://127.0.0.1:9000"), false),
            ("s3://bucket", Some("https://s3.amazonaws.com@evil.example"), false),
            ("s3://bucket", Some("https://s3.example/.amazonaws.com"), false),
            ("azblob://container", None, true),
            ("azblob://container", Some("https://me.blob.core.windows.net"), true),
            ("azblob://container", Some("http://127.0.0.1:10000/me"), false),
            ("gcs://bucket", None, true),
            ("gcs://bucket", Some("http://127.0.0.1:4443"), false),
            ("b2://bucket", None, true),
            ("b2+http://127.0.0.1:1/bucket", Some("http://127.0.0.1:1"), false),
            ("webdav+https://host/a", Some("https://host"), false),
        ] {
            let location = Location::parse(std::ffi::OsStr::new(place), &[]).unwrap();
            let settings =
                endpoint.map_or(Settings::new(), |endpoint| settings(&[("endpoint", endpoint)]));
            let known = is_known_to_list_in_order(&location.place, &settings);
            assert_eq!(known, is_known, "{place} {endpoint:?}");
        }
    }

    #[test]
    fn what_the_environment_says_tells_stores_apart_and_no_secret_is_kept() {
        let of = |pairs: &[(&str, &str)]| identity("azblob://container", &settings(pairs));
        assert_ne!(of(&[("account_name", "mine")]), of(&[("account_name", "yours")]));
        assert_ne!(of(&[("endpoint", "https://a")]), of(&[]));
        let secrets = [
            ("account_key", "hunter2"),
            ("endpoint", "https://me:hunter2@host"),
            ("account_name", "me"),
        ];
        assert_eq!(of(&secrets), "azblob://container account_name=me endpoint=host");
    }
}
