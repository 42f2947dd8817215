"""LoadGen's logs are read as it writes them; what is missing is an error, never a zero."""

import json

import pytest

from dynvid.benchmarks.mlperf.log import ACCURACY, ANSWER, DETAIL, LogError, Logged, read_answers, read_verdict

LATENCIES = {
    "result_mean_latency_ns": 1445739, "result_50.00_percentile_latency_ns": 1193276,
    "result_90.00_percentile_latency_ns": 2173762, "result_99.00_percentile_latency_ns": 3456219,
}  # fmt: skip
SERVER = {
    "generated_query_count": 700, "generated_samples_per_query": 1, "result_validity": "VALID", "early_stopping_met": True,
    "early_stopping_result": " * Run successful.", "result_query_count": 700, "result_scheduled_samples_per_sec": 293.56,
    "result_completed_samples_per_sec": 293.41, **LATENCIES, "num_errors": 0,
}  # fmt: skip


def write(folder, entries):
    """Write a detail log; ``entries`` are pairs of key and value."""
    lines = [
        f":::MLLOG {json.dumps({'key': key, 'value': value, 'time_ms': 0.1, 'metadata': {'pid': 1}})}"
        for key, value in entries
    ]
    (folder / DETAIL).write_text("\n".join(["a line of another kind", *lines, ""]))


def test_the_figures_of_a_server_run(tmp_path):
    write(tmp_path, SERVER.items())
    found = read_verdict(tmp_path)
    assert (found.validity, found.reason, found.samples, found.samples_per_s) == ("VALID", None, 700, 293.41)
    assert (found.mean_ms, found.p50_ms, found.p90_ms, found.p99_ms) == (1.445739, 1.193276, 2.173762, 3.456219)


@pytest.mark.parametrize("key", ["result_samples_per_second", "result_qps_with_loadgen_overhead"])
def test_the_rate_of_the_other_scenarios(tmp_path, key):
    entries = {**SERVER, key: 911.222}
    del entries["result_completed_samples_per_sec"]
    write(tmp_path, entries.items())
    assert read_verdict(tmp_path).samples_per_s == 911.222


def test_one_offline_query_holds_all_samples(tmp_path):
    write(tmp_path, {**SERVER, "result_query_count": 1, "generated_samples_per_query": 1320}.items())
    assert read_verdict(tmp_path).samples == 1320


def test_every_reason_is_given(tmp_path):
    changed = {
        **SERVER, "result_validity": "INVALID", "early_stopping_met": False, "num_errors": 2,
        "early_stopping_result": " * Run unsuccessful.\n * Processed 700 queries.",
    }  # fmt: skip
    reasons = [("result_invalid_reason", "Reduce target QPS. "), ("result_invalid_reason", "Increase min_duration.")]
    write(tmp_path, [*changed.items(), *reasons])
    found = read_verdict(tmp_path)
    assert found.validity == "INVALID"
    assert found.reason == (
        "Reduce target QPS. Increase min_duration. * Run unsuccessful. * Processed 700 queries. "
        "2 errors in mlperf_log_detail.txt"
    )


@pytest.mark.parametrize("key", ["result_validity", "result_query_count", "result_99.00_percentile_latency_ns"])
def test_a_log_without_a_figure_is_refused(tmp_path, key):
    write(tmp_path, [(name, value) for name, value in SERVER.items() if name != key])
    with pytest.raises(LogError, match=f"has no {key}"):
        read_verdict(tmp_path)


def test_a_torn_or_missing_log_is_refused(tmp_path):
    with pytest.raises(LogError, match="mlperf_log_detail.txt cannot be read"):
        read_verdict(tmp_path)
    write(tmp_path, SERVER.items())
    (tmp_path / DETAIL).write_text((tmp_path / DETAIL).read_text()[:-40])
    with pytest.raises(LogError, match="mlperf_log_detail.txt cannot be read"):
        read_verdict(tmp_path)


def test_logged_answers(tmp_path):
    entries = [
        {"seq_id": 0, "qsl_idx": 3, "data": ANSWER.pack(7, 2).hex().upper()},
        {"seq_id": 1, "qsl_idx": 0, "data": ANSWER.pack(-1, 1).hex().upper()},
    ]
    (tmp_path / ACCURACY).write_text(json.dumps(entries))
    assert read_answers(tmp_path) == [Logged(3, 7, 2), Logged(0, -1, 1)]


@pytest.mark.parametrize("text", ["", '[{"seq_id": 0, "qsl_idx"', '[{"qsl_idx": 0, "data": "00"}]', '[{"data": "00"}]'])
def test_answers_that_are_not_whole_are_refused(tmp_path, text):
    (tmp_path / ACCURACY).write_text(text)
    with pytest.raises(LogError, match="mlperf_log_accuracy.json cannot be read"):
        read_answers(tmp_path)
