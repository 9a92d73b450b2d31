//! What is in the log and in the tables: any bytes are a value or an error, and a value comes back
//! as it was. Keys sort as their bytes do.
//!
//! Input: which format (1 byte), the bytes. Where two things are needed, the first has its length in
//! front (1 byte).

use std::fmt::{Debug, Display};

use bytes::Bytes;
use raft_store::encoding::{
    decode_answers, decode_batch, decode_command, decode_key, decode_message, decode_record,
    encode_answers, encode_batch, encode_command, encode_key, encode_message, encode_record,
};
use raft_store::entry::{decode_applied, decode_entry, encode_applied, encode_entry};

/// Panics if something is wrong.
pub(crate) fn check(input: &[u8]) {
    let Some((&format, rest)) = input.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    match format % 9 {
        0 => again(bytes, decode_entry, |entry| encode_entry(entry).into()),
        1 => again(bytes, decode_batch, encode_batch),
        2 => again(bytes, decode_command, encode_command),
        3 => again(bytes, decode_answers, encode_answers),
        4 => again(bytes, decode_message, encode_message),
        5 => again(
            bytes,
            |bytes| decode_applied(&bytes),
            |(applied, membership)| encode_applied(applied, membership).into(),
        ),
        6 => check_key(rest),
        7 => check_order(rest),
        _ => check_record(rest),
    }
}

fn again<T: PartialEq + Debug, E: PartialEq + Debug + Display>(
    bytes: Bytes,
    decode: impl Fn(Bytes) -> Result<T, E>,
    encode: impl Fn(&T) -> Bytes,
) {
    match decode(bytes) {
        Ok(value) => {
            let encoded = encode(&value);
            let decoded = decode(encoded.clone());
            assert_eq!(decoded.as_ref(), Ok(&value));
            assert_eq!(encode(&value), encoded);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A key is the only encoding of what it names.
fn check_key(bytes: &[u8]) {
    if let Ok(key) = decode_key(bytes) {
        assert_eq!(encode_key(&key), bytes);
    }
}

fn check_order(bytes: &[u8]) {
    let Some((one, other)) = split(bytes) else {
        return;
    };
    if let (Ok(one_key), Ok(other_key)) = (decode_key(one), decode_key(other)) {
        assert_eq!(one_key.cmp(&other_key), one.cmp(other));
    }
}

/// The key says what the value is.
fn check_record(bytes: &[u8]) {
    let Some((key, record)) = split(bytes) else {
        return;
    };
    if let Ok(key) = decode_key(key) {
        again(
            Bytes::copy_from_slice(record),
            |bytes| decode_record(&key, bytes),
            |record| encode_record(record).into(),
        );
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}
