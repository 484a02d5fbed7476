"""Tiny bundles for tests: real graphs and tokenizers, a few kilobytes each, made in milliseconds."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from app.bundle import Bundle, read_bundle, space_id, write_bundle
from app.session import EMBEDDING_NAME

WORDS = [
    "good",
    "bad",
    "film",
    "food",
    "a",
    "the",
    "is",
    "was",
    "not",
    "very",
    "cat",
    "dog",
    "sat",
    "mat",
    "one",
    "two",
]
VOCABULARY = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *"abcdefghijklmnopqrstuvwxyz"]))
DIMENSIONS = 8
MAX_TOKENS = 16
TEXTS = ("good film", "the cat sat", "", "not very good food", "zebra")
EMBEDDINGS = np.random.default_rng(7).normal(size=(len(VOCABULARY), DIMENSIONS)).astype(np.float32)


def tokenizer_json() -> bytes:
    """A word-level tokenizer that adds [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str().encode()


def encoder_graph(embeddings: np.ndarray = EMBEDDINGS) -> bytes:
    """Gather, masked mean, unit length: (rows, tokens) and (rows,) -> (rows, dimensions)."""
    constants = {
        EMBEDDING_NAME: embeddings,
        "zero": np.int64(0),
        "one": np.int64(1),
        "last": np.array([1], dtype=np.int64),
        "middle": np.array([2], dtype=np.int64),
        "tiny": np.float32(1e-12),
    }
    nodes = [
        helper.make_node("Gather", [EMBEDDING_NAME, "input_ids"], ["gathered"]),
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["tokens"]),
        helper.make_node("Range", ["zero", "tokens", "one"], ["places"]),
        helper.make_node("Unsqueeze", ["lengths", "last"], ["ends"]),
        helper.make_node("Less", ["places", "ends"], ["real"]),
        helper.make_node("Cast", ["real"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "middle"], ["mask"]),
        helper.make_node("Mul", ["gathered", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "last"], ["summed"], keepdims=0),
        helper.make_node("ReduceL2", ["summed", "last"], ["norms"], keepdims=1),
        helper.make_node("Max", ["norms", "tiny"], ["divisors"]),
        helper.make_node("Div", ["summed", "divisors"], ["vectors"]),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["rows"]),
    ]
    output = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["rows", embeddings.shape[1]])
    return _graph(nodes, inputs, output, constants)


def head_graph(labels: int = 2, texts: int = 1, activation: str = "softmax") -> bytes:
    """One matrix over the texts' vectors, side by side: (rows, texts, dimensions) -> (rows, labels)."""
    weights = np.random.default_rng(labels).normal(size=(texts * DIMENSIONS, labels)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["vectors"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node({"softmax": "Softmax", "none": "Identity"}[activation], ["logits"], ["scores"]),
    ]
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["rows", texts, DIMENSIONS])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", labels])
    return _graph(nodes, [vectors], scores, {"weights": weights})


def split_graph() -> dict[str, bytes]:
    """The encoder's graph, and its embeddings in a file beside it."""
    model, file = onnx.load_model_from_string(encoder_graph()), io.BytesIO()
    np.save(file, EMBEDDINGS)
    (embeddings,) = [one for one in model.graph.initializer if one.name == EMBEDDING_NAME]
    set_external_data(embeddings, "embedding.npy", offset=file.tell() - EMBEDDINGS.nbytes, length=EMBEDDINGS.nbytes)
    embeddings.ClearField("raw_data")
    return {"model.onnx": model.SerializeToString(), "embedding.npy": file.getvalue()}


def write_split_encoder(models_dir: Path) -> Bundle:
    """Write a student whose table of embeddings lies beside its graph."""
    whole = write_encoder(models_dir)
    files = {file: whole.path(file).read_bytes() for file in whole.manifest.files}
    return write_bundle(whole.folder, whole.manifest.model_dump(exclude={"files"}), files | split_graph())


