//! The agent's log: standard error, and a file and syslog beside it. Levels and the file follow the configuration while
//! the agent works.

mod file;
mod syslog;

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Context as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use self::file::LogFile;
use self::syslog::Syslog;
use crate::config::Config;

/// Where syslog listens.
const SYSLOG: &str = "/dev/log";

/// Starts logging as `config` says, for the life of the process.
///
/// # Errors
/// Fails when the log file cannot be opened, and when logging was started before.
pub fn start(config: &Config) -> anyhow::Result<LogControl> {
    let (layers, control) = layers(config, Path::new(SYSLOG))?;
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .context("logging was started before")?;
    Ok(control)
}

/// Changes the log while the agent works.
#[derive(Debug)]
pub struct LogControl {
    screen: Level,
    file: Level,
    sys: Level,
    log_file: LogFile,
}

impl LogControl {
    /// Takes the levels and the log file of another configuration. A file that cannot be opened is told, and the one
    /// before it goes on.
    pub fn apply(&self, config: &Config) {
        if let Err(error) = self.log_file.reopen(config.log_file.as_deref()) {
            tracing::error!(
                error = format!("{error:#}"),
                "the log file stays what it was (LogFilePath)"
            );
        }
        self.screen.set(&config.log_severity_screen);
        self.file.set(file_level(config));
        self.sys.set(&config.log_severity_sys);
    }
}

/// The level of one place, which can be changed.
#[derive(Debug)]
struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    fn set(&self, level: &str) {
        let filter = filter(level);
        let is_same = self
            .0
            .with_current(|current| current.to_string() == filter.to_string());
        if let Ok(true) = is_same {
            return;
        }
        if let Err(error) = self.0.reload(filter) {
            tracing::error!(%error, level, "the log's level stays what it was");
        }
    }
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn layers(config: &Config, syslog: &Path) -> anyhow::Result<(Vec<BoxedLayer>, LogControl)> {
    let log_file = LogFile::default();
    log_file.reopen(config.log_file.as_deref())?;
    let (screen, screen_level) = screen_layer(config);
    let (file, file_level) = level_of(file_layer(config, log_file.clone()), file_level(config));
    let lines = fmt::layer()
        .with_writer(Syslog::at(syslog)?)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .boxed();
    let (sys, sys_level) = level_of(lines, &config.log_severity_sys);
    let control = LogControl {
        screen: screen_level,
        file: file_level,
        sys: sys_level,
        log_file,
    };
    Ok((vec![screen, file, sys], control))
}

fn level_of(layer: BoxedLayer, level: &str) -> (BoxedLayer, Level) {
    let (filter, handle) = reload::Layer::new(filter(level));
    (layer.with_filter(filter).boxed(), Level(handle))
}

fn screen_layer(config: &Config) -> (BoxedLayer, Level) {
    // systemd's journal dates every line itself.
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let is_coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(is_coloured);
    let layer = match (config.log_json, is_journal) {
        (true, _) => layer.json().flatten_event(true).boxed(),
        (false, true) => layer.without_time().boxed(),
        (false, false) => layer.boxed(),
    };
    level_of(layer, &config.log_severity_screen)
}

fn file_layer(config: &Config, file: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) -> BoxedLayer {
    let layer = fmt::layer().with_writer(file).with_ansi(false);
    if config.log_json {
        layer.json().flatten_event(true).boxed()
    } else {
        layer.boxed()
    }
}

/// Returns the level of the log file; without a file there is nothing to form lines for.
fn file_level(config: &Config) -> &str {
    config
        .log_file
        .as_ref()
        .map_or("off", |_| &config.log_severity_file)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A log with its file and syslog in a directory of its own.
    struct Log {
        directory: tempfile::TempDir,
        syslog: UnixDatagram,
        control: LogControl,
        _guard: tracing::subscriber::DefaultGuard,
    }

    impl Log {
        fn start(config: &Config) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("log");
            let syslog = UnixDatagram::bind(&socket).unwrap();
            syslog.set_nonblocking(true).unwrap();
            let (layers, control) = layers(config, &socket).unwrap();
            let subscriber = tracing_subscriber::registry().with(layers);
            Self {
                directory,
                syslog,
                control,
                _guard: tracing::subscriber::set_default(subscriber),
            }
        }

        fn read(&self, file: &str) -> String {
            std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default()
        }

        fn next_in_syslog(&self) -> Option<String> {
            let mut buffer = [0; 1024];
            let length = self.syslog.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        }
    }

    fn quiet() -> Config {
        Config {
            log_severity_screen: "off".to_owned(),
            ..Config::default()
        }
    }

    #[test]
    fn a_log_file_gets_json_lines_of_its_severity() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/agent.log");
        let _log = Log::start(&Config {
            log_json: true,
            log_severity_file: "warn".to_owned(),
            log_file: Some(path.clone()),
            ..quiet()
        });
        tracing::info!("not this one");
        tracing::warn!(endpoint = "web", "this one");
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(
            (line["message"].as_str(), line["endpoint"].as_str()),
            (Some("this one"), Some("web"))
        );
    }

    #[test]
    fn levels_and_the_file_change_while_the_process_runs() {
        let log = Log::start(&quiet());
        tracing::warn!("before there is a file");
        let at = |file: &str, level: &str| Config {
            log_file: Some(log.directory.path().join(file)),
            log_severity_file: level.to_owned(),
            ..quiet()
        };
        log.control.apply(&at("one", "info"));
        tracing::debug!("not at this level");
        tracing::info!("to one");
        log.control.apply(&at("two", "debug"));
        tracing::debug!("to two");
        log.control.apply(&at("two", "error"));
        tracing::warn!("not at that level");
        log.control.apply(&quiet());
        tracing::error!("nowhere");
        let (one, two) = (log.read("one"), log.read("two"));
        assert!(one.lines().count() == 1 && one.contains("to one"), "{one}");
        assert!(two.lines().count() == 1 && two.contains("to two"), "{two}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_leaves_the_log_in_the_one_before() {
        let log = Log::start(&quiet());
        let at = |file: &str| Config {
            log_file: Some(log.directory.path().join(file)),
            ..quiet()
        };
        log.control.apply(&at("one"));
        log.control.apply(&at("one/below-a-file"));
        tracing::info!("goes on");
        let one = log.read("one");
        assert!(
            one.contains("the log file stays what it was") && one.contains("goes on"),
            "{one}"
        );
    }

    #[test]
    fn syslog_gets_lines_with_their_severity_once_a_level_is_set() {
        let log = Log::start(&quiet());
        tracing::error!("before");
        assert_eq!(log.next_in_syslog(), None);
        log.control.apply(&Config {
            log_severity_sys: "info".to_owned(),
            ..quiet()
        });
        tracing::debug!("not this one");
        tracing::warn!(endpoint = "web", "this one");
        let line = log.next_in_syslog().unwrap();
        let start = format!("<28>calico-ebpf[{}]: ", std::process::id());
        assert!(line.starts_with(&start), "{line}");
        assert!(
            line.contains("this one") && line.ends_with("endpoint=\"web\""),
            "{line}"
        );
        assert_eq!(log.next_in_syslog(), None);
    }
}
