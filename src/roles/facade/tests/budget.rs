//! What becomes of requests where many fail.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn where_the_retry_budget_is_empty_the_failure_is_answered_at_once() {
    let away = || Act::json(503, "{\"error\":{\"message\":\"engine away: the log\"}}");
    let (a, b) = (peer("a", away()).await, peer("b", away()).await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    setting.parts().logging.budget.empty();
    let start = Instant::now();
    let message = setting.post_keyed("a").await.unavailable();
    assert!(
        message.contains("too many requests fail for it to be tried again"),
        "{message}"
    );
    assert!(message.ends_with("answered 503: engine away: the log"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    setting.parts().logging.budget.empty();
    assert_eq!(setting.post("a").await.status, 201, "a first try needs no budget");
}

#[tokio::test]
async fn an_outage_makes_no_more_tries_than_the_budget_has() {
    let away = || Act::json(503, "{}");
    let (a, b) = (peer("a", away()).await, peer("b", away()).await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    setting.parts().logging.budget.empty();
    let start = Instant::now();
    let clients = (0..8).map(|_| async {
        let mut posts = 0;
        while start.elapsed() < Duration::from_secs(2) {
            setting.post_keyed("a").await.unavailable();
            posts += 1;
        }
        posts
    });
    let posts: usize = join_all(clients).await.into_iter().sum();
    let tries = a.seen().len() + b.seen().len();
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!(
        tries <= posts + posts / 10 + 10 * seconds,
        "{tries} tries for {posts} posts"
    );
    assert!(posts > 100, "{posts}");
}

#[tokio::test]
async fn the_budget_allows_a_retry_for_all_that_is_in_work_at_an_instance_that_dies() {
    let (dying, a, b) = (
        peer("dying", Act::Hang).await,
        peer("a", logged()).await,
        peer("b", logged()).await,
    );
    let setting = Setting::logging(Scripted::default(), &[&dying, &a, &b]).await;
    for _ in 0..2 {
        for answer in join_all((0..200).map(|_| setting.post_keyed("a"))).await {
            assert_eq!(answer.status, 201);
        }
    }
    assert!(dying.seen().len() > 30, "{} were in work there", dying.seen().len());
}
