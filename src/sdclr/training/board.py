"""Curves for TensorBoard, written synchronously.

torch's SummaryWriter writes from its own thread. On a full disk it prints a traceback, and the training gets the error
only at a later step.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

from sdclr.files import append

_OPENED: Final = count()
"""Distinguishes files that one process creates in the same second."""


class Board:
    """A file of TensorBoard events.

    Args:
        folder: Created if it is missing. Files of earlier sessions stay there.
        step: Number of steps done. TensorBoard hides later steps in earlier files.

    Raises:
        StorageError: The file cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_OPENED)}"
        self._file = folder / f"events.out.tfevents.{name}"
        begin = SessionLog(status=SessionLog.START)
        self._append({"file_version": "brain.Event:2"}, {"step": step + 1, "session_log": begin})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add values by name.

        Raises:
            StorageError: The file cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append({"step": step, "summary": Summary(value=found)})

    def _append(self, *events: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = io.BytesIO()
        for values in events:
            RecordWriter(records).write(Event(wall_time=time.time(), **values).SerializeToString())
        append(self._file, records.getvalue())
