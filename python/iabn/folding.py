"""fold(): normalisation layers into the convolutions before them, for inference in plain PyTorch."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from iabn import _report
from iabn._dataflow import Flow, is_norm, trace
from iabn._dataflow_rules import has_plain_forward
from iabn._planning import describe, hooks_of, norm_problem
from iabn._report import ConversionReport, Row, Undo
from iabn.conversion import restore_layers
from iabn.modules import ABN

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear)


def fold(model: nn.Module, example: Any = None, *, tolerance: float | None = None) -> ConversionReport:
    """Folds BatchNorm, ABN and InPlaceABN into the convolution or linear layer before them; in place, for inference.

    Wherever the layer's input comes from one convolution and nobody else reads it, that convolution gets new weights
    and a bias, and nn.Identity or the layer's activation takes the layer's place. All other ABN layers become plain
    PyTorch, as by to_batchnorm(), so that the result needs no compiled operators. It is not meant for more training.

    example: as in convert(): the outputs are compared. It is needed to fold into nn.Linear, whose output must be seen
        to be [N, C]. tolerance: as in convert().

    Raises ValueError where a layer is in training mode (call model.eval() first), RuntimeError where the outputs differ
    by more than rounding; the model is as before then.
    """
    model = _report.checked("fold", model)
    training = next((name for name, module in model.named_modules() if is_norm(module) and module.training), None)
    if training is not None:
        raise ValueError(f'fold: "{training}" is in training mode: call model.eval() first')
    report = ConversionReport("fold", nothing="no normalisation layer found")
    before = None if example is None else _report.outputs(model, example)
    with Undo() as undo:
        dimensions: dict[nn.Module, int] = {}
        if example is not None:
            abns = [module for module in model.modules() if isinstance(module, ABN)]
            dimensions = _report.input_dimensions(model, abns, example)
        restore_layers(model, dimensions, undo)
        norms = [(name, module) for name, module in model.named_modules() if is_norm(module)]
        if example is not None:
            dimensions = _report.input_dimensions(model, [norm for _, norm in norms], example)
        flow = trace(model)
        rows = [_fold_layer(model, name, norm, flow, dimensions.get(norm), undo) for name, norm in norms]
        report.rows = rows
        if before is not None:
            after = _report.outputs(model, example)
            _report.check("fold", before, after, len(norms), tolerance, model)
            _report.compare(report, before, after)
    return report


def _fold_layer(model: nn.Module, name: str, norm: nn.Module, flow: Flow, dimensions: int | None, undo: Undo) -> Row:
    before = describe(norm)
    reason = _problem(model, norm, flow, dimensions)
    if reason:
        return Row(name, before, "", reason)
    producer = flow.calls[norm][0].producer
    for key, value in zip(("weight", "bias"), _fused(producer, norm), strict=True):
        old = producer._parameters[key]
        like = producer.weight if old is None else old
        producer._parameters[key] = nn.Parameter(value.detach().to(like.dtype), like.requires_grad)
        undo.add(lambda key=key, old=old: producer._parameters.__setitem__(key, old))
    own = getattr(norm, "act", None)
    stand_in = own if isinstance(own, nn.Module) else nn.Identity()
    if stand_in is not own:
        stand_in.training = norm.training
    undo.replace(model, norm, stand_in)
    layer = next(place for place, module in model.named_modules() if module is producer)
    return Row(name, before, describe(stand_in), f'in "{layer}" now')


def _problem(model: nn.Module, norm: nn.Module, flow: Flow, dimensions: int | None) -> str:
    if isinstance(norm, ABN):
        return "it could not be made BatchNorm: see to_batchnorm"
    reason = norm_problem(norm) or flow.problems.get(norm, "")
    if reason:
        return reason
    if norm.running_mean is None:
        return "it has no running statistics"
    calls = flow.calls.get(norm)
    if not calls:
        return "forward does not call it"
    producers = {call.producer for call in calls}
    producer = producers.pop()
    if producers or not isinstance(producer, _FOLDABLE) or not has_plain_forward(producer):
        return "its input is not the output of one convolution or linear layer that nothing else reads"
    if flow.module_calls[producer] != flow.module_calls[norm] or (norm in flow.partial and _elsewhere(model, producer)):
        return "the layer before it is called at other places too"
    if producer._forward_hooks or hooks_of(producer) or parametrize.is_parametrized(producer):
        return "the layer before it has hooks or parametrized weights"
    if _uses(model, producer.weight) > 1 or (producer.bias is not None and _uses(model, producer.bias) > 1):
        return "the layer before it shares its weights with another"
    if isinstance(producer, _TRANSPOSED) and producer.groups > 1:
        return "the layer before it is a transposed convolution with groups"
    if isinstance(producer, nn.Linear) and dimensions != 2:
        return "the layer before it is linear: only for [N, C] inputs, seen with an example"
    return ""


def _uses(model: nn.Module, parameter: nn.Parameter) -> int:
    return sum(value is parameter for module in model.modules() for value in module._parameters.values())


def _elsewhere(model: nn.Module, module: nn.Module) -> bool:
    return sum(child is module for parent in model.modules() for child in parent._modules.values()) > 1


def _fused(producer: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias in float64."""
    wide = lambda tensor: None if tensor is None else tensor.detach().double()  # noqa: E731
    statistics = (wide(norm.running_mean), wide(norm.running_var), norm.eps, wide(norm.weight), wide(norm.bias))
    weight, bias = wide(producer.weight), wide(producer.bias)
    if isinstance(producer, nn.Linear):
        return fuse_linear_bn_weights(weight, bias, *statistics)
    return fuse_conv_bn_weights(weight, bias, *statistics, transpose=isinstance(producer, _TRANSPOSED))
