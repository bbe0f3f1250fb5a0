"""convert(): BatchNorm + activation to InPlaceABN in any model, in place; to_batchnorm() goes back."""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from iabn import _report, _sync
from iabn._after_abn import AfterABN, HandOver
from iabn._dataflow import trace
from iabn._planning import Plan, Planner, describe, hooks_of, make_plans, unsafe_channels
from iabn._report import ConversionReport, Row, Undo
from iabn.functional import gamma_of
from iabn.modules import ABN, InPlaceABN, InPlaceABNSync
from iabn.overwrites import kept_for_backward, read_later


@dataclass
class Origin:
    """What a converted layer was, for to_batchnorm()."""

    layer: nn.Module  # without parameters and buffers
    after: AfterABN | None  # what stands in the place of its activation


def _make_layer(plan: Plan, sync: bool | None) -> InPlaceABN:
    norm = plan.norm
    synchronised = isinstance(norm, nn.SyncBatchNorm) if sync is None else sync
    kind = InPlaceABNSync if synchronised else InPlaceABN
    options = {"group": norm.process_group} if isinstance(norm, nn.SyncBatchNorm) and synchronised else {}
    options["copy_input"] = plan.copy
    affine, tracks = norm.weight is not None, norm.running_mean is not None
    layer = kind(
        norm.num_features, norm.eps, norm.momentum, affine, tracks, plan.activation, plan.param, "meta", **options
    )
    layer._parameters.update(norm._parameters)
    layer._buffers.update(norm._buffers)
    layer._non_persistent_buffers_set = set(norm._non_persistent_buffers_set)
    layer.training = norm.training
    return layer


def _empty(norm: nn.Module) -> nn.Module:
    """The layer without its tensors."""
    shell = copy.copy(norm)
    for name in ("_parameters", "_buffers"):
        shell.__dict__[name] = dict.fromkeys(getattr(norm, name))
    shell.__dict__["_modules"] = dict(norm._modules)
    return shell


def _replace_relus(model: nn.Module, plans: list[Plan], slope: float, undo: Undo) -> None:
    made: dict[nn.Module, nn.Module] = {}
    for plan in plans:
        if not plan.relu or isinstance(plan.module, AfterABN):
            continue
        if plan.module not in made:
            made[plan.module] = nn.LeakyReLU(slope, plan.module.inplace)
            made[plan.module].training = plan.module.training
            undo.replace(model, plan.module, made[plan.module])
        plan.module = made[plan.module]


def _apply(model: nn.Module, plans: list[Plan], shared: dict, sync: bool | None, undo: Undo) -> None:
    after: dict[nn.Module, AfterABN] = {}
    for plan in plans:
        layer = _make_layer(plan, sync)
        own = plan.module is not None and getattr(plan.norm, "act", None) is plan.module
        stand_in = None
        if isinstance(plan.module, AfterABN):
            stand_in = plan.module
        elif plan.module is not None and not own:
            if plan.module not in after:
                after[plan.module] = AfterABN(plan.module, shared[id(plan)])
                after[plan.module].training = plan.module.training
                undo.replace(model, plan.module, after[plan.module])
            stand_in = after[plan.module]
        if stand_in is not None and stand_in.shared:
            layer.register_forward_hook(HandOver(stand_in))
        layer._converted_from = Origin(_empty(plan.norm), stand_in)
        undo.replace(model, plan.norm, layer)


