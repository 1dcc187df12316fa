"""A made-up pruning report with a bit of everything."""

from pruning.report_data import (
    BudgetLine,
    CommandLine,
    ExportLine,
    Network,
    PredictedLatency,
    PruneReport,
    TaskScore,
    TextSample,
)
from supernet.architecture import Architecture

DENSE = Architecture.uniform(
    n_embd=576, n_layer=30, n_head=9, n_query_groups=3, intermediate_size=1536, bias=False
)  # fmt: skip
BASELINES = {
    "Wanda-sp": (0.75, 134.5), "FLAP + bias": (0.748, 85.7), "ShortGPT": (0.752, 78.2), "magnitude": (0.744, 1e6),
    "uniform OBS + LS": (0.751, 51.4), "layer drop": (0.747, 53.0), "random": (0.75, 2768.0),
}  # fmt: skip


def pruned_architecture():
    """Return a network of 28 of 30 blocks, two of them without attention and one without an MLP."""
    layers = tuple(i for i in range(30) if i not in (11, 24))
    heads = [9 if i % 3 else 6 for i in range(28)]
    groups = [3 if h == 9 else 2 for h in heads]
    heads[5] = groups[5] = heads[20] = groups[20] = 0
    neurons = [1536 - 64 * (i % 9) for i in range(28)]
    neurons[8] = 0
    return Architecture(576, tuple(heads), tuple(groups), tuple(neurons), layers, bias=False)


def example_report():
    """Return a report of SmolLM2's shape with invented numbers."""
    text, other = "WikiText-2 test", "tiny Shakespeare"
    networks = [
        Network("dense", "dense", 3.09, {text: 22.08, other: 48.1}, 1.0, 0.99, 1.01, 83.4, 6139.0, 134_515_008,
                513.1, 22.5),
        Network("ours", "ours", 3.79, {text: 44.3, other: 88.9}, 0.742, 0.735, 0.751, 61.9, 8271.0, 98_304_000,
                375.0, 17.3),
    ]  # fmt: skip
    networks += [Network(name, name, None, {text: ppl}, ratio, ratio - 0.006, ratio + 0.005, 83.4 * ratio)
                 for name, (ratio, ppl) in BASELINES.items()]  # fmt: skip
    networks += [Network(f"candidate {i}", "candidates", None, {text: 40 + 3.1 * i}, 0.70 + 0.011 * i, in_table=False)
                 for i in range(8)]  # fmt: skip
    predictions = [
        PredictedLatency(0.4 + 0.03 * i, (0.4 + 0.03 * i) * (1 + 0.03 * (-1) ** i), 0.44 + 0.03 * i) for i in range(18)
    ]
    predictions += [PredictedLatency(0.74 + 0.002 * i, 0.745 - 0.002 * i, 0.76, "candidate") for i in range(4)]
    predictions.append(PredictedLatency(0.744, 0.742, 0.75, "result"))
    return PruneReport(
        model="smollm2-135m", dense=DENSE, pruned=pruned_architecture(), workload="prefill-b1-t512-bfloat16",
        device="intel-xeon-2t", latency_limit=0.75, networks=tuple(networks), texts=(text, other),
        budget=(BudgetLine("latency (ms)", "-25%", 62.6, 62.1, 61.9),
                BudgetLine("throughput (tokens/s)", "8000", 8000, 8200, 8271, higher_is_better=True)),
        predictions=tuple(predictions),
        samples=(TextSample("The capital of France is", " Paris, a city of <light> & art.", " the city of Paris."),),
        scores=(TaskScore("piqa", "acc", 0.645, 0.601),),
        exports=(ExportLine("hf", "out/hf", "PrunedLlamaForCausalLM",
                            'AutoModelForCausalLM.from_pretrained("out/hf", trust_remote_code=True)', 98_304_000,
                            3e-5),),
        commands=(CommandLine("prune", "paretolm prune model=smollm2-135m budget.latency=-25%"),),
        versions={"torch": "9.9.9"}, facts={"calibration": "WikiText-2 valid, 32 x 512 tokens"},
        seconds={"collection": 75.2, "search": 7300.0}, made="2026-01-02T03:04:05+00:00",
        notes=("Numbers are invented.",),
    )  # fmt: skip
