"""Which normalisation layers can become InPlaceABN, and why the others cannot."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from iabn._after_abn import AfterABN
from iabn._dataflow import Flow, is_norm

_STANDARD = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# In place these keep their output alone, so a layer without activation in front of them would save nothing.
_SAVES_OUTPUT = (nn.ReLU6, nn.Hardtanh, nn.Threshold, nn.Sigmoid, nn.Tanh)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
_RELU_ADVICE = (
    'ReLU follows, which cannot be inverted: convert(..., relu="leaky_relu") makes it a leaky ReLU, another function'
)


@dataclass
class Plan:
    """How one layer will be converted."""

    norm: nn.Module
    activation: str = "identity"
    param: float = 0.01
    module: nn.Module | None = None  # the activation that becomes part of the layer
    relu: bool = False  # the activation is a ReLU, to become leaky
    note: str = ""
    copy: bool = False  # it works on a copy of its input


def unsafe_channels(weight: torch.Tensor | None, bias: torch.Tensor | None, dtype: torch.dtype) -> int:
    """Channels [C] whose normalised input could not be recovered from an output stored as `dtype`.

    Those with gamma = 0 or a relative rms error above 0.1: docs/design/1-maths.md, "Small gamma". Raises ValueError for
    a dtype that the layer doesn't have.
    """
    bits = {torch.bfloat16: 0, torch.float16: 3, torch.float32: 16, torch.float64: 45}
    if dtype not in bits:
        raise ValueError(f"dtype must be torch.float32, float64, float16 or bfloat16, got {dtype!r}")
    if weight is None:
        return 0
    gamma, beta = weight.detach().double(), bias.detach().double()
    # 1.66e-3: measured rms error of a value stored in bfloat16.
    error = (1 + (beta / gamma).square()).sqrt() * 1.66e-3 * 2.0 ** -bits[dtype]
    return int(((gamma == 0) | (error > 0.1)).sum())


def describe(module: nn.Module) -> str:
    """Short: class and size, or class and slope."""
    name = type(module).__name__
    if hasattr(module, "num_features"):
        act = getattr(module, "activation", None) or getattr(module, "act", None)
        if isinstance(act, str):
            return f"{name}({module.num_features}, {act})"
        return f"{name}({module.num_features})" + (f" with {describe(act)}" if isinstance(act, nn.Module) else "")
    param = {nn.LeakyReLU: "negative_slope", nn.ELU: "alpha"}.get(type(module))
    return f"{name}({getattr(module, param):g})" if param else name


def known_activation(module: nn.Module | None) -> tuple[str, float] | None:
    """Name and parameter of an activation that the layers know."""
    if isinstance(module, AfterABN):
        module = module.original
    if type(module) is nn.LeakyReLU:
        return "leaky_relu", module.negative_slope
    if type(module) is nn.ELU:
        return "elu", module.alpha
    return ("relu", 0.0) if type(module) is nn.ReLU else None


def hooks_of(module: nn.Module) -> bool:
    """Whether a replacement would lose hooks."""
    return any(getattr(module, name, None) for name in _HOOKS)


def has_own_activation(norm: nn.Module) -> bool:
    """BatchNorm2d whose forward applies its .drop, an Identity, and .act (timm's BatchNormAct2d), tried on numbers."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if not isinstance(norm, nn.BatchNorm2d) or type(drop) is not nn.Identity or not isinstance(act, nn.Module):
        return False
    like = norm.running_mean if norm.running_mean is not None else norm.weight
    if like is None or set(norm._modules) != {"drop", "act"} or hooks_of(act) or hooks_of(drop) or hooks_of(norm):
        return False
    values = torch.linspace(-3, 3, 4 * norm.num_features, dtype=like.dtype, device=like.device)
    x = values.view(2, norm.num_features, 2, 1)
    mode = norm.training
    try:
        norm.training = False
        with torch.no_grad():
            batch = norm.running_mean is None
            y = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, batch, 0.0, norm.eps)
            return torch.equal(norm(x), act(y))
    finally:
        norm.training = mode


def norm_problem(norm: nn.Module) -> str:
    """Why a BatchNorm's own make forbids replacing it; empty: nothing does."""
    if isinstance(norm, nn.modules.lazy.LazyModuleMixin):
        return "its size is not known yet: run the model once"
    if parametrize.is_parametrized(norm):
        return "its parameters are parametrized"
    if hooks_of(norm):
        return "it has hooks, which a replacement would lose: remove them first"
    if type(norm) not in _STANDARD and not has_own_activation(norm):
        return f"{type(norm).__name__} is a subclass of BatchNorm that may compute something else"
    if (norm.weight is None) != (norm.bias is None) or (norm.running_mean is None) != (norm.running_var is None):
        return "it has only one of weight and bias, or of the running statistics"
    if norm.track_running_stats != (norm.running_mean is not None):
        return "track_running_stats was changed after it was made"
    return ""


def flow_problem(norm: nn.Module, flow: Flow) -> str:
    """Why the surroundings forbid overwriting its input."""
    if norm in flow.problems:
        return flow.problems[norm]
    calls = flow.calls.get(norm)
    if not calls:
        return "forward does not call it"
    return next((call.input_problem for call in calls if call.input_problem and not call.copied_for), "")


