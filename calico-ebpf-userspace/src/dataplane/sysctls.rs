//! Kernel settings of the host and of each tap, and how a new tap stays closed until its programs are attached.
//!
//! New interfaces neither forward IPv4 nor speak IPv6: what is nobody's yet must not be a way around policy. The
//! defaults are written after the global switches, because those reset the defaults. Interfaces that are not
//! workloads' get what the host would have given them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::interfaces::{Interface, Interfaces, WorkloadNames};
use super::state_file::{InterfaceSysctls, StateFile};
use crate::config::values::Config;

const IP_FORWARD: &str = "net/ipv4/ip_forward";
const FORWARDING6: &str = "net/ipv6/conf/all/forwarding";
const DEFAULT_FORWARDING4: &str = "net/ipv4/conf/default/forwarding";
const DEFAULT_FORWARDING6: &str = "net/ipv6/conf/default/forwarding";
const DEFAULT_DISABLE6: &str = "net/ipv6/conf/default/disable_ipv6";
const DEFAULT_RP_FILTER: &str = "net/ipv4/conf/default/rp_filter";
/// Switching `ip_forward` sets this one, too (`inet_forward_change` in Linux's `devinet.c`).
const ACCEPT_REDIRECTS: &str = "net/ipv4/conf/all/accept_redirects";

/// Settings of the host that the agent may change, in the order in which cleanup restores them: the switches first,
/// then what they reset.
const HOST_SETTINGS: [&str; 6] = [
    IP_FORWARD,
    FORWARDING6,
    ACCEPT_REDIRECTS,
    DEFAULT_FORWARDING4,
    DEFAULT_FORWARDING6,
    DEFAULT_DISABLE6,
];

/// One setting to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Path below `/proc/sys`.
    pub path: String,
    pub value: String,
    /// Whether failing to write it is told and otherwise ignored.
    pub optional: bool,
}

impl Setting {
    fn required(path: &str, value: &str) -> Self {
        Self {
            path: path.to_owned(),
            value: value.to_owned(),
            optional: false,
        }
    }
}

/// Which programs a tap has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Programs are attached: packets may be routed.
    Open,
    /// The same for an endpoint that may spoof sources: no reverse path filter.
    OpenToSpoofing,
    /// No programs, or not both.
    Closed,
}

/// Returns the settings of a tap, in the order in which they are written: what opens it comes last.
pub fn tap_settings(config: &Config, name: &str, rp_filter: &str, gate: Gate) -> Vec<Setting> {
    let setting = |path: String, value: &str| Setting {
        path,
        value: value.to_owned(),
        optional: false,
    };
    let ipv4 = |key: &str, value: &str| setting(format!("net/ipv4/conf/{name}/{key}"), value);
    let ipv6 = |key: &str, value: &str| setting(format!("net/ipv6/conf/{name}/{key}"), value);
    if gate == Gate::Closed {
        return vec![ipv4("forwarding", "0"), ipv6("disable_ipv6", "1")];
    }
    let rp_filter = if gate == Gate::OpenToSpoofing {
        "0"
    } else {
        rp_filter
    };
    let mut settings = vec![
        ipv6("accept_ra", "0"),
        ipv4("route_localnet", "1"),
        Setting {
            optional: true,
            ..setting(format!("net/ipv4/neigh/{name}/proxy_delay"), "0")
        },
        ipv4("proxy_arp", "1"),
        ipv4("rp_filter", rp_filter),
        ipv4("forwarding", "1"),
    ];
    if config.ipv6_support {
        settings.extend([
            ipv6("proxy_ndp", "1"),
            ipv6("forwarding", "1"),
            ipv6("disable_ipv6", "0"),
        ]);
    } else {
        settings.push(ipv6("disable_ipv6", "1"));
    }
    settings
}

/// Reads and writes settings, and remembers what they were.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    /// `conf/default/rp_filter` when the agent started.
    rp_filter: String,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::below(Path::new("/proc/sys"))
    }
}

impl Sysctls {
    /// Works on the settings below `root`, which is `/proc/sys` but in tests.
    pub fn below(root: &Path) -> Self {
        let mut sysctls = Self {
            root: root.to_owned(),
            rp_filter: "1".to_owned(),
        };
        if let Ok(value) = sysctls.read(DEFAULT_RP_FILTER) {
            sysctls.rp_filter = value;
        }
        sysctls
    }

