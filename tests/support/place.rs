//! Where the processes of a test find each other, their settings and their data: on servers, or in a folder.

use std::sync::Arc;

use svc::engine::{EngineOptions, Engines, LogStore, Mailbox, Registry, Settings};

use super::agent::{Agent, Folder};
use super::fleet::SOON;
use super::ports::{consul_options, servers};
use super::process::Svc;

/// A kind of engines: what holds of the roles holds on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Consul and Hazelcast.
    Servers,
    /// The embedded ones.
    Folder,
}

/// Engines that a test has for itself, and the names that it gave to its map and its queue.
pub(crate) struct Place {
    engines: Own,
    /// Of its map and of its queue.
    pub(crate) name: String,
    /// Of the clusters `logging` and `mq`; a folder has none.
    members: [String; 2],
}

enum Own {
    /// An agent; the clusters are shared.
    Agent(Agent),
    Folder(Folder),
}

impl Place {
    /// One whose settings name a map and a queue called `name`. `members` are those of the clusters `logging` and `mq`,
    /// where there are clusters. Blocks.
    pub(crate) fn start(kind: Kind, name: String, members: [String; 2]) -> Self {
        let engines = match kind {
            Kind::Servers => Own::Agent(Agent::start()),
            Kind::Folder => Own::Folder(Folder::new()),
        };
        let place = Self { engines, name, members };
        let populated = place.start_populating();
        assert!(populated.wait_exit(SOON).success(), "{}", populated.output());
        place
    }

    /// The options that lead there.
    pub(crate) fn options(&self) -> [&str; 2] {
        match &self.engines {
            Own::Agent(agent) => ["--consul", &agent.address],
            Own::Folder(folder) => ["--local", folder.path.to_str().expect("a path in UTF-8")],
        }
    }

    fn start_populating(&self) -> Svc {
        let [logging, mq] = &self.members;
        let mut arguments = ["populate-kv"].to_vec();
        arguments.extend(self.options());
        arguments.extend([
            "--hz-logging-mapping-name",
            &self.name,
            "--hz-mq-queue-name",
            &self.name,
        ]);
        if matches!(self.engines, Own::Agent(_)) {
            arguments.extend(["--hz-logging-members", logging, "--hz-mq-members", mq]);
        }
        Svc::start(&arguments, &[])
    }

    /// The agent; a folder has none.
    pub(crate) fn agent(&self) -> &Agent {
        match &self.engines {
            Own::Agent(agent) => agent,
            Own::Folder(_) => panic!("the embedded engines have no agent"),
        }
    }

    /// The agent, to do to it what the processes have to live with.
    pub(crate) fn into_agent(self) -> Agent {
        match self.engines {
            Own::Agent(agent) => agent,
            Own::Folder(_) => panic!("the embedded engines have no agent"),
        }
    }

    /// The ports of this test's own process.
    pub(crate) fn engines(&self) -> Engines {
        match &self.engines {
            Own::Agent(agent) => servers(consul_options(&agent.address)),
            Own::Folder(folder) => Engines::at(EngineOptions::Folder(folder.path.clone())).unwrap(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<dyn Settings> {
        self.engines().settings().unwrap()
    }

    pub(crate) fn registry(&self) -> Arc<dyn Registry> {
        self.engines().registry().unwrap()
    }

    pub(crate) async fn log(&self, map: &str) -> Arc<dyn LogStore> {
        let members = list(&self.members[0]);
        self.engines().log("logging", map, &members).await.unwrap()
    }

    pub(crate) async fn mailbox(&self, queue: &str) -> Arc<dyn Mailbox> {
        let members = list(&self.members[1]);
        self.engines().mailbox("mq", queue, &members, "test").await.unwrap()
    }
}

fn list(members: &str) -> Vec<String> {
    members.split(',').map(str::to_owned).collect()
}
