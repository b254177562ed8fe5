"""Training of the reference model: first the text tower on its teacher, then everything on scenes.

One seeded, resumable pass: state is written as it goes, and a run that was stopped goes on where it
was, to the bit on the same CPU. Small checkpoints along the way allow to study when each circuit
forms.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from arrcoc_verify.errors import UsageError
from arrcoc_verify.reference.trained import objects, pack, tower
from arrcoc_verify.reference.trained.assembly import Reference, text_folder
from arrcoc_verify.reference.trained.losses import losses
from arrcoc_verify.reference.trained.sayings import Sayings
from arrcoc_verify.reference.trained.studio import Batch, Studio
from arrcoc_verify.scenes import fixtures

Tell = Callable[[str, int, int], None]
"""Receives what is done, how many steps of it, and of how many."""

HELD_OUT = 10
"""One label in so many is never asked for in training and tests what was not memorised."""
FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3")
"""Parts of the image tower that keep what they know."""
SAVE_EVERY = 100
"""Steps between two states on disk: what a killed run loses at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast.

    Attributes:
        text_steps: of the text tower on its teacher.
        text_batch: queries a step.
        steps: on scenes.
        batch: scenes a step.
        rate: learning rate of new parts; the image tower's is a tenth.
        tower: whether the upper image tower learns, too.
        seed: of every draw.
        checkpoints: how many small checkpoints are kept along the way.
    """

    text_steps: int = 1200
    text_batch: int = 768
    steps: int = 600
    batch: int = 64
    rate: float = 1.5e-3
    tower: bool = True
    seed: int = 0
    checkpoints: int = 30


RECIPES = {
    "gpu": Recipe(),
    "cpu": Recipe(text_steps=700, text_batch=96, steps=600, batch=12, tower=False),
}


class Trainer:
    """A training run in a folder."""

    def __init__(
        self, folder: Path, out: Path, recipe: Recipe, *, device: str = "cpu",
        tell: Tell = lambda *_: None,
    ) -> None:  # fmt: skip
        """Take the pack's folder and where to write; go on with the run that is there, if any.

        Raises:
            UsageError: the pack is incomplete, or `out` holds a run of another recipe.
        """
        self.pack, self.out, self.recipe, self.device = folder, out, recipe, device
        self.tell = tell
        self.step, self.text_step = 0, 0
        try:
            told = json.loads((folder / "contents.json").read_text("utf-8"))
            teacher = load_file(folder / "teacher.safetensors")
            pretrained = load_file(folder / "tower.safetensors")
        except OSError as error:
            raise UsageError(
                f"wanted a training pack in {folder}, {error}: make one with "
                "`python -m arrcoc_verify.reference.trained.pack`"
            ) from error
        self._require_same_recipe()
        self.contents: list[str] = told["contents"]
        self.labels: list[str] = told["labels"]
        self.teacher = torch.from_numpy(pack.unit_rows(teacher["contents"])).to(device)
        torch.manual_seed(recipe.seed)
        self.model = Reference(text_folder())
        self._start_from(pretrained, teacher)
        self.model.to(device)
        self.tokenizer = tower.tokenizer(text_folder())
        self._resume()

    def _require_same_recipe(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        said = self.out / "recipe.json"
        mine = dataclasses.asdict(self.recipe)
        if said.is_file() and json.loads(said.read_text("utf-8")) != mine:
            raise UsageError(f"{self.out} holds a run of another recipe: choose another folder")
        said.write_text(json.dumps(mine), encoding="utf-8")

    def _start_from(self, given: dict[str, Tensor], teacher: dict[str, Tensor]) -> None:
        """Put what is pretrained in its place; patches meet queries by their class evidence."""
        trunk = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
        weight, bias = trunk.pop("classifier.weight"), trunk.pop("classifier.bias")
        model = self.model
        model.trunk.load_state_dict(trunk)
        with torch.no_grad():
            model.classifier.weight.copy_(weight)
            model.classifier.bias.copy_(bias)
            model.classes.copy_(F.normalize(teacher["classes"].float(), dim=1))
            centred = model.classes - model.classes.mean(0)
            model.towers.visual.head.proj.weight.copy_(centred.T @ weight / 10)
            table = model.towers.text.transformer.embeddings.word_embeddings.weight
            table.copy_(teacher["words"].float())

    # Text

    def teach_text(self, until: float) -> bool:
        """Train the text tower on its teacher; return whether it is done."""
        recipe, text = self.recipe, self.model.towers.text
        if self.text_step >= recipe.text_steps:
            return True
        text.train().requires_grad_(True)
        optimiser = torch.optim.AdamW(text.parameters(), lr=1e-3, weight_decay=0.01)
        schedule = _schedule(optimiser, recipe.text_steps)
        state = _State(self, "text", optimiser, schedule)
        sayings = Sayings(self.contents, self.labels)
        made = _ahead(lambda step: self._said(sayings, step), self.text_step, recipe.text_steps)
        for ids, which in made:
            torch.manual_seed(recipe.seed + self.text_step)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
                told = text(ids.to(self.device))
            loss = (1 - F.cosine_similarity(told.float(), self.teacher[which])).mean()
            _take_step(optimiser, schedule, loss, text.parameters())
            self.text_step += 1
            said = f"text, cosine {1 - float(loss.detach()):.3f}"
            if not state.goes_on(self.text_step, recipe.text_steps, said, until):
                break
        state.save()
        text.eval().requires_grad_(False)
        return self.text_step >= recipe.text_steps

    def _said(self, sayings: Sayings, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 1, step])
        texts, which = sayings.draw(self.recipe.text_batch, rng)
        ids = tower.pieces(self.tokenizer, texts)
        longest = int((ids != 0).sum(1).max())
        return ids[:, :longest], torch.tensor(which, device=self.device)

    # Scenes

    def studio(self) -> Studio:
        """Return what scenes are made of: things and photographs of role train only."""
        things = [*objects.photographed("train"), *pack.read_things(self.pack)]
        held = self.held_out()
        kept = [t for t in things if t.source == "photograph" or t.label not in held]
        photographs: dict[str, list[Image.Image]] = {}
        for one in fixtures.manifest().photographs:
            if one.role == "train":
                photographs.setdefault(one.label, []).append(fixtures.photograph(one.id))
        labels = sorted({t.label for t in kept})
        told = {"trained": labels, "held_out": sorted(held)}
        (self.out / "labels.json").write_text(json.dumps(told, indent=0), encoding="utf-8")
        return Studio(kept, photographs, self.contents, labels=labels, device=self.device)

    def held_out(self) -> set[str]:
        """Return the rendered labels that are never seen in training."""
        mine = {t.label for t in objects.photographed("train")}
        return {label for label in sorted(self.labels)[::HELD_OUT] if label not in mine}

    def teach_scenes(self, until: float) -> bool:
        """Train everything but the text tower on scenes; return whether it is done."""
        recipe, model = self.recipe, self.model
        if self.step >= recipe.steps:
            return True
        model.train()
        model.towers.eval()  # statistics of batch norms stay as they were pretrained
        groups = self._groups()
        learned = [p for g in groups for p in g["params"]]
        optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
        schedule = _schedule(optimiser, recipe.steps)
        state = _State(self, "scenes", optimiser, schedule)
        studio = self.studio()
        every = max(1, recipe.steps // max(recipe.checkpoints, 1))
        made = _ahead(lambda step: self._scene(studio, step), self.step, recipe.steps)
        for batch, ids in made:
            torch.manual_seed(recipe.seed + self.step)
            parts = losses(model, batch, ids, tower=recipe.tower)
            total = sum(parts.values(), torch.zeros((), device=self.device))
            _take_step(optimiser, schedule, total, learned)
            self.step += 1
            if self.step % every == 0:
                self._checkpoint()
            said = "scenes, " + ", ".join(f"{k} {float(v.detach()):.2f}" for k, v in parts.items())
            if not state.goes_on(self.step, recipe.steps, said, until):
                break
        state.save()
        model.eval()
        return self.step >= recipe.steps

    def _groups(self) -> list[dict[str, Any]]:
        model, rate = self.model, self.recipe.rate
        model.requires_grad_(True)
        for fixed in (model.classes, model.towers.text, model.towers.logit_scale):
            fixed.requires_grad_(False)
        for name, value in model.trunk.named_parameters():
            value.requires_grad_(self.recipe.tower and not name.startswith(FROZEN))
        old = [p for p in [*model.trunk.parameters(), *model.classifier.parameters()]
               if p.requires_grad]  # fmt: skip
        ids = {id(p) for p in old}
        new = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
        return [{"params": old, "lr": rate / 10}, {"params": new, "lr": rate}]

    def _scene(self, studio: Studio, step: int) -> tuple[Batch, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 2, step])
        batch = studio.batch(self.recipe.batch, rng)
        return batch, tower.pieces(self.tokenizer, batch.queries).to(self.device)

    # Files

    def _checkpoint(self) -> None:
        """Keep what learns; together with the finished weights it is the model at this step."""
        folder = self.out / "checkpoints"
        folder.mkdir(exist_ok=True)
        learned = {name for name, value in self.model.named_parameters() if value.requires_grad}
        small = {k: v for k, v in weights(self.model).items() if k in learned}
        _written(small, folder / f"{self.step:05d}.safetensors")

    def _resume(self) -> None:
        for phase in ("text", "scenes"):
            path = self.out / f"state-{phase}.pt"
            if path.is_file():
                state = torch.load(path, weights_only=True, map_location=self.device)
                self.model.load_state_dict(state["model"])
                self.step, self.text_step = state["step"], state["text_step"]


class _State:
    """Keeps a phase of a run on disk, says how it goes and when to stop."""

    def __init__(self, trainer: Trainer, phase: str, optimiser: Any, schedule: Any) -> None:
        self.trainer, self.optimiser, self.schedule = trainer, optimiser, schedule
        self.path = trainer.out / f"state-{phase}.pt"
        if self.path.is_file():
            state = torch.load(self.path, weights_only=True, map_location=trainer.device)
            optimiser.load_state_dict(state["optimiser"])
            schedule.load_state_dict(state["schedule"])

    def goes_on(self, done: int, of: int, said: str, until: float) -> bool:
        """Return whether there is time for another step; save from time to time."""
        self.trainer.tell(said, done, of)
        if done % SAVE_EVERY == 0:
            self.save()
        return time.time() < until

    def save(self) -> None:
        """Write state and weights; each file appears whole or not at all."""
        trainer = self.trainer
        held = {
            "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(),
            "model": trainer.model.state_dict(), "step": trainer.step,
            "text_step": trainer.text_step,
        }  # fmt: skip
        new = self.path.with_suffix(".tmp")
        torch.save(held, new)
        new.replace(self.path)
        _written(weights(trainer.model), trainer.out / "model.safetensors")


def _written(tensors: dict[str, Tensor], path: Path) -> None:
    new = path.with_suffix(".tmp")
    save_file(tensors, new)
    new.replace(path)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state as it is shipped: floating values in float16."""
    return {name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in model.state_dict().items()}  # fmt: skip


