use std::ffi::OsStr;

use super::*;

fn parse(text: &str) -> Result<Location> {
    Location::parse(OsStr::new(text), &[])
}

#[test]
fn places_that_are_one_or_in_each_other_are_told_from_those_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Location::local(folder.path().join(name));
    std::fs::create_dir(folder.path().join("cold")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("cold"), folder.path().join("link")).unwrap();
    for (one, other, overlap) in [
        ("cold", "cold", true),
        ("cold", "cold/hot", true),
        ("link/hot", "cold", true),
        ("link/a/b", "cold/a", true),
        ("cold", "cold-hot", false),
        ("link/a", "cold/b", false),
    ] {
        assert_eq!(at(one).overlaps(&at(other)), overlap, "{one} {other}");
        assert_eq!(at(other).overlaps(&at(one)), overlap, "{other} {one}");
    }
    for (one, other, overlap) in [
        ("s3://bucket", "s3://bucket", true),
        ("s3://bucket", "s3://bucket/hot", true),
        ("s3://bucket/a", "s3://bucket/a/b", true),
        ("s3://bucket/a", "s3://bucket/ab", false),
        ("s3://bucket/hot", "s3://bucket/cold", false),
        ("s3://bucket", "s3://bucket-hot", false),
        ("s3://bucket", "gcs://bucket/hot", false),
        ("s3://bucket", "/bucket/hot", false),
    ] {
        let (one, other) = (parse(one).unwrap(), parse(other).unwrap());
        assert_eq!(one.overlaps(&other), overlap, "{one} {other}");
        assert_eq!(other.overlaps(&one), overlap, "{other} {one}");
    }
}

#[test]
fn places_are_understood_and_printed_again() {
    for (text, sort, printed) in [
        ("/srv/backup", "local", "/srv/backup"),
        ("./a:b", "local", "./a:b"),
        ("name:with-colon", "local", "name:with-colon"),
        ("local:s3://x", "local", "s3://x"),
        ("file:///srv/x", "local", "/srv/x"),
        ("memory:", "memory", "memory:"),
        ("s3://bucket", "s3", "s3://bucket"),
        ("s3://bucket/", "s3", "s3://bucket"),
        ("s3://bucket/a/b/", "s3", "s3://bucket/a/b"),
        ("s3+http://127.0.0.1:9000/bucket/a", "s3", "s3+http://127.0.0.1:9000/bucket/a"),
        ("s3+https://[::1]:9000/bucket", "s3", "s3+https://[::1]:9000/bucket"),
        ("s3+https://host/bucket/who@home", "s3", "s3+https://host/bucket/who@home"),
        ("azblob://container/a", "azblob", "azblob://container/a"),
        ("azblob+http://127.0.0.1:1/acc/con", "azblob", "azblob+http://127.0.0.1:1/acc/con"),
        ("azblob+http://h/acc/con/p/q", "azblob", "azblob+http://h/acc/con/p/q"),
        ("gcs://bucket/a", "gcs", "gcs://bucket/a"),
        ("gcs+http://h:1/bucket/a", "gcs", "gcs+http://h:1/bucket/a"),
        ("b2://bucket/a", "b2", "b2://bucket/a"),
        ("b2+http://h:1/bucket/a", "b2", "b2+http://h:1/bucket/a"),
        ("webdav+https://host/a b/", "webdav", "webdav+https://host/a b"),
        ("webdav+http://host:80", "webdav", "webdav+http://host:80"),
        ("sftp://me@host:22/srv/x", "sftp", "sftp://me@host:22/srv/x"),
        ("sftp://host/~/x", "sftp", "sftp://host/~/x"),
        ("sftp://host:22/a@b", "sftp", "sftp://host:22/a@b"),
        ("sftp://[fe80::1]/x", "sftp", "sftp://[fe80::1]/x"),
        ("opendal:ftp:backup", "opendal", "opendal:ftp:backup"),
        ("opendal:oss", "opendal", "opendal:oss:"),
    ] {
        let location = parse(text).expect(text);
        assert_eq!(
            (location.place.sort(), location.to_string().as_str()),
            (sort, printed),
            "{text}"
        );
        // What is printed is the same place, but for those that only `local:` can name.
        if text != "local:s3://x" {
            assert_eq!(parse(printed), Ok(location), "{text}");
        }
    }
}

