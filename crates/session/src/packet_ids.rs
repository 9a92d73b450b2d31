//! The packet ids in flight to the client, and the next free one.
//!
//! Invariants: an id in flight names one position; no id is given twice while it is in flight
//! [MQTT-2.2.1-4]. An id rests as long as possible after its acknowledgement, since ids are given in
//! a circle: a client that confuses old and new exchanges is not provoked.

use std::collections::BTreeMap;

use codec::PacketId;

/// Packet id → position, and the last id given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PacketIds {
    in_flight: BTreeMap<PacketId, u64>,
    last: Option<PacketId>,
}

impl PacketIds {
    /// No id in flight; the next one follows `last`.
    pub(crate) fn starting_after(last: Option<PacketId>) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            last,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn last(&self) -> Option<PacketId> {
        self.last
    }

    /// The position in flight under this id.
    pub(crate) fn position(&self, packet_id: PacketId) -> Option<u64> {
        self.in_flight.get(&packet_id).copied()
    }

    /// Gives the next free id to `position`. `None` when all 65,535 are in flight, which a window
    /// cannot reach. O(ids in use right after the last one given).
    pub(crate) fn assign(&mut self, position: u64) -> Option<PacketId> {
        let first = self.last.map_or(PacketId::MIN, successor);
        let id = self
            .free_from(first)
            .or_else(|| self.free_from(PacketId::MIN))?;
        self.in_flight.insert(id, position);
        self.last = Some(id);
        Some(id)
    }

    /// Takes an id back into flight as stored; `false` if it is in flight already.
    pub(crate) fn restore(&mut self, packet_id: PacketId, position: u64) -> bool {
        self.in_flight.insert(packet_id, position).is_none()
    }

    /// The id is free again.
    pub(crate) fn release(&mut self, packet_id: PacketId) {
        self.in_flight.remove(&packet_id);
    }

    /// The first free id from `first` up to 65,535.
    fn free_from(&self, first: PacketId) -> Option<PacketId> {
        let mut candidate = first;
        for &taken in self.in_flight.range(first..).map(|(id, _)| id) {
            if taken != candidate {
                break;
            }
            candidate = PacketId::new(candidate.get().checked_add(1)?)?;
        }
        Some(candidate)
    }
}

/// The id after this one in the circle that leaves out 0.
fn successor(id: PacketId) -> PacketId {
    PacketId::new(id.get().wrapping_add(1)).unwrap_or(PacketId::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    fn ids(last: u16, taken: &[u16]) -> PacketIds {
        let mut ids = PacketIds::starting_after(PacketId::new(last));
        for &value in taken {
            assert!(ids.restore(id(value), u64::from(value)));
        }
        ids
    }

    /// [MQTT-2.2.1-4]
    #[test]
    fn the_next_id_is_free_and_never_zero() {
        for (last, taken, expected) in [
            (0, [].as_slice(), 1),
            (1, &[], 2),
            (1, &[2, 3, 5], 4),
            (3, &[1, 2, 3], 4),
            (65_534, &[], 65_535),
            (65_535, &[], 1),
            (65_534, &[65_535], 1),
            (65_533, &[65_534, 65_535, 1, 2], 3),
            (65_535, &[1, 65_535], 2),
        ] {
            assert_eq!(
                ids(last, taken).assign(9),
                Some(id(expected)),
                "{last} {taken:?}"
            );
        }
    }

    #[test]
    fn all_65535_ids_can_be_in_flight_and_none_beyond() {
        let mut ids = ids(40_000, &[]);
        for position in 0..65_535 {
            assert!(ids.assign(position).is_some());
        }
        assert_eq!(ids.len(), 65_535);
        assert_eq!(ids.assign(65_535), None);
        ids.release(id(7));
        assert_eq!(ids.assign(65_536), Some(id(7)));
        assert_eq!(ids.position(id(7)), Some(65_536));
    }

    #[test]
    fn an_id_just_released_is_not_given_again_at_once() {
        let mut ids = ids(0, &[]);
        let first = ids.assign(1).unwrap();
        ids.release(first);
        assert_eq!(ids.assign(2), Some(id(2)));
        assert_eq!(ids.position(first), None);
    }
}
