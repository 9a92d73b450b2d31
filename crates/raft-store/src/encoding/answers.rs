//! The answers to a batch.

use bytes::Bytes;

use super::field::{present, reason_code_from_proto};
use super::proto::response::Kind;
use super::{EncodingError, from_bytes, proto, to_bytes};
use crate::command::{Answers, Refusal, Response};
use crate::ids::{Epoch, Incarnation};

/// `answers` as bytes.
#[must_use]
pub fn encode_answers(answers: &Answers) -> Bytes {
    to_bytes(&proto::Answers {
        responses: responses_to_proto(answers),
    })
}

/// Reads answers.
///
/// # Errors
/// What is broken.
pub fn decode_answers(bytes: Bytes) -> Result<Answers, EncodingError> {
    let answers: proto::Answers = from_bytes("Answers", bytes)?;
    responses_from_proto(answers.responses)
}

pub(super) fn responses_to_proto(responses: &[Response]) -> Vec<proto::Response> {
    responses.iter().map(response_to_proto).collect()
}

pub(super) fn responses_from_proto(
    responses: Vec<proto::Response>,
) -> Result<Answers, EncodingError> {
    responses.into_iter().map(response_from_proto).collect()
}

fn response_to_proto(response: &Response) -> proto::Response {
    let kind = match response {
        Response::Done => Kind::Done(proto::Nothing {}),
        Response::Refused(refusal) => Kind::Refused(refusal_to_proto(*refusal).into()),
        Response::NodeUp { incarnation } => Kind::NodeUp(incarnation.0),
        Response::Connected {
            epoch,
            session_present,
            hosted,
            formers,
        } => Kind::Connected(proto::Connected {
            epoch: epoch.0,
            session_present: *session_present,
            hosted: *hosted,
            formers: *formers,
        }),
        Response::Subscribed { existed } => Kind::Subscribed(proto::Existed {
            existed: existed.clone(),
        }),
        Response::Unsubscribed { existed } => Kind::Unsubscribed(proto::Existed {
            existed: existed.clone(),
        }),
        Response::Published { matched, rejected } => Kind::Published(proto::Published {
            matched: *matched,
            rejected: *rejected,
        }),
        Response::Received { first } => Kind::Received(*first),
        Response::ReceiveMaximumExceeded => Kind::ReceiveMaximumExceeded(proto::Nothing {}),
        Response::Released { reason_code } => Kind::Released(reason_code.as_u8().into()),
        Response::RetainedSet { version } => Kind::RetainedSet(*version),
        Response::RetainedFull => Kind::RetainedFull(proto::Nothing {}),
        Response::RetainedDelivered { dropped } => Kind::RetainedDelivered(*dropped),
        Response::Claimed { claimed } => Kind::Claimed(*claimed),
        Response::TookOutbox { refused } => Kind::TookOutbox(proto::TookOutbox {
            refused: refused.clone(),
        }),
    };
    proto::Response { kind: Some(kind) }
}

fn response_from_proto(response: proto::Response) -> Result<Response, EncodingError> {
    Ok(match present("Response.kind", response.kind)? {
        Kind::Done(proto::Nothing {}) => Response::Done,
        Kind::Refused(refusal) => Response::Refused(refusal_from_proto(refusal)?),
        Kind::NodeUp(incarnation) => Response::NodeUp {
            incarnation: Incarnation(incarnation),
        },
        Kind::Connected(connected) => Response::Connected {
            epoch: Epoch(connected.epoch),
            session_present: connected.session_present,
            hosted: connected.hosted,
            formers: connected.formers,
        },
        Kind::Subscribed(proto::Existed { existed }) => Response::Subscribed { existed },
        Kind::Unsubscribed(proto::Existed { existed }) => Response::Unsubscribed { existed },
        Kind::Published(published) => Response::Published {
            matched: published.matched,
            rejected: published.rejected,
        },
        Kind::Received(first) => Response::Received { first },
        Kind::ReceiveMaximumExceeded(proto::Nothing {}) => Response::ReceiveMaximumExceeded,
        Kind::Released(code) => Response::Released {
            reason_code: reason_code_from_proto("Response.released", code)?,
        },
        Kind::RetainedSet(version) => Response::RetainedSet { version },
        Kind::RetainedFull(proto::Nothing {}) => Response::RetainedFull,
        Kind::RetainedDelivered(dropped) => Response::RetainedDelivered { dropped },
        Kind::Claimed(claimed) => Response::Claimed { claimed },
        Kind::TookOutbox(proto::TookOutbox { refused }) => Response::TookOutbox { refused },
    })
}

const fn refusal_to_proto(refusal: Refusal) -> proto::Refusal {
    match refusal {
        Refusal::StaleEpoch => proto::Refusal::StaleEpoch,
        Refusal::StaleIncarnation => proto::Refusal::StaleIncarnation,
        Refusal::Malformed => proto::Refusal::Malformed,
        Refusal::NotOwner => proto::Refusal::NotOwner,
    }
}

fn refusal_from_proto(refusal: i32) -> Result<Refusal, EncodingError> {
    match proto::Refusal::try_from(refusal) {
        Ok(proto::Refusal::StaleEpoch) => Ok(Refusal::StaleEpoch),
        Ok(proto::Refusal::StaleIncarnation) => Ok(Refusal::StaleIncarnation),
        Ok(proto::Refusal::Malformed) => Ok(Refusal::Malformed),
        Ok(proto::Refusal::NotOwner) => Ok(Refusal::NotOwner),
        Ok(proto::Refusal::Unspecified) | Err(_) => Err(EncodingError::Missing {
            field: "Response.refused",
        }),
    }
}
