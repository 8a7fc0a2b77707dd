//! The bare loop over shared memory: one copy and two flags, spinning or on a shared futex.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use ferry_client::WaitPolicy;
use ferry_core::SlotLayout;
use ferry_memory::{Backing, MemoryError, Region, SharedBacking, Word};

use super::bare::{Bare, source, thread};
use super::pair::Plan;
use crate::Error;

/// Where the request starts: behind the flags, at a page.
const REQUEST_AT: usize = 4096;
/// The two flags lie on cache lines of their own.
const ANSWERED_AT: usize = 128;
/// Longest sleep: only a guard against a lost wake-up, which would show in the times.
const SLEEP_MAX: Duration = Duration::from_millis(200);

pub(super) struct BareShm {
    memory: Arc<SharedBacking>,
    flags: Flags,
    number: u32,
    source: Vec<u8>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

struct Flags {
    asked: Word,
    answered: Word,
    sleeps: bool,
}

impl Flags {
    fn new(memory: &Arc<SharedBacking>, wait: WaitPolicy) -> Result<Flags, MemoryError> {
        Ok(Flags {
            asked: Word::new(memory, 0)?,
            answered: Word::new(memory, ANSWERED_AT)?,
            sleeps: wait != WaitPolicy::Spin,
        })
    }

    fn raise(&self, flag: &Word, number: u32) {
        flag.cell().store(number, Ordering::Release);
        if self.sleeps {
            flag.wake();
        }
    }

    /// Waits while the flag shows `number`.
    fn wait(&self, flag: &Word, number: u32) {
        if self.sleeps {
            flag.wait(number, SLEEP_MAX);
        } else {
            std::hint::spin_loop();
        }
    }
}

impl BareShm {
    pub(super) fn start(plan: &Plan, wait: WaitPolicy) -> Result<BareShm, Error> {
        let reply_at = (REQUEST_AT + plan.in_bytes).next_multiple_of(4096);
        let bytes = reply_at + plan.out_bytes.next_multiple_of(4096);
        let layout = SlotLayout {
            slots: 1,
            request_bytes: plan.in_bytes as u64,
            reply_bytes: plan.out_bytes as u64,
        };
        let (client, memfd) = SharedBacking::create(bytes, layout).context("make memory")?;
        let server = SharedBacking::import(memfd, bytes, layout).context("map memory")?;
        let (memory, server) = (Arc::new(client), Arc::new(server));
        let stop = Arc::new(AtomicBool::new(false));
        let flags = Flags::new(&server, wait).context("place a flag")?;
        let whole = Region::whole(Arc::clone(&server) as Arc<dyn Backing>);
        let part = |at, len| whole.part(at, len).context("place a half");
        let copied = plan.in_bytes.min(plan.out_bytes);
        let (from, to) = (part(REQUEST_AT, copied)?, part(reply_at, plan.out_bytes)?);
        let stopped = Arc::clone(&stop);
        let server = thread("bare-shm", move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                if flags.asked.cell().load(Ordering::Acquire) == number {
                    flags.wait(&flags.asked, number);
                    continue;
                }
                number = number.wrapping_add(1);
                // Both lie inside one region: the copy cannot fail.
                drop(to.view().copy_from(&from.view(), copied));
                flags.raise(&flags.answered, number);
            }
        })?;
        let flags = Flags::new(&memory, wait).context("place a flag")?;
        let (source, server) = (source(plan), Some(server));
        Ok(BareShm { memory, flags, number: 0, source, stop, server })
    }
}

impl Bare for BareShm {
    fn once(&mut self) -> Result<(), Error> {
        self.memory.copy_in(REQUEST_AT, &self.source).context("fill")?;
        let before = self.number;
        self.number = self.number.wrapping_add(1);
        self.flags.raise(&self.flags.asked, self.number);
        while self.flags.answered.cell().load(Ordering::Acquire) == before {
            self.flags.wait(&self.flags.answered, before);
        }
        // The reply is read in place, as on our side: nothing is copied.
        Ok(())
    }
}

impl Drop for BareShm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.flags.asked.wake();
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}
