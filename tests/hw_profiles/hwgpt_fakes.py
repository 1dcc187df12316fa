"""A small benchmark in HW-GPT-Bench's two forms: a git repository of raw pickles, and the tidy tables made of them."""

import math
import pickle
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hw_profiles.importers.hwgpt_protocol import bucket_of
from supernet.spaces import load_space

GPUS = {"p100": "P100", "a100": "a100", "a40": "a40", "a6000": "a6000", "h100": "h100", "rtx2080": "rtx2080",
        "rtx3080": "rtx3080", "v100": "v100"}  # fmt: skip
CPUS = {"cpu_xeon_silver": "cpu_mlgpu", "cpu_xeon_gold": "cpu_meta", "cpu_amd_7502": "cpu_alldlc",
        "cpu_amd_7513": "helix_cpu", "cpu_amd_7452": "cpu_a6000", "cpu_p100_host": "cpu_p100"}  # fmt: skip
NO_CODECARBON = ("p100", "cpu_p100_host")


def config(scale, rng):
    """Draw an architecture as upstream writes it: lists as long as the supernet, whatever the number of layers."""
    space = load_space(f"gpt-{scale}")
    depth = int(rng.choice(space.n_layer))
    return {
        "sample_embed_dim": int(rng.choice(space.n_embd)), "sample_n_layer": depth,
        "sample_layer_indices": list(range(depth)),
        "sample_n_head": rng.choice(space.n_head, space.max_layer).tolist(),
        "sample_mlp_ratio": rng.choice(space.mlp_ratio, space.max_layer).tolist(),
        "sample_bias": bool(rng.random() < 0.5),
    }  # fmt: skip


def canonical_of(scale, arch):
    n = arch["sample_n_layer"]
    lists = [*arch["sample_mlp_ratio"][:n], *arch["sample_n_head"][:n]]
    return "-".join(map(str, ["gpt", scale, n, arch["sample_embed_dim"], *lists, arch["sample_bias"]]))