    /// Switches forwarding on for the host and off for new interfaces. Returns what had to be written.
    ///
    /// # Errors
    /// When a setting cannot be read, written or remembered.
    pub fn apply_host(
        &self,
        config: &Config,
        interfaces: &Interfaces,
        names: &WorkloadNames,
        state: &mut StateFile,
    ) -> io::Result<Vec<&'static str>> {
        self.remember_host(interfaces, names, state)?;
        let mut written = Vec::new();
        if config.ip_forwarding {
            written.extend(self.write(IP_FORWARD, "1")?.then_some(IP_FORWARD));
            written.extend(self.write_if_there(FORWARDING6, "1")?.then_some(FORWARDING6));
        }
        if state.state.sysctls.new_interface.is_empty() {
            let defaults = [DEFAULT_FORWARDING4, DEFAULT_DISABLE6];
            state.state.sysctls.new_interface = self.read_all(defaults)?;
            state.save()?;
        }
        written.extend(
            self.write(DEFAULT_FORWARDING4, "0")?
                .then_some(DEFAULT_FORWARDING4),
        );
        written.extend(
            self.write_if_there(DEFAULT_DISABLE6, "1")?
                .then_some(DEFAULT_DISABLE6),
        );
        Ok(written)
    }

    /// Returns whether somebody has changed a setting that [`Self::apply_host`] wrote.
    pub fn host_has_drifted(&self, config: &Config) -> bool {
        let differs = |path, value| self.read(path).is_ok_and(|found| found != value);
        differs(DEFAULT_FORWARDING4, "0")
            || differs(DEFAULT_DISABLE6, "1")
            || config.ip_forwarding && (differs(IP_FORWARD, "1") || differs(FORWARDING6, "1"))
    }

    /// Writes the settings of a tap. Settings that are right already are not written.
    ///
    /// # Errors
    /// When one that is not optional cannot be written; those after it are not written then.
    pub fn apply_tap(
        &self,
        config: &Config,
        tap: &Interface,
        gate: Gate,
        state: &mut StateFile,
    ) -> io::Result<()> {
        let mut settings = tap_settings(config, &tap.name, &self.rp_filter, gate);
        if !self.has_ipv6() {
            settings.retain(|setting| !setting.path.starts_with("net/ipv6/"));
        }
        self.remember_tap(tap, &settings, state)?;
        for setting in settings {
            match self.write(&setting.path, &setting.value) {
                Ok(_) => {}
                Err(error) if setting.optional => {
                    tracing::warn!(setting = %setting.path, %error, "setting not written");
                }
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", setting.path)));
                }
            }
        }
        Ok(())
    }

    /// Gives interfaces that are new, and no workloads', the settings that the host gives to new interfaces.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn apply_new_interfaces(
        &self,
        interfaces: &Interfaces,
        names: &WorkloadNames,
        state: &mut StateFile,
    ) -> io::Result<()> {
        let sysctls = &mut state.state.sysctls;
        sysctls
            .known_interfaces
            .retain(|(ifindex, _)| interfaces.contains_key(ifindex));
        sysctls
            .interfaces
            .retain(|ifindex, _| interfaces.contains_key(ifindex));
        for interface in interfaces.values() {
            if names.matches(&interface.name) {
                continue;
            }
            if !sysctls
                .known_interfaces
                .insert((interface.ifindex, interface.name.clone()))
            {
                continue;
            }
            for (path, value) in &sysctls.new_interface {
                let path = path.replace("/default/", &format!("/{}/", interface.name));
                match self.write(&path, value) {
                    Ok(true) => {
                        tracing::info!(setting = %path, %value, "new interface gets the host's setting");
                    }
                    Ok(false) => {}
                    Err(error) => tracing::warn!(setting = %path, %error, "setting not written"),
                }
            }
        }
        state.save()
    }

    /// Writes back what was there before the agent: of the host, then of the interfaces that are still there.
    /// Returns what could not be written.
    pub fn restore(&self, interfaces: &Interfaces, state: &StateFile) -> Vec<String> {
        let sysctls = &state.state.sysctls;
        let host = HOST_SETTINGS
            .iter()
            .filter_map(|path| sysctls.host.get_key_value(*path));
        let of_interfaces = sysctls.interfaces.iter().filter_map(|(ifindex, former)| {
            interfaces
                .get(ifindex)
                .filter(|interface| interface.name == former.name)
                .map(|_| &former.values)
        });
        let mut settings: Vec<Setting> = host
            .chain(of_interfaces.flatten())
            .map(|(path, value)| Setting::required(path, value))
            .collect();
        // Interfaces that the agent never saw, made while it was dead, got the defaults that it had closed.
        for interface in interfaces.values() {
            let is_known = sysctls
                .interfaces
                .get(&interface.ifindex)
                .is_some_and(|former| former.name == interface.name)
                || sysctls
                    .known_interfaces
                    .contains(&(interface.ifindex, interface.name.clone()));
            if !is_known {
                let defaults = [DEFAULT_FORWARDING4, DEFAULT_DISABLE6];
                settings.extend(defaults.iter().filter_map(|path| {
                    let own = path.replace("/default/", &format!("/{}/", interface.name));
                    Some(Setting::required(&own, sysctls.host.get(*path)?))
                }));
            }
        }
        self.write_each(&settings)
    }

    fn write_each(&self, settings: &[Setting]) -> Vec<String> {
        let mut failed = Vec::new();
        for Setting { path, value, .. } in settings {
            match self.write(path, value) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed.push(format!("{path}: {error}")),
            }
        }
        failed
    }

    /// Writes back what new interfaces get, for a host on which Felix goes on with forwarding: the switches and the
    /// settings of taps stay, and IPv6 comes back to taps that were closed. Returns what could not be written.
    pub fn restore_defaults(
        &self,
        interfaces: &Interfaces,
        names: &WorkloadNames,
        state: &StateFile,
    ) -> Vec<String> {
        let former = &state.state.sysctls.host;
        let defaults = [DEFAULT_FORWARDING4, DEFAULT_FORWARDING6, DEFAULT_DISABLE6];
        let mut settings: Vec<Setting> = defaults
            .iter()
            .filter_map(|path| Some(Setting::required(path, former.get(*path)?)))
            .collect();
        if let Some(value) = former.get(DEFAULT_DISABLE6) {
            let taps = interfaces
                .values()
                .filter(|interface| names.matches(&interface.name));
            settings.extend(taps.map(|tap| {
                let own = DEFAULT_DISABLE6.replace("/default/", &format!("/{}/", tap.name));
                Setting::required(&own, value)
            }));
        }
        self.write_each(&settings)
    }

    /// Notes the host's settings, and those of every interface that the global switches reach, on the first run.
    fn remember_host(
        &self,
        interfaces: &Interfaces,
        names: &WorkloadNames,
        state: &mut StateFile,
    ) -> io::Result<()> {
        if !state.state.sysctls.host.is_empty() {
            return Ok(());
        }
        let sysctls = &mut state.state.sysctls;
        sysctls.host = self.read_all(HOST_SETTINGS)?;
        for interface in interfaces.values() {
            let name = &interface.name;
            let paths = [
                format!("net/ipv4/conf/{name}/forwarding"),
                format!("net/ipv6/conf/{name}/forwarding"),
                format!("net/ipv6/conf/{name}/disable_ipv6"),
            ];
            let values = self.read_all(paths.iter().map(String::as_str))?;
            sysctls.interfaces.insert(
                interface.ifindex,
                InterfaceSysctls {
                    name: name.clone(),
                    values,
                },
            );
            if !names.matches(name) {
                sysctls.known_interfaces.insert((interface.ifindex, name.clone()));
            }
        }
        state.save()
    }

    fn remember_tap(&self, tap: &Interface, settings: &[Setting], state: &mut StateFile) -> io::Result<()> {
        let sysctls = &mut state.state.sysctls;
        let former = sysctls.interfaces.entry(tap.ifindex).or_default();
        if former.name != tap.name {
            *former = InterfaceSysctls {
                name: tap.name.clone(),
                values: BTreeMap::new(),
            };
        }
        for setting in settings {
            if former.values.contains_key(&setting.path) {
                continue;
            }
            // A tap that came after the defaults were changed would have got the host's own.
            let default = setting.path.replace(&format!("/{}/", tap.name), "/default/");
            let value = match sysctls.host.get(&default) {
                Some(value) => value.clone(),
                None => match self.read(&setting.path) {
                    Ok(value) => value,
                    Err(_) => continue,
                },
            };
            former.values.insert(setting.path.clone(), value);
        }
        state.save()
    }

    fn has_ipv6(&self) -> bool {
        self.root.join("net/ipv6").exists()
    }

    fn read(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.root.join(path))?.trim().to_owned())
    }

    /// Returns the settings that exist.
    fn read_all<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> io::Result<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        for path in paths {
            match self.read(path) {
                Ok(value) => {
                    values.insert(path.to_owned(), value);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    }

    /// Writes a setting if it has another value. Returns whether it had.
    fn write(&self, path: &str, value: &str) -> io::Result<bool> {
        if self.read(path)? == value {
            return Ok(false);
        }
        fs::write(self.root.join(path), value)?;
        Ok(true)
    }

    fn write_if_there(&self, path: &str, value: &str) -> io::Result<bool> {
        match self.write(path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests;
