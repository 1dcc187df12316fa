"""SubnetAdamW: the selected part moves as in a stand-alone model, the rest not at all."""

import litgpt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from supernet.architecture import Architecture
from supernet.extract import extract
from supernet.model import Supernet
from supernet.optimizer import SubnetAdamW, covering_architecture, trained_selections
from supernet.space import SearchSpace

SPACE = SearchSpace(
    name="t", n_embd=(16, 32), n_layer=(1, 3), n_head=(1, 2, 4, 8), n_query_groups=(1, 2, 4),
    intermediate_size=(8, 48), layer_choice="subset", bias=(True, False),
    config={"head_size": 8, "vocab_size": 64, "padded_vocab_size": 64, "block_size": 16, "mlp_class_name": "LLaMAMLP"},
)  # fmt: skip


def loss_of(model: torch.nn.Module, idx: torch.Tensor, *args: Architecture) -> torch.Tensor:
    return F.cross_entropy(model(idx, *args).flatten(0, 1), idx.flatten())


@pytest.mark.parametrize("fused", [True, False])
def test_three_steps_on_a_subnet_equal_three_steps_on_the_extracted_model(fused):
    torch.manual_seed(0)
    supernet = Supernet(litgpt.Config(**SPACE.config))
    arch = SPACE.sample(np.random.default_rng(3))
    alone = extract(supernet, arch)
    before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    settings = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95), "fused": fused}
    ours = SubnetAdamW(supernet.parameters(), **settings)
    reference = torch.optim.AdamW(alone.parameters(), **settings)
    for _ in range(3):
        idx = torch.randint(64, (2, 12))
        for optimizer, model, args in ((ours, supernet, (arch,)), (reference, alone, ())):
            optimizer.zero_grad()
            loss_of(model, idx, *args).backward()
            if model is supernet:
                ours.step(selections=trained_selections(supernet, [arch]))
            else:
                reference.step()
    plan, trained = supernet.plan(arch), dict(alone.named_parameters())
    for name, parameter in supernet.named_parameters():
        outside = before[name].clone()
        if name in plan.parameters:
            selection = plan.parameters[name]
            # AdamW divides tiny gradients by their size, and not every CPU adds in the same order
            torch.testing.assert_close(
                selection.select(parameter), trained[plan.subnet_names[name]], rtol=1e-3, atol=5e-4
            )
            selection.assign(outside, selection.select(parameter.detach()))
        assert torch.equal(outside, parameter.detach()), f"{name} moved outside the selection"


def test_a_step_without_selections_is_torchs_adamw():
    torch.manual_seed(0)
    supernet = Supernet(litgpt.Config(**SPACE.config))
    twin = litgpt.GPT(supernet.config)
    twin.load_state_dict(supernet.state_dict())
    idx = torch.randint(64, (2, 12))
    for model, optimizer in (
        (supernet, SubnetAdamW(supernet.parameters())),
        (twin, torch.optim.AdamW(twin.parameters())),
    ):
        loss_of(model, idx).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(supernet.parameters(), twin.parameters(), strict=True))


def test_state_goes_to_torchs_adamw_and_back():
    supernet = Supernet(litgpt.Config(**SPACE.config))
    optimizer = SubnetAdamW(supernet.parameters())
    loss_of(supernet, torch.randint(64, (2, 12)), SPACE.smallest()).backward()
    optimizer.step(selections=trained_selections(supernet, [SPACE.smallest()]))
    plain = torch.optim.AdamW(supernet.parameters())
    plain.load_state_dict(optimizer.state_dict())
    plain.step()
    optimizer.load_state_dict(plain.state_dict())
    assert max(state["step"].item() for state in optimizer.state.values()) == 2


def test_the_covering_architecture_contains_all_and_is_one_of_them_when_nested():
    rng = np.random.default_rng(0)
    config = litgpt.Config(**SPACE.config)
    for _ in range(50):
        archs = [SPACE.sample(rng) for _ in range(3)]
        cover = covering_architecture(archs)
        with torch.device("meta"):
            supernet = Supernet(config)
        whole = supernet.plan(cover).parameters
        for arch in archs:
            for name, selection in supernet.plan(arch).parameters.items():
                assert all(a <= b for a, b in zip(selection.shape, whole[name].shape, strict=True))
        assert covering_architecture([SPACE.largest(), *archs]) == SPACE.largest()
        assert covering_architecture(archs[:1]) == archs[0]


def test_amsgrad_with_selections_is_refused():
    supernet = Supernet(litgpt.Config(**SPACE.config))
    optimizer = SubnetAdamW(supernet.parameters(), amsgrad=True)
    loss_of(supernet, torch.randint(64, (2, 12)), SPACE.smallest()).backward()
    with pytest.raises(ValueError, match="amsgrad"):
        optimizer.step(selections=trained_selections(supernet, [SPACE.smallest()]))
