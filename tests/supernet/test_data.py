"""Data modules: order of batches, exact resume, processes, validation, litgpt's modules."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from litgpt.data import DataModule
from torch.utils.data import DataLoader

from supernet.data import (
    BatchSequence,
    TextDataModule,
    ValidationBatches,
    check_seq_len,
    check_vocab_size,
)
from supernet.litgpt_data import LitGPTDataModule, LitGPTTokenizer
from supernet.text import ByteTokenizer
from supernet.tokens import TokenBlocks, TokenSlice

SEQ_LEN = 8


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(32 + (i * i + i // 7) % 90) for i in range(1000)))
    return path


def data_module(text_file: Path, **settings) -> TextDataModule:
    arguments = {"seq_len": SEQ_LEN, "batch_size": 4, "val_fraction": 0.2, "cache_dir": text_file.parent / "cache"}
    return TextDataModule(text_file, **arguments | settings)


def blocks_of(n: int) -> TokenBlocks:
    return TokenBlocks(TokenSlice(np.arange(n * SEQ_LEN + 1, dtype=np.uint16), None), SEQ_LEN)


class Recorder(pl.LightningModule):
    """Keeps a sum of what it was trained on as its only weight, and every batch in a list."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.tolist())
        return self.weight.sum() * batch.float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, max_steps: int, every: int = 10_000, **settings) -> pl.Trainer:
    save = pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    return pl.Trainer(
        max_steps=max_steps, max_epochs=-1, accelerator="cpu", logger=False, callbacks=[save], limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, **settings,
    )  # fmt: skip


def test_a_pass_gives_every_block_once_in_an_order_of_its_own():
    batches = BatchSequence(blocks_of(20), batch_size=4, seed=1)
    assert batches.batches_per_pass == 5
    passes = [[row for k in range(p * 5, p * 5 + 5) for row in batches[k].tolist()] for p in range(2)]
    expected = blocks_of(20).rows(range(20)).tolist()
    assert sorted(passes[0]) == sorted(passes[1]) == expected
    assert passes[0] != passes[1] != expected


def test_the_order_is_a_function_of_the_seed():
    one, same, other = (BatchSequence(blocks_of(20), batch_size=4, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in range(12))
    assert not all(torch.equal(one[k], other[k]) for k in range(12))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batch_of_a_single_process(world_size):
    whole = BatchSequence(blocks_of(31), batch_size=2 * world_size, seed=3)
    parts = [
        BatchSequence(blocks_of(31), batch_size=2, seed=3, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for k in range(20):
        assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])


def test_batches_from_a_step_are_those_that_follow(text_file):
    data = data_module(text_file)
    stream = data.train_batches_from()
    first = [next(stream) for _ in range(60)]
    assert len(data.train_blocks) // 4 < 40  # more than one pass
    for step in (0, 1, 23, 24, 25, 47):
        again = data.train_batches_from(step)
        assert all(torch.equal(next(again), batch) for batch in first[step:60])
    assert first[0].shape == (4, SEQ_LEN + 1) and first[0].dtype == torch.int64


@pytest.mark.parametrize(("batches_per_epoch", "num_workers"), [(None, 0), (7, 0), (1000, 0), (7, 2)])
@pytest.mark.filterwarnings("error:.*not resumable")
def test_a_resumed_trainer_continues_with_the_batches_that_follow(text_file, tmp_path, batches_per_epoch, num_workers):
    settings = {"batches_per_epoch": batches_per_epoch, "num_workers": num_workers}
    whole = Recorder()
    trainer(tmp_path / "whole", 60, every=1).fit(whole, data_module(text_file, **settings))
    expected = data_module(text_file).train_batches_from()
    assert whole.seen == [next(expected).tolist() for _ in range(60)]
    for step in (1, 7, 24, 25, 49) if not num_workers else (10,):
        resumed = Recorder()
        checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
        trainer(tmp_path / f"resumed{step}", 60).fit(
            resumed, data_module(text_file, **settings), ckpt_path=checkpoint, weights_only=True
        )
        assert resumed.seen == whole.seen[step:]
        assert torch.equal(resumed.weight, whole.weight)


def test_gradient_accumulation_does_not_change_the_batches(text_file, tmp_path):
    whole, resumed = Recorder(), Recorder()
    run = trainer(tmp_path / "a", 20, every=1, accumulate_grad_batches=3)
    run.fit(whole, data_module(text_file))
    assert len(whole.seen) == 60
    again = trainer(tmp_path / "b", 20, accumulate_grad_batches=3)
    again.fit(resumed, data_module(text_file), ckpt_path=tmp_path / "a" / "step=11.ckpt", weights_only=True)
    assert resumed.seen == whole.seen[33:]


@pytest.mark.parametrize("change", [{"seed": 5}, {"batch_size": 2}, {"seq_len": 4}, {"val_fraction": 0.5}])
def test_resuming_on_other_data_is_refused_and_says_what_differs(text_file, change):
    state = data_module(text_file).state_dict()
    json.dumps(state)
    data_module(text_file).load_state_dict(state)
    name = {"batch_size": "sequences_per_batch", "val_fraction": "n_train_blocks"}.get(*change, next(iter(change)))
    with pytest.raises(ValueError, match=rf"cannot resume on other data: .*{name} was"):
        data_module(text_file, **change).load_state_dict(state)


DDP_SCRIPT = """
import json, sys
from pathlib import Path
import pytorch_lightning as pl
sys.path.insert(0, sys.argv[1])
from test_data import Recorder, data_module

class Saver(Recorder):
    def on_train_end(self):
        rank = self.trainer.global_rank
        val = [b.tolist() for b in self.trainer.datamodule.val_dataloader()]
        Path(sys.argv[3], f"rank{rank}.json").write_text(json.dumps({"train": self.seen, "val": val}))

if __name__ == "__main__":
    pl.Trainer(
        max_steps=6, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    ).fit(Saver(), data_module(Path(sys.argv[2]), batch_size=2))
"""


@pytest.mark.slow
def test_two_ddp_processes_see_the_batches_of_one(text_file, tmp_path):
    script = tmp_path / "ddp.py"
    script.write_text(DDP_SCRIPT)
    arguments = [sys.executable, str(script), str(Path(__file__).parent), str(text_file), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2)]
    single = data_module(text_file, batch_size=4)
    expected = single.train_batches_from()
    for first, second in zip(ranks[0]["train"], ranks[1]["train"], strict=True):
        assert first + second == next(expected).tolist()
    rows = [[tuple(row) for batch in rank["val"] for row in batch] for rank in ranks]
    all_rows = [tuple(r) for r in single.val_blocks.rows(range(len(single.val_blocks))).tolist()]
    assert len(rows[0]) == len(rows[1])
    assert rows[0] == all_rows[: 2 * len(rows[0]) : 2] and rows[1] == all_rows[1 : 2 * len(rows[0]) : 2]


