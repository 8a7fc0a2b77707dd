//! Many sessions over shm that are all in use, slowly: each sends a request now and then. For
//! `control/measure/connections.py`.
//!
//! `sessions SERVER SESSIONS REQUESTS_PER_SECOND` opens them, prints `open`, and sends requests of
//! 4,000 bytes, with each session in its turn, until its standard input ends. Then it prints how
//! many were answered; the first failure ends it.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its caller reads it")]

use std::error::Error;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_client::Transport;
use ferry_client::blocking::{Client, Session};

const BYTES: u64 = 4000;

fn open(client: &Client) -> Result<Session, Box<dyn Error>> {
    let session = client.session("echo").transport(Transport::Shm);
    Ok(session.shape("input", &[BYTES]).shape("output", &[BYTES]).open()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, sessions, rate] = &arguments[..] else {
        return Err("usage: sessions SERVER SESSIONS REQUESTS_PER_SECOND".into());
    };
    let pause = Duration::from_secs(1).div_f64(rate.parse()?);
    let client = Client::connect(server)?;
    let mut all = Vec::new();
    for _ in 0..sessions.parse()? {
        all.push(open(&client)?);
    }
    println!("open");

    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    std::thread::Builder::new().name("end".to_owned()).spawn(move || {
        // Nothing comes; an error is an end, too.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        ends.store(true, Ordering::Relaxed);
    })?;
    let (mut answered, start) = (0_u32, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        let at = usize::try_from(answered)? % all.len();
        let mut slot = all[at].slot()?;
        slot.input_mut(0)?.fill(1);
        drop(all[at].infer(slot)?);
        answered += 1;
        std::thread::sleep((start + pause * answered).saturating_duration_since(Instant::now()));
    }
    println!("{answered}");
    Ok(())
}
