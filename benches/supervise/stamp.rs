//! The service that every supervisor of this benchmark runs, so that its own start costs the same for all: no runtime, no allocation,
//! a C `main` whose first act is to read CLOCK_MONOTONIC and append it to the stamp file.
//!
//! `stamp start FILE SLOT [fd=N]`         stamp, say ready on descriptor N, wait for a signal
//! `stamp exit FILE SLOT`                 stamp, exit with code 7
//! `stamp tree FILE SLOT`                 stamp; a child that ignores TERM in the same process group; a grandchild in its own session
//! `stamp many FILE SLOT COUNT`           stamp; COUNT processes in all, every other one in a session of its own, each stamping
//! `stamp bomb FILE SLOT COUNT`           stamp; as nobody, forks wherever it can for 20 s; RLIMIT_NPROC keeps it to COUNT at a time
//! `stamp flood FILE SLOT LINES [fd=N]`   stamp; after a second write LINES lines of 128 bytes, 64 KiB a call
//! `stamp lines FILE SLOT COUNTS RATE [fd=N]`  stamp; RATE numbered lines of 128 bytes a second, counted in a file of COUNTS
//!
//! A stamp is 24 bytes, little-endian: slot u32, pid u32, nanoseconds u64, kind u32, zero u32; kinds are below. Built by `run` with
//! `rustc`, not by cargo: it is no part of mainstay, whose code has no `unsafe` outside `src/sys`.
#![no_main]

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};

const MAIN: u32 = 0;
const IGNORES_TERM: u32 = 1;
const OWN_SESSION: u32 = 2;
const FLOOD_BEGINS: u32 = 3;
const FLOOD_WRITTEN: u32 = 4;

const LINE: usize = 128;
const LINES_A_WRITE: usize = 512;
const COUNTS_BYTES: usize = 4096;
const EXIT_CODE: c_int = 7;

// Values of Linux on x86-64 and arm64.
const O_WRONLY: c_int = 1;
const O_RDWR: c_int = 2;
const O_CREAT: c_int = 0o100;
const O_APPEND: c_int = 0o2000;
const O_CLOEXEC: c_int = 0o2_000_000;
const CLOCK_MONOTONIC: c_int = 1;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const SIG_IGN: usize = 1;
const RLIMIT_NPROC: c_int = 6;
const NOBODY: c_uint = 65_534;
const BOMB_NS_MAX: u64 = 20_000_000_000;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    fn nanosleep(time: *const Timespec, left: *mut Timespec) -> c_int;
    fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
    fn close(fd: c_int) -> c_int;
    fn ftruncate(fd: c_int, length: c_long) -> c_int;
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn getpid() -> c_int;
    fn fork() -> c_int;
    fn setsid() -> c_int;
    fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setrlimit(resource: c_int, limit: *const [u64; 2]) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn pause() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

fn now() -> u64 {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    (time.seconds as u64) * 1_000_000_000 + time.nanoseconds as u64
}

fn sleep(nanoseconds: u64) {
    let time = Timespec {
        seconds: (nanoseconds / 1_000_000_000) as c_long,
        nanoseconds: (nanoseconds % 1_000_000_000) as c_long,
    };
    unsafe { nanosleep(&raw const time, std::ptr::null_mut()) };
}

fn die(code: c_int) -> ! {
    unsafe { _exit(code) }
}

/// Waits for a signal for ever.
fn rest() -> ! {
    loop {
        unsafe { pause() };
    }
}

#[derive(Clone, Copy)]
struct Stamps {
    fd: c_int,
    slot: u32,
}

impl Stamps {
    fn put(self, kind: u32, at: u64) {
        let mut record = [0_u8; 24];
        record[0..4].copy_from_slice(&self.slot.to_le_bytes());
        record[4..8].copy_from_slice(&(unsafe { getpid() } as u32).to_le_bytes());
        record[8..16].copy_from_slice(&at.to_le_bytes());
        record[16..20].copy_from_slice(&kind.to_le_bytes());
        // One write to a descriptor in append mode: records of different processes never mix.
        if unsafe { write(self.fd, record.as_ptr().cast(), record.len()) } != 24 {
            die(101);
        }
    }
}

/// The words of the command line, without allocation.
#[derive(Clone, Copy)]
struct Words {
    count: usize,
    list: *const *const c_char,
}

