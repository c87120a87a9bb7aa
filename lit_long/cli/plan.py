"""``lit-long plan``: does a recipe fit, how fast does it run, what does it cost; on any machine, without weights."""

import argparse
from typing import TYPE_CHECKING, Any

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long.planner import Plan, Rows


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="append", required=True, metavar="RECIPE", help="recipe; several are laid over"
    )
    parser.add_argument("--gpu", default="h100-80gb", metavar="NAME", help="device of the table, or cpu (this machine)")
    parser.add_argument("--devices", type=int, metavar="N", help="on a node (default: the recipe's)")
    parser.add_argument("--num-nodes", type=int, metavar="N", help="(default: the recipe's)")
    parser.add_argument("--hardware", metavar="FILE", help="YAML with further devices, as lit_long/hardware.yaml")
    parser.add_argument("--document-length", type=int, metavar="N", help="mean tokens of a document in a row")
    parser.add_argument("--price", type=float, metavar="X", help="of a device for an hour, for the cost")
    parser.add_argument("--search", action="store_true", help="the fastest layout and levers on these devices")
    parser.add_argument("--deadline-hours", type=float, metavar="H", help="the fewest nodes that are done in H hours")
    parser.add_argument("--max-length", action="store_true", help="the longest sequence that fits these devices")
    parser.add_argument("--overlay", metavar="FILE", help="write what was found, or what makes it fit, as an overlay")
    parser.add_argument("--output", metavar="DIR", help="write plan.json, plan.md and plan.png there")
    parser.add_argument("--json", action="store_true", help="print plan.json, and nothing else, to stdout")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, e.g. data.init_args.micro_batch=2")


def _run(args: argparse.Namespace) -> int:
    import json
    import sys
    from pathlib import Path

    from lit_long.cli.recipe_yaml import read_recipe
    from lit_long.errors import UserError
    from lit_long.hardware import find_device
    from lit_long.planner import cheapest_change, layout_of, longest_sequence, make_plan, search, workload_of
    from lit_long.planner.advice import overlay_of, smallest_cluster
    from lit_long.planner.report import to_json, to_markdown, write_plan

    for option in ("devices", "num_nodes", "document_length", "price", "deadline_hours"):
        value = getattr(args, option)
        if value is not None and value <= 0:
            raise UserError(f"--{option.replace('_', '-')} is {value}; it must be above 0")
    if args.max_length + args.search + (args.deadline_hours is not None) > 1:
        raise UserError("--search, --deadline-hours and --max-length ask for different things; give one of them")
    recipe = read_recipe(args.config, args.overrides)
    trainer = recipe.get("trainer") or {}
    layout = layout_of(trainer, devices=args.devices, nodes=args.num_nodes)
    if args.gpu == "cpu":
        from lit_long.planner.cpu import this_cpu

        device = this_cpu(layout.devices)
    else:
        device = find_device(args.gpu, Path(args.hardware) if args.hardware else None)
    try:
        workload = workload_of(*_instantiated(recipe), trainer)
    except UserError as error:
        if "cannot be read" not in str(error):
            raise
        raise UserError(
            f"{error}. A plan needs its config.json only; without the Hub, lay the architecture over the recipe: "
            "recipes/configs/ has Llama 2's, model.model_config in a YAML of your own gives any other"
        ) from error
    documents: int | None = args.document_length
    overlay: dict[str, Any] | None = None
    note = ""
    if args.search:
        plans = search(workload, layout, device, document_length=documents)
        note = f"{len(plans)} layouts fit; this is the fastest." + _others(plans)
        plan = plans[0] if plans else make_plan(workload, layout, device, document_length=documents)
        overlay = overlay_of(plan) if plans else None
    elif args.deadline_hours is not None:
        found = smallest_cluster(workload, layout, device, hours=args.deadline_hours, document_length=documents)
        if found is None:
            raise UserError(f"no cluster of up to 256 nodes is done in {args.deadline_hours:g} hours")
        plan, overlay, note = found, overlay_of(found), f"The fewest nodes for {args.deadline_hours:g} hours."
    elif args.max_length:
        longest = longest_sequence(workload, layout, device)
        if longest is None:
            raise UserError("not even 1,024 tokens a context rank fit; plan without --max-length says what would")
        length = longest.highest.span.sequence_length
        plan, note = longest, f"The longest sequence that fits is {length:,} tokens, a multiple of 1,024 a rank."
        overlay = overlay_of(plan)
    else:
        plan = make_plan(workload, layout, device, document_length=documents)
    if layout.assumed:
        note = "\n".join(filter(None, [_ASSUMED, note]))
        overlay = overlay or overlay_of(plan)
    if not plan.fits:
        change = cheapest_change(plan)
        if change is None:
            note += "\nNothing that is known here makes it fit: train adapters (model.lora), or a smaller model."
        else:
            overlay = change.overlay
            peak = change.plan.highest.peak.total / 1e9
            note += f"\nThe cheapest change that makes it fit: {change.what} ({peak:.1f} GB)."
            note += "" if args.overlay else " --overlay FILE writes it."
        note = note.strip()
    if args.overlay:
        if overlay is None:
            raise UserError("--overlay: the recipe fits as it is, so there is nothing to change")
        _write_overlay(Path(args.overlay), overlay, note)
    files = write_plan(plan, Path(args.output), price=args.price) if args.output else []
    if args.json:
        json.dump(to_json(plan, price=args.price) | {"note": note, "overlay": overlay}, sys.stdout, indent=1)
        print()
    else:
        print(to_markdown(plan, price=args.price))
        print("".join(f"\n{line}" for line in ([note] if note else []) + [f"wrote {file}" for file in files]))
    return 0 if plan.fits else 1


