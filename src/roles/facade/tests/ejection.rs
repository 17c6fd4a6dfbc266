//! What a request pays for an instance that does not answer, and that those after it do not.

use futures_util::future::join_all;

use super::*;
use crate::roles::facade::tries::Tries;

const SECOND: Duration = Duration::from_secs(1);

/// More than a try at an instance that answers takes on a busy machine, and the shortest trial.
const USUAL: Duration = Duration::from_millis(900);

#[tokio::test]
async fn only_the_first_batch_waits_for_an_instance_that_hangs() {
    let (hung, a, b) = (
        peer("hung", Act::Hang).await,
        peer("a", logged()).await,
        peer("b", logged()).await,
    );
    let setting = Setting::logging(Scripted::default(), &[&hung, &a, &b]).await;
    let start = Instant::now();
    let clients = (0..16).map(|client| {
        let setting = &setting;
        async move {
            let mut posts = Vec::new();
            while start.elapsed() < 4 * SECOND {
                let begun = start.elapsed();
                assert_eq!(setting.post(&format!("text-{client}")).await.status, 201);
                posts.push((begun, start.elapsed()));
            }
            posts
        }
    });
    let mut slow: Vec<_> = join_all(clients).await.into_iter().flatten().collect();
    slow.retain(|(begun, ended)| *ended - *begun > USUAL);
    slow.sort();
    assert!(!slow.is_empty(), "the one that hangs was not met");
    let known = slow[0].1;
    let late: Vec<_> = slow.iter().filter(|(begun, _)| *begun > known).collect();
    assert!(late.is_empty() && slow.len() <= 16, "{slow:?}");
    // The first one, and one trial after each ejection.
    assert!(hung.seen().len() <= 4, "{} requests", hung.seen().len());
}

#[tokio::test]
async fn an_instance_that_refuses_resets_or_answers_that_it_cannot_is_left_alone_for_a_while() {
    for act in [
        Act::Reset,
        Act::AnswerAndClose(Vec::new()),
        Act::json(503, "{}"),
        Act::json(429, "{}"),
    ] {
        let (bad, good) = (peer("bad", act.clone()).await, peer("good", logged()).await);
        let setting = Setting::logging(Scripted::default(), &[&bad, &good]).await;
        while bad.seen().is_empty() {
            assert_eq!(setting.post_keyed("a").await.status, 201, "{act:?}");
        }
        let (before, start, mut posts) = (bad.seen().len(), Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(300) {
            assert_eq!(setting.post_keyed("a").await.status, 201, "{act:?}");
            posts += 1;
        }
        assert!(posts >= 5 && bad.seen().len() == before, "{act:?}: {posts} posts");
        assert_eq!(setting.parts().logging.discovery.ejected(), ["bad"]);
    }
}

#[tokio::test]
async fn one_that_answers_again_has_its_share_again() {
    let is_back = Arc::new(AtomicUsize::new(0));
    let act = {
        let is_back = is_back.clone();
        move |_: &Seen| {
            if is_back.load(Ordering::Relaxed) == 0 {
                Act::Reset
            } else {
                logged()
            }
        }
    };
    let (bad, good) = (Peer::start("bad", act).await, peer("good", logged()).await);
    let setting = Setting::logging(Scripted::default(), &[&bad, &good]).await;
    while bad.seen().is_empty() {
        setting.post("a").await;
    }
    is_back.store(1, Ordering::Relaxed);
    let (met, start) = (bad.seen().len(), Instant::now());
    while bad.seen().len() < met + 10 {
        assert_eq!(setting.post("a").await.status, 201);
        assert!(start.elapsed() < SOON, "it is not called again");
    }
    assert!(setting.parts().logging.discovery.ejected().is_empty());
}

#[tokio::test]
async fn a_list_does_not_wait_twice_for_an_instance_that_hangs() {
    let (hung, good) = (peer("hung", Act::Hang).await, peer("good", list("[1]")).await);
    let messages = peer("messages", list("[2]")).await;
    let setting = Setting::lists(&[&hung, &good], &[&messages]).await;
    while hung.seen().is_empty() {
        assert_eq!(setting.method("GET", "/messages").await.json(), json!([[1], [2]]));
    }
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(setting.method("GET", "/messages").await.status, 200);
        assert!(start.elapsed() < USUAL, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_page_that_is_late_or_refused_ejects_nobody_and_takes_no_try_from_a_post() {
    for act in [Act::Hang, Act::json(503, "{}"), Act::json(200, "[\"a text\"]")] {
        let bad = peer("bad", act).await;
        let setting = Setting::logging(Scripted::default(), &[&bad]).await;
        let Parts { client, logging, .. } = setting.parts();
        let mut tries = Tries::new(logging, Instant::now() + SECOND).for_page(SECOND / 10);
        for _ in 0..3 {
            let at = tries.next().await.unwrap();
            let called = client.call(&at.instance, Default::default(), at.limit, 9).await;
            at.ended(called.as_ref().map(|answer| match answer.status {
                StatusCode::OK => StatusCode::BAD_GATEWAY,
                other => other,
            }));
            assert!(logging.discovery.ejected().is_empty());
        }
        assert_eq!(logging.budget.empty(), 512);
    }
}

#[tokio::test]
async fn silence_in_less_than_the_usual_time_ejects_nobody() {
    let (hung, good) = (peer("hung", Act::Hang).await, peer("good", logged()).await);
    let setting = Setting::logging(Scripted::default(), &[&hung, &good]).await;
    let Parts { client, logging, .. } = setting.parts();
    // How long the request has left, and who is ejected after it.
    for (left, ejected) in [(100, &[][..]), (3000, &["hung".to_owned()])] {
        loop {
            let mut tries = Tries::new(logging, Instant::now() + Duration::from_millis(left));
            let at = tries.next().await.unwrap();
            if at.instance.id == "hung" {
                let called = client.call(&at.instance, Default::default(), at.limit, 9).await;
                at.ended(called.as_ref().map(|answer| answer.status));
                break;
            }
        }
        assert_eq!(logging.discovery.ejected(), ejected);
    }
}
