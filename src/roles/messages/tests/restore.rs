//! The delivered messages as a list that is rebuilt.

use tokio::time::Instant;

use super::super::restore::Delivered;
use super::deliveries::{batch, batches};
use super::scripted::Scripted;
use crate::message::Message;
use crate::roles::repair::Side;

fn own() -> Delivered {
    Delivered { own: "me".to_owned() }
}

fn message(identifier: &str) -> Message {
    Message {
        identifier: identifier.to_owned(),
        text: format!("text of {identifier}"),
    }
}

#[tokio::test]
async fn what_waits_is_looked_at_before_what_was_delivered_and_both_are_there() {
    let mailbox = Scripted::new([batch("waiting")]);
    let delivered = ("somebody".to_owned(), vec![message("a"), message("b")]);
    mailbox.state().delivered.insert("delivered".to_owned(), delivered);
    // The look hangs, and meanwhile the batch is delivered and taken out.
    mailbox.hold("look");
    let deliver = async {
        while mailbox.state().looks.is_empty() {
            tokio::task::yield_now().await;
        }
        let mut state = mailbox.state();
        let item = state.waiting.remove(0);
        let messages = item.content.unwrap().messages;
        state
            .delivered
            .insert("waiting".to_owned(), ("other".to_owned(), messages));
        drop(state);
        mailbox.gate.add_permits(1);
    };
    let mut side = own();
    let (known, ()) = tokio::join!(side.known(&*mailbox), deliver);
    let known = known.unwrap();
    for identifier in ["waiting-1", "a", "b"] {
        assert!(known.contains(identifier), "{identifier}");
    }
    assert!(
        !known.contains("delivered") && !known.contains("waiting"),
        "batches are no messages"
    );
}

#[tokio::test]
async fn where_not_all_that_waits_is_seen_nothing_is_known() {
    let mailbox = Scripted::new(batches(3));
    mailbox.state().shown = Some(2);
    let error = own().known(&*mailbox).await.unwrap_err().to_string();
    assert!(error.contains("more waits in the mailbox"), "{error}");
}

#[tokio::test]
async fn each_is_put_back_under_its_identifier_in_the_name_of_this_instance_and_never_twice() {
    let mailbox = Scripted::new([]);
    let missing: Vec<Message> = (0..300).map(|n| message(&n.to_string())).collect();
    let put_back = own().put_back(&*mailbox, missing.clone()).await;
    assert_eq!(put_back.unwrap(), 300);
    let other = &mut Delivered {
        own: "another".to_owned(),
    };
    other.put_back(&*mailbox, missing).await.unwrap();
    let state = mailbox.state();
    assert_eq!(state.delivered.len(), 300);
    for (id, (by, messages)) in &state.delivered {
        assert_eq!((by.as_str(), messages.as_slice()), ("me", &[message(id)][..]));
    }
}

#[tokio::test(start_paused = true)]
async fn where_one_cannot_be_put_back_that_is_told_in_time() {
    let mailbox = Scripted::new([]);
    mailbox.fail("store 7");
    let missing: Vec<Message> = (0..10).map(|n| message(&n.to_string())).collect();
    assert!(own().put_back(&*mailbox, missing.clone()).await.is_err());
    mailbox.heal();
    mailbox.hold("store 7");
    let begun = Instant::now();
    let error = own().put_back(&*mailbox, missing).await.unwrap_err().to_string();
    assert!(error.contains("no answer within 4.3s"), "{error}");
    assert!(begun.elapsed().as_secs() < 5);
}
