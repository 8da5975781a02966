//! A helper process and its agent.

use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mainstay::checks::proto::{FromChecks, ToChecks};
use mainstay::engine::host::sample::Sample;
use mainstay::engine::host::watch::{Order, Source};
use mainstay::sys::packet::{PacketSocket, Received};

/// Longer than anything here takes, shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A user without rights; the number of `nobody` on Debian.
const NOBODY: u32 = 65_534;

/// A run directory, removed at the end of the test.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mainstay-disk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("roles")).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(crate) struct Helper {
    process: Child,
    agent: PacketSocket,
}

impl Helper {
    pub(crate) fn start(place: &Place, slot: u8) -> Self {
        Self::started(place, slot, &mut Self::command(place, slot))
    }

    pub(crate) fn start_as_nobody(place: &Place, slot: u8) -> Self {
        for path in [place.0.clone(), place.0.join("roles")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self::started(place, slot, Self::command(place, slot).uid(NOBODY).gid(NOBODY))
    }

    fn started(place: &Place, slot: u8, command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut ready = [0; 1];
        process.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"\n");
        let agent = PacketSocket::connect(&place.0.join(format!("roles/disk-{slot}.sock"))).unwrap();
        let mut helper = Self { process, agent };
        let pid = i32::try_from(helper.process.id()).unwrap();
        helper.order(&ToChecks::Hello { agent_pid: 1 });
        assert_eq!(helper.hear(), FromChecks::Hello { pid });
        helper
    }

    /// What a helper says that cannot start.
    pub(crate) fn refused(place: &Place, slot: u8) -> String {
        let output = Self::command(place, slot).stderr(Stdio::piped()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    fn command(place: &Place, slot: u8) -> Command {
        let mut command = Command::new("/bin/sh");
        // Readiness is descriptor 3, as the agent gives it.
        command.args(["-c", "exec \"$0\" \"$@\" 3>&1", env!("CARGO_BIN_EXE_mainstay"), "role", "disk", "--run-dir"]);
        command.arg(&place.0).args(["--slot", &slot.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn order(&self, order: &ToChecks) {
        assert!(self.agent.send(&serde_json::to_vec(order).unwrap(), &[]).unwrap());
    }

    pub(crate) fn watch(&self, sources: &[Source], every_ms: u64) {
        let orders = sources.iter().map(|source| Order { source: source.clone(), every_ms }).collect();
        self.order(&ToChecks::Watch { orders });
    }

    pub(crate) fn quit(&self) {
        self.order(&ToChecks::Quit);
    }

    fn hear(&mut self) -> FromChecks {
        let mut packet = Vec::new();
        eventually("the helper says nothing", || match self.agent.receive(&mut packet).unwrap() {
            Received::Message { .. } => Some(serde_json::from_slice(&packet).unwrap()),
            Received::Closed => panic!("the helper has closed the connection"),
            Received::WouldBlock => None,
        })
    }

    #[track_caller]
    pub(crate) fn sample(&mut self) -> Sample {
        match self.hear() {
            FromChecks::Sampled { sample } => *sample,
            other => panic!("expected a sample, not {other:?}"),
        }
    }

    /// Waits for a sample.
    #[track_caller]
    pub(crate) fn until(&mut self, mut is_wanted: impl FnMut(&Sample) -> bool) {
        let limit = Instant::now() + PATIENCE;
        loop {
            let sample = self.sample();
            if is_wanted(&sample) {
                return;
            }
            assert!(Instant::now() < limit, "the latest one is {sample:?}");
        }
    }

    #[track_caller]
    pub(crate) fn missing(&mut self) -> String {
        match self.hear() {
            FromChecks::Missing { missing } => missing.why,
            other => panic!("expected something missing, not {other:?}"),
        }
    }

    /// Why the first order cannot be obeyed, or `None` when the canary's sample came without that.
    pub(crate) fn missing_or_canary(&mut self) -> Option<String> {
        match self.hear() {
            FromChecks::Missing { missing } => Some(missing.why),
            FromChecks::Sampled { sample } if matches!(*sample, Sample::Canary(_)) => None,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// The kernel's letter; `None` when the process is gone.
    pub(crate) fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    pub(crate) fn await_state(&self, state: char) {
        eventually("it is in another state", || (self.state() == Some(state)).then_some(()));
    }

    pub(crate) fn await_end(&mut self) {
        eventually("it is still there", || self.process.try_wait().unwrap());
    }

    pub(crate) fn working_directory(&self) -> PathBuf {
        fs::read_link(Path::new("/proc").join(self.process.id().to_string()).join("cwd")).unwrap()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again and again for what cannot be waited for.
#[track_caller]
fn eventually<T>(otherwise: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < limit, "{otherwise}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
