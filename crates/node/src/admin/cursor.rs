//! Where the next page begins: opaque to clients, so that it can change.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The text of a place.
pub(super) fn encode<T: Serialize>(place: &T) -> Option<String> {
    let json = serde_json::to_vec(place).ok()?;
    Some(URL_SAFE_NO_PAD.encode(json))
}

/// The place, if the text came from [`encode`].
pub(super) fn decode<T: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else {
        return Ok(None);
    };
    let place = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok());
    place.map(Some).ok_or_else(|| {
        Problem::bad_request("cursor is not one that this API gave: take next_cursor of a page")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_anything_else_refused() {
        let place = ("größer/als".to_owned(), 7_u64);
        let cursor = encode(&place).unwrap();
        assert_eq!(decode(Some(&cursor)).unwrap(), Some(place));
        assert_eq!(decode::<(String, u64)>(None).unwrap(), None);
        let torn: String = cursor.chars().skip(1).collect();
        for wrong in ["", "x", "e30", "%", torn.as_str()] {
            assert!(decode::<(String, u64)>(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