impl Words {
    fn get(self, index: usize) -> &'static CStr {
        if index >= self.count {
            die(100);
        }
        unsafe { CStr::from_ptr(*self.list.add(index)) }
    }

    fn number(self, index: usize) -> u64 {
        match self.get(index).to_str().ok().and_then(|text| text.parse().ok()) {
            Some(number) => number,
            None => die(100),
        }
    }

    /// The number of a last word `fd=N`.
    fn ready_fd(self) -> Option<c_int> {
        self.get(self.count - 1).to_str().ok()?.strip_prefix("fd=")?.parse().ok()
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn main(count: c_int, list: *const *const c_char) -> c_int {
    let at = now();
    let words = Words { count: count as usize, list };
    let fd = unsafe { open(words.get(2).as_ptr(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644) };
    if fd < 0 {
        die(102);
    }
    let stamps = Stamps { fd, slot: words.number(3) as u32 };
    stamps.put(MAIN, at);
    if let Some(ready) = words.ready_fd() {
        unsafe {
            write(ready, c"\n".as_ptr().cast(), 1);
            close(ready);
        }
    }
    match words.get(1).to_bytes() {
        b"start" => rest(),
        b"exit" => die(EXIT_CODE),
        b"tree" => tree(stamps),
        b"many" => many(stamps, words.number(4)),
        b"bomb" => bomb(words.number(4)),
        b"flood" => flood(stamps, words.number(4)),
        b"lines" => lines(stamps.slot, words.get(4), words.number(5)),
        _ => die(100),
    }
}

fn tree(stamps: Stamps) -> ! {
    if unsafe { fork() } == 0 {
        unsafe { signal(SIGTERM, SIG_IGN) };
        stamps.put(IGNORES_TERM, now());
        rest();
    }
    let middle = unsafe { fork() };
    if middle == 0 {
        unsafe { setsid() };
        if unsafe { fork() } == 0 {
            stamps.put(OWN_SESSION, now());
            rest();
        }
        die(0);
    }
    unsafe { waitpid(middle, std::ptr::null_mut(), 0) };
    rest()
}

fn many(stamps: Stamps, count: u64) -> ! {
    for number in 1..count {
        if unsafe { fork() } == 0 {
            if number % 2 == 0 {
                unsafe { setsid() };
            }
            stamps.put(OWN_SESSION, now());
            rest();
        }
    }
    rest()
}

fn bomb(count: u64) -> ! {
    let limit = [count, count];
    unsafe {
        signal(SIGCHLD, SIG_IGN);
        if setrlimit(RLIMIT_NPROC, &raw const limit) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 || setresuid(NOBODY, NOBODY, NOBODY) != 0 {
            die(105);
        }
    }
    // Should nobody be able to end it, it ends by itself.
    let until = now() + BOMB_NS_MAX;
    loop {
        if now() > until {
            die(0);
        }
        match unsafe { fork() } {
            // A child is as bad as its parent, in a session of its own.
            0 => unsafe { setsid() },
            // No more at the moment: somebody may die.
            -1 => {
                sleep(1_000_000);
                0
            }
            _ => 0,
        };
    }
}

/// Writes `value` in decimal, right-aligned and padded with zeros, over `field`.
fn digits(field: &mut [u8], mut value: u64) {
    for place in field.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `S0007 P0000012345 N000000000042 ......\n`
fn format_line(line: &mut [u8], slot: u32, pid: u64, number: u64) {
    line.fill(b'.');
    line[0] = b'S';
    digits(&mut line[1..5], u64::from(slot));
    line[5] = b' ';
    line[6] = b'P';
    digits(&mut line[7..17], pid);
    line[17] = b' ';
    line[18] = b'N';
    digits(&mut line[19..31], number);
    line[31] = b' ';
    line[LINE - 1] = b'\n';
}

fn flood(stamps: Stamps, total: u64) -> ! {
    let pid = unsafe { getpid() } as u64;
    let mut buffer = [0_u8; LINE * LINES_A_WRITE];
    for (index, line) in buffer.chunks_mut(LINE).enumerate() {
        format_line(line, stamps.slot, pid, index as u64);
    }
    // The log receiver may start at the same moment as we do; its start is not what is measured here.
    sleep(1_000_000_000);
    stamps.put(FLOOD_BEGINS, now());
    let mut number = 0;
    while number < total {
        let lines_now = (total - number).min(LINES_A_WRITE as u64) as usize;
        for line in buffer.chunks_mut(LINE).take(lines_now) {
            digits(&mut line[19..31], number);
            number += 1;
        }
        if number == total {
            buffer[(lines_now - 1) * LINE + 32..][..3].copy_from_slice(b"END");
        }
        let mut rest = &buffer[..lines_now * LINE];
        while !rest.is_empty() {
            let written = unsafe { write(1, rest.as_ptr().cast(), rest.len()) };
            if written <= 0 {
                die(103);
            }
            rest = &rest[written as usize..];
        }
    }
    stamps.put(FLOOD_WRITTEN, now());
    rest()
}

/// COUNTS.PID holds u64s that the benchmark reads and writes: lines accepted by write(), lines refused, stop asked, stopped.
fn lines(slot: u32, counts: &CStr, rate: u64) -> ! {
    let pid = unsafe { getpid() } as u64;
    let counts = map_counts(counts, pid);
    let mut line = [0_u8; LINE];
    let tick = 1_000_000_000 / rate.max(1);
    let mut next = now();
    loop {
        let stop = unsafe { counts.add(2).read_volatile() };
        if stop != 0 {
            unsafe { counts.add(3).write_volatile(1) };
            rest();
        }
        let number = unsafe { counts.read_volatile() };
        format_line(&mut line, slot, pid, number);
        let written = unsafe { write(1, line.as_ptr().cast(), LINE) };
        let counter = if written == LINE as isize { counts } else { unsafe { counts.add(1) } };
        unsafe { counter.write_volatile(counter.read_volatile() + 1) };
        // A tick that was missed while a full pipe held us is not made up for.
        next = (next + tick).max(now());
        sleep(next - now().min(next));
    }
}

fn map_counts(prefix: &CStr, pid: u64) -> *mut u64 {
    let mut path = [0_u8; 512];
    let prefix = prefix.to_bytes();
    if prefix.len() + 12 > path.len() {
        die(104);
    }
    path[..prefix.len()].copy_from_slice(prefix);
    path[prefix.len()] = b'.';
    digits(&mut path[prefix.len() + 1..][..10], pid);
    let fd = unsafe { open(path.as_ptr().cast(), O_RDWR | O_CREAT | O_CLOEXEC, 0o644) };
    if fd < 0 || unsafe { ftruncate(fd, COUNTS_BYTES as c_long) } != 0 {
        die(104);
    }
    let at = unsafe { mmap(std::ptr::null_mut(), COUNTS_BYTES, PROT_READ_WRITE, MAP_SHARED, fd, 0) };
    if at as isize == -1 {
        die(104);
    }
    at.cast()
}
