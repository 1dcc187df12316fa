import io
import json

import pytest
import torch
from litgpt import Config
from measuring_fakes import CONFIG, WORKLOAD, arch

from hw_profiles import worker
from hw_profiles.child import Child, ChildError, child_environment
from hw_profiles.device import Workload
from hw_profiles.exact import exact_value
from hw_profiles.messages import WorkerSetup
from hw_profiles.worker import TimedSession, model_builder, serve
from supernet.checkpoint import save_supernet
from supernet.cost import parameter_count
from supernet.huge_pages import VARIABLE, in_use, is_possible
from supernet.litgpt_config import model_config
from supernet.model import Supernet


def setup(**changes):
    values = {"config": CONFIG, "workload": WORKLOAD, "metrics": ("latency_ms",), "repeats": 3, "warmup": 1,
              "reference": arch().id}  # fmt: skip
    return WorkerSetup(**(values | changes))


def served(*requests):
    replies = io.StringIO()
    threads = torch.get_num_threads()
    try:
        serve(io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), replies)
    finally:
        torch.set_num_threads(threads)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_a_setup_survives_its_way_through_json():
    sent = setup(workload=Workload(2, 1, phase="decode", cache_len=4), metrics=("latency_ms", "energy_mj"))
    assert WorkerSetup.from_dict(json.loads(json.dumps(sent.to_dict()))) == sent


def test_the_worker_samples_network_and_reference_and_derives_throughput():
    ready, reply = served(
        {"setup": setup(metrics=("latency_ms", "tokens_per_s")).to_dict()}, {"architecture": arch(n_embd=32).id}
    )
    assert ready == {"ready": True}
    latency, rate = reply["samples"]["latency_ms"], reply["samples"]["tokens_per_s"]
    for name in ("repeats", "reference_repeats"):
        assert len(latency[name]) == 3
        assert [8e3 / ms for ms in latency[name]] == pytest.approx(rate[name])


def test_a_request_that_fails_is_answered_and_the_next_one_is_served():
    replies = served({"setup": setup().to_dict()}, {"architecture": "nonsense"}, {"architecture": arch(n_embd=32).id})
    assert replies[1]["error"].startswith("ValueError: 'nonsense' is no architecture id")
    assert len(replies[2]["samples"]["latency_ms"]["repeats"]) == 3


def test_a_setup_that_fails_is_answered_with_its_reason():
    (reply,) = served({"setup": setup(workload=Workload(1, 65)).to_dict()})
    assert "needs 65 positions" in reply["error"]
    (reply,) = served({"setup": setup(metrics=("latency_ms", "memory_mib")).to_dict()})
    assert "cannot sample ['memory_mib']" in reply["error"]


def test_an_architecture_outside_the_supernet_is_answered_with_the_dimension():
    _, reply = served({"setup": setup().to_dict()}, {"architecture": arch(n_embd=64).id})
    assert reply["error"].startswith("ValueError: n_embd = 64 is not in this supernet")


def test_weights_come_from_a_supernets_folder_and_its_ties_must_be_told(tmp_path):
    supernet = Supernet(Config(**CONFIG), tie_embeddings=True)
    save_supernet(tmp_path / "net", supernet)
    asked = setup(weights=str(tmp_path / "net"), tie_embeddings=True)
    net = model_builder(asked)(arch(), "cpu")
    assert torch.equal(net.lm_head.weight, supernet.lm_head.weight[:, :16])
    assert net.lm_head.weight is net.transformer.wte.weight
    assert len(worker.open_session(asked).measure(arch())["latency_ms"].repeats) == 3
    with pytest.raises(ValueError, match="has tied embeddings: set tie_embeddings=true"):
        model_builder(setup(weights=str(tmp_path / "net")))


def test_latency_is_measured_in_huge_pages_and_memory_is_not(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    timed, sized = child_environment(1), child_environment(1, huge_pages=False)
    assert in_use(timed) == is_possible()
    monkeypatch.setenv(VARIABLE, timed.get(VARIABLE, ""))
    assert not in_use(sized)
    assert not in_use(child_environment(1, huge_pages=False))


def test_threads_are_fixed_in_the_child():
    environment = child_environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    threads = torch.get_num_threads()
    try:
        worker.open_session(setup(threads=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("tied", [True, False])
def test_models_have_the_asked_shape_dtype_and_ties(tied):
    asked = setup(workload=Workload(1, 8, dtype="bfloat16"), tie_embeddings=tied)
    model = model_builder(asked)(arch(n_embd=32, n_layer=2), "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.training
    count = sum(p.numel() for p in model.parameters())
    assert count == parameter_count(model_config(CONFIG), arch(n_embd=32, n_layer=2), tied=tied).total


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (
        model_builder(setup(seed=seed))(arch(), "cpu").lm_head.weight for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_reference_is_built_once_and_measured_every_time():
    built = []
    asked = setup()
    build = model_builder(asked)

    def counting(architecture, device):
        built.append(architecture)
        return build(architecture, device)

    session = TimedSession(asked, counting)
    others = [arch(n_embd=32), arch(n_layer=2)]
    samples = [session.measure(other)["latency_ms"] for other in others]
    assert built == [arch(), *others]
    assert all(len(found.reference_repeats) == 3 for found in samples)


def test_exact_metrics_are_those_of_the_cost_formulas():
    config, net = model_config(CONFIG), arch(n_embd=32, n_layer=2, n_head=4, intermediate_size=64)
    values = {
        name: exact_value(name, config, net, workload=Workload(2, 8))
        for name in ("n_params", "n_params_decoder", "macs", "flops", "kv_cache_mib")
    }
    assert values["n_params"] == sum(p.numel() for p in model_builder(setup())(net, "cpu").parameters())
    assert values["n_params"] - values["n_params_decoder"] == 2 * 32 * 64  # embedding and head
    assert values["flops"] == 2 * values["macs"]
    assert values["kv_cache_mib"] == 2 * 2 * 8 * 32 * 2 * 4 / 2**20  # k and v, B, T, width, layers, bytes
    with pytest.raises(ValueError, match="latency_ms has no closed form"):
        exact_value("latency_ms", config, net, workload=WORKLOAD)


def test_decode_costs_are_those_of_one_token_with_the_cache():
    config, net = model_config(CONFIG), arch()
    step = exact_value("macs", config, net, workload=Workload(1, 1, phase="decode", cache_len=8))
    nine, eight = (exact_value("macs", config, net, workload=Workload(1, n)) for n in (9, 8))
    assert step == nine - eight


@pytest.mark.slow
def test_a_real_child_answers_and_keeps_printing_out_of_its_replies():
    child = Child(setup(metrics=("memory_mib",)))
    try:
        child.wait_until_ready()
        samples = child.measure(arch().id)["memory_mib"].repeats
        with pytest.raises(ChildError, match="no architecture id"):
            child.measure("nonsense")
        assert child.measure(arch().id)["memory_mib"].repeats
    finally:
        child.close()
    weights_mib = parameter_count(model_config(CONFIG), arch()).total * 4 / 2**20
    assert len(samples) == 3
    assert min(samples) >= weights_mib
