"""The closed list of what an architecture may ask for: classes by the module they come from, and names of functions.

Nothing on it holds code, reads a file, or loads a module by a name that stands in the architecture. Left out for
that: Lambda, TFSMLayer, JaxLayer, FlaxLayer, TorchModuleWrapper, and the lookups (StringLookup, IntegerLookup,
TextVectorization), whose vocabulary may be a path.
"""

from __future__ import annotations


def _names(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


CONVOLUTIONS = (
    "Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose DepthwiseConv1D DepthwiseConv2D "
    "SeparableConv1D SeparableConv2D"
)
POOLINGS = " ".join(
    f"{kind}{rank}D"
    for kind in (
        "AveragePooling",
        "MaxPooling",
        "GlobalAveragePooling",
        "GlobalMaxPooling",
        "AdaptiveAveragePooling",
        "AdaptiveMaxPooling",
    )
    for rank in (1, 2, 3)
)
RECURRENT = (
    "SimpleRNN SimpleRNNCell LSTM LSTMCell GRU GRUCell RNN StackedRNNCells Bidirectional TimeDistributed "
    "ConvLSTM1D ConvLSTM2D ConvLSTM3D"
)
NORMALISATIONS = (
    "BatchNormalization GroupNormalization LayerNormalization RMSNormalization UnitNormalization "
    "SpectralNormalization"
)
RESHAPING = (
    "Cropping1D Cropping2D Cropping3D Flatten Permute RepeatVector Reshape UpSampling1D UpSampling2D UpSampling3D "
    "ZeroPadding1D ZeroPadding2D ZeroPadding3D"
)
REGULARISATION = (
    "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise SpatialDropout1D SpatialDropout2D "
    "SpatialDropout3D"
)
PREPROCESSING = (
    "Rescaling Normalization Resizing CenterCrop CategoryEncoding Discretization Hashing HashedCrossing RandomFlip "
    "RandomRotation RandomTranslation RandomZoom RandomCrop RandomContrast RandomBrightness RandomShear "
    "RandomGrayscale RandomHue RandomInvert RandomSaturation RandomSharpness RandomErasing RandomGaussianBlur "
    "RandomPosterization RandomColorDegeneration RandomColorJitter Solarization AutoContrast Equalization"
)
LAYERS = _names(
    "InputLayer Dense EinsumDense Embedding Identity Masking Activation ELU LeakyReLU PReLU ReLU Softmax",
    "Attention AdditiveAttention MultiHeadAttention GroupQueryAttention",
    "Add Average Concatenate Dot Maximum Minimum Multiply Subtract",
    CONVOLUTIONS,
    POOLINGS,
    RECURRENT,
    NORMALISATIONS,
    RESHAPING,
    REGULARISATION,
    PREPROCESSING,
)
INITIALIZERS = _names(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal "
    "OrthogonalInitializer IdentityInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros"
)
REGULARIZERS = _names("L1 L2 L1L2 OrthogonalRegularizer")
CONSTRAINTS = _names("MaxNorm MinMaxNorm NonNeg UnitNorm")
ACTIVATIONS = _names(
    "linear relu relu6 leaky_relu elu selu celu gelu sigmoid hard_sigmoid log_sigmoid silu swish hard_silu hard_swish "
    "softmax log_softmax softplus softsign tanh hard_tanh exponential mish soft_shrink hard_shrink tanh_shrink "
    "squareplus sparse_plus sparsemax sparse_sigmoid threshold glu"
)
# Operators of functional graphs, by the module of keras.src.ops that defines them: arithmetic on tensors alone.
OPERATORS = {
    "numpy": (
        "Abs Absolute Add Amax Amin Any All Arccos Arcsin Arctan Arctan2 Argmax Argmin Average BroadcastTo Ceil Clip "
        "Concatenate Cos Cosh Cross Cumprod Cumsum Divide DivideNoNan Dot Einsum Equal Exp ExpandDims Expm1 Flip Floor "
        "FloorDivide FullLike GetItem Greater GreaterEqual Hstack Isfinite Isinf Isnan Less LessEqual Log Log10 Log1p "
        "Log2 Logaddexp LogicalAnd LogicalNot LogicalOr LogicalXor Matmul Max Maximum Mean Median Min Minimum Mod "
        "Moveaxis Multiply Negative NotEqual OnesLike Outer Pad Power Prod Ravel Reciprocal Repeat Reshape Roll Round "
        "Sign Sin Sinh Split Sqrt Square Squeeze Stack Std Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot "
        "Tile Transpose Tril Triu TrueDivide Trunc Var Vdot Vstack Where ZerosLike"
    ),
    "nn": (
        "Relu Relu6 Sigmoid Softplus Softsign Silu LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu Glu "
        "Softmax LogSoftmax MaxPool AveragePool OneHot MultiHot Moments Normalize"
    ),
    "core": "Cast SaturateCast Slice StopGradient Unstack",
    "math": "Logsumexp Rsqrt Erf TopK",
    "image": "RGBToGrayscale Resize PadImages CropImages",
}


def _modules() -> dict[str, frozenset[str]]:
    """Class name -> the modules it may be asked for from."""
    found: dict[str, set[str]] = {}

    def add(names: frozenset[str], *modules: str) -> None:
        for name in names:
            found.setdefault(name, set()).update(modules)

    add(LAYERS, "keras.layers")
    add(INITIALIZERS, "keras.initializers")
    add(REGULARIZERS, "keras.regularizers")
    add(CONSTRAINTS, "keras.constraints")
    add(frozenset({"Sequential"}), "keras", "keras.models", "keras.src.models.sequential")
    add(frozenset({"Functional"}), "keras", "keras.models", "keras.src.models.functional")
    add(frozenset({"DTypePolicy"}), "keras", "keras.dtype_policies")
    # Layers of keras.applications that Keras' own layers do not have.
    add(frozenset({"LayerScale", "StochasticDepth"}), "keras.src.applications.convnext")
    add(frozenset({"CustomScaleLayer"}), "keras.src.applications.inception_resnet_v2")
    for module, names in OPERATORS.items():
        add(_names(names), f"keras.src.ops.{module}")
    return {name: frozenset(modules) for name, modules in found.items()}


MODULES = _modules()
# Plain values that Keras wraps in a class name of their own.
VALUES = frozenset({"__keras_tensor__", "__tuple__", "__numpy__", "__tensor__", "__slice__", "__ellipsis__"})
# rightfit's fast twins (nets/layers.py) are written as the stock layers whose weights and outputs they share.
TWINS = {
    "TensorFlowConv2D": "Conv2D",
    "TensorFlowBatchNormalization": "BatchNormalization",
    "TorchBatchNormalization": "BatchNormalization",
    "ScaledChannels": "DepthwiseConv2D",
}
TWINS_MODULE = "rightfit.nets.layers"
