//! A TCP connection in mid-stream: what it costs to follow its window.

use anyhow::{Context, ensure};
use aya::Ebpf;
use aya::maps::HashMap;
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6, STATE_ESTABLISHED, STATE_REPLIED};
use calico_ebpf_common::quota::Kind;
use calico_ebpf_common::window::{LAG, Segment, Window};
use calico_ebpf_userspace::dataplane::flows::FlowKey;

use crate::bed::{self, SOURCE_PORT, headers, run_program};
use crate::prog::REDIRECT;
use crate::rules::PORT;

/// Sequence numbers of the SYNs of originator and responder.
const FIRST: [u32; 2] = [1000, 900_000];
/// What both advertise, and the scale that they offered.
const WINDOW: u16 = 64_000;
const SCALE: u8 = 7;
const BYTES: u32 = 18;
const PAYLOAD: [u8; BYTES as usize] = [0; BYTES as usize];

/// Returns a segment of the originator that begins so many bytes behind its SYN.
pub(crate) fn data(v6: bool, behind: u32) -> Vec<u8> {
    let builder = headers(v6)
        .tcp(SOURCE_PORT, PORT, FIRST[0] + 1 + behind, WINDOW)
        .ack(FIRST[1] + 1);
    let mut frame = Vec::with_capacity(builder.size(PAYLOAD.len()));
    builder
        .write(&mut frame, &PAYLOAD)
        .expect("a vector takes any length");
    frame
}

fn syn(v6: bool) -> Vec<u8> {
    let builder = headers(v6).tcp(SOURCE_PORT, PORT, FIRST[0], WINDOW).syn();
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write(&mut frame, &[]).expect("a vector takes any length");
    frame
}

/// Opens the connection of [`data`]'s segments: the program judges its SYN, the rest of the handshake is entered.
///
/// # Errors
/// When the program does not open the flow, or does not follow its window.
pub(crate) fn establish(object: &mut Ebpf, v6: bool) -> anyhow::Result<()> {
    let (_, action) = run_program(bed::program(object, "bench_from_workload")?, &syn(v6), 1)?;
    ensure!(
        action == REDIRECT,
        "the SYN got TC action {action}, expected {REDIRECT}"
    );
    if v6 {
        confirm::<FlowKey6>(object)
    } else {
        confirm::<FlowKey4>(object)
    }?;
    // Behind the first half of a window: the end of what was sent is noted anew only from time to time.
    let ahead = data(v6, LAG * 2);
    let end = FIRST[0] + 1 + LAG * 2 + BYTES;
    run_program(bed::program(object, "bench_from_workload")?, &ahead, 1)?;
    let followed = if v6 {
        window::<FlowKey6>(object)
    } else {
        window::<FlowKey4>(object)
    }?;
    ensure!(
        followed.end[0] == end,
        "the flow's window does not follow: {followed:?}, expected its end at {end}"
    );
    Ok(())
}

fn confirm<K: FlowKey>(object: &mut Ebpf) -> anyhow::Result<()> {
    let (key, mut flow) = only_flow::<K>(object, Kind::HalfOpen)?;
    let mut answer = Segment {
        sequence: FIRST[1],
        end: FIRST[1] + 1,
        acknowledged: FIRST[0] + 1,
        window: WINDOW,
        is_syn: true,
        is_ack: true,
        is_reset: false,
    };
    flow.window.note(&answer, false);
    for is_original in [false, true] {
        flow.window.offer(is_original, SCALE);
    }
    answer.is_syn = false;
    answer.sequence = answer.end;
    flow.window.note(&answer, false);
    flow.state = STATE_REPLIED | STATE_ESTABLISHED;
    let [half_open, confirmed] = K::MAPS;
    map::<K>(object, confirmed)?.insert(key, flow, 0)?;
    Ok(map::<K>(object, half_open)?.remove(&key)?)
}

fn window<K: FlowKey>(object: &mut Ebpf) -> anyhow::Result<Window> {
    Ok(only_flow::<K>(object, Kind::Confirmed)?.1.window)
}

fn only_flow<K: FlowKey>(object: &mut Ebpf, kind: Kind) -> anyhow::Result<(K, Flow)> {
    let flows = map::<K>(object, K::MAPS[kind as usize])?;
    let mut flows = flows.iter();
    let flow = flows.next().context("the program opened no flow")??;
    ensure!(flows.next().is_none(), "more than one flow is open");
    Ok(flow)
}

fn map<'a, K: FlowKey>(
    object: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<HashMap<&'a mut aya::maps::MapData, K, Flow>> {
    let map = object.map_mut(name).with_context(|| format!("no map {name}"))?;
    Ok(HashMap::try_from(map)?)
}
