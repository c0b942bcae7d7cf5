"""Which stages go first: those that the longest chain of others waits for."""

from workflow.changes import Stage, chains


def stage(name, *upstream):
    return Stage(name, name.partition("@")[0], "", upstream, "has not run yet")


def test_a_stages_priority_is_the_longest_chain_behind_it():
    stages = [
        stage("prepare@a"),
        stage("prepare@b"),
        stage("train@x", "prepare@a"),
        stage("judge@x", "train@x", "prepare@b"),
        stage("draw@x", "train@x"),
        stage("score@x", "draw@x"),
        stage("report", "judge@x", "score@x"),
    ]
    assert chains({s.name: s for s in stages}) == {
        "prepare@a": 4,
        "prepare@b": 2,
        "train@x": 3,
        "judge@x": 1,
        "draw@x": 2,
        "score@x": 1,
        "report": 0,
    }
    assert chains({"alone": stage("alone")}) == {"alone": 0}
