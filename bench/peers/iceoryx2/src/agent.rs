//! The loop around a peer; see bench/peers/python/agent.py.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

pub type Failure = Box<dyn Error>;

const WARM: u64 = 0xA11C_0DE5_A11C_0DE5;
const END: u64 = 0xE4DC_0DE5_E4DC_0DE5;
const FIRST_DELAY_NS: i64 = 1_000_000;

/// One side of the library under measurement.
pub trait Peer {
    fn send_pool(&mut self, bodies: &[Vec<u8>]) -> Result<(), Failure>;
    fn send_one(&mut self, body: &[u8]) -> Result<(), Failure>;
    fn flush(&mut self) -> Result<(), Failure>;
    /// Hand what has come to the sink; without any, wait or spin, 100 ms at most.
    fn receive(&mut self, sink: &mut Sink) -> Result<(), Failure>;
}

pub struct Options {
    values: HashMap<String, String>,
    pub size: usize,
    pub spin: bool,
    paced: bool,
}

impl Options {
    fn parse() -> Self {
        let values: HashMap<String, String> = std::env::args()
            .skip(1)
            .filter_map(|argument| {
                argument.split_once('=').map(|(key, value)| (key.into(), value.into()))
            })
            .collect();
        let mut options = Options { values, size: 0, spin: false, paced: false };
        options.size = options.number("size", 0) as usize;
        options.spin = options.number("spin", 0) == 1;
        options.paced = options.text("mode") == "latency";
        options
    }

    pub fn text(&self, name: &str) -> String {
        self.values.get(name).unwrap_or_else(|| panic!("argument {name}= is missing")).clone()
    }

    pub fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.values.get(name).map_or(otherwise, |value| value.parse().expect("a number"))
    }

    fn seconds_ns(&self, name: &str) -> i64 {
        (self.text(name).parse::<f64>().expect("a number") * 1e9) as i64
    }
}

/// CLOCK_MONOTONIC, which all processes of the machine share.
fn monotonic() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Reads all words of each body, and takes the latency of a paced one.
#[derive(Default)]
pub struct Sink {
    drain: bool,
    count: u64,
    sum: u64,
    last: u64,
    latencies: Option<Vec<i64>>,
    paced: usize,
}

fn word(body: &[u8], number: usize) -> u64 {
    u64::from_le_bytes(body[number * 8..number * 8 + 8].try_into().expect("eight bytes"))
}

impl Sink {
    pub fn body(&mut self, body: &[u8]) {
        self.last = word(body, 0);
        if let Some(latencies) = self.latencies.as_mut() {
            if self.paced == latencies.len() {
                return; // the END marker
            }
            let number = word(body, 1) as usize;
            assert!(latencies[number] == 0, "message {number} came twice");
            latencies[number] = (monotonic() - self.last as i64).max(1);
            self.paced += 1;
        }
        self.count += 1;
        if !self.drain {
            let words = body.chunks_exact(8);
            self.sum = words.fold(self.sum, |sum, word| {
                sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("eight bytes")))
            });
        }
    }
}

/// The harness on standard input and output; its end is ours.
struct Control {
    words: Receiver<String>,
}

impl Control {
    fn new() -> Self {
        let (sender, words) = channel();
        std::thread::spawn(move || {
            let mut leaving = false;
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                leaving |= line == "exit";
                let _ = sender.send(line);
            }
            if !leaving {
                std::process::exit(3);
            }
        });
        Control { words }
    }

    fn say(&self, event: &str, facts: &str) {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{{\"event\": \"{event}\"{facts}}}").expect("standard output");
        out.flush().expect("standard output");
    }

    fn wait(&self, word: &str) {
        while self.words.recv().expect("the harness") != word {}
    }
}

fn pool(size: usize) -> Vec<Vec<u8>> {
    let mut number: u64 = 0;
    let count = if size <= 4096 { 256 } else { 16 };
    (0..count)
        .map(|_| {
            let mut body = Vec::with_capacity(size);
            for _ in 0..size / 8 {
                number += 1;
                let mut word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(size as u64);
                word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                body.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
            }
            body
        })
        .collect()
}

fn marker(word: u64, size: usize) -> Vec<u8> {
    let mut body = vec![0; size];
    body[..8].copy_from_slice(&word.to_le_bytes());
    body
}

