//! Whether Felix's rules judge what goes from and to a tap.

use super::iptables::Backend;
use super::reason::Reason;
use super::ruleset::Table;

/// Kernel's chains that packets of workloads pass, with the table: forwarded, to the host, and before both.
const HOOKS: [(&str, &str); 3] = [("filter", "FORWARD"), ("filter", "INPUT"), ("raw", "PREROUTING")];
/// Longest name of a chain that Felix gives.
const CHAIN_LENGTH: usize = 28;

/// Returns what Felix's rules of one family lack for `taps`; empty when one back end has all.
pub fn missing(family: &str, backends: &[(Backend, Vec<Table>)], taps: &[String]) -> Vec<Reason> {
    let mut fewest: Option<Vec<Reason>> = None;
    for (backend, tables) in backends {
        let reasons = missing_in(backend.name, tables, taps);
        if fewest.as_ref().is_none_or(|fewest| reasons.len() < fewest.len()) {
            fewest = Some(reasons);
        }
    }
    fewest.unwrap_or_else(|| {
        vec![Reason::firm(
            format!("no iptables for {family} is installed"),
            "Install the package iptables, with which Felix writes its rules.",
        )]
    })
}

fn missing_in(backend: &str, tables: &[Table], taps: &[String]) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (table, hook) in HOOKS {
        let is_hooked = tables.iter().filter(|found| found.name == table).any(|found| {
            let hooks = found.felix().hooks;
            hooks.iter().any(|rule| rule.chain == hook)
        });
        if !is_hooked {
            reasons.push(Reason::firm(
                format!("{backend}: nothing of Felix in {hook} of the table {table}"),
                "Start Felix, and wait until it has written its rules.",
            ));
        }
    }
    let filter = tables.iter().find(|table| table.name == "filter");
    let reached = filter
        .map(|table| table.reached_from("FORWARD"))
        .unwrap_or_default();
    for tap in taps {
        for prefix in ["cali-fw-", "cali-tw-"] {
            let chain: String = format!("{prefix}{tap}").chars().take(CHAIN_LENGTH).collect();
            if !reached.contains(chain.as_str()) {
                reasons.push(Reason::firm(
                    format!("{backend}: no way from FORWARD to {chain}"),
                    format!("Felix does not judge {tap} yet: wait, and look into its log."),
                ));
            }
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::parse;
    use super::*;

    const SAVED: &str = "*raw\n-A PREROUTING -j cali-PREROUTING\n*filter\n-A INPUT -j cali-INPUT\n\
        -A FORWARD -j cali-FORWARD\n-A cali-FORWARD -j cali-from-wl-dispatch\n-A cali-FORWARD -j cali-to-wl-dispatch\n\
        -A cali-from-wl-dispatch -i tap1 -g cali-fw-tap1\n-A cali-to-wl-dispatch -o tap1 -g cali-tw-tap1\n";

    fn found(text: &str, taps: &[&str]) -> Vec<String> {
        let taps: Vec<String> = taps.iter().map(|tap| (*tap).to_owned()).collect();
        let reasons = missing_in("iptables-nft", &parse(text), &taps);
        reasons.into_iter().map(|reason| reason.found).collect()
    }

    #[test]
    fn a_tap_is_covered_when_both_its_chains_are_reached() {
        assert_eq!(found(SAVED, &["tap1"]), [""; 0]);
        assert_eq!(found(SAVED, &["tap1", "tap2"]).len(), 2);
    }

    #[test]
    fn rules_that_are_not_hooked_cover_nothing() {
        let unhooked = SAVED.replace("-A FORWARD -j cali-FORWARD\n", "");
        assert_eq!(found(&unhooked, &["tap1"]).len(), 3);
        assert_eq!(found("", &["tap1"]).len(), 5);
    }
}
