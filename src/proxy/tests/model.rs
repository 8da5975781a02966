//! Random transfers against a model: what each side has to receive follows from what the other did.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::engine::balance::plan::{Address, NoneLeft, Rules};
use crate::proxy::testing::*;
use crate::sys::testing::TempDir;

/// What one side does.
#[derive(Clone, Debug)]
struct Part {
    pieces: Vec<Vec<u8>>,
    /// Stalls between pieces.
    stall: Duration,
    /// Stalls between reads.
    slow: Duration,
    /// Reads before it has sent all of its own.
    reads_meanwhile: bool,
}

impl Part {
    fn random(random: &mut Random) -> Self {
        let count = random.below(6);
        let pieces = (0..count).map(|_| {
            let size = match random.below(4) {
                0 => random.below(10),
                1 => random.below(2_000),
                2 => random.below(100_000),
                _ => random.below(1_500_000),
            };
            random.bytes(usize::try_from(size).unwrap())
        });
        Self {
            pieces: pieces.collect(),
            stall: Duration::from_micros(random.below(2) * random.below(5_000)),
            slow: Duration::from_micros(random.below(3) / 2 * random.below(500)),
            reads_meanwhile: random.below(4) > 0,
        }
    }

    fn all(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

trait Stream: Sized + Send + Sync + 'static {
    fn send(&self, bytes: &[u8]) -> std::io::Result<()>;
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize>;
    fn half_close(&self);
    fn reset(self);
}

impl Stream for TcpStream {
    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut this = self;
        this.write_all(bytes)
    }
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut this = self;
        this.read(buffer)
    }
    fn half_close(&self) {
        // Fails where the other side has reset already.
        let _ = self.shutdown(Shutdown::Write);
    }
    fn reset(self) {
        crate::sys::stream::reset(self.into());
    }
}

impl Stream for UnixStream {
    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut this = self;
        this.write_all(bytes)
    }
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut this = self;
        this.read(buffer)
    }
    fn half_close(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
    fn reset(self) {}
}

/// Plays a part; returns what was received and whether it ended well.
fn play<S: Stream>(stream: S, part: &Part) -> (Vec<u8>, bool) {
    let stream = Arc::new(stream);
    let begin = Arc::new(Barrier::new(2));
    let thread = {
        let (stream, begin, slow) = (Arc::clone(&stream), Arc::clone(&begin), part.slow);
        std::thread::spawn(move || {
            begin.wait();
            read_slowly(&*stream, slow)
        })
    };
    if part.reads_meanwhile {
        begin.wait();
    }
    for piece in &part.pieces {
        if stream.send(piece).is_err() {
            break;
        }
        std::thread::sleep(part.stall);
    }
    stream.half_close();
    if !part.reads_meanwhile {
        begin.wait();
    }
    thread.join().unwrap()
}

fn read_slowly(stream: &impl Stream, slow: Duration) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    let mut buffer = vec![0; 100_000];
    loop {
        match stream.receive(&mut buffer) {
            Ok(0) => return (got, true),
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(_) => return (got, false),
        }
        std::thread::sleep(slow);
    }
}

/// A reset needs the only descriptor: no reader beside it.
fn play_to_reset<S: Stream>(stream: S, part: &Part) {
    for piece in &part.pieces {
        let small = &piece[..piece.len().min(20_000)];
        if stream.send(small).is_err() {
            break;
        }
        std::thread::sleep(part.stall);
    }
    stream.reset();
}

fn run_clean(seed: u64, lab: &Lab, accept: &mut dyn FnMut(Part) -> std::thread::JoinHandle<(Vec<u8>, bool)>) {
    let mut random = Random::new(seed);
    let ours = Part::random(&mut random);
    let theirs = Part::random(&mut random);
    // Both reading only after all was written would be a deadlock of their own making.
    let theirs = Part { reads_meanwhile: theirs.reads_meanwhile || !ours.reads_meanwhile, ..theirs };
    let client = lab.connect();
    if random.below(3) == 0 {
        setsockopt(&client, sockopt::RcvBuf, &(64 << 10)).unwrap();
    }
    let server = accept(theirs.clone());
    let (got, well) = play(client, &ours);
    let (their_got, their_well) = server.join().unwrap();
    assert!(well && their_well, "seed {seed}: {well} {their_well}");
    assert!(got == theirs.all(), "seed {seed}: {} bytes of {}", got.len(), theirs.all().len());
    assert!(their_got == ours.all(), "seed {seed}: {} bytes of {}", their_got.len(), ours.all().len());
}

#[test]
fn random_transfers_are_exact_over_tcp() {
    let (listener, address) = listener();
    let lab = Lab::with(2, 100, table(&[address], rules()));
    for seed in 0..40 {
        run_clean(seed, &lab, &mut |part| {
            let server = patient(listener.accept().unwrap().0);
            std::thread::spawn(move || play(server, &part))
        });
    }
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn random_transfers_are_exact_over_unix() {
    let directory = TempDir::new();
    let path = directory.path().join("model.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let lab = Lab::with(2, 100, table(&[Address::Unix(path)], rules()));
    for seed in 100..140 {
        run_clean(seed, &lab, &mut |part| {
            let (server, _) = listener.accept().unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            std::thread::spawn(move || play(server, &part))
        });
    }
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn many_random_transfers_at_once_with_one_worker() {
    let (listener, address) = listener();
    let lab = Lab::with(1, 100, table(&[address], rules()));
    let parts: Vec<(Part, Part)> = (200..216)
        .map(|seed| {
            let mut random = Random::new(seed);
            let ours = Part { reads_meanwhile: true, ..Part::random(&mut random) };
            (ours, Part { reads_meanwhile: true, ..Part::random(&mut random) })
        })
        .collect();
    std::thread::scope(|scope| {
        for (ours, theirs) in &parts {
            let client = lab.connect();
            let server = patient(listener.accept().unwrap().0);
            scope.spawn(move || {
                let (got, well) = play(client, ours);
                assert!(well && got == theirs.all());
            });
            scope.spawn(move || {
                let (got, well) = play(server, theirs);
                assert!(well && got == ours.all());
            });
        }
    });
    lab.until("closed", |stats| stats.active == 0);
}

#[test]
fn after_a_reset_the_other_side_has_a_prefix_and_never_an_end() {
    let (listener, address) = listener();
    // A client that was never served would wait for another backend.
    let rules = Rules { none_left: NoneLeft::Refuse, ..rules() };
    let lab = Lab::with(2, 100, table(&[address], rules));
    for seed in 300..360 {
        let mut random = Random::new(seed);
        let resets = Part::random(&mut random);
        let slow = Duration::from_micros(random.below(500));
        let client = lab.connect();
        let server = patient(listener.accept().unwrap().0);
        let client_resets = random.below(2) == 0;
        let (resetting, reading) = if client_resets { (client, server) } else { (server, client) };
        let other = std::thread::spawn(move || read_slowly(&reading, slow));
        play_to_reset(resetting, &resets);
        let (got, well) = other.join().unwrap();
        let sent: Vec<u8> = resets.pieces.iter().flat_map(|piece| &piece[..piece.len().min(20_000)]).copied().collect();
        assert!(!well, "seed {seed}: an end where there was a reset");
        assert!(sent.starts_with(&got), "seed {seed}");
    }
    lab.until("closed", |stats| stats.active == 0);
}
