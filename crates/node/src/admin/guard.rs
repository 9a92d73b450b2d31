//! Who may do what over HTTP, and the audit log.
//!
//! With `admin.token_file` every request carries a token. Without it the port is on loopback, and
//! whoever reaches it may do everything; then a web page must not be able to use the visitor's browser
//! for that. So the name in `Host` must be one of this machine (a page of another name whose DNS was
//! made to point here is refused), `Origin` must be the same, and what changes something needs a
//! content type that makes a browser ask first.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::connection::Remote;
use super::problem::Problem;
use super::token::{Caller, Role, TokenFileError, Tokens};
use crate::config::AdminConfig;

/// A request that takes longer is given up.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody: probes must not need a secret.
    Open,
    /// Everybody, unless `admin.metrics_auth` asks for a viewer.
    Metrics,
    /// Whoever has at least this role.
    Role(Role),
}

/// The tokens in force.
#[derive(Debug)]
pub(super) struct Guard {
    file: Option<PathBuf>,
    tokens: RwLock<Option<Arc<Tokens>>>,
    metrics_auth: bool,
}

/// What one route is guarded with.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) guard: Arc<Guard>,
    pub(super) access: Access,
    /// It may change something: every attempt is in the audit log.
    pub(super) is_change: bool,
}

impl Guard {
    /// Reads `admin.token_file`, if there is one.
    ///
    /// # Errors
    /// [`TokenFileError`].
    pub(super) fn new(config: &AdminConfig) -> Result<Self, TokenFileError> {
        let guard = Self {
            file: config.token_file.clone(),
            tokens: RwLock::new(None),
            metrics_auth: config.metrics_auth,
        };
        guard.reload()?;
        Ok(guard)
    }

    /// Reads the file again; what was in force stays when the file is wrong.
    pub(super) fn reload(&self) -> Result<(), TokenFileError> {
        if let Some(file) = &self.file {
            let tokens = Arc::new(Tokens::read(file)?);
            *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Some(tokens);
        }
        Ok(())
    }

    /// Who sent a request, and that they may.
    /// Who asks; why nothing is done for them, if it is known who they are.
    fn admit(
        &self,
        access: Access,
        headers: &HeaderMap,
    ) -> Result<Caller, (Option<Caller>, Problem)> {
        let needed = match access {
            Access::Open => None,
            Access::Metrics => self.metrics_auth.then_some(Role::Viewer),
            Access::Role(role) => Some(role),
        };
        let Some(needed) = needed else {
            return Ok(Caller {
                name: "anybody".to_owned(),
                role: Role::Viewer,
            });
        };
        let tokens = self
            .tokens
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(tokens) = tokens else {
            check_origin(headers).map_err(|problem| (None, problem))?;
            return Ok(Caller {
                name: "loopback".to_owned(),
                role: Role::Admin,
            });
        };
        let Some(token) = bearer(headers) else {
            let problem = unauthorized("Bearer realm=\"holdfast\"", "a token is needed");
            return Err((None, problem));
        };
        let Some(caller) = tokens.caller(token) else {
            let challenge = "Bearer realm=\"holdfast\", error=\"invalid_token\"";
            return Err((None, unauthorized(challenge, "the token is not known")));
        };
        if caller.role < needed {
            let detail = format!(
                "this needs the role {}, and the token has the role {}",
                needed.name(),
                caller.role.name()
            );
            let problem = Problem::new(StatusCode::FORBIDDEN, detail)
                .with("required_role", json!(needed.name()));
            return Err((Some(caller.clone()), problem));
        }
        Ok(caller.clone())
    }
}

fn unauthorized(challenge: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    )
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
        .filter(|token| !token.is_empty())
}

/// Refuses what a web page of somebody else may have sent.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| match headers.get(name) {
        None => Ok(None),
        Some(value) => value
            .to_str()
            .map(Some)
            .map_err(|error| Problem::bad_request(format!("a header is not readable: {error}"))),
    };
    let refused = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
    let host = text(header::HOST)?;
    if host.is_some_and(|host| !is_this_machine(host)) {
        return refused(
            "without admin.token_file only requests to localhost or a loopback address are answered",
        );
    }
    if let Some(origin) = text(header::ORIGIN)? {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none() || authority != host {
            return refused("a page of another origin must not use this API");
        }
    }
    Ok(())
}

/// `localhost`, `127.0.0.1` or `[::1]`, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Stands before every route.
pub(super) async fn guard(
    State(gate): State<Gate>,
    ConnectInfo(Remote(remote)): ConnectInfo<Remote>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let admitted = gate.guard.admit(gate.access, request.headers());
    let (name, role) = match &admitted {
        Ok(caller) | Err((Some(caller), _)) => (caller.name.clone(), caller.role.name()),
        Err((None, _)) => ("unknown".to_owned(), "none"),
    };
    let response = match admitted {
        Err((_, problem)) => problem.into_response(),
        Ok(_) => match timeout(REQUEST_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the cluster did not answer in time; what was asked for may still happen",
            )
            .into_response(),
        },
    };
    if gate.is_change {
        tracing::info!(
            target: "holdfast::audit",
            who = name, role, %remote, %method, route = path,
            result = response.status().as_u16(), "admin request"
        );
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_machine_are_answered_without_tokens() {
        for (host, ok) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:8080", true),
            ("127.8.9.1", true),
            ("[::1]:8080", true),
            ("rebound.example.com:8080", false),
            ("localhost.example.com", false),
            ("10.0.0.1:8080", false),
            ("", false),
        ] {
            assert_eq!(
                check_origin(&headers(&[("host", host)])).is_ok(),
                ok,
                "{host}"
            );
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let host = ("host", "localhost:8080");
        for (origin, ok) in [
            ("http://localhost:8080", true),
            ("http://localhost:9090", false),
            ("https://example.com", false),
            ("null", false),
        ] {
            let headers = headers(&[host, ("origin", origin)]);
            assert_eq!(check_origin(&headers).is_ok(), ok, "{origin}");
        }
    }

    #[test]
    fn the_scheme_of_a_token_has_no_case() {
        assert_eq!(
            bearer(&headers(&[("authorization", "bearer abc")])),
            Some("abc")
        );
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
        assert_eq!(bearer(&headers(&[("authorization", "Bearer ")])), None);
    }
}
