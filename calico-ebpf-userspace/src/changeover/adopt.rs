//! From Felix to us: hands live connections over and removes Felix's rules and sets, once ours enforce everything.

use anyhow::Context;
use serde::Serialize;

use super::flows::{self, HandedOver, TakenOver};
use super::iptables::Backend;
use super::reason::{Reason, weigh};
use super::ruleset::FelixPart;
use super::{ipsets, ours, process};
use crate::config::Config;
use crate::observe::{is_running, read_report};

/// What is asked of a change-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Look at everything and change nothing.
    pub dry_run: bool,
    /// Go on in spite of reasons that allow it.
    pub force: bool,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Adopted {
    pub dry_run: bool,
    pub tables: Vec<RemovedTable>,
    pub ip_sets: Vec<String>,
    /// Connections that Felix's rules had let pass and that ours now know of.
    pub connections: HandedOver,
    /// What `--force` went on in spite of, and what else is to be known.
    pub notes: Vec<String>,
    /// What could not be removed, and why. The next run tries again.
    pub left: Vec<String>,
}

/// Felix's part of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemovedTable {
    /// `iptables-legacy`, `ip6tables-nft` ...
    pub backend: String,
    pub table: String,
    /// Rules in chains that are not Felix's.
    pub hooks: Vec<String>,
    pub chains: Vec<String>,
    /// Rules in these chains.
    pub rules: usize,
}

/// Takes the host over from Felix. What a run leaves undone, also one that was killed, the next one does.
///
/// # Errors
/// When ours do not enforce everything, Felix runs, or its rules cannot be read: nothing was changed then.
pub async fn adopt(config: &Config, wish: Wish) -> anyhow::Result<Adopted> {
    let report = read_report(&config.run_dir)?;
    let mut reasons = ours::missing_in_report(&report, is_running(&report));
    reasons.extend(felix_runs());
    reasons.extend(ours::missing_in_kernel(config, &report).await?);
    let backends = Backend::installed();
    if backends.is_empty() {
        reasons.push(Reason::firm(
            "no iptables is installed: nothing tells whether Felix's rules are there",
            "Install the package iptables, or add its directory to PATH.",
        ));
    }
    let mut adopted = Adopted {
        dry_run: wish.dry_run,
        notes: weigh(reasons, wish.force)?,
        ..Adopted::default()
    };
    // Everything is read before anything is changed.
    let mut parts: Vec<(Backend, String, FelixPart)> = Vec::new();
    for backend in backends {
        for table in backend.read()? {
            let part = table.felix();
            if !part.is_empty() {
                parts.push((backend, table.name, part));
            }
        }
    }
    let sets = ipsets::read()?;
    if sets.is_none() {
        adopted
            .notes
            .push("ipset is not installed: sets of Felix, if there are any, stay".to_owned());
    }
    let mut taken = TakenOver::default();
    if !wish.dry_run && !parts.is_empty() {
        // Before the rules go: afterwards what came by a translated address would be answered from another.
        match flows::take_over(config, &report) {
            Ok(found) => taken = found,
            Err(error) if wish.force => adopted
                .notes
                .push(format!("connections not handed over: {error:#}")),
            Err(error) => {
                return Err(error.context(
                    "connections cannot be handed over, and nothing was changed (--force goes on without them)",
                ));
            }
        }
    }
    for (backend, table, part) in parts {
        remove_part(wish, backend, &table, part, &mut adopted);
    }
    adopted.connections = taken.handed;
    adopted.left.extend(flows::end_translations(&taken));
    for name in sets.into_iter().flatten() {
        let destroyed = if wish.dry_run {
            Ok(())
        } else {
            ipsets::destroy(&name)
        };
        match destroyed {
            Ok(()) => adopted.ip_sets.push(name),
            Err(error) => adopted.left.push(format!("set {name}: {error:#}")),
        }
    }
    Ok(adopted)
}

fn felix_runs() -> Option<Reason> {
    let pids = process::felix();
    let listed: Vec<String> = pids.iter().map(u32::to_string).collect();
    (!pids.is_empty()).then(|| {
        Reason::firm(
            format!("Felix runs (pid {}) and would write its rules again", listed.join(", ")),
            "Stop it, and keep it from starting at boot: systemctl disable --now calico-felix. Its rules stay.",
        )
    })
}

fn remove_part(wish: Wish, backend: Backend, table: &str, part: FelixPart, adopted: &mut Adopted) {
    let removed = if wish.dry_run {
        Ok(())
    } else {
        let text = part.removal(table);
        backend
            .restore(&text)
            .with_context(|| format!("{} {table}", backend.name))
    };
    match removed {
        Ok(()) => adopted.tables.push(RemovedTable {
            backend: backend.name.to_owned(),
            table: table.to_owned(),
            hooks: part
                .hooks
                .iter()
                .map(|rule| format!("-A {} {}", rule.chain, rule.body))
                .collect(),
            chains: part.chains,
            rules: part.rules,
        }),
        Err(error) => adopted.left.push(format!("{error:#}")),
    }
}