def write_encoder(models_dir: Path, role: str = "student", graph: bytes | None = None, **facts) -> Bundle:
    """Write the encoder bundle of a role; `facts` override the manifest's."""
    graph, tokenizer = graph or encoder_graph(), tokenizer_json()
    outputs = [_vector(encoder_graph(), tokenizer, text) for text in TEXTS]
    manifest = {
        "name": role,
        "role": role,
        "kind": "encoder",
        "dimensions": DIMENSIONS,
        "max_tokens": MAX_TOKENS,
        "vocabulary": len(VOCABULARY),
        "precision": "float32",
        "space": space_id(graph, tokenizer),
        "canary_tolerance": 1e-4,
    }
    files = {
        "model.onnx": graph,
        "tokenizer.json": tokenizer,
        "canary.json": _canary([(text,) for text in TEXTS], outputs),
    }
    manifest |= facts
    return write_bundle(models_dir / manifest["name"], manifest, files)


def write_task(
    models_dir: Path,
    name: str = "mood",
    base: Bundle | None = None,
    inputs: str = "text",
    labels=("bad", "good"),
    role="student",
    *,
    own_graph: bool = False,
) -> Bundle:
    """Write a task bundle: a head on `base`, or with an encoder of its own; without labels a regressor.

    With `own_graph` and a base, its encoder is a graph of its own on the base's embeddings.
    """
    graph, tokenizer = encoder_graph(), tokenizer_json()
    texts = 2 if inputs == "pair_apart" else 1
    activation = "softmax" if labels else "none"
    head = head_graph(len(labels) or 1, texts, activation)
    asked = [(text,) if inputs == "text" else (text, "the dog") for text in TEXTS]
    outputs = [_scores(head, tokenizer, given, texts) for given in asked]
    files = {"head.onnx": head, "canary.json": _canary(asked, outputs)}
    if base is None:
        files |= {"model.onnx": graph, "tokenizer.json": tokenizer}
    elif own_graph:
        files |= {"model.onnx": split_graph()["model.onnx"]}
    facts = {
        "name": name,
        "role": role,
        "kind": "classifier" if labels else "regressor",
        "inputs": inputs,
        "dimensions": DIMENSIONS,
        "max_tokens": MAX_TOKENS,
        "vocabulary": len(VOCABULARY),
        "labels": labels,
        "activation": activation,
        "precision": "float32",
        "space": space_id(graph, tokenizer),
        "base": base.manifest.space if base else None,
        "canary_tolerance": 1e-3,
    }
    folder = name if role == "student" else f"{name}-{role}"
    return write_bundle(models_dir / folder, facts, files)


def rewrite(bundle: Bundle, **files: bytes) -> Bundle:
    """Change files of a bundle and make its checksums right again; names have _ where the file has a dot."""
    contents = {file: bundle.path(file).read_bytes() for file in bundle.manifest.files}
    contents |= {name.replace("_", "."): content for name, content in files.items()}
    write_bundle(bundle.folder, bundle.manifest.model_dump(exclude={"files"}), contents)
    return read_bundle(bundle.folder)


def _graph(nodes, inputs, output, constants) -> bytes:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _canary(inputs, outputs) -> bytes:
    return json.dumps({"inputs": inputs, "outputs": [np.asarray(output).tolist() for output in outputs]}).encode()


def _vector(graph: bytes, tokenizer: bytes, *texts: str) -> np.ndarray:
    encoding = Tokenizer.from_buffer(tokenizer)
    encoding.enable_truncation(MAX_TOKENS)
    ids = encoding.encode(*texts).ids
    feeds = {"input_ids": np.array([ids]), "lengths": np.array([len(ids)])}
    return onnxruntime.InferenceSession(graph).run(None, feeds)[0][0]


def _scores(head: bytes, tokenizer: bytes, given: tuple[str, ...], texts: int) -> np.ndarray:
    graph = encoder_graph()
    rows = [_vector(graph, tokenizer, text) for text in given] if texts == 2 else [_vector(graph, tokenizer, *given)]
    return onnxruntime.InferenceSession(head).run(None, {"vectors": np.stack(rows)[None]})[0][0]
