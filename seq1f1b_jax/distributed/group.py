"""What the processes of a run exchange on their hosts, through JAX's coordination service.

Devices exchange in compiled programs, where a missing peer is a hang. Here every wait has an end, a
refusal by process 0 reaches all, and background threads may take part. Calls of one name are
counted, so all processes must make the same calls in the same order, per name.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.output import otherwise

T = TypeVar("T")

SHUTDOWN_SECONDS = 20
LINGER_SECONDS = 2
"""How long process 0 stays after a request to end, so that others can still reach it."""

PATIENCE_SECONDS = 3600
"""For work that others wait for, such as reading a checkpoint; a death is noticed much earlier."""


class Group:
    """The processes of a run.

    Args:
      index: which of them this is.
      count: how many there are.
      client: of JAX's coordination service; None for one process.

    Example:
      >>> ALONE.first("answer", lambda: 42), ALONE.gather("name", "me")
      (42, ['me'])
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None):
        self.index, self.count = index, count
        self._client = client
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.index == 0

    def leave(self, status: int) -> None:
        """Leave after a barrier: process 0 last, since the service of all is in it.

        Args:
          status: of this process if it cannot leave in time; its work is done.
        """
        if self.count == 1:
            return
        import jax

        sys.stdout.flush()
        with otherwise(LINGER_SECONDS + SHUTDOWN_SECONDS, lambda: os._exit(status)):
            if self.is_first:
                time.sleep(LINGER_SECONDS)
            jax.distributed.shutdown()

    def barrier(self, name: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Return once every process has called this."""
        if self.count > 1:
            self._client.wait_at_barrier(self._key(name), int(1000 * seconds))

    def first(self, name: str, make: Callable[[], T], *, seconds: float = PATIENCE_SECONDS) -> T:
        """What process 0 makes; JSON can hold it. The others wait, and raise what it raises.

        Raises:
          UserError: process 0 met one.
        """
        if self.count == 1:
            return make()
        key = self._key(name)
        if self.is_first:
            # a defect of process 0 is reported too: no other may wait in vain for its answer
            failed = f"process 0 could not go on ({name}); its own output says why"
            answer: dict[str, Any] = {"error": failed}
            try:
                answer = {"value": make()}
            except UserError as error:
                answer = {"error": str(error)}
            finally:
                self._client.key_value_set(key, json.dumps(answer))
        else:
            answer = json.loads(self._client.blocking_key_value_get(key, int(1000 * seconds)))
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["value"]

    def gather(self, name: str, text: str, *, seconds: float = PATIENCE_SECONDS) -> list[str]:
        """The texts of all processes, by index."""
        if self.count == 1:
            return [text]
        key = self._key(name)
        self._client.key_value_set(f"{key}/{self.index}", text)
        wait = int(1000 * seconds)
        return [
            self._client.blocking_key_value_get(f"{key}/{i}", wait) for i in range(self.count)
        ]

    def post(self, name: str, text: str) -> str:
        """Post a note that any process may have posted before; the first one is kept.

        Returns:
          The note that is there.
        """
        from jax.errors import JaxRuntimeError

        try:
            self._client.key_value_set(f"seq1f1b/{name}", text)
        except JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise
        return self._client.blocking_key_value_get(f"seq1f1b/{name}", 1000 * SHUTDOWN_SECONDS)

    def peek(self, name: str) -> str | None:
        """The note of that name, if it has been posted."""
        from jax.errors import JaxRuntimeError

        try:
            return self._client.key_value_try_get(f"seq1f1b/{name}")
        except JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def publish(self, name: str, text: str) -> None:
        """Publish a text of this process, replacing its last one."""
        key = f"seq1f1b/{name}/{self.index}"
        self._client.key_value_set(key, text, allow_overwrite=True)

    def published(self, name: str) -> dict[int, str]:
        """The latest text of each process, by its index."""
        notes = self._client.key_value_dir_get(f"seq1f1b/{name}/")
        return {int(key.rpartition("/")[2]): text for key, text in notes}

    def _key(self, name: str) -> str:
        with self._lock:
            self._calls[name] += 1
            return f"seq1f1b/{name}/{self._calls[name]}"


ALONE = Group()
