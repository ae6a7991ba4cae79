"""Requests that wait for the computing thread are computed together.

Eight rows at once cost a network little more than one, and a row's answer does not depend on the
other rows (`histofuse.serving.networks`), so simultaneous clients share one batch.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

import pandas as pd

MOST_ROWS_TOGETHER: Final = 256


@dataclass(frozen=True)
class _Request:
    read: Any
    rows: int
    options: dict[str, bool]
    answer: Future[pd.DataFrame] = field(default_factory=Future)


class RequestQueue:
    """Answers requests in a single thread, which uses all cores.

    The predictor's `answer` takes what was read from a request, or from several after `merge`.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        Thread(target=self._serve, name="histofuse", daemon=True).start()

    def answer(self, read: Any, rows: int, options: dict[str, bool]) -> pd.DataFrame:
        """Wait for the answer to what was read."""
        request = _Request(read, rows, options)
        self._waiting.put(request)
        return request.answer.result()

    def _serve(self) -> None:
        while True:
            requests = self._take()
            if len(requests) > 1 and self._answer_together(requests):
                continue
            for request in requests:
                self._answer_alone(request)

    def _take(self) -> list[_Request]:
        """Wait for a request, and take those that are already waiting too."""
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
        """Answer several at once; return whether that worked."""
        if any(request.options for request in requests):
            return False
        try:
            merged = self._predictor.merge([request.read for request in requests])
            table = self._predictor.answer(merged)
        # Answered one by one, only the request at fault fails.
        except Exception:
            return False
        start = 0
        for request in requests:
            request.answer.set_result(table.iloc[start : start + request.rows])
            start += request.rows
        return True

    def _answer_alone(self, request: _Request) -> None:
        try:
            request.answer.set_result(self._predictor.answer(request.read, **request.options))
        # The client waits for the result, whatever it is.
        except Exception as error:
            request.answer.set_exception(error)
