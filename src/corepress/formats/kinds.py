"""The kinds of Core ML models, in words, and what corepress can do with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")

# The kinds of models have the numbers from here on.
_FIRST = 200
# By the names of the fields of Apple's Model.proto.
_NAMES = {
    "mlProgram": "an ML program",
    "neuralNetwork": "a neural network",
    "neuralNetworkClassifier": "a neural network classifier",
    "neuralNetworkRegressor": "a neural network regressor",
    "pipeline": "a pipeline",
    "pipelineClassifier": "a pipeline classifier",
    "pipelineRegressor": "a pipeline regressor",
    "glmRegressor": "a generalized linear regressor",
    "glmClassifier": "a generalized linear classifier",
    "supportVectorRegressor": "a support vector regressor",
    "supportVectorClassifier": "a support vector classifier",
    "treeEnsembleRegressor": "a tree ensemble regressor",
    "treeEnsembleClassifier": "a tree ensemble classifier",
    "bayesianProbitRegressor": "a Bayesian probit regressor",
    "kNearestNeighborsClassifier": "a k-nearest-neighbours classifier",
    "itemSimilarityRecommender": "an item similarity recommender",
    "customModel": "a custom model, computed by a class of the app",
    "linkedModel": "a link to another model",
    "classConfidenceThresholding": "a thresholding of class confidences",
    "oneHotEncoder": "a one-hot encoder",
    "imputer": "an imputer of missing values",
    "featureVectorizer": "a feature vectorizer",
    "dictVectorizer": "a dictionary vectorizer",
    "scaler": "a scaler of features",
    "categoricalMapping": "a categorical mapping",
    "normalizer": "a normalizer of features",
    "arrayFeatureExtractor": "an array feature extractor",
    "nonMaximumSuppression": "a non-maximum suppression",
    "identity": "an identity",
    "textClassifier": "a text classifier",
    "wordTagger": "a word tagger",
    "visionFeaturePrint": "a feature print of images, computed by the system",
    "soundAnalysisPreprocessing": "a preprocessing of sounds, computed by the system",
    "gazetteer": "a gazetteer",
    "wordEmbedding": "a word embedding",
    "audioFeaturePrint": "a feature print of sounds, computed by the system",
    "serializedModel": "a serialized model",
}


def kind_of(spec: Any) -> str:
    """The name of the field of `Model.proto` that holds the model; "field 4000" for one that corepress does not know,
    and nothing where there is no model."""
    if (known := spec.WhichOneof("Type")) is not None:
        return str(known)
    fields: Any = UnknownFieldSet(spec)
    numbers = [field.field_number for field in fields if field.field_number >= _FIRST]
    return f"field {numbers[0]}" if numbers else ""


def with_article(kind: str) -> str:
    """A kind in words, such as "a tree ensemble classifier"."""
    return _NAMES.get(kind, f"a model of a kind that corepress does not know ({kind} of Model.proto)")


def in_words(kind: str) -> str:
    """A kind in words, without an article."""
    return with_article(kind).split(" ", 1)[1]


def stages(spec: Any) -> list[tuple[str, Any]]:
    """The stages of a pipeline; nothing for a model of another kind.

    Each has a name of its own: that in the file, or its number where it has none or that of another one.
    """
    kind = kind_of(spec)
    if kind not in PIPELINES:
        return []
    pipeline = spec.pipeline if kind == "pipeline" else getattr(spec, kind).pipeline
    found: dict[str, Any] = {}
    for index, model in enumerate(pipeline.models):
        name = str(pipeline.names[index]) if index < len(pipeline.names) else ""
        name = name if name and name not in found else f"stage{index}"
        while name in found:
            name += "_"
        found[name] = model
    return list(found.items())


def models(spec: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """A model and, of a pipeline, all models within; each with the names of the stages that lead to it: "head/last"."""
    yield name, spec
    for stage, model in stages(spec):
        yield from models(model, f"{name}/{stage}" if name else stage)


def leaves(spec: Any) -> Iterator[str]:
    """The kinds of all models in a model, pipelines being nothing but their stages."""
    return (kind for _, model in models(spec) if (kind := kind_of(model)) not in PIPELINES)


def refusal(spec: Any) -> str:
    """What a model without an ML program is, and what can be done about it: half a sentence."""
    kind, parts = kind_of(spec), list(leaves(spec))
    text = f"it holds {with_article(kind)}"
    if kind in PIPELINES:
        text += f" of {', '.join(dict.fromkeys(map(with_article, parts)))}" if parts else " without stages"
    if set(parts) & set(NETWORKS):
        return f"{text}, not an ML program; corepress.neural_network reads and compresses it"
    return f"{text}; only ML programs and neural networks can be compressed and run"
