"""Commands about dictionaries: conditioning, train-dictionary and features."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from arrcoc_verify import provenance
from arrcoc_verify.cli.ending import Stopped
from arrcoc_verify.cli.output import console, line, new_folder, progress, table, warn, write_json
from arrcoc_verify.cli.reading import settled
from arrcoc_verify.config import REFERENCE
from arrcoc_verify.errors import StoreError, UnknownName, UsageError


def conditioning(
    *,
    seed: int,
    seeds: int,
    steps: int,
    resume: Path | None,
    json: Path | None,
    architectures: Sequence[str] = (),
) -> int:
    """Judge the planted worlds; 1 when one of them does not come out as planted."""
    from arrcoc_verify.dictionary import planted
    from arrcoc_verify.dictionary.architecture import ARCHITECTURES
    from arrcoc_verify.dictionary.conditioning import ARMS

    if steps < 1:
        raise UsageError(f"wanted at least one step of training, got {steps}")
    for name in architectures:
        if name not in ARCHITECTURES:
            raise UnknownName("architecture", name, ARCHITECTURES)
    judge = _planted_report(architectures)
    with progress() as tell:
        count, most = iter(range(10**6)), planted.fits(seeds, len(architectures))
        try:
            found = judge(
                seed=seed, seeds=seeds, steps=steps, folder=resume,
                tell=lambda text: tell(text, next(count), most),
            )  # fmt: skip
        except KeyboardInterrupt:
            kept = "nothing is kept without --resume DIR"
            raise Stopped(
                f"stopped; {kept if resume is None else f'the same command goes on from {resume}'}"
            ) from None
    rows = [
        (name, arm.replace("_", " "), *(f"{world[arm][key]:.3f}" for key in ("fve", "mcc", "f1")),
         f"{world[arm]['l0']:.2f}", f"{world[arm]['bits']:.2f}", f"{world[arm]['dead']:.0%}")
        for name, world in planted.judged(found).items() for arm in ARMS
    ]  # fmt: skip
    columns = ("world", "dictionary", "#FVE", "#MCC", "#F1", "#L0", "#bits", "#dead")
    console().print(table("Planted worlds, means over seeds", columns, rows))
    console().print(table("Conclusions", ("world", "said", "is"), planted.conclusions(found)))
    write_json(json, found)
    line(
        f"{'as planted' if found['right'] else 'NOT as planted'}; "
        f"{found['seconds']:.0f} s, peak {provenance.peak_mib():.0f} MiB"
    )
    return 0 if found["right"] else 1


def still(*, seed: int, count: int, steps: int, json: Path | None) -> int:
    """Count how often directions are said to turn where they do not; 1 when too often."""
    from arrcoc_verify.dictionary import stillness

    if steps < 1:
        raise UsageError(f"wanted at least one step of training, got {steps}")
    with progress() as tell:
        done = iter(range(10**6))
        try:
            found = stillness.false_positives(
                count, seed=seed, steps=steps, tell=lambda text: tell(text, next(done), count)
            )
        except KeyboardInterrupt:
            raise Stopped("stopped; nothing is kept of worlds that do not turn") from None
    rows = [
        (one["kind"], str(one["seed"]), f"{one['ratio']:.2f}", f"{one['p_value']:.2g}",
         "turns: WRONG" if one["turns"] else "does not turn")
        for one in found["worlds"]
    ]  # fmt: skip
    columns = ("world", "#seed", "#times a still world", "#p", "said")
    console().print(table("Worlds that do not turn", columns, rows))
    for what, key in (("said to turn", "turns"), ("p below the level", "small_p_values")):
        one = found[key]
        line(f"{what}: {one['found']} of {one['of']}, 95 % interval {one['low']:.1%} to "
             f"{one['high']:.1%} (level {found['alpha']:.0%})")  # fmt: skip
    write_json(json, found)
    line(f"{found['seconds']:.0f} s, peak {provenance.peak_mib():.0f} MiB")
    return 0 if stillness.calibrated(found) else 1


def _planted_report(architectures: Sequence[Any]) -> Any:
    """Return what judges all worlds, or for some architectures those where it must and must not."""
    from arrcoc_verify.dictionary import planted
    from arrcoc_verify.scenes import fixtures

    if architectures:
        return partial(planted.by_architecture, architectures)
    phrases = planted.read_phrases(fixtures.folder() / "queries" / "phrases.safetensors")
    return partial(planted.report, phrases=phrases)


def train(
    given: Mapping[str, Any], options: Mapping[str, Any], *, json: Path | None, resume: Path | None
) -> int:
    """Capture, train and keep dictionaries; under torchrun all its processes train each one."""
    from arrcoc_verify.dictionary.workers import joined

    config = settled({**given, "out": resume or given.get("out")})
    if resume is not None and not resume.is_dir():
        raise UsageError(f"wanted the folder of a training to go on with, found none at {resume}")
    with joined(config.device) as (team, device):
        if team.size > 1 and config.out is None:
            raise UsageError("several processes need one folder: name it by --out")
        out = config.out or new_folder("-dictionaries")
        started = time.perf_counter()
        try:
            model, kept = _trained(config, options, out, team, device, resume=resume is not None)
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped; what was trained is kept. To go on: the same command with --resume {out}"
            ) from None
        seconds = time.perf_counter() - started
        if team.first:
            _say_trained(model.name, kept)
            write_json(json, {"model": model.name, "folder": str(out), "dictionaries": kept,
                              "workers": team.size, "seconds": seconds,
                              "peak_mib": provenance.peak_mib()})  # fmt: skip
            line(f"{len(kept)} dictionaries in {out}; {seconds:.0f} s")
    return 0


def _trained(
    config: Any, options: Mapping[str, Any], out: Path, team: Any, device: str, *, resume: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the model and what is said of each dictionary, by name."""
    from arrcoc_verify.activations import ActivationStore
    from arrcoc_verify.adapters import load
    from arrcoc_verify.dictionary import job
    from arrcoc_verify.dictionary.sharding import check_divisible
    from arrcoc_verify.dictionary.storage import ACTIVATIONS
    from arrcoc_verify.dictionary.training import Recipe

    model = load(config.model or REFERENCE)
    plans = _plans(model, options)
    if not resume:
        for plan in plans:
            job.check_unused(out / plan.name)
    if options["shard"]:
        check_divisible(options["architecture"], options["turns"])
    recipe = Recipe(steps=options["steps"], seed=config.seed, precision=options["precision"])
    if team.first:
        _store(model, config, plans, out, options)
    team.wait()
    store = ActivationStore.open(options["store"] or out / ACTIVATIONS)
    for plan in plans:  # all, before the first is trained
        job.check(store, plan, options["batch_size"])
    kept = {}
    with progress() as tell:
        for plan in plans:
            one = job.train_plan(
                store, plan, recipe, out / plan.name, size=options["batch_size"],
                device=device, resume=resume, sharded=options["shard"],
                tell=lambda f, plan=plan: tell(f"{plan.name} {job.told(f)}", f.step,
                                               recipe.steps),  # type: ignore[misc]
            )  # fmt: skip
            kept[plan.name] = job.plain(one)
    team.wait()
    return model, kept


