//! What the environment says about a store: accounts, keys, tokens, each under the names that its ecosystem has for them.

use std::collections::BTreeMap;

use aumbry::store::location::Location;
use aumbry::store::location::Place;
use zeroize::Zeroizing;

use crate::environment::Surroundings;
use crate::failure::Failure;

/// What begins so is handed to any service, by what follows: AUMBRY_STORE_PASSWORD is its `password`.
const PREFIX: &str = "AUMBRY_STORE_";
/// What follows the name's beginning where a variable of another store is handed to the service.
const STORE: &str = "STORE_";
/// What the variables of the first other store have in front.
const OTHER: &str = "AUMBRY_TO_";
/// What those of a hot store have in front.
const HOT: &str = "AUMBRY_HOT_";

/// Settings of a store, under OpenDAL's names.
pub type StoreSettings = BTreeMap<String, Zeroizing<String>>;

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

/// What OpenDAL reads by itself, and has to be told for a second store.
fn read_by_opendal(place: &Place) -> &'static [(&'static str, &'static [&'static str])] {
    match place {
        Place::S3 { .. } => &[
            ("access_key_id", &["AWS_ACCESS_KEY_ID"]),
            ("secret_access_key", &["AWS_SECRET_ACCESS_KEY"]),
            ("session_token", &["AWS_SESSION_TOKEN"]),
        ],
        Place::Gcs { .. } => &[("credential_path", &["GOOGLE_APPLICATION_CREDENTIALS"])],
        _ => &[],
    }
}

/// What OpenDAL would take for a second store, too.
struct Inherited {
    /// If one of these is set,
    variables: &'static [&'static str],
    /// unless all settings of one of these groups are there.
    unless: &'static [&'static [&'static str]],
    /// What to set, with what the store's variables have in front of it.
    instead: &'static [&'static str],
}

fn inherited(place: &Place) -> Option<Inherited> {
    match place {
        Place::S3 { .. } => Some(Inherited {
            variables: &["AWS_ACCESS_KEY_ID"],
            unless: &[&["access_key_id", "secret_access_key"]],
            instead: &["AWS_ACCESS_KEY_ID", "and", "AWS_SECRET_ACCESS_KEY"],
        }),
        Place::Azblob { .. } => Some(Inherited {
            variables: &[
                "AZURE_STORAGE_ACCOUNT_KEY",
                "AZURE_STORAGE_SAS_TOKEN",
                "AZURE_STORAGE_BEARER_TOKEN",
            ],
            unless: &[&["account_key"], &["sas_token"]],
            instead: &["AZURE_STORAGE_ACCOUNT_KEY", "or", "AZURE_STORAGE_SAS_TOKEN"],
        }),
        Place::Gcs { .. } => Some(Inherited {
            variables: &["GOOGLE_APPLICATION_CREDENTIALS"],
            unless: &[&["credential_path"], &["credential"], &["token"]],
            instead: &["GOOGLE_APPLICATION_CREDENTIALS"],
        }),
        _ => None,
    }
}

/// The variables of this process, or those of a test.
struct Variables<'v> {
    /// The value of one that is set.
    value: &'v dyn Fn(&str) -> Result<Option<String>, Failure>,
    /// The names of those that begin so.
    beginning: &'v dyn Fn(&str) -> Vec<String>,
}

impl Variables<'_> {
    /// The first of each setting's names that is set, with this in front of them.
    fn named(&self, prefix: &str, table: &[(&str, &[&str])]) -> Result<StoreSettings, Failure> {
        let mut settings = StoreSettings::new();
        for (key, names) in table {
            for name in *names {
                if let Some(value) = (self.value)(&format!("{prefix}{name}"))? {
                    settings.insert(key.to_string(), Zeroizing::new(value));
                    break;
                }
            }
        }
        Ok(settings)
    }

    /// All that begin so, as settings of what follows.
    fn following(&self, prefix: &str) -> Result<StoreSettings, Failure> {
        let mut settings = StoreSettings::new();
        for name in (self.beginning)(prefix) {
            if let Some(value) = (self.value)(&name)? {
                let key = name[prefix.len()..].to_ascii_lowercase();
                settings.insert(key, Zeroizing::new(value));
            }
        }
        Ok(settings)
    }

    fn of_first(&self, place: &Place) -> Result<StoreSettings, Failure> {
        let mut settings = self.named("", variables(place))?;
        settings.extend(self.following(PREFIX)?);
        Ok(settings)
    }

    /// Of a store beside those at `earlier` places, whose variables have `front` in front.
    fn of_other(
        &self,
        location: &Location,
        front: &str,
        earlier: &[&Place],
    ) -> Result<StoreSettings, Failure> {
        let place = &location.place;
        let is_alike = earlier.iter().any(|other| place.sort() == other.sort());
        let mut settings = match is_alike {
            true => StoreSettings::new(),
            false => self.named("", variables(place))?,
        };
        settings.extend(self.own(place, front)?);
        let Some(inherited) = inherited(place).filter(|_| is_alike) else { return Ok(settings) };
        let is_said =
            |key: &&str| settings.contains_key(*key) || location.options.contains_key(*key);
        if inherited.unless.iter().any(|group| group.iter().all(is_said)) {
            return Ok(settings);
        }
        for name in inherited.variables {
            if (self.value)(name)?.is_some() {
                let which = if earlier.len() == 1 { "second" } else { "next" };
                let message =
                    format!("{name} opens the first store, and is not handed to the {which}");
                let word = |word: &&str| match word.contains('_') {
                    true => format!("{front}{word}"),
                    false => word.to_string(),
                };
                let instead: Vec<_> = inherited.instead.iter().map(word).collect();
                return Err(Failure::failed(message)
                    .hint(format!("set {}; they may be the same", instead.join(" "))));
            }
        }
        Ok(settings)
    }

    /// What is said of a store by variables that have `prefix` in front.
    fn own(&self, place: &Place, prefix: &str) -> Result<StoreSettings, Failure> {
        let mut settings = self.named(prefix, variables(place))?;
        settings.extend(self.named(prefix, read_by_opendal(place))?);
        settings.extend(self.following(&format!("{prefix}{STORE}"))?);
        Ok(settings)
    }

    /// Of the hot one of two stores. Whoever runs both may see what opens either: where they are of one service, its
    /// variables count for both.
    fn of_hot(&self, location: &Location, cold: &Location) -> Result<StoreSettings, Failure> {
        if !is_one_service(location, cold) {
            return self.of_other(location, HOT, &[&cold.place]);
        }
        let mut settings = self.named("", variables(&location.place))?;
        // It is one bucket's.
        settings.remove("bucket_id");
        settings.extend(self.own(&location.place, HOT)?);
        Ok(settings)
    }
}

