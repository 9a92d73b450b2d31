//! `holdfast tls check`: what is wrong with certificates is found before a node starts with them.

use std::path::Path;
use std::process::Output;

use testkit::certificates::{Authority, Subject};
use tokio::process::Command;

use crate::scene::options;

async fn check(folder: &Path, more: &[&str]) -> Output {
    check_by("tls", folder, more).await
}

/// `holdfast tls check` or `holdfast config check`.
async fn check_by(what: &str, folder: &Path, more: &[&str]) -> Output {
    let file = folder.join("holdfast.toml");
    let mut command = Command::new(options().binary);
    command.arg(what).arg("check").arg("--config").arg(file);
    command.args(more).output().await.expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn configure(folder: &Path, cert: &Path, key: &Path) {
    let (cert, key) = (cert.display(), key.display());
    let lines = format!(
        "[[listener]]\nname = \"tls\"\nkind = \"mqtts\"\nbind = \"127.0.0.1:0\"\ncert = \"{cert}\"\nkey = \"{key}\"\n"
    );
    std::fs::write(folder.join("holdfast.toml"), lines).unwrap();
}

#[tokio::test]
async fn certificates_are_checked_without_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let authority = Authority::new("test authority");
    let good = authority.issue_files(folder, "good", &Subject::new("good.example"));
    configure(folder, &good.cert, &good.key);
    let ran = check(folder, &[]).await;
    let (out, error) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(0), "{out}{error}");
    assert!(
        out.contains("good.example") && out.ends_with("ok\n"),
        "{out}"
    );

    let mut subject = Subject::new("old.example");
    subject.expired = true;
    let expired = authority.issue_files(folder, "expired", &subject);
    configure(folder, &expired.cert, &expired.key);
    let ran = check(folder, &["--json"]).await;
    let (out, error) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(1), "{out}{error}");
    assert!(
        error.contains("holdfast.toml:5: listener.0.cert"),
        "{error}"
    );
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["ok"], false, "{answer}");
    let listener = &answer["listeners"][0];
    assert_eq!(listener["certificates"][0]["name"], "old.example");
    let days = listener["certificates"][0]["days_left"].as_i64().unwrap();
    assert!(days < -365, "{days}");
    let problem = listener["problems"][0].as_str().unwrap();
    assert!(problem.contains("has expired"), "{problem}");

    configure(folder, &good.cert, &expired.key);
    assert_eq!(check(folder, &[]).await.status.code(), Some(1));
    // As a start would.
    let ran = check_by("config", folder, &[]).await;
    assert_eq!(ran.status.code(), Some(2), "{}", text(&ran.stdout));
    configure(folder, &folder.join("missing.crt"), &good.key);
    let ran = check_by("config", folder, &[]).await;
    assert_eq!(ran.status.code(), Some(2), "{}", text(&ran.stdout));
    assert!(text(&ran.stderr).contains("missing.crt"));
    configure(folder, &good.cert, &good.key);
    let ran = check_by("config", folder, &[]).await;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    std::fs::write(
        folder.join("holdfast.toml"),
        "[[listener]]\nkind = \"tea\"\n",
    )
    .unwrap();
    assert_eq!(check(folder, &[]).await.status.code(), Some(2));
}