def _say_trained(model: str, kept: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        (name, said["config"]["architecture"], str(said["config"]["latents"]),
         f"{said['config']['k']:g}", f"{said['held_out']['fve']:.3f}",
         f"{said['held_out']['l0']:.1f}", f"{said['held_out']['dead']:.0%}")
        for name, said in kept.items()
    ]  # fmt: skip
    columns = ("dictionary", "architecture", "#latents", "#k", "#FVE", "#L0", "#dead")
    console().print(table(f"{model}: on held-out photographs", columns, rows))
    for name, said in kept.items():
        if (test := said.get("rotation")) is not None:
            line(f"{name}: directions {'turn' if test['turns'] else 'are not shown to turn'} with "
                 f"the query, {test['ratio']:.2g} times a still world (p = "
                 f"{test['p_value']:.2g})")  # fmt: skip


def _plans(model: Any, options: Mapping[str, Any]) -> list[Any]:
    from arrcoc_verify.dictionary import job

    shared = {key: options[key] for key in
              ("architecture", "expansion", "conditional", "turns", "skip")}  # fmt: skip
    sites, target = job.vector_sites(model, options["sites"]), options["target"]
    _require_sensible(options, sites)
    if options["crosscoder"]:
        first = [job.Plan(name="crosscoder", inputs=tuple(sites), **shared)]
    else:
        ending = "" if target is None else f"-to-{target}"
        first = [job.Plan(name=name + ending, inputs=(name,), target=target, **shared)
                 for name in sites if name != target]  # fmt: skip
    return [plan for one in first for plan in job.swept(one, options["k"], options["latents"])]


