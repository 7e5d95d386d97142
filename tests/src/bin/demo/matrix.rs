//! Who reaches whom, over IPv4 and IPv6, asked all at once.

use std::net::IpAddr;
use std::thread;

use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::probe::{Question, Seen, reach};
use calico_ebpf_tests::scene::Scene;

use crate::story::Cell;

/// Name of the machine behind the host's uplink.
pub(crate) const OUTSIDE: &str = "outside";

/// One question to one guest: a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) guest: &'static str,
    pub(crate) question: Question,
}

const fn target(guest: &'static str, question: Question) -> Target {
    Target { guest, question }
}

/// The columns.
pub(crate) const TARGETS: [Target; 6] = [
    target("web", Question::Tcp(80)),
    target("web", Question::Tcp(22)),
    target("db", Question::Tcp(5432)),
    target("web", Question::Ping),
    target("db", Question::Ping),
    target("client", Question::Ping),
];
const SOURCES: [&str; 4] = ["web", "db", "client", OUTSIDE];

/// The answers of one moment.
#[derive(Debug)]
pub(crate) struct Matrix {
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    from: &'static str,
    target: Target,
    expected: Seen,
    /// Over IPv4 and IPv6.
    seen: [Seen; 2],
}

impl Matrix {
    /// Asks every question from everywhere.
    pub(crate) fn ask(scene: &Scene, expected: impl Fn(&str, Target) -> Seen) -> Self {
        let answers = thread::scope(|scope| {
            let pairs = SOURCES
                .iter()
                .flat_map(|from| TARGETS.map(|target| (*from, target)));
            let asked: Vec<_> = pairs
                .filter(|(from, target)| *from != target.guest)
                .map(|(from, target)| {
                    let addresses = scene.guest(target.guest).vm().addresses();
                    let answers = addresses.map(|address| {
                        scope.spawn(move || reach(namespace(scene, from), address, target.question))
                    });
                    (from, target, answers)
                })
                .collect();
            let answers = asked.into_iter().map(|(from, target, answers)| {
                let seen = answers.map(|answer| answer.join().expect("asking does not panic"));
                Answer {
                    from,
                    target,
                    expected: expected(from, target),
                    seen,
                }
            });
            answers.collect()
        });
        Self { answers }
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = Cell> {
        self.answers.iter().flat_map(|answer| {
            ["IPv4", "IPv6"]
                .into_iter()
                .zip(answer.seen)
                .map(|(family, seen)| {
                    let what = format!("{} over {family}", answer.target.question);
                    let expected = answer.expected.to_string();
                    Cell::new(
                        answer.from,
                        answer.target.guest,
                        &what,
                        &expected,
                        seen.to_string(),
                    )
                })
        })
    }

    pub(crate) fn columns() -> impl Iterator<Item = String> {
        TARGETS
            .iter()
            .map(|target| format!("{} {}", target.guest, target.question))
    }

    /// Each row's name, and for each column the text and whether it is as expected.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&str, Vec<(String, bool)>)> {
        SOURCES.into_iter().map(|from| {
            let row = TARGETS.map(|target| {
                let answer = self
                    .answers
                    .iter()
                    .find(|answer| answer.from == from && answer.target == target);
                answer.map_or_else(|| ("-".to_owned(), true), Answer::text)
            });
            (from, row.into())
        })
    }
}

impl Answer {
    fn text(&self) -> (String, bool) {
        let [v4, v6] = self.seen;
        let text = if v4 == v6 {
            v4.to_string()
        } else {
            format!("{v4}/{v6}")
        };
        (text, self.seen == [self.expected; 2])
    }
}

/// The namespace of a guest or of the outside machine.
pub(crate) fn namespace<'a>(scene: &'a Scene, name: &str) -> &'a Netns {
    if name == OUTSIDE {
        scene.host().outside()
    } else {
        scene.guest(name).namespace()
    }
}

/// The first address of a guest: IPv4.
pub(crate) fn first_address(scene: &Scene, guest: &str) -> IpAddr {
    scene.guest(guest).vm().v4().into()
}