def _schedule(optimiser: torch.optim.Optimizer, steps: int) -> Any:
    def scale(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, min(100, steps // 10)))
        return warm * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, step / steps)))))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, scale)


def _take_step(
    optimiser: torch.optim.Optimizer, schedule: Any, loss: Tensor, params: Iterable[nn.Parameter]
) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(list(params), 1.0)
    optimiser.step()
    schedule.step()


def _ahead(make: Callable[[int], Any], start: int, stop: int, ready: int = 4) -> Iterator[Any]:
    """Yield what `make` returns for each step, made ahead by threads, in order."""
    with ThreadPoolExecutor(ready) as pool:
        waiting: list[Future[Any]] = [
            pool.submit(make, s) for s in range(start, min(start + ready, stop))
        ]
        for step in range(start, stop):
            held = waiting.pop(0)
            if step + ready < stop:
                waiting.append(pool.submit(make, step + ready))
            yield held.result()


def train(
    folder: Path, out: Path, recipe: Recipe, *, device: str, minutes: float, tell: Tell
) -> bool:  # fmt: skip
    """Train for at most so many minutes; return whether the run is complete.

    Raises:
        UsageError: the pack is incomplete, or `out` holds a run of another recipe.
    """
    until = time.time() + 60 * minutes
    trainer = Trainer(folder, out, recipe, device=device, tell=tell)
    return trainer.teach_text(until) and trainer.teach_scenes(until)
