//! Everything that goes wrong over HTTP, as a problem document (RFC 9457).

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What a request is answered that cannot be carried out. On the heap, since it is seldom there.
#[derive(Debug)]
pub(super) struct Problem(Box<Document>);

#[derive(Debug)]
struct Document {
    status: StatusCode,
    detail: String,
    members: Map<String, Value>,
    headers: HeaderMap,
}

impl Problem {
    /// `detail` is a sentence for the person who sent the request.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            status,
            detail: detail.into(),
            members: Map::new(),
            headers: HeaderMap::new(),
        }))
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// The node serves nobody: a majority of the nodes does not answer it.
    pub(super) fn no_quorum() -> Self {
        Self::unavailable("this node has no quorum, try again or ask another node")
            .with("code", json!("no_quorum"))
    }

    /// A node that has to be asked does not answer.
    pub(super) fn unreachable(node: raft_store::NodeId) -> Self {
        Self::unavailable(format!("node {node} does not answer")).with("node", json!(node.0))
    }

    /// The contract names it, and a later version has it.
    pub(super) fn not_available() -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not available in this version")
    }

    /// Adds a member for programs.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.0.members.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Document {
            status,
            detail,
            members: mut document,
            headers,
        } = *self.0;
        document.insert("type".to_owned(), json!("about:blank"));
        let title = status.canonical_reason().unwrap_or("Error");
        document.insert("title".to_owned(), json!(title));
        document.insert("status".to_owned(), json!(status.as_u16()));
        document.insert("detail".to_owned(), json!(detail));
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let body = format!("{}\n", Value::Object(document));
        (status, headers, content_type, body).into_response()
    }
}

/// `value` as the answer to a request.
pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{value}\n"),
    )
        .into_response()
}

/// The same for a request that was carried out.
pub(super) fn ok(value: &Value) -> Response {
    json_answer(StatusCode::OK, value)
}
