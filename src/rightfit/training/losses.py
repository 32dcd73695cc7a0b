"""Loss and hits of a batch, in float32 on whichever backend; the same formulas for all label modes."""

from __future__ import annotations

from typing import Any

from keras import ops


def losses(logits: Any, targets: Any, label_mode: str) -> Any:
    """Cross entropy of each image: logits and targets (B, outputs) -> (B,) float32, in nats.

    Categorical is softmax; binary and multilabel are one sigmoid an output, averaged over outputs.
    """
    logits = ops.cast(logits, "float32")
    if label_mode == "categorical":
        return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)
    return ops.mean(ops.relu(logits) - logits * targets + ops.softplus(-ops.abs(logits)), axis=-1)


def hits(logits: Any, targets: Any, label_mode: str) -> Any:
    """Share of right answers of each image: (B, outputs) twice -> (B,) float32; multilabel counts labels."""
    if label_mode == "categorical":
        right = ops.equal(ops.argmax(logits, axis=-1), ops.argmax(targets, axis=-1))
        return ops.cast(right, "float32")
    right = ops.equal(ops.greater(logits, 0), ops.greater(targets, 0.5))
    return ops.mean(ops.cast(right, "float32"), axis=-1)