class Planner:
    def __init__(self, model: nn.Module, flow: Flow, relu: str, slope: float, dtype: torch.dtype | None):
        self.flow, self.relu, self.slope, self.dtype = flow, relu, slope, dtype
        self.places: dict[nn.Module, list[str]] = {}  # names of the modules that hold a module
        for name, parent in model.named_modules(remove_duplicate=False):
            for child in parent._modules.values():
                self.places.setdefault(child, []).append(f"{name}.")

    def plan(self, norm: nn.Module) -> Plan | str:
        """The plan, or the reason to leave the layer alone."""
        if norm not in self.places:
            return "it is the model itself, with nothing around it"
        reason = norm_problem(norm) or flow_problem(norm, self.flow)
        if reason:
            return reason
        calls = self.flow.calls[norm]
        if self._used_outside(norm):
            return "it is also registered outside of the part of the model that could be traced"
        if len({call.activation for call in calls}) > 1:
            return "it is called more than once, with different activations behind it"
        plan = self._with_activation(norm, calls)
        if isinstance(plan, str):
            return plan
        dtype = self.dtype or (norm.weight.dtype if norm.weight is not None else torch.float32)
        unsafe = unsafe_channels(norm.weight, norm.bias, dtype)
        if unsafe:
            kind = str(dtype).removeprefix("torch.")
            return (
                f"{unsafe} of {norm.num_features} channels have a gamma too small to recover the input from an output "
                f"stored as {kind}"
            )
        notes = [plan.note, self._narrower(norm, dtype)]
        reader = next((call.copied_for for call in calls if call.copied_for), "")
        if reader:
            plan.copy = True
            notes.append(f"works on a copy: {reader} reads its input as well")
        plan.note = "; ".join(filter(None, notes))
        return plan

    def _narrower(self, norm: nn.Module, dtype: torch.dtype) -> str:
        """A remark where the input can be recovered, but not under autocast."""
        if self.dtype is not None or dtype not in (torch.float32, torch.float64):
            return ""
        unsafe = [unsafe_channels(norm.weight, norm.bias, narrow) for narrow in (torch.bfloat16, torch.float16)]
        if not unsafe[0]:
            return ""
        kinds = "bfloat16 and float16" if unsafe[1] else "bfloat16"
        return (
            f"unsafe under {kinds} autocast ({unsafe[0]} of {norm.num_features} channels have too small a gamma): "
            "convert with dtype=torch.bfloat16 if you train so"
        )

    def _with_activation(self, norm: nn.Module, calls: list) -> Plan | str:
        own = getattr(norm, "act", None) if type(norm) not in _STANDARD else None
        module = own if own is not None else calls[0].activation
        known = known_activation(module)
        if own is not None and known is None and type(own) is not nn.Identity:
            return f"it applies {describe(own)} itself, which cannot be inverted"
        overwriter = next((call.output_problem for call in calls if call.output_problem), "")
        if known is None or (type(module) is AfterABN and not module.shared):
            return self._without_activation(norm, calls, overwriter)
        name, param = known
        if name == "relu" and self.relu == "keep":
            return _RELU_ADVICE
        if name != "relu" and not param > 0:
            return f"{describe(module)} cannot be inverted"
        if own is None:
            overwriter = next((call.activated_problem for call in calls if call.activated_problem), "")
            if hooks_of(module):
                return "its activation has hooks, which a replacement would lose: remove them first"
            if any(call.interleaved for call in calls):
                return "it is called again before its activation is"
        if overwriter:
            return overwriter
        if name == "relu":
            return Plan(norm, "leaky_relu", self.slope, module, True, "ReLU became leaky ReLU: not exact")
        return Plan(norm, name, param, module)

    def _without_activation(self, norm: nn.Module, calls: list, overwriter: str) -> Plan | str:
        function = next((call.function for call in calls if call.function), "")
        if function in ("relu", "relu_"):
            return "its activation is a function call in forward (relu): make it a module, nn.ReLU or nn.LeakyReLU"
        if overwriter and type(calls[0].activation) in _SAVES_OUTPUT:
            return f"{describe(calls[0].activation)} follows in place, which cannot be inverted"
        if overwriter:
            return overwriter
        note = ""
        if function in ("leaky_relu", "elu"):
            note = f"{function} is a function call in forward and stays: as a module it would become part of the layer"
        elif calls[0].activation is not None and "activation" in type(calls[0].activation).__module__:
            note = f"{describe(calls[0].activation)} stays behind it"
        return Plan(norm, note=note)

    def _used_outside(self, module: nn.Module) -> bool:
        part = self.flow.partial.get(module)
        return part is not None and not all(place.startswith(part) for place in self.places[module])

    def is_shared(self, module: nn.Module, plans: list[Plan]) -> bool:
        """Whether an activation is also called for something else than these plans."""
        fused = sum(len(self.flow.calls[plan.norm]) for plan in plans if plan.module is module)
        return fused < self.flow.module_calls[module] or self._used_outside(module)


def make_plans(
    model: nn.Module, flow: Flow, relu: str, slope: float, dtype: torch.dtype | None, skip: str | Collection[str] = ()
) -> tuple[dict[str, Plan | str], Planner]:
    """A plan, or the reason against it, for every BatchNorm of the model by name."""
    planner = Planner(model, flow, relu, slope, dtype)
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    skipped = _skipped(model, [skip] if isinstance(skip, str) else skip)
    plans = {name: "named in skip" if norm in skipped else planner.plan(norm) for name, norm in norms}
    return plans, planner


def _skipped(model: nn.Module, names: Collection[str]) -> set[nn.Module]:
    """The normalisation layers of that name, or below it."""
    modules, skipped = dict(model.named_modules(remove_duplicate=False)), set()
    for name in names:
        below = {module for module in modules[name].modules() if is_norm(module)} if name in modules else set()
        if not below:
            known = [place for place, module in modules.items() if is_norm(module)]
            close = difflib.get_close_matches(str(name), known, 1, 0) or ["none"]
            what = "holds no normalisation layer" if name in modules else "is no module of the model"
            raise ValueError(f'skip: "{name}" {what}; the closest name of a normalisation layer is "{close[0]}"')
        skipped |= below
    return skipped
