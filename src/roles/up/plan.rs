//! [`Plan`]: which instances there are to be, and which ports they have.

use std::collections::HashMap;

use crate::cli::{Misuse, PortBases, Sizes};

/// All instances, in the order in which they are shown.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) instances: Vec<Instance>,
    /// The port of one more logging instance; 0 takes a free one.
    pub(super) one_more: u16,
}

/// One instance that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// `logging-1`.
    pub(super) name: String,
    pub(super) role: Role,
    /// 0 until one is chosen.
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Facade,
    Logging,
    Messages,
}

impl Role {
    /// Its subcommand.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Facade => "facade",
            Self::Logging => "logging",
            Self::Messages => "messages",
        }
    }

    /// The option that moves its instances to other ports.
    pub(super) fn port_option(self) -> &'static str {
        match self {
            Self::Facade => "--facade-port",
            Self::Logging => "--logging-port",
            Self::Messages => "--messages-port",
        }
    }
}

impl Plan {
    /// The instances that the options ask for.
    ///
    /// # Errors
    /// [`Misuse`] where two of them would have the same port, or one none.
    pub(super) fn of(sizes: &Sizes, ports: &PortBases) -> anyhow::Result<Self> {
        let mut instances = Vec::new();
        for (role, count, base) in [
            (Role::Facade, sizes.facades, ports.facade),
            (Role::Logging, sizes.logging, ports.logging),
            (Role::Messages, sizes.messages, ports.messages),
        ] {
            for number in 0..count {
                let name = format!("{}-{}", role.command(), number + 1);
                let port = match base {
                    0 => 0,
                    base => base.checked_add(number).ok_or_else(|| {
                        let option = role.port_option();
                        Misuse::new(format!(
                            "no port is left for {name}, from {option} {base} on: name a lower one"
                        ))
                    })?,
                };
                instances.push(Instance { name, role, port });
            }
        }
        let mut owners: HashMap<u16, &Instance> = HashMap::new();
        for instance in instances.iter().filter(|instance| instance.port > 0) {
            if let Some(other) = owners.insert(instance.port, instance) {
                anyhow::bail!(Misuse::new(format!(
                    "port {} would be that of {} and of {}: move one by {} or {}",
                    instance.port,
                    other.name,
                    instance.name,
                    other.role.port_option(),
                    instance.role.port_option()
                )));
            }
        }
        let one_more = one_more(&instances);
        Ok(Self { instances, one_more })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.instances.iter().map(|instance| instance.name.as_str())
    }

    pub(super) fn name(&self, index: usize) -> &str {
        self.names().nth(index).unwrap_or("an instance")
    }

    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |instance| instance.role == role)
    }
}

/// The port after those of all logging instances; 0 where another instance has it, and where theirs are any free ones.
fn one_more(instances: &[Instance]) -> u16 {
    let logging = instances.iter().filter(|instance| instance.role == Role::Logging);
    let last = logging.map(|instance| instance.port).max().filter(|last| *last > 0);
    let next = last.and_then(|last| last.checked_add(1)).unwrap_or(0);
    let is_taken = instances.iter().any(|instance| instance.port == next);
    if is_taken { 0 } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        facades: 2,
        logging: 3,
        messages: 2,
    };
    const PORTS: PortBases = PortBases {
        facade: 8001,
        logging: 8101,
        messages: 8181,
    };

    #[test]
    fn instances_are_numbered_and_have_one_port_after_the_other() {
        let plan = Plan::of(&SIZES, &PORTS).unwrap();
        let planned: Vec<_> = plan.instances.iter().map(|i| (i.name.as_str(), i.port)).collect();
        let expected = [
            ("facade-1", 8001),
            ("facade-2", 8002),
            ("logging-1", 8101),
            ("logging-2", 8102),
            ("logging-3", 8103),
            ("messages-1", 8181),
            ("messages-2", 8182),
        ];
        assert_eq!(planned, expected);
        assert_eq!(plan.one_more, 8104);
    }

    #[test]
    fn a_port_is_given_once_and_misuse_says_what_to_move() {
        let clash = PortBases { logging: 8002, ..PORTS };
        let error = Plan::of(&SIZES, &clash).unwrap_err();
        assert!(error.is::<Misuse>());
        assert_eq!(
            error.to_string(),
            "port 8002 would be that of facade-2 and of logging-1: move one by --facade-port or --logging-port"
        );
        let high = PortBases { facade: 65535, ..PORTS };
        let error = Plan::of(&SIZES, &high).unwrap_err();
        assert!(
            error.is::<Misuse>() && error.to_string().contains("no port is left for facade-2"),
            "{error}"
        );
    }

    #[test]
    fn free_ports_do_not_clash() {
        let free = PortBases {
            facade: 0,
            logging: 0,
            messages: 0,
        };
        let plan = Plan::of(&SIZES, &free).unwrap();
        assert!(plan.instances.iter().all(|instance| instance.port == 0) && plan.one_more == 0);
    }

    #[test]
    fn one_more_takes_no_port_that_another_has() {
        let dense = PortBases {
            messages: 8104,
            ..PORTS
        };
        assert_eq!(Plan::of(&SIZES, &dense).unwrap().one_more, 0);
    }
}
