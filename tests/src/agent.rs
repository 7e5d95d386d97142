//! The real agent in the namespace of a host.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_userspace::report::{AgentReport, REPORT_FILE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::host::{Host, PIN_DIR};
use crate::manifests::{HOSTNAME, Manifests};
use crate::netns::Netns;
use crate::wait;

/// How long the agent may take to be ready or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// How the agent of a host is started; also runs its command line.
#[derive(Debug)]
pub struct Launcher {
    namespace: Arc<Netns>,
    log: PathBuf,
    run_dir: PathBuf,
    hostname: String,
    /// Arguments that say where the objects come from.
    datastore: Vec<OsString>,
    environment: Vec<(String, OsString)>,
}

impl Launcher {
    /// An agent that reads a directory of manifests, with small tables.
    pub fn new(host: &Host, manifests: &Manifests) -> Self {
        let environment = [
            ("BPFPinDir", OsString::from(PIN_DIR)),
            ("RunDir", host.run_dir().into()),
            ("BPFMapSizeConntrack", "16384".into()),
            ("BPFPolicyTableLines", "65536".into()),
            ("FelixHostname", HOSTNAME.into()),
        ];
        let environment = environment
            .map(|(name, value)| (format!("FELIX_{name}"), value))
            .into();
        Self {
            namespace: Arc::clone(host.namespace()),
            log: host.directory().join("agent.log"),
            run_dir: host.run_dir(),
            hostname: HOSTNAME.to_owned(),
            datastore: vec![
                "--datastore-type".into(),
                "file".into(),
                "--datastore-dir".into(),
                manifests.directory().into(),
            ],
            environment,
        }
    }

    /// Reads etcd instead; `endpoints` are separated by commas.
    #[must_use]
    pub fn with_etcd(mut self, endpoints: &str) -> Self {
        self.datastore = ["--datastore-type", "etcdv3", "--etcd-endpoints", endpoints]
            .map(OsString::from)
            .into();
        self
    }

    /// Sets a Felix parameter.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: &str) -> Self {
        self.environment
            .push((format!("FELIX_{parameter}"), value.into()));
        self
    }

    /// Gives the host another name.
    #[must_use]
    pub fn on(mut self, hostname: &str) -> Self {
        hostname.clone_into(&mut self.hostname);
        self.with("FelixHostname", hostname)
    }

    /// Starts the agent and does not wait for anything.
    pub fn spawn(&self) -> Agent {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the agent's log");
        let child = self
            .command()
            .args(["run", "--hostname", &self.hostname])
            .args(&self.datastore)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second descriptor"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: build it first", binary().display()));
        Agent {
            child: Some(child),
            log: self.log.clone(),
            report: self.run_dir.join(REPORT_FILE),
        }
    }

    /// Starts the agent and waits until it enforces policy and `endpoints` of its endpoints are up.
    pub fn start(&self, endpoints: usize) -> Agent {
        let mut agent = self.spawn();
        agent.wait_for("endpoints are up", |report| {
            let up = report
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.state == "up")
                .count();
            report.epoch > 0 && up >= endpoints
        });
        agent
    }

    /// Runs a subcommand with JSON output.
    ///
    /// # Panics
    ///
    /// When it fails or prints something else.
    pub fn query(&self, subcommand: &[&str]) -> Value {
        let output = self.run(&[subcommand, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{subcommand:?}: {}: {complaint}",
            output.status
        );
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{subcommand:?}: {error}: {text}"))
    }

    /// Runs the binary to its end with any arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
    }

    /// As [`Self::run`], with programs looked for in these directories.
    pub fn run_with_path(&self, path: &str, arguments: &[&str]) -> Output {
        self.command()
            .env("PATH", path)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
    }

    /// Returns packets by drop reason, of the kernel's counters.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.counted("dropped")
    }

    fn counted(&self, list: &str) -> BTreeMap<String, u64> {
        let counters = self.query(&["counters"]);
        let entries = counters[list].as_array().expect("a list of reasons");
        let entry = |entry: &Value| Some((entry["reason"].as_str()?.to_owned(), entry["packets"].as_u64()?));
        entries.iter().filter_map(entry).collect()
    }

    /// Returns packets dropped for a reason so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.counters().get(reason.name()).copied().unwrap_or_default()
    }

    /// Returns packets let pass for a reason so far.
    pub fn passes(&self, reason: PassReason) -> u64 {
        self.counted("passed")
            .get(reason.name())
            .copied()
            .unwrap_or_default()
    }

    /// Returns every flow in the kernel.
    pub fn flows(&self) -> Vec<Value> {
        self.query(&["flows", "--limit", "0"])["flows"]
            .as_array()
            .expect("a list of flows")
            .clone()
    }

    /// Removes the dataplane.
    ///
    /// # Panics
    ///
    /// When `cleanup` fails.
    pub fn clean_up(&self) {
        let output = self.run(&["cleanup"]);
        assert!(
            output.status.success(),
            "cleanup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// `RunDir` of the agent.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.namespace.command(binary());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A running agent. It is killed with its test; when the test fails, its log is shown.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    log: PathBuf,
    report: PathBuf,
}

impl Agent {
    /// Process number.
    ///
    /// # Panics
    ///
    /// When the agent was ended.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent runs").id()
    }

    /// Returns what the running agent wrote about itself, `None` before it did.
    pub fn report(&self) -> Option<AgentReport> {
        let text = fs::read_to_string(&self.report).ok()?;
        let report: AgentReport = serde_json::from_str(&text).ok()?;
        (report.pid == self.pid()).then_some(report)
    }

    /// Waits until the report fulfils a condition.
    ///
    /// # Panics
    ///
    /// When it does not within 30 seconds, or the agent ends.
    pub fn wait_for(&mut self, what: &str, condition: impl Fn(&AgentReport) -> bool) -> AgentReport {
        let found = wait::poll(LIMIT, || {
            if let Some(status) = self.ended() {
                panic!("the agent ended with {status} before {what}");
            }
            self.report().filter(&condition)
        });
        found.unwrap_or_else(|| panic!("not within {LIMIT:?}: {what}; report: {:#?}", self.report()))
    }

    /// Kills the agent with -9.
    pub fn kill(mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends the agent with SIGTERM.
    pub fn terminate(mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    /// Waits until the agent ends by itself.
    ///
    /// # Panics
    ///
    /// When it does not within 30 seconds.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait::poll(LIMIT, || self.ended()).expect("the agent ends by itself")
    }

    /// What all agents of this host logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().expect("wait for the agent"))
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        let Some(mut child) = self.child.take() else {
            return ExitStatus::from_raw(0);
        };
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, signal).expect("signal the agent");
        let ended = wait::poll(LIMIT, || child.try_wait().expect("wait for the agent"));
        ended.unwrap_or_else(|| {
            kill(pid, Signal::SIGKILL).expect("kill the agent");
            panic!("the agent does not end after {signal}");
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if thread::panicking() {
            eprintln!("--- log of the agent ---\n{}---", self.log());
        }
    }
}

/// Path of the agent: `CALICO_EBPF_BIN`, else beside the directory of this test.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("CALICO_EBPF_BIN") {
        return path.into();
    }
    let own = env::current_exe().expect("path of this program");
    let profile = own
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"));
    profile.expect("a directory above").join("calico-ebpf")
}
