"""A static model of the same teacher, as the baseline that a student has to beat: one vector per token, averaged.

model2vec (Tulkens and van Dongen 2024) encodes every token of the vocabulary alone, reduces the vectors by PCA, and
weights them by the rank of the token (SIF, Arora et al. 2017).
"""

import copy
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from training.encoding import Encode
from training.teacher import Teacher, TeacherError

WIDTH = 256  # model2vec's default


def static_encoders(teacher: Teacher, cache: Path) -> dict[str, Encode]:
    """Give the static models that an evaluation shows, by column; raises TeacherError as `static_encoder` does."""
    return {
        "static, PCA": static_encoder(teacher, cache, reduce=True),
        "static": static_encoder(teacher, cache, reduce=False),
    }


def static_encoder(teacher: Teacher, cache: Path, *, reduce: bool) -> Encode:
    """Distil a static model from a teacher, or read it from the cache.

    Args:
        teacher: Its fingerprint names the cache.
        cache: Static models are kept below it.
        reduce: Reduce the vectors by PCA, as model2vec does by default. Without it they are weaker, but stay in the
            teacher's space, and so have a cosine to its vectors.

    Raises:
        TeacherError: model2vec is not installed.
    """
    try:
        from model2vec import StaticModel
        from model2vec.distill import distill_from_model
    except ImportError as error:
        raise TeacherError("a static baseline needs two packages: pip install model2vec skeletoken") from error
    folder = cache / "static" / f"{teacher.fingerprint[:16]}-{'pca' if reduce else 'whole'}"
    if not folder.is_dir():
        draft = folder.with_suffix(".draft")
        bert = copy.deepcopy(teacher.encoder.bert)  # the library resizes its embedding table
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(bert.name_or_path))
        distill_from_model(bert, tokenizer, device="cpu", pca_dims=WIDTH if reduce else None).save_pretrained(draft)
        draft.rename(folder)
    model = StaticModel.from_pretrained(folder)
    return lambda texts: np.asarray(model.encode(list(texts)), dtype=np.float32)
