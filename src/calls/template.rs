//! URL templates: where values go, and that they go nowhere else.

use std::{fmt::Write, net::IpAddr};

use reqwest::Url;

use super::{
    address,
    refusal::{Fault, Refused},
};
use crate::catalog::check_name;

/// The placeholder that is an instant, and is held to the partition.
pub(super) const VALID_TIME: &str = "valid_time";
/// Longest template.
const MAX_URL_BYTES: usize = 2_048;
/// Longest URL that is asked.
const MAX_FILLED_BYTES: usize = 8_192;
/// Most placeholders.
const MAX_PLACEHOLDERS: usize = 16;
/// Names that mean a time, and are none of those that a call can have.
const NO_TIMES: [&str; 6] = [
    "now",
    "today",
    "current_time",
    "partition_start",
    "partition_end",
    "system_time",
];
/// Names of query parameters whose values are secrets.
const SECRET_PARAMETERS: [&str; 9] = [
    "api_key",
    "apikey",
    "api-key",
    "key",
    "token",
    "access_token",
    "secret",
    "password",
    "sig",
];

/// A URL with placeholders in its path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UrlTemplate {
    parts: Vec<Part>,
    /// In the order in which they come first.
    placeholders: Vec<String>,
    /// For people: without the query.
    shown: String,
    /// Scheme, host and port.
    origin: String,
    /// Of each part of the path, whether it holds something.
    segments: Vec<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// An index into the placeholders.
    Value(usize),
}

impl UrlTemplate {
    /// Reads the template that stands at `field`.
    ///
    /// # Errors
    /// [`Fault::Placeholder`], [`Fault::Url`], [`Fault::Address`], [`Fault::Secret`].
    pub(super) fn parse(field: &str, text: &str) -> Result<Self, Refused> {
        if text.len() > MAX_URL_BYTES {
            return Err(Refused::new(
                Fault::Url,
                field,
                format!(
                    "it is {} bytes long, of {MAX_URL_BYTES} at most",
                    text.len()
                ),
            ));
        }
        let (parts, placeholders) = split(field, text)?;
        let url = sample(field, text, &parts)?;
        check_url(field, &url)?;
        check_query(field, text)?;
        Ok(Self {
            parts,
            placeholders,
            shown: text.split('?').next().unwrap_or_default().to_owned(),
            origin: origin(&url),
            segments: segments(&url),
        })
    }

    /// The placeholders, in the order in which they come first.
    pub(super) fn placeholders(&self) -> &[String] {
        &self.placeholders
    }

    /// For people: without the query.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The URL with `values`, one for each placeholder.
    ///
    /// # Errors
    /// Values that would ask for something else than the template says.
    pub(super) fn fill(&self, values: &[String]) -> Result<Url, String> {
        let text = join(&self.parts, |index, text| {
            encode(values.get(index).map_or("", String::as_str), text);
        });
        if text.len() > MAX_FILLED_BYTES {
            return Err(format!(
                "the URL takes {} bytes with it: at most {MAX_FILLED_BYTES} are possible",
                text.len()
            ));
        }
        let url = Url::parse(&text).map_err(|error| format!("it makes no URL: {error}"))?;
        // An empty part, "." and ".." ask for another resource.
        if segments(&url) != self.segments || origin(&url) != self.origin {
            return Err("it makes another path of the URL than the template's".to_owned());
        }
        Ok(url)
    }
}

/// The text of `parts`; `value` writes what goes in place of a placeholder.
fn join(parts: &[Part], value: impl Fn(usize, &mut String)) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Value(index) => value(*index, &mut text),
        }
    }
    text
}

/// The URL with values that could stand in any part of it. Values must not choose the scheme, host or port; what these are,
/// only the parser can say, which takes any number of slashes and backslashes for two.
fn sample(field: &str, text: &str, parts: &[Part]) -> Result<Url, Refused> {
    let parsed = |value: &str| Url::parse(&join(parts, |_, text| text.push_str(value)));
    let pair = |one: &str, other: &str| -> Result<(Url, Url), String> {
        let both = parsed(one).and_then(|one| Ok((one, parsed(other)?)));
        both.map_err(|error| error.to_string())
    };
    // As a port only digits will do, as the end of a name only letters.
    let (one, other) = pair("1", "2")
        .or_else(|_| pair("a", "b"))
        .map_err(|error| {
            let problem = format!("{text:?} is not a URL: {error}");
            Refused::new(Fault::Url, field, problem)
        })?;
    if origin(&one) != origin(&other) {
        return Err(Refused::new(
            Fault::Placeholder,
            field,
            "placeholders stand in the path and the query, not in the host or port",
        ));
    }
    if !one.username().is_empty() || one.password().is_some() {
        return Err(Refused::new(
            Fault::Secret,
            field,
            "it names a user, and definitions are stored and shown: send an Authorization header with ${env:HINDCAST_SECRET_NAME}",
        ));
    }
    Ok(one)
}

