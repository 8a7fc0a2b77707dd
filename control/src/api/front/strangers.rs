//! Those who have proved nothing yet, at each door, by their age.

use std::collections::BTreeMap;

use super::accept::Door;

/// Strangers by door and number: the smaller, the longer they are here.
#[derive(Debug)]
pub(super) struct Strangers<T>(BTreeMap<Door, BTreeMap<u64, T>>);

impl<T> Default for Strangers<T> {
    fn default() -> Self {
        Strangers(BTreeMap::new())
    }
}

impl<T> Strangers<T> {
    /// At all doors.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub(super) fn insert(&mut self, door: Door, number: u64, stranger: T) {
        self.0.entry(door).or_default().insert(number, stranger);
    }

    pub(super) fn remove(&mut self, door: Door, number: u64) {
        if let Some(own) = self.0.get_mut(&door) {
            own.remove(&number);
        }
    }

    /// The one that goes where one more comes to `door`: the oldest of that door, unless there are
    /// more at another one. So no door fills more than its share of the room that all need.
    pub(super) fn pop(&mut self, door: Door) -> Option<T> {
        let most = self.0.iter_mut().max_by_key(|(at, those)| (those.len(), **at == door));
        most.and_then(|(_, those)| those.pop_first()).map(|(_, stranger)| stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many come to a door, of four who have room.
    fn come(strangers: &mut Strangers<Door>, door: Door, count: u64) {
        for number in 0..count {
            if strangers.len() == 4 {
                strangers.pop(door);
            }
            strangers.insert(door, 100 + number, door);
        }
    }

    #[test]
    fn a_flood_at_one_door_leaves_room_to_another() {
        let mut strangers = Strangers::default();
        strangers.insert(Door::Grpc, 0, Door::Grpc);
        come(&mut strangers, Door::Http, 50);
        let at =
            |strangers: &Strangers<Door>| [Door::Grpc, Door::Http].map(|it| strangers.0[&it].len());
        assert_eq!(at(&strangers), [1, 3]);
        assert!(strangers.0[&Door::Grpc].contains_key(&0), "it was here before all others");
        assert!(strangers.0[&Door::Http].contains_key(&149), "the latest stay");
        come(&mut strangers, Door::Grpc, 50);
        assert_eq!(at(&strangers), [2, 2]);
        strangers.remove(Door::Http, 149);
        strangers.remove(Door::Http, 148);
        assert_eq!(strangers.pop(Door::Http), Some(Door::Grpc));
        assert_eq!(strangers.len(), 1);
    }
}
