"""What is left of a call that does not end well."""

import json

from benchmarks.gpu_check import Agenda


def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path, capsys):
    agenda = Agenda(60.0, tmp_path / "results.json", {"hardware": "none"})
    assert agenda.do("one", lambda: 1 / 0) is None
    assert agenda.do("two", lambda: 2) == 2
    assert agenda.do("long", lambda: 3, needed_s=100.0) is None
    report = {"hardware": "none", "failed": {"one": "ZeroDivisionError: division by zero"}, "two": 2}
    assert json.loads((tmp_path / "results.json").read_text()) == report | {"left_out": []}
    assert agenda.report() == report | {"left_out": ["long"]}
    assert "FAILED one" in capsys.readouterr().out
