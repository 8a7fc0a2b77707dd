//! Sessions come and go at random, and old peers write with what they knew.

use ferry_core::{SessionId, Status};
use ferry_memory::Slot;
use ferry_rdma::verbs::CompletionStatus;
use ferry_rdma::{Fence, RdmaListener, RdmaOptions};
use ferry_transport::{Event, Listener};

use crate::door::options;
use crate::raw::{Host, LAYOUT, MARK, Peer, admission, poll};

/// Sessions opened, ended or resumed, and strikes of old peers: 10,200 over the three fences.
const EVENTS: usize = 3400;

/// Sessions that are open at once.
const LIVE: usize = 6;

/// Old peers that are kept to strike again.
const OLD: usize = 8;

/// Numbers that look random and are the same on every run with the same seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

/// A session whose memory the server holds, filled with its own number.
struct Live<'h> {
    peer: Peer<'h>,
    session: u64,
    slots: Vec<Slot>,
    fill: u8,
}

impl<'h> Live<'h> {
    fn open(
        host: &'h Host,
        listener: &mut RdmaListener,
        session: u64,
        generation: u32,
    ) -> Live<'h> {
        let peer = Peer::open(host, listener, admission(session, generation), true);
        // Two requests, so that the server holds both slots.
        let mut slots = Vec::new();
        for slot in 0..LAYOUT.slots {
            peer.request(slot, 0);
        }
        while slots.len() < LAYOUT.slots as usize {
            let mut events = Vec::new();
            poll(listener, &mut events);
            slots.extend(events.into_iter().filter_map(|event| match event {
                Event::Arrived { slot, frame, .. } if frame.session.0 == session => Some(slot),
                _ => None,
            }));
        }
        // What no peer ever writes.
        let fill = u8::try_from(session % 200).unwrap() + 1;
        let mut live = Live { peer, session, slots, fill };
        for slot in &mut live.slots {
            slot.request_mut().copy_in(0, &vec![fill; 3000]).unwrap();
        }
        live
    }

    /// Whether the memory is still as it was filled.
    fn is_intact(&self) -> bool {
        let mut seen = vec![0; 3000];
        self.slots.iter().all(|slot| {
            slot.request().copy_out(0, &mut seen).unwrap();
            seen.iter().all(|&byte| byte == self.fill)
        })
    }
}

/// Opens, ends, kills, resumes and strikes, [`EVENTS`] times in all.
fn play(fence: Fence, shared: bool, seed: u64) {
    let host = Host::open();
    let options = RdmaOptions { fence, trust_window_bounds: shared, ..options() };
    let mut listener = RdmaListener::open(options).unwrap();
    let mut dice = Dice(seed);
    let mut next = 1_u64;
    let mut live: Vec<Live<'_>> = Vec::new();
    let mut old: Vec<Peer<'_>> = Vec::new();
    let mut events = 0;
    while events < EVENTS {
        while live.len() < LIVE {
            live.push(Live::open(&host, &mut listener, next, 1));
            next += 1;
            events += 1;
        }
        let at = dice.roll(live.len());
        let victim = live.swap_remove(at);
        let (id, key) = (SessionId(victim.session), victim.peer.key);
        match dice.roll(3) {
            // Closed or expired: the peer writes on at that moment, with its own queue pair.
            0 => {
                listener.evict(id, Status::SessionEnded);
                let status = strike(&victim.peer, &mut listener);
                // A registration's own key is good until the memory, which nobody gets before, is
                // let go of; a window's is not good from the first moment on.
                let may_land = fence == Fence::Registration;
                assert!(may_land || !status.is_success(), "a closed session's key was good");
                old.push(victim.peer);
            }
            // Killed: the queue pair goes with the process, and somebody else has seen the keys.
            1 => {
                let spy = Peer::open(&host, &mut listener, admission(next, 1), true);
                next += 1;
                drop(victim.peer);
                listener.evict(id, Status::SessionEnded);
                let status = spy.strike(&mut listener, key.address, key.remote_key, 2500);
                assert!(!status.is_success(), "a key of a killed session was good: {status}");
                listener.evict(spy.admission.session, Status::SessionEnded);
                events += 2;
            }
            // Resumed: the next lease is live, perhaps in the same memory, and the old peer writes.
            _ => {
                listener.evict(id, Status::SessionEnded);
                let next =
                    Live::open(&host, &mut listener, id.0, victim.peer.admission.generation.0 + 1);
                strike(&victim.peer, &mut listener);
                live.push(next);
                old.push(victim.peer);
                events += 1;
            }
        }
        drop(victim.slots);
        events += 2;
        // Much later, when the device does not know the queue pair any more.
        if old.len() > OLD {
            let peer = old.swap_remove(dice.roll(OLD));
            strike(&peer, &mut listener);
            events += 1;
        }
        old.truncate(OLD + 1);
        for it in &live {
            assert!(it.is_intact(), "session {} was written from outside", it.session);
        }
    }
    // The mark itself would have been seen.
    assert!(live.iter().all(|it| it.fill != MARK));
}

/// An old peer writes with the key that it had, all over the first slot that it had.
fn strike(peer: &Peer<'_>, listener: &mut RdmaListener) -> CompletionStatus {
    peer.strike(listener, peer.key.address + 4096, peer.key.remote_key, 3000)
}

#[test]
fn stale_writes_change_nothing_with_windows_into_shared_memory() {
    play(Fence::Window, true, 0x5eed_0001);
}

#[test]
fn stale_writes_change_nothing_with_windows_into_memory_of_ones_own() {
    play(Fence::Window, false, 0x5eed_0002);
}

#[test]
fn stale_writes_change_nothing_with_registrations() {
    play(Fence::Registration, false, 0x5eed_0003);
}
