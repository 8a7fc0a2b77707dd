//! A second process: this binary again, which does what it is told on its standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ferry_core::{DeviceMemory, DeviceUuid, IpcHandle, RegionDescriptor};
use ferry_cuda::{Device, DeviceBacking, ExportedBacking, ImportedBacking};
use ferry_memory::{Backing, DeviceAddress, Region};

/// Set in the second process.
const ROLE: &str = "FERRY_GPU_TEST_PROCESS";
/// Before each answer, to tell it from what the test harness prints.
const MARK: &str = "ferry: ";

/// A second process.
pub(crate) struct Other {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(env: &[(&str, &str)]) -> Other {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::orders", "--nocapture"]).env(ROLE, "1");
        command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Other { child, orders, answers }
    }

    /// Gives an order; does not wait.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        self.orders.flush().unwrap();
    }

    /// Gives an order and waits for the answer; the error is what it says.
    pub(crate) fn ask(&mut self, order: &str) -> Result<String, String> {
        self.order(order);
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.answers.read_line(&mut line).unwrap();
            assert!(read > 0, "the other process ended at {order:?}: {:?}", self.child.wait());
            // The harness may have begun a line before.
            let Some((_, answer)) = line.trim_end().split_once(MARK) else { continue };
            return match answer.split_once(' ') {
                Some(("ok", answer)) => Ok(answer.to_owned()),
                Some(("error", answer)) => Err(answer.to_owned()),
                _ => panic!("{line:?}"),
            };
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // An error means that it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A description on one line.
pub(crate) fn text(memory: &DeviceMemory) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (handle, device) = (hex(&memory.handle.0), hex(&memory.device.0));
    format!("{handle} {device} {} {}", memory.offset, memory.bytes)
}

pub(crate) fn memory(text: &str) -> DeviceMemory {
    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    DeviceMemory {
        handle: IpcHandle(bytes(words[0])),
        device: DeviceUuid(bytes(words[1])),
        offset: words[2].parse().unwrap(),
        bytes: words[3].parse().unwrap(),
    }
}

pub(crate) fn described(backing: &Region) -> DeviceMemory {
    match backing.describe() {
        Some(RegionDescriptor::Device(memory)) => memory,
        other => panic!("{other:?}"),
    }
}

/// Bytes that differ by seed and by place.
pub(crate) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251).to_le_bytes()[0].wrapping_mul(7).wrapping_add(seed)).collect()
}

/// What the second process holds.
#[derive(Default)]
struct Held {
    exported: Vec<Region>,
    imported: Vec<(ImportedBacking, Region)>,
}

fn said(error: ferry_memory::MemoryError) -> String {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

fn seed(number: usize) -> u8 {
    u8::try_from(number).unwrap()
}

impl Held {
    /// Copies a part of a tensor on a device into what was opened last.
    fn hand_over(
        &self,
        device: u32,
        [at, by, len, from, asked]: [usize; 5],
    ) -> Result<String, String> {
        let (last, _) = self.imported.last().unwrap();
        let tensor = DeviceBacking::new(&Device::open(device).unwrap(), len).map_err(said)?;
        let mut tensor = Region::whole(tensor);
        tensor.view_mut().copy_in(0, &pattern(seed(by), len)).map_err(said)?;
        let to = last.device().unwrap();
        let to = DeviceAddress { address: to.address + at as u64, ..to };
        let from = tensor.view().device().unwrap().address + from as u64;
        last.copy_from_device(to, from, asked).map_err(said)?;
        Ok("handed over".into())
    }

    /// Does one order. Numbers are decimal.
    fn obey(&mut self, order: &str) -> Result<String, String> {
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let numbers =
            || rest.split_whitespace().map(|it| it.parse::<usize>().unwrap()).collect::<Vec<_>>();
        let last = self.imported.last_mut();
        match verb {
            "export" => {
                let device = Device::open(0).unwrap();
                let backing = ExportedBacking::new(&device, numbers()[0]).map_err(said)?;
                let backing = Region::whole(backing);
                let told = text(&described(&backing));
                self.exported.push(backing);
                Ok(told)
            }
            "open" => {
                let opened = ImportedBacking::open(&memory(rest)).map_err(said)?;
                let slots = Region::whole(opened.clone());
                self.imported.push((opened, slots));
                Ok("open".into())
            }
            "close" => {
                self.imported.clear();
                Ok("closed".into())
            }
            "write" => {
                let [at, by, len] = numbers()[..] else { panic!("{order}") };
                last.unwrap().1.view_mut().copy_in(at, &pattern(seed(by), len)).map_err(said)?;
                Ok("written".into())
            }
            "check" => {
                let [at, by, len] = numbers()[..] else { panic!("{order}") };
                let mut read = vec![0; len];
                last.unwrap().1.view().copy_out(at, &mut read).map_err(said)?;
                Ok((read == pattern(seed(by), len)).to_string())
            }
            "hand-over" => {
                let [at, by, len, from, asked] = numbers()[..] else { panic!("{order}") };
                self.hand_over(0, [at, by, len, from, asked])
            }
            "hand-over-from" => {
                let [device, at, by, len, from, asked] = numbers()[..] else { panic!("{order}") };
                self.hand_over(u32::try_from(device).unwrap(), [at, by, len, from, asked])
            }
            "hand-over-host" => {
                let host = vec![7_u8; 4096];
                let (last, _) = last.unwrap();
                let to = last.device().unwrap();
                last.copy_from_device(to, host.as_ptr() as u64, 4096).map_err(said)?;
                Ok("handed over".into())
            }
            "write-for-ever" => {
                let (_, slots) = last.unwrap();
                let all = pattern(1, slots.bytes());
                loop {
                    slots.view_mut().copy_in(0, &all).map_err(said)?;
                }
            }
            other => panic!("no order {other:?}"),
        }
    }
}

/// The second process. Nothing in the first one.
#[test]
fn orders() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut held = Held::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let answer = match held.obey(line.trim()) {
            Ok(answer) => format!("ok {answer}"),
            Err(answer) => format!("error {}", answer.replace('\n', " ")),
        };
        println!("\n{MARK}{answer}");
        std::io::stdout().flush().unwrap();
    }
}
