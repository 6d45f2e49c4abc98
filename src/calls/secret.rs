//! Header values with secrets in them: what a definition holds are their names.

use std::path::PathBuf;

use super::refusal::{Fault, Refused};

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
    Env(String),
    File(PathBuf),
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
                    "{name:?} is a secret, and definitions are stored and shown: name it as ${{env:NAME}} or ${{file:/path}}"
                ),
            ));
        }
        Ok(Self { parts })
    }

    /// The value, with the secrets as they are now.
    ///
    /// # Errors
    /// What is missing, without any of what is there.
    pub(super) async fn resolve(&self) -> Result<String, String> {
        let mut value = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Env(name) => value.push_str(&from_environment(name)?),
                Part::File(path) => value.push_str(&from_file(path).await?),
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
            "placeholders stand in the URL only; a header may hold ${env:NAME} and ${file:/path}",
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
            Ok(Part::Env(name.to_owned()))
        }
        Some(("file", path)) if path.starts_with('/') => Ok(Part::File(path.into())),
        Some(("file", path)) => refused(format!("{path:?} is not an absolute path")),
        _ => refused(format!(
            "${{{text}}} names no secret: ${{env:NAME}} and ${{file:/path}} do"
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

async fn from_file(path: &PathBuf) -> Result<String, String> {
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
        let path = folder.path().join("token");
        let value = format!("Bearer ${{file:{}}} of ${{env:PATH}}", path.display());
        let text = parse("Authorization", &value).expect("a value");
        let missing = text.resolve().await.expect_err("no file yet");
        assert!(missing.contains("cannot read secret file"), "{missing}");
        std::fs::write(&path, "s3cret\n").expect("written");
        let resolved = text.resolve().await.expect("there");
        assert!(resolved.starts_with("Bearer s3cret of /"), "{resolved}");
        std::fs::write(&path, "other").expect("written");
        let resolved = text.resolve().await.expect("there");
        assert!(resolved.starts_with("Bearer other of /"), "{resolved}");
        let unset = parse("X", "${env:HINDCAST_NO_SUCH_VARIABLE}").expect("a value");
        let missing = unset.resolve().await.expect_err("not set");
        assert!(
            missing.contains("HINDCAST_NO_SUCH_VARIABLE is not set"),
            "{missing}"
        );
    }

    #[test]
    fn what_names_no_secret_is_refused() {
        for (name, value, fault) in [
            ("Authorization", "Bearer abc", Fault::Secret),
            ("x-API-key", "abc", Fault::Secret),
            ("X", "${env:}", Fault::Secret),
            ("X", "${env:A B}", Fault::Secret),
            ("X", "${file:relative}", Fault::Secret),
            ("X", "${vault:x}", Fault::Secret),
            ("X", "${env:A", Fault::Secret),
            ("X", "{id}", Fault::Placeholder),
            ("X", "a}", Fault::Placeholder),
        ] {
            assert_eq!(parse(name, value), Err(fault), "{name}: {value}");
        }
        assert!(parse("Accept", "application/json").is_ok());
        assert!(parse("X-Api-Key", "${env:KEY}").is_ok());
    }
}
