from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app.drift import RowCounter, baseline_of
from app.metrics import (
    DRIFT,
    DURATIONS,
    LOADS,
    MODEL_ROUTES,
    MODELS,
    REASONS,
    SHADOWED,
    STAGES,
    Metrics,
    clear_stale,
)


def test_every_series_is_there_before_any_traffic() -> None:
    text = Metrics().exposition().decode()
    for model in MODELS:
        for stage in STAGES:
            assert f'understudy_stage_duration_seconds_count{{model="{model}",stage="{stage}"}} 0.0' in text
        for route in MODEL_ROUTES[:3]:
            assert f'understudy_requests_total{{model="{model}",route="{route}",status="200"}} 0.0' in text
            assert f'understudy_request_duration_seconds_count{{model="{model}",route="{route}"}} 0.0' in text
        for reason in REASONS.values():
            assert f'understudy_rejected_total{{model="{model}",reason="{reason}"}} 0.0' in text
        for name in ("batch_rows_count", "batch_tokens_count", "batch_padding_ratio_count", "truncated_total"):
            assert f'understudy_{name}{{model="{model}"}} 0.0' in text
        for name in ("queue_tokens", "queue_oldest_age_seconds"):
            assert f'understudy_{name}{{model="{model}"}} 0.0' in text

    for series in (
        *(f'loads_total{{outcome="{outcome}"}}' for outcome in LOADS),
        *(f'shadow_rows_total{{outcome="{outcome}"}}' for outcome in SHADOWED),
        "shadow_cosine_count",
        "shadow_rank_agreement_count",
        "worker_deaths_total",
    ):
        assert f"understudy_{series} 0.0" in text


def test_the_page_stays_small_with_five_tasks_loaded() -> None:
    metrics = Metrics()
    baseline = baseline_of(RowCounter(None, 2).count([[1, 2]], np.ones((1, 2), np.float32)))
    for name in ("student", "teacher", *(f"task-{number}" for number in range(5))):
        metrics.show_models([(name, "student", "0" * 16, "0" * 64)])
        for model in MODELS:
            metrics.show_baseline(model, name, baseline)
            metrics.show_drift(model, name, dict.fromkeys(DRIFT, 0.0))
        metrics.show_task(name)
    assert len(metrics.exposition()) < 300_000


def test_the_buckets_resolve_a_student_and_reach_a_slow_teacher() -> None:
    assert DURATIONS[0] == 50e-6
    assert 7 < DURATIONS[-1] <= 10
    assert all(1.39 < upper / lower < 1.41 for lower, upper in pairwise(DURATIONS))


def test_a_bundle_that_is_gone_drops_to_zero() -> None:
    metrics = Metrics()
    metrics.show_models([("student", "student", "a", "1")])
    metrics.show_models([("student", "student", "b", "2")])
    text = metrics.exposition().decode()
    assert 'understudy_model_info{model="student",role="student",sha256="1",space="a"} 0.0' in text
    assert 'understudy_model_info{model="student",role="student",sha256="2",space="b"} 1.0' in text


def test_stale_files_of_an_earlier_run_are_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    clear_stale(folder)
    (folder / "counter_1.db").touch()
    (folder / "notes.txt").touch()
    clear_stale(folder)
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_a_file_that_a_process_has_only_opened_yet_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    write = MmapedDict(str(tmp_path / "counter_0.db"))
    write.write_value(mmap_key("a", "a_total", [], [], "Some"), 2.0, 0.0)
    write.close()
    (tmp_path / "counter_1.db").touch()
    assert b"a_total 2.0" in Metrics().exposition()
