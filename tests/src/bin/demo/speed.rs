//! How fast guests talk through the dataplane, beside iptables rules for the same policy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{Amount, Transfer, at, datagrams};
use calico_ebpf_tests::wait;
use serde::Serialize;

use crate::story::Cell;

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(2500);

/// Figures of one dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Speed {
    pub(crate) tcp_gbit_per_s: f64,
    pub(crate) udp_packets_per_s: f64,
}

/// Figures side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) ebpf: Speed,
    pub(crate) iptables: Speed,
    /// Which iptables.
    pub(crate) rules: String,
    pub(crate) note: &'static str,
}

/// What the figures are worth.
pub(crate) const NOTE: &str = "real TCP and 64-byte UDP from client to web; every frame is carried between guest \
    and tap by a thread of this program, which bounds both columns: `cargo xtask bench` has the kernel's share alone";

/// Measures from client to web on port 80, which nobody may listen on meanwhile.
pub(crate) fn measure(scene: &Scene, dataplane: &str) -> (Speed, Cell) {
    let (client, web) = (scene.guest("client").namespace(), scene.guest("web"));
    let target = at(web.vm().v4(), 80);
    let end = Arc::default();
    let transfer = Transfer::start(client, web.namespace(), target, Amount::Until(Arc::clone(&end)));
    let transfer = transfer.expect("client connects to web");
    assert!(wait::poll(TIME, || None::<()>).is_none());
    end.store(true, Ordering::Relaxed);
    let outcome = transfer.finish().expect("the transfer ends well");
    let stream = datagrams(client, web.namespace(), target, TIME).expect("datagrams");
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let udp_packets_per_s = stream.arrived as f64 / stream.duration.as_secs_f64();
    let seen = if outcome.is_whole() { "whole" } else { "damaged" };
    let cell = Cell::new(
        "client",
        "web",
        &format!("transfer through {dataplane}"),
        "whole",
        seen,
    );
    (
        Speed {
            tcp_gbit_per_s: outcome.gigabits_per_second(),
            udp_packets_per_s,
        },
        cell,
    )
}
