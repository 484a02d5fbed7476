"""What a task adds to an encoder: the vectors of one or two texts to logits."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

from training.task import METRICS, Metric, Scores, Task, TaskError

FOLDS = 3
ROWS_TO_CHOOSE_ON = 5000
INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


class Head(nn.Module):
    """A linear layer over the features of one text or of a pair encoded apart.

    `forward` takes float32 (rows, texts, width) and gives logits (rows, outputs). Those of a symmetric head are to the
    last bit the same, whichever text of a pair comes first.

    Attributes:
        symmetric: Whether it is; one of a single text never is.
        scale: Mean and spread of the values that it learns by steps, float32 (2), kept with its weights; none of a
            classifier. The layer then gives values of mean zero and spread one, which is what learning rates suit.
    """

    scale: Tensor | None

    def __init__(self, texts: int, width: int, outputs: int, dropout: float = 0.0, *, symmetric: bool = False) -> None:
        super().__init__()
        self.register_buffer("scale", None)
        self.texts = texts
        self.symmetric = symmetric and texts == 2  # a joined pair is one text here, read in its order
        self.dropout = nn.Dropout(dropout)
        parts = 1 if texts == 1 else 3 if self.symmetric else 4
        self.output = nn.Linear(parts * width, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Give logits."""
        logits: Tensor = self.output(self.dropout(self.features(vectors)))
        if self.scale is None:
            return logits
        mean, spread = self.scale
        values: Tensor = logits.float() * spread + mean
        return values

    def features(self, vectors: Tensor) -> Tensor:
        """Give what the layer reads: the vector of one text, [u; v; |u-v|; u*v] of a pair (Wu et al. 2020, 3.2).

        A symmetric head reads [u+v; |u-v|; u*v], which is the same with equal weights for u and v.

        Args:
            vectors: (rows, texts, width), with one or two texts.

        Returns:
            (rows, width), or (rows, 4 or 3 x width).
        """
        if self.texts == 1:
            return vectors[:, 0]
        first, second = vectors.unbind(dim=1)
        each = [first + second] if self.symmetric else [first, second]
        return torch.cat([*each, (first - second).abs(), first * second], dim=1)

    @property
    def spread(self) -> Tensor | float:
        """Unit of the values that it learns: 1 without a scale."""
        return 1.0 if self.scale is None else self.scale[1]

    def scale_to(self, values: Scores) -> None:
        """Take the scale of the values to learn, (rows)."""
        spread = values.std() if np.ptp(values) else 1.0
        self.scale = torch.tensor([values.mean(), spread], dtype=torch.float32, device=self.output.weight.device)

    @torch.no_grad()
    def folded(self) -> "Head":
        """Give a head that answers the same by its layer alone."""
        if self.scale is None:
            return self
        mean, spread = self.scale
        plain = copy.deepcopy(self)
        plain.output.weight.mul_(spread)
        plain.output.bias.mul_(spread).add_(mean)
        plain.scale = None
        return plain

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # whoever loads need not know the scale; runs of earlier versions learnt values as they are
        scale = state_dict.get(f"{prefix}scale")
        self.scale = None if scale is None else scale.to(self.output.weight.device, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *others)


@torch.no_grad()
def fit_head(head: Head, vectors: NDArray[np.float32], labels: Scores, task: Task) -> None:
    """Fit a head on fixed vectors to its optimum: logistic regression for labels, ridge regression for values.

    The penalty is chosen by cross-validation within the rows given, where every label has enough of them.

    Args:
        head: Filled in place.
        vectors: (rows, texts, width).
        labels: (rows), label numbers or values; of a head with a scale its layer learns them in that.
        task: Says which.

    Raises:
        TaskError: no row has one of the task's labels.
    """
    missing = [label for number, label in enumerate(task.labels) if number not in labels]
    if missing:
        raise TaskError(f"no training row of {task.name} has label {missing[0]!r}: add some, or leave out --frozen")
    inputs = head.features(torch.from_numpy(vectors)).numpy()  # (rows, features)
    if head.scale is not None:
        mean, spread = head.scale.cpu().numpy()
        labels = (labels - mean) / spread
    if task.labels:
        model = _best(
            LogisticRegression(max_iter=2000),
            "C",
            INVERSE_PENALTIES,
            inputs,
            labels.astype(int),
            METRICS[task.metrics[0]],
        )
        weights, bias = model.coef_, model.intercept_
        if len(weights) == 1:  # of two labels there is one row, z: softmax([-z/2, z/2]) is its sigmoid
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    else:
        model = _best(Ridge(), "alpha", tuple(1 / value for value in INVERSE_PENALTIES), inputs, labels)
        weights, bias = model.coef_[None], np.asarray([model.intercept_])
    head.output.weight.copy_(torch.from_numpy(weights))
    head.output.bias.copy_(torch.from_numpy(bias))


def _best(
    model: Any,
    name: str,
    values: tuple[float, ...],
    inputs: NDArray[np.float32],
    labels: NDArray[Any],
    metric: Metric | None = None,
) -> Any:
    """Fit with the penalty that does best by the task's own metric: by accuracy, a rare label would not pay.

    Where several do as well, as on rows that are easy to tell apart, the one whose probabilities are best decides: the
    strongest would leave them all alike.
    """
    scoring = {"metric": make_scorer(metric), "probability": "neg_log_loss"} if metric else {"metric": "r2"}
    few = np.random.default_rng(0).permutation(len(labels))[:ROWS_TO_CHOOSE_ON]
    rarest = np.unique(labels[few], return_counts=True)[1].min() if labels.dtype.kind == "i" else len(few)
    if rarest >= FOLDS:
        search = GridSearchCV(model, {name: values}, scoring=scoring, cv=FOLDS, refit=False)
        tried = search.fit(inputs[few], labels[few]).cv_results_
        ascending = np.lexsort([tried[f"mean_test_{what}"] for what in reversed(scoring)])
        model.set_params(**tried["params"][ascending[-1]])
    return model.fit(inputs, labels)