def test_validation_gives_every_block_once_and_none_of_training(text_file):
    data = data_module(text_file)
    data.setup()
    rows = [row for batch in data.val_dataloader() for row in batch.tolist()]
    assert rows == data.val_blocks.rows(range(len(data.val_blocks))).tolist()
    assert len(rows) == (200 - 1) // SEQ_LEN
    text = text_file.read_bytes()
    assert list(text[800 : 800 + SEQ_LEN + 1]) == rows[0]
    assert len(data.train_blocks.tokens) == 800
    assert len(data_module(text_file, val_blocks=3).val_blocks) == 3
    assert data_module(text_file, val_fraction=0.0).val_dataloader() == []


def test_validation_batches_are_spread_over_processes_evenly():
    parts = [ValidationBatches(blocks_of(11), batch_size=2, rank=r, world_size=3) for r in range(3)]
    rows = [[row for batch in part for row in batch.tolist()] for part in parts]
    assert [len(r) for r in rows] == [3, 3, 3]
    assert sorted(row for own in rows for row in own) == blocks_of(11).rows(range(9)).tolist()


def test_a_text_of_its_own_can_serve_for_validation(text_file, tmp_path):
    (tmp_path / "val.txt").write_text("0123456789" * 10)
    data = data_module(text_file, val_source=tmp_path / "val.txt")
    data.setup()
    assert len(data.train_blocks.tokens) == 1000 and len(data.val_blocks) == 99 // SEQ_LEN
    assert data.describe()["val_sha256"] and json.dumps(data.describe())


def test_blocks_for_evaluation_are_those_of_the_part_that_is_named(text_file):
    data = data_module(text_file)
    assert len(data.blocks("all").tokens) == 1000
    assert len(data.blocks("train")) == len(data.train_blocks)
    assert len(data.blocks("val", 5)) == 5
    with pytest.raises(ValueError, match="split = 'test': choose from train, val, all"):
        data.blocks("test")
    with pytest.raises(ValueError, match="val part of the corpus has 0 tokens"):
        data_module(text_file, val_fraction=0.0).blocks("val")


