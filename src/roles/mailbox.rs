//! The mailbox as a role opens it at its start.

use std::sync::Arc;

use tracing::info;

use super::opening;
use crate::cli::StartArgs;
use crate::config::MailboxSettings;
use crate::engine::{self, Mailbox, Settings};
use crate::http::health::Health;

/// Waits for the settings, and for the mailbox that they name, at `members` where those are given. `health` tells what it
/// waits for, and the mailbox's engine shows `role` as who uses it.
///
/// # Errors
/// When the time is up, or where what the settings name cannot be a mailbox.
pub(super) async fn open(
    role: &str,
    settings: &dyn Settings,
    members: Option<&[String]>,
    start: &StartArgs,
    health: &Health,
) -> anyhow::Result<Arc<dyn Mailbox>> {
    let wait = opening::wait(start.wait, health);
    health.waiting(format!("waiting for {}", settings.describe()));
    let found = MailboxSettings::wait_for(settings, &start.ready_key, &wait).await?;
    let members = members.unwrap_or(&found.members);
    let mailbox = engine::connect_mailbox(&found.cluster_name, &found.queue_name, members, role)?;
    opening::wait_for(&*mailbox, &wait, health).await?;
    info!(role, mailbox = mailbox.describe(), "the mailbox is open");
    Ok(mailbox)
}
