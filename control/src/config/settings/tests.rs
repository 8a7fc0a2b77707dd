use std::time::Duration;

use ferry_core::LinkKind;
use ferry_rdma::Fence;

use super::*;
use crate::models::ModelControl;

fn parse(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
}

#[test]
fn the_command_line_wins_and_the_rest_is_the_default() {
    let file = parse("listen = '0.0.0.0:1'\nqueue = 7\nlease-seconds = 0.5").unwrap();
    let cli = Settings { listen: Some("127.0.0.1:0".into()), ..Settings::default() };
    let config = cli.over(file).unwrap();
    assert_eq!(config.listen, "127.0.0.1:0");
    assert_eq!((config.queue, config.lease), (7, Duration::from_millis(500)));
    assert_eq!(config.lanes, Config::default().lanes);
    assert_eq!(config.data_host(), "127.0.0.1");
}

#[test]
fn unknown_keys_are_refused_with_the_known_ones() {
    let error = parse("lissen = 'x'").unwrap_err();
    assert!(error.contains("lissen") && error.contains("`listen`"), "{error}");
    let error = parse("[tenants.a]\nkey = 'k'\nquota = 3").unwrap_err();
    assert!(error.contains("quota-slots"), "{error}");
}

#[test]
fn values_without_a_meaning_are_named() {
    for text in [
        "listen = '7077'",
        "http = ':8000'",
        "metrics = '9000'",
        "queue = 0",
        "lease-seconds = 0",
        "lease-seconds = -1.0",
        "[tenants.a]\nkey = ''",
        // Whoever sends no key would be the operator; or a tenant; or nobody ever.
        "operator-key = ''",
        "operator-key = 'k'\n[tenants.a]\nkey = 'k'",
        "operator-key = \"k\\n\"",
        "[tenants.a]\nkey = \"k\\n\"",
        "connections-max = 0",
        "model-control = 'all'",
        "model-poll-seconds = 1",
        "model-control = 'poll'\nmodel-poll-seconds = 0.01",
        "model-control = 'poll'\nmodel-poll-seconds = nan",
        "model-control = 'poll'\nload-model = ['a']",
        "load-model = ['a']",
        "model-control = 'explicit'\nload-model = ['../a']",
        "body-seconds = -1.0",
        "[tenants.a]\nkey = 'k'\n[tenants.b]\nkey = 'k'",
    ] {
        let error = Settings::default().over(parse(text).unwrap()).unwrap_err();
        assert!(matches!(error, ConfigError::Value { .. }), "{text}: {error}");
    }
}

#[test]
fn engines_are_kept_where_the_user_keeps_what_can_be_made_again() {
    let folder = |set: [(&str, &str); 2]| {
        let set = std::collections::HashMap::from(set);
        values::engine_cache(|name| set.get(name).map(Into::into))
    };
    let [xdg, home] = ["XDG_CACHE_HOME", "HOME"];
    assert_eq!(folder([(xdg, "/x"), (home, "/h")]), Some("/x/ferry/engines".into()));
    assert_eq!(folder([(xdg, "relative"), (home, "/h")]), Some("/h/.cache/ferry/engines".into()));
    assert_eq!(folder([(xdg, ""), (home, "")]), None);
    let file = parse("engine-cache = '/e'\nengine-cache-bytes-max = 5\ntensorrt = '/t'").unwrap();
    let config = Settings::default().over(file).unwrap();
    assert_eq!((config.engine_cache, config.engine_cache_bytes_max), (Some("/e".into()), 5));
    assert_eq!(config.tensorrt, Some("/t".into()));
}

#[test]
fn tenants_inherit_the_quotas_that_they_do_not_name() {
    let file = "quota-slots = 9\n[tenants.a]\nkey = 'k'\nquota-sessions = 3";
    let config = Settings::default().over(parse(file).unwrap()).unwrap();
    let tenant = &config.tenants[0];
    assert_eq!((tenant.quota.sessions, tenant.quota.slots), (3, 9));
}

#[test]
fn folders_of_cuda_libraries_are_a_list_in_both() {
    let file = || parse("cuda-libraries = ['/a', '/b']").unwrap();
    let config = Settings::default().over(file()).unwrap();
    assert_eq!(config.cuda_libraries.explicit, [Path::new("/a"), Path::new("/b")]);
    let cli = Settings { cuda_libraries: Some(vec!["/c".into()]), ..Settings::default() };
    assert_eq!(cli.over(file()).unwrap().cuda_libraries.explicit, [Path::new("/c")]);
}

#[test]
fn rdma_is_set_by_file_and_command_line() {
    let file = parse("lanes.rdma = 3\nrdma-device = 'mlx5_0'\nrdma-gid-index = 4").unwrap();
    let cli = Settings {
        rdma_device: Some("rxe0".into()),
        rdma_fence: Some("window".into()),
        ..Settings::default()
    };
    let config = cli.over(file).unwrap();
    let expected = RdmaOptions {
        device: Some("rxe0".into()),
        gid_index: Some(4),
        fence: Fence::Window,
        ..RdmaOptions::default()
    };
    assert_eq!((config.lanes.of(LinkKind::Rdma), config.rdma), (Some(3), expected));
    for (name, fence) in [("auto", Fence::Auto), ("registration", Fence::Registration)] {
        let file = parse(&format!("rdma-fence = '{name}'")).unwrap();
        assert_eq!(Settings::default().over(file).unwrap().rdma.fence, fence);
    }
    let base = Settings::default().over(Settings::default()).unwrap();
    assert_eq!((base.lanes.of(LinkKind::Rdma), base.rdma), (None, RdmaOptions::default()));
}

#[test]
fn what_rdma_does_not_have_is_named() {
    let wrong = |text| Settings::default().over(parse(text).unwrap()).unwrap_err().to_string();
    let fence = wrong("rdma-fence = 'wall'");
    assert!(fence.contains("wall") && fence.contains("registration"), "{fence}");
    assert!(parse("rdma-gid-index = 256").is_err(), "a table has no such entry");
}

#[test]
fn who_is_warned_that_everybody_is_an_operator() {
    let open = |text: &str| {
        Settings::default().over(parse(text).unwrap()).unwrap().open_to_others().is_some()
    };
    assert!(open("listen = '0.0.0.0:1'") && open("listen = 'somewhere:1'"));
    assert!(open("metrics = '0.0.0.0:1'"));
    for closed in ["127.0.0.1:1", "localhost:1", "[::1]:1"] {
        assert!(!open(&format!("listen = '{closed}'")), "{closed}");
    }
    assert!(!open("listen = '0.0.0.0:1'\noperator-key = 'k'"));
}

#[test]
fn models_are_loaded_by_calls_by_what_lies_in_the_folder_or_by_name() {
    let control = |text| Settings::default().over(parse(text).unwrap()).unwrap().model_control;
    assert_eq!(control(""), ModelControl::None);
    assert_eq!(control("model-control = 'poll'"), ModelControl::Poll(Duration::from_secs(15)));
    let names = vec!["a".to_owned(), "*".to_owned()];
    let text = "model-control = 'explicit'\nload-model = ['a', '*']";
    assert_eq!(control(text), ModelControl::Explicit(names));
}
