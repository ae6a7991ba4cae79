"""Requests that wait for the computing thread are computed together.

Eight rows at once cost a network little more than one, and a row's answer does not depend on the
other rows (`histofuse.serving.networks`), so simultaneous clients share one batch.
"""

import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

import pandas as pd

MOST_ROWS_TOGETHER: Final = 256
_log = logging.getLogger(__name__)


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
        self.failed = False  # whether the thread has ended, so that nothing is answered any more
        self._predictor = predictor
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        self._taken: list[_Request] = []
        Thread(target=self._serve, name="histofuse", daemon=True).start()

    def submit(self, read: Any, rows: int, options: dict[str, bool]) -> Future[pd.DataFrame]:
        """Hand over what was read; a future that is cancelled while it waits costs nothing."""
        request = _Request(read, rows, options)
        self._waiting.put(request)
        if self.failed:  # asked last, as the thread fails those that wait when it ends
            self._fail_all()
        return request.answer

    def _serve(self) -> None:
        try:
            while True:
                self._taken = self._take()
                if len(self._taken) == 1 or not self._answer_together(self._taken):
                    for request in self._taken:
                        self._answer_alone(request)
        # Otherwise the server would go on and never answer.
        except BaseException:
            _log.critical("the thread that computes answers ended; the server stops", exc_info=True)
            self.failed = True
            self._fail_all()
            os.kill(os.getpid(), signal.SIGTERM)

    def _fail_all(self) -> None:
        left = self._taken + list(_take_available(self._waiting))
        for request in left:
            if not request.answer.done():
                request.answer.set_exception(RuntimeError("nothing is computed any more"))

    def _take(self) -> list[_Request]:
        """Wait for a request, and take those that are already waiting too."""
        taken: list[_Request] = []
        rows = 0
        while not taken:
            for request in chain([self._waiting.get()], _take_available(self._waiting)):
                if request.answer.set_running_or_notify_cancel():
                    taken.append(request)
                    rows += request.rows
                if rows >= MOST_ROWS_TOGETHER:
                    break
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


def _take_available(queue: SimpleQueue[_Request]) -> Iterator[_Request]:
    with suppress(Empty):
        while True:
            yield queue.get_nowait()
