"""Trainers' configs to spoil, with what lies beside them: read, told of, checked as a request, and given an answer."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mutate
from targets import ROWS, Target, shown_as_it_is, spoiled

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

LINES = "".join(json.dumps(row) + "\n" for row in ROWS["prompt"]).encode()
DATASET_INFO = {
    "rows": {"file_name": "rows.jsonl", "columns": {"prompt": "prompt", "response": "completion"}},
    "held": {"hf_hub_url": "someone/rows", "subset": "en", "split": "test"},
}
ADAPTER = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "model", "r": 16, "lora_alpha": 32,
    "lora_dropout": 0.05, "bias": "none", "target_modules": ["q_proj", "v_proj"], "use_rslora": False, "rank_pattern": {},
}  # fmt: skip
CONFIGS: dict[str, dict[str, bytes]] = {
    "axolotl.yml": {
        "axolotl.yml": b"base_model: model\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\nadapter: lora\nlora_r: 16\nlora_alpha: 32\n"
        b"learning_rate: 2e-4\nnum_epochs: 3\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\nsequence_len: 1024\n"
        b"lora_target_linear: true\nlr_scheduler: cosine\n"
    },
    "trl.yaml": {
        "trl.yaml": b"model_name_or_path: model\ndataset_name: rows.jsonl\nuse_peft: true\nlora_r: 16\nlora_alpha: 32\n"
        b"learning_rate: 2.0e-4\nnum_train_epochs: 1\nper_device_train_batch_size: 4\nmax_length: 512\n"
    },
    "llama_factory.yaml": {
        "llama_factory.yaml": b"model_name_or_path: model\nstage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\n"
        b"lora_target: all\ndataset: rows\neval_dataset: held\ndataset_dir: .\ntemplate: llama3\ncutoff_len: 2048\n"
        b"per_device_train_batch_size: 1\ngradient_accumulation_steps: 8\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\n"
        b"lr_scheduler_type: cosine\nwarmup_ratio: 0.1\n",
        "dataset_info.json": json.dumps(DATASET_INFO, indent=1).encode(),
    },
    "mlx_lm.yaml": {
        "mlx_lm.yaml": b'model: "model"\ntrain: true\ndata: "data"\noptimizer: adamw\nnum_layers: -1\nbatch_size: 4\niters: 300\n'
        b"learning_rate: 1e-5\nmask_prompt: true\nmax_seq_length: 2048\nlora_parameters:\n"
        b'  keys: ["self_attn.q_proj", "self_attn.v_proj"]\n  rank: 8\n  scale: 20.0\n  dropout: 0.0\n'
        b"lr_schedule:\n  name: cosine_decay\n  warmup: 15\n  arguments: [1e-5, 285]\n"
        b"optimizer_config:\n  adamw:\n    betas: [0.9, 0.98]\n    eps: 1e-6\n",
        "data/train.jsonl": LINES,
    },
    "ms_swift.yaml": {
        "ms_swift.yaml": b"model: model\nuse_hf: true\ntuner_type: lora\ndataset:\n  - rows.jsonl\ntorch_dtype: bfloat16\n"
        b"num_train_epochs: 1\nper_device_train_batch_size: 1\nlearning_rate: 1e-4\nlora_rank: 8\nlora_alpha: 32\n"
        b"target_modules: all-linear\ngradient_accumulation_steps: 16\nmax_length: 2048\nwarmup_ratio: 0.05\n"
    },
    "torchtune.yaml": {
        "torchtune.yaml": b"output_dir: /tmp/one\nmodel:\n  _component_: torchtune.models.llama3_2.lora_llama3_2_1b\n"
        b"  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']\n  apply_lora_to_mlp: True\n  lora_rank: 64\n"
        b"  lora_alpha: 128\n  lora_dropout: 0.0\ntokenizer:\n  _component_: torchtune.models.llama3.llama3_tokenizer\n"
        b"  path: ${base}/tokenizer.model\n  max_seq_len: 512\ncheckpointer:\n  checkpoint_dir: ${base}/${name}\n"
        b"  output_dir: ${output_dir}\nbase: model\nname: one\ndataset:\n  _component_: torchtune.datasets.chat_dataset\n"
        b"  source: json\n  data_files: rows.jsonl\n  split: train\nbatch_size: 4\nepochs: 1\noptimizer:\n"
        b"  _component_: torch.optim.AdamW\n  fused: True\n  weight_decay: 0.01\n  lr: 3e-4\nlr_scheduler:\n"
        b"  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup\n  num_warmup_steps: 100\n"
        b"gradient_accumulation_steps: 8\nclip_grad_norm: null\n"
    },
    "unsloth.yaml": {
        "unsloth.yaml": b"model: model\ndata:\n  local_dataset: [rows.jsonl]\ntraining:\n  max_seq_length: 1024\n  num_epochs: 2\n"
        b"  learning_rate: 2e-4\n  batch_size: 4\n  warmup_steps: 5\nlora:\n  lora_r: 64\n  lora_alpha: 16\n"
    },
    "adapter_config.json": {"adapter_config.json": json.dumps(ADAPTER, indent=2).encode()},
}  # fmt: skip
YAML = [
    b"\n&a [*a]\n", b"\nx: !!python/object/apply:os.system ['true']\n", b"\n? [a]\n: b\n", b"\n<<: *b\n", b"\n---\n", b"\n\t- x\n",
    b"\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c]\n"
    b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    b"\nlearning_rate: .nan\n", b"\nlora_r: 1e400\n", b"\nlora_r: -1\n", b"\nlora_alpha: [1]\n", b"\nnum_epochs: 0\n", b"\nlora_r: 0x10\n",
    b"\nlearning_rate: 2001-01-01\n", b"\nlora_r: 1:30:00\n", b"\ndatasets: x\n", b"\nbase_model: \"\\0\"\n", b"\nlora_r: !!binary aGk=\n",
    b"\nbase: " + b"${name}" * 3_000 + b"\n", b"\nname: " + b"${base}" * 3_000 + b"\n", b"\nmodel: ~nobody-here/x\n",
    b"\ndataset: ~nobody-here/x\n", b"\ndataset_dir: ~nobody-here\n", b"\nuse_rslora: true\n", b"\nlora_rank: 1e300\n",
    b"\nper_device_train_batch_size: 1e300\n", b"\nseed: -5\n", b"\nmodel_name_or_path: \"\\x1b[31m\"\n",
]  # fmt: skip
VALUES = [
    b"1e300",
    b"-1",
    b"0",
    b"1e-320",
    b'"~nobody-here/x"',
    b'"' + b"x/" * 2_000 + b'"',
    b'"\\0"',
    b"[[]]",
    b"!!set {a}",
    b".inf",
]


@dataclass(frozen=True)
class ConfigTarget(Target):
    """Trainers' configs: keys get odd values, and YAML its tricks; JSON is spoilt as elsewhere, too."""

    def spoil(self, folder: Path, rng: random.Random) -> None:
        files = dict(self.files())
        name = rng.choice(sorted(name for name in files if not name.endswith(".jsonl")))
        if name.endswith(".json") and rng.random() < 0.7:
            files[name] = spoiled(name, files[name], rng)
        else:
            files[name] = spoiled_lines(files[name], rng)
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)


