//! The programs as they are asked in a dry run, and attached to an interface as the agent attaches them.

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun, TestRunOptions};
use calico_ebpf_common::event::{FATE_COUNTER, FATE_KNOWN, WORD_FATE};
use calico_ebpf_common::maps;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_userspace::dataplane::sk_buff::{self, SkBuff};

use super::ran::Context;
use super::{Counted, Dataplane};

impl Dataplane {
    /// Returns what a hook of the workload at `lo` says of a frame. The programs have to be in a dry run
    /// (`settings::DRY_RUN`): others leave no such word.
    ///
    /// # Panics
    ///
    /// When the kernel does not run the program.
    pub fn fate(&self, program: &str, frame: &[u8]) -> Option<Counted> {
        let mut after = SkBuff::default();
        self.program(program)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(Context::default().sk_buff().bytes()),
                ctx_out: Some(after.bytes_mut()),
                ..TestRunOptions::new()
            })
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        let fate = after.get(sk_buff::CB + WORD_FATE * 4);
        let counter = fate & FATE_COUNTER;
        if fate & FATE_KNOWN == 0 {
            None
        } else if counter < maps::PASS_COUNTERS {
            DropReason::of_number(counter).map(Counted::Drop)
        } else {
            PassReason::of_number(counter - maps::PASS_COUNTERS).map(Counted::Pass)
        }
    }

    /// Makes an interface of the calling thread's namespace the workload's tap: the policy table knows it, and what comes
    /// in by it goes through the program.
    pub fn attach_from_workload(&mut self, name: &str, interface: &str) {
        let number = nix::net::if_::if_nametoindex(interface).expect("an interface");
        self.change_host(|host| {
            let tap = host.interfaces.get_mut(&super::tap(name)).expect("a tap");
            tap.ifindex = number;
        });
        self.switch_to("nobody at lo");
        let program = self.loaded_mut().object.program_mut(maps::PROGRAM_FROM_WORKLOAD);
        attach(
            program.expect("loaded").try_into().expect("a classifier"),
            interface,
        );
    }
}

/// Attaches a program behind those that are there already, to what comes in by an interface of the calling thread's
/// namespace.
///
/// # Panics
///
/// When the kernel refuses; it has tcx since Linux 6.6.
pub fn attach(program: &mut SchedClassifier, interface: &str) {
    let order = TcAttachOptions::TcxOrder(LinkOrder::last());
    program
        .attach_with_options(interface, TcAttachType::Ingress, order)
        .unwrap_or_else(|error| panic!("attach to {interface}: {error}"));
}
