"""Ctrl-C as an end like any other: one sentence in place of a traceback, and the exit code that shells give it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

EXIT_CODE = 130  # 128 + SIGINT


@contextmanager
def stops_with(sentence: str | Callable[[], str]) -> Iterator[None]:
    """What is done inside may be stopped by Ctrl-C.

    Args:
        sentence: what to say then; or makes it, from how far the work has come. An empty one says nothing.

    Raises:
        SystemExit: with code 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        text = sentence if isinstance(sentence, str) else sentence()
        if text:
            print(f"\n{text}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None


def name_interrupts() -> None:
    """Ctrl-C where nothing better is known to say: no traceback either. For programs that are a command of ours."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("\nStopped; the same command goes on.", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook
