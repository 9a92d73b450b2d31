//! What a request brings along, read strictly: a parameter that is not known is a mistake of whoever
//! sent it, not something to pass over.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use codec::ClientId;
use futures::StreamExt as _;
use raft_store::NodeId;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Entries of a page when nobody says how many.
const LIMIT_DEFAULT: usize = 100;
/// Entries of a page at most.
pub(super) const LIMIT_MAX: usize = 1_000;
/// Bytes of a request's body; `POST /publish` takes more.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// The parameters after `?`.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let parsed = serde_urlencoded::from_str(query);
        parsed
            .map(Self)
            .map_err(|error| Problem::bad_request(format!("the parameters after ?: {error}")))
    }
}

/// A request without parameters.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

/// A parameter in the path; what is no such thing is not there.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name))
            .map_err(|error| Problem::not_found(error.body_text()))
    }
}

impl Name {
    pub(super) fn client_id(&self) -> Result<ClientId, Problem> {
        ClientId::new(&self.0)
            .map_err(|error| Problem::not_found(format!("there is no such client id: {error}")))
    }

    pub(super) fn node(&self) -> Result<NodeId, Problem> {
        let node = self.0.parse().map(NodeId);
        node.map_err(|error| Problem::not_found(format!("a node is named by a number: {error}")))
    }
}

/// A JSON object in the body.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read_json(request, BODY_BYTES_MAX).await.map(Self)
    }
}

/// Reads a body of at most so many bytes.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: Request,
    bytes_max: usize,
) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let declared = parts.headers.get(header::CONTENT_LENGTH);
    let declared: Option<usize> = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let bytes = read_body(body, bytes_max).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::bad_request(format!("the JSON of the body: {error}")))
}

/// A browser sends other types across origins without asking.
fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if content_type.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body must be JSON, with the header content-type: application/json",
    ))
}

async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
        if read.len().saturating_add(chunk.len()) > bytes_max {
            return Err(too_large(bytes_max));
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {bytes_max} bytes"),
    )
}

/// How many entries a page has.
pub(super) fn limit(asked: Option<u32>) -> Result<usize, Problem> {
    let Some(asked) = asked else {
        return Ok(LIMIT_DEFAULT);
    };
    usize::try_from(asked)
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| Problem::bad_request(format!("limit is from 1 to {LIMIT_MAX}")))
}