#[test]
fn a_home_and_a_root_are_told_apart() {
    let path = |text: &str| match parse(text).unwrap().place {
        Place::Sftp { path, .. } => Some(path),
        _ => None,
    };
    assert_eq!(path("sftp://h/~/a/b").as_deref(), Some("a/b"));
    assert_eq!(path("sftp://h/a/b/").as_deref(), Some("/a/b"));
}

#[test]
fn what_cannot_be_a_place_is_refused_with_what_to_type() {
    for (text, message, hint) in [
        ("", "empty", "s3://"),
        ("local:", "empty", "s3://"),
        ("s3:host/bucket", "not how the place is written", "s3://BUCKET/PREFIX"),
        ("b2:bucket:x", "not how the place is written", "b2://"),
        ("sftp:me@host:/x", "not how the place is written", "sftp://"),
        ("rest:http://host/", "rest storage is not possible", "sftp://"),
        ("rclone:remote:x", "rclone storage is not possible", "sftp://"),
        ("https://host/x", "https:// is not known", "webdav+https://"),
        ("webdav://host/x", "does not say how", "webdav+https://"),
        ("s3+ftp://host/b", "s3+ftp:// is not known", "s3+https://"),
        ("b2+ftp://host/b", "b2+ftp:// is not known", "b2+https://"),
        ("b2+https://host", "names no bucket", "/BUCKET/PREFIX"),
        ("s3://", "first part is empty", "HOST"),
        ("s3+https://host", "names no bucket", "/BUCKET/PREFIX"),
        ("s3://host:9000/bucket", "has no port", "s3+https://"),
        ("azblob+http://host/acc", "lacks the account or the container", "/ACCOUNT/CONTAINER"),
        ("s3+http://host:x/b", "the port is no number", "HOST:PORT"),
        ("s3+http://host:0/b", "the port is no number", "HOST:PORT"),
        ("s3+http://[::1/b", "does not end", "HOST:PORT"),
        ("s3://b/../c", "leads elsewhere", "without .."),
        ("s3://b/a//c", "empty part", "double slashes"),
        ("s3://b/a?region=x", "a ? in it", "-o KEY=VALUE"),
        ("s3://b/a#x", "a # in it", "-o KEY=VALUE"),
        ("s3://key@bucket/a", "no user is named", "AWS_ACCESS_KEY_ID"),
        ("webdav+https://me@host/a", "no user is named", "WEBDAV_USERNAME"),
        ("webdav+https://host/a%20b", "a % in it", "as they are"),
        ("sftp://-oProxyCommand=x/a", "begins with -", "USER@HOST"),
        ("sftp://host", "names no folder", "USER@HOST/PATH"),
        ("opendal:", "does not name a service", "opendal:SCHEME:ROOT"),
        ("opendal:ftp://me:x@host", "not an address", "-o KEY=VALUE"),
        ("gopher://x", "gopher:// is not known", "s3://"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {}", error.message);
        assert!(error.hint.contains(hint), "{text}: {}", error.hint);
    }
}

#[test]
fn a_password_is_refused_and_not_repeated() {
    for text in [
        "s3://AKIA:hunter2@bucket/a",
        "s3+https://user:hunter2@host/bucket",
        "webdav+https://me:hun@ter2@host/a",
        "webdav+https://me:hunter2/x@host/a",
        "webdav+https://me:123/hunter2@host/a",
        "s3+https://me:123/hunter2@host/bucket",
        "azblob+http://me:123/hunter2@host/acc/con",
        "sftp://me:hunter2@host/a",
        "azblob+http://a:hunter2@host/acc/con",
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains("password"), "{text}: {}", error.message);
        let told = format!("{error:?} {error}");
        assert!(!told.contains("hunter2") && !told.contains("ter2"), "{told}");
        assert!(error.hint.contains("leave it out"), "{}", error.hint);
    }
}