def convert(
    model: nn.Module,
    example: Any = None,
    *,
    relu: str = "keep",
    slope: float = 0.01,
    dtype: torch.dtype | None = None,
    sync: bool | None = None,
    skip: str | Collection[str] = (),
    tolerance: float | None = None,
) -> ConversionReport:
    """Replaces BatchNorm and the activation behind it by InPlaceABN wherever that is exact and saves memory; in place.

    The same parameter and buffer objects go on in the new layers: optimizers, state_dict keys, frozen parameters and
    train/eval modes stay as they are. The model's forward is traced symbolically to see who reads which tensor; where
    that fails, part by part. docs/python/conversion.md explains every reason that the report may give.

    example: input of forward (a tensor, a tuple of arguments, or a dict of keyword arguments). With it the outputs in
        evaluation mode are compared, before and after, and a training forward pass is searched for tensors that
        backward needs and a layer overwrites (find_overwrites).
    relu: "keep" leaves layers with nn.ReLU behind them alone. "leaky_relu" turns those ReLU modules into leaky ReLU of
        `slope`, which changes the function of the model.
    dtype: of the activations in training, bfloat16 or float16 under autocast; default: the parameters' dtype. Layers
        with a channel whose gamma is too small to recover the input in that type stay BatchNorm. Where it is not given,
        the report remarks which layers autocast would make wrong.
    sync: True or False: synchronise statistics over processes or not. None: as SyncBatchNorm did.
    skip: names of layers, or of parts of the model, to leave alone.
    tolerance: largest allowed output difference relative to the largest output; default from dtype and depth.

    Raises ValueError for a bad argument, RuntimeError where the outputs differ by more than rounding or a layer
    overwrites what backward needs; the model is as before then.
    """
    model = _report.checked("convert", model)
    if relu not in ("keep", "leaky_relu"):
        raise ValueError(f'relu must be "keep" or "leaky_relu", got "{relu}"')
    if not slope > 0:
        raise ValueError(f"slope must be above 0, got {slope}")
    if dtype is not None:
        unsafe_channels(None, None, dtype)
    before = None if example is None else _report.outputs(model, example)
    found, planner = make_plans(model, trace(model), relu, slope, dtype, skip)
    plans = [plan for plan in found.values() if isinstance(plan, Plan)]
    shared = {id(plan): _is_shared(plan, plans, planner) for plan in plans}
    befores = {name: _describe_before(model.get_submodule(name), plan) for name, plan in found.items()}

    nothing = "" if found else _why_nothing(model)
    report = ConversionReport("convert", exact=not any(plan.relu for plan in plans), nothing=nothing)
    with Undo() as undo:
        _replace_relus(model, plans, slope, undo)
        reference = before if before is None or report.exact else _report.outputs(model, example)
        _apply(model, plans, shared, sync, undo)
        if before is not None:
            after = _report.outputs(model, example)
            _report.check("convert", reference, after, len(plans), tolerance, model)
            report.unchecked = _check_overwrites(model, example, dtype, found) if plans else ""
            _report.compare(report, before, after)
    for name, plan in found.items():
        done = isinstance(plan, Plan)
        after_text = describe(model.get_submodule(name)) if done else ""
        report.rows.append(Row(name, befores[name], after_text, plan.note if done else plan))
    return report


def _why_nothing(model: nn.Module) -> str:
    """For a model in which there is no BatchNorm."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "no BatchNorm found; torch.jit's modules cannot be changed: convert the model before it is scripted"
    if any(isinstance(module, ABN) for module in model.modules()):
        return "no BatchNorm found, only layers of iabn"
    for name, module in model.named_modules():
        if "batchnorm" in type(module).__name__.lower():
            return f'no BatchNorm found: "{name}" ({type(module).__name__}) is none of PyTorch\'s, and has to stay'
    return "no BatchNorm found"


def _check_overwrites(model: nn.Module, example: Any, dtype: torch.dtype | None, plans: dict[str, Plan | str]) -> str:
    """What the trace may have missed: a tensor that a layer overwrites and someone needs. Why that can't be known."""
    if any(isinstance(m, InPlaceABNSync) and _sync.world_size(m.group) > 1 for m in model.modules()):
        return "the pass would have to run in all processes"
    autocast = dtype if dtype in (torch.bfloat16, torch.float16) else None
    args, kwargs = _report.arguments(example)
    found, failures = [], []
    for search in (kept_for_backward, read_later):
        try:
            found += search(model, args, kwargs, autocast)
        except Exception as error:  # whatever forward raises where the example does for evaluation only
            failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
    # A layer that was there before may be read in full knowledge.
    found = [one for one in found if not one.later or isinstance(plans.get(one.layer), Plan)]
    if found:
        lines = "; ".join(map(str, found))
        raise RuntimeError(f"convert: training would fail in backward, or be wrong, so the model was restored: {lines}")
    return failures[0] if failures else ""


def _is_shared(plan: Plan, plans: list[Plan], planner: Planner) -> bool:
    if plan.module is None or getattr(plan.norm, "act", None) is plan.module:
        return False
    return planner.is_shared(plan.module, plans)


def _describe_before(norm: nn.Module, plan: Plan | str) -> str:
    outside = isinstance(plan, Plan) and plan.module is not None and getattr(norm, "act", None) is not plan.module
    return f"{describe(norm)} + {describe(plan.module)}" if outside else describe(norm)


_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_DIMENSIONS = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.ConvTranspose1d), 1),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d), 2),
    **dict.fromkeys((nn.Conv3d, nn.ConvTranspose3d), 3),
}


def activation_module(layer: ABN) -> nn.Module | None:
    """The activation of a layer as a module of its own, working in place; None for identity."""
    if layer.activation == "leaky_relu":
        return nn.LeakyReLU(layer.activation_param, inplace=True)
    if layer.activation == "elu":
        return nn.ELU(layer.activation_param, inplace=True)
    return nn.ReLU(inplace=True) if layer.activation == "relu" else None


def _new_batchnorm(layer: ABN, dimensions: int) -> nn.Module:
    options = (layer.num_features, layer.eps, layer.momentum, layer.weight is not None, layer.running_mean is not None)
    if isinstance(layer, InPlaceABNSync):
        return nn.SyncBatchNorm(*options, process_group=layer.group, device="meta")
    return _BATCH_NORMS[dimensions](*options, device="meta")


