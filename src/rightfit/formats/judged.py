"""What a SavedModel or a pickle would run, judged by closed lists: the names that are on none of them. And what of
Keras runs code, or reads files, that a model's file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def strange_operations(calls: Iterable[str]) -> tuple[str, ...]:
    """TensorFlow's operations that are no arithmetic on tensors, nor what every SavedModel saves and restores by.

    What is left may read or write files, run Python or talk to a network; or it is merely unknown here.
    """
    return tuple(name for name in calls if name not in OPERATIONS and not INDEXING.fullmatch(name))


def strange_globals(calls: Iterable[str]) -> tuple[str, ...]:
    """Globals in a pickle that are not among those by which PyTorch stores tensors alone."""
    return tuple(name for name in calls if not TENSORS.fullmatch(name))


# Keras' classes that hold code, or a path to some, in their settings.
CODE = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "function")
# And those whose vocabulary may be a path, which is read.
LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
TENSORS = re.compile(
    r"collections\.(OrderedDict|Counter)|torch\._utils\._rebuild_(parameter|parameter_with_state|tensor|tensor_v2"
    r"|tensor_v3|sparse_tensor|qtensor|meta_tensor_no_storage|device_tensor_from_numpy)"
    r"|torch\.(\w+Storage|storage\.\w+Storage|Size|Tensor|device|nn\.parameter\.Parameter|u?int\d+|float\d+\w*"
    r"|bfloat16|bool|complex\d+|half|double|float|long|short|serialization\._get_layout)"
    r"|_codecs\.encode|builtins\.(bytearray|set|complex)"
)
# Picking and placing of elements, whose names come in many forms.
INDEXING = re.compile(r"(Resource)?(Gather|Scatter)(V2|Nd|Update)?|(Un)?Sorted\w*Segment\w*|TensorList\w+")
# Constants, inputs, variables and control; what every SavedModel saves and restores itself by (a graph that is made
# to can write any path with it: a SavedModel stays a program);
# shapes; arithmetic; nets.
_OPERATIONS = """
    Const Placeholder PlaceholderWithDefault Identity IdentityN NoOp StopGradient PreventGradient Assert
    VarHandleOp VarIsInitializedOp ReadVariableOp DisableCopyOnRead AssignVariableOp AssignAddVariableOp
    AssignSubVariableOp DestroyResourceOp VariableV2 Assign PartitionedCall StatefulPartitionedCall If StatelessIf While
    StatelessWhile Case StatelessCase Switch Merge Enter Exit NextIteration LoopCond
    SaveV2 RestoreV2 MergeV2Checkpoints ShardedFilename StringJoin StaticRegexFullMatch Pack Select
    Shape ShapeN Size Rank Reshape Squeeze ExpandDims Transpose ConcatV2 Concat Split SplitV Slice StridedSlice
    Tile Pad PadV2 MirrorPad ReverseV2 Unpack Fill ZerosLike OnesLike Range BroadcastTo BroadcastArgs Cast
    Bitcast EnsureShape OneHot Where SelectV2 GatherNd InvertPermutation SpaceToBatchND BatchToSpaceND
    SpaceToDepth DepthToSpace
    Add AddV2 AddN Sub Mul MulNoNan Div RealDiv DivNoNan FloorDiv FloorMod Mod TruncateDiv Neg Abs Sign
    Reciprocal Inv Square SquaredDifference Sqrt Rsqrt Pow Exp Expm1 Log Log1p Sin Cos Tan Tanh Sinh Cosh Atan
    Atan2 Erf Erfc Floor Ceil Round Rint Maximum Minimum ClipByValue Equal NotEqual Less LessEqual Greater
    GreaterEqual LogicalAnd LogicalOr LogicalNot IsNan IsFinite IsInf Sum Mean Max Min Prod All Any ArgMax
    ArgMin Cumsum Cumprod TopKV2 MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum L2Loss
    Conv2D Conv3D Conv2DBackpropInput DepthwiseConv2dNative BiasAdd FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 MaxPool MaxPoolV2 AvgPool MaxPool3D AvgPool3D LRN Relu Relu6 LeakyRelu Elu Selu Sigmoid
    Softplus Softsign Softmax LogSoftmax ResizeBilinear ResizeNearestNeighbor ResizeBicubic ResizeArea
    CropAndResize AdjustContrastv2 RandomUniform RandomStandardNormal StatelessRandomUniformV2
    StatelessRandomNormalV2 StatelessRandomGetKeyCounter StatelessRandomGetAlg DecodeJpeg DecodePng DecodeImage
    CudnnRNNV3
"""
OPERATIONS = frozenset(_OPERATIONS.split())