/// Whether the same people run both stores, as far as their places tell.
fn is_one_service(one: &Location, other: &Location) -> bool {
    let says_where = |location: &Location| location.options.contains_key("endpoint");
    if says_where(one) || says_where(other) {
        return false;
    }
    match (&one.place, &other.place) {
        (Place::S3 { endpoint: one, .. }, Place::S3 { endpoint: other, .. })
        | (Place::Gcs { endpoint: one, .. }, Place::Gcs { endpoint: other, .. }) => one == other,
        (Place::Azblob { endpoint: one, .. }, Place::Azblob { endpoint: other, .. }) => {
            one == other
        }
        (Place::Webdav { endpoint: one, .. }, Place::Webdav { endpoint: other, .. }) => {
            one == other
        }
        (Place::B2 { .. }, Place::B2 { .. }) => true,
        _ => false,
    }
}

/// What the variables of the other store with this number, from 1, have in front of their names.
pub fn in_front(number: usize) -> String {
    match number {
        1 => OTHER.to_string(),
        number => format!("{OTHER}{number}_"),
    }
}

/// What the variables of its settings begin with.
pub fn settings_in_front(number: usize) -> String {
    format!("{}{STORE}", in_front(number))
}

/// What the environment says about the store at a place.
pub fn store_settings(
    place: &Place,
    surroundings: &Surroundings,
) -> Result<StoreSettings, Failure> {
    let value = |name: &str| surroundings.text_variable(name);
    let beginning = |prefix: &str| surroundings.variables_with(prefix);
    Variables { value: &value, beginning: &beginning }.of_first(place)
}

/// What it says about another store, with its number from 1, beside those at `earlier` places. What opens those is not for
/// whoever runs this one: what is meant for it has AUMBRY_TO_ in front of its name, or AUMBRY_TO_2_ for the second. An
/// ecosystem's own variables count for the first store of their sort.
pub fn other_store_settings(
    location: &Location,
    number: usize,
    earlier: &[&Place],
    surroundings: &Surroundings,
) -> Result<StoreSettings, Failure> {
    let value = |name: &str| surroundings.text_variable(name);
    let beginning = |prefix: &str| surroundings.variables_with(prefix);
    let variables = Variables { value: &value, beginning: &beginning };
    variables.of_other(location, &in_front(number), earlier)
}