class FakeBenchmark:
    """Raw observations of n architectures of a scale on all devices."""

    def __init__(self, scale="m", n=60, seed=0):
        self.rng, self.scale = np.random.default_rng(seed), scale
        self.archs = [config(scale, self.rng) for _ in range(n)]
        self.suffix = "" if scale == "s" else f"_{scale}"
        self.latency = {name: [self._latency(name) for _ in self.archs] for name in (*GPUS, *CPUS)}
        self.tracker = {name: [self._tracker() for _ in self.archs] for name in GPUS}
        self.memory = {
            name: [{"arch": None, "mean_mem": float(np.float32(self.rng.uniform(100, 900))), "std_mem": 0.0}
                   for _ in self.archs]
            for name in ("a100", "rtx2080")
        }  # fmt: skip
        self.quality = [
            {"accuracy": float(np.float32(0.4)), "perplexity": float(np.float32(self.rng.uniform(20, 40)))}
            for _ in range(2 * n // 3)
        ]
        for rows in (*self.latency.values(), *self.tracker.values(), *self.memory.values(), self.quality):
            for arch, row in zip(self.archs, rows, strict=False):
                row["arch"] = arch

    def n_runs(self, device):
        return 1 if (self.scale, device) == ("s", "cpu_amd_7513") else 10

    def _latency(self, device):
        kind, other = ("cpu", "gpu") if device in CPUS else ("gpu", "cpu")
        runs = self.n_runs(device)
        values, units = np.round(self.rng.uniform(10, 30, runs), 3).tolist(), ["ms"] * runs
        if kind == "cpu":  # printed coarsely: some of an architecture's repeats in s, others in ms
            units = self.rng.choice(["s", "ms"], runs).tolist()
            values = [
                round(v / 25, 2) if unit == "s" else round(v * 40, 0) for v, unit in zip(values, units, strict=True)
            ]
        energy = 0.0 if device in NO_CODECARBON else self.rng.uniform(0.01, 0.02)
        return {
            f"times_profiler_{kind}": values, f"unit_{kind}": units, f"times_profiler_{other}": [], f"unit_{other}": [],
            f"{kind}_lat": np.mean(values), f"{other}_lat": None, "flops": 7, "macs": 3, "params": 2,
            f"mean_energy_{kind}": np.float64(energy), f"std_energy_{kind}": np.float64(energy / 7 if runs > 1 else 0),
            f"mean_energy_{other}": None, f"std_energy_{other}": None, "unit_energy": "Wh", "unit": "kgCO2",
        }  # fmt: skip

    def _tracker(self):
        energy = self.rng.uniform(0.001, 0.02, 50)
        return {"energy_gpu": energy.tolist(), "emissions_gpu": (energy * 1e4).tolist(), "unit_energy": "KWh",
                "mean_energy_gpu": np.mean(energy), "energy_cpu": [], "unit": "W"}  # fmt: skip

    @property
    def kept(self):
        """arch_ids outside the hold-out bucket."""
        return [i for i, arch in enumerate(self.archs) if bucket_of(canonical_of(self.scale, arch)) != 0]

    # --- raw files -----------------------------------------------------------------------------------------------

    def write_raw(self, root, *, with_list=True):
        """Write the pickles, each kind in pieces; a6000 in another order and with 17 networks of another space."""
        half = len(self.archs) // 2
        for device, folder in (GPUS | CPUS).items():
            rows = self.latency[device]
            if device == "a6000":
                foreign = FakeBenchmark.__new__(FakeBenchmark)
                foreign.rng, foreign.scale = np.random.default_rng(9), self.scale
                other = "s" if self.scale != "s" else "m"
                extra = [foreign._latency("a6000") | {"arch": config(other, foreign.rng)} for _ in range(17)]
                rows = [*extra, *rows[::-1]]
            self._write(root, f"latency_{folder}{self.suffix}/efficiency_observations", rows, half)
            if device in GPUS:
                name = f"latency_{folder}{self.suffix}/efficiency_energy_observations"
                self._write(root, f"{name}_tracker", self.tracker[device], half)
                self._write(root, name, [{"anything": "an earlier, partial series"}], 1)
        for device, rows in self.memory.items():
            self._write(root, f"mem_{device}{self.suffix}/efficiency_observations", rows, len(rows))
        self._write(root, f"arch_ppl_bench_{self.scale}/ppl_observations_tracker", self.quality, half)
        if with_list:
            path = Path(root) / ("sampled_archs.pkl" if self.scale == "s" else f"sampled_archs_{self.scale}.pkl")
            path.write_bytes(pickle.dumps(self.archs))

    def _write(self, root, name, rows, size):
        for start in range(0, len(rows), size):
            path = Path(root) / f"{name}_{start}_{start + size}.pkl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(rows[start : start + size]))

    # --- tidy tables ---------------------------------------------------------------------------------------------

    def write_tidy(self, folder):
        """Write the tables as they were published: 32-bit floats, energies of 13 bits, without the hold-out."""
        folder, kept, L = Path(folder), self.kept, load_space(f"gpt-{self.scale}").max_layer
        folder.mkdir(parents=True, exist_ok=True)

        def write(kind, columns):
            pq.write_table(pa.table(columns), folder / f"{kind}_{self.scale}.parquet")

        archs = [self.archs[i] for i in kept]
        depth = np.array([arch["sample_n_layer"] for arch in archs])
        layers = {
            f"{ours}_{i:02}": np.where(i < depth, [arch[theirs][i] for arch in archs], 0).astype(np.int8)
            for ours, theirs in (("n_head", "sample_n_head"), ("mlp_ratio", "sample_mlp_ratio")) for i in range(L)
        }  # fmt: skip
        write("architectures", {
            "arch_id": np.array(kept, np.int32),
            "embed_dim": np.array([a["sample_embed_dim"] for a in archs], np.int16),
            "n_layer": depth.astype(np.int8), "bias": np.array([a["sample_bias"] for a in archs]), **layers,
        })  # fmt: skip
        write("latency", self._long((*GPUS, *CPUS), lambda d, i: {"latency_ms_repeats": self._ms(d, i)}))
        write(
            "energy_gpu", self._long(GPUS, lambda d, i: {"energy_wh_repeats": bits13(self.tracker[d][i]["energy_gpu"])})
        )
        write("energy_codecarbon", self._long(
            [d for d in (*GPUS, *CPUS) if d not in NO_CODECARBON],
            lambda d, i: {f"energy_wh_{k}": np.float32(self.latency[d][i][f"{k}_energy_{kind_of(d)}"])
                          for k in ("mean", "std")},
        ))  # fmt: skip
        memory = {"bfloat16_memory_mb": "a100", "float16_memory_mb": "rtx2080"}
        write("memory", {"arch_id": np.array(kept, np.int32)} | {
            name: np.array([self.memory[d][i]["mean_mem"] for i in kept], np.float32) for name, d in memory.items()
        })  # fmt: skip
        measured = [i for i in kept if i < len(self.quality)]
        write("perplexity", {"arch_id": np.array(measured, np.int32)} | {
            name: np.array([self.quality[i][name] for i in measured], np.float32) for name in ("perplexity", "accuracy")
        })  # fmt: skip
        return folder

    def _long(self, devices, row):
        rows = [{"arch_id": i, "device": device} | row(device, i) for device in devices for i in self.kept]
        columns = {name: [r[name] for r in rows] for name in rows[0]}
        floats = {"latency_ms_repeats": pa.list_(pa.float32()), "energy_wh_repeats": pa.list_(pa.float32(), 50)}
        return {name: pa.array(values, floats.get(name)) for name, values in columns.items()}

    def _ms(self, device, i):
        row, kind = self.latency[device][i], "cpu" if device in CPUS else "gpu"
        pairs = zip(row[f"times_profiler_{kind}"], row[f"unit_{kind}"], strict=True)
        return [float(np.float32(v * 1000 if unit == "s" else v)) for v, unit in pairs]


def kind_of(device):
    return "cpu" if device in CPUS else "gpu"


def bits13(values):
    """Round to the nearest fraction with 13 significant bits, exactly."""
    found = []
    for value in values:
        step = Fraction(2) ** (math.frexp(value)[1] - 13)
        found.append(float(round(Fraction(value) / step) * step))
    return found


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def clone_with_history(folder, benchmarks):
    """Make a repository that had the raw files once and removed them later; return the commit that has them."""
    root = Path(folder) / "raw_results_hw"
    root.mkdir(parents=True)
    git(folder, "init", "-q")
    for benchmark in benchmarks:
        benchmark.write_raw(root)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "raw files")
    commit = git(folder, "rev-parse", "HEAD")
    git(folder, "rm", "-rq", "raw_results_hw")
    (Path(folder) / "README.md").write_text("no data here")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "without them")
    return commit