def test_a_text_too_small_says_how_many_tokens_are_needed(tmp_path):
    (tmp_path / "tiny.txt").write_text("0123456789" * 5)
    with pytest.raises(ValueError, match=r"training part of the corpus has 40 tokens, 129 are needed for 8 sequence"):
        TextDataModule(tmp_path / "tiny.txt", seq_len=16, val_fraction=0.2, cache_dir=tmp_path).setup()
    with pytest.raises(ValueError, match=r"validation part of the corpus has 10 tokens, 17 are needed"):
        TextDataModule(tmp_path / "tiny.txt", seq_len=16, batch_size=1, val_fraction=0.2, cache_dir=tmp_path).setup()
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="none with text in it"):
        TextDataModule(tmp_path / "empty.txt", cache_dir=tmp_path).setup()
    for wrong in ({"seq_len": 0}, {"batch_size": -1}, {"batches_per_epoch": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
            TextDataModule(tmp_path / "tiny.txt", **wrong)


def test_sequences_and_ids_that_the_model_cannot_take_are_refused():
    assert check_seq_len(64, 64) == 64 and check_vocab_size(256, 256) == 256
    with pytest.raises(ValueError, match="seq_len = 65 is longer than the model's block_size = 64"):
        check_seq_len(65, 64)
    with pytest.raises(ValueError, match="512 ids, the model only 256"):
        check_vocab_size(512, 256)


class InMemory(DataModule):
    """A litgpt data module without files: consecutive numbers as int32 blocks."""

    def __init__(self, extra: int = 0):
        super().__init__()
        self.extra, self.calls = extra, []

    def connect(self, tokenizer=None, batch_size=1, max_seq_length=None):
        self.tokenizer, self.batch_size, self.length = tokenizer, batch_size, max_seq_length + 1 + self.extra

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage=""):
        self.calls.append("setup")

    def _loader(self, first):
        rows = torch.arange(first, first + 12 * self.length, dtype=torch.int32).view(12, self.length) % 251
        return DataLoader(rows, batch_size=self.batch_size)

    def train_dataloader(self):
        return self._loader(0)

    def val_dataloader(self):
        return self._loader(7)


def test_a_litgpt_module_trains_under_pytorch_lightning_and_resumes(tmp_path):
    def fit(folder, steps, **resume):
        module = InMemory()
        recorder = Recorder()
        data = LitGPTDataModule(module, seq_len=SEQ_LEN, batch_size=3)
        trainer(tmp_path / folder, steps, every=1).fit(recorder, data, **resume)
        assert module.calls == ["prepare_data", "setup"]
        return recorder.seen

    whole = fit("a", 11)
    rows = (torch.arange(12 * 9).view(12, 9) % 251).tolist()
    assert whole[:4] == [rows[i : i + 3] for i in (0, 3, 6, 9)] and whole[4:8] == whole[:4]
    for step in (2, 4, 7):
        checkpoint = tmp_path / "a" / f"step={step}.ckpt"
        assert fit(f"b{step}", 11, ckpt_path=checkpoint, weights_only=True) == whole[step:]


def test_blocks_of_a_litgpt_module_are_long_tensors():
    data = LitGPTDataModule(InMemory(), seq_len=SEQ_LEN, batch_size=5)
    blocks = data.blocks("val", 7)
    assert blocks.shape == (7, SEQ_LEN + 1) and blocks.dtype == torch.int64 and blocks[0, 0] == 7
    with pytest.raises(ValueError, match="choose from train, val"):
        data.blocks("all")


def test_litgpt_batches_of_another_form_are_refused():
    long = LitGPTDataModule(InMemory(extra=3), seq_len=SEQ_LEN, batch_size=5)
    with pytest.raises(ValueError, match=r"InMemory gives blocks of 12 tokens, seq_len \+ 1 = 9"):
        next(iter(long.train_dataloader()))
    tuning = InMemory()
    tuning.train_dataloader = lambda: [{"input_ids": torch.zeros(1, 9), "labels": torch.zeros(1, 9)}]
    with pytest.raises(ValueError, match="no plain token blocks"):
        next(iter(LitGPTDataModule(tuning, seq_len=SEQ_LEN).train_dataloader()))


def test_a_package_that_litgpt_misses_is_named():
    module = InMemory()

    def prepare_data():
        import a_package_that_does_not_exist  # noqa: F401

    module.prepare_data = prepare_data
    with pytest.raises(ModuleNotFoundError, match=r"InMemory needs a_package_that_does_not_exist.*pip install"):
        LitGPTDataModule(module, seq_len=SEQ_LEN).prepare_data()


def test_litgpt_modules_get_a_tokenizer_they_can_call():
    class Marked(ByteTokenizer):
        bos_id, eos_id = 1, 2

    tokenizer = LitGPTTokenizer(Marked())
    assert tokenizer.encode("ab", bos=True, eos=True).tolist() == [1, 97, 98, 2]
    assert tokenizer.encode("ab", bos=False, max_length=1).tolist() == [97]
    assert tokenizer.encode("ab").dtype == torch.int32 and tokenizer.decode(torch.tensor([97])) == "a"
    assert LitGPTTokenizer(ByteTokenizer()).encode("a", bos=True, eos=True).tolist() == [97]


@pytest.mark.parametrize(
    ("name", "overrides", "kind"),
    [
        ("stdlib", [], TextDataModule),
        ("text", ["data.source=[a.txt,b]"], TextDataModule),
        ("tinystories", ["data.tokenizer=byte"], LitGPTDataModule),
        ("openwebtext", ["data.tokenizer=byte"], LitGPTDataModule),
        ("text_files", ["data.tokenizer=byte", "data.module.train_data_path._args_=[texts]"], LitGPTDataModule),
    ],
)
def test_every_data_config_builds_its_data_module(name, overrides, kind):
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    with initialize_config_module("supernet.conf", version_base="1.3"):
        cfg = compose(overrides=[f"+data={name}", *overrides])
    data = instantiate(cfg.data)
    assert type(data) is kind and data.batch_size == cfg.data.batch_size and data.vocab_size == 256
    if name == "text":
        assert data.source == ("a.txt", "b")
    if kind is LitGPTDataModule:
        assert data.module.batch_size == cfg.data.batch_size and isinstance(data.module, DataModule)
