//! Bytes that nobody meant: those of `tests/fuzz`, and what a few seconds of changes make of them.
//!
//! A target takes bytes, looks whether what they do is allowed, and says what they did. An input
//! that does something that was not seen before is changed further, so that the search gets past
//! the first check, without instrumentation of the code. `FERRY_FUZZ_SECONDS` searches longer, and
//! `FERRY_FUZZ_KEEP=1` adds what it found to the folder of the target; a failure prints its input.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was searched, and what failed"
)]

mod changes;
mod config_pbtxt;
mod http;
mod http_infer;
mod http_json;
mod oip_request;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use changes::Changes;

/// Without `FERRY_FUZZ_SECONDS`.
const SECONDS: u64 = 3;

/// Most inputs that are changed further.
const POPULATION_MAX: usize = 4096;

/// The bytes that a target failed on, which are told when it panics.
struct Told<'a> {
    input: &'a [u8],
    seed: u64,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, input b\"{}\"", self.seed, self.input.escape_ascii());
        }
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

fn number(name: &str) -> Option<u64> {
    std::env::var_os(name)?.to_str()?.parse().ok()
}

/// Runs every input of the folder `name`, then changes of them. Gives back what the inputs of the
/// folder did, so that a test sees that they still reach what they were kept for.
async fn search<F: Future<Output = String>>(
    name: &str,
    target: impl Fn(Vec<u8>) -> F,
) -> BTreeSet<String> {
    let seed = number("FERRY_FUZZ_SEED").unwrap_or_else(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        u64::from(since.subsec_nanos()) << 32 | since.as_secs()
    });
    let run = async |input: &[u8]| {
        let told = Told { input, seed };
        let did = target(input.to_vec()).await;
        drop(told);
        did
    };
    let (mut population, mut seen) = (Vec::new(), BTreeSet::new());
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        seen.insert(run(&input).await);
        population.push(input);
    }
    let kept = seen.clone();
    let until =
        Instant::now() + Duration::from_secs(number("FERRY_FUZZ_SECONDS").unwrap_or(SECONDS));
    let (mut changes, mut tried) = (Changes::new(seed), 0_u64);
    while Instant::now() < until {
        let input = changes.of_one(&population);
        tried += 1;
        let did = run(&input).await;
        if seen.contains(&did) {
            continue;
        }
        if std::env::var_os("FERRY_FUZZ_KEEP").is_some() {
            std::fs::write(folder(name).join(format!("found-{seed:016x}-{tried}")), &input)
                .unwrap();
        }
        seen.insert(did);
        if population.len() < POPULATION_MAX {
            population.push(input);
        }
    }
    println!("{name}: seed {seed}, {tried} inputs, {} outcomes", seen.len());
    kept
}

/// How a text ends, without numbers and what is between its first quote and its last: what differs
/// from input to input is quoted, or stands at the beginning.
fn shape(text: &str) -> String {
    let before = text.split('"').next().into_iter();
    let after = text.split('"').skip(1).last();
    let letters = before.chain(after).flat_map(str::chars);
    let letters = letters.filter(|it| it.is_ascii_alphabetic() || *it == ' ');
    let letters: Vec<char> = letters.collect();
    letters[letters.len().saturating_sub(30)..].iter().collect()
}
