"""Event files by TensorBoard's own writer, which needs no TensorFlow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


class TensorBoard:
    """One file for a run, which an epoch at a time is flushed to."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder))

    def write(self, row: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, (int, float)) and name != "epoch"
        ]
        self.writer.add_event(Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values)))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
