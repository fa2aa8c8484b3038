"""Options that a Fire command does not take."""

import subprocess
import sys

import pytest

from mcsc_bundle.flags import check_flags
from mcsc_bundle.option_values import OptionError


def publish(folder, repo, dry_run=False, private=True):
    raise AssertionError("nothing is called")


def anything(folder, **options):
    raise AssertionError("nothing is called")


COMMANDS = {"publish": publish, "anything": anything}


@pytest.mark.parametrize(
    "words",
    [
        ["publish", "A", "--repo", "O/N", "--dry_run", "True"],
        ["publish", "A", "--dry-run=True", "--noprivate", "--help"],
        ["publish", "A", "--", "--trace"],
        ["publish", "-1", "-r", "O/N", "-h"],
        ["publish", "A", "-repo=O/N", "-d"],
        ["anything", "A", "--whatever", "1"],
        ["unknown", "--dryrun"],
        [],
    ],
)
def test_what_fire_can_take_passes(words):
    check_flags(words, COMMANDS)


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("--dryrun", "Did you mean --dry_run?"),
        ("-dryrun", "Did you mean --dry_run?"),
        ("--zzz=1", "There are --folder, --repo, --dry_run"),
        ("-z", "There are --folder, --repo, --dry_run"),
    ],
)
def test_a_misspelt_option_is_refused_and_named(word, answer):
    for commands, words in ((COMMANDS, ["publish", "A", word]), (publish, ["A", word])):
        with pytest.raises(OptionError, match=f"received {word.partition('=')[0]}. {answer[:-1]}"):
            check_flags(words, commands)


@pytest.mark.parametrize(
    "command",
    [
        ["bundle", "verify", "nowhere", "--runs", "False"],
        ["mcsc_bundle", "suggest", "nowhere", "--nn", "1"],
        ["mcsc_bundle.metrics", "--ouput", "metrics.csv"],
        ["mcsc_bundle.report", "nowhere", "--image", "nowhere"],
        ["preprocessing.phantom", "nowhere", "--label", "4"],
        ["preprocessing", "show", "nowhere", "--al"],
    ],
)
def test_programs_refuse_before_they_look_at_anything(command, tmp_path):
    ended = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "error: expected options that exist, received --" in ended.stderr
