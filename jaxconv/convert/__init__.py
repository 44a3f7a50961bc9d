"""Weights from other frameworks: read a checkpoint, match it with a model, place every tensor in its layer's layout.

Needs the extra "train" (flax, safetensors); PyTorch only for reading PyTorch's own files.
"""

from jaxconv import _flax as _flax
from jaxconv.convert.checkpoints import camvid_preprocessing, convert_checkpoint
from jaxconv.convert.layers import Layer, Need, walk
from jaxconv.convert.linen import load_linen
from jaxconv.convert.loading import load, load_with_report
from jaxconv.convert.matching import load_tensors
from jaxconv.convert.names import arrange
from jaxconv.convert.onnx_function import onnx_function
from jaxconv.convert.report import Placement, Report
from jaxconv.convert.sources import Checkpoint, read_checkpoint
from jaxconv.nn import fold_batch_norm

__all__ = [
    "Checkpoint", "Layer", "Need", "Placement", "Report", "arrange", "camvid_preprocessing", "convert_checkpoint",
    "fold_batch_norm", "load", "load_linen", "load_tensors", "load_with_report", "onnx_function", "read_checkpoint",
    "walk",
]  # fmt: skip
