//! What README.md tells a newcomer to type is what CI runs.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy takes helpers outside of #[test] for production code"
)]

use std::path::Path;

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The lines of the README's shell blocks, in order.
fn commands() -> Vec<String> {
    let mut is_shell = false;
    let mut commands = Vec::new();
    for line in file("README.md").lines() {
        if let Some(language) = line.strip_prefix("```") {
            is_shell = language == "sh";
        } else if is_shell {
            commands.push(line.to_owned());
        }
    }
    commands
}

/// The beginnings of the README's commands that a script looks up and runs: `$(readme '…')`.
fn looked_up(script: &str) -> Vec<String> {
    let after = script.split("$(readme '").skip(1);
    after
        .map(|rest| {
            let (start, _) = rest.split_once('\'').expect("a closing quote");
            start.to_owned()
        })
        .collect()
}

/// The text of a make target's recipe.
fn recipe(target: &str) -> String {
    let makefile = file("Makefile");
    let header = format!("{target}:");
    let lines = makefile.lines().skip_while(|line| *line != header).skip(1);
    lines.take_while(|line| line.starts_with('\t')).collect()
}

#[test]
fn the_readme_starts_with_the_two_commands() {
    let commands = commands();
    let first_two: Vec<&str> = commands.iter().take(2).map(String::as_str).collect();
    assert_eq!(first_two, ["make run", "make test"]);
}

#[test]
fn every_command_of_the_readme_is_run_by_ci() {
    let ci = file(".ci/run");
    assert!(ci.contains("scripts/try_demo.sh"), "CI tries the demo");
    let looked_up = looked_up(&file("scripts/try_demo.sh"));
    for command in commands() {
        let by_ci = ci.contains(&command);
        let by_script = looked_up.iter().any(|start| command.starts_with(start));
        assert!(by_ci || by_script, "CI never runs {command:?}");
    }
    let commands = commands();
    for start in looked_up {
        let exists = commands.iter().any(|command| command.starts_with(&start));
        assert!(exists, "README.md has no command {start:?}");
    }
}

#[test]
fn every_target_does_its_own_set_up_and_builds_what_is_locked() {
    for target in ["run", "test", "test-full", "lint"] {
        let recipe = recipe(target);
        assert!(recipe.contains("scripts/setup.sh"), "{target}: {recipe}");
    }
    assert!(recipe("run").contains("build --release --locked --bin holdfast"));
    assert!(file("scripts/test.sh").contains("test --release --locked --workspace"));
    assert!(file("scripts/lint.sh").contains("clippy --release --locked --workspace"));
}

#[test]
fn ports_in_the_readme_are_those_of_the_demo() {
    let readme = file("README.md");
    for port in ["1883", "1884", "1885"] {
        assert!(readme.contains(port), "{port}");
    }
    assert!(file("crates/node/src/cli.rs").contains("default_value_t = 1883"));
}
