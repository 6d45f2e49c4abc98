//! One request over HTTP: what it sends, and what its answer means.

use std::{collections::BTreeMap, error::Error as _, sync::OnceLock, time::Duration};

use chrono::DateTime;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{HeaderMap, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};

use super::{
    Error,
    address::{CheckedResolver, RefusedAddress, is_refused},
    definition::Definition,
    secret::Secrets,
    template::host_address,
};
use crate::{limits::MAX_RETRY_AFTER, store::Value, time::Clock};

/// Largest response.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// How long a connection may take; the call's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer's columns, by name.
pub(super) type Answer = BTreeMap<String, Option<Value>>;

/// Why a request gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Asking again can help.
    Passing {
        cause: String,
        /// The outside system asks for fewer requests.
        is_throttled: bool,
        retry_after: Option<Duration>,
    },
    /// It cannot.
    Final(Error),
}

/// The HTTP client of all calls: made when it is first needed. No proxy, no redirects, no refused addresses.
#[derive(Debug)]
pub(super) struct Http {
    client: OnceLock<Result<Client, String>>,
    secrets: Secrets,
}

impl Http {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self {
            client: OnceLock::new(),
            secrets,
        }
    }

    fn client(&self) -> Result<&Client, Error> {
        let made = self.client.get_or_init(|| {
            Client::builder()
                .redirect(Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .dns_resolver(std::sync::Arc::new(CheckedResolver))
                .user_agent(concat!("hindcast/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(root_cause)
        });
        made.as_ref().map_err(|cause| Error::Setup {
            cause: cause.clone(),
        })
    }

    /// Asks once. The clock is for a Retry-After that is a date.
    pub(super) async fn ask(
        &self,
        definition: &Definition,
        asked: &str,
        url: Url,
        clock: &dyn Clock,
    ) -> Result<Answer, Failure> {
        let call = definition.name();
        if let Some(address) = host_address(&url)
            && is_refused(address)
        {
            return Err(Failure::Final(refused(definition, address.to_string())));
        }
        let headers = headers(definition, &self.secrets)
            .await
            .map_err(Failure::Final)?;
        let request = self
            .client()
            .map_err(Failure::Final)?
            .get(url)
            .headers(headers)
            .timeout(definition.spec.timeout);
        let response = request
            .send()
            .await
            .map_err(|error| of_transport(definition, error))?;
        let status = response.status();
        tracing::trace!(call, status = status.as_u16(), "answered");
        if status == StatusCode::NOT_FOUND {
            let columns = definition.columns.iter();
            return Ok(columns.map(|column| (column.name.clone(), None)).collect());
        }
        if !status.is_success() {
            return Err(of_status(definition, asked, &response, clock.now_micros()));
        }
        let body = read(definition, asked, response).await?;
        take(definition, &body).map_err(|problem| {
            Failure::Final(Error::Response {
                call: call.to_owned(),
                asked: asked.to_owned(),
                url: definition.url.shown().to_owned(),
                problem,
            })
        })
    }
}

async fn headers(definition: &Definition, secrets: &Secrets) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, text) in &definition.headers {
        let secret = |problem: String| Error::Secret {
            call: definition.name().to_owned(),
            header: name.to_string(),
            problem,
        };
        let value = text.resolve(secrets).await.map_err(secret)?;
        // The parser's error says nothing of the value, and neither may this one.
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| secret("its value cannot be sent in a header".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(name.clone(), value);
    }
    Ok(headers)
}

fn of_status(
    definition: &Definition,
    asked: &str,
    response: &Response,
    now_micros: i64,
) -> Failure {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, now_micros));
    let passes = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    if passes {
        return Failure::Passing {
            cause: format!("it answered {}", status.as_u16()),
            is_throttled: status == StatusCode::TOO_MANY_REQUESTS || retry_after.is_some(),
            retry_after,
        };
    }
    let hint = if status.is_redirection() {
        ": redirects are not followed; name the URL that it leads to"
    } else if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        ": look at the secrets in the call's headers"
    } else {
        ""
    };
    Failure::Final(Error::Rejected {
        call: definition.name().to_owned(),
        asked: asked.to_owned(),
        url: definition.url.shown().to_owned(),
        status: status.as_u16(),
        hint,
    })
}

/// Seconds, or a date as HTTP writes it.
fn retry_after(text: &str, now_micros: i64) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only a number that is too large cannot be read.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let at = DateTime::parse_from_rfc2822(text).ok()?;
        let micros = at.timestamp_micros().saturating_sub(now_micros);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

async fn read(
    definition: &Definition,
    asked: &str,
    mut response: Response,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await;
        let Some(chunk) = chunk.map_err(|error| of_transport(definition, error))? else {
            return Ok(body);
        };
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(Failure::Final(Error::Response {
                call: definition.name().to_owned(),
                asked: asked.to_owned(),
                url: definition.url.shown().to_owned(),
                problem: format!("the response is larger than {MAX_RESPONSE_BYTES} bytes"),
            }));
        }
        body.extend_from_slice(&chunk);
    }
}

fn take(definition: &Definition, body: &[u8]) -> Result<Answer, String> {
    let response = serde_json::from_slice(body).map_err(|error| {
        format!(
            "the response is not JSON (line {}, column {} of {} bytes)",
            error.line(),
            error.column(),
            body.len()
        )
    })?;
    let columns = definition.columns.iter();
    columns
        .map(|column| Ok((column.name.clone(), column.take(&response)?)))
        .collect()
}

fn of_transport(definition: &Definition, error: reqwest::Error) -> Failure {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<RefusedAddress>() {
            return Failure::Final(refused(definition, found.to_string()));
        }
        cause = current.source();
    }
    let cause = if error.is_timeout() {
        format!("it took longer than {:?}", definition.spec.timeout)
    } else {
        root_cause(error)
    };
    Failure::Passing {
        cause,
        is_throttled: false,
        retry_after: None,
    }
}

fn refused(definition: &Definition, what: String) -> Error {
    Error::Address {
        call: definition.name().to_owned(),
        url: definition.url.shown().to_owned(),
        problem: what,
    }
}

/// What lies at the bottom of an error, without the URL.
fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text = current.to_string();
        cause = current.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now_micros = 1_709_251_200_000_000;
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("999999999", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("Fri, 01 Mar 2024 00:01:00 GMT", Some(60)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(0)),
            ("soon", None),
            ("", None),
            ("-1", None),
        ] {
            let wait = retry_after(text, now_micros);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