_ASSUMED = (
    "The recipe names no strategy: planned with ContextParallelStrategy, as recipes/cluster/ has it. For fit, lay one "
    "of that folder over the recipe, or what --overlay FILE writes."
)


def _others(plans: "list[Plan]") -> str:
    rows = [
        f"\n  {plan.seconds or 0:14,.0f} s  {plan.highest.peak.total / 1e9:7.1f} GB  {plan.layout}"
        f"{'' if plan.layout.resharded else ', parameters kept gathered'}; {plan.levers}"
        for plan in plans[:8]
    ]
    return "".join(["\n  seconds of the run, memory of a device, layout and levers:", *rows]) if rows else ""


def _write_overlay(file: Any, overlay: dict[str, Any], note: str) -> None:
    import yaml

    from lit_long.errors import UserError

    comment = "\n".join(f"# {line.strip()}" for line in note.splitlines()[:1])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# Overlay of lit-long plan. {comment[2:]}\n{yaml.safe_dump(overlay, sort_keys=False)}")
    except OSError as error:
        raise UserError(f"--overlay {file}: {error.strerror or error}") from error


def _instantiated(recipe: dict[str, Any]) -> tuple[Any, "Rows"]:
    """The recipe's module, not set up, and the shape of its data: config files are read, no weights and no corpus."""
    from jsonargparse import ArgumentError, ArgumentParser

    from lit_long.data.planned import PlannedData
    from lit_long.data.schedule import LengthSchedule, Stage
    from lit_long.errors import UserError
    from lit_long.module import LongContextModule
    from lit_long.planner import Rows

    for section in ("model", "data"):
        if not isinstance(recipe.get(section), dict):
            raise UserError(f"--config: the recipe has no section {section}:")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(LongContextModule, "model")
    data = ArgumentParser(exit_on_error=False)
    data.add_subclass_arguments(PlannedData, "data", required=True)
    stages = ArgumentParser(exit_on_error=False)
    stages.add_argument("--schedule", type=LengthSchedule)
    try:
        module = parser.instantiate_classes(parser.parse_object({"model": recipe["model"]})).model
        init = data.parse_object({"data": recipe["data"]}).data.init_args
        if "tokens_per_step" not in init or "sequence_length" not in init:
            raise UserError(f"data is a {recipe['data'].get('class_path')}; plans need PretrainData or InstructData")
        raw = (recipe["data"].get("init_args") or {}).get("schedule")
        if raw is not None:
            schedule = stages.instantiate_classes(stages.parse_object({"schedule": raw})).schedule
        elif init.sequence_length is not None:
            schedule = LengthSchedule((Stage(sequence_length=init.sequence_length),))
        else:
            raise UserError("data: give sequence_length or schedule (stages of it)")
    except (ArgumentError, ValueError, TypeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        raise (cause if isinstance(cause, UserError) else UserError(str(error))) from error
    return module, Rows(schedule=schedule, tokens_per_step=init.tokens_per_step, micro_batch=init.micro_batch)


COMMAND = Command(
    name="plan",
    summary="whether a recipe fits, how fast it runs and what it costs, before anything is paid",
    add_arguments=_add_arguments,
    run=_run,
)
