//! A fall-back's lines in the table.

use calico_ebpf_common::address::FANOUT4;
use calico_ebpf_common::fall_back::{FallBack, line_of_bits};
use calico_ebpf_common::line::WORDS;
use calico_ebpf_common::policy::Cell;

use super::axis::AxisRows;
use super::{AddressAxis, FallBackTable, PortAxis};
use crate::compile::exact::words;
use crate::compile::prefixes::{write_rows4, write_rows6};
use crate::compile::writer::LineWriter;

impl FallBackTable {
    /// Writes everything; returns the cell that leads there.
    pub(in crate::compile) fn write(&self, writer: &mut LineWriter) -> Cell {
        let mut rows = |rows: &AxisRows| {
            let (lines, rows) = rows.laid_out();
            let numbers: Vec<u32> = lines
                .iter()
                .enumerate()
                .map(|(number, bits)| {
                    if number == 0 {
                        0
                    } else {
                        writer.words(&line_of_bits(*bits).words)
                    }
                })
                .collect();
            let rows: Vec<u32> = rows.into_iter().map(|line| numbers[line as usize]).collect();
            writer.words(&rows)
        };
        let [remote_rows, local_rows] = [&self.remote, &self.local].map(|axis| rows(&axis.rows));
        let [port_rows, source_rows] = [&self.ports, &self.sources].map(|axis| rows(&axis.rows));
        let width = self.ordered.width();
        let logs: Vec<u32> = self
            .ordered
            .logs
            .iter()
            .flat_map(|word| bytemuck::cast::<u64, [u32; 2]>(*word))
            .chain(std::iter::repeat(0))
            .take(width * WORDS as usize)
            .collect();
        let set = FallBack {
            remote4: tree4(writer, &self.remote.v4),
            remote6: tree6(writer, &self.remote),
            remote_rows,
            local4: tree4(writer, &self.local.v4),
            local6: tree6(writer, &self.local),
            local_rows,
            ports: tree4(writer, &self.ports.cuts),
            port_rows,
            sources: tree4(writer, &self.sources.cuts),
            source_rows,
            logs: writer.words(&logs),
            outcomes: writer.words(&self.ordered.outcomes),
            width: u32::try_from(width).unwrap_or(u32::MAX),
            ..FallBack::default()
        };
        Cell::fall_back(writer.push_one(&set))
    }

    /// Returns about how many lines it takes.
    pub(in crate::compile) fn lines(&self) -> usize {
        let trees = |cuts: usize| cuts / FANOUT4 as usize * 2;
        let address =
            |axis: &AddressAxis| trees(axis.v4.len()) + axis.v6.len() / 3 + axis.rows.lines_to_write();
        let port = |axis: &PortAxis| trees(axis.cuts.len()) + axis.rows.lines_to_write();
        let rules = self.ordered.outcomes.len() / WORDS as usize;
        address(&self.remote) + address(&self.local) + port(&self.ports) + port(&self.sources) + rules
    }
}

fn tree4(writer: &mut LineWriter, cuts: &[(u128, u32)]) -> u32 {
    let cuts: Vec<(u32, u32)> = cuts
        .iter()
        .map(|(first, row)| (u32::try_from(*first).unwrap_or(u32::MAX), *row))
        .collect();
    write_rows4(writer, &cuts)
}

fn tree6(writer: &mut LineWriter, axis: &AddressAxis) -> u32 {
    let cuts: Vec<([u64; 2], u32)> = axis.v6.iter().map(|(first, row)| (words(*first), *row)).collect();
    write_rows6(writer, &cuts)
}