def _require_sensible(options: Mapping[str, Any], sites: Sequence[str]) -> None:
    """Refuse options that cannot be followed, before anything is captured."""
    target, size = options["target"], options["batch_size"]
    sizes = [*options["latents"], options["expansion"]]
    said = [
        (options["crosscoder"] and target is not None,
         "a crosscoder decodes what it encodes: wanted --crosscoder or --target, got both"),
        (options["crosscoder"] and len(sites) < 2,
         f"wanted two sites or more for --crosscoder, got {sites[0]}: name more by --sites"),
        (target is not None and list(sites) == [target],
         f"wanted a site to encode besides --target {target}: name one by --sites"),
        (min(sizes) < 1,
         f"wanted --latents and --expansion of 1 or more, got {min(sizes)}: leave them out for "
         "8 latents a channel"),
        (size is not None and size < 1, f"wanted a --batch-size of 1 or more, got {size}"),
        (not min(options["k"]) > 0, f"wanted a --k above 0, got {min(options['k']):g}"),
    ]  # fmt: skip
    for wrong, why in said:
        if wrong:
            raise UsageError(why)


def _store(model: Any, config: Any, plans: Sequence[Any], out: Path, options: Any) -> None:
    """Capture what plans read, unless a store is named."""
    from arrcoc_verify.audit import scene_set
    from arrcoc_verify.capture import capture
    from arrcoc_verify.dictionary import job
    from arrcoc_verify.dictionary.storage import ACTIVATIONS
    from arrcoc_verify.lab import scene_size

    if options["store"] is not None:
        return
    if config.images is None:
        pictures: Any = job.training_scenes(model, scene_size(model), config.seed)
    else:
        found = scene_set(model, config.images, seed=config.seed, skip_bad=config.skip_bad_rows)
        for text in (*found.skipped, *found.notes):
            warn(f"note: {text}")
        own = [dataclasses.replace(scene, role="assert") for scene in found.asserted]
        pictures = job.asked(own)
    capture(
        model, pictures, folder=out / ACTIVATIONS, sites=job.sites_of(model, plans),
        seed=config.seed, progress=console(stderr=True).is_terminal,
    )  # fmt: skip


