//! Single files, each read by the program that it is for.

use std::process::Command;

use tempfile::TempDir;
use testkit::skip;

use crate::chart::check_configuration;
use crate::tools::{binary, checkout, installed, printed, read, run, succeeded};

#[test]
fn haproxy_takes_its_configuration() {
    let name = "haproxy_takes_its_configuration";
    let Some(haproxy) = installed("haproxy") else {
        return skip(name, "haproxy is not installed");
    };
    let file = checkout("deploy/haproxy/haproxy.cfg");
    let output = run(&haproxy, ["-c".as_ref(), "-f".as_ref(), file.as_os_str()]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    // Names that only exist beside a cluster may be warned of, nothing else.
    let warnings = text.lines().filter(|line| line.contains("[WARNING]"));
    let others: Vec<&str> = warnings
        .filter(|line| !line.contains("could not resolve"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let text = read("deploy/haproxy/haproxy.cfg");
    for wanted in [
        "option httpchk GET /readyz",
        "send-proxy-v2",
        "on-marked-down shutdown-sessions",
    ] {
        assert!(text.contains(wanted), "no {wanted}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let name = "systemd_takes_the_units";
    let Some(analyze) = installed("systemd-analyze") else {
        return skip(name, "systemd-analyze is not installed");
    };
    let folder = TempDir::new().expect("a temporary folder");
    for unit in ["holdfast.service", "holdfast@.service"] {
        // The binary is not where packages put it.
        let text = read(&format!("deploy/systemd/{unit}"));
        assert!(
            text.contains("Type=notify") && text.contains("TimeoutStopSec=90s"),
            "{unit}"
        );
        let text = text.replace("/usr/bin/holdfast", binary().to_str().expect("UTF-8"));
        let file = folder.path().join(unit);
        std::fs::write(&file, text).expect("it is writable");
        let mut command = Command::new(&analyze);
        let output = command
            .args(["verify", "--man=no"])
            .arg(&file)
            .output()
            .expect("it runs");
        assert_eq!(succeeded(unit, &output) + &printed(&output), "", "{unit}");
    }
}

#[test]
fn both_builders_leave_out_the_same_files() {
    let list = |path: &str| -> Vec<String> {
        let text = read(path);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let legacy = list(".dockerignore");
    assert_eq!(legacy, list("deploy/docker/Dockerfile.dockerignore"));
    assert_eq!(
        legacy.first().map(String::as_str),
        Some("*"),
        "it is no allow list"
    );
}

/// What the Dockerfile copies into the build is let through, and is all that cargo needs to know.
#[test]
fn the_build_context_has_what_the_dockerfile_copies() {
    let ignore = read(".dockerignore");
    for line in read("deploy/docker/Dockerfile").lines() {
        let Some(sources) = line
            .strip_prefix("COPY ")
            .filter(|copy| !copy.starts_with("--from"))
        else {
            continue;
        };
        let (sources, _) = sources.rsplit_once(' ').expect("it has a target");
        for source in sources.split(' ').filter(|source| *source != "${BIN}") {
            assert!(checkout(source).exists(), "{source} does not exist");
            assert!(
                ignore.lines().any(|line| line == format!("!{source}")),
                "{source} is left out"
            );
        }
    }
}

#[test]
fn the_chart_has_the_alert_rules() {
    assert!(
        read("deploy/prometheus/rules.yml") == read("deploy/helm/holdfast/rules.yml"),
        "cp deploy/prometheus/rules.yml deploy/helm/holdfast/rules.yml"
    );
}

/// The configuration of the compose cluster, and what it rests on.
#[test]
fn the_broker_takes_the_configuration_of_compose() {
    let folder = TempDir::new().expect("a temporary folder");
    let secrets = folder.path().join("secrets");
    std::fs::create_dir(&secrets).expect("it is writable");
    std::fs::write(
        secrets.join("cluster-secret"),
        "0123456789abcdef0123456789abcdef",
    )
    .expect("writable");
    std::fs::write(
        secrets.join("admin-tokens"),
        "admin 0123456789abcdef0123456789abcdef me",
    )
    .expect("writable");
    let text = read("deploy/compose/holdfast.toml");
    let text = text.replace("/run/secrets", secrets.to_str().expect("UTF-8"));
    check_configuration("compose", &text, folder.path());
}

/// The page names each key of the reference, in the section where it belongs.
#[test]
fn every_key_is_on_the_page() {
    let page = read("docs/operations/configure.md");
    let reference = read("crates/node/src/config/reference.toml");
    let reference: toml_edit::DocumentMut = reference.parse().expect("it is TOML");
    let mut missing = Vec::new();
    let mut keys = 0;
    for (section, item) in reference.iter() {
        let table = match item.as_array_of_tables() {
            Some(tables) => tables.iter().next().expect("the reference has one"),
            None => item.as_table().expect("the reference has only sections"),
        };
        let heading = if item.is_array_of_tables() {
            format!("\n## `[[{section}]]`\n")
        } else {
            format!("\n## `[{section}]`\n")
        };
        let rest = page.split_once(&heading).map_or("", |(_, rest)| rest);
        let part = rest.split("\n## ").next().unwrap_or_default();
        for (key, value) in table.iter() {
            keys += 1;
            let is_there = if value.is_table() {
                page.contains(&format!("\n## `[{section}.{key}]`\n"))
            } else {
                part.contains(&format!("`{key}`"))
            };
            if !is_there {
                missing.push(format!("{section}.{key}"));
            }
        }
    }
    assert!(keys > 60, "{keys} keys were read");
    assert!(
        missing.is_empty(),
        "not in docs/operations/configure.md: {missing:?}"
    );
}