def spoiled_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            lines.insert(at, rng.choice(YAML))
        elif kind == 1 and b":" in lines[at]:
            odd = json.dumps(mutate.odd_value(rng)).encode() if rng.random() < 0.6 else rng.choice(VALUES)
            lines[at] = lines[at].split(b":")[0] + b": " + odd
        elif kind == 2:
            lines.insert(at, lines[rng.randrange(len(lines))])
        else:
            lines[at] = mutate.damaged(lines[at], rng)
    return b"\n".join(lines)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Trainers' relative paths begin where they are started."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _read_config(name: str) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        from report.samples import sample
        from rightrank import from_config
        from rightrank.request import check
        from rightrank.trainers import edit_config, read_config, yaml_file

        with inside(folder):
            read = read_config(Path(name))
            shown_as_it_is([*from_config.lines(read), *read.notes])
            check(from_config.request("model", "rows.jsonl", config=name))
            edited = edit_config(read, sample("SETTLED"))
            shown_as_it_is([*edited.notes, *(str(change) for change in edited.changes)])
            yaml_file.parse(edited.text, name)

    return use


def config_targets() -> list[Target]:
    return [
        ConfigTarget(f"config {name}", lambda name=name: CONFIGS[name], _read_config(name))
        for name in CONFIGS
    ]
