//! `config show`: the parameters of the running agent, or those that this host sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::cli::output::{Page, Tone};
use crate::config::parameters::{self, Handling, Parameter};
use crate::config::{ParameterValue, Resolved, Source, Warning};
use crate::report::{AgentReport, DatastoreReport, ParameterReport, ParameterWarningReport, ProblemReport};

/// What the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Subject {
    /// Those in force in the running agent.
    RunningAgent,
    /// What flags, environment and file say here.
    ThisHost,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownConfig {
    of: Subject,
    /// Why they are not the running agent's; empty when they are.
    why: &'static str,
    parameters: Vec<ShownValue>,
    warnings: Vec<ParameterWarningReport>,
    /// How far the agent has read its datastore; `null` without an agent.
    agent: Option<ShownAgent>,
    #[serde(skip)]
    hidden: usize,
}

/// One parameter.
#[derive(Clone, Debug, Serialize)]
struct ShownValue {
    name: String,
    value: String,
    /// As in the report, or `default`.
    source: String,
    place: String,
    default: String,
    without_effect: String,
}

/// What else the running agent says of its datastore.
#[derive(Debug, Serialize)]
struct ShownAgent {
    pid: u32,
    hostname: String,
    datastore: DatastoreReport,
    /// From the arrival of the last change to its being in force in the kernel.
    lag_milliseconds: Option<u64>,
    /// Objects and fields that were left out, and why.
    problems: Arc<Vec<ProblemReport>>,
    problems_by_consequence: BTreeMap<String, u64>,
}

impl ShownConfig {
    /// Shows the values in force in the agent that wrote `report`.
    pub(super) fn of_agent(report: &AgentReport, all: bool) -> Self {
        let configuration = &report.configuration;
        let set: BTreeMap<&str, &ParameterReport> = configuration
            .parameters
            .iter()
            .map(|parameter| (parameter.name.as_str(), parameter))
            .collect();
        let value = |parameter: &Parameter| {
            set.get(parameter.name)
                .map_or_else(|| defaulted(parameter, report), |set| reported(parameter, set))
        };
        let agent = ShownAgent {
            pid: report.pid,
            hostname: report.hostname.clone(),
            datastore: report.datastore.clone(),
            lag_milliseconds: report.lag_milliseconds,
            problems: Arc::clone(&report.problems),
            problems_by_consequence: report.problems_by_consequence.clone(),
        };
        let values = parameters::all().map(value).collect();
        let shown = Self::new(Subject::RunningAgent, values, all);
        Self {
            warnings: configuration.warnings.clone(),
            agent: Some(agent),
            ..shown
        }
    }

    /// Shows what this host sets. `offline` tells that nothing else was asked for.
    pub(super) fn of_host(resolved: &Resolved, all: bool, offline: bool) -> Self {
        let values = resolved.values.iter().map(resolved_value).collect();
        let why = if offline {
            "--offline was given"
        } else {
            "no agent runs here"
        };
        Self {
            why,
            warnings: resolved.warnings.iter().map(resolved_warning).collect(),
            ..Self::new(Subject::ThisHost, values, all)
        }
    }

    fn new(of: Subject, mut parameters: Vec<ShownValue>, all: bool) -> Self {
        let known = parameters.len();
        if !all {
            parameters.retain(|value| value.source != Source::Default.name());
        }
        Self {
            of,
            why: "",
            hidden: known - parameters.len(),
            parameters,
            warnings: Vec::new(),
            agent: None,
        }
    }

    pub(super) fn put_on(&self, page: &mut Page) {
        self.put_subject_on(page);
        let row = |value: &ShownValue| {
            let tone = if value.without_effect.is_empty() {
                Tone::Plain
            } else {
                Tone::Quiet
            };
            vec![
                (tone, value.name.clone()),
                (tone, value.value.clone()),
                (tone, value.origin()),
                (Tone::Quiet, value.without_effect.clone()),
            ]
        };
        if !self.parameters.is_empty() {
            let rows = self.parameters.iter().map(row).collect();
            page.table(&["PARAMETER", "VALUE", "SET BY", "WITHOUT EFFECT"], rows);
        }
        if self.hidden > 0 {
            page.toned(
                Tone::Quiet,
                &format!(
                    "{} parameters have their defaults; --all shows them.",
                    self.hidden
                ),
            );
        }
        for warning in &self.warnings {
            page.toned(Tone::Attention, &warning.to_string());
        }
    }

    fn put_subject_on(&self, page: &mut Page) {
        let Some(agent) = &self.agent else {
            let text = format!(
                "What flags, environment and file say here ({}): nothing of the datastore.",
                self.why
            );
            page.toned(Tone::Attention, &text);
            return;
        };
        let datastore = &agent.datastore;
        page.line(&format!(
            "In force in the running agent (pid {}, host {}).",
            agent.pid, agent.hostname
        ));
        let tone = if datastore.state == "in-sync" {
            Tone::Plain
        } else {
            Tone::Attention
        };
        let lag = agent.lag_milliseconds.map_or_else(String::new, |lag| {
            format!(", in force {lag} ms after the last change")
        });
        let reason = if datastore.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", datastore.reason)
        };
        page.toned(
            tone,
            &format!(
                "Datastore {} {}: {}{reason}; revision {}{lag}; {} left out.",
                datastore.kind,
                datastore.location,
                datastore.state,
                datastore.revision,
                agent.problems.len()
            ),
        );
    }
}

