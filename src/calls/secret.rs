//! Header values with secrets in them: what a definition holds are their names.
//!
//! Whoever may register transforms may send the server's secrets to a host of their choice. So only what was put there for
//! calls can be named: variables that start with [`ENV_PREFIX`], and files of one folder.

use std::path::{Path, PathBuf};

use super::refusal::{Fault, Refused};

/// How variables start that calls may name.
const ENV_PREFIX: &str = "HINDCAST_SECRET_";
/// Longest file that is taken as a secret.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// Longest value in a definition.
const MAX_VALUE_BYTES: usize = 4_096;
/// Headers whose values are secrets: written out, they would be stored and shown.
const SECRET_HEADERS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-access-token",
];

/// A header's value, with the names of secrets in place of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretText {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// All of the variable's name.
    Env(String),
    /// A file's name in the folder of secrets.
    File(String),
}

/// Where secrets are looked up.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// The folder of those that are files; `None`: there are none.
    pub folder: Option<PathBuf>,
}

impl SecretText {
    /// Reads the value of header `name`, which stands at `field`.
    ///
    /// # Errors
    /// A reference that is malformed, a placeholder, or a secret that is written out.
    pub(super) fn parse(field: &str, name: &str, text: &str) -> Result<Self, Refused> {
        if text.len() > MAX_VALUE_BYTES {
            return Err(Refused::new(
                Fault::Header,
                field,
                format!(
                    "it is {} bytes long, of {MAX_VALUE_BYTES} at most",
                    text.len()
                ),
            ));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            push_text(&mut parts, field, &rest[..at])?;
            let Some(length) = rest[at..].find('}') else {
                return Err(Refused::new(Fault::Secret, field, "a ${ has no }"));
            };
            parts.push(reference(field, &rest[at + 2..at + length])?);
            rest = &rest[at + length + 1..];
        }
        push_text(&mut parts, field, rest)?;
        let is_plain = parts.iter().all(|part| matches!(part, Part::Text(_)));
        if is_plain && SECRET_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(Refused::new(
                Fault::Secret,
                field,
                format!(
                    "{name:?} is a secret, and definitions are stored and shown: name it as ${{env:{ENV_PREFIX}NAME}} or ${{file:NAME}}"
                ),
            ));
        }
        Ok(Self { parts })
    }

    /// The value, with the secrets as they are now.
    ///
    /// # Errors
    /// What is missing, without any of what is there.
    pub(super) async fn resolve(&self, secrets: &Secrets) -> Result<String, String> {
        let mut value = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Env(name) => value.push_str(&from_environment(name)?),
                Part::File(name) => value.push_str(&secrets.read(name).await?),
            }
        }
        Ok(value)
    }
}

fn push_text(parts: &mut Vec<Part>, field: &str, text: &str) -> Result<(), Refused> {
    if text.contains(['{', '}']) {
        return Err(Refused::new(
            Fault::Placeholder,
            field,
            "placeholders stand in the URL only; a header may hold ${env:HINDCAST_SECRET_NAME} and ${file:NAME}",
        ));
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

fn reference(field: &str, text: &str) -> Result<Part, Refused> {
    let refused = |problem: String| Err(Refused::new(Fault::Secret, field, problem));
    match text.split_once(':') {
        Some(("env", name)) => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(fits) {
                return refused(format!(
                    "{name:?} is not the name of an environment variable"
                ));
            }
            if !name.starts_with(ENV_PREFIX) {
                return refused(format!(
                    "only variables that start with {ENV_PREFIX} can be named, such as ${{env:{ENV_PREFIX}{name}}}"
                ));
            }
            Ok(Part::Env(name.to_owned()))
        }
        Some(("file", name)) => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.starts_with('.') || name.is_empty() || !name.bytes().all(fits) {
                return refused(format!(
                    "{name:?} is not the name of a file in the server's secrets_dir: letters, digits, '-', '_' and '.'"
                ));
            }
            Ok(Part::File(name.to_owned()))
        }
        _ => refused(format!(
            "${{{text}}} names no secret: ${{env:{ENV_PREFIX}NAME}} and ${{file:NAME}} do"
        )),
    }
}

fn from_environment(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Err(format!("environment variable {name} is empty")),
        Ok(value) => Ok(value),
        Err(std::env::VarError::NotPresent) => Err(format!(
            "environment variable {name} is not set on the server"
        )),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("environment variable {name} is not UTF-8"))
        }
    }
}

impl Secrets {
    async fn read(&self, name: &str) -> Result<String, String> {
        let Some(folder) = &self.folder else {
            return Err(format!(
                "the server has no secrets_dir, in which the file {name:?} would be"
            ));
        };
        read_file(&folder.join(name)).await
    }
}

async fn read_file(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot read secret file {path:?}: {error}");
    let found = tokio::fs::metadata(path).await.map_err(unreadable)?;
    if found.len() > MAX_SECRET_BYTES {
        return Err(format!(
            "secret file {path:?} has {} bytes: at most {MAX_SECRET_BYTES} are possible",
            found.len()
        ));
    }
    let bytes = tokio::fs::read(path).await.map_err(unreadable)?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("secret file {path:?} is not UTF-8"))?;
    // Editors and `echo` end files with a line break.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(format!("secret file {path:?} is empty"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<SecretText, Fault> {
        SecretText::parse("f", name, value).map_err(|refused| refused.fault)
    }

    #[tokio::test]
    async fn secrets_are_looked_up_when_they_are_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let secrets = Secrets {
            folder: Some(folder.path().to_owned()),
        };
        let text = parse("Authorization", "Bearer ${file:token}!").expect("a value");
        let missing = text.resolve(&secrets).await.expect_err("no file yet");
        assert!(missing.contains("cannot read secret file"), "{missing}");
        for secret in ["s3cret\n", "other"] {
            std::fs::write(folder.path().join("token"), secret).expect("written");
            let resolved = text.resolve(&secrets).await.expect("there");
            assert_eq!(resolved, format!("Bearer {}!", secret.trim_end()));
        }
        let nowhere = text.resolve(&Secrets::default()).await;
        let missing = nowhere.expect_err("no folder");
        assert!(missing.contains("no secrets_dir"), "{missing}");
        let unset = parse("X", "${env:HINDCAST_SECRET_THAT_IS_NOT}").expect("a value");
        let missing = unset.resolve(&secrets).await.expect_err("not set");
        assert!(
            missing.contains("HINDCAST_SECRET_THAT_IS_NOT is not set"),
            "{missing}"
        );
    }

    #[test]
    fn what_names_no_secret_is_refused() {
        for (name, value, fault) in [
            ("Authorization", "Bearer abc", Fault::Secret),
            ("x-API-key", "abc", Fault::Secret),
            ("X", "${env:}", Fault::Secret),
            ("X", "${env:HINDCAST_SECRET_A B}", Fault::Secret),
            ("X", "${env:AWS_SECRET_ACCESS_KEY}", Fault::Secret),
            ("X", "${file:/etc/passwd}", Fault::Secret),
            ("X", "${file:../tokens.toml}", Fault::Secret),
            ("X", "${file:..}", Fault::Secret),
            ("X", "${file:}", Fault::Secret),
            ("X", "${vault:x}", Fault::Secret),
            ("X", "${env:A", Fault::Secret),
            ("X", "{id}", Fault::Placeholder),
            ("X", "a}", Fault::Placeholder),
        ] {
            assert_eq!(parse(name, value), Err(fault), "{name}: {value}");
        }
        assert!(parse("Accept", "application/json").is_ok());
        assert!(parse("X-Api-Key", "${env:HINDCAST_SECRET_KEY}").is_ok());
    }
}
