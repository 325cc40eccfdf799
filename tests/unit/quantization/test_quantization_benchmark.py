import json

import torch

from benchmarks.quantization import main


def test_the_benchmark_prints_its_figures(capsys):
    threads = torch.get_num_threads()
    try:
        main(["--json", "--models", "HAR conv1d", "--inputs", "20", "--repeats", "2"])
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out)
    (model,) = figures["models"]
    assert model["max_abs_logit_difference"] == 0.0
    assert model["size_ratio"] <= 0.28
    assert model["speedup"] > 0
    assert {one["model"] for one in figures["training"]} == {"LeNet", "HAR conv1d"}
