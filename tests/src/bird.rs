//! BIRD on a host, as Calico's OpenStack installations run it: it takes routes to taps from the kernel's main table to the
//! other hosts and brings theirs back.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::fabric::Place;
use crate::host::Host;
use crate::netns::Netns;
use crate::wait;

/// How long BIRD may take to listen to its control socket.
const LIMIT: Duration = Duration::from_secs(20);

/// A running BIRD. It ends with this value; when the test fails, its log is shown.
#[derive(Debug)]
pub struct Bird {
    child: Child,
    namespace: Arc<Netns>,
    socket: PathBuf,
    log: PathBuf,
}

impl Bird {
    /// Starts BIRD on a host and lets it talk to another one.
    pub fn start(host: &Host, own: Place, peer: Place) -> Self {
        let directory = host.directory();
        let (configuration, log) = (directory.join("bird.conf"), directory.join("bird.log"));
        let socket = directory.join("bird.ctl");
        fs::write(&configuration, configuration_of(own, peer)).expect("write the configuration");
        let output = File::create(&log).expect("BIRD's log");
        let child = host
            .namespace()
            .command("bird")
            .args(["-f", "-c"])
            .arg(&configuration)
            .arg("-s")
            .arg(&socket)
            .arg("-P")
            .arg(directory.join("bird.pid"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second descriptor"))
            .stderr(output)
            .spawn()
            .expect("bird starts (`cargo xtask setup`)");
        let mut bird = Self {
            child,
            namespace: Arc::clone(host.namespace()),
            socket,
            log,
        };
        wait::until("BIRD answers", LIMIT, || {
            let ended = bird.child.try_wait().expect("wait for BIRD");
            assert!(ended.is_none(), "BIRD ended: {ended:?}");
            bird.socket.exists() && bird.ask("show status").contains("Daemon is up")
        });
        bird
    }

    /// Returns what `birdc` answers.
    pub fn ask(&self, question: &str) -> String {
        let socket = self.socket.to_str().expect("a path in UTF-8");
        let mut arguments = vec!["-s", socket];
        arguments.extend(question.split(' '));
        let output = self.namespace.output("birdc", &arguments);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the sessions of both families are established.
    ///
    /// # Panics
    ///
    /// When they are not within 20 seconds.
    pub fn wait_for_sessions(&self) {
        wait::until("both sessions are established", LIMIT, || {
            self.ask("show protocols").matches("Established").count() == 2
        });
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- log of BIRD ---\n{log}---");
        }
    }
}

/// What Felix's templates for BIRD say, in the language of BIRD 2: the main table is scanned every two seconds, what leads
/// to a tap is announced, and a metric travels as preference (contract 3.1).
fn configuration_of(own: Place, peer: Place) -> String {
    let session = |name: &str, family: &str, addresses: [String; 2]| {
        let [own, peer] = addresses;
        format!(
            "protocol bgp {name} {{
  local {own} as 64512;
  neighbor {peer} as 64512;
  connect retry time 1;
  connect delay time 1;
  error wait time 1, 2;
  {family} {{ import filter from_peer; export filter to_peer; next hop self; }};
}}
"
        )
    };
    let kernel = |name: &str, family: &str| {
        format!(
            "protocol kernel {name} {{
  learn;
  persist;
  scan time 2;
  metric 0;
  {family} {{ import all; export where source != RTS_DEVICE; }};
}}
"
        )
    };
    [
        format!("log stderr all;\nrouter id {};\n", own.v4()),
        FILTERS.to_owned(),
        "protocol device { scan time 2; }\n".to_owned(),
        "protocol direct { ipv4; ipv6; interface \"fabric*\"; }\n".to_owned(),
        kernel("kernel4", "ipv4"),
        kernel("kernel6", "ipv6"),
        session("peer4", "ipv4", [own.v4().to_string(), peer.v4().to_string()]),
        session("peer6", "ipv6", [own.v6().to_string(), peer.v6().to_string()]),
    ]
    .concat()
}

const FILTERS: &str = r#"
filter to_peer {
  if ifname !~ "tap*" then reject;
  if net = 0.0.0.0/0 || net = ::/0 then reject;
  if !defined(krt_metric) then krt_metric = 1024;
  bgp_local_pref = 2147483647 - krt_metric;
  accept;
}
filter from_peer {
  krt_metric = 2147483647 - bgp_local_pref;
  accept;
}
"#;
