"""Does the bank compute on CUDA what it computes on the CPU, and how fast is a step? Prints a table; run it on a machine with a GPU.

python bench/gpu_engine_check.py MODEL DATA
"""

from __future__ import annotations

import sys
import time

import torch

from rightrank.bank import products
from rightrank.bank.adapters import AdapterBank, AdapterSpec
from rightrank.bank.base_model import load_base
from rightrank.bank.batch import Batch
from rightrank.bank.evaluate import evaluate
from rightrank.bank.forward import Forward
from rightrank.bank.memory import GIB, available_bytes, measure_memory
from rightrank.bank.optimizer import BankOptimizer
from rightrank.bank.step import gradients
from rightrank.bank.targets import Target, find_targets
from rightrank.bank.verify import _untouched_losses, choose_path
from rightrank.data import prepare
from rightrank.recipe import Recipe


def check_products(device: torch.device) -> None:
    """Each product on its own against float64, with fresh random numbers: ‖out − truth‖ / ‖truth‖."""
    target = Target("x", 576, 1536)
    ranks = [1, 4, 8, 30, 128]
    specs = [AdapterSpec(r, alpha=2 * r, learning_rate=0.0) for r in ranks]
    bank = AdapterBank([target], specs, device=device, dtype=torch.bfloat16)
    for master in bank.masters:
        master.normal_()
    bank.refresh()
    module = bank.modules[0]
    x = torch.randn(len(ranks), 1000, 576, device=device, dtype=torch.bfloat16)
    dy = torch.randn(len(ranks), 1000, 1536, device=device, dtype=torch.bfloat16)
    for grouped in (True, False):
        bank.zero_gradients()
        leaf = x.clone().requires_grad_()
        y = products.LoraProduct.apply(leaf, torch.zeros_like(dy), leaf.sum() * 0, module, grouped)
        y.backward(dy)
        worst = {}
        for k, rank in enumerate(ranks):
            rows = module.rows(k)
            a, b = module.a_RI[rows].double(), module.b_RO[rows].double()
            xk, dyk = x[k].double(), dy[k].double()
            truth = {
                "y": 2 * xk @ a.T @ b,
                "dx": 2 * dyk @ b.T @ a,
                "dA": 2 * (dyk @ b.T).T @ xk,
                "dB": 2 * (xk @ a.T).T @ dyk,
            }
            found = {"y": y[k], "dx": leaf.grad[k], "dA": module.grad_a[k], "dB": module.grad_b[k]}
            for name, value in truth.items():
                worst.setdefault(name, []).append(
                    ((found[name].double() - value).norm() / value.norm()).item()
                )
            assert rank == module.ranks_K[k]
        print(
            "grouped" if grouped else "loop",
            {name: [f"{e:.1e}" for e in errors] for name, errors in worst.items()},
        )


def main() -> None:
    recipe = Recipe()
    base = load_base(sys.argv[1])
    data = prepare(sys.argv[2], base.tokenizer, recipe)
    print(base.dtype_name, torch.cuda.get_device_name(), "rows", len(data.train))
    few = data.train[:8]
    truth = _untouched_losses(base, few)
    for packed in (True, False):
        with torch.no_grad(), Forward(base, packed=packed) as forward:
            losses, _ = forward.token_losses(Batch.of(few, base.device))
        apart = (losses[0].double() - truth).abs()
        print(
            f"packed={packed}: mean |difference| to the untouched model {apart.mean():.2e}, worst {apart.max():.2e} nats"
        )
    print(choose_path(base, few))
    targets = find_targets(base.model)
    ranks = [1, 4, 8, 30, 128]
    specs = [AdapterSpec(r, alpha=32, learning_rate=1e-3) for r in ranks]
    grouped = products.grouped_products_run_here(base.device, base.dtype)
    print("grouped products:", grouped)
    found = []
    for use in (True, False):
        bank = AdapterBank(targets, specs, device=base.device, dtype=base.dtype)
        for master in bank.masters:
            master.normal_(0, 0.02, generator=torch.Generator(base.device).manual_seed(1))
        bank.refresh()
        with Forward(base, bank) as forward:
            forward._grouped = use and grouped
            loss = gradients(forward, few, 4096)
        found.append((loss, [g.clone() for g in bank.gradients]))
    for k, rank in enumerate(ranks):
        a, b = found[0][1][k], found[1][1][k]
        print(
            f"r={rank}: loss {found[0][0][k]:.5f} {found[1][0][k]:.5f}, gradient apart {((a - b).norm() / b.norm()):.2e}"
        )
    check_products(base.device)
    memory = measure_memory(base, targets, few, packed=True)
    print(memory, f"free {available_bytes(base.device) / GIB:.1f}")
    batch = data.train[:16]
    tokens = sum(len(e.token_ids_T) for e in batch)
    print(
        f"{'K':>3} {'rank':>5} {'step s':>8} {'tokens/s':>9} {'eval tok/s':>10} {'peak':>6} {'foreseen':>8}"
    )
    for count, rank in ((1, 8), (8, 16), (24, 16)):
        bank = AdapterBank(
            targets, [AdapterSpec(rank, rank, 1e-4)] * count, device=base.device, dtype=base.dtype
        )
        torch.cuda.reset_peak_memory_stats()
        with Forward(base, bank) as forward:
            optimizer = BankOptimizer(bank, recipe, 20)
            for step in range(8):
                if step == 3:
                    torch.cuda.synchronize()
                    started = time.perf_counter()
                bank.zero_gradients()
                optimizer.step(gradients(forward, batch, 16384))
            torch.cuda.synchronize()
            seconds = (time.perf_counter() - started) / 5
            evaluate(forward, data.decide[:64], capacity=16384 // count)
            started = time.perf_counter()
            evaluate(forward, data.decide[:256], capacity=16384 // count)
            judged = time.perf_counter() - started
        held = sum(len(e.token_ids_T) for e in data.decide[:256])
        peak = torch.cuda.max_memory_allocated() / GIB
        foreseen = memory.peak_gib(sum(m.numel() for m in bank.masters), count * tokens)
        rates = f"{count * tokens / seconds:>9.0f} {count * held / judged:>10.0f}"
        print(f"{count:>3} {rank:>5} {seconds:>8.3f} {rates} {peak:>6.1f} {foreseen:>8.1f}")


if __name__ == "__main__":
    main()