/// Write the three first words of a paced body: they add up to zero.
fn pace(body: &mut [u8], intended: i64, number: i64) {
    body[..8].copy_from_slice(&intended.to_le_bytes());
    body[8..16].copy_from_slice(&number.to_le_bytes());
    body[16..24].copy_from_slice(&(-(intended + number)).to_le_bytes());
}

fn wait_until(moment: i64, spin: bool) {
    loop {
        let left = moment - monotonic();
        if left <= 0 {
            return;
        }
        if spin {
            core::hint::spin_loop();
        } else {
            std::thread::sleep(Duration::from_nanos(left as u64));
        }
    }
}

fn flood(
    peer: &mut impl Peer,
    pool: &[Vec<u8>],
    lasts_ns: i64,
    bytes_max: u64,
    paced: bool,
) -> Result<u64, Failure> {
    let end = monotonic() + lasts_ns;
    let batches_max = (bytes_max / (pool.len() * pool[0].len()) as u64).max(1);
    let mut body = pool[0].clone();
    let mut batches = 0;
    while batches < batches_max && monotonic() < end {
        if paced {
            for _ in pool {
                pace(&mut body, monotonic(), 0);
                peer.send_one(&body)?;
            }
        } else {
            peer.send_pool(pool)?;
        }
        batches += 1;
    }
    Ok(batches * pool.len() as u64)
}

fn produce(options: &Options, peer: &mut impl Peer, control: &Control) -> Result<(), Failure> {
    let pool = pool(options.size);
    let bytes_max = options.number("bytes_max", 0);
    let warm =
        flood(peer, &pool, options.seconds_ns("warmup_s"), bytes_max / 4, options.paced)?;
    peer.flush()?;
    peer.send_one(&marker(WARM, options.size))?;
    peer.flush()?;
    control.say("ready", &format!(", \"count\": {warm}"));
    control.wait("go");
    let start = monotonic();
    let mut count = options.number("count", 0);
    if options.paced {
        let rate = options.number("rate", 1) as i64;
        let mut body = pool[0].clone();
        for number in 0..count as i64 {
            let intended = start + FIRST_DELAY_NS + number * 1_000_000_000 / rate;
            pace(&mut body, intended, number);
            wait_until(intended, options.spin);
            peer.send_one(&body)?;
        }
    } else {
        count = flood(peer, &pool, options.seconds_ns("seconds"), bytes_max, false)?;
    }
    peer.flush()?;
    let end = monotonic();
    peer.send_one(&marker(END, options.size))?;
    peer.flush()?;
    let facts = format!(", \"count\": {count}, \"start_ns\": {start}, \"end_ns\": {end}");
    control.say("done", &facts);
    control.wait("exit");
    Ok(())
}

fn consume(options: &Options, peer: &mut impl Peer, control: &Control) -> Result<(), Failure> {
    control.say("attached", "");
    let mut sink = Sink { drain: options.number("drain", 0) == 1, ..Sink::default() };
    while sink.last != WARM {
        peer.receive(&mut sink)?;
    }
    let warm = sink.count;
    control.say("ready", &format!(", \"count\": {warm}"));
    control.wait("go");
    let start = monotonic();
    if options.paced {
        let count = options.number("count", 0) as usize;
        (sink.count, sink.sum, sink.latencies) = (0, 0, Some(vec![0; count]));
        while sink.paced < count {
            peer.receive(&mut sink)?;
        }
        let latencies = sink.latencies.take().unwrap_or_default();
        let bytes: Vec<u8> = latencies.iter().flat_map(|latency| latency.to_le_bytes()).collect();
        std::fs::write(options.text("out"), bytes)?;
    } else {
        while sink.last != END {
            peer.receive(&mut sink)?;
        }
    }
    let end = monotonic();
    let facts = format!(
        ", \"count\": {}, \"sum\": \"{}\", \"warm\": {warm}, \"start_ns\": {start}, \"end_ns\": {end}",
        sink.count, sink.sum
    );
    control.say("done", &facts);
    control.wait("exit");
    Ok(())
}

/// Run the role that the arguments ask for; an error ends the process.
pub fn run<P: Peer>(open: impl Fn(&Options) -> Result<P, Failure>) {
    let options = Options::parse();
    let control = Control::new();
    let outcome = open(&options).and_then(|mut peer| match options.text("role").as_str() {
        "produce" => produce(&options, &mut peer, &control),
        _ => consume(&options, &mut peer, &control),
    });
    if let Err(error) = outcome {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
