//! Edges of what is tried that ran: flags that the Rust compiler puts into the program when `cargo xtask fuzz` builds
//! it. Without them there is nothing to tell.

use std::collections::BTreeMap;
use std::sync::Mutex;

use object::{Object as _, ObjectSymbol as _, SymbolKind};

/// What is looked at.
pub struct Part {
    /// How names of functions go on to those of its modules, in both ways of mangling.
    pub mangled: &'static str,
    pub dotted: &'static str,
    /// Name of the sum.
    pub name: &'static str,
    /// Whether a module belongs to it.
    pub has: fn(&str) -> bool,
}

static FLAGS: Mutex<Option<[usize; 2]>> = Mutex::new(None);
static PLACES: Mutex<Option<[usize; 2]>> = Mutex::new(None);

/// What ran of a module.
pub struct ModuleEdges {
    pub name: String,
    pub hit: usize,
    pub edges: usize,
}

/// Called by the instrumented code before `main`, with the flags of all of it.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_bool_flag_init(start: *const u8, end: *const u8) {
    note(&FLAGS, [start.addr(), end.addr()]);
}

/// As above, with an address and its kind for each flag.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(start: *const [usize; 2], end: *const [usize; 2]) {
    note(&PLACES, [start.addr(), end.addr()]);
}

fn note(range: &Mutex<Option<[usize; 2]>>, found: [usize; 2]) {
    if let Ok(mut range) = range.lock() {
        *range = Some(found);
    }
}

/// Returns the edges of a part by module, and their sum; empty without flags.
pub fn by_module(part: &Part) -> Vec<ModuleEdges> {
    let taken = |range: &Mutex<Option<[usize; 2]>>| range.lock().ok().and_then(|range| *range);
    let (Some(flags), Some(places)) = (taken(&FLAGS), taken(&PLACES)) else {
        return Vec::new();
    };
    let (flags, places) = (slice::<u8>(flags), slice::<[usize; 2]>(places));
    let Some(functions) = functions() else {
        return Vec::new();
    };
    let mut modules: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (flag, [place, _]) in flags.iter().zip(places) {
        let Some((_, name)) = functions.range(..=place).next_back() else {
            continue;
        };
        if let Some(module) = module_of(name, part).filter(|module| (part.has)(module)) {
            let [hit, edges] = modules.entry(module).or_default();
            *hit += usize::from(*flag != 0);
            *edges += 1;
        }
    }
    let sum = modules
        .values()
        .fold([0, 0], |sum, [hit, edges]| [sum[0] + hit, sum[1] + edges]);
    let told = modules.into_iter().chain([(part.name, sum)]);
    told.map(|(name, [hit, edges])| ModuleEdges {
        name: name.to_owned(),
        hit,
        edges,
    })
    .collect()
}

fn slice<T>([start, end]: [usize; 2]) -> &'static [T] {
    let count = (end - start) / size_of::<T>();
    // SAFETY: the linker put the section between these addresses; it lives as long as the program. Flags are written
    // by instrumented code only, and no thread but this one runs any more.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), count) }
}

/// Returns the functions of this program by the address at which they were loaded.
fn functions() -> Option<BTreeMap<usize, String>> {
    let bytes = std::fs::read("/proc/self/exe").ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    let own = __sanitizer_cov_pcs_init as *const () as usize;
    let anchor = file
        .symbols()
        .find(|symbol| symbol.name() == Ok("__sanitizer_cov_pcs_init"))?;
    let moved_by = own.wrapping_sub(usize::try_from(anchor.address()).ok()?);
    let of_symbol = |symbol: object::Symbol<'_, '_>| {
        let address = usize::try_from(symbol.address()).ok()?;
        Some((address.wrapping_add(moved_by), symbol.name().ok()?.to_owned()))
    };
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    Some(functions.filter_map(of_symbol).collect())
}

/// Returns the module of a part that a mangled name belongs to.
fn module_of<'a>(name: &'a str, part: &Part) -> Option<&'a str> {
    if let Some((_, rest)) = name.split_once(part.mangled) {
        let digits = rest.len()
            - rest
                .trim_start_matches(|digit: char| digit.is_ascii_digit())
                .len();
        let length: usize = rest[..digits].parse().ok()?;
        return rest[digits..].get(..length);
    }
    let (_, rest) = name.split_once(part.dotted)?;
    rest.split(['.', '$']).next()
}
