from app.metrics import MODEL_ROUTES, MODELS
from app.settings import Settings
from benchmarks.traffic import BURST, FLOWS, MOST_SENTENCES
from export.parity import SENTENCES


def test_every_route_that_runs_a_model_gets_traffic():
    starts = [route.partition("{")[0] for route in MODEL_ROUTES]
    assert not [start for start in starts if not any(flow.path.startswith(start) for flow in FLOWS)]


def test_both_models_get_requests_of_like_size_so_that_their_latencies_compare():
    asked = {flow.body(SENTENCES).get("model", "student"): flow.most for flow in FLOWS[:2]}
    assert asked.keys() == set(MODELS)
    assert len(set(asked.values())) == 1


def test_a_burst_is_more_than_the_queue_takes_and_each_request_of_it_is_allowed():
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    assert settings["max_sentences"] >= MOST_SENTENCES
    words = sum(len(sentence.split()) for sentence in SENTENCES) / len(SENTENCES)
    assert BURST * MOST_SENTENCES * words > settings["queue_tokens"]