impl ShownValue {
    fn origin(&self) -> String {
        let source = Source::ALL.iter().find(|source| source.name() == self.source);
        let words = source.map_or_else(|| self.source.clone(), ToString::to_string);
        if self.place.is_empty() {
            words
        } else {
            format!("{words}: {}", self.place)
        }
    }
}

/// Returns a parameter that the agent has its default of.
fn defaulted(parameter: &Parameter, report: &AgentReport) -> ShownValue {
    let default = if parameter.name == "FelixHostname" {
        report.hostname.clone()
    } else {
        parameter.default.to_owned()
    };
    ShownValue {
        name: parameter.name.to_owned(),
        value: default.clone(),
        source: Source::Default.name().to_owned(),
        place: String::new(),
        default,
        without_effect: match parameter.handling {
            Handling::Acted => String::new(),
            Handling::Ignored(reason) => reason.to_owned(),
        },
    }
}

fn reported(parameter: &Parameter, set: &ParameterReport) -> ShownValue {
    ShownValue {
        name: set.name.clone(),
        value: set.value.clone(),
        source: set.source.clone(),
        place: set.place.clone(),
        default: parameter.default.to_owned(),
        without_effect: set.without_effect.clone(),
    }
}

fn resolved_value(value: &ParameterValue) -> ShownValue {
    ShownValue {
        name: value.name.to_owned(),
        value: value.value.clone(),
        source: value.source.name().to_owned(),
        place: value.place.clone(),
        default: value.default.clone(),
        without_effect: value.without_effect.clone(),
    }
}

fn resolved_warning(warning: &Warning) -> ParameterWarningReport {
    ParameterWarningReport {
        trouble: warning.trouble.name().to_owned(),
        name: warning.name.clone(),
        place: warning.place.clone(),
        text: warning.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::ConfigArguments;
    use crate::report::ConfigurationReport;

    fn text(shown: &ShownConfig) -> String {
        let mut page = Page::plain();
        shown.put_on(&mut page);
        page.text().to_owned()
    }

    #[test]
    fn only_what_was_set_is_shown_with_its_origin() {
        let arguments = ConfigArguments {
            hostname: Some("h1".to_owned()),
            settings: vec!["HealthPort=1234".to_owned(), "ChainInsertMode=append".to_owned()],
            ..ConfigArguments::default()
        };
        let text = text(&ShownConfig::of_host(&arguments.resolve().unwrap(), false, false));
        for expected in [
            "HealthPort",
            "command line: --set HealthPort",
            "there are no iptables rules",
            "no agent runs here",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("HealthHost"), "{text}");
    }

    #[test]
    fn a_running_agent_is_told_with_what_it_took_from_the_datastore() {
        let parameter = ParameterReport {
            name: "HealthPort".to_owned(),
            value: "1234".to_owned(),
            source: "datastore-selector".to_owned(),
            place: "FelixConfiguration(rack-a): spec.healthPort".to_owned(),
            ..ParameterReport::default()
        };
        let warning = ParameterWarningReport {
            trouble: "unknown".to_owned(),
            name: "NoSuchThing".to_owned(),
            place: "FelixConfiguration(default): spec.noSuchThing".to_owned(),
            text: "no such parameter".to_owned(),
        };
        let report = AgentReport {
            pid: 42,
            hostname: "compute-1".to_owned(),
            lag_milliseconds: Some(21),
            datastore: DatastoreReport {
                kind: "etcdv3".to_owned(),
                location: "http://etcd:2379".to_owned(),
                state: "unreachable".to_owned(),
                reason: "connection refused".to_owned(),
                revision: 7,
                ..DatastoreReport::default()
            },
            problems: Arc::new(vec![ProblemReport::default()]),
            configuration: Arc::new(ConfigurationReport {
                parameters: vec![parameter],
                warnings: vec![warning],
            }),
            ..AgentReport::default()
        };
        let shown = ShownConfig::of_agent(&report, false);
        // How many parameters there are is not of interest here.
        let hidden = format!("{} parameters", parameters::all().count() - 1);
        insta::assert_snapshot!(text(&shown).replace(&hidden, "All other parameters"));
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["of"], "running-agent");
        assert_eq!(json["agent"]["datastore"]["state"], "unreachable");
        assert_eq!(json["agent"]["datastore"]["revision"], 7);
        assert_eq!(json["agent"]["lag_milliseconds"], 21);
        assert_eq!(json["agent"]["problems"].as_array().map(Vec::len), Some(1));
        let all = ShownConfig::of_agent(&report, true);
        assert_eq!(all.parameters.len(), parameters::all().count());
        let hostname = all.parameters.iter().find(|value| value.name == "FelixHostname");
        assert_eq!(
            hostname.map(|value| value.value.as_str()),
            Some("compute-1"),
            "the system's name is the default"
        );
    }
}
