"""Leave-one-device-out study of `paretolm adapt` on HW-GPT-Bench: how well n measurements of a new device do.

Every device is held out in turn. The sources are models of the other devices: for each width a line in the numbers of
blocks of each kind, fitted to the training rows (hash buckets 2 to 9) of that device alone, so nothing of the held-out
device is in them (a joint model such as the shipped one would have seen it). n training rows of the held-out device are
taken as they were published, and the result is scored on its rows of bucket 1, also as published.

python benchmarks/run_adaptation.py --data ../shared/hwgpt_bench --output benchmarks/results/adaptation
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hw_profiles.device import current_device
from supernet.artifacts import versions, write_json, write_text
from supernet.spaces import load_space
from surrogates.adapt import fit_blend
from surrogates.adaptation_models import FLOOR
from surrogates.adaptation_terms import DeviceFeatures, costs
from surrogates.calibration import ResidualQuantiles
from surrogates.design import choose
from surrogates.layer_features import LayerFeatures
from surrogates.models import LinearSurrogate
from surrogates.validation import rank_correlations

LINEAR = "linear_by_width"  # LinearSurrogate of `paretolm fit`, from scratch
WAYS = ("blend", "source", "source_unit", "nonnegative", "sources", "sources_and_costs", "scratch", LINEAR)
DESIGNS = ("random", "farthest_point", "d_optimal")
MWH_TO_MJ = 3.6e6  # watt-hours to millijoules
POOL = 500  # training rows of a draw that a design chooses from


class Scale(NamedTuple):
    name: str
    widths: tuple[int, ...]
    features: np.ndarray  # (n, 5)
    train: np.ndarray  # (n,) bool
    test: np.ndarray
    values: dict[tuple[str, str], np.ndarray]  # metric, device -> (n,)
    models: dict[tuple[str, str], np.ndarray]  # the same, predicted by a model of that device alone


# --- data ---------------------------------------------------------------------------------------------------------


def load_scale(folder: Path, name: str) -> Scale:
    space = load_space(f"gpt-{name}")
    archs = pd.read_parquet(folder / f"architectures_{name}.parquet").set_index("arch_id").sort_index()
    layers = LayerFeatures(space)
    genes = layers.check(genes_of_rows(archs, space))
    bucket = np.array([bucket_of(name, row) for row in archs.to_dict("records")])
    values = {}
    for metric, file, column, unit in (
        ("latency_ms", f"latency_{name}", "latency_ms_median", 1.0),
        ("energy_mj", f"energy_gpu_{name}", "energy_wh_median", MWH_TO_MJ),
    ):
        rows = pd.read_parquet(folder / f"{file}.parquet", columns=["arch_id", "device", column])
        table = rows.pivot(index="arch_id", columns="device", values=column).loc[archs.index]
        values |= {(metric, str(device)): table[device].to_numpy(float) * unit for device in table}
    train = bucket >= 2
    models = {key: device_model(layers, genes, y, train) for key, y in values.items()}
    return Scale(name, space.n_embd, DeviceFeatures(space)(genes), train, bucket == 1, values, models)


def genes_of_rows(archs: pd.DataFrame, space: Any) -> np.ndarray:
    heads, ratios = archs.filter(like="n_head_").to_numpy(), archs.filter(like="mlp_ratio_").to_numpy()
    columns = [
        np.searchsorted(space.n_embd, archs["embed_dim"])[:, None],
        np.searchsorted(space.bias_choices, archs["bias"].astype(bool))[:, None],
        np.searchsorted(space.n_layer, archs["n_layer"])[:, None],
        np.searchsorted(space.n_head, heads), np.searchsorted(space.mlp_ratio, ratios),
    ]  # fmt: skip
    return np.concatenate(columns, axis=1).astype(np.int64)


def bucket_of(scale: str, row: dict[str, Any]) -> int:
    layers = range(row["n_layer"])
    genes = [row[f"mlp_ratio_{i:02}"] for i in layers] + [row[f"n_head_{i:02}"] for i in layers]
    text = "-".join(map(str, [f"gpt-{scale}", row["n_layer"], row["embed_dim"], *genes, bool(row["bias"])]))
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10


def device_model(layers: LayerFeatures, genes: np.ndarray, y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return predictions (n,) by a line for each width; relative residuals count absolutely (reweighted squares)."""
    X = np.concatenate([np.ones((len(genes), 1)), layers.linear(genes)], axis=1)
    predicted = np.empty(len(y))
    for width in np.unique(layers.widths(genes)):
        rows = layers.widths(genes) == width
        known = rows & train
        weight = 1 / y[known]
        for _ in range(8):
            coef = np.linalg.lstsq(X[known] * weight[:, None], y[known] * weight, rcond=None)[0]
            error = np.abs(y[known] / (X[known] @ coef) - 1)
            weight = 1 / y[known] / np.sqrt(np.maximum(1, error / (1.5 * np.median(error))))
        predicted[rows] = X[rows] @ coef
    return predicted


# --- one adaptation -----------------------------------------------------------------------------------------------


