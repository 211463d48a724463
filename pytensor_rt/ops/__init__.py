"""Op rules, one file per ONNX op family. A family is imported when a model first uses one of its ops."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ..lowering.tracer import Rule
from .registry import INTERNAL, RULES, op

# Every op that a family's file registers, in whatever version. Importing the file checks that it is listed here. A word that ends in a colon
# says which domain the names after it are of; before the first they are of ai.onnx.
FAMILIES: dict[str, str] = {
    "classical": (
        "ai.onnx.ml: ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor "
        "Normalizer OneHotEncoder Scaler TreeEnsembleClassifier TreeEnsembleRegressor ZipMap"
    ),
    "attention": "Attention RotaryEmbedding",
    "contrib_attention": "com.microsoft: Attention GroupQueryAttention MultiHeadAttention QAttention RotaryEmbedding",
    "contrib_diffusion": "com.microsoft: BiasAdd BiasSplitGelu GroupNorm NhwcConv SkipGroupNorm",
    "contrib_fused": (
        "SimplifiedLayerNormalization com.microsoft: BiasDropout BiasGelu BiasSoftmax CDist ConvTransposeWithDynamicPads "
        "EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation GridSample NhwcFusedConv "
        "QEmbedLayerNormalization QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization TransposeMatMul Unique"
    ),
    "contrib_moe": "com.microsoft: MoE QMoE",
    "contrib_quantized": (
        "com.microsoft: DynamicQuantizeMatMul GatherBlockQuantized MatMulBnb4 MatMulInteger16 MatMulIntegerToFloat NhwcMaxPool QGemm "
        "QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean "
        "QLinearSigmoid QLinearSoftmax QLinearWhere"
    ),
    "control": "If Loop Scan",
    "convolution": (
        "AffineGrid AveragePool Col2Im Conv ConvInteger ConvTranspose DeformConv GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample "
        "LpPool MaxPool MaxUnpool QLinearConv Resize RoiAlign Upsample"
    ),
    "einsum": "Einsum",
    "elementwise": (
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
        "Ceil Celu Clip Cos Cosh DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
        "HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow "
        "QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
        "ThresholdedRelu Where Xor com.microsoft: DequantizeLinear Gelu QuantizeLinear"
    ),
    "flex_attention": "ai.onnx.preview: FlexAttention",
    "image": "ImageDecoder",
    "linear": "Gemm MatMul MatMulInteger QLinearMatMul com.microsoft: MatMulNBits pytensor_rt: Attention MatMulDequantized",
    "linear_attention": ("CausalConvWithState LinearAttention com.microsoft: CausalConvWithState GatedDeltaNet LinearAttention"),
    "movement": (
        "Compress Det Gather GatherElements GatherND NonMaxSuppression NonZero OneHot ReverseSequence Scatter ScatterElements "
        "ScatterND TensorScatter TopK Unique com.microsoft: GatherND Inverse"
    ),
    "normalization": (
        "BatchNormalization GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization "
        "MeanVarianceNormalization RMSNormalization Softmax"
    ),
    "random": "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
    "recurrent": "GRU LSTM RNN com.microsoft: DynamicQuantizeLSTM",
    "reduction": (
        "ArgMax ArgMin CumProd CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
        "ReduceSum ReduceSumSquare"
    ),
    "roi_pool": "MaxRoiPool",
    "sequence": (
        "ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty "
        "SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence"
    ),
    "shape": (
        "Concat ConstantOfShape DepthToSpace Expand EyeLike Flatten Identity Pad Range Reshape Shape Size Slice SpaceToDepth "
        "Split Squeeze Tile Transpose Trilu Unsqueeze com.microsoft: Pad Range Trilu pytensor_rt: Interleave"
    ),
    "signal": "DFT MelWeightMatrix STFT",
    "strings": (
        "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer com.microsoft: Tokenizer pytensor_rt: TfIdfTokens"
    ),
    "svm": "ai.onnx.ml: SVMClassifier SVMRegressor",
    "training": "ai.onnx.preview.training: Adagrad Adam Momentum",
    "trees": "ai.onnx.ml: TreeEnsemble",
}


def _listed() -> Iterator[tuple[tuple[str, str], str]]:
    for family, words in FAMILIES.items():
        domain = ""
        for word in words.split():
            if word.endswith(":"):
                domain = word[:-1]
            else:
                yield (domain, word), family


FAMILY_OF = dict(_listed())  # (domain, op type) -> family


def load(family: str) -> None:
    """Import a family, which registers its rules."""
    name = f"{__name__}.{family}"
    if name not in sys.modules:
        __import__(name)


def find(domain: str, name: str, opset: int) -> Rule | None:
    """The rule that applies to an op at an opset, or None."""
    versions = RULES.get((domain, name))
    if versions is None:
        family = FAMILY_OF.get((domain, name))
        if family is None:
            return None
        load(family)
        versions = RULES.get((domain, name), [])
    found = None
    for since, rule in versions:
        if since <= opset:
            found = rule
    return found


def registered() -> dict[tuple[str, str], list[int]]:
    """All op types with the versions at which their rules change."""
    for family in FAMILIES:
        load(family)
    return {key: [since for since, _ in versions] for key, versions in RULES.items()}


__all__ = ["FAMILIES", "FAMILY_OF", "INTERNAL", "find", "load", "op", "registered"]
