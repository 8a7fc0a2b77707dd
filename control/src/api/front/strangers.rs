//! Those who have proved nothing yet, at each door, by their age.

use std::collections::BTreeMap;

use super::accept::Door;

/// Strangers by door and number: the smaller, the longer they are here.
#[derive(Debug)]
pub(super) struct Strangers<T> {
    of_grpc: BTreeMap<u64, T>,
    of_http: BTreeMap<u64, T>,
}

impl<T> Default for Strangers<T> {
    fn default() -> Self {
        Strangers { of_grpc: BTreeMap::new(), of_http: BTreeMap::new() }
    }
}

impl<T> Strangers<T> {
    /// Those of a door, and those of the other one.
    fn of(&mut self, door: Door) -> [&mut BTreeMap<u64, T>; 2] {
        let Strangers { of_grpc, of_http } = self;
        match door {
            Door::Grpc => [of_grpc, of_http],
            Door::Http => [of_http, of_grpc],
        }
    }

    /// At both doors.
    pub(super) fn len(&self) -> usize {
        self.of_grpc.len() + self.of_http.len()
    }

    pub(super) fn insert(&mut self, door: Door, number: u64, stranger: T) {
        let [own, _] = self.of(door);
        own.insert(number, stranger);
    }

    pub(super) fn remove(&mut self, door: Door, number: u64) {
        let [own, _] = self.of(door);
        own.remove(&number);
    }

    /// The one that goes where one more comes to `door`: the oldest of that door, unless there are
    /// more at the other one. So neither door fills more than half of the room that both need.
    pub(super) fn pop(&mut self, door: Door) -> Option<T> {
        let [own, other] = self.of(door);
        let most = if other.len() > own.len() { other } else { own };
        most.pop_first().map(|(_, stranger)| stranger)
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
    fn a_flood_at_one_door_leaves_half_of_the_room_to_the_other() {
        let mut strangers = Strangers::default();
        strangers.insert(Door::Grpc, 0, Door::Grpc);
        come(&mut strangers, Door::Http, 50);
        assert_eq!((strangers.of_grpc.len(), strangers.of_http.len()), (1, 3));
        assert!(strangers.of_grpc.contains_key(&0), "it was here before all others");
        assert!(strangers.of_http.contains_key(&149), "the latest stay");
        come(&mut strangers, Door::Grpc, 50);
        assert_eq!((strangers.of_grpc.len(), strangers.of_http.len()), (2, 2));
        strangers.remove(Door::Http, 149);
        strangers.remove(Door::Http, 148);
        assert_eq!(strangers.pop(Door::Http), Some(Door::Grpc));
        assert_eq!(strangers.len(), 1);
    }
}
