//! The host ring: guests with real network stacks behind real taps, and the real agent. Needs root.
//! Every test has a host of its own in namespaces, so that nothing of it can be left behind.

mod amendments;
mod bench;
mod bird;
mod changeover;
mod cleanup;
mod datastores;
mod denials;
mod etcd_access;
mod etcd_agent;
mod etcd_failover;
mod etcd_fixture;
mod etcd_following;
mod expect;
mod explaining;
mod fixtures;
mod frames;
mod host_state;
mod host_traffic;
mod lifecycle;
mod migration;
mod nat;
mod nat_ports;
mod observed;
mod packages;
mod parameters;
mod path_mtu;
mod policy;
mod recorded_clouds;
mod restarts;
mod shortcomings;
mod status;
mod status_writer;
mod taps;
mod traffic;
mod watching;