def sources_of(scale: Scale, metric: str, device: str, *, energy_only: bool) -> np.ndarray:
    kinds = ("energy_mj",) if energy_only else ("energy_mj", "latency_ms")
    kinds = kinds if metric == "energy_mj" else ("latency_ms",)
    return np.column_stack([m for (kind, other), m in scale.models.items() if kind in kinds and other != device])


def adapted(scale: Scale, sources: np.ndarray, y: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Fit to `rows`, score on the test bucket."""
    test = np.flatnonzero(scale.test)
    blend, found, _ = fit_blend(sources[rows], scale.features[rows], y[rows], widths=scale.widths)
    table = blend.terms(sources[test], scale.features[test])
    predicted = {}
    for way in found[:-1]:
        predicted[way.name] = table @ way.coef
        if way.log_affine:
            predicted[way.name] = np.exp(way.log_affine[0] + way.log_affine[1] * np.log(sources[test, way.source]))
    predicted["blend"] = blend.predict(sources[test], scale.features[test])
    X = np.column_stack([costs(scale.features), scale.features[:, 0]])
    linear = LinearSurrogate(columns=tuple(range(X.shape[1] - 1)), by=X.shape[1] - 1).fit(X[rows], y[rows])
    predicted[LINEAR] = linear.predict(X[test]).mean
    bounded = {name: np.maximum(p, FLOOR * y[rows].min()) for name, p in predicted.items()}
    result: dict[str, Any] = {
        "mape": {name: 100 * float(np.abs(p / y[test] - 1).mean()) for name, p in bounded.items()},
        "kendall": {name: rank_correlations(y[test], p)[0] for name, p in bounded.items()},
    }
    picked = min(found[:-1], key=lambda way: way.loo_error(y[rows]))
    result["mape"]["winner"] = result["mape"][picked.name]
    result["loo_mape"] = 100 * found[-1].loo_error(y[rows])
    if len(rows) >= 19:
        bounds = ResidualQuantiles.of(y[rows], found[-1].loo).predict(bounded["blend"], (0.05, 0.95)).quantiles
        assert bounds is not None
        result["coverage90"] = float(((bounds[:, 0] <= y[test]) & (y[test] <= bounds[:, 1])).mean())
        result["width90"] = 100 * float(np.median((bounds[:, 1] - bounds[:, 0]) / bounded["blend"]))
    return result


def study(scale: Scale, metric: str, options: argparse.Namespace, *, energy_only: bool = False) -> Iterator[dict]:
    train = np.flatnonzero(scale.train)
    for number, (kind, device) in enumerate(scale.values):
        if kind != metric:
            continue
        y, sources = scale.values[kind, device], sources_of(scale, kind, device, energy_only=energy_only)
        for n in options.n:
            for draw in range(options.draws):
                rng = np.random.default_rng([draw, n, number])
                pool = rng.permutation(train)[: max(POOL, n)]
                for design in options.designs:
                    chosen = choose(
                        scale.features[pool], n, measured=scale.features[:0], method=design, widths=scale.widths,
                        rng=np.random.default_rng([draw, n, number]),
                    )  # fmt: skip
                    facts = {"scale": scale.name, "metric": metric, "device": device, "n": n, "draw": draw}
                    facts |= {"design": design, "energy_only": energy_only}
                    yield facts | adapted(scale, sources, y, pool[chosen])


# --- tables -------------------------------------------------------------------------------------------------------


def group_of(row: dict[str, Any]) -> str:
    kind = "CPU" if row["device"].startswith("cpu") else "GPU"
    alone = ", sources: energy only" if row["energy_only"] else ""
    return f"{kind} {row['metric']}{alone}"


def markdown(rows: Sequence[dict[str, Any]], command: str, machine: str) -> str:
    frame = pd.DataFrame([{**r, "group": group_of(r), **{f"m_{k}": v for k, v in r["mape"].items()},
                           **{f"k_{k}": v for k, v in r["kendall"].items()}} for r in rows])  # fmt: skip
    ways = ["blend", "winner", *(way for way in WAYS if way != "blend")]
    parts = [__doc__.split("\n\npython")[0], f"`{command}`, {machine}.", "## MAPE in percent, random rows",
             "Median over scales, devices and draws. blend: what is shipped; winner: the single way with the least "
             "leave-one-out error; source: best source, affine in logs; source_unit: affine in the unit; nonnegative: "
             "nonnegative sum of sources; sources: all of them, penalised; sources_and_costs: with exact costs; "
             f"scratch: exact costs alone; {LINEAR}: `LinearSurrogate` of `paretolm fit`."]  # fmt: skip
    plain = frame[frame["design"] == "random"]
    head = ["", "n", *ways, "Kendall blend", "Kendall scratch", "coverage of 90 %", "its width %"]
    lines = [
        [group, n, *(f"{part[f'm_{way}'].median():.2f}" for way in ways), f"{part['k_blend'].mean():.3f}",
         f"{part['k_scratch'].mean():.3f}", f"{part['coverage90'].mean():.3f}", f"{part['width90'].median():.1f}"]
        for (group, n), part in plain.groupby(["group", "n"], sort=False)
    ]  # fmt: skip
    parts += [grid(head, lines), "## Against training from scratch, random rows",
              "Mean MAPE over the draws of a cell (scale, device, n): blend / scratch."]  # fmt: skip
    lines = []
    for (group, n), part in plain.groupby(["group", "n"], sort=False):
        cell = part.groupby(["scale", "device"])[["m_blend", "m_scratch"]].mean()
        ratio = cell["m_blend"] / cell["m_scratch"]
        worst = ratio.idxmax()
        lines.append([group, n, len(ratio), f"{np.exp(np.log(ratio).mean()):.3f}", int((ratio > 1).sum()),
                      int((ratio > 1.05).sum()), f"{ratio.max():.2f} ({worst[1]}, {worst[0]}: "
                      f"{cell['m_blend'][worst]:.2f} % and {cell['m_scratch'][worst]:.2f} %)"])  # fmt: skip
    parts += [grid(["", "n", "cells", "geometric mean", "above 1", "above 1.05", "largest"], lines)]
    parts += ["## Which rows to measure", "Median MAPE of the blend over scales, devices and draws, in percent; each "
              f"design chooses from the same {POOL} random training rows."]  # fmt: skip
    medians = frame.pivot_table(index=["group", "n"], columns="design", values="m_blend", aggfunc="median", sort=False)
    means = frame.pivot_table(index=["group", "n"], columns="design", values="m_blend", aggfunc="mean", sort=False)
    covered = frame.pivot_table(index=["group", "n"], columns="design", values="coverage90", aggfunc="mean", sort=False)
    designs = list(medians.columns)
    lines = [[g, n, *(f"{medians[d][g, n]:.2f}" for d in designs), *(f"{means[d][g, n]:.2f}" for d in designs),
              *(f"{covered[d].get((g, n), np.nan):.3f}" for d in designs)] for g, n in medians.index]  # fmt: skip
    head = ["", "n", *designs, *(f"mean, {d}" for d in designs), *(f"coverage, {d}" for d in designs)]
    parts += [grid(head, lines), "## Every device at n = 20, random rows", "Mean MAPE over draws, percent."]
    few = plain[(plain["n"] == 20) & ~plain["energy_only"]]
    keys = ["metric", "device", "scale"]
    cell = few.groupby(keys, sort=False)[["m_blend", "m_source", "m_scratch", "k_blend", "coverage90"]].mean()
    lines = [[*key, f"{c.m_blend:.2f}", f"{c.m_source:.2f}", f"{c.m_scratch:.2f}", f"{c.k_blend:.3f}",
              f"{c.coverage90:.3f}"] for key, c in cell.iterrows()]  # fmt: skip
    head = ["metric", "device", "scale", "blend", "best source", "scratch", "Kendall blend", "coverage of 90 %"]
    return "\n\n".join([*parts, grid(head, lines)]) + "\n"


def grid(head: Sequence[Any], lines: Sequence[Sequence[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return CSV lines, a head and one for each cell, with means over draws."""
    frame = pd.DataFrame([
        {name: row[name] for name in ("scale", "metric", "device", "n", "design", "energy_only")}
        | {f"mape_{way}": value for way, value in row["mape"].items()}
        | {f"kendall_{way}": row["kendall"][way] for way in ("blend", "scratch")}
        | {name: row.get(name) for name in ("loo_mape", "coverage90", "width90")}
        for row in rows
    ])  # fmt: skip
    keys = ["scale", "metric", "device", "n", "design", "energy_only"]
    return frame.groupby(keys, sort=False).mean().reset_index().to_csv(index=False, float_format="%.4g").splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/hwgpt_bench"))
    parser.add_argument("--scales", default="sml")
    parser.add_argument("--n", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=DESIGNS)
    parser.add_argument("--output", default=None, help="path without ending: .json and .md are written")
    options = parser.parse_args()
    started, rows = time.perf_counter(), []
    for name in options.scales:
        scale = load_scale(options.data, name)
        rows += [*study(scale, "latency_ms", options), *study(scale, "energy_mj", options)]
        rows += study(scale, "energy_mj", argparse.Namespace(**{**vars(options), "designs": ["random"]}),
                      energy_only=True)  # fmt: skip
        print(f"gpt-{name}: {len(rows)} adaptations, {time.perf_counter() - started:.0f} s", flush=True)
    command = (
        f"python benchmarks/run_adaptation.py --scales {options.scales} --n {' '.join(map(str, options.n))} "
        f"--draws {options.draws} --designs {' '.join(options.designs)}"
    )
    card = current_device("cpu").card
    text = markdown(rows, command, f"{datetime.now(UTC).date()}, {card['cpu']}, {card['physical_cores']} cores")
    print(text)
    if options.output:
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": command,
            "machine": card,
            "versions": versions(),
            "seconds": time.perf_counter() - started,
            "means_over_draws": cells(rows),
        }
        write_json(f"{options.output}.json", result)
        write_text(f"{options.output}.md", f"# Leave-one-device-out adaptation\n\n{text}")


if __name__ == "__main__":
    main()
