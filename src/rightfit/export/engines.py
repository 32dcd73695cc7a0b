"""What runs an ONNX model without Keras: ONNX Runtime and OpenVINO, in float32, on the processor.

Images (B, H, W, 3) uint8 in, logits (B, outputs) float32 out, under the names that a Keras model has for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.infer import Predicts
from rightfit.export import onnx
from rightfit.runtime import cpu_count
from rightfit.saving import bundle
from rightfit.saving.checked import checked


def open_run(folder: Path, engine: str) -> tuple[Predicts, float]:
    """The run's model on `engine`, and the largest distance of its logits from the golden ones.

    It is written anew from the run's own files each time, which takes less than reading a copy that would have to
    be kept true to them. Raises RunError for a damaged run, or one whose logits the engine does not give;
    UsageError for a net that ONNX does not get.
    """
    described, weights = bundle.read(folder)
    started = start(engine, onnx.write(checked(described), weights))
    return started, bundle.check_golden(folder / "golden.npz", started, engine)


def start(engine: str, model: bytes) -> Predicts:
    """The ONNX model of `onnx.write` on the engine of that name."""
    return OnnxRuntime(model) if engine == "onnxruntime" else OpenVino(model)


class OnnxRuntime:
    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_count()  # its own count looks past what the process may use
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input_shape = _shape(self._session.get_inputs()[0].shape)
        self.output_shape = _shape(self._session.get_outputs()[0].shape)

    def predict_on_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._session.run(None, {onnx.INPUT: images})[0]
        return found


class OpenVino:
    """OpenVINO would compute in bfloat16 where the processor has it; the hint keeps it in float32."""

    def __init__(self, model: bytes) -> None:
        import openvino

        self._core = openvino.Core()
        self._model = self._core.read_model(model)
        self.compiled: Any = None
        self._count = 0
        self.input_shape, self.output_shape = (
            _shape([side.get_length() if side.is_static else None for side in port.partial_shape])
            for port in (self._model.inputs[0], self._model.outputs[0])
        )

    def predict_on_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compiled for one size of batch, which runs faster than for any, and anew when the size changes."""
        if len(images) != self._count:
            self._count = len(images)
            self._model.reshape([self._count, *self.input_shape[1:]])
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": cpu_count(),
            }
            self.compiled = self._core.compile_model(self._model, "CPU", settings)
        found: NDArray[np.float32] = self.compiled([images])[0]
        return found.copy()


def _shape(shape: list[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
