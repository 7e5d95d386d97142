//! How much stack the programs need, as the oldest kernels count it.
//!
//! A program and the functions that it calls share 512 bytes. Linux rounds each one's part up to 32 bytes, and to 16
//! since 6.4 where programs are compiled: a program that fits there may be refused by 6.1.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};

const LIMIT: u32 = 512;
const ROUNDED_TO: u32 = 32;
const INSTRUCTION_BYTES: u64 = 8;
/// The register that points to the end of the stack.
const FRAME: u8 = 10;

/// Where a function begins: number of the section, and offset in it.
type Place = (usize, u64);

/// One function: its name, what it needs itself, whom it calls.
struct Function {
    name: String,
    own: u32,
    callees: Vec<Place>,
}

/// Checks every chain of calls in an object.
///
/// # Errors
/// One needs too much, or the object cannot be read.
pub(crate) fn check(elf: &[u8]) -> Result<()> {
    let functions = functions(elf)?;
    for function in functions.values() {
        let (bytes, chain) = deepest(&functions, function, 8)?;
        if bytes > LIMIT {
            bail!(
                "{} needs {bytes} bytes of stack, each part rounded up to {ROUNDED_TO}; Linux 6.1 allows {LIMIT}: {}",
                function.name,
                chain.join(", ")
            );
        }
    }
    Ok(())
}

/// Returns the most that a function and those it calls need, and the chain that does.
fn deepest(
    functions: &BTreeMap<Place, Function>,
    function: &Function,
    levels: u32,
) -> Result<(u32, Vec<String>)> {
    let levels = levels.checked_sub(1).context("calls nest too deeply")?;
    let mut most = (0, Vec::new());
    for place in &function.callees {
        let callee = functions
            .get(place)
            .with_context(|| format!("{} calls what is no function", function.name))?;
        let below = deepest(functions, callee, levels)?;
        if below.0 > most.0 {
            most = below;
        }
    }
    let own = function.own.max(1).next_multiple_of(ROUNDED_TO);
    most.0 += own;
    most.1.insert(0, format!("{} {}", function.name, function.own));
    Ok(most)
}

fn functions(elf: &[u8]) -> Result<BTreeMap<Place, Function>> {
    let file = object::File::parse(elf)?;
    let mut functions = BTreeMap::new();
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let data = section.data()?;
        let relocations: BTreeMap<u64, RelocationTarget> = section
            .relocations()
            .map(|(offset, relocation)| (offset, relocation.target()))
            .collect();
        let symbols = file.symbols().filter(|symbol| {
            symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section.index())
        });
        for symbol in symbols {
            let (start, end) = (symbol.address(), symbol.address() + symbol.size());
            let code = data
                .get(usize::try_from(start)?..usize::try_from(end)?)
                .context("a function beyond its section")?;
            let mut callees = Vec::new();
            for (index, instruction) in (0_u64..).zip(code.chunks_exact(8)) {
                let at = start + index * INSTRUCTION_BYTES;
                let Some(call) = call(instruction) else { continue };
                let Some(RelocationTarget::Symbol(target)) = relocations.get(&at) else {
                    let next = i64::try_from(at / INSTRUCTION_BYTES)? + 1 + i64::from(call);
                    callees.push((section.index().0, u64::try_from(next)? * INSTRUCTION_BYTES));
                    continue;
                };
                let target = file.symbol_by_index(*target)?;
                let place = target.section_index().context("a call out of the object")?.0;
                let offset = if target.kind() == SymbolKind::Section {
                    u64::try_from(i64::from(call) + 1)? * INSTRUCTION_BYTES
                } else {
                    target.address()
                };
                callees.push((place, offset));
            }
            let function = Function {
                name: symbol.name()?.to_owned(),
                own: own_stack(code),
                callees,
            };
            functions.insert((section.index().0, start), function);
        }
    }
    Ok(functions)
}

/// Returns the operand of a call to another function of the object.
fn call(instruction: &[u8]) -> Option<i32> {
    const CALL: u8 = 0x85;
    const OF_FUNCTION: u8 = 1;
    match instruction {
        [CALL, registers, _, _, operand @ ..] if registers >> 4 == OF_FUNCTION => {
            Some(i32::from_le_bytes(operand.try_into().ok()?))
        }
        _ => None,
    }
}

/// Returns how far below its end a function uses the stack: by loads and stores, and by the addresses that it takes.
fn own_stack(code: &[u8]) -> u32 {
    const CLASS: u8 = 0x07;
    const LOAD: u8 = 1;
    const STORES: [u8; 2] = [2, 3];
    const COPY: u8 = 0xbf;
    const ADD: u8 = 0x07;
    let mut lowest = 0_i32;
    let mut copied = None;
    for instruction in code.chunks_exact(8) {
        let (target, source) = (instruction[1] & 0x0f, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let operand = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        match instruction[0] {
            COPY if source == FRAME => copied = Some(target),
            ADD if copied == Some(target) => lowest = lowest.min(operand),
            operation if operation & CLASS == LOAD && source == FRAME => lowest = lowest.min(offset),
            operation if STORES.contains(&(operation & CLASS)) && target == FRAME => {
                lowest = lowest.min(offset);
            }
            _ => {}
        }
    }
    lowest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_stores_and_taken_addresses_count() {
        // *(u64 *)(r10 - 16) = r1; r1 = *(u32 *)(r10 - 24); r2 = r10; r2 += -40; r3 += -400
        let store = [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0];
        let load = [0x61, 0xa1, 0xe8, 0xff, 0, 0, 0, 0];
        let copy = [0xbf, 0xa2, 0, 0, 0, 0, 0, 0];
        let add = [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff];
        let other = [0x07, 0x03, 0, 0, 0x70, 0xfe, 0xff, 0xff];
        for (code, expected) in [
            (vec![], 0),
            (vec![store], 16),
            (vec![store, load], 24),
            (vec![store, load, copy, add, other], 40),
        ] {
            assert_eq!(own_stack(&code.concat()), expected);
        }
    }

    fn chain(own: u32) -> BTreeMap<Place, Function> {
        let function = |name: &str, own, callees| Function {
            name: name.to_owned(),
            own,
            callees,
        };
        let text = 1;
        BTreeMap::from([
            ((text, 0), function("program", own, vec![(text, 8)])),
            ((text, 8), function("called", 97, Vec::new())),
        ])
    }

    #[test]
    fn each_part_of_a_chain_is_rounded_up() {
        for (own, expected) in [(0, 160), (384, 512), (385, 544)] {
            let functions = chain(own);
            let program = functions.values().next().expect("the program");
            let (bytes, names) = deepest(&functions, program, 8).expect("a short chain");
            assert_eq!(bytes, expected);
            assert_eq!(names, [format!("program {own}"), "called 97".to_owned()]);
        }
    }
}
