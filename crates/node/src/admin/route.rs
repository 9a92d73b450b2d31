//! Every route, with who may use it. `docs/api/openapi.yaml` describes the same ones: a test compares.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};

use super::guard::{Access, Gate, guard};
use super::problem::Problem;
use super::token::Role;
use super::{
    Answers, alerts, clients, members, probes, publish, retained, sessions, settings, stream,
    subscriptions,
};

type State = Arc<Answers>;

/// One method of one path.
struct Route {
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<State>,
}

impl Route {
    fn new<H, T>(method: &Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, State>,
        T: 'static,
    {
        let filter = match *method {
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::DELETE => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        Self {
            method: method.clone(),
            path,
            access,
            handler: on(filter, handler),
        }
    }
}

fn get<H: Handler<T, State>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route::new(&Method::GET, path, Access::Role(Role::Viewer), handler)
}

fn operate<H: Handler<T, State>, T: 'static>(
    method: &Method,
    path: &'static str,
    handler: H,
) -> Route {
    Route::new(method, path, Access::Role(Role::Operator), handler)
}

fn administer<H: Handler<T, State>, T: 'static>(
    method: &Method,
    path: &'static str,
    handler: H,
) -> Route {
    Route::new(method, path, Access::Role(Role::Admin), handler)
}

fn open<H: Handler<T, State>, T: 'static>(path: &'static str, handler: H) -> Route {
    Route::new(&Method::GET, path, Access::Open, handler)
}

/// All of them, as OpenAPI writes paths.
fn routes() -> Vec<Route> {
    let mut routes = vec![
        open("/livez", probes::live),
        open("/startupz", probes::started),
        open("/readyz", probes::ready),
        Route::new(&Method::GET, "/metrics", Access::Metrics, probes::metrics),
        open("/version", probes::version),
    ];
    routes.extend(reading());
    routes.extend(changing());
    routes.extend(later());
    routes
}

fn reading() -> Vec<Route> {
    vec![
        get("/api/v1/cluster", members::cluster),
        get("/api/v1/shards", members::shards),
        get("/api/v1/nodes/{id}", members::node),
        get(
            "/api/v1/nodes/{id}/quorum-critical",
            members::quorum_critical,
        ),
        get("/api/v1/clients", clients::list),
        get("/api/v1/clients/{id}", clients::one),
        get("/api/v1/sessions/{id}", sessions::one),
        get("/api/v1/sessions/{id}/queue", sessions::queue),
        get("/api/v1/sessions/{id}/inflight", sessions::in_flight),
        get(
            "/api/v1/sessions/{id}/subscriptions",
            subscriptions::of_session,
        ),
        get("/api/v1/subscriptions", subscriptions::list),
        get("/api/v1/topics/match", subscriptions::matching),
        get("/api/v1/retained", retained::list),
        get("/api/v1/retained/{topic}", retained::one),
        get("/api/v1/events", stream::events),
        get("/api/v1/alerts", alerts::list),
        administer(&Method::GET, "/api/v1/config", settings::show),
    ]
}

fn changing() -> Vec<Route> {
    let (post, delete, put) = (&Method::POST, &Method::DELETE, &Method::PUT);
    vec![
        operate(post, "/api/v1/cluster/leaders/transfer", members::transfer),
        operate(post, "/api/v1/cluster/leaders/balance", members::balance),
        operate(post, "/api/v1/nodes/{id}/drain", members::drain),
        operate(post, "/api/v1/nodes/{id}/undrain", members::undrain),
        operate(delete, "/api/v1/clients/{id}", clients::kick),
        administer(delete, "/api/v1/sessions/{id}", sessions::purge),
        operate(delete, "/api/v1/retained", retained::clear_matching),
        operate(delete, "/api/v1/retained/{topic}", retained::clear_one),
        operate(post, "/api/v1/publish", publish::publish),
        operate(post, "/api/v1/tls/reload", settings::reload_tls),
        operate(post, "/api/v1/config/reload", settings::reload_config),
        administer(put, "/api/v1/log/level", settings::set_level),
    ]
}

/// Reserved: their feature comes later.
fn later() -> Vec<Route> {
    let (post, delete) = (&Method::POST, &Method::DELETE);
    vec![
        administer(post, "/api/v1/cluster/members", settings::not_available),
        administer(
            delete,
            "/api/v1/cluster/members/{id}",
            settings::not_available,
        ),
        administer(post, "/api/v1/backup", settings::not_available),
        operate(post, "/api/v1/trace", settings::not_available),
        get("/api/v1/trace/{id}", settings::not_available),
    ]
}

/// The service of the port.
pub(super) fn router(answers: &Arc<Answers>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let gate = Gate {
            guard: Arc::clone(&answers.guard),
            access: route.access,
            is_change: route.method != Method::GET,
        };
        let handler = route.handler.layer(from_fn_with_state(gate, guard));
        // A topic has slashes, which people do not escape.
        let path = route.path.replace("{topic}", "{*topic}");
        router = router.route(&path, handler);
    }
    router
        .fallback(|| async { Problem::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async {
            let detail =
                "this route does not take this method; the header Allow names those it takes";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .with_state(Arc::clone(answers))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OPENAPI: &str = include_str!("../../../../docs/api/openapi.yaml");

    /// The methods of the paths in the file, which has a path at two spaces and a method at four.
    fn described() -> BTreeSet<(String, String)> {
        let mut described = BTreeSet::new();
        let mut path = None;
        let lines = OPENAPI.lines().skip_while(|line| *line != "paths:").skip(1);
        for line in lines.take_while(|line| line.is_empty() || line.starts_with(' ')) {
            let indent = line.len() - line.trim_start().len();
            let key = line.trim().trim_end_matches(':');
            match indent {
                2 => path = Some(key.to_owned()),
                4 if ["get", "post", "put", "delete"].contains(&key) => {
                    described.insert((path.clone().unwrap(), key.to_uppercase()));
                }
                _ => {}
            }
        }
        described
    }

    #[test]
    fn the_openapi_file_has_exactly_these_routes() {
        let routed: BTreeSet<(String, String)> = routes()
            .iter()
            .map(|route| (route.path.to_owned(), route.method.to_string()))
            .collect();
        let described = described();
        let missing: Vec<_> = routed.difference(&described).collect();
        let unknown: Vec<_> = described.difference(&routed).collect();
        assert!(missing.is_empty(), "not described: {missing:?}");
        assert!(unknown.is_empty(), "described, but not there: {unknown:?}");
    }

    #[test]
    fn nothing_that_changes_something_is_open_or_for_viewers() {
        for route in routes() {
            if route.method != Method::GET {
                let (path, access) = (route.path, route.access);
                assert!(
                    matches!(access, Access::Role(Role::Operator | Role::Admin)),
                    "{path}"
                );
            }
        }
    }
}