#[test]
fn what_may_be_a_password_is_not_repeated_by_any_refusal() {
    for text in [
        "webdav+https://me:hunter2",
        "webdav+https://me:hunter2/a",
        "s3+https://me:hunter2/bucket",
        "s3://me:hunter2",
        "sftp://me:hunter2/a",
        "s3+http://[hunter2/bucket",
        "s3+http://[::1]hunter2/bucket",
        "s3+http://me:99hunter2?x/bucket",
        "s3+http://me:12345",
    ] {
        let error = parse(text).expect_err(text);
        let told = format!("{error:?} {error}");
        assert!(!told.contains("hunter2") && !told.contains("12345"), "{told}");
    }
}

#[test]
fn options_have_our_names_and_secrets_are_none() {
    let with = |place: &str, option: &str| {
        Location::parse(OsStr::new(place), &[option.to_string()])
            .map(|location| location.options.into_iter().next().unwrap())
    };
    let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
    assert_eq!(with("s3://b", "region=eu-west-1"), Ok(pair("region", "eu-west-1")));
    assert_eq!(with("s3://b", "Virtual-Host=true"), Ok(pair("enable_virtual_host_style", "true")));
    assert_eq!(with("gcs://b", "credential-path=/x=y"), Ok(pair("credential_path", "/x=y")));
    assert_eq!(with("s3://b", "lists-in-order=true"), Ok(pair("lists_in_order", "true")));
    assert_eq!(with("b2://b", "bucket-id=1"), Ok(pair("bucket_id", "1")));
    assert_eq!(with("opendal:oss:x", "endpoint=https://x"), Ok(pair("endpoint", "https://x")));
    assert_eq!(
        with("opendal:oss:x", "access-key-id=I"),
        Ok(pair("access_key_id", "I")),
        "a name is no secret"
    );
    for (place, option) in [
        ("s3://b", "secret-access-key=hunter2"),
        ("opendal:oss:x", "access_key_secret=hunter2"),
        ("opendal:ftp:x", "password=hunter2"),
        ("azblob://c", "account_key=hunter2"),
        ("azblob://c", "sas_token=hunter2"),
        ("b2://b", "application_key=hunter2"),
        ("gcs://b", "credential=hunter2"),
        ("opendal:webhdfs:x", "delegation=hunter2"),
    ] {
        let error = with(place, option).expect_err(option);
        assert!(error.message.contains("secret"), "{option}: {}", error.message);
        assert!(error.hint.contains("AUMBRY_STORE_"), "{}", error.hint);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    assert!(with("s3://b", "colour=red").unwrap_err().hint.contains("region"));
    assert!(with("/srv", "region=x").unwrap_err().hint.contains("no options"));
    assert!(with("s3://b", "region").unwrap_err().message.contains("no ="));
}

#[test]
fn what_to_type_instead_names_what_the_place_goes_by() {
    let option = ["token=hunter2".to_string()];
    let said = Said { option: "--to-option", variables: "AUMBRY_TO_2_STORE_" };
    let place = OsStr::new("webdav+https://host/path");
    let error = Location::parse_said(place, &option, &said).unwrap_err();
    assert!(error.message.starts_with("--to-option token: a secret"), "{}", error.message);
    assert_eq!(error.hint, "set AUMBRY_TO_2_STORE_TOKEN in the environment instead");
    let error = Location::parse_said(place, &["token".to_string()], &said).unwrap_err();
    assert!(error.hint.starts_with("write --to-option KEY=VALUE"), "{}", error.hint);
}