def features(
    given: Mapping[str, Any], folder: Path, *, count: int, html: Path | None, json: Path | None
) -> int:
    """Judge claims on features and show what latents are; the verdicts' exit code."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.audit import scene_set
    from arrcoc_verify.dictionary import pages
    from arrcoc_verify.dictionary.storage import of_model
    from arrcoc_verify.lab import Lab
    from arrcoc_verify.report.atomic import make_folder, write_text
    from arrcoc_verify.report.latents import render
    from arrcoc_verify.suite import GATES
    from arrcoc_verify.suite.latents import feature_claims
    from arrcoc_verify.trial import Settings, try_model

    config = settled(given)
    model = load(config.model or REFERENCE)
    usable = of_model(folder, model.sites, model.name)
    found = scene_set(model, config.images, seed=config.seed)
    selected = Lab(model, found.selected, config.seed)
    asserted = Lab(model, found.asserted, config.seed)
    with progress() as tell:
        tell("choosing latents", 0, len(usable) + 1)
        claims = feature_claims(selected, usable)
        gates = [gate for gate in GATES if gate.id.startswith("runtime.")]
        trial = try_model(asserted, selected, claims, gates, Settings(seed=config.seed),
                          progress=tell)  # fmt: skip
        shown = {}
        for at, one in enumerate(usable):
            tell(one.site, at + 1, len(usable) + 1)
            shown[one.site] = pages.feature_pages(selected, one, count)
    _print_features(trial.verdicts, shown)
    data = {
        "model": model.name,
        "claims": [dataclasses.asdict(verdict) for verdict in trial.verdicts],
        "sites": {site: [pages.plain(page) for page in made] for site, made in shown.items()},
    }
    write_json(json, data)
    path = html or folder / "features.html"
    make_folder(path.resolve().parent)
    write_text(path, render(model.name, trial.verdicts, {
        site: [dataclasses.asdict(page) for page in made] for site, made in shown.items()
    }))  # fmt: skip
    line(str(path))
    return _code([str(verdict.outcome) for verdict in trial.verdicts])


def _code(outcomes: Sequence[str]) -> int:
    for outcome, code in (("refuted", 1), ("invalid", 2), ("not_run", 2), ("inconclusive", 3)):
        if outcome in outcomes:
            return code
    return 0


def _print_features(verdicts: Sequence[Any], shown: Mapping[str, Sequence[Any]]) -> None:
    rows = [
        (one.id, str(one.outcome),
         "" if one.effect is None else
         f"{one.effect.value:.1f} [{one.effect.low:.1f}, {one.effect.high:.1f}]",
         "" if one.null is None else f"{one.null.value:.1f}", one.reason)
        for one in verdicts
    ]  # fmt: skip
    columns = ("claim", "verdict", "#tokens a patch", "#placebo", "reason")
    console().print(table("Claims on features", columns, rows))
    lines = [
        (site, str(page.latent), f"{page.density:.1%}",
         "" if page.tokens is None else
         f"{page.tokens.value:+.1f} [{page.tokens.low:+.1f}, {page.tokens.high:+.1f}]", page.way)
        for site, made in shown.items() for page in made
    ]  # fmt: skip
    columns = ("site", "#latent", "#density", "#tokens when ablated", "knows")
    console().print(table("Latents that carry most, on the selection scenes", columns, lines))


def _warn_of_one_l0(data: Mapping[str, Any]) -> None:
    """Say which sites were measured at one L0 only, where too few and too many look alike."""
    ks: dict[str, set[float]] = {}
    for one in data.values():
        ks.setdefault(one["site"], set()).add(one["config"]["k"])
    if single := [site for site, found in ks.items() if len(found) == 1]:
        warn(
            f"note: one k only of {', '.join(single)}; figures at one L0 do not say which is "
            "right: train more by `train-dictionary --k 8 --k 16 --k 32`"
        )


def quality(
    given: Mapping[str, Any],
    folder: Path,
    *,
    conditioning: bool = False,
    seeds: int = 3,
    store: Path | None = None,
    json: Path | None = None,
) -> int:
    """Measure dictionaries on scenes that they were not trained on."""
    from arrcoc_verify.adapters import load
    from arrcoc_verify.audit import scene_set
    from arrcoc_verify.dictionary.conditioning import MIN_SEEDS
    from arrcoc_verify.dictionary.quality import answer_site
    from arrcoc_verify.lab import Lab

    config = settled(given)
    if conditioning and seeds < MIN_SEEDS:
        raise UsageError(
            f"one seed proves nothing: wanted --seeds {MIN_SEEDS} or more, got {seeds}"
        )
    model = load(config.model or REFERENCE)
    lab = Lab(model, scene_set(model, config.images, seed=config.seed).asserted, config.seed)
    data = _measured(lab, folder, seeds if conditioning else 0, store)
    _warn_of_one_l0(data)
    if conditioning and not any(one["config"]["query"] for one in data.values()):
        warn(f"note: no dictionary in {folder} is conditional: train some with --conditional")
    columns = ("dictionary", "#FVE", "#L0", "#dead", "#tokens recovered (mean)", "#(zero)", "#task",
               "#control by 4", "#stable", "query helps")  # fmt: skip
    rows = [_quality_row(name, one) for name, one in data.items()]
    console().print(table(f"{model.name}: {len(lab)} scenes", columns, rows))
    for name, one in data.items():
        if len(one["sites"]) > 1:
            each = ", ".join(f"{site} {fve:.3f}" for site, fve in one["sites"].items())
            line(f"{name}: variance explained at each site: {each}")
    _print_probes(data)
    if answer_site(model) is None:
        line(f"{model.name} declares no answer: what a dictionary leaves of its task is not "
             "applicable")  # fmt: skip
    for name, one in data.items():
        if (held := one["conditioning"]) is not None:
            _say_conditioning(name, held)
    write_json(json, {"model": model.name, "scenes": len(lab), "dictionaries": data})
    return 0


def _measured(lab: Any, folder: Path, seeds: int, store: Path | None) -> dict[str, dict[str, Any]]:
    """Return the figures of each dictionary of a site of the model, by the name of its folder."""
    from arrcoc_verify.dictionary.quality import quality as measure
    from arrcoc_verify.dictionary.quality import stabilities
    from arrcoc_verify.dictionary.storage import find_dictionaries, load_dictionary

    places = find_dictionaries(folder)
    data: dict[str, dict[str, Any]] = {}
    loaded: dict[str, Any] = {}
    with progress() as tell:
        for at, place in enumerate(places):
            name = str(place.relative_to(folder))
            tell(name, at, len(places))
            kept = load_dictionary(place)
            shape = kept.dictionary.config
            sites = {*kept.encoded, *kept.decoded}
            if missing := sorted(sites - set(lab.model.sites)):
                warn(f"note: {name} is left out: {missing[0]} is no site of {lab.model.name}")
                continue
            loaded[name] = kept
            data[name] = {
                "site": kept.site, "config": shape.plain(), **measure(lab, kept).plain(),
                "stability": None, "conditioning": None,
            }  # fmt: skip
            if shape.query and seeds and not kept.autoencoder:
                warn(f"note: whether the query helps {name} was not tested: it is tested of "
                     "autoencoders of one site")  # fmt: skip
            elif shape.query and seeds:
                data[name]["conditioning"] = _conditioned(lab, kept, place, store, seeds, tell)
    if not data:
        raise UsageError(f"no dictionary in {folder} is of a site of {lab.model.name}")
    for name, stable in stabilities(loaded).items():
        data[name]["stability"] = stable
    return data


def _quality_row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    held = one["conditioning"]
    helps = "-" if not one["config"]["query"] else "not tested"
    if held is not None:
        helps = "yes" if held["helps"] else "no"
    return (
        name, f"{one['fve']:.3f}", f"{one['l0']:.1f}", f"{one['dead']:.0%}",
        f"{one['tokens_recovered_mean']:.3f}", f"{one['tokens_recovered_zero']:.3f}",
        _figure(one["task_recovered_mean"]),
        "" if one["control"] is None else f"{one['control'][4]:.0%}", _figure(one["stability"]),
        helps,
    )  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_probes(data: Mapping[str, Any]) -> None:
    rows = [
        (name, fact, *(f"{probe[key]:.3f}" for key in ("latents", "activations", "chance")))
        for name, one in data.items() for fact, probe in one["probes"].items()
    ]  # fmt: skip
    if rows:
        columns = ("dictionary", "fact", "#latents", "#activations", "#chance")
        console().print(table("Facts told by linear probes, on other photographs", columns, rows))


def _conditioned(
    lab: Any, kept: Any, place: Path, store: Path | None, seeds: int, tell: Any
) -> dict[str, Any] | None:
    """Return what the query is good for; None, said aloud, where that cannot be found out."""
    from arrcoc_verify.dictionary.conditioning import ARMS
    from arrcoc_verify.dictionary.helping import helping, store_beside

    done = iter(range(10**6))
    try:
        found = helping(
            lab, kept, store_beside(place, store), place, seeds=seeds,
            tell=lambda text: tell(f"{place.name}: {text}", next(done), seeds * len(ARMS)),
        )  # fmt: skip
    except StoreError as error:
        if store is not None:
            raise
        warn(f"note: whether the query helps {place.name} was not tested: {error}")
        return None
    except KeyboardInterrupt:
        raise Stopped("stopped; finished twins are kept: the same command goes on") from None
    return found.plain()


def _say_conditioning(name: str, held: Mapping[str, Any]) -> None:
    value, low, high = held["gain"]
    line(
        f"{name}: the query {'helps' if held['helps'] else 'is not shown to help'}: variance "
        f"explained {value:+.4f} [{low:+.4f}, {high:+.4f}] against as many parameters without it"
    )
    for reason in held["reasons"]:
        line(f"  {reason}")
