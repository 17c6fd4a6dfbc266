//! `svc`: a message system in one executable, several roles by subcommand, on Consul and Hazelcast.

pub mod batch;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod engine;
pub mod hazelcast;
pub mod http;
pub mod message;
pub mod registration;
pub mod roles;
pub mod shutdown;
pub mod telemetry;
pub mod wait;
