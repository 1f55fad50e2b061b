"""For which numbers of examples the rules of a head are chosen."""

from kshot.trainer.bundling.ridge_bundle import chosen_shots, shots_text


def test_rules_are_chosen_where_queries_are_left() -> None:
    assert [chosen_shots(fewest) for fewest in (3, 4, 8, 23)] == [(), (1,), (1, 5), (1, 5, 20)]
    assert shots_text(4) == "1 example per class"
    assert shots_text(8) == "1 and 5 examples per class"
    assert shots_text(23) == "1, 5 and 20 examples per class"