def _fill(norm: nn.Module, layer: ABN, undo: Undo) -> None:
    norm._parameters.update(layer._parameters)
    norm._buffers.update(layer._buffers)
    norm._non_persistent_buffers_set = set(layer._non_persistent_buffers_set)
    norm.training = layer.training
    if getattr(layer, "gamma", "signed") == "legacy" and layer.weight is not None:
        old = layer.weight.detach().clone()
        undo.add(lambda: layer.weight.data.copy_(old))
        layer.weight.data.copy_(gamma_of(old, "legacy", layer.eps))


def to_batchnorm(model: nn.Module, example: Any = None, *, tolerance: float | None = None) -> ConversionReport:
    """Replaces every ABN, InPlaceABN and InPlaceABNSync by plain PyTorch layers, in place, keeping the parameters.

    What convert() made becomes what it was, activation modules included (a ReLU that became leaky stays leaky). Any
    other layer becomes BatchNorm where it has no activation, else Sequential(BatchNorm, activation), whose state_dict
    keys are NAME.0.weight and so on; the report says so. Legacy gammas become the signed value they stand for.

    example: as in convert(); it also tells BatchNorm1d, 2d and 3d apart where the layer before does not: without either
        it is BatchNorm2d. tolerance: as in convert().

    Raises RuntimeError where the outputs differ by more than rounding; the model is as before then.
    """
    model = _report.checked("to_batchnorm", model)
    layers = [module for module in model.modules() if isinstance(module, ABN)]
    report = ConversionReport("to_batchnorm", nothing="no ABN or InPlaceABN found")
    before, seen = None, {}
    if example is not None:
        before = _report.outputs(model, example)
        seen = _report.input_dimensions(model, layers, example)
    with Undo() as undo:
        report.rows = restore_layers(model, seen, undo)
        if before is not None:
            after = _report.outputs(model, example)
            _report.check("to_batchnorm", before, after, len(layers), tolerance, model)
            _report.compare(report, before, after)
    return report


def restore_layers(model: nn.Module, dimensions: dict[nn.Module, int], undo: Undo) -> list[Row]:
    """to_batchnorm() without checks. dimensions: of each layer's input, where known."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, ABN)]
    flow = trace(model) if layers else None
    present = set(model.modules())
    rows = [_restore(model, name, layer, dimensions.get(layer), flow, present, undo) for name, layer in layers]
    for module in present:
        if isinstance(module, AfterABN) and not _in_use(module, model):
            undo.replace(model, module, module.original)
    return rows


def _in_use(after: AfterABN, model: nn.Module) -> bool:
    layers = [module for module in model.modules() if isinstance(module, ABN)]
    return any(getattr(layer, "_converted_from", None) and layer._converted_from.after is after for layer in layers)


def _own_hooks(layer: nn.Module) -> bool:
    """Hooks other than those of convert()."""
    if any(isinstance(hook, HandOver) for hook in layer._forward_hooks.values()):
        rest = copy.copy(layer)
        kept = {key: hook for key, hook in layer._forward_hooks.items() if not isinstance(hook, HandOver)}
        rest.__dict__["_forward_hooks"] = kept
        return hooks_of(rest)
    return hooks_of(layer)


def _restore(model, name, layer, dimensions, flow, present, undo) -> Row:
    before = describe(layer)
    if layer is model:
        return Row(name, before, "", "it is the model itself, with nothing around it")
    if _own_hooks(layer):
        return Row(name, before, "", "it has hooks, which a replacement would lose: remove them first")
    origin = getattr(layer, "_converted_from", None)
    if origin is not None and (origin.after is None or origin.after in present):
        norm = copy.copy(origin.layer)
        norm.__dict__.update({key: dict(norm.__dict__[key]) for key in ("_parameters", "_buffers", "_modules")})
        _fill(norm, layer, undo)
        undo.replace(model, layer, norm)
        behind = f" + {describe(origin.after.original)}" if origin.after is not None else ""
        return Row(name, before, f"{describe(norm)}{behind}")
    remark = ""
    if dimensions is not None:
        dimensions = max(dimensions - 2, 1)
    else:
        producers = [call.producer for call in flow.calls.get(layer, [])]
        known = {_DIMENSIONS.get(type(producer)) for producer in producers} - {None}
        dimensions = known.pop() if len(known) == 1 else 2
        remark = "" if known or any(type(p) in _DIMENSIONS for p in producers) else "BatchNorm2d taken for granted"
    norm, activation = _new_batchnorm(layer, dimensions), activation_module(layer)
    _fill(norm, layer, undo)
    if activation is None:
        undo.replace(model, layer, norm)
        return Row(name, before, describe(norm), remark)
    pair = nn.Sequential(norm, activation)
    pair.training = activation.training = layer.training
    undo.replace(model, layer, pair)
    keys = f'keys are "{name}.0.weight" and so on now'
    return Row(name, before, f"{describe(norm)} + {describe(activation)}", f"{remark}; {keys}" if remark else keys)
