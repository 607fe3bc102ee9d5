//! The audit finds what it is there to find, and complains of nothing else.

use tokio::time::Instant;

use super::*;

/// A listener that heard these numbers of speaker 0, each with its offset; a gap is `Err`.
fn hearing(heard: &[Result<(usize, u64), Option<u64>>]) -> Hearing {
    let events = heard.iter().map(|it| match *it {
        Ok((number, offset)) => Event::Heard {
            said: Said { speaker: 0, number },
            id: (offset > 0).then_some(Id { epoch: 1, offset }),
            at: Instant::now(),
        },
        Err(missed) => Event::Gap { missed },
    });
    Hearing {
        events: events.collect(),
        ..Hearing::new("it".into(), true)
    }
}

/// Judges when so many messages were acknowledged at the offsets from 1.
fn judge(acknowledged: usize, hearing: &Hearing) -> [usize; 5] {
    let id = |offset| Some(Some(Id { epoch: 1, offset }));
    let lines: Vec<Line> = (1..=acknowledged)
        .map(|offset| Line {
            due: Instant::now(),
            acknowledged: id(offset as u64),
        })
        .collect();
    let verdict = audit(&[&lines], &[hearing], true);
    [
        verdict.missing,
        verdict.duplicated,
        verdict.reordered,
        verdict.told,
        verdict.misstated,
    ]
}

#[test]
fn what_is_as_it_should_be_is_no_complaint() {
    assert_eq!(
        judge(3, &hearing(&[Ok((0, 1)), Ok((1, 2)), Ok((2, 3))])),
        [0; 5]
    );
    assert_eq!(
        judge(3, &hearing(&[Ok((0, 0)), Ok((1, 0)), Ok((2, 0))])),
        [0; 5],
        "without ids"
    );
    assert_eq!(
        judge(1, &hearing(&[Ok((0, 1)), Ok((1, 2))])),
        [0; 5],
        "not every acknowledgement arrives"
    );
}

#[test]
fn what_is_missing_is_found_at_the_beginning_in_the_middle_and_at_the_end() {
    for heard in [
        [Ok((1, 2)), Ok((2, 3))],
        [Ok((0, 1)), Ok((2, 3))],
        [Ok((0, 1)), Ok((1, 2))],
    ] {
        assert_eq!(judge(3, &hearing(&heard)), [1, 0, 0, 0, 0]);
    }
    assert_eq!(
        judge(1, &hearing(&[Ok((0, 1)), Ok((2, 3))])),
        [1, 0, 0, 0, 0],
        "an offset that nobody knows"
    );
    assert_eq!(judge(3, &hearing(&[])), [3, 0, 0, 0, 0]);
}

#[test]
fn a_late_comer_and_one_that_is_gone_miss_nothing_before_and_behind_their_time() {
    let mut some = hearing(&[Ok((1, 2)), Ok((2, 3)), Ok((4, 5))]);
    (some.from_start, some.to_end) = (false, false);
    assert_eq!(judge(7, &some), [1, 0, 0, 0, 0], "but what is between");
}

#[test]
fn what_was_told_is_not_missing_if_it_was_told_rightly_and_there() {
    assert_eq!(
        judge(3, &hearing(&[Ok((0, 1)), Err(Some(1)), Ok((2, 3))])),
        [0, 0, 0, 1, 0]
    );
    assert_eq!(
        judge(3, &hearing(&[Ok((0, 1)), Err(None), Ok((2, 3))])),
        [0, 0, 0, 1, 0]
    );
    assert_eq!(
        judge(3, &hearing(&[Ok((0, 1)), Err(Some(2)), Ok((2, 3))])),
        [0, 0, 0, 1, 1],
        "a wrong number"
    );
    assert_eq!(
        judge(
            4,
            &hearing(&[Ok((0, 1)), Ok((2, 3)), Err(Some(0)), Ok((3, 4))])
        ),
        [1, 0, 0, 0, 0],
        "elsewhere"
    );
    assert_eq!(
        judge(3, &hearing(&[Ok((0, 1)), Err(Some(2))])),
        [0, 0, 0, 2, 0],
        "at the end"
    );
}

