"""Which stages go first: those that the longest chain of others waits for."""

from workflow.changes import Stage, priorities


def stage(name, *upstream):
    return Stage(name, name.partition("@")[0], "", upstream, "has not run yet")


def test_the_longest_chain_goes_first_and_among_equals_the_one_listed_first():
    stages = [
        stage("prepare@a"),
        stage("prepare@b"),
        stage("train@x", "prepare@a"),
        stage("judge@x", "train@x", "prepare@b"),
        stage("draw@x", "train@x"),
        stage("score@x", "draw@x"),
        stage("report", "judge@x", "score@x"),
    ]
    given = priorities({s.name: s for s in stages})
    assert sorted(given, key=given.get, reverse=True) == [
        "prepare@a",  # four stages behind it
        "train@x",
        "prepare@b",  # two, as draw@x
        "draw@x",
        "judge@x",
        "score@x",
        "report",
    ]
    assert given["report"] == 0


def test_a_stage_without_others_is_given_a_priority():
    assert priorities({"alone": stage("alone")}) == {"alone": 0}
