//! The agent's log: standard error, and a file beside it.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::Config;

/// Starts logging as `config` says, for the life of the process.
///
/// # Errors
/// Fails when the log file cannot be opened, and when logging was started before.
pub(super) fn start(config: &Config) -> anyhow::Result<()> {
    let mut layers = vec![screen_layer(config)];
    if let Some(path) = config
        .log_file
        .as_deref()
        .filter(|_| config.log_severity_file != "off")
    {
        layers.push(file_layer(config, open(path)?));
    }
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .context("logging was started before")
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn screen_layer(config: &Config) -> BoxedLayer {
    let filter = filter(&config.log_severity_screen);
    // systemd's journal dates every line itself.
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let is_coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(is_coloured);
    match (config.log_json, is_journal) {
        (true, _) => layer.json().flatten_event(true).with_filter(filter).boxed(),
        (false, true) => layer.without_time().with_filter(filter).boxed(),
        (false, false) => layer.with_filter(filter).boxed(),
    }
}

fn file_layer(config: &Config, file: File) -> BoxedLayer {
    let filter = filter(&config.log_severity_file);
    let layer = fmt::layer().with_writer(Arc::new(file)).with_ansi(false);
    if config.log_json {
        layer.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        layer.with_filter(filter).boxed()
    }
}

/// Returns the filter of a level: ours at that level, libraries at `warn` unless everything is asked for.
fn filter(level: &str) -> EnvFilter {
    let libraries = if matches!(level, "info" | "debug") {
        "warn"
    } else {
        level
    };
    EnvFilter::new(format!(
        "{libraries},calico_ebpf_userspace={level},calico_ebpf={level}"
    ))
}

fn open(path: &Path) -> anyhow::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| {
            format!(
                "cannot make {}, the directory of LogFilePath",
                directory.display()
            )
        })?;
    }
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot open the log file {} (LogFilePath)", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_gets_json_lines_of_its_severity() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/agent.log");
        let config = Config {
            log_json: true,
            log_severity_file: "warn".to_owned(),
            ..Config::default()
        };
        let subscriber = tracing_subscriber::registry().with(file_layer(&config, open(&path).unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not this one");
            tracing::warn!(endpoint = "web", "this one");
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(
            (line["message"].as_str(), line["endpoint"].as_str()),
            (Some("this one"), Some("web"))
        );
    }
}