/// What it says about the hot store beside a cold one: by variables with AUMBRY_HOT_ in front of their names.
pub fn hot_store_settings(
    location: &Location,
    cold: &Location,
    surroundings: &Surroundings,
) -> Result<StoreSettings, Failure> {
    let value = |name: &str| surroundings.text_variable(name);
    let beginning = |prefix: &str| surroundings.variables_with(prefix);
    Variables { value: &value, beginning: &beginning }.of_hot(location, cold)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn at(place: &str) -> Location {
        Location::parse(OsStr::new(place), &[]).unwrap()
    }

    /// What a second store at a place beside a first one is told: `None`, it is refused.
    fn told(first: &str, second: &str, set: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        told_beside(&[first], second, set).ok()
    }

    /// The same of the last of several, or what is said instead.
    fn told_beside(
        earlier: &[&str],
        last: &str,
        set: &[(&str, &str)],
    ) -> Result<Vec<(String, String)>, String> {
        let earlier: Vec<_> = earlier.iter().map(|place| at(place).place).collect();
        let front = in_front(earlier.len());
        let earlier: Vec<_> = earlier.iter().collect();
        told_by(set, |variables| variables.of_other(&at(last), &front, &earlier))
    }

    fn told_by(
        set: &[(&str, &str)],
        ask: impl Fn(&Variables<'_>) -> Result<StoreSettings, Failure>,
    ) -> Result<Vec<(String, String)>, String> {
        let value = |name: &str| -> Result<Option<String>, Failure> {
            let found = set.iter().find(|(other, _)| *other == name);
            Ok(found.map(|(_, value)| value.to_string()))
        };
        let beginning = |prefix: &str| -> Vec<String> {
            let names = set.iter().map(|(name, _)| name.to_string());
            names.filter(|name| name.starts_with(prefix)).collect()
        };
        let variables = Variables { value: &value, beginning: &beginning };
        let settings = ask(&variables).map_err(|failure| format!("{failure:?}"))?;
        Ok(settings.into_iter().map(|(key, value)| (key, value.to_string())).collect())
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_string(), value.to_string())
    }

    #[test]
    fn a_second_store_is_not_handed_what_opens_the_first() {
        let (one, other) = ("webdav+https://one.example/a", "webdav+https://other.example/b");
        let set = [
            ("WEBDAV_USERNAME", "me"),
            ("WEBDAV_PASSWORD", "first"),
            ("AUMBRY_STORE_TOKEN", "first"),
            ("AUMBRY_TO_WEBDAV_PASSWORD", "second"),
            ("AUMBRY_TO_STORE_USERNAME", "you"),
        ];
        let second = [pair("password", "second"), pair("username", "you")];
        assert_eq!(told(one, other, &set), Some(second.to_vec()));
        // Beside another sort of store, they can only be meant for this one.
        let only = [pair("password", "first"), pair("username", "me")];
        assert_eq!(told("s3://bucket/a", other, &set[..3]), Some(only.to_vec()));
    }

    #[test]
    fn what_opendal_would_take_by_itself_is_told_or_refused() {
        let (one, other) = ("s3://one/a", "s3+https://other.example/two/b");
        let mut set = vec![("AWS_ACCESS_KEY_ID", "first"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        assert_eq!(told(one, other, &set), None);
        assert_eq!(told("/folder", other, &set), Some(Vec::new()));
        set.extend([
            ("AUMBRY_TO_AWS_ACCESS_KEY_ID", "second"),
            ("AUMBRY_TO_AWS_SECRET_ACCESS_KEY", "another"),
        ]);
        let second = [pair("access_key_id", "second"), pair("secret_access_key", "another")];
        assert_eq!(told(one, other, &set), Some(second.to_vec()));
    }

    #[test]
    fn a_hot_store_of_the_same_service_is_opened_by_what_opens_the_cold_one() {
        let hot = |hot: &str, cold: &str, set: &[(&str, &str)]| {
            told_by(set, |variables| variables.of_hot(&at(hot), &at(cold)))
        };
        let set = [("B2_APPLICATION_KEY_ID", "me"), ("B2_BUCKET_ID", "cold")];
        assert_eq!(hot("b2://hot", "b2://cold", &set), Ok(vec![pair("application_key_id", "me")]));
        let set = [("AWS_ACCESS_KEY_ID", "me"), ("AUMBRY_STORE_DEFAULT_STORAGE_CLASS", "GLACIER")];
        assert_eq!(hot("s3://hot", "s3://cold", &set), Ok(Vec::new()));
        let refused = hot("s3+https://other.example/hot", "s3://cold", &set).unwrap_err();
        assert!(
            refused.contains("set AUMBRY_HOT_AWS_ACCESS_KEY_ID and AUMBRY_HOT_AWS"),
            "{refused}"
        );
        let set = [set[0], ("AUMBRY_HOT_AWS_REGION", "eu-west-1")];
        assert_eq!(hot("s3://hot", "s3://cold", &set), Ok(vec![pair("region", "eu-west-1")]));
    }

    #[test]
    fn each_further_store_has_variables_with_its_number() {
        let set = [
            ("WEBDAV_PASSWORD", "own"),
            ("AUMBRY_TO_WEBDAV_PASSWORD", "first"),
            ("AUMBRY_TO_2_WEBDAV_PASSWORD", "second"),
            ("AUMBRY_TO_2_STORE_USERNAME", "you"),
            ("AWS_ACCESS_KEY_ID", "own"),
        ];
        let [one, two, three] =
            ["a", "b", "c"].map(|path| format!("webdav+https://one.example/{path}"));
        let second = [pair("password", "second"), pair("username", "you")];
        assert_eq!(told_beside(&[&one, &two], &three, &set), Ok(second.to_vec()));
        // The second of its sort is not handed what is for the first of it, though the repository is of another.
        let of_first = told_beside(&["/folder"], &one, &set[..1]);
        assert_eq!(of_first, Ok(vec![pair("password", "own")]));
        assert_eq!(told_beside(&["/folder", &one], &two, &set[..1]), Ok(Vec::new()));
        let refused = told_beside(&["s3://a", "/folder"], "s3://b", &set).unwrap_err();
        assert!(refused.contains("AUMBRY_TO_2_AWS_ACCESS_KEY_ID and AUMBRY_TO_2_AWS"), "{refused}");
    }
}
