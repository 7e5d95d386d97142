//! Address look-ups one after the other, each of which needs the answer to the last: in our tables, in the kernel's
//! LPM tries, and the same loop without any.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, LpmTrie, lpm_trie::Key};
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::bench::{CHAIN_LENGTH, Chain};

use crate::tables::{Tables, address_entry4, address_entry6};

#[map]
static BENCH_CHAIN: Array<Chain> = Array::with_max_entries(1, 0);

/// Members of the set with their class, as a rival has them. Addresses in network byte order.
#[map]
static BENCH_TRIE4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(131_072, 0);
#[map]
static BENCH_TRIE6: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(131_072, 0);

#[classifier]
pub(crate) fn bench_chain_empty(_context: TcContext) -> i32 {
    follow(|_, address| address as u32)
}

#[classifier]
pub(crate) fn bench_chain_table4(_context: TcContext) -> i32 {
    let Ok(tables) = Tables::active() else {
        return TC_ACT_SHOT;
    };
    follow(|_, address| address_entry4(tables.root_line(), address as u32))
}

#[classifier]
pub(crate) fn bench_chain_table6(_context: TcContext) -> i32 {
    let Ok(tables) = Tables::active() else {
        return TC_ACT_SHOT;
    };
    follow(|chain, address| address_entry6(tables.root_line(), chain.high, address))
}

#[classifier]
pub(crate) fn bench_chain_trie4(_context: TcContext) -> i32 {
    follow(|_, address| {
        let key = Key::new(32, (address as u32).to_be());
        BENCH_TRIE4.get(&key).copied().unwrap_or_default()
    })
}

#[classifier]
pub(crate) fn bench_chain_trie6(_context: TcContext) -> i32 {
    follow(|chain, address| {
        let key = Key::new(128, [chain.high.to_be(), address.to_be()]);
        BENCH_TRIE6.get(&key).copied().unwrap_or_default()
    })
}

/// Follows the chain and returns the last answer.
#[inline(always)]
fn follow(look_up: impl Fn(&Chain, u64) -> u32) -> i32 {
    let Some(place) = BENCH_CHAIN.get_ptr_mut(0) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: points to a map value; one program runs at a time.
    let mut chain = unsafe { *place };
    let mut answer = 0;
    for _ in 0..CHAIN_LENGTH {
        let member = chain.next_member(answer);
        answer = look_up(&chain, chain.address(member));
    }
    // SAFETY: as above.
    unsafe { *place = chain };
    answer.cast_signed()
}
