"""Small worlds that the tests of training and export share: a real BERT, made here in a second, and a corpus for it."""

import json
import lzma
import os
from pathlib import Path

import pytest

# The models here are so small that a second thread only costs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
for name in [name for name in os.environ if name.startswith("UNDERSTUDY_")]:
    del os.environ[name]  # settings of the service that is run here, and not of those that are tested

WORDS = tuple("the a cat dog sat ran on under mat tree red small very quickly and or not good bad film".split())  # noqa: SIM905


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as sentence-transformers writes it: BERT of two layers and width 32, mean pooling, unit length."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("teacher") / "small-bert"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(WordPiece({token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)  # as published checkpoints do
    tokenizer.enable_padding(length=8)
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,  # far enough from zero that different texts get different vectors
    )
    BertModel(sizes).save_pretrained(folder)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    (folder / "modules.json").write_text(
        json.dumps([{"path": path, "type": f"sentence_transformers.models.{kind}"} for _, path, kind in modules])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))
    return folder


def write_data(folder: Path) -> Path:
    """Make a data folder: one xz file of 400 distinct lines, and SST-2 of 40 and 10 rows."""
    import numpy as np

    rng = np.random.default_rng(0)
    lines = list(dict.fromkeys(" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(440)))[:400]
    (folder / "corpus").mkdir(parents=True)
    with lzma.open(folder / "corpus" / "lines.txt.xz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    task = folder / "glue" / "SST-2"
    task.mkdir(parents=True)
    rows = [f"the film {'not ' * (n % 3)}{'good' if n % 2 else 'bad'}\t{n % 2}" for n in range(50)]
    (task / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows[:40]]) + "\n")
    (task / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows[40:]]) + "\n")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A data folder that a test may change."""
    return write_data(tmp_path / "data")


@pytest.fixture(scope="session")
def small_student(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small student of the small teacher; read it, but leave it as it is."""
    from training.checkpoint import Run
    from training.distillation import distil
    from training.recipe import Corpus, DistillRecipe, Optimisation, Source, StudentShape

    folder = tmp_path_factory.mktemp("distilled")
    recipe = DistillRecipe(
        name="student",
        teacher=str(small_bert),
        corpus=Corpus((Source("corpus/lines.txt.xz", 400),), max_tokens=32, held_out=0.1),
        student=StudentShape(embedding=16, hidden=16),
        optimisation=Optimisation(epochs=2, learning_rate=2e-2, batch_rows=32),
        precision="float32",
    )
    distil(recipe, write_data(folder / "data"), folder / "cache", Run(folder / "student"))
    return folder / "student"


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data, where DATA_DIR (or data/) holds them."""
    folder = Path(os.environ.get("DATA_DIR", "data"))
    if not (folder / "glue").is_dir():
        pytest.skip("DATA_DIR names no folder with glue/")
    return folder
