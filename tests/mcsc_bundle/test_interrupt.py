"""Ctrl-C ends a program with a sentence and the code that shells expect."""

import signal
import subprocess
import sys

import pytest

from mcsc_bundle.interrupt import stops_with


def test_the_sentence_tells_how_far_the_work_has_come(capsys):
    done = []
    with pytest.raises(SystemExit) as end, stops_with(lambda: f"Stopped after {len(done)}."):
        done.append(1)
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err == "\nStopped after 1.\n"


def test_other_errors_pass():
    with pytest.raises(ValueError, match="other"), stops_with("Stopped."):
        raise ValueError("other")


def test_an_interrupt_that_nobody_expected_has_no_traceback():
    script = "from mcsc_bundle.interrupt import name_interrupts; name_interrupts(); raise {}"
    stopped, failed = (
        subprocess.run([sys.executable, "-c", script.format(error)], capture_output=True, text=True)
        for error in ("KeyboardInterrupt", "ValueError('a fault')")
    )
    assert stopped.returncode == -signal.SIGINT and stopped.stderr == "\nStopped; the same command goes on.\n"
    assert failed.returncode == 1 and "Traceback" in failed.stderr and "a fault" in failed.stderr
