"""Trains the needle model from scratch, in stages, on one core: copy, then sentences of growing length.

A stage ends when 95 % of the answers of its last batches were right (all tokens of an answer); one that
does not get there within its steps ends the run. Every batch is fresh, so training accuracy is held-out
accuracy. The model is written when all stages are done.
"""

import argparse
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from batches import Batch, Batches
from tokenizer import build
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase
from untrained import make_model

GOAL = 0.95
WINDOW = 20
LANGUAGE_SHARE = 0.1


@dataclass(frozen=True)
class Stage:
    """One kind of batch at one size; `fixed` stages run all their steps while the rate falls to zero."""

    kind: str
    rows: int
    length: int
    steps: int
    rate: float = 2e-3
    fixed: bool = False

    @property
    def name(self) -> str:
        """Return the name shown in the log, such as `sentences-256`."""
        return f"{self.kind}-{self.length}"

    def rate_at(self, step: int) -> float:
        """Return the learning rate of one step: a short rise first, a straight fall in a `fixed` stage."""
        fall = 1 - step / self.steps if self.fixed else 1.0
        return self.rate * min(1.0, (step + 1) / 50) * fall


STAGES = (
    Stage("copy", 32, 64, 3000),
    Stage("sentences", 12, 128, 2000),
    Stage("sentences", 8, 256, 2000),
    Stage("sentences", 4, 512, 1500, rate=1e-3),
    Stage("sentences", 3, 1000, 1000, rate=1e-3),
    Stage("sentences", 2, 2000, 300, rate=1e-3, fixed=True),
)


def loss_and_accuracy(model: LlamaForCausalLM, batch: Batch, language: bool) -> tuple[torch.Tensor, float]:
    """Return the loss and the share of answers with every token right.

    The loss is over the answer tokens; with `language`, a small share of it is over every eighth token
    of the whole rows, so that the model also learns to write the sentences.
    """
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state.flatten(0, 1)
        targets = batch.ids.flatten()
        logits = model.lm_head(hidden[batch.answers.flatten() - 1]).float()
        wanted = targets[batch.answers.flatten()]
        loss = functional.cross_entropy(logits, wanted)
        if language:
            places = torch.arange(1, len(targets), 8)
            every = model.lm_head(hidden[places - 1]).float()
            pad = model.config.pad_token_id
            loss = loss + LANGUAGE_SHARE * functional.cross_entropy(every, targets[places], ignore_index=pad)
    right = (logits.argmax(-1) == wanted).view(batch.answers.shape).all(-1)
    return loss, right.float().mean().item()


@dataclass
class Trainer:
    """A model in training; `stages` and `step` tell what is done: whole stages, steps of the next one."""

    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    batches: Batches
    seed: int
    checkpoint: Path | None
    stages: int = 0
    step: int = 0

    def save(self) -> None:
        """Write the checkpoint, if one is wanted, so that it is the old one or the new one at any time."""
        if self.checkpoint is None:
            return
        fresh = self.checkpoint.with_suffix(".fresh")
        progress = {"stages": self.stages, "step": self.step}
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **progress}, fresh)
        fresh.replace(self.checkpoint)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stages, self.step = state["stages"], state["step"]

    def run(self, stage: Stage) -> None:
        """Train the rest of one stage and report it."""
        began, recent = time.perf_counter(), deque[float](maxlen=WINDOW)
        while self.step < stage.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = stage.rate_at(self.step)
            rng = Random(f"{self.seed} {stage.name} {self.step}")
            batch: Batch = getattr(self.batches, stage.kind)(rng, stage.rows, stage.length)
            loss, accuracy = loss_and_accuracy(self.model, batch, stage.kind == "sentences")
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            recent.append(accuracy)
            mean = sum(recent) / len(recent)
            done = len(recent) == WINDOW and mean >= GOAL and not stage.fixed
            if self.step % 50 == 0 or done:
                figures = f"{time.perf_counter() - began:5.0f} s  loss {loss.item():.3f}  right {mean:.3f}"
                print(f"{stage.name:14} step {self.step:5} {figures}", flush=True)
                self.save()
            if done:
                break
        else:
            if not stage.fixed:
                # The next stage would fail too, since it builds on this one.
                raise SystemExit(f"{stage.name}: not {GOAL:.0%} right after {stage.steps} steps")
        self.stages, self.step = self.stages + 1, 0
        self.save()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write model and tokenizer so that a reader of a file sees the old one or the new one, never half."""
    fresh = directory / "fresh"
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    for path in fresh.iterdir():
        # The weights are written for the owner alone, but others may read a shared clone.
        path.chmod(0o644)
        os.replace(path, directory / path.name)
    fresh.rmdir()


def main() -> None:
    """Run the stages from the last checkpoint on and write model and tokenizer."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=here / "model", help="directory of the model")
    parser.add_argument("--checkpoint", type=Path, help="file to resume from and to write every 50 steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = build()
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    trainer = Trainer(model, optimizer, Batches(tokenizer), options.seed, options.checkpoint)
    trainer.load()
    for stage in STAGES[trainer.stages :]:
        trainer.run(stage)
    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
