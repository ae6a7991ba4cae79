"""Requests that wait for the one thread that computes are computed together.

Eight rows at once cost a network little more than one, and a row's answer does not hang on those
beside it (`histofuse.serving.blocks`), so clients at the same moment are served in one go.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, runtime_checkable

import pandas as pd

MOST_ROWS_TOGETHER: Final = 256


@runtime_checkable
class Answering(Protocol):
    """A predictor, after reading."""

    def answer(self, read: Any, /, **asked: bool) -> pd.DataFrame:
        """Answer what was read."""
        ...

    def merge(self, parts: list[Any], /) -> Any:
        """Put what was read of several requests into one."""
        ...


@dataclass(frozen=True)
class _Request:
    read: Any
    rows: int
    asked: dict[str, bool]
    answer: Future[pd.DataFrame] = field(default_factory=Future)


class Batches:
    """Answers requests in a thread of its own, which has all cores."""

    def __init__(self, predictor: Answering) -> None:
        self._predictor = predictor
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        Thread(target=self._serve, name="histofuse", daemon=True).start()

    def answer(self, read: Any, rows: int, asked: dict[str, bool]) -> pd.DataFrame:
        """Wait for the answer to what was read."""
        request = _Request(read, rows, asked)
        self._waiting.put(request)
        return request.answer.result()

    def _serve(self) -> None:
        while True:
            together = self._take()
            if len(together) > 1 and self._answer_together(together):
                continue
            for request in together:
                self._answer_alone(request)

    def _take(self) -> list[_Request]:
        """Wait for a request, and take along those that wait already."""
        taken = [self._waiting.get()]
        rows = taken[0].rows
        while rows < MOST_ROWS_TOGETHER:
            try:
                taken.append(self._waiting.get_nowait())
            except Empty:
                break
            rows += taken[-1].rows
        return taken

    def _answer_together(self, requests: list[_Request]) -> bool:
        """Answer several at once; tell whether that was done."""
        if any(request.asked for request in requests):
            return False
        try:
            merged = self._predictor.merge([request.read for request in requests])
            table = self._predictor.answer(merged)
        # Whose fault it was shows when each is answered by itself.
        except Exception:
            return False
        start = 0
        for request in requests:
            request.answer.set_result(table.iloc[start : start + request.rows])
            start += request.rows
        return True

    def _answer_alone(self, request: _Request) -> None:
        try:
            request.answer.set_result(self._predictor.answer(request.read, **request.asked))
        # Whatever it is, the client waits for it.
        except Exception as error:
            request.answer.set_exception(error)