fn split(field: &str, text: &str) -> Result<(Vec<Part>, Vec<String>), Refused> {
    let refused = |problem: String| Refused::new(Fault::Placeholder, field, problem);
    let mut parts = Vec::new();
    let mut placeholders: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        if before.ends_with('$') {
            return Err(Refused::new(
                Fault::Secret,
                field,
                "secrets stand in headers only: URLs are logged on their way",
            ));
        }
        let length = from.find('}').filter(|_| from.starts_with('{'));
        let Some(length) = length else {
            return Err(refused(format!("{from:?} opens or closes no placeholder")));
        };
        let name = &from[1..length];
        check_placeholder(field, name)?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let known = placeholders.iter().position(|other| other == name);
        parts.push(Part::Value(known.unwrap_or(placeholders.len())));
        if known.is_none() {
            placeholders.push(name.to_owned());
        }
        rest = &from[length + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    match placeholders.len() {
        1..=MAX_PLACEHOLDERS => Ok((parts, placeholders)),
        count => Err(refused(format!(
            "it has {count} placeholders: 1 to {MAX_PLACEHOLDERS} are possible"
        ))),
    }
}

fn check_placeholder(field: &str, name: &str) -> Result<(), Refused> {
    if check_name(field, name).is_err() {
        return Err(Refused::new(
            Fault::Placeholder,
            field,
            format!(
                "{{{name}}} is no placeholder: they are named like columns, as in {{customer_id}}"
            ),
        ));
    }
    if NO_TIMES.contains(&name) {
        return Err(Refused::new(
            Fault::Placeholder,
            field,
            format!(
                "{{{name}}} is not known: the time that a call may ask about is {{{VALID_TIME}}}"
            ),
        ));
    }
    Ok(())
}

fn check_url(field: &str, url: &Url) -> Result<(), Refused> {
    let refused = |problem: String| Refused::new(Fault::Url, field, problem);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused(format!(
            "{:?} cannot be asked: http and https can",
            url.scheme()
        )));
    }
    if url.fragment().is_some() {
        return Err(refused(
            "it has a fragment (#), which is never sent".to_owned(),
        ));
    }
    if let Some(found) = host_address(url)
        && address::is_refused(found)
    {
        return Err(Refused::new(
            Fault::Address,
            field,
            format!("{found} is a link-local or metadata address, which calls may not reach"),
        ));
    }
    if url.path().contains("//") {
        return Err(refused("its path has an empty part (//)".to_owned()));
    }
    Ok(())
}

/// Secrets do not stand in a URL.
fn check_query(field: &str, text: &str) -> Result<(), Refused> {
    let query = text.split_once('?').map_or("", |(_, query)| query);
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let is_secret = SECRET_PARAMETERS.contains(&name.to_ascii_lowercase().as_str());
        if is_secret && !value.is_empty() && !value.contains('{') {
            return Err(Refused::new(
                Fault::Secret,
                field,
                format!(
                    "{name:?} is a secret, and definitions are stored and shown: send it as a header with ${{env:HINDCAST_SECRET_NAME}}"
                ),
            ));
        }
    }
    Ok(())
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn segments(url: &Url) -> Vec<bool> {
    let segments = url.path_segments().into_iter().flatten();
    segments.map(|segment| !segment.is_empty()).collect()
}

/// Appends `value` with everything encoded that could mean something in a URL.
fn encode(value: &str, into: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            into.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

/// `value` with everything encoded that could mean something in a URL.
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::new();
    encode(value, &mut text);
    text
}

/// The address that stands in a URL in place of a name; the parser has read its odd forms.
pub(super) fn host_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UrlTemplate, Fault> {
        UrlTemplate::parse("url", text).map_err(|refused| refused.fault)
    }

    fn filled(text: &str, values: &[&str]) -> Result<String, String> {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        Ok(parse(text).expect(text).fill(&values)?.to_string())
    }

    #[test]
    fn values_go_where_the_template_says_and_nowhere_else() {
        let template = "https://h.example/v1/{id}/x-{kind}?at={valid_time}&again={id}";
        assert_eq!(
            parse(template).expect("a template").placeholders(),
            ["id", "kind", "valid_time"]
        );
        assert_eq!(
            filled(template, &["a/b?c#d&é", "%41", "2024-03-01T00:00:00Z"]).expect("filled"),
            "https://h.example/v1/a%2Fb%3Fc%23d%26%C3%A9/x-%2541?at=2024-03-01T00%3A00%3A00Z&again=a%2Fb%3Fc%23d%26%C3%A9"
        );
        for template in [
            "http://h/a/{id}/b",
            "http://h/v1/customers/{id}",
            "http://h/v1/{id}?x",
            "http://h/{id}",
        ] {
            for climbing in ["", ".", ".."] {
                let filled = filled(template, &[climbing]);
                assert!(filled.is_err(), "{template} {climbing:?}");
            }
        }
        assert!(filled("http://h/a/.{id}", &[""]).is_err());
        assert!(filled("http://h/a/{id}/", &["..."]).is_ok());
        assert!(filled("http://h/a/{id}{id}", &["."]).is_err());
        assert!(filled("http://h/a/v{id}", &[".."]).is_ok());
        assert!(filled("http://h/a?q={id}", &[""]).is_ok());
        assert!(filled("http://h/{id}", &[&"a".repeat(9_000)]).is_err());
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (text, fault) in [
            ("", Fault::Placeholder),
            ("http://h/", Fault::Placeholder),
            ("http://h/{}", Fault::Placeholder),
            ("http://h/{Id}", Fault::Placeholder),
            ("http://h/{id", Fault::Placeholder),
            ("http://h/id}", Fault::Placeholder),
            ("http://h/{a{b}}", Fault::Placeholder),
            ("http://h/{id}?at={now}", Fault::Placeholder),
            ("http://h/{id}?at={partition_end}", Fault::Placeholder),
            ("http://{host}/{id}", Fault::Placeholder),
            ("http://h:{port}/", Fault::Placeholder),
            ("http://h{id}?x", Fault::Placeholder),
            ("http://h.{zone}/", Fault::Placeholder),
            ("https:///{host}/v1?at={valid_time}", Fault::Placeholder),
            ("http:{host}/v1", Fault::Placeholder),
            ("http:/{host}/v1", Fault::Placeholder),
            (r"http:\\{host}\v1", Fault::Placeholder),
            (r"http:/\{host}/v1", Fault::Placeholder),
            ("http://u@{host}/v1", Fault::Placeholder),
            ("http{s}://h/v1", Fault::Url),
            ("h/{id}", Fault::Url),
            ("{id}", Fault::Url),
            ("/v1/{id}", Fault::Url),
            ("ftp://h/{id}", Fault::Url),
            ("file:///etc/{id}", Fault::Url),
            ("http://h/{id}#top", Fault::Url),
            ("http://h//{id}", Fault::Url),
            ("http://169.254.169.254/{id}", Fault::Address),
            ("http://0xA9FEA9FE/{id}", Fault::Address),
            ("http://2852039166/{id}", Fault::Address),
            ("http://[fe80::1]:80/{id}", Fault::Address),
            ("http://[::ffff:169.254.169.254]/{id}", Fault::Address),
            ("http://u:p@h/{id}", Fault::Secret),
            ("https:///user:pw@h/{id}", Fault::Secret),
            (r"https:\user@h/{id}", Fault::Secret),
            ("http://:pw@h/{id}", Fault::Secret),
            ("http://{user}@h/v1", Fault::Secret),
            ("http://{user}:{pw}@h/v1", Fault::Secret),
            ("http://h/{id}?api_key=abc", Fault::Secret),
            ("http://h/{id}?x=${env:KEY}", Fault::Secret),
        ] {
            assert_eq!(parse(text).err(), Some(fault), "{text}");
        }
        assert!(parse(&format!("http://h/{{id}}{}", "a".repeat(2_048))).is_err());
        for good in [
            "http://h?{id}",
            "https://h.example:8443/{id}",
            "http://[::1]:80/{id}?token={token}",
            "HTTP://127.0.0.1/{valid_time}",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_query_is_not_shown() {
        let template = parse("http://h/{id}?account=17").expect("a template");
        assert_eq!(template.shown(), "http://h/{id}");
    }
}
