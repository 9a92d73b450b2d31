//! What nodes say to each other, up to the point where it is plain values of checked types: any
//! bytes are that or an error.
//!
//! Input: which message (1 byte), its bytes.

use std::fmt::Debug;

use bytes::Bytes;
use codec::{ClientId, TopicFilter};
use prost::Message;
use raft_store::decode_message;
use raft_store::encoding::{decode_answers, decode_batch, decode_command};
use raft_store::entry::{decode_entry, encode_entry};
use raft_store::network::{append_result, transfer_answer};
use raft_store::proto::holdfast::propose::v1 as propose;
use raft_store::proto::holdfast::raft::v1 as raft;
use raft_store::service::{append_from_wire, vote_request_from_wire};

use crate::proto::live_frame::Kind as FrameKind;
use crate::proto::live_item::Kind as ItemKind;
use crate::proto::{
    AnnouncedReply, AnnouncedRequest, AwaitSeenReply, AwaitSeenRequest, HeartbeatReply,
    HeartbeatRequest, LiveAck, LiveFrame,
};

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let Some((&message, rest)) = input.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    match message % 14 {
        0 => append(bytes),
        1 => drop(again::<raft::VoteRequest>(bytes).map(vote_request_from_wire)),
        2 => drop(again::<raft::AppendResponse>(bytes).map(append_result)),
        3 => drop(again::<raft::TransferLeaderResponse>(bytes).map(transfer_answer)),
        4 => same::<raft::TransferLeaderRequest>(bytes),
        5 => proposal(bytes),
        6 => answers(bytes),
        7 => same::<HeartbeatRequest>(bytes),
        8 => same::<HeartbeatReply>(bytes),
        9 => same::<AwaitSeenRequest>(bytes),
        10 => same::<AwaitSeenReply>(bytes),
        11 => same::<AnnouncedRequest>(bytes),
        12 => announced(bytes),
        _ => live(bytes),
    }
}

fn same<M: Message + Default + PartialEq + Debug>(bytes: Bytes) {
    again::<M>(bytes);
}

/// The message, if the bytes are one; then it comes back as it was.
fn again<M: Message + Default + PartialEq + Debug>(bytes: Bytes) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    assert_eq!(M::decode(&encoded[..]).as_ref(), Ok(&message));
    Some(message)
}

fn append(bytes: Bytes) {
    let Some(request) = again::<raft::AppendRequest>(bytes) else {
        return;
    };
    let Ok(append) = append_from_wire(request) else {
        return;
    };
    for entry in append.entries {
        let stored = encode_entry(&entry).into();
        assert_eq!(decode_entry(stored), Ok(entry));
    }
}

fn proposal(bytes: Bytes) {
    let batch = again::<propose::ProposeRequest>(bytes).map(|request| decode_batch(request.batch));
    if let Some(Ok(batch)) = batch {
        for command in batch.commands {
            drop(decode_command(command));
        }
    }
}

fn answers(bytes: Bytes) {
    let reply = again::<propose::ProposeReply>(bytes).and_then(|reply| reply.outcome);
    if let Some(propose::propose_reply::Outcome::Answers(answers)) = reply {
        drop(decode_answers(answers));
    }
}

fn announced(bytes: Bytes) {
    for filter in again::<AnnouncedReply>(bytes).unwrap_or_default().filters {
        drop(TopicFilter::try_from(filter.as_str()));
    }
}

fn live(bytes: Bytes) {
    same::<LiveAck>(bytes.clone());
    let Some(FrameKind::Item(item)) = again::<LiveFrame>(bytes).and_then(|frame| frame.kind) else {
        return;
    };
    match item.kind {
        Some(ItemKind::Publish(publish)) => {
            drop(ClientId::new(&publish.client_id));
            drop(decode_message(publish.message));
        }
        Some(ItemKind::Announcement(announcement)) => {
            drop(TopicFilter::try_from(announcement.filter.as_str()));
        }
        Some(ItemKind::Snapshot(snapshot)) => {
            for filter in snapshot.filters {
                drop(TopicFilter::try_from(filter.as_str()));
            }
        }
        Some(ItemKind::Fence(fence)) => drop(ClientId::new(&fence.client_id)),
        Some(ItemKind::Shared(shared)) => {
            drop(ClientId::new(&shared.client_id));
            drop(TopicFilter::try_from(shared.filter.as_str()));
            drop(decode_message(shared.message));
        }
        Some(ItemKind::SharedOutcome(_)) | None => {}
    }
}
