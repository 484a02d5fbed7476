import numpy as np

from training.batches import Batches

LENGTHS = np.random.default_rng(0).integers(3, 12, 500)
ROWS = np.arange(1000, 1500)


def batches(seed: int = 1) -> Batches:
    return Batches(ROWS, LENGTHS, seed, batch_rows=16, batch_tokens=100)


def epoch(plan: Batches, number: int) -> list[list[int]]:
    return [plan.rows(step).tolist() for step in range(number * plan.per_epoch, (number + 1) * plan.per_epoch)]


def test_an_epoch_holds_every_row_once():
    assert sorted(row for batch in epoch(batches(), 3) for row in batch) == ROWS.tolist()


def test_the_rows_of_a_batch_have_one_length_and_fit_its_limits():
    for batch in epoch(batches(), 0):
        lengths = {int(LENGTHS[row - 1000]) for row in batch}
        assert len(lengths) == 1
        assert len(batch) <= 16
        assert len(batch) * lengths.pop() <= 100


def test_epochs_differ_and_a_run_that_resumes_sees_what_it_would_have_seen():
    plan = batches()
    assert epoch(plan, 0) != epoch(plan, 1)
    assert batches().rows(plan.per_epoch + 5).tolist() == plan.rows(plan.per_epoch + 5).tolist()
    assert epoch(batches(seed=2), 0) != epoch(batches(seed=1), 0)