#[test]
fn a_new_history_may_miss_anything_of_the_old_one_if_that_was_told() {
    let place = |epoch, offset| Some(Id { epoch, offset });
    let line = |id| Line {
        due: Instant::now(),
        acknowledged: Some(id),
    };
    let lines = [line(place(1, 1)), line(place(1, 2)), line(place(2, 1))];
    let heard = |number, id| Event::Heard {
        said: Said { speaker: 0, number },
        id,
        at: Instant::now(),
    };
    let mut it = hearing(&[]);
    it.events = vec![
        heard(1, place(1, 2)),
        Event::Gap { missed: None },
        heard(2, place(2, 1)),
    ];
    let verdict = audit(&[&lines], &[&it], true);
    assert_eq!((verdict.missing, verdict.told), (0, 1));
    it.events.remove(1);
    let verdict = audit(&[&lines], &[&it], true);
    assert_eq!((verdict.missing, verdict.told), (1, 0));
}

#[test]
fn a_gap_is_where_its_listener_heard_the_message_before_it_even_if_others_heard_that_in_another_history()
 {
    let place = |epoch, offset| Some(Id { epoch, offset });
    let line = |id| Line {
        due: Instant::now(),
        acknowledged: Some(id),
    };
    let lines = [line(place(1, 1)), line(place(2, 1)), line(place(2, 2))];
    let heard = |number, id| Event::Heard {
        said: Said { speaker: 0, number },
        id,
        at: Instant::now(),
    };
    let (mut it, mut other) = (hearing(&[]), hearing(&[]));
    it.events = vec![
        heard(1, place(1, 2)),
        Event::Gap { missed: None },
        heard(2, place(2, 2)),
    ];
    other.events = vec![
        heard(0, place(1, 1)),
        heard(1, place(2, 1)),
        heard(2, place(2, 2)),
    ];
    let verdict = audit(&[&lines], &[&it, &other], false);
    assert_eq!(
        (verdict.missing, verdict.told),
        (0, 1),
        "{:?}",
        verdict.complaints
    );
    it.events.remove(1);
    let verdict = audit(&[&lines], &[&it, &other], false);
    assert_eq!(verdict.missing, 1, "{:?}", verdict.complaints);
}

#[test]
fn repetitions_are_found_with_the_same_id_and_with_another() {
    assert_eq!(
        judge(2, &hearing(&[Ok((0, 1)), Ok((1, 2)), Ok((1, 2))])),
        [0, 1, 0, 0, 0]
    );
    // Heard twice, at two places, and the acknowledgement names only one of them.
    assert_eq!(
        judge(2, &hearing(&[Ok((0, 1)), Ok((1, 2)), Ok((1, 3))]))[1],
        3
    );
    assert_eq!(
        judge(2, &hearing(&[Ok((0, 0)), Ok((1, 0)), Ok((1, 0))])),
        [0, 1, 0, 0, 0],
        "without ids"
    );
}

#[test]
fn another_order_is_found() {
    assert!(judge(3, &hearing(&[Ok((1, 2)), Ok((0, 1)), Ok((2, 3))]))[2] > 0);
    assert!(
        judge(3, &hearing(&[Ok((1, 0)), Ok((0, 0)), Ok((2, 0))]))[2] > 0,
        "without ids"
    );
    assert!(
        judge(0, &hearing(&[Ok((1, 1)), Ok((0, 2))]))[2] > 0,
        "a speaker's own order"
    );
}

#[test]
fn one_id_for_two_messages_is_found() {
    let two = hearing(&[Ok((0, 1)), Ok((1, 1))]);
    assert_eq!(audit(&[], &[&two], true).reused, 1);
}
