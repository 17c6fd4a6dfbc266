use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn who_holds_the_lock_lives_unless_silent_and_who_does_not_has_ended() {
    for (is_locked, silence, life) in [
        (true, Some(Duration::ZERO), Life::Lives),
        (true, Some(SILENCE_LIMIT - SECOND), Life::Lives),
        (true, Some(SILENCE_LIMIT), Life::Hangs(SILENCE_LIMIT)),
        // Of a clock that is behind: the lock shows that this is the process of now.
        (true, None, Life::Lives),
        (false, Some(Duration::ZERO), Life::Ended(Some(Duration::ZERO))),
        (false, None, Life::Ended(None)),
    ] {
        assert_eq!(Life::of(is_locked, silence), life);
    }
}

#[test]
fn an_instance_is_over_after_a_minute_of_silence_or_with_the_machine_that_it_was_on() {
    for (life, is_over) in [
        (Life::Lives, false),
        (Life::Hangs(59 * SECOND), false),
        (Life::Hangs(60 * SECOND), true),
        (Life::Ended(Some(59 * SECOND)), false),
        (Life::Ended(Some(60 * SECOND)), true),
        (Life::Ended(None), true),
    ] {
        assert_eq!(life.is_over(), is_over, "{life:?}");
    }
}

#[test]
fn the_reason_says_what_became_of_the_process_and_for_how_long() {
    assert_eq!(Life::Lives.reason(), None);
    let hangs = Life::Hangs(Duration::from_millis(5999)).reason().unwrap();
    assert_eq!(hangs, "no heartbeat for 5 s: its process hangs, or is stopped");
    let ended = Life::Ended(Some(5 * SECOND)).reason().unwrap();
    assert_eq!(ended, "its process has ended; no heartbeat for 5 s");
}

#[test]
fn an_id_that_no_file_could_have_is_refused() {
    let folder = Folder(Path::new("/f").into());
    let path = |id: &str| path(&folder, id).map(|path| path.display().to_string());
    assert_eq!(path("a@::1:80").unwrap(), "/f/instances/a@::1:80.json");
    for bad in ["", "a/b", "../a", "a b", &"a".repeat(251)] {
        assert!(path(bad).is_err(), "{bad:?}");
    }
}
